//! What the report says about dates: when keys expire, and whether grace period, schedule and expiry fit together.

use std::time::{Duration, SystemTime};

use super::super::credential::Credential;
use super::super::session::Authority;
use super::{CheckName, Checkup, DAY};
use crate::clock::{from_epoch_seconds, rfc3339};
use crate::config::Policy;
use crate::schedule::Interval;
use crate::secrets_manager::{Description, Version};

/// How long before its expiry a key is worth an alarm, where no rotation is scheduled before that. From then on Kosli warns the
/// organization's admins as well.
const EXPIRY_WARNING: Duration = Duration::from_secs(14 * 86_400);

/// The marker takes up to three days of a key's life.
const MARKER_DAYS: u32 = 3;

/// What the judgement is made from.
struct Dates {
    now: SystemTime,
    /// When the next rotation is due.
    next: Option<SystemTime>,
    /// The time between two.
    interval: Option<Interval>,
    /// When the current key expires.
    expiry: Option<SystemTime>,
    policy: Policy,
}

impl Checkup<'_> {
    /// Whether grace period, schedule and expiry fit together.
    pub(super) fn check_schedule(&mut self, expiry: Option<SystemTime>) {
        let judgement = judge(&Dates {
            now: self.now,
            next: self.description.next_rotation,
            interval: self.description.rotation_interval,
            expiry,
            policy: self.policy,
        });
        match judgement {
            Ok(detail) => self.passed(CheckName::Schedule, detail),
            Err(detail) => self.not_ok(CheckName::Schedule, detail),
        }
    }

    /// When the admin key expires, which only its secret can tell: by naming its id and account.
    pub(super) async fn check_admin_expiry(
        &mut self,
        admin: Option<&Version>,
        authority: &Authority,
    ) -> Option<SystemTime> {
        let description = Description { tags: std::collections::BTreeMap::new(), ..self.description.clone() };
        let admin = Credential::parse(admin?, &description, "the admin secret").ok()?;
        admin.key_id.as_ref()?;
        // The list proves the id, at no more than the one call that its entry costs.
        let listing = match self.session.list(&admin.account, authority).await {
            Ok(listing) => listing,
            Err(error) => {
                self.failed(CheckName::AdminExpiry, &error);
                return None;
            }
        };
        let entry = listing.entry(admin.key_id.as_ref())?;
        let id = &entry.id;
        let expiry = from_epoch_seconds(entry.expires_at?);
        if expiry < self.now + EXPIRY_WARNING {
            self.not_ok(
                CheckName::AdminExpiry,
                format!("The admin key {id} expires at {}: rotate the admin secret before then.", rfc3339(expiry)),
            );
        } else {
            self.passed(CheckName::AdminExpiry, format!("The admin key {id} expires at {}.", rfc3339(expiry)));
        }
        Some(expiry)
    }
}

/// What is well, or what is not and what to do about it: the most urgent first.
fn judge(dates: &Dates) -> Result<String, String> {
    let Dates { now, next, interval, expiry, policy } = *dates;
    if let Some(next) = next
        && now > next + DAY
    {
        return Err(format!(
            "The rotation that was due at {} has not happened: this function's log has its error.",
            rfc3339(next)
        ));
    }
    if let Some(expiry) = expiry
        && expiry < next.unwrap_or(now + EXPIRY_WARNING)
    {
        let due = next.map_or_else(
            || "no rotation is scheduled".to_owned(),
            |at| format!("the next rotation is due at {}", rfc3339(at)),
        );
        return Err(format!("The current key expires at {}, and {due}: rotate before then.", rfc3339(expiry)));
    }
    // Kosli does not know that a rotation comes before the expiry.
    let warned = match (expiry, next) {
        (Some(expiry), Some(next)) if expiry < next + EXPIRY_WARNING => {
            format!(" Kosli warns of the current key's expiry from {} on.", rfc3339(expiry - EXPIRY_WARNING))
        }
        _ => String::new(),
    };
    let Some(Interval { shortest, longest }) = interval else {
        return Ok(format!("The next rotation comes before the key's expiry, as far as the schedule tells.{warned}"));
    };
    let grace = policy.grace();
    let days = policy.key_ttl_days;
    let every = longest.as_secs().div_ceil(DAY.as_secs());
    if grace >= shortest {
        return Err(format!(
            "The grace period ({} h) is not shorter than the time between two rotations ({} h): several old keys live at once, and \
             only the last can be read from the secret.",
            grace.as_secs() / 3_600,
            shortest.as_secs() / 3_600
        ));
    }
    if longest + grace > DAY * days.saturating_sub(MARKER_DAYS + 1) {
        return Err(format!(
            "A key lives {days} days (less up to three), and it is replaced only every {every} days: a late rotation means an \
             outage. Rotate more often, or raise KOSLI_KEY_TTL_DAYS."
        ));
    }
    if longest + EXPIRY_WARNING > DAY * days.saturating_sub(MARKER_DAYS) {
        return Err(format!(
            "Kosli warns 14 days before a key expires. A key lives {days} days (less up to three), and it is replaced only every \
             {every} days: Kosli warns at every turn, and soon its readers ignore it. Rotate more often, or raise \
             KOSLI_KEY_TTL_DAYS."
        ));
    }
    Ok(format!("Grace period, schedule and expiry fit together.{warned}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RevokeOldKey;

    /// Days after an instant that is now.
    fn day(number: u64) -> SystemTime {
        from_epoch_seconds(1_800_000_000) + DAY * u32::try_from(number).expect("a few days")
    }

    #[test]
    fn dates_fit_together_or_not() {
        const FITS: &str = "fit together.";
        const TELLS: &str = "as far as the schedule tells.";
        let always = |hours: u64| Some((hours, hours));
        let monthly = always(30 * 24);
        // Next rotation and expiry in days from now, the shortest and the longest interval in hours, grace hours, days of life.
        for (what, next, expiry, interval, grace, life, ok, says) in [
            ("all is well", Some(9), Some(300), monthly, 24, 365, true, FITS),
            ("nothing is known", None, None, None, 24, 365, true, TELLS),
            ("it is due now", Some(0), Some(300), monthly, 24, 365, true, FITS),
            ("an expiry before the rotation", Some(9), Some(8), monthly, 24, 365, false, "rotate before then."),
            ("at the same time", Some(9), Some(9), None, 24, 365, true, "Kosli warns of the current key's expiry from"),
            (
                "in the two weeks after it",
                Some(9),
                Some(22),
                monthly,
                24,
                365,
                true,
                "Kosli warns of the current key's",
            ),
            ("later", Some(9), Some(23), monthly, 24, 365, true, FITS),
            ("no rotation", None, Some(13), None, 24, 365, false, "no rotation is scheduled: rotate before then."),
            ("no rotation, and time", None, Some(14), None, 24, 365, true, TELLS),
            (
                "a long grace period",
                Some(9),
                Some(300),
                monthly,
                720,
                365,
                false,
                "The grace period (720 h) is not shorter",
            ),
            ("a shorter one", Some(9), Some(300), monthly, 719, 365, true, FITS),
            ("every four hours", Some(0), Some(300), always(4), 24, 365, false, "between two rotations (4 h)"),
            ("an hour's grace", Some(0), Some(300), always(4), 1, 365, true, FITS),
            ("uneven hours", Some(0), Some(300), Some((10, 14)), 10, 365, false, "between two rotations (10 h)"),
            ("the last moment", Some(9), Some(300), monthly, 600, 59, true, FITS),
            (
                "a late one",
                Some(9),
                Some(300),
                monthly,
                601,
                59,
                false,
                "it is replaced only every 30 days: a late rotation",
            ),
            ("Kosli is silent", Some(9), Some(300), monthly, 24, 47, true, FITS),
            ("Kosli warns", Some(9), Some(300), monthly, 24, 46, false, "every 30 days: Kosli warns at every turn"),
            ("the longest counts", Some(9), Some(300), Some((672, 744)), 24, 47, false, "every 31 days: Kosli warns"),
        ] {
            let hours = |hours| Duration::from_secs(hours * 3_600);
            let judgement = judge(&Dates {
                now: day(0),
                next: next.map(day),
                interval: interval
                    .map(|(shortest, longest)| Interval { shortest: hours(shortest), longest: hours(longest) }),
                expiry: expiry.map(day),
                policy: Policy {
                    grace_period_hours: grace,
                    revoke_old_key: RevokeOldKey::AfterGracePeriod,
                    key_ttl_days: life,
                },
            });
            assert_eq!(judgement.is_ok(), ok, "{what}: {judgement:?}");
            let (Ok(detail) | Err(detail)) = judgement;
            assert!(detail.contains(says), "{what}: {detail}");
        }
        let late = |now| {
            let policy =
                Policy { grace_period_hours: 24, revoke_old_key: RevokeOldKey::Immediately, key_ttl_days: 365 };
            judge(&Dates { now, next: Some(day(0)), interval: None, expiry: None, policy })
        };
        assert!(late(day(1)).is_ok());
        assert!(late(day(1) + Duration::from_secs(1)).is_err_and(|detail| detail.contains("has not happened")));
    }
}
