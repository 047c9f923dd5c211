//! Whether the pending version is promoted (the design's decision 9): from what was seen right before the move. Pure: a fact that costs
//! a call is asked for, and only where it decides.
//!
//! A pending key that is dying stops the promotion. So does a value that a person has put in the place of the one that was replaced,
//! as long as its key works:
//!
//! | what the pending key was minted to replace | the current key | then |
//! |---|---|---|
//! | the current version | | promote: a clean rotation |
//! | another version with the current key: a field was edited meanwhile | dying | promote, and name the fields |
//! | another version, and successors keep the id: the mint has rotated whichever key was current | dying | promote, and say so |
//! | a version with another key; or the pending version was current before | works | stop: `PendingSuperseded` |
//! | the same | dead | promote, and say so |
//! | cannot be told | | promote, and say so where fields differ, or where the current version is younger than the pending one |

use std::fmt;
use std::time::{Duration, SystemTime};

use super::marks::{HeldUnknown, Marks};
use crate::clock::{from_epoch_seconds, rfc3339};
use crate::error::Death;
use crate::event::VersionId;
use crate::identity::{ClaimedKeyId, KeyId};
use crate::kosli::{Acceptance, KeyEntry, Listing};
use crate::marker::{Mark, WINDOW};
use crate::secrets_manager::{Description, PREVIOUS};

/// Kosli's shortest grace period: a key that ends within it is at its end, whatever has set that.
const NEAR: Duration = Duration::from_secs(3_600);

/// By how much Kosli may have shortened an expiry that still counts as the key's own.
const DAY: Duration = Duration::from_secs(86_400);

/// By how much the end of a grace period may differ from what is worked out.
const TOLERANCE: Duration = Duration::from_secs(300);

/// What was seen. What is `None` was not needed yet.
pub(super) struct Seen<'a> {
    pub(super) description: &'a Description,
    /// The pending version's id, its key's id (where it is known), and when the version was made.
    pub(super) pending: (&'a VersionId, Option<&'a ClaimedKeyId>, SystemTime),
    /// The marks of keys that replace the current version.
    pub(super) marks: &'a Marks,
    /// The same of the current version.
    pub(super) current: (&'a VersionId, Option<&'a ClaimedKeyId>, SystemTime),
    /// The names of the fields, key and key id left out, in which the two documents differ.
    pub(super) differing: &'a [String],
    /// How long the current key goes on working after it was rotated.
    pub(super) grace: Duration,
    /// The longest that a new key lives.
    pub(super) life: Duration,
    /// From this age on, the execution that minted a key cannot live any more.
    pub(super) take_over_after: Duration,
    pub(super) now: SystemTime,
    /// The account's keys; `None`: they could not be listed.
    pub(super) listing: Option<&'a Listing>,
    pub(super) facts: Facts,
}

/// Facts that cost calls.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// The pending key, looked for once more because the list does not show it; `Some(None)`: it is not on the account.
    pub(super) entry: Option<Option<KeyEntry>>,
    /// Key ids that labelled versions hold.
    pub(super) held: Option<Vec<ClaimedKeyId>>,
    /// Which key the version holds whose mark the pending key carries.
    pub(super) marked_version: Option<KeyOf>,
    /// Whether Kosli accepts the current key.
    pub(super) current_key: Option<Acceptance>,
}

/// Which key a version holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum KeyOf {
    /// The current version's.
    Current,
    /// Another.
    Other,
    /// Another, and the current version names that one's id: a person has put a key in beside it.
    OtherWithItsId,
    /// Another, and all three have one id: successors keep it, so the mint has rotated whichever key was current.
    OneId,
    /// It cannot be read.
    Unknown,
}

/// What comes next.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Next {
    /// Find this out, and decide again.
    Ask(Fact),
    /// Move the label, and say this.
    Promote(Option<Note>),
    /// Leave the label where it is.
    Stop(Stop),
}

/// A fact that costs calls.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Fact {
    /// What does Kosli show of the pending key, which is not listed?
    Entry,
    /// Which key ids do labelled versions hold?
    HeldKeyIds,
    /// Which key does this version hold?
    KeyOf(VersionId),
    /// Does Kosli accept the current key?
    CurrentKey,
}

/// What has to be said of a promotion.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Note {
    /// A person edited these fields between mint and store; the current key is dying, so the new version comes first.
    EditOverwritten(Vec<String>),
    /// The documents differ in these fields, and which version the pending key replaces cannot be told.
    MayOverwriteEdit(Vec<String>),
    /// A person put in another key, which is dead.
    OtherKeyWasDead,
    /// The current version was written after the pending one, and which version the pending key replaces cannot be told.
    MayOverwriteKey(VersionId),
    /// Another key with the same id was current, and the mint has rotated whatever has that id.
    OtherKeyOfOneId,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EditOverwritten(fields) => write!(
                f,
                "A person edited the secret while it was rotated, and the key in that edit is about to die, so the new version \
                 was promoted over it. Fields that differ: {}. The version under AWSPREVIOUS has the edit: make it once more.",
                fields.join(", ")
            ),
            Self::MayOverwriteEdit(fields) => write!(
                f,
                "Fields other than the key differ between the new version and the one that it has replaced: {}. If a person edited \
                 the secret while it was rotated, the version under AWSPREVIOUS has the edit.",
                fields.join(", ")
            ),
            Self::MayOverwriteKey(version) => write!(
                f,
                "The version {version}, which the new one has replaced, was written after the new key was stored. If a person put another \
                 key in, the version under AWSPREVIOUS has it."
            ),
            Self::OtherKeyOfOneId => f.write_str(
                "The current key was not the one that this rotation was to replace, and had its id: this Kosli gives a key's id to its \
                 successors. The mint has rotated whichever key had that id, so the new version was promoted. If a person put the other \
                 key in by hand, AWSPREVIOUS has it.",
            ),
            Self::OtherKeyWasDead => f.write_str(
                "A person put another key under AWSCURRENT while the secret was rotated. Kosli does not accept that key, so the new \
                 version was promoted over it; AWSPREVIOUS has it.",
            ),
        }
    }
}

/// Why nothing is promoted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Stop {
    /// The pending key is in a grace period.
    Dying(Dying),
    /// Another key than the one that was replaced is current, and Kosli accepts it.
    Superseded {
        /// When the current key dies, as far as that is told.
        ends: Option<Death>,
    },
}

/// How it is known that a key is dying.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Dying {
    /// The list shows its end.
    At(SystemTime),
    /// The list shows the key that replaces it.
    Replaced {
        /// That key.
        by: KeyId,
        /// When the shortest grace period ends, which a key gets that is taken for lost.
        ends: SystemTime,
    },
}

impl Dying {
    /// When the key dies.
    pub(super) fn ends(&self) -> SystemTime {
        match self {
            Self::At(ends) | Self::Replaced { ends, .. } => *ends,
        }
    }
}

impl fmt::Display for Dying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(end) => write!(f, "Kosli's list shows its end at {}", rfc3339(*end)),
            Self::Replaced { by, .. } => {
                write!(f, "another execution took it for lost and replaced it by the key {by}")
            }
        }
    }
}

/// What the pending key was minted to replace.
enum Origin {
    CurrentVersion,
    SameKey,
    OneId,
    OtherKey,
    Unknown,
}

/// Decides what comes next.
pub(super) fn next(seen: &Seen<'_>) -> Next {
    if seen.listing.is_some() && seen.pending.1.is_some() && seen.entry().is_none() && seen.facts.entry.is_none() {
        return Next::Ask(Fact::Entry);
    }
    match dying(seen) {
        Ok(None) => {}
        Ok(Some(dying)) => return Next::Stop(Stop::Dying(dying)),
        Err(HeldUnknown) => return Next::Ask(Fact::HeldKeyIds),
    }
    let origin = match seen.origin() {
        Ok(origin) => origin,
        Err(fact) => return Next::Ask(fact),
    };
    let differing = || seen.differing.to_vec();
    match (origin, seen.facts.current_key) {
        (Origin::CurrentVersion, _) => Next::Promote(None),
        (Origin::OneId, _) => Next::Promote(Some(Note::OtherKeyOfOneId)),
        (Origin::Unknown, _) if seen.differing.is_empty() => {
            let is_younger = seen.current.2 > seen.pending.2;
            Next::Promote(is_younger.then(|| Note::MayOverwriteKey(seen.current.0.clone())))
        }
        (Origin::SameKey, _) if seen.differing.is_empty() => Next::Promote(None),
        (Origin::SameKey, _) => Next::Promote(Some(Note::EditOverwritten(differing()))),
        (Origin::Unknown, _) => Next::Promote(Some(Note::MayOverwriteEdit(differing()))),
        (Origin::OtherKey, None) => Next::Ask(Fact::CurrentKey),
        (Origin::OtherKey, Some(Acceptance::Dead)) => Next::Promote(Some(Note::OtherKeyWasDead)),
        (Origin::OtherKey, Some(Acceptance::Accepted)) => Next::Stop(Stop::Superseded { ends: seen.current_ends() }),
    }
}

/// Whether the pending key is in a grace period: the list shows its end, no later than the current key's, or the key that replaces it.
/// An expiry of its own, which its mark or the length of its life tells, is no such end, unless it is near.
///
/// # Errors
/// [`HeldUnknown`], where it has to be read which ids are held.
pub(super) fn dying(seen: &Seen<'_>) -> Result<Option<Dying>, HeldUnknown> {
    let (Some(listing), (_, Some(pending), stored)) = (seen.listing, seen.pending) else { return Ok(None) };
    let entry = seen.entry();
    let marked_version = entry.and_then(|entry| seen.marked_version(entry));
    let minted = entry.map_or(stored, |entry| entry.created_at);
    let current_end = seen.current_entry().and_then(end_of);
    let grace_end = minted + seen.grace;
    if let Some(end) = entry.and_then(end_of) {
        let current_dies = current_end.map_or(grace_end, |end| end.min(grace_end));
        let is_near = end <= seen.now + NEAR;
        // Its own expiry carries a mark, or Kosli has changed it: by a day at the most, or there would be nothing to tell it by.
        let is_own = marked_version.is_some() || end + Duration::from_secs(WINDOW) + DAY >= minted + seen.life;
        if end <= current_dies && (is_near || !is_own) {
            return Ok(Some(Dying::At(end)));
        }
    }
    // Where this Kosli shows the ends of grace periods and the pending key's is its own, it lives, whatever else is there.
    let shows_ends = current_end.is_some_and(|end| end <= grace_end + TOLERANCE && end + TOLERANCE >= grace_end);
    if shows_ends && marked_version.is_some() {
        return Ok(None);
    }
    let elsewhere = marked_version.filter(|version| *version != seen.current.0);
    let of_marked = elsewhere.map(|version| Marks::unproven(&seen.description.arn, version));
    let marks = of_marked.as_ref().unwrap_or(seen.marks);
    let candidates = marks.lost(&listing.keys, seen.current.1, |id| pending == id, seen.facts.held.as_deref())?;
    let successor = candidates.into_iter().map(|(key, _)| key).find(|candidate| match entry {
        Some(entry) => candidate.created_at > entry.created_at + seen.take_over_after,
        // Kosli accepts the pending key and shows it no more.
        None => true,
    });
    Ok(successor.map(|key| Dying::Replaced { by: key.id.clone(), ends: key.created_at + NEAR }))
}

impl<'a> Seen<'a> {
    /// What Kosli shows of the pending key.
    fn entry(&'a self) -> Option<&'a KeyEntry> {
        let listed = self.listing?.entry(self.pending.1);
        listed.or(self.facts.entry.as_ref().and_then(Option::as_ref))
    }

    /// What the list shows of the current key. An id that the pending key has as well, or that belongs to the key that was put out of
    /// the way, tells nothing of it.
    fn current_entry(&self) -> Option<&'a KeyEntry> {
        let is_its_own = self.current.1 != self.pending.1 && self.facts.marked_version != Some(KeyOf::OtherWithItsId);
        self.listing?.entry(self.current.1.filter(|_| is_its_own))
    }

    /// When the current key dies, as far as the list tells: at an end that it shows; and a grace period after its first successor was made,
    /// which may be the pending key. Where nothing shows what it replaces, it is the current version if that is the older one.
    fn current_ends(&self) -> Option<Death> {
        let shown = self.current_entry().and_then(end_of);
        let listed = self.listing.into_iter().flat_map(|listing| listing.keys.iter());
        let keys: Vec<KeyEntry> = listed.chain(self.entry()).cloned().collect();
        let grace_ends = self.marks.death(&keys, self.current.1, self.grace);
        let told = shown.into_iter().chain(grace_ends).min().map(Death::Known);
        let (current, pending) = (self.current.2, self.pending.2);
        let unmarked = self.entry().and_then(|entry| self.marked_version(entry)).is_none();
        told.or((unmarked && current < pending).then_some(Death::Estimated(pending + self.grace)))
    }

    /// The labelled version whose mark a key carries, the current one before all others.
    fn marked_version(&self, key: &KeyEntry) -> Option<&'a VersionId> {
        let expires_at = key.expires_at?;
        let others = self.description.versions.keys().filter(|version| *version != self.pending.0);
        std::iter::once(self.current.0)
            .chain(others)
            .find(|version| Mark::of(&self.description.arn, version).attempt_in(expires_at).is_some())
    }

    fn origin(&self) -> Result<Origin, Fact> {
        let was_current = self.description.holder(PREVIOUS) == Some(self.pending.0);
        if was_current {
            return Ok(Origin::OtherKey);
        }
        let Some(version) = self.entry().and_then(|entry| self.marked_version(entry)) else {
            return Ok(Origin::Unknown);
        };
        if version == self.current.0 {
            return Ok(Origin::CurrentVersion);
        }
        match self.facts.marked_version {
            None => Err(Fact::KeyOf(version.clone())),
            Some(KeyOf::Current) => Ok(Origin::SameKey),
            Some(KeyOf::OneId) => Ok(Origin::OneId),
            Some(KeyOf::Other | KeyOf::OtherWithItsId) => Ok(Origin::OtherKey),
            Some(KeyOf::Unknown) => Ok(Origin::Unknown),
        }
    }
}

fn end_of(key: &KeyEntry) -> Option<SystemTime> {
    key.expires_at.map(from_epoch_seconds)
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::marker::Attempt;

    const ARN: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:kosli-AbCdEf";
    const DAY: u64 = 86_400;
    /// The pending key `k2` was minted now.
    const NOW: u64 = 1_800_000_000;

    fn at(second: u64) -> SystemTime {
        from_epoch_seconds(second)
    }

    fn id(name: &str) -> KeyId {
        KeyId::parse(name).expect("valid")
    }

    fn claimed(name: &str) -> ClaimedKeyId {
        ClaimedKeyId::parse(name).expect("valid")
    }

    fn version(name: &str) -> VersionId {
        VersionId::trusted(name)
    }

    /// A key that was minted this long after now, to replace a version.
    fn key(name: &str, replaces: &str, later: u64) -> KeyEntry {
        let minted = at(NOW + later);
        let mark = Mark::of(ARN, &version(replaces));
        KeyEntry {
            id: id(name),
            description: String::new(),
            created_at: minted,
            expires_at: Some(mark.expires_at(Attempt::fresh(&[]), minted, Duration::from_secs(90 * DAY))),
            last_used_at: None,
        }
    }

    fn ending(key: KeyEntry, later: u64) -> KeyEntry {
        KeyEntry { expires_at: Some(NOW + later), ..key }
    }

    /// A case: what was seen, and what comes of it.
    struct Case {
        name: &'static str,
        keys: Option<Vec<KeyEntry>>,
        differing: &'static [&'static str],
        was_current: bool,
        /// A person has written the current version since the pending one was made.
        is_younger: bool,
        grace_days: u64,
        facts: Facts,
        expected: Next,
    }

    /// The pending version `v2` with the key `k2`, an hour after the mint; the current version is `v1`, the one before it `v0`.
    fn decided(case: &Case, facts: Facts) -> Next {
        let labels = |label: &str| vec![label.to_owned()];
        let pending = if case.was_current { vec!["AWSPENDING", "AWSPREVIOUS"] } else { vec!["AWSPENDING"] };
        let description = Description::of(
            ARN,
            [
                (version("v0"), labels(if case.was_current { "by-hand" } else { "AWSPREVIOUS" })),
                (version("v1"), labels("AWSCURRENT")),
                (version("v2"), pending.into_iter().map(str::to_owned).collect()),
            ],
        );
        let differing: Vec<String> = case.differing.iter().map(|name| (*name).to_owned()).collect();
        let listing = case.keys.clone().map(|keys| Listing { keys, odd: 0, at: at(NOW + 3_600) });
        let (current, pending, key) = (version("v1"), version("v2"), claimed("k2"));
        let marks = Marks::unproven(ARN, &current);
        next(&Seen {
            description: &description,
            pending: (&pending, Some(&key), at(NOW)),
            marks: &marks,
            current: (&current, Some(&claimed("k1")), at(if case.is_younger { NOW + 1 } else { NOW - 1 })),
            differing: &differing,
            grace: Duration::from_secs(case.grace_days * DAY),
            life: Duration::from_secs(90 * DAY),
            take_over_after: Duration::from_secs(105),
            now: at(NOW + 3_600),
            listing: listing.as_ref(),
            facts,
        })
    }

    fn held() -> Facts {
        Facts { held: Some(vec![claimed("held")]), ..Facts::default() }
    }

    fn case(name: &'static str, keys: Vec<KeyEntry>, facts: Facts, expected: Next) -> Case {
        Case {
            name,
            keys: Some(keys),
            differing: &[],
            was_current: false,
            is_younger: false,
            grace_days: 1,
            facts,
            expected,
        }
    }

    #[test]
    fn every_row_of_the_decision() {
        let k1 = || ending(key("k1", "before", 0), 200 * DAY);
        let k2 = || key("k2", "v1", 0);
        let clean = || Next::Promote(None);
        let replaced = |name: &str| {
            let ends = at(NOW + 106) + NEAR;
            Next::Stop(Stop::Dying(Dying::Replaced { by: id(name), ends }))
        };
        let ends = |later| Next::Stop(Stop::Dying(Dying::At(at(NOW + later))));
        let edited = || Some(KeyOf::Current);
        let other = |current_key| Facts { marked_version: Some(KeyOf::Other), current_key, ..Facts::default() };
        let note = |note: fn(Vec<String>) -> Note| Next::Promote(Some(note(vec!["note".to_owned()])));
        let superseded =
            |ends: Option<u64>| Next::Stop(Stop::Superseded { ends: ends.map(|later| Death::Known(at(NOW + later))) });
        let cases = [
            case("a clean rotation", vec![k1(), k2()], Facts::default(), clean()),
            case("not listed", vec![k1()], Facts::default(), Next::Ask(Fact::Entry)),
            case("not listed, got by its id", vec![k1()], Facts { entry: Some(Some(k2())), ..held() }, clean()),
            case("never listed", vec![k1()], Facts { entry: Some(None), ..held() }, clean()),
            // It is dying.
            case("its end is shown", vec![k1(), ending(k2(), 7_000)], Facts::default(), ends(7_000)),
            case("its end is the current key's", vec![k1(), ending(k2(), DAY)], Facts::default(), ends(DAY)),
            case("its end is later", vec![k1(), ending(k2(), DAY + 1)], Facts::default(), clean()),
            case("an expiry that Kosli has changed", vec![k1(), ending(k2(), 88 * DAY)], Facts::default(), clean()),
            Case {
                grace_days: 120,
                ..case(
                    "the same, in a long grace period",
                    vec![k1(), ending(k2(), 88 * DAY)],
                    Facts::default(),
                    clean(),
                )
            },
            Case {
                grace_days: 120,
                ..case(
                    "its end, in a long grace period",
                    vec![k1(), ending(k2(), 30 * DAY)],
                    Facts::default(),
                    ends(30 * DAY),
                )
            },
            case(
                "a key beside it",
                vec![k1(), k2(), key("k3", "v1", 106)],
                Facts::default(),
                Next::Ask(Fact::HeldKeyIds),
            ),
            case("a successor", vec![k1(), k2(), key("k3", "v1", 106)], held(), replaced("k3")),
            case("one as old as an execution", vec![k1(), k2(), key("k3", "v1", 105)], held(), clean()),
            case("a successor that is held", vec![k1(), k2(), key("held", "v1", 106)], held(), clean()),
            case("another version's", vec![k1(), k2(), key("k3", "v2", 106)], held(), clean()),
            case(
                "a successor that was used",
                vec![k1(), k2(), KeyEntry { last_used_at: Some(at(NOW)), ..key("k3", "v1", 106) }],
                held(),
                clean(),
            ),
            case(
                "hidden beside a successor",
                vec![k1(), key("k3", "v1", 106)],
                Facts { entry: Some(None), ..held() },
                replaced("k3"),
            ),
            case(
                "this Kosli shows ends, and its own is none",
                vec![ending(k1(), DAY), k2(), key("k3", "v1", 106)],
                held(),
                clean(),
            ),
            // What it replaces is not what is current.
            case("an edit?", vec![k1(), key("k2", "v0", 0)], Facts::default(), Next::Ask(Fact::KeyOf(version("v0")))),
            Case {
                differing: &["note"],
                ..case(
                    "an edit",
                    vec![k1(), key("k2", "v0", 0)],
                    Facts { marked_version: edited(), ..Facts::default() },
                    note(Note::EditOverwritten),
                )
            },
            case(
                "an edit that is no more",
                vec![k1(), key("k2", "v0", 0)],
                Facts { marked_version: edited(), ..Facts::default() },
                clean(),
            ),
            case("another key", vec![k1(), key("k2", "v0", 0)], other(None), Next::Ask(Fact::CurrentKey)),
            case(
                "another key that works",
                vec![k1(), key("k2", "v0", 0)],
                other(Some(Acceptance::Accepted)),
                superseded(Some(200 * DAY)),
            ),
            case(
                "one that works and is hidden",
                vec![key("k2", "v0", 0)],
                other(Some(Acceptance::Accepted)),
                superseded(None),
            ),
            case(
                "another key beside the old one's id, which is another key's",
                vec![ending(k1(), DAY), key("k2", "v0", 0)],
                Facts {
                    marked_version: Some(KeyOf::OtherWithItsId),
                    current_key: Some(Acceptance::Accepted),
                    ..Facts::default()
                },
                superseded(None),
            ),
            case(
                "another key, and all have one id",
                vec![key("k2", "v0", 0)],
                Facts { marked_version: Some(KeyOf::OneId), ..Facts::default() },
                Next::Promote(Some(Note::OtherKeyOfOneId)),
            ),
            case(
                "another key that is dead",
                vec![key("k2", "v0", 0)],
                other(Some(Acceptance::Dead)),
                Next::Promote(Some(Note::OtherKeyWasDead)),
            ),
            Case {
                was_current: true,
                ..case("it was current", vec![k1(), k2()], Facts::default(), Next::Ask(Fact::CurrentKey))
            },
            Case {
                was_current: true,
                ..case(
                    "it was current, and the current key works",
                    vec![k1(), k2()],
                    Facts { current_key: Some(Acceptance::Accepted), ..Facts::default() },
                    // It was made to replace the current key.
                    superseded(Some(DAY)),
                )
            },
            Case {
                was_current: true,
                ..case(
                    "the same, and the current key is hidden",
                    vec![k2()],
                    Facts { current_key: Some(Acceptance::Accepted), ..Facts::default() },
                    superseded(Some(DAY)),
                )
            },
            Case {
                was_current: true,
                ..case(
                    "it was current, and replaced another version",
                    vec![k1(), key("k2", "v0", 0)],
                    Facts { current_key: Some(Acceptance::Accepted), ..Facts::default() },
                    superseded(Some(200 * DAY)),
                )
            },
            Case {
                was_current: true,
                ..case(
                    "the same, and the current key has another successor",
                    vec![k1(), key("k2", "v0", 0), key("k3", "v1", 60)],
                    Facts { current_key: Some(Acceptance::Accepted), ..Facts::default() },
                    superseded(Some(DAY + 60)),
                )
            },
            Case {
                was_current: true,
                keys: None,
                ..case(
                    "it was current, and there is no list",
                    vec![],
                    Facts { current_key: Some(Acceptance::Accepted), ..Facts::default() },
                    Next::Stop(Stop::Superseded { ends: Some(Death::Estimated(at(NOW + DAY))) }),
                )
            },
            Case {
                was_current: true,
                is_younger: true,
                keys: None,
                ..case(
                    "the same, and the current version is the younger one",
                    vec![],
                    Facts { current_key: Some(Acceptance::Accepted), ..Facts::default() },
                    superseded(None),
                )
            },
            // It cannot be told.
            Case { keys: None, ..case("no list", vec![], Facts::default(), clean()) },
            Case {
                keys: None,
                is_younger: true,
                ..case(
                    "no list, and a younger current version",
                    vec![],
                    Facts::default(),
                    Next::Promote(Some(Note::MayOverwriteKey(version("v1")))),
                )
            },
            Case { is_younger: true, ..case("what it replaces is known", vec![k1(), k2()], Facts::default(), clean()) },
            Case {
                keys: None,
                differing: &["note"],
                ..case("no list, and documents that differ", vec![], Facts::default(), note(Note::MayOverwriteEdit))
            },
            Case {
                differing: &["note"],
                ..case(
                    "the version that it replaces cannot be read",
                    vec![k1(), key("k2", "v0", 0)],
                    Facts { marked_version: Some(KeyOf::Unknown), ..Facts::default() },
                    note(Note::MayOverwriteEdit),
                )
            },
            Case {
                differing: &["note"],
                ..case("a clean rotation's fields", vec![k1(), k2()], Facts::default(), clean())
            },
        ];
        for mut case in cases {
            let facts = std::mem::take(&mut case.facts);
            assert_eq!(decided(&case, facts), case.expected, "{}", case.name);
        }
    }
}
