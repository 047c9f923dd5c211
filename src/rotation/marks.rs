//! Which keys on the account were minted to replace a version, and are lost: the one rule by which the mint, the sweep and the report
//! recognize them.

use std::time::{Duration, SystemTime};

use super::credential::Credential;
use crate::clock::from_epoch_seconds;
use crate::event::VersionId;
use crate::identity::{ClaimedKeyId, KeyId};
use crate::kosli::KeyEntry;
use crate::marker::{Attempt, Mark};

/// By how much Kosli's clock may be behind Secrets Manager's, when a key's creation is compared with a version's.
pub(super) const CLOCK_TOLERANCE: Duration = Duration::from_secs(300);

/// The marks by which keys that were minted to replace a version are recognized.
pub(super) struct Marks {
    /// The version's own, which a new key gets.
    own: Origin,
    /// That of the version before it, where that one holds the same key.
    before: Option<Origin>,
}

/// What a mark is made of, and since when there can be keys that carry it.
struct Origin {
    mark: Mark,
    since: SystemTime,
}

/// Which ids labelled versions hold costs reads, and decides here: there are keys that would be lost ones if no version holds them.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct HeldUnknown;

impl Marks {
    /// The marks of keys that replace this version. Where the version before it holds the same key, a field was edited
    /// meanwhile, and what was minted to replace that one was minted to replace this one.
    pub(super) fn of(arn: &str, current: &Credential, previous: Option<&Credential>) -> Self {
        let same_key = |other: &&Credential| {
            other.account == current.account
                && (other.key().same(current.key()) || (other.key_id.is_some() && other.key_id == current.key_id))
        };
        let origin = |seen: &Credential| Origin { mark: Mark::of(arn, &seen.version), since: seen.created };
        Self { own: origin(current), before: previous.filter(same_key).map(origin) }
    }

    /// The mark of keys that replace a version of which nothing but the id is known: enough to suspect, not to act.
    pub(super) fn unproven(arn: &str, version: &VersionId) -> Self {
        Self { own: Origin { mark: Mark::of(arn, version), since: SystemTime::UNIX_EPOCH }, before: None }
    }

    /// Which attempt minted this key to replace the version; `None`: it is none of ours. Never used, not older than the version.
    pub(super) fn attempt_of(&self, key: &KeyEntry) -> Option<Attempt> {
        self.carried_by(key).filter(|_| key.last_used_at.is_none())
    }

    /// The same, whether it was used or not: enough to name a key, not to touch it.
    pub(super) fn carried_by(&self, key: &KeyEntry) -> Option<Attempt> {
        self.origin_of(key).map(|(_, attempt)| attempt)
    }

    fn origin_of(&self, key: &KeyEntry) -> Option<(&Origin, Attempt)> {
        let expires_at = key.expires_at?;
        [Some(&self.own), self.before.as_ref()]
            .into_iter()
            .flatten()
            .filter(|origin| key.created_at + CLOCK_TOLERANCE >= origin.since)
            .find_map(|origin| Some((origin, origin.mark.attempt_in(expires_at)?)))
    }

    /// When the version's key dies of a rotation, as far as a list tells: a grace period after its first successor was made, used or
    /// not, or at an end of its own that is shown and comes before that. `None`: no successor is listed.
    pub(super) fn death(&self, keys: &[KeyEntry], own: Option<&ClaimedKeyId>, grace: Duration) -> Option<SystemTime> {
        // One that has kept the id is younger than the version, unless a rotation in place has kept the date as well.
        let is_successor = |key: &&KeyEntry| {
            self.origin_of(key).is_some_and(|(origin, _)| !key.is(own) || key.created_at > origin.since)
        };
        let ends = keys.iter().filter(is_successor).map(|key| key.created_at).min()? + grace;
        let own = keys.iter().filter(|key| key.is(own) && !is_successor(key));
        let shown = own.filter_map(|key| key.expires_at).map(from_epoch_seconds).min();
        Some(shown.map_or(ends, |shown| shown.min(ends)))
    }

    /// The mark that a new key gets.
    pub(super) fn new_key(&self) -> Mark {
        self.own.mark
    }

    /// The rule: the keys of a whole list that carry a mark, were never used, are not older than the version, have the description of
    /// the `replaced` key (if that is listed), are neither it nor an exception, and that no version holds. They are lost, or
    /// another execution is about to store them.
    ///
    /// `held` are the ids that labelled versions hold; `None`: that was not read yet.
    ///
    /// # Errors
    /// [`HeldUnknown`], where it has to be read.
    pub(super) fn lost<'l>(
        &self,
        keys: &'l [KeyEntry],
        replaced: Option<&ClaimedKeyId>,
        except: impl Fn(&KeyId) -> bool,
        held: Option<&[ClaimedKeyId]>,
    ) -> Result<Vec<(&'l KeyEntry, Attempt)>, HeldUnknown> {
        let replaced_entry = keys.iter().find(|key| key.is(replaced));
        let marked: Vec<(&KeyEntry, Attempt)> = keys
            .iter()
            .filter(|key| !key.is(replaced) && !except(&key.id))
            .filter(|key| may_succeed(replaced_entry, key))
            .filter_map(|key| Some((key, self.attempt_of(key)?)))
            .collect();
        match held {
            _ if marked.is_empty() => Ok(marked),
            None => Err(HeldUnknown),
            Some(held) => Ok(marked.into_iter().filter(|(key, _)| !key.id.is_among(held)).collect()),
        }
    }
}

/// Keys that were minted to replace versions of the secret, and that no version holds.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct LeftOver {
    /// Never used: their values were lost.
    pub(super) lost: Vec<KeyId>,
    /// They were used, or a version has held them.
    pub(super) in_use: Vec<KeyId>,
}

/// The rule of the sweep and of the report: what the replacement of these versions has left behind on an account, and that of others that
/// are still in sight, for which a key is only named. With each version goes its own key's id. `held_before` are the ids that are not
/// touched, whatever their mark, and `held` those of them that are in place.
pub(super) fn left_over(
    keys: &[KeyEntry],
    versions: &[(Marks, Option<&ClaimedKeyId>)],
    others: &[Marks],
    held_before: &[ClaimedKeyId],
    held: &[ClaimedKeyId],
) -> LeftOver {
    let mut found = LeftOver::default();
    let ids = |left: &mut dyn Iterator<Item = &KeyEntry>| left.map(|key| key.id.clone()).collect::<Vec<_>>();
    for (marks, own) in versions {
        // That something is held is known: `lost` has nothing to ask.
        let lost = marks.lost(keys, *own, |id| id.is_among(held_before), Some(&[])).unwrap_or_default();
        found.lost.extend(ids(&mut lost.into_iter().map(|(key, _)| key)));
        let marked = keys.iter().filter(|key| !key.is(*own) && marks.carried_by(key).is_some());
        found.in_use.extend(ids(&mut marked.filter(|key| !key.id.is_among(held))));
    }
    let of_others = keys.iter().filter(|key| others.iter().any(|marks| marks.carried_by(key).is_some()));
    found.in_use.extend(ids(&mut of_others.filter(|key| !key.id.is_among(held))));
    found.lost.dedup();
    let LeftOver { lost, in_use } = &mut found;
    in_use.retain(|id| !lost.contains(id));
    in_use.dedup();
    found
}

/// Whether a listed key was minted to replace another key than the current one, as its mark proves: that of the version before, which holds
/// another. A person has put the current key in since. An id that both have may name either.
pub(super) fn replaces_another(
    arn: &str,
    key: Option<&KeyEntry>,
    current: &Credential,
    previous: Option<&Credential>,
) -> bool {
    let is_another = |previous: &&Credential| {
        !previous.key().same(current.key()) && (previous.key_id.is_none() || previous.key_id != current.key_id)
    };
    let carries = |version: &Credential| key.is_some_and(|key| Marks::of(arn, version, None).carried_by(key).is_some());
    previous.filter(is_another).is_some_and(carries) && !carries(current)
}

/// Whether a key's description is one that the successor of `replaced` may have: the same, where that is listed and has one.
pub(super) fn may_succeed(replaced: Option<&KeyEntry>, key: &KeyEntry) -> bool {
    replaced.is_none_or(|replaced| replaced.description.is_empty() || replaced.description == key.description)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::secrets_manager::{CURRENT, Description, Version};

    const ARN: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:kosli-AbCdEf";

    /// The version `v` was made at this second.
    const CREATED: u64 = 1_800_000_000;

    fn at(second: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(second)
    }

    fn id(id: &str) -> KeyId {
        KeyId::parse(id).expect("valid")
    }

    fn claimed(id: &str) -> ClaimedKeyId {
        ClaimedKeyId::parse(id).expect("valid")
    }

    /// A version of the account `ci` (or another), with a key and maybe its id.
    fn credential(version: &str, account: &str, key: &str, key_id: Option<&str>) -> Credential {
        let description = Description::of(ARN, []);
        let key_id = key_id.map(|id| format!(r#","key_id":"{id}""#)).unwrap_or_default();
        let value = format!(r#"{{"api_key":"made-up-{key}","org":"acme","service_account":"{account}"{key_id}}}"#);
        let version = Version {
            arn: ARN.to_owned(),
            id: VersionId::trusted(version),
            labels: Vec::new(),
            created: at(CREATED),
            value: Some(value.into()),
        };
        Credential::parse(&version, &description, CURRENT).expect("a credential")
    }

    /// A key that carries the mark of this version.
    fn marked(key: &str, version: &str) -> KeyEntry {
        let mark = Mark::of(ARN, &VersionId::trusted(version));
        KeyEntry {
            id: id(key),
            description: "ci".to_owned(),
            created_at: at(CREATED),
            expires_at: Some(mark.expires_at(Attempt::fresh(&[]), at(CREATED), Duration::from_secs(365 * 86_400))),
            last_used_at: None,
        }
    }

    /// What is told by a key alone: never used, not older than the version but for what clocks differ, our mark.
    #[test]
    fn a_key_carries_a_mark() {
        let marks = Marks::of(ARN, &credential("v", "ci", "key", Some("cur")), None);
        let ours = marked("a", "v");
        for (what, key, expected) in [
            ("ours", ours.clone(), true),
            ("as old as clocks may differ", KeyEntry { created_at: at(CREATED - 300), ..ours.clone() }, true),
            ("older", KeyEntry { created_at: at(CREATED - 301), ..ours.clone() }, false),
            ("used", KeyEntry { last_used_at: Some(at(CREATED + 1)), ..ours.clone() }, false),
            ("without an end", KeyEntry { expires_at: None, ..ours.clone() }, false),
            ("another version's", marked("a", "other"), false),
        ] {
            assert_eq!(marks.attempt_of(&key).is_some(), expected, "{what}");
        }
        assert_eq!(marks.new_key(), Mark::of(ARN, &VersionId::trusted("v")));
        // With nothing but the version's id known, no key is too old to be suspected.
        let unproven = Marks::unproven(ARN, &VersionId::trusted("v"));
        assert!(unproven.attempt_of(&KeyEntry { created_at: at(CREATED - 301), ..ours }).is_some());
        assert!(unproven.attempt_of(&marked("a", "other")).is_none());
    }

    /// The mark of the version before counts where it holds the same key, by value or by id, of the same account.
    #[test]
    fn the_version_before_counts_where_it_holds_the_same_key() {
        for (account, key, key_id, current_id, expected) in [
            ("ci", "key", Some("cur"), Some("cur"), true),
            ("ci", "key", None, Some("cur"), true),
            ("ci", "other", Some("cur"), Some("cur"), true),
            ("ci", "other", Some("old"), Some("cur"), false),
            ("ci", "other", None, None, false),
            ("ci", "key", None, None, true),
            ("else", "key", Some("cur"), Some("cur"), false),
        ] {
            let current = credential("v", "ci", "key", current_id);
            let before = credential("before", account, key, key_id);
            let marks = Marks::of(ARN, &current, Some(&before));
            assert_eq!(
                marks.attempt_of(&marked("a", "before")).is_some(),
                expected,
                "{account} {key} {key_id:?} {current_id:?}"
            );
            assert!(marks.attempt_of(&marked("a", "v")).is_some());
            assert_eq!(marks.new_key(), Mark::of(ARN, &VersionId::trusted("v")));
        }
    }

    /// The whole rule. `held`: `None` where it was not read yet; the expectation is then whether it has to be.
    #[test]
    fn a_key_is_lost() {
        let marks = Marks::of(ARN, &credential("v", "ci", "key", Some("cur")), None);
        let (lost, other) = (marked("lost", "v"), marked("other", "else"));
        let described =
            |key: &KeyEntry, description: &str| KeyEntry { description: description.to_owned(), ..key.clone() };
        let cur = described(&KeyEntry { id: id("cur"), expires_at: None, ..lost.clone() }, "ci");
        let none: Option<&[&str]> = None;
        for (what, keys, except, held, expected) in [
            ("nothing is marked", vec![&cur, &other], "", none, Ok(vec![])),
            ("one is", vec![&cur, &other, &lost], "", none, Err(HeldUnknown)),
            ("no version holds it", vec![&cur, &other, &lost], "", Some(&["cur"][..]), Ok(vec!["lost"])),
            ("a version holds it", vec![&cur, &lost], "", Some(&["cur", "lost"][..]), Ok(vec![])),
            ("it is excepted", vec![&cur, &lost], "lost", none, Ok(vec![])),
            ("the replaced key is not listed", vec![&described(&lost, "x")], "", Some(&[][..]), Ok(vec!["lost"])),
            ("another description", vec![&cur, &described(&lost, "x")], "", none, Ok(vec![])),
            (
                "no description to compare with",
                vec![&described(&cur, ""), &described(&lost, "x")],
                "",
                Some(&[][..]),
                Ok(vec!["lost"]),
            ),
            ("it is the replaced key", vec![&KeyEntry { id: id("cur"), ..lost.clone() }], "", none, Ok(vec![])),
        ] {
            let keys: Vec<KeyEntry> = keys.into_iter().cloned().collect();
            let held: Option<Vec<ClaimedKeyId>> = held.map(|held| held.iter().map(|held| claimed(held)).collect());
            let found = marks.lost(&keys, Some(&claimed("cur")), |id| id.as_str() == except, held.as_deref());
            let found = found.map(|found| found.iter().map(|(key, _)| key.id.to_string()).collect::<Vec<_>>());
            assert_eq!(found, expected.map(|ids| ids.into_iter().map(str::to_owned).collect()), "{what}");
        }
    }

    /// What a replacement leaves behind: `v1` was replaced, and its key is `old`.
    #[test]
    fn a_key_is_left_over() {
        let old = KeyEntry { last_used_at: Some(UNIX_EPOCH), ..marked("old", "before") };
        let used = KeyEntry { last_used_at: Some(at(CREATED)), ..marked("used", "v1") };
        let endless = KeyEntry { expires_at: None, ..marked("endless", "v1") };
        let other_name = KeyEntry { description: "deployments".to_owned(), ..marked("other-name", "v1") };
        let old_id = claimed("old");
        for (listed, held_before, held, lost, in_use) in [
            (vec![marked("lost", "v1")], "", "", "lost", ""),
            (vec![marked("lost", "v1"), marked("late", "v1")], "", "", "lost late", ""),
            (vec![marked("lost", "v1"), marked("late", "v1")], "late", "late", "lost", ""),
            (vec![marked("new", "v1")], "new", "new", "", ""),
            // A version held it, and none does now.
            (vec![marked("rolled-back", "v1")], "rolled-back", "", "", "rolled-back"),
            (vec![marked("old", "v1")], "", "", "", ""),
            (vec![marked("other-version", "v2")], "", "", "", ""),
            (vec![other_name.clone()], "", "", "other-name", ""),
            (vec![old.clone(), other_name], "", "", "", "other-name"),
            (vec![old.clone(), marked("lost", "v1")], "", "", "lost", ""),
            (vec![old, used.clone(), endless], "", "", "", "used"),
            (vec![used], "used", "used", "", ""),
            // A person's label keeps a version in sight: its mark is enough to name a key.
            (vec![marked("older", "further-back"), marked("lost", "v1")], "", "", "lost", "older"),
            (vec![marked("older", "further-back")], "older", "older", "", ""),
            (vec![marked("older", "further-back")], "older", "", "", "older"),
        ] {
            let ids = |names: &str| names.split_whitespace().map(id).collect::<Vec<_>>();
            let versions = [(Marks::unproven(ARN, &VersionId::trusted("v1")), Some(&old_id))];
            let claims = |names: &str| names.split_whitespace().map(claimed).collect::<Vec<_>>();
            let others = [Marks::unproven(ARN, &VersionId::trusted("further-back"))];
            let found = left_over(&listed, &versions, &others, &claims(held_before), &claims(held));
            assert_eq!(found, LeftOver { lost: ids(lost), in_use: ids(in_use) }, "{listed:?}");
        }
    }

    /// A grace period of an hour began with the first key that carries the mark.
    #[test]
    fn a_key_dies_of_its_first_successor() {
        let marks = Marks::of(ARN, &credential("v", "ci", "key", Some("cur")), None);
        let cur = |expires_at| KeyEntry { id: id("cur"), expires_at, ..marked("cur", "other") };
        let later = KeyEntry { created_at: at(CREATED + 60), ..marked("later", "v") };
        let used = KeyEntry { last_used_at: Some(at(CREATED)), ..marked("used", "v") };
        for (what, keys, expected) in [
            ("no successor", vec![cur(None), marked("stranger", "other")], None),
            ("one", vec![cur(None), later.clone()], Some(3_660)),
            ("two, of which one was used", vec![cur(None), later.clone(), used.clone()], Some(3_600)),
            ("it is hidden", vec![later.clone()], Some(3_660)),
            ("its end is shown", vec![cur(Some(CREATED + 600)), later.clone()], Some(600)),
            ("its own expiry is later", vec![cur(Some(CREATED + 90_000)), later], Some(3_660)),
            (
                "its successor kept the id",
                vec![KeyEntry { created_at: at(CREATED + 60), ..marked("cur", "v") }],
                Some(3_660),
            ),
            ("and the date", vec![marked("cur", "v")], None),
        ] {
            let death = marks.death(&keys, Some(&claimed("cur")), Duration::from_secs(3_600));
            assert_eq!(death, expected.map(|after| at(CREATED + after)), "{what}");
        }
    }
}
