//! What the report on all secrets says beyond those on each: which of them share a key, and which is the most urgent.

use super::{Check, CheckName, Report};
use crate::api_key::ApiKey;
use crate::by_hand;
use crate::identity::{Account, ClaimedKeyId};
use reqwest::Url;

/// The current key of a secret, for the comparison with those of others.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) key: ApiKey,
    pub(super) id: Option<ClaimedKeyId>,
    pub(super) account: Account,
}

impl Held {
    /// Whether it is the same key: by value, or by id on one account.
    fn is_shared_with(&self, other: &Self) -> bool {
        let same_id = self.id.is_some() && self.id == other.id && self.account == other.account;
        self.key.same(&other.key) || same_id
    }
}

/// Adds to every report whose key is known whether other secrets hold the same one: a rotation of one would end it for all.
pub(in crate::rotation) fn compare_keys(reports: &mut [Report], host: &Url) {
    let checks: Vec<Option<Check>> = reports
        .iter()
        .enumerate()
        .map(|(index, report)| {
            let held = report.held.as_ref()?;
            let others = reports.iter().enumerate().filter(|(other, _)| *other != index);
            let shared =
                others.filter(|(_, other)| other.held.as_ref().is_some_and(|other| held.is_shared_with(other)));
            let shared: Vec<&str> = shared.map(|(_, other)| other.secret_id.as_str()).collect();
            let (ok, detail) = if shared.is_empty() {
                (true, "No other secret of this function holds this key.".to_owned())
            } else {
                let detail = format!(
                    "The same key is in {}: a rotation of one secret ends it for the others. Give each secret a key of its own: {}.",
                    shared.join(", "),
                    by_hand::create_key(&held.account, host)
                );
                (false, detail)
            };
            Some(Check { name: CheckName::SharedKey, ok, detail })
        })
        .collect();
    for (report, check) in reports.iter_mut().zip(checks) {
        report.healthy &= check.as_ref().is_none_or(|check| check.ok);
        report.checks.extend(check);
    }
}

/// The unhealthy ones first, and of those the ones whose key is dead or unknown; then by how soon the key dies.
pub(in crate::rotation) fn sort_by_urgency(reports: &mut [Report]) {
    let days = |report: &Report| report.days_to_expiry.unwrap_or(if report.healthy { f64::INFINITY } else { 0.0 });
    reports.sort_by(|one, other| one.healthy.cmp(&other.healthy).then(days(one).total_cmp(&days(other))));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Name;

    fn report(secret: &str, held: Option<(&str, Option<&str>, &str)>) -> Report {
        let name = |text| Name::parse(text).expect("a name");
        let held = held.map(|(key, id, account)| Held {
            key: ApiKey::parse(&format!("made-up-{key}")).expect("a key"),
            id: id.map(|id| ClaimedKeyId::parse(id).expect("an id")),
            account: Account { org: name("acme"), name: name(account) },
        });
        Report { held, ..super::super::report(secret.to_owned(), Vec::new()) }
    }

    #[test]
    fn secrets_with_one_key_are_named() {
        let host = Url::parse("https://app.kosli.com").expect("an address");
        for (one, other, shared) in [
            (Some(("k", Some("a"), "ci")), Some(("k", Some("a"), "ci")), true),
            (Some(("k", None, "ci")), Some(("k", Some("b"), "cd")), true),
            (Some(("k", Some("a"), "ci")), Some(("l", Some("a"), "ci")), true),
            (Some(("k", Some("a"), "ci")), Some(("l", Some("a"), "cd")), false),
            (Some(("k", Some("a"), "ci")), Some(("l", Some("b"), "ci")), false),
            (Some(("k", None, "ci")), Some(("l", None, "ci")), false),
            (Some(("k", None, "ci")), None, false),
        ] {
            let mut reports = [report("one", one), report("other", other), report("unread", None)];
            compare_keys(&mut reports, &host);
            let checks = |index: usize| &reports[index].checks;
            assert_eq!(checks(0)[0].ok, !shared, "{one:?} {other:?}");
            assert_eq!(reports[0].healthy, !shared);
            assert_eq!(checks(0)[0].detail.contains("is in other:"), shared);
            assert_eq!(checks(1).first().is_some_and(|check| check.detail.contains("is in one:")), shared);
            assert!(checks(2).is_empty() && reports[2].healthy, "nothing is known of it");
        }
    }

    #[test]
    fn the_most_urgent_comes_first() {
        let of = |secret: &str, healthy, days_to_expiry| Report {
            healthy,
            days_to_expiry,
            ..super::super::report(secret.to_owned(), Vec::new())
        };
        let mut reports = [
            of("f", true, Some(90.0)),
            of("e", true, Some(3.0)),
            of("g", true, None),
            of("d", false, Some(200.0)),
            of("b", false, None),
            of("c", false, Some(0.5)),
            of("a", false, Some(-1.0)),
        ];
        sort_by_urgency(&mut reports);
        assert_eq!(reports.map(|report| report.secret_id), ["a", "b", "c", "d", "e", "f", "g"]);
    }
}
