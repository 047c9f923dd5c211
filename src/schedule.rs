//! How far apart the dates of a rotation schedule are: pure.
//!
//! Source: <https://docs.aws.amazon.com/secretsmanager/latest/userguide/rotate-secrets_schedule.html>

use std::time::{Duration, SystemTime};

use crate::clock::epoch_seconds;

const HOUR: u64 = 3_600;
const DAY: u64 = 86_400;

/// For how many days the dates of a `cron` expression are worked out: two dates of one that is due once a year lie in it.
const HORIZON: u64 = 3 * 366;

/// The time between two rotations.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Interval {
    /// The shortest.
    pub shortest: Duration,
    /// The longest.
    pub longest: Duration,
}

impl Interval {
    /// A rotation every so many days.
    pub fn days(days: u64) -> Option<Self> {
        Some(Self::always(days.checked_mul(DAY)?))
    }

    /// What a `rate(…)` or a `cron(…)` expression comes to, from now on; `None`: it cannot be read.
    pub fn of(expression: &str, now: SystemTime) -> Option<Self> {
        let inner = |name: &str| expression.trim().strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')');
        match inner("rate") {
            Some(rate) => {
                let (number, unit) = rate.trim().split_once(' ')?;
                let unit = match unit.trim() {
                    "hour" | "hours" => HOUR,
                    "day" | "days" => DAY,
                    _ => return None,
                };
                Some(Self::always(number.parse::<u64>().ok()?.checked_mul(unit)?))
            }
            None => Cron::parse(inner("cron")?)?.interval(epoch_seconds(now) / DAY),
        }
    }

    fn always(seconds: u64) -> Self {
        let duration = Duration::from_secs(seconds);
        Self { shortest: duration, longest: duration }
    }
}

/// `cron(Minutes Hours Day-of-month Month Day-of-week Year)`, of which the first is 0 and the last `*`.
struct Cron {
    hours: Vec<Item>,
    days: Vec<Item>,
    months: Vec<Item>,
    weekdays: Vec<Item>,
}

/// One of the items of a field that commas separate.
#[derive(Clone, Copy)]
enum Item {
    /// Every so many from one to another; a single value too.
    Range { from: u64, to: u64, step: u64 },
    /// `L`: the last day of the month; `5L`: its last Thursday.
    Last(Option<u64>),
    /// `3#2`: the second Tuesday of the month.
    Nth { weekday: u64, nth: u64 },
}

/// A day as a calendar has it; Sunday is the first day of a week.
struct Date {
    month: u64,
    day: u64,
    weekday: u64,
}

impl Cron {
    fn parse(fields: &str) -> Option<Self> {
        const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
        const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ["0", hours, days, months, weekdays, "*"] = fields.as_slice() else { return None };
        let ranges = |items: Vec<Item>| items.iter().all(|item| matches!(item, Item::Range { .. })).then_some(items);
        Some(Self {
            hours: ranges(parse_field(hours, 0, 23, &[])?)?,
            days: parse_field(days, 1, 31, &[])?,
            months: ranges(parse_field(months, 1, 12, &MONTHS)?)?,
            weekdays: parse_field(weekdays, 1, 7, &WEEKDAYS)?,
        })
    }

    fn interval(&self, today: u64) -> Option<Interval> {
        let hours: Vec<u64> = (0..24).filter(|hour| self.hours.iter().any(|item| item.has(*hour))).collect();
        let days = (today..today + HORIZON).filter(|day| self.is_due(*day));
        let dates: Vec<u64> = days.flat_map(|day| hours.iter().map(move |hour| day * DAY + hour * HOUR)).collect();
        let gaps = || dates.iter().zip(dates.iter().skip(1)).map(|(date, next)| Duration::from_secs(next - date));
        Some(Interval { shortest: gaps().min()?, longest: gaps().max()? })
    }

    /// Whether it is due on this day since 1970.
    fn is_due(&self, number: u64) -> bool {
        let date = Date::of(number);
        let leaves_month = |days: u64| Date::of(number + days).month != date.month;
        let day = |item: &Item| match item {
            Item::Last(None) => leaves_month(1),
            item => item.has(date.day),
        };
        let weekday = |item: &Item| match *item {
            // Without a weekday, the last day of a week.
            Item::Last(None) => date.weekday == 7,
            Item::Last(Some(weekday)) => date.weekday == weekday && leaves_month(7),
            Item::Nth { weekday, nth } => date.weekday == weekday && date.day.div_ceil(7) == nth,
            item @ Item::Range { .. } => item.has(date.weekday),
        };
        self.months.iter().any(|item| item.has(date.month))
            && self.days.iter().any(day)
            && self.weekdays.iter().any(weekday)
    }
}

impl Item {
    fn has(self, value: u64) -> bool {
        matches!(self, Self::Range { from, to, step } if (from..=to).contains(&value) && (value - from).is_multiple_of(step))
    }
}

/// Reads a field whose values lie between two, or have these names from the lower one on.
fn parse_field(field: &str, low: u64, high: u64, names: &[&str]) -> Option<Vec<Item>> {
    let value = |text: &str| {
        let named = names.iter().zip(low..).find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, value)| value);
        named.or_else(|| text.parse().ok()).filter(|value| (low..=high).contains(value))
    };
    let item = |item: &str| {
        // Before anything else: July ends like a last day.
        if let Some(value) = value(item) {
            return Some(Item::Range { from: value, to: value, step: 1 });
        }
        if let Some(weekday) = item.strip_suffix(['L', 'l']) {
            return Some(Item::Last(if weekday.is_empty() { None } else { Some(value(weekday)?) }));
        }
        if let Some((weekday, nth)) = item.split_once('#') {
            let nth = nth.parse().ok().filter(|nth| (1..=5).contains(nth))?;
            return Some(Item::Nth { weekday: value(weekday)?, nth });
        }
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(step.parse().ok().filter(|step| *step > 0)?)),
            None => (item, None),
        };
        let (from, to) = match range.split_once('-') {
            Some((from, to)) => (value(from)?, value(to)?),
            None if matches!(range, "*" | "?") || (range.is_empty() && step.is_some()) => (low, high),
            // `8/4`: from 8 on.
            None => (value(range).filter(|_| step.is_some())?, high),
        };
        (from <= to).then_some(Item::Range { from, to, step: step.unwrap_or(1) })
    };
    field.split(',').map(item).collect()
}

impl Date {
    /// The date of a day since 1970, a Thursday.
    /// Source: `civil_from_days` in <https://howardhinnant.github.io/date_algorithms.html>
    fn of(number: u64) -> Self {
        // Years begin in March here: the day that a leap year adds is the last of one.
        let day = number + 719_468;
        let day_of_era = day % 146_097;
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * day_of_year + 2) / 153;
        Self {
            month: if month < 10 { month + 3 } else { month - 9 },
            day: day_of_year - (153 * month + 2) / 5 + 1,
            weekday: (number + 4) % 7 + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::from_epoch_seconds;

    /// 2026-11-25, a Wednesday.
    const NOW: u64 = 1_795_600_000;

    #[test]
    fn a_day_has_a_date() {
        for (second, expected) in [(0, (1, 1, 5)), (951_782_400, (2, 29, 3)), (NOW, (11, 25, 4))] {
            let Date { month, day, weekday } = Date::of(second / DAY);
            assert_eq!((month, day, weekday), expected, "{second}");
        }
    }

    #[test]
    fn an_expression_comes_to_an_interval() {
        for (expression, shortest, longest) in [
            ("rate(4 hours)", 4, 4),
            ("rate(1 day)", 24, 24),
            ("rate(10 days)", 240, 240),
            ("cron(0 /4 * * ? *)", 4, 4),
            ("cron(0 */6 * * ? *)", 6, 6),
            ("cron(0 4/12 * * ? *)", 12, 12),
            // It begins anew each day.
            ("cron(0 8/10 * * ? *)", 10, 14),
            ("cron(0 1,4,20-22 * * ? *)", 1, 16),
            ("cron(0 10 * * ? *)", 24, 24),
            ("cron(0 10 ? * MON-FRI *)", 24, 72),
            ("cron(0 10 ? * 2 *)", 168, 168),
            ("cron(0 10 ? * sat *)", 168, 168),
            ("cron(0 10 ? * L *)", 168, 168),
            ("cron(0 8 1 * ? *)", 28 * 24, 31 * 24),
            ("cron(0 16 L * ? *)", 28 * 24, 31 * 24),
            ("cron(0 16 1,15 * ? *)", 14 * 24, 17 * 24),
            // The 29th of February 2028 is a day before the first of March.
            ("cron(0 8 1/7 * ? *)", 24, 168),
            ("cron(0 16 ? * SUN#1 *)", 28 * 24, 35 * 24),
            ("cron(0 16 ? * 5L *)", 28 * 24, 35 * 24),
            ("cron(0 0 1 JAN,JUL ? *)", 181 * 24, 184 * 24),
            ("cron(0 0 1 1/3 ? *)", 90 * 24, 92 * 24),
            ("cron(0 0 31 12 ? *)", 365 * 24, 366 * 24),
        ] {
            let interval = Interval::of(expression, from_epoch_seconds(NOW));
            let hours = |hours| Duration::from_secs(hours * HOUR);
            let expected = Interval { shortest: hours(shortest), longest: hours(longest) };
            assert_eq!(interval, Some(expected), "{expression}");
        }
    }

    #[test]
    fn what_cannot_be_read_comes_to_none() {
        for expression in [
            "",
            "rate(4)",
            "rate(4 weeks)",
            "rate(99999999999999999999 days)",
            "rate(9999999999999999999 days)",
            "every day",
            "cron()",
            "cron(0 8 1 * ?)",
            "cron(5 8 1 * ? *)",
            "cron(0 8 1 * ? 2027)",
            "cron(0 24 1 * ? *)",
            "cron(0 /0 * * ? *)",
            "cron(0 L * * ? *)",
            "cron(0 8 0 * ? *)",
            "cron(0 8 15W * ? *)",
            "cron(0 8 ? * 8 *)",
            "cron(0 8 ? * SUN#6 *)",
            "cron(0 8 ? * FRI-MON *)",
            "cron(0 8 1 FOO ? *)",
            "cron(0 8 1, * ? *)",
            // There is no such day.
            "cron(0 8 30 2 ? *)",
        ] {
            assert_eq!(Interval::of(expression, from_epoch_seconds(NOW)), None, "{expression}");
        }
    }
}
