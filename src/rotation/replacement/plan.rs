//! What comes next in a replacement: which key is rotated, or whether one is created (the design's decision 8), from what is known,
//! what was seen and what has been tried. Pure: a fact that costs a call is asked for, and only where it decides.
//!
//! Lost keys come first ([`Marks::lost`], the chain's head being the newest; one that Kosli itself has named needs no mark), unless
//! another execution may be about to store one. Otherwise it depends on where the current key stands:
//!
//! | current key | its id | then |
//! |---|---|---|
//! | works | known, or that of the account's only other key, which is not younger than the version | rotate it |
//! | works | Kosli refuses to rotate it, and it exists | create a key beside it |
//! | works | not known | stop: `KeyIdUnknown` |
//! | dead | its entry carries our mark: the successor kept the id, and its value was lost | rotate it |
//! | dead | on the account | stop: `KeyIdMismatch` |
//! | dead | not on the account | create a key, with an admin key; without one stop: `CurrentKeyDead` |
//! | dead | not known | the same, if there is no other key on the account; else stop: `KeyIdUnknown` |

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use super::stop::Stop;
use crate::clock::from_epoch_seconds;
use crate::config::Policy;
use crate::error::Change;
use crate::identity::{ClaimedKeyId, KeyId};
use crate::kosli::{KeyEntry, LONGEST_DESCRIPTION, Listing};
use crate::marker::Attempt;
use crate::rotation::credential::{Credential, KEY_ID_LABEL};
use crate::rotation::failures::Role;
use crate::rotation::marks::{CLOCK_TOLERANCE, HeldUnknown, Marks};
use crate::secrets_manager::Description;

/// The facts of a replacement. They never change: another view of the secret is another task.
pub(in crate::rotation) struct Task<'a> {
    /// The secret as it was seen.
    pub(super) description: &'a Description,
    /// What is being replaced.
    pub(in crate::rotation) current: Credential,
    /// Its key's id, proven.
    pub(super) current_id: Option<KeyId>,
    /// The version before it, if it parses.
    pub(super) previous: Option<Credential>,
    /// Whether Kosli accepts the current key.
    pub(super) alive: bool,
    /// Whose key mints.
    pub(super) role: Role,
    pub(super) policy: Policy,
    pub(super) marks: Marks,
    /// From this age on, the execution that minted a key cannot live any more.
    pub(super) take_over_after: Duration,
}

/// What this execution has sent, and what came of it.
#[derive(Default)]
pub(in crate::rotation) struct Tried {
    /// The attempts whose outcome is unclear.
    pub(super) unclear: Vec<Attempt>,
    /// Keys that were minted, by Kosli's own word, and whose value this execution does not have.
    pub(super) lost: Vec<KeyId>,
    /// Keys that Kosli refuses to rotate.
    pub(super) refused: Vec<Refused>,
    /// Keys that this execution has rotated, or may have, with the ends of their grace periods.
    pub(super) rotated: Vec<(KeyId, SystemTime)>,
    /// Those of them whose values were lost: they are superfluous once a key is stored.
    pub(super) replaced: Vec<KeyId>,
    /// The key that was minted when another execution's value was stored.
    pub(super) not_stored: Option<KeyId>,
    /// The id that the current version has got a label for.
    pub(super) labelled: Option<KeyId>,
    /// How many mints have ended without a value before another key became current.
    pub(super) before: usize,
    /// How many refusals were waited out: the patience of one execution, whatever they were refusals of.
    pub(super) waited: usize,
    /// When the current key dies, as soon as a grace period may have begun.
    pub(in crate::rotation) current_key_dies: Option<SystemTime>,
}

/// A key that Kosli refuses to rotate, and in which words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Refused {
    pub(super) id: KeyId,
    pub(super) answer: String,
}

/// One look at the account, and the facts that were asked for. What is `None` was not needed yet.
pub(super) struct Look {
    pub(super) listing: Listing,
    /// Key ids that labelled versions hold.
    pub(super) held: Option<Vec<ClaimedKeyId>>,
    /// Whether the current key's id is on the account, though it is not listed.
    pub(super) unlisted: Option<bool>,
}

/// What comes next.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Next {
    /// Find this out, and decide again.
    Ask(Fact),
    /// Mint a key.
    Mint(Mint),
    /// Another execution may be about to store this key.
    WaitForTwin {
        /// The key.
        id: KeyId,
        /// How long ago it was minted.
        age: Duration,
    },
    /// Nothing can be minted.
    Stop(Stop),
}

/// A fact that costs calls.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Fact {
    /// Which key ids do labelled versions hold?
    HeldKeyIds,
    /// Is this key on the account, though it is not listed?
    IsOnAccount(KeyId),
}

/// One mint.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Mint {
    /// Rotate the current key, with the configured grace period.
    RotateCurrent(KeyId),
    /// Rotate a key whose value was lost, with the shortest grace period: no reader has it.
    RotateLost(KeyId),
    /// Create a key.
    Create {
        /// Its description.
        description: String,
        /// The current key, which Kosli does not rotate, which lives on, and which nothing ends.
        beside: Option<Refused>,
    },
}

/// What a refusal that lasted means.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Refusal {
    /// This key cannot be rotated. There is another way: [`next`] knows it.
    OfKey(KeyId),
    /// The current key worked a moment ago, and Kosli does not know it any more: it may have been revoked since.
    OfUnknown(KeyId),
    /// There is no other way.
    Final,
}

/// Decides what comes next.
pub(super) fn next(task: &Task<'_>, look: &Look, tried: &Tried) -> Next {
    let lost = match lost(task, look, tried) {
        Ok(lost) => lost,
        Err(HeldUnknown) => return Next::Ask(Fact::HeldKeyIds),
    };
    for (key, attempt) in &lost {
        let age = look.listing.at.duration_since(key.created_at).unwrap_or_default();
        let is_ours = tried.unclear.contains(attempt) || tried.lost.contains(&key.id);
        if !is_ours && age < task.take_over_after {
            return Next::WaitForTwin { id: key.id.clone(), age };
        }
    }
    if let Some(head) = head(task, &lost, tried) {
        return Next::Mint(Mint::RotateLost(head.clone()));
    }
    let current = task.current_id.as_ref();
    match (task.alive, current.or_else(|| only_candidate(task, look))) {
        (true, Some(id)) => Next::Mint(match tried.refusal_of(id) {
            Some(refused) => task.create(look, Some(refused.clone())),
            None => Mint::RotateCurrent(id.clone()),
        }),
        (true, None) => Next::Stop(Stop::KeyIdUnknown(strangers(task, look).cloned().collect())),
        (false, Some(id)) if is_successor_with_its_id(task, look, id) && tried.refusal_of(id).is_none() => {
            Next::Mint(Mint::RotateCurrent(id.clone()))
        }
        (false, Some(id)) => match look.is_on_account(id) {
            None => Next::Ask(Fact::IsOnAccount(id.clone())),
            Some(true) => Next::Stop(Stop::KeyIdMismatch(id.clone())),
            Some(false) if task.role == Role::Admin => Next::Mint(task.create(look, None)),
            Some(false) => Next::Stop(Stop::CurrentKeyDead),
        },
        (false, None) if task.role != Role::Admin => Next::Stop(Stop::CurrentKeyDead),
        (false, None) => match strangers(task, look).cloned().collect::<Vec<_>>() {
            none if none.is_empty() && look.listing.odd == 0 => Next::Mint(task.create(look, None)),
            candidates => Next::Stop(Stop::KeyIdUnknown(candidates)),
        },
    }
}

/// Whether another execution has begun what this refused mint was to do: there are lost keys now, and this was not to rotate one.
///
/// # Errors
/// [`HeldUnknown`], as [`Marks::lost`].
pub(super) fn superseded(mint: &Mint, task: &Task<'_>, look: &Look, tried: &Tried) -> Result<bool, HeldUnknown> {
    Ok(!matches!(mint, Mint::RotateLost(_)) && !lost(task, look, tried)?.is_empty())
}

/// What a refusal of this mint means that outlasts all patience. `None`: no status, no connection was made.
pub(super) fn refusal(mint: &Mint, status: Option<u16>, task: &Task<'_>, look: &Look) -> Refusal {
    let is_listed = |id: &KeyId| look.listing.keys.iter().any(|key| key.id == *id);
    match (mint, status) {
        // It has died, or it was rotated before after all: the next best.
        (Mint::RotateLost(id), Some(400 | 404 | 409)) => Refusal::OfKey(id.clone()),
        // It exists, and it was rotated before.
        (Mint::RotateCurrent(id), Some(400 | 409)) => Refusal::OfKey(id.clone()),
        // It is on the account, whatever Kosli says here.
        (Mint::RotateCurrent(id), Some(404)) if is_listed(id) || !task.alive => Refusal::OfKey(id.clone()),
        (Mint::RotateCurrent(id), Some(404)) => Refusal::OfUnknown(id.clone()),
        // In self-rotation it is the current key itself that is not accepted.
        (Mint::RotateCurrent(id), Some(401)) if task.role == Role::Current => Refusal::OfUnknown(id.clone()),
        _ => Refusal::Final,
    }
}

/// Whether a refusal may pass: waiting a little is worth it. Kosli does not find a key that it lists.
pub(super) fn may_pass(mint: &Mint, status: Option<u16>, look: &Look) -> bool {
    match (mint, status) {
        (_, Some(409 | 429)) => true,
        (Mint::RotateCurrent(id), Some(404)) => look.listing.keys.iter().any(|key| key.id == *id),
        _ => false,
    }
}

/// The keys that were minted to replace the current version and that no version holds, but those that Kosli refuses to rotate.
fn lost<'l>(task: &Task<'_>, look: &'l Look, tried: &Tried) -> Result<Vec<(&'l KeyEntry, Attempt)>, HeldUnknown> {
    let is_refused = |id: &KeyId| tried.refusal_of(id).is_some();
    task.marks.lost(&look.listing.keys, task.current.key_id.as_ref(), is_refused, look.held.as_deref())
}

/// The lost key that is rotated. The newest has certainly not been rotated before.
fn head<'a>(task: &Task<'_>, lost: &[(&'a KeyEntry, Attempt)], tried: &'a Tried) -> Option<&'a KeyId> {
    let usable = |id: &&KeyId| tried.refusal_of(id).is_none() && task.current_id.as_ref() != Some(*id);
    let named = tried.lost.last().filter(usable);
    named.or(lost.iter().max_by_key(|(key, _)| key.created_at).map(|(key, _)| &key.id))
}

/// The listed keys that do not carry this rotation's marks.
fn strangers<'l>(task: &Task<'_>, look: &'l Look) -> impl Iterator<Item = &'l KeyEntry> {
    look.listing.keys.iter().filter(|key| task.marks.attempt_of(key).is_none())
}

/// The key that a working current key without an id must be: the only stranger, unless another version names its id. The current
/// key may be on the account and not on the list, in its grace period: the only one that is listed is then another. So is one that
/// is younger than the version, for no value was stored before its key was made.
fn only_candidate<'l>(task: &Task<'_>, look: &'l Look) -> Option<&'l KeyId> {
    let mut strangers = strangers(task, look);
    match (strangers.next(), strangers.next()) {
        (Some(only), None)
            if task.alive
                && look.listing.odd == 0
                && only.created_at <= task.current.created + CLOCK_TOLERANCE
                && !task.is_held_elsewhere(&only.id) =>
        {
            Some(&only.id)
        }
        _ => None,
    }
}

/// Whether the listed key with the current key's id is its successor: Kosli has kept the id, and the value was lost.
fn is_successor_with_its_id(task: &Task<'_>, look: &Look, id: &KeyId) -> bool {
    look.listing.keys.iter().any(|key| key.id == *id && task.marks.attempt_of(key).is_some())
}

impl<'a> Task<'a> {
    /// The replacement of `current`.
    pub(super) fn new(
        description: &'a Description,
        (current, current_id): (Credential, Option<KeyId>),
        previous: Option<Credential>,
        alive: bool,
        role: Role,
        policy: Policy,
        take_over_after: Duration,
    ) -> Self {
        let marks = Marks::of(&description.arn, &current, previous.as_ref());
        Self { description, current, current_id, previous, alive, role, policy, marks, take_over_after }
    }

    /// When the current key dies, if its grace period ends at this instant: with its own expiry, where that comes first. `None`: it
    /// is dead already.
    pub(super) fn dies_at(&self, grace_period_ends: SystemTime, listing: &Listing) -> Option<SystemTime> {
        let expiry = listing.entry(self.current.key_id.as_ref()).and_then(|key| key.expires_at).map(from_epoch_seconds);
        self.alive.then(|| expiry.map_or(grace_period_ends, |expiry| grace_period_ends.min(expiry)))
    }

    /// Whether a version that holds another key than the current one has this id.
    fn is_held_elsewhere(&self, id: &KeyId) -> bool {
        self.is_labelled_elsewhere(id) || id.is_among(self.previous.iter().flat_map(|previous| &previous.key_id))
    }

    /// When the current key dies, if keys that were minted to replace it tell that its grace period has begun.
    pub(super) fn death(&self, listing: &Listing) -> Option<SystemTime> {
        let death = self.marks.death(&listing.keys, self.current.key_id.as_ref(), self.policy.grace());
        death.filter(|_| self.alive)
    }

    /// The id that the current version is to get a label for, before the mint: the list shows it, and neither the value nor a label of the
    /// version names it, so no later step could tell it for sure.
    pub(super) fn unlabelled<'i>(&'i self, mint: &'i Mint, look: &Look) -> Option<&'i KeyId> {
        let id = match mint {
            Mint::RotateCurrent(id) => Some(id),
            _ => self.current_id.as_ref(),
        };
        let is_named = self.current.key_id.is_some() && !self.current.key_id_from_tag;
        let is_listed = |id: &&KeyId| look.listing.keys.iter().any(|key| key.id == **id);
        id.filter(|_| !is_named).filter(is_listed).filter(|id| !self.is_labelled_elsewhere(id))
    }

    fn is_labelled_elsewhere(&self, id: &KeyId) -> bool {
        let labelled = |label: &String| label.strip_prefix(KEY_ID_LABEL) == Some(id.as_str());
        self.description.versions.values().flatten().any(labelled)
    }

    /// A new key: described as the one that it replaces, if that is known.
    fn create(&self, look: &Look, beside: Option<Refused>) -> Mint {
        let described = |credential: &Credential| {
            let entry = look.listing.entry(credential.key_id.as_ref())?;
            Some(entry.description.clone()).filter(|description| !description.is_empty())
        };
        let previous = self.previous.as_ref().filter(|previous| previous.account == self.current.account);
        let description = described(&self.current)
            .or_else(|| previous.and_then(described))
            .unwrap_or_else(|| format!("AWS Secrets Manager: {}", self.description.name));
        Mint::Create { description: description.chars().take(LONGEST_DESCRIPTION).collect(), beside }
    }
}

impl Tried {
    /// Notes when the current key dies, by one account; the earliest counts.
    pub(in crate::rotation) fn note_death(&mut self, at: Option<SystemTime>) {
        self.current_key_dies = self.current_key_dies.into_iter().chain(at).min();
    }

    /// How many mints have ended without a value.
    pub(super) fn without_a_value(&self) -> usize {
        self.before + self.unclear.len() + self.lost.len()
    }

    /// The keys that were minted, or may have been, and whose values were lost: those whose ids Kosli has named. `None`: there are none.
    pub(in crate::rotation) fn without_values(&self) -> Option<Vec<KeyId>> {
        let ids: BTreeSet<&KeyId> = self.replaced.iter().chain(&self.lost).collect();
        (!ids.is_empty() || !self.unclear.is_empty()).then(|| ids.into_iter().cloned().collect())
    }

    /// Another key has become current: what was found out of the one before says nothing of it. What was rotated stays rotated. Of another
    /// account, nothing can be revoked with the ids of this one.
    #[must_use]
    pub(in crate::rotation) fn of_another_key(self, is_elsewhere: bool) -> Self {
        let before = self.without_a_value();
        let replaced = if is_elsewhere { Vec::new() } else { self.replaced };
        Self { before, rotated: self.rotated, replaced, ..Self::default() }
    }

    /// What this execution has changed, or may have, unless it ends well.
    pub(in crate::rotation) fn changes(&self) -> Vec<Change> {
        let mint = match (&self.not_stored, self.lost.last()) {
            (Some(id), _) => Some(Change::NotStored(id.clone())),
            (None, Some(id)) => Some(Change::KeyLost(id.clone())),
            (None, None) => (self.without_a_value() > 0).then_some(Change::MaybeMinted),
        };
        mint.into_iter().chain(self.labelled.clone().map(Change::KeyIdAttached)).collect()
    }

    /// Whether this execution has rotated a key, or may have, and when it dies of that: where another execution has stored it, its readers
    /// would be refused.
    pub(in crate::rotation) fn rotated_at(&self, id: &ClaimedKeyId) -> Option<(&KeyId, SystemTime)> {
        self.rotated.iter().rfind(|(rotated, _)| id == rotated).map(|(id, dies)| (id, *dies))
    }

    fn refusal_of(&self, id: &KeyId) -> Option<&Refused> {
        self.refused.iter().find(|refused| refused.id == *id)
    }
}

impl Look {
    /// The first look.
    pub(super) fn at(listing: Listing) -> Self {
        Self { listing, held: None, unlisted: None }
    }

    /// Looks at the account anew. What versions hold belongs to the view of the secret, which is the same.
    pub(super) fn renew(&mut self, listing: Listing) {
        self.listing = listing;
        self.unlisted = None;
    }

    fn is_on_account(&self, id: &KeyId) -> Option<bool> {
        if self.listing.keys.iter().any(|key| key.id == *id) { Some(true) } else { self.unlisted }
    }
}

impl Mint {
    /// The key that this mint rotates.
    pub(super) fn rotates(&self) -> Option<&KeyId> {
        match self {
            Self::RotateCurrent(id) | Self::RotateLost(id) => Some(id),
            Self::Create { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::config::RevokeOldKey;
    use crate::event::VersionId;
    use crate::secrets_manager::{CURRENT, PREVIOUS, Version};

    const ARN: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:kosli-AbCdEf";

    /// The age from which on a key is taken over: the function's time-out is 90 s.
    const TAKE_OVER_AFTER: Duration = Duration::from_secs(105);

    /// Kosli's time when it lists, in seconds since 1970; the current version was made an hour before.
    const NOW: u64 = 1_800_000_000;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(NOW)
    }

    /// Every row of decision 8, lost keys, twins and refusals. A row says how the current key stands, what is listed, what was found
    /// out or tried before, and what comes next.
    ///
    /// The current key `works` or is `dead`; its id is `cur`, unless `no-id`. `self`: self-rotation, else there is an admin key.
    /// `edited`: the version before holds the same key. `before=x`: it holds another one, with this id. `label=x`: some version has the
    /// label `kosli-key-id:x`.
    ///
    /// A listed key is its id; `!30` minted with our mark 30 s ago, `^30` with the mark of the version before, `/30` without one; else it
    /// is a day old; `+used`; `~other` has another description than the others, `~` none.
    ///
    /// `held=x,y`: labelled versions hold these. `gone`, `there`: what was found about an id that is not listed. `unclear=x`: the
    /// attempt that x carries was ours; `lost=x`: Kosli named it and did not show its value; `refused=x`: Kosli refuses to rotate it.
    #[test]
    fn what_comes_next() {
        for (current, list, known, expected) in [
            // The current key works.
            ("works", "cur", "", "rotate cur"),
            ("works", "cur a b", "", "rotate cur"),
            ("works self", "cur", "", "rotate cur"),
            ("works", "", "", "rotate cur"),
            ("works", "a", "", "rotate cur"),
            ("works", "cur", "refused=cur", "create beside cur: ours"),
            ("works self", "a", "refused=cur", "create beside cur: AWS Secrets Manager: kosli"),
            // Its id is not known.
            ("works no-id", "a", "", "rotate a"),
            ("works no-id", "a+used", "", "rotate a"),
            ("works no-id self", "a", "", "rotate a"),
            ("works no-id", "a", "refused=a", "create beside a: AWS Secrets Manager: kosli"),
            ("works no-id", "", "", "stop: KeyIdUnknown"),
            ("works no-id", "a b", "", "stop: KeyIdUnknown a b"),
            ("works no-id", "a", "refused=b", "rotate a"),
            // A value cannot have been stored before its key was made: the version is an hour old.
            ("works no-id", "a/3300", "", "rotate a"),
            ("works no-id", "a/3299", "", "stop: KeyIdUnknown a"),
            ("works no-id edited", "a/3299", "", "stop: KeyIdUnknown a"),
            // One with an odd id may be the one as well.
            ("works", "cur", "odd", "rotate cur"),
            ("works no-id", "a", "odd", "stop: KeyIdUnknown a"),
            ("dead no-id", "", "odd", "stop: KeyIdUnknown"),
            ("works no-id before=a", "a", "", "stop: KeyIdUnknown a"),
            ("works no-id label=a", "a", "", "stop: KeyIdUnknown a"),
            ("works no-id before=b label=c", "a", "", "rotate a"),
            // It is dead: the incident, or value and id that do not belong together.
            ("dead", "cur", "", "stop: KeyIdMismatch cur"),
            ("dead self", "cur a", "", "stop: KeyIdMismatch cur"),
            ("dead", "a", "", "ask: cur"),
            ("dead self", "a", "", "ask: cur"),
            ("dead", "a", "there", "stop: KeyIdMismatch cur"),
            ("dead", "a", "gone", "create: AWS Secrets Manager: kosli"),
            ("dead", "", "gone", "create: AWS Secrets Manager: kosli"),
            ("dead before=old", "old", "gone", "create: ours"),
            ("dead before=old", "old~", "gone", "create: AWS Secrets Manager: kosli"),
            ("dead before=old elsewhere", "old", "gone", "create: AWS Secrets Manager: kosli"),
            ("dead self", "a", "gone", "stop: CurrentKeyDead"),
            ("dead no-id", "", "", "create: AWS Secrets Manager: kosli"),
            ("dead no-id", "a", "", "stop: KeyIdUnknown a"),
            ("dead no-id self", "", "", "stop: CurrentKeyDead"),
            ("dead no-id self", "a", "", "stop: CurrentKeyDead"),
            // Kosli keeps ids, and the value was lost: the entry with the current id is the successor.
            ("dead", "cur!300", "", "rotate cur"),
            ("dead", "cur!300+used", "", "stop: KeyIdMismatch cur"),
            ("dead", "cur!300", "refused=cur", "stop: KeyIdMismatch cur"),
            ("works", "cur!300", "", "rotate cur"),
            // Lost keys: who holds them is asked only where there are any.
            ("works", "cur lost!300", "", "ask: held"),
            ("works", "lost!300", "", "ask: held"),
            ("dead", "lost!300", "", "ask: held"),
            ("works", "cur lost!300", "held=", "rotate lost: lost"),
            ("works", "cur lost!300", "held=cur", "rotate lost: lost"),
            ("dead", "lost!300", "held=", "rotate lost: lost"),
            ("dead self", "cur lost!300", "held=", "rotate lost: lost"),
            ("works no-id", "a b lost!300", "held=", "rotate lost: lost"),
            ("works", "cur lost!300", "held=lost", "rotate cur"),
            ("dead", "lost!300", "held=lost gone", "create: AWS Secrets Manager: kosli"),
            ("works no-id", "a lost!300", "held=lost", "rotate a"),
            ("works no-id", "lost!300", "held=lost", "stop: KeyIdUnknown"),
            ("dead no-id", "lost!300", "held=lost", "create: AWS Secrets Manager: kosli"),
            // None of ours, whatever they look like.
            ("works", "cur a+used", "", "rotate cur"),
            ("works", "cur lost!300+used", "", "rotate cur"),
            ("works", "cur lost!300~other", "", "rotate cur"),
            ("works", "cur lost!300~", "", "rotate cur"),
            ("works", "cur lost!3901", "", "rotate cur"),
            ("works", "cur lost^300", "", "rotate cur"),
            ("works before=old", "cur lost^300", "", "rotate cur"),
            // And these are: no description to compare with, clocks that differ, a field that was edited after the mint.
            ("works", "lost!300~other", "held=", "rotate lost: lost"),
            ("works", "cur~ lost!300~other", "held=", "rotate lost: lost"),
            ("works", "cur lost!3900", "held=", "rotate lost: lost"),
            ("works edited", "cur lost^300", "held=", "rotate lost: lost"),
            ("works edited", "cur lost!300", "held=", "rotate lost: lost"),
            // The head of a chain is the newest; one that Kosli refuses to rotate makes way for the next.
            ("works", "cur old!900 new!300 mid!600", "held=", "rotate lost: new"),
            ("works", "cur old!900 new!300", "held= refused=new", "rotate lost: old"),
            ("works", "cur old!900 new!300", "held=new", "rotate lost: old"),
            ("works", "cur lost!300", "held= refused=lost", "rotate cur"),
            ("works", "cur lost!300", "refused=lost", "rotate cur"),
            ("works", "cur lost!300", "held= refused=lost,cur", "create beside cur: ours"),
            // One that Kosli has named needs no mark, and comes before those that have one.
            ("works", "cur", "lost=named", "rotate lost: named"),
            ("works", "cur named", "lost=named", "rotate lost: named"),
            ("works", "cur", "lost=first,named", "rotate lost: named"),
            ("works", "cur lost!300", "held= lost=named", "rotate lost: named"),
            ("works", "cur lost!300", "held= lost=named refused=named", "rotate lost: lost"),
            ("works", "cur", "lost=named refused=named", "rotate cur"),
            ("works", "cur", "lost=cur", "rotate cur"),
            // Another execution may be about to store its key, until it cannot live any more.
            ("works", "cur twin!30", "", "ask: held"),
            ("works", "cur twin!30", "held=", "wait 30: twin"),
            ("works", "cur twin!0", "held=", "wait 0: twin"),
            ("works", "cur twin!-5", "held=", "wait 0: twin"),
            ("works", "cur twin!104", "held=", "wait 104: twin"),
            ("works", "cur twin!105", "held=", "rotate lost: twin"),
            ("works", "cur twin!30", "held=twin", "rotate cur"),
            ("works", "cur lost!300 twin!30", "held=", "wait 30: twin"),
            ("dead", "twin!30", "held=", "wait 30: twin"),
            ("works", "cur twin!30", "held= refused=twin", "rotate cur"),
            // Its own unclear attempt, or the one that it lost, is no twin's.
            ("works", "cur ours!3", "held= unclear=ours", "rotate lost: ours"),
            ("works", "cur ours!3", "held= lost=ours", "rotate lost: ours"),
            ("works", "cur ours!3 twin!30", "held= unclear=ours", "wait 30: twin"),
            ("works", "cur ours!3 lost!300", "held= unclear=ours", "rotate lost: ours"),
        ] {
            let case = Case::of(current, list, known);
            assert_eq!(shown(&next(&case.task(), &case.look, &case.tried)), expected, "{current} | {list} | {known}");
        }
    }

    /// What a refusal that lasted means.
    #[test]
    fn what_a_refusal_means() {
        let id = |id: &str| KeyId::parse(id).expect("valid");
        let beside = Some(Refused { id: id("cur"), answer: String::new() });
        let (rotate, rotate_lost) = (Mint::RotateCurrent(id("cur")), Mint::RotateLost(id("lost")));
        let created = Mint::Create { description: String::new(), beside };
        let (of_current, unknown, of_lost) =
            (Refusal::OfKey(id("cur")), Refusal::OfUnknown(id("cur")), Refusal::OfKey(id("lost")));
        for (mint, current, list, status, expected, passes) in [
            (&rotate, "works", "cur", Some(400), &of_current, false),
            (&rotate, "works", "", Some(400), &of_current, false),
            (&rotate, "works", "", Some(409), &of_current, true),
            (&rotate, "works", "cur", Some(404), &of_current, true),
            (&rotate, "works", "a", Some(404), &unknown, false),
            (&rotate, "dead", "a", Some(404), &of_current, false),
            (&rotate, "works", "cur", Some(401), &Refusal::Final, false),
            (&rotate, "works self", "cur", Some(401), &unknown, false),
            (&rotate, "works self", "cur", Some(403), &Refusal::Final, false),
            (&rotate, "works", "cur", Some(422), &Refusal::Final, false),
            (&rotate, "works", "cur", Some(429), &Refusal::Final, true),
            (&rotate, "works", "cur", None, &Refusal::Final, false),
            (&rotate_lost, "works", "lost", Some(400), &of_lost, false),
            (&rotate_lost, "works", "lost", Some(404), &of_lost, false),
            (&rotate_lost, "works", "lost", Some(409), &of_lost, true),
            (&rotate_lost, "works self", "", Some(401), &Refusal::Final, false),
            (&created, "works", "cur", Some(404), &Refusal::Final, false),
            (&created, "works self", "cur", Some(401), &Refusal::Final, false),
            (&created, "works", "cur", Some(409), &Refusal::Final, true),
        ] {
            let case = Case::of(current, list, "");
            let what = format!("{mint:?} {current} {list} {status:?}");
            assert_eq!(refusal(mint, status, &case.task(), &case.look), *expected, "{what}");
            assert_eq!(may_pass(mint, status, &case.look), passes, "{what}");
        }
    }

    /// Which id the current version gets a label for: one that the list shows, and that neither the value nor a label names.
    #[test]
    fn the_id_is_settled_before_the_mint() {
        let id = |id: &str| KeyId::parse(id).expect("valid");
        let create = Mint::Create { description: String::new(), beside: None };
        for (mint, current, from_tag, list, expected) in [
            (Mint::RotateCurrent(id("cur")), "works", false, "cur", None),
            (Mint::RotateCurrent(id("cur")), "works", true, "cur", Some("cur")),
            (Mint::RotateCurrent(id("cur")), "works", true, "a", None),
            (Mint::RotateCurrent(id("cur")), "works label=cur", true, "cur", None),
            (Mint::RotateCurrent(id("a")), "works no-id", false, "a", Some("a")),
            (Mint::RotateLost(id("lost")), "works", true, "cur lost!300", Some("cur")),
            (Mint::RotateLost(id("lost")), "works no-id", false, "lost!300", None),
            (create, "works", true, "cur", Some("cur")),
        ] {
            let case = Case::of(current, list, "");
            let mut task = case.task();
            task.current.key_id_from_tag = from_tag;
            assert_eq!(task.unlabelled(&mint, &case.look), expected.map(id).as_ref(), "{mint:?} {current} {list}");
        }
    }

    /// What is kept when another key has become current, and what is said of a failure after it.
    #[test]
    fn what_was_tried_is_kept() {
        let id = |id: &str| KeyId::parse(id).expect("valid");
        let claimed = |id: &str| ClaimedKeyId::parse(id).expect("valid");
        let mut tried = Tried::default();
        assert_eq!(tried.changes(), []);
        tried.unclear.push(Attempt::fresh(&[]));
        assert_eq!(tried.changes(), [Change::MaybeMinted]);
        tried.labelled = Some(id("cur"));
        tried.lost.push(id("lost"));
        tried.rotated.push((id("cur"), now()));
        tried.current_key_dies = Some(now());
        assert_eq!(tried.changes(), [Change::KeyLost(id("lost")), Change::KeyIdAttached(id("cur"))]);
        tried = tried.of_another_key(false);
        assert_eq!((tried.without_a_value(), tried.rotated_at(&claimed("cur"))), (2, Some((&id("cur"), now()))));
        assert_eq!(tried.rotated_at(&claimed("lost")), None);
        assert!(tried.lost.is_empty() && tried.unclear.is_empty() && tried.current_key_dies.is_none());
        assert_eq!(tried.changes(), [Change::MaybeMinted]);
        tried.not_stored = Some(id("own"));
        assert_eq!(tried.changes(), [Change::NotStored(id("own"))]);
    }

    /// Whether another execution has begun meanwhile what was refused here.
    #[test]
    fn what_supersedes_a_refused_mint() {
        let id = |id: &str| KeyId::parse(id).expect("valid");
        let create = Mint::Create { description: String::new(), beside: None };
        for (mint, list, known, expected) in [
            (Mint::RotateCurrent(id("cur")), "cur", "", Ok(false)),
            (Mint::RotateCurrent(id("cur")), "cur twin!3", "", Err(HeldUnknown)),
            (Mint::RotateCurrent(id("cur")), "cur twin!3", "held=", Ok(true)),
            (Mint::RotateCurrent(id("cur")), "cur twin!3", "held=twin", Ok(false)),
            (create, "twin!3", "held=", Ok(true)),
            (Mint::RotateLost(id("lost")), "cur lost!300 twin!3", "", Ok(false)),
            (Mint::RotateLost(id("lost")), "cur lost!300 twin!3", "held=", Ok(false)),
        ] {
            let case = Case::of("works", list, known);
            assert_eq!(
                superseded(&mint, &case.task(), &case.look, &case.tried),
                expected,
                "{mint:?} | {list} | {known}"
            );
        }
    }

    /// When the current key dies, seen from lost keys: `h` hours from now, the grace period being 24 of them.
    #[test]
    fn when_the_current_key_dies() {
        let hours = |hours: u64| now() + Duration::from_secs(hours * 3_600);
        let ago = |seconds: u64| hours(24) - Duration::from_secs(seconds);
        for (current, list, expected) in [
            ("works", "cur", None),
            ("works", "cur lost!300", Some(ago(300))),
            ("works", "cur twin!3", Some(ago(3))),
            // The first of them has begun the grace period.
            ("works", "cur new!300 old!900 mid!600", Some(ago(900))),
            ("works", "cur new!300 old!900+used", Some(ago(900))),
            // Its own expiry may come first.
            ("works", "cur@2 lost!300", Some(hours(2))),
            ("works", "cur@48 lost!300", Some(ago(300))),
            ("works no-id", "a@2 lost!300", Some(ago(300))),
            ("dead", "lost!300", None),
        ] {
            let case = Case::of(current, list, "");
            assert_eq!(case.task().death(&case.look.listing), expected, "{current} | {list}");
        }
        let mut tried = Tried::default();
        for (noted, expected) in
            [(None, None), (Some(5), Some(5)), (Some(7), Some(5)), (None, Some(5)), (Some(3), Some(3))]
        {
            tried.note_death(noted.map(hours));
            assert_eq!(tried.current_key_dies, expected.map(hours));
        }
    }

    #[test]
    fn a_new_look_keeps_what_versions_hold_and_forgets_what_it_found_on_the_account() {
        let mut case = Case::of("dead", "a", "gone held=b");
        assert_eq!(case.look.unlisted, Some(false));
        case.look.renew(Listing { keys: Vec::new(), odd: 0, at: now() });
        assert_eq!(
            (case.look.unlisted, case.look.held.as_deref()),
            (None, Some(&[ClaimedKeyId::parse("b").expect("valid")][..]))
        );
        assert!(case.look.listing.keys.is_empty());
    }

    #[test]
    fn a_description_is_cut_to_what_kosli_takes() {
        let mut case = Case::of("works", "cur", "refused=cur");
        case.look.listing.keys[0].description = "ü".repeat(LONGEST_DESCRIPTION + 1);
        let Next::Mint(Mint::Create { description, .. }) = next(&case.task(), &case.look, &case.tried) else {
            panic!()
        };
        assert_eq!(description, "ü".repeat(LONGEST_DESCRIPTION));
    }

    #[test]
    fn a_mint_says_which_key_it_rotates() {
        let id = KeyId::parse("cur").expect("valid");
        assert_eq!(Mint::RotateCurrent(id.clone()).rotates(), Some(&id));
        assert_eq!(Mint::RotateLost(id.clone()).rotates(), Some(&id));
        let beside = Some(Refused { id, answer: String::new() });
        assert_eq!(Mint::Create { description: String::new(), beside }.rotates(), None);
    }

    fn shown(next: &Next) -> String {
        match next {
            Next::Ask(Fact::HeldKeyIds) => "ask: held".to_owned(),
            Next::Ask(Fact::IsOnAccount(id)) => format!("ask: {id}"),
            Next::Mint(Mint::RotateCurrent(id)) => format!("rotate {id}"),
            Next::Mint(Mint::RotateLost(id)) => format!("rotate lost: {id}"),
            Next::Mint(Mint::Create { description, beside: None }) => format!("create: {description}"),
            Next::Mint(Mint::Create { description, beside: Some(refused) }) => {
                format!("create beside {}: {description}", refused.id)
            }
            Next::WaitForTwin { id, age } => format!("wait {}: {id}", age.as_secs()),
            Next::Stop(Stop::CurrentKeyDead) => "stop: CurrentKeyDead".to_owned(),
            Next::Stop(Stop::KeyIdMismatch(id)) => format!("stop: KeyIdMismatch {id}"),
            Next::Stop(Stop::KeyIdUnknown(candidates)) => {
                candidates.iter().fold("stop: KeyIdUnknown".to_owned(), |text, key| format!("{text} {}", key.id))
            }
        }
    }

    /// A row, read.
    struct Case {
        words: Vec<&'static str>,
        description: Description,
        look: Look,
        tried: Tried,
    }

    impl Case {
        fn of(current: &'static str, list: &str, known: &str) -> Self {
            let words: Vec<&str> = current.split(' ').collect();
            let label =
                words.iter().find_map(|word| word.strip_prefix("label=")).map(|id| format!("{KEY_ID_LABEL}{id}"));
            let versions = [("third".to_owned(), label.into_iter().collect())];
            let versions = versions.into_iter().map(|(id, labels)| (VersionId::trusted(id), labels));
            let description = Description { name: "kosli".to_owned(), ..Description::of(ARN, versions) };
            let listing = Listing { keys: listed(list), odd: 0, at: now() };
            let mut case = Self { words, description, look: Look::at(listing), tried: Tried::default() };
            for word in known.split_whitespace() {
                let (what, ids) = word.split_once('=').unwrap_or((word, ""));
                let held = ids.split(',').filter_map(ClaimedKeyId::parse);
                let ids = ids.split(',').filter_map(KeyId::parse);
                match what {
                    "held" => case.look.held = Some(held.collect()),
                    "gone" => case.look.unlisted = Some(false),
                    "odd" => case.look.listing.odd = 1,
                    "there" => case.look.unlisted = Some(true),
                    "lost" => case.tried.lost = ids.collect(),
                    "refused" => {
                        case.tried.refused = ids.map(|id| Refused { id, answer: String::new() }).collect();
                    }
                    "unclear" => {
                        let marks = case.task().marks;
                        let keys = ids.filter_map(|id| case.look.listing.keys.iter().find(|key| key.id == id));
                        case.tried.unclear = keys.filter_map(|key| marks.attempt_of(key)).collect();
                        assert_eq!(case.tried.unclear.len(), 1);
                    }
                    _ => panic!("{word}"),
                }
            }
            case
        }

        fn task(&self) -> Task<'_> {
            let says = |word: &str| self.words.contains(&word);
            let of = |prefix: &str| self.words.iter().find_map(|word| word.strip_prefix(prefix));
            let credential = |version: &str, account: &str, key: &str, id: Option<&str>, age: u64, role: &str| {
                let id = id.map(|id| format!(r#","key_id":"{id}""#)).unwrap_or_default();
                let value = format!(r#"{{"api_key":"made-up-{key}","org":"acme","service_account":"{account}"{id}}}"#);
                let version = Version {
                    arn: ARN.to_owned(),
                    id: VersionId::trusted(version),
                    labels: Vec::new(),
                    created: now() - Duration::from_secs(age),
                    value: Some(value.into()),
                };
                Credential::parse(&version, &self.description, role).expect("a credential")
            };
            let previous = match of("before=") {
                Some(id) => {
                    let account = if says("elsewhere") { "other" } else { "ci" };
                    Some(credential("first", account, "old-key", Some(id), 7_200, PREVIOUS))
                }
                None => says("edited").then(|| credential("first", "ci", "current-key", Some("cur"), 7_200, PREVIOUS)),
            };
            let id = (!says("no-id")).then_some("cur");
            let current = credential("second", "ci", "current-key", id, 3_600, CURRENT);
            let current_id = id.and_then(KeyId::parse);
            let role = if says("self") { Role::Current } else { Role::Admin };
            let policy =
                Policy { grace_period_hours: 24, revoke_old_key: RevokeOldKey::AfterGracePeriod, key_ttl_days: 365 };
            assert!(says("works") != says("dead"));
            Task::new(&self.description, (current, current_id), previous, says("works"), role, policy, TAKE_OVER_AFTER)
        }
    }

    /// The keys of a list. Attempt bits are all different.
    fn listed(list: &str) -> Vec<KeyEntry> {
        let mut seen = Vec::new();
        let read = |word: &str| {
            let (word, used) = word.strip_suffix("+used").map_or((word, false), |word| (word, true));
            let (word, description) = word.split_once('~').unwrap_or((word, "ours"));
            let (word, lives) = word.split_once('@').map_or((word, None), |(word, hours)| (word, Some(hours)));
            let end = word.find(['!', '^', '/']).unwrap_or(word.len());
            let (id, marked) = word.split_at(end);
            let mark = match marked.get(..1) {
                Some("!") => Some(crate::marker::Mark::of(ARN, &VersionId::trusted("second"))),
                Some("^") => Some(crate::marker::Mark::of(ARN, &VersionId::trusted("first"))),
                _ => None,
            };
            let age: i64 = marked.get(1..).map_or(86_400, |age| age.parse().expect("an age"));
            let created_at = match u64::try_from(age) {
                Ok(age) => now() - Duration::from_secs(age),
                Err(_) => now() + Duration::from_secs(age.unsigned_abs()),
            };
            let marked = mark.map(|mark| {
                let attempt = Attempt::fresh(&seen);
                seen.push(attempt);
                mark.expires_at(attempt, created_at, Duration::from_secs(365 * 86_400))
            });
            let lives = lives.map(|hours| NOW + hours.parse::<u64>().expect("hours") * 3_600);
            KeyEntry {
                id: KeyId::parse(id).expect("valid"),
                description: description.to_owned(),
                created_at,
                expires_at: marked.or(lives),
                last_used_at: used.then(now),
            }
        };
        list.split_whitespace().map(read).collect()
    }
}
