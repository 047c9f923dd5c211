//! What a rotation that is over has left behind (the design's decision 16): a current key that is dying of the mint, and a key that
//! lives and that no version holds. A step that comes late says so, for nothing else does.

use std::time::SystemTime;

use super::credential::{Credential, is_in_place};
use super::failures::{Role, estimated_death};
use super::marks::{CLOCK_TOLERANCE, Marks, replaces_another};
use super::session::{AdminKey, Authority, Session};
use crate::by_hand;
use crate::clock::rfc3339;
use crate::config::Policy;
use crate::document::Document;
use crate::error::RotationError;
use crate::identity::{Account, KeyId};
use crate::kosli::KeyEntry;
use crate::secrets_manager::{CURRENT, Description, PREVIOUS, Version, Which};

/// What is left behind.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct LeftBehind {
    /// When the current key dies of a rotation that has minted its successor; `None`: of none, as far as can be told.
    dies: Option<SystemTime>,
    /// The key of the event's version, which lives and which no labelled version holds.
    key: Option<(KeyId, Account)>,
}

/// What is seen of it.
struct Seen<'a> {
    description: &'a Description,
    /// The versions under `AWSCURRENT` and `AWSPREVIOUS`.
    current: Version,
    previous: Option<Version>,
    /// The event's version, where it has a value.
    version: Option<&'a Version>,
    /// The account's keys; empty: they could not be listed.
    keys: Vec<KeyEntry>,
    policy: Policy,
}

/// Looks for it. What cannot be read is not there.
pub(super) async fn left_behind(
    session: &Session<'_>,
    description: &Description,
    version: Option<&Version>,
) -> LeftBehind {
    let (policy, _) = session.function.config.policy.with_readable_tags(&description.tags);
    let (current, previous, admin) = tokio::join!(
        session.read(Which::Label(CURRENT)),
        session.read(Which::Label(PREVIOUS)),
        session.admin_key(true)
    );
    let Ok(Some(current)) = current else { return LeftBehind::default() };
    let keys = match admin {
        Ok(admin) => list(session, description, &current, version, admin).await,
        Err(_) => None,
    };
    let (previous, keys) = (previous.ok().flatten(), keys.unwrap_or_default());
    let mut left = decide(&Seen { description, current, previous, version, keys, policy });
    if left.key.is_some() && is_held_elsewhere(session, description, version).await {
        left.key = None;
    }
    left
}

/// Whether any version in place holds the key of the event's version, whichever label keeps it there; or that cannot be read.
async fn is_held_elsewhere(session: &Session<'_>, description: &Description, version: Option<&Version>) -> bool {
    let Some(ours) = version.and_then(|version| parse(version, description)) else { return false };
    for id in description.versions.keys().filter(|id| is_in_place(description, id)) {
        let Ok(other) = session.read(Which::Id(id)).await else { return true };
        let other = other.and_then(|other| parse(&other, description));
        if other.is_some_and(|other| holds_key_of(&other, &ours)) {
            return true;
        }
    }
    false
}

fn holds_key_of(one: &Credential, other: &Credential) -> bool {
    one.key().same(other.key()) || (one.key_id.is_some() && one.key_id == other.key_id)
}

/// The account's keys, listed with the admin key; or with the key of the event's version, which has all its rights, and with the current
/// one where that is dead.
async fn list(
    session: &Session<'_>,
    description: &Description,
    current: &Version,
    version: Option<&Version>,
    admin: Option<AdminKey>,
) -> Option<Vec<KeyEntry>> {
    let current = parse(current, description)?;
    session.permit(&current.account).ok()?;
    let own = |key: &Credential, role| Authority { key: key.key().clone(), role };
    let authorities = match admin {
        Some(admin) => vec![session.authority(Some(admin), current.key(), Role::Current)],
        None => {
            let new = version.and_then(|version| parse(version, description));
            new.iter().map(|new| own(new, Role::New)).chain([own(&current, Role::Current)]).collect()
        }
    };
    for authority in &authorities {
        if let Ok(listing) = session.list(&current.account, authority).await {
            return Some(listing.keys);
        }
    }
    None
}

/// A version that does not parse, or of which nothing says whose it is, tells nothing of the account's keys.
fn parse(version: &Version, description: &Description) -> Option<Credential> {
    Credential::parse(version, description, CURRENT).ok()
}

/// The account's keys tell when the current key dies; or, where they cannot be had or do not show it, the age of the event's version,
/// if that was made to replace it.
fn decide(seen: &Seen<'_>) -> LeftBehind {
    let Seen { description, current, previous, version, keys, policy } = seen;
    let by_age = version.filter(|version| is_successor(version, current, previous.as_ref()));
    let by_age = by_age.map(|version| estimated_death(version.created, *policy));
    let parse = |version: &Version| parse(version, description);
    let Some(current) = parse(current) else { return LeftBehind { dies: by_age, key: None } };
    let (previous, version) = (previous.as_ref().and_then(parse), version.and_then(parse));
    // A key that was made after the event's version is none that it was made to replace: there was a rotation since.
    let is_younger = |stored: SystemTime| {
        let current = keys.iter().find(|key| key.is(current.key_id.as_ref()));
        current.is_some_and(|key| key.created_at > stored + CLOCK_TOLERANCE)
    };
    let is_of_another = |version: &Credential| {
        let entry = keys.iter().find(|key| key.is(version.key_id.as_ref()));
        is_younger(version.created) || replaces_another(&description.arn, entry, &current, previous.as_ref())
    };
    let by_age = by_age.filter(|_| !version.as_ref().is_some_and(is_of_another));
    let marks = Marks::of(&description.arn, &current, previous.as_ref());
    let unheld = version.filter(|version| {
        let held = [Some(&current), previous.as_ref()].into_iter().flatten().any(|other| holds_key_of(other, version));
        !held && !is_in_place(description, &version.version)
    });
    LeftBehind {
        dies: marks.death(keys, current.key_id.as_ref(), policy.grace()).or(by_age),
        key: unheld.and_then(|version| {
            let entry = keys.iter().find(|key| key.is(version.key_id.as_ref()))?;
            // One that was rotated in its turn ends with its grace period.
            let successors = Marks::of(&description.arn, &version, None);
            let rotated = successors.death(keys, version.key_id.as_ref(), policy.grace()).is_some();
            (!rotated).then(|| (entry.id.clone(), version.account.clone()))
        }),
    }
}

/// Whether a version was made to replace the current key: it has another one, and was stored while this one was current, or before a
/// person edited a field since. Its key is enough for that, whoever it belongs to.
fn is_successor(version: &Version, current: &Version, previous: Option<&Version>) -> bool {
    let key = |version: &Version| Some(Document::parse(version.value.clone()?).ok()?.key().clone());
    let (Some(new), Some(old)) = (key(version), key(current)) else { return false };
    let edited = || previous.and_then(key).is_some_and(|previous| previous.same(&old));
    !new.same(&old) && (current.created < version.created || edited())
}

impl LeftBehind {
    /// An error that says that the step comes late, with what is left behind and what to do about it.
    pub(super) fn in_error(&self, error: RotationError, session: &Session<'_>) -> RotationError {
        let rotate = by_hand::rotate(session.secret);
        let is_over = |dies: &SystemTime| *dies <= session.budget.now();
        let mut action = Vec::new();
        match self.dies {
            Some(dies) if is_over(&dies) => action.push(format!(
                "A rotation that was abandoned has minted the successor of the key under AWSCURRENT: the key under AWSCURRENT may have \
                 stopped working at about {}. Rotate now: {rotate}.",
                rfc3339(dies)
            )),
            Some(_) => action.push(format!("Rotate now: {rotate}.")),
            None if self.key.is_some() => action.push("The rotation that this event belongs to has ended or was abandoned.".to_owned()),
            None => return error,
        }
        if let Some((id, account)) = &self.key {
            action.push(format!(
                "The key {id}, which was minted for this version, lives, and no version under a label holds it: revoke it once it is not \
                 used any more ({}).",
                by_hand::revoke_keys([id], account, session.host())
            ));
        }
        self.death_in_error(error.with_action(action.join(" ")), session)
    }

    /// An error that also says when the current key dies.
    pub(super) fn death_in_error(&self, error: RotationError, session: &Session<'_>) -> RotationError {
        match self.dies.filter(|dies| *dies > session.budget.now()) {
            Some(dies) => error.current_key_dies_about(dies),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::config::RevokeOldKey;
    use crate::event::VersionId;
    use crate::marker::{Attempt, Mark};

    const ARN: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:kosli-AbCdEf";
    /// The current version `v1` was made at this second.
    const CREATED: u64 = 1_800_000_000;

    fn at(second: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(second)
    }

    fn described(labels: &str) -> Description {
        let labels: Vec<String> = labels.split_whitespace().map(str::to_owned).collect();
        let versions = if labels.is_empty() { vec![] } else { vec![(VersionId::trusted("v2"), labels)] };
        Description::of(ARN, versions)
    }

    /// A version that was made so many seconds after `v1`, with a key.
    fn version(version: &str, later: u64, key: &str) -> Version {
        let value = format!(r#"{{"api_key":"made-up-{key}","org":"acme","service_account":"ci","key_id":"{key}"}}"#);
        Version {
            arn: ARN.to_owned(),
            id: VersionId::trusted(version),
            labels: Vec::new(),
            created: at(CREATED + later),
            value: Some(value.into()),
        }
    }

    /// A key that was minted so many seconds after `v1`, with the mark of a version.
    fn marked(key: &str, version: &str, later: u64) -> KeyEntry {
        let mark = Mark::of(ARN, &VersionId::trusted(version));
        let created_at = at(CREATED + later);
        KeyEntry {
            id: KeyId::parse(key).expect("valid"),
            description: "ci".to_owned(),
            created_at,
            expires_at: Some(mark.expires_at(Attempt::fresh(&[]), created_at, Duration::from_secs(365 * 86_400))),
            last_used_at: Some(created_at),
        }
    }

    /// The step is for `v2`, made 100 s after `v1`, with the key `k2`; a grace period is an hour.
    #[test]
    fn what_is_left_behind() {
        let k1 = || marked("k1", "v0", 0);
        let k2 = || marked("k2", "v1", 90);
        let v2 = || Some(version("v2", 100, "k2"));
        for (what, current, previous, version, labels, keys, dies, key) in [
            ("it was cleared", ("v1", 0, "k1"), None, v2(), "", Some(vec![k1(), k2()]), Some(90), true),
            (
                "with its key's id on it",
                ("v1", 0, "k1"),
                None,
                v2(),
                "kosli-key-id:k2",
                Some(vec![k2()]),
                Some(90),
                true,
            ),
            ("no list", ("v1", 0, "k1"), None, v2(), "", None, Some(100), false),
            ("made in the same instant", ("v1", 100, "k1"), None, v2(), "", None, None, false),
            ("its key is not listed", ("v1", 0, "k1"), None, v2(), "", Some(vec![k1()]), Some(100), false),
            ("no value", ("v1", 0, "k1"), None, None, "", Some(vec![k1(), k2()]), Some(90), false),
            ("no value and no list", ("v1", 0, "k1"), None, None, "", None, None, false),
            ("nothing was minted", ("v1", 0, "k1"), None, None, "", Some(vec![k1()]), None, false),
            ("a copy", ("v1", 0, "k1"), None, Some(version("v2", 100, "k1")), "", Some(vec![k1()]), None, false),
            (
                "a field was edited",
                ("hand", 200, "k1"),
                Some(("v1", 0, "k1")),
                v2(),
                "",
                Some(vec![k1(), k2()]),
                Some(90),
                true,
            ),
            ("the same, no list", ("hand", 200, "k1"), Some(("v1", 0, "k1")), v2(), "", None, Some(100), false),
            (
                "another key was put in",
                ("hand", 200, "kx"),
                Some(("v1", 0, "k1")),
                v2(),
                "",
                Some(vec![k2()]),
                None,
                true,
            ),
            (
                "it was rolled back",
                ("v1", 0, "k1"),
                Some(("v2", 100, "k2")),
                v2(),
                "AWSPREVIOUS",
                Some(vec![k1(), k2()]),
                Some(90),
                false,
            ),
            (
                "it was replaced",
                ("v3", 200, "k3"),
                Some(("v2", 100, "k2")),
                v2(),
                "AWSPREVIOUS",
                Some(vec![k2(), marked("k3", "v2", 190)]),
                None,
                false,
            ),
            (
                "the same, two rotations ago",
                ("v4", 300, "k4"),
                Some(("v3", 200, "k3")),
                v2(),
                "",
                Some(vec![k2(), marked("k3", "v2", 190), marked("k4", "v3", 290)]),
                None,
                false,
            ),
            (
                "the version before has its key too",
                ("v3", 200, "k3"),
                Some(("hand", 150, "k2")),
                v2(),
                "",
                Some(vec![k2()]),
                None,
                false,
            ),
        ] {
            let of = |(version, later, key): (&str, u64, &str)| self::version(version, later, key);
            let found = decide(&Seen {
                description: &described(labels),
                current: of(current),
                previous: previous.map(of),
                version: version.as_ref(),
                keys: keys.unwrap_or_default(),
                policy: Policy {
                    grace_period_hours: 1,
                    revoke_old_key: RevokeOldKey::AfterGracePeriod,
                    key_ttl_days: 365,
                },
            });
            assert_eq!(found.dies, dies.map(|later| at(CREATED + later + 3_600)), "{what}");
            assert_eq!(found.key.map(|(id, _)| id.to_string()), key.then(|| "k2".to_owned()), "{what}");
        }
    }
}
