//! What the report says about the keys: the current one, the one before it, and those that no version holds.

use std::time::{Duration, SystemTime};

use super::super::credential::{Credential, KEY_ID_LABEL};
use super::super::failures::estimated_death;
use super::super::marks::{CLOCK_TOLERANCE, LeftOver, Marks, left_over, replaces_another};
use super::super::session::{Authority, DEATH_PAUSES};
use super::{CheckName, Checkup, STUCK_AFTER};
use crate::by_hand;
use crate::clock::{from_epoch_seconds, rfc3339};
use crate::identity::{ClaimedKeyId, KeyId};
use crate::kosli::{Acceptance, Listing};

/// A marked key that no version holds counts as orphaned once it is older than this; before, a rotation may be at work.
const ORPHANED_AFTER: Duration = Duration::from_secs(3_600);

impl Checkup<'_> {
    /// When the current key dies of a rotation, as far as its successors tell, or the age of the pending version, or of one that a person has
    /// gone back from and whose key is not on the account any more; `None`: nothing says that it does.
    pub(super) fn death(
        &self,
        current: &Credential,
        previous: Option<&Credential>,
        pending: Option<&Credential>,
        listing: &Listing,
    ) -> Option<SystemTime> {
        let marks = Marks::of(&self.description.arn, current, previous);
        // A copy of the current value tests the configuration: nothing was minted for it.
        let pending = pending.filter(|pending| !pending.key().same(current.key()));
        // Nor was it minted for a key that a person has put in since.
        let is_of_another = |pending: &&Credential| {
            replaces_another(&self.description.arn, listing.entry(pending.key_id.as_ref()), current, previous)
        };
        let pending = pending.filter(|pending| !is_of_another(pending));
        let taken_back = previous.filter(|previous| {
            let is_gone = previous.key_id.is_some() && listing.entry(previous.key_id.as_ref()).is_none();
            previous.created > current.created && !previous.key().same(current.key()) && is_gone
        });
        let by_age = || pending.or(taken_back).map(|successor| estimated_death(successor.created, self.policy));
        marks.death(&listing.keys, current.key_id.as_ref(), self.policy.grace()).or_else(by_age)
    }

    /// When the current key dies, if a person has put an old value back: its key is older than that of the version before, and no mark tells
    /// of that one, for the version that it was minted to replace is out of sight. `None`: it is younger, or that would be over by now.
    pub(super) async fn put_back(
        &self,
        current: &Credential,
        previous: Option<&Credential>,
        authority: &Authority,
        listing: &Listing,
    ) -> Option<SystemTime> {
        let is_replaced =
            |previous: &&Credential| previous.account == current.account && previous.created < current.created;
        let previous = previous.filter(is_replaced)?;
        let younger = listing.entry(previous.key_id.as_ref()).filter(|key| !key.is(current.key_id.as_ref()))?;
        // A rotation stores a key right after its mint.
        if younger.created_at + self.session.take_over_after() + CLOCK_TOLERANCE < previous.created {
            return None;
        }
        let dies = Some(estimated_death(previous.created, self.policy)).filter(|dies| *dies > self.now)?;
        let (_, key) = self.session.look_up(current, authority, Some(listing)).await.ok()??;
        (key?.created_at + CLOCK_TOLERANCE < younger.created_at).then_some(dies)
    }

    /// A key that was put back may be in its grace period, and is not tried.
    pub(super) fn not_tried_for_it_was_put_back(&mut self, dies: SystemTime) -> Option<SystemTime> {
        self.not_ok(
            CheckName::CurrentKey,
            format!(
                "Not tried: the current key is older than that of the version before. If a rotation has replaced it, and its value was put \
                 back since, it works until about {}. Rotate now: {}.",
                rfc3339(dies),
                by_hand::rotate(&self.secret())
            ),
        );
        Some(dies)
    }

    /// Whether Kosli accepts the current key; one that may be in its grace period is not tried. When it dies comes back, if that is of
    /// anything but its expiry.
    pub(super) async fn check_current_key(
        &mut self,
        current: &Credential,
        death: Option<SystemTime>,
        is_pending: bool,
    ) -> Option<SystemTime> {
        if let Some(dies) = death.filter(|dies| *dies > self.now) {
            let until = rfc3339(dies);
            if is_pending {
                self.passed(
                    CheckName::CurrentKey,
                    format!(
                        "Not tried: a rotation is under way, so the key is in its grace period until about {until}."
                    ),
                );
            } else {
                self.not_ok(
                    CheckName::CurrentKey,
                    format!(
                        "A rotation that was abandoned, or taken back, has minted a successor of the current key: the current key \
                         works until about {until}. Rotate now: {}.",
                        by_hand::rotate(&self.secret())
                    ),
                );
            }
            return Some(dies);
        }
        match self.session.accepts(&current.account, current.key(), "the current key", &DEATH_PAUSES).await {
            Ok(Acceptance::Accepted) => match death {
                None => self.passed(CheckName::CurrentKey, "Kosli accepts the current key.".to_owned()),
                Some(died) => self.not_ok(
                    CheckName::CurrentKey,
                    format!(
                        "Kosli accepts the current key, though a rotation has minted a successor of it, and its grace period would have \
                         ended at about {}: it may end at any time. Rotate now: {}.",
                        rfc3339(died),
                        by_hand::rotate(&self.secret())
                    ),
                ),
            },
            Ok(Acceptance::Dead) => {
                self.not_ok(
                    CheckName::CurrentKey,
                    format!(
                        "Kosli does not accept the current key: it was revoked or has expired. With an admin key, rotate now ({}); \
                         without, put a working key in ({}).",
                        by_hand::rotate(&self.secret()),
                        by_hand::put_value(&self.secret())
                    ),
                );
                return Some(self.now);
            }
            Err(error) => self.failed(CheckName::CurrentKey, &error),
        }
        None
    }

    /// Whether the current key's id is on the account; when it expires comes back.
    pub(super) async fn check_key_id(
        &mut self,
        current: &Credential,
        authority: &Authority,
        listing: &Listing,
    ) -> Option<SystemTime> {
        if current.key_id.is_none() {
            self.not_ok(
                CheckName::KeyId,
                format!(
                    "Nothing says which key the secret holds. The first rotation finds it, if it is the account's only key; \
                     otherwise put its id into the value, or onto the version, in the place of KEY_ID: {}.",
                    by_hand::attach_label(&self.secret(), &format!("{KEY_ID_LABEL}KEY_ID"), &current.version)
                ),
            );
            return None;
        }
        match self.session.look_up(current, authority, Some(listing)).await {
            Ok(None) => None,
            Ok(Some((id, Some(entry)))) => {
                let expiry = entry.expires_at.map(from_epoch_seconds);
                let until =
                    expiry.map_or_else(|| "never expires".to_owned(), |at| format!("expires at {}", rfc3339(at)));
                self.passed(CheckName::KeyId, format!("The key {id} is on the account and {until}."));
                expiry
            }
            Ok(Some((id, None))) => {
                self.not_ok(
                    CheckName::KeyId,
                    format!(
                        "The key {id} is not on the service account {}: it was revoked, its id is mistyped, or it is in its \
                         grace period after a rotation that was abandoned. Compare it with the account's keys ({}).",
                        current.account,
                        by_hand::list_keys(&current.account, self.session.host())
                    ),
                );
                None
            }
            Err(error) => {
                self.failed(CheckName::KeyId, &error);
                None
            }
        }
    }

    /// Whether the key before the current one is dead, in its grace period, or alive too long; and whether it is still used.
    pub(super) async fn check_old_key(
        &mut self,
        current: &Credential,
        previous: Option<&Credential>,
        authority: &Authority,
        listing: &Listing,
    ) {
        let is_old =
            |previous: &&Credential| previous.account == current.account && !previous.key().same(current.key());
        let Some(previous) = previous.filter(is_old) else {
            return self.passed(CheckName::OldKey, "There is no old key.".to_owned());
        };
        if previous.key_id.is_some() && previous.key_id == current.key_id {
            // A rotation in place may keep the date as well as the id: only the mark tells.
            let marks = Marks::unproven(&self.description.arn, &previous.version);
            if let Some(entry) = listing.entry(current.key_id.as_ref())
                && marks.carried_by(entry).is_none()
            {
                return self.not_ok(
                    CheckName::OldKey,
                    format!(
                        "AWSCURRENT and AWSPREVIOUS hold two keys with one id, and the key {} was not minted to replace the older one: \
                         a key was put in by hand, and the id was left as it was. Compare it with the account's keys ({}), and correct \
                         the id; the old key may live, and nothing ends it.",
                        entry.id,
                        by_hand::list_keys(&current.account, self.session.host())
                    ),
                );
            }
            return self.passed(
                CheckName::OldKey,
                "The old key shares its id with the new one: it ends with its grace period.".to_owned(),
            );
        }
        // The current version was made right after its key was minted, which began the old key's grace period.
        let ends = estimated_death(current.created, self.policy);
        let (id, entry) = match self.session.look_up(previous, authority, Some(listing)).await {
            Ok(None) => return self.check_old_key_without_id(previous, ends).await,
            Ok(Some((id, Some(entry)))) => (id, entry),
            Ok(Some((id, None))) => {
                return self.passed(CheckName::OldKey, format!("The old key {id} is not on the account any more."));
            }
            Err(error) => return self.failed(CheckName::OldKey, &error),
        };
        let used =
            entry.last_used_at.map_or_else(|| "never used".to_owned(), |at| format!("last used {}", rfc3339(at)));
        if self.now > ends + STUCK_AFTER {
            return self.not_ok(
                CheckName::OldKey,
                format!(
                    "The old key {id} is alive, though a grace period would have ended at {}: nothing ends it ({used}). Revoke it \
                     once it is not used any more: {}.",
                    rfc3339(ends),
                    by_hand::revoke_keys([&id], &current.account, self.session.host())
                ),
            );
        }
        let detail = format!("The old key {id} is in its grace period until about {} ({used}).", rfc3339(ends));
        let half_time = current.created + ends.duration_since(current.created).unwrap_or_default() / 2;
        if entry.last_used_at.is_some_and(|at| at > half_time) {
            return self.not_ok(
                CheckName::OldKey,
                format!("{detail} It is still used: find the reader that did not notice the rotation."),
            );
        }
        self.passed(CheckName::OldKey, detail);
    }

    /// The same, where nothing says which id it has: a key that a person put in without one. It is used only after its grace period would
    /// have ended, so that its last use tells of readers until then.
    async fn check_old_key_without_id(&mut self, previous: &Credential, ends: SystemTime) {
        const NO_ID: &str = "Nothing says which id the old key has";
        if self.now <= ends + STUCK_AFTER {
            let until = rfc3339(ends);
            return self.passed(
                CheckName::OldKey,
                format!("{NO_ID}. If a rotation has replaced it, it is in its grace period until about {until}."),
            );
        }
        match self.session.accepts(&previous.account, previous.key(), "the old key", &DEATH_PAUSES).await {
            Ok(Acceptance::Dead) => self.passed(CheckName::OldKey, "The old key is dead.".to_owned()),
            Ok(Acceptance::Accepted) => self.not_ok(
                CheckName::OldKey,
                format!(
                    "The old key is alive, though a grace period would have ended at {}: nothing ends it. {NO_ID}: find it among the \
                     account's keys ({}), and revoke it once it is not used any more.",
                    rfc3339(ends),
                    by_hand::list_keys(&previous.account, self.session.host())
                ),
            ),
            Err(error) => self.failed(CheckName::OldKey, &error),
        }
    }

    /// Whether keys live that were minted to replace a version that is in sight, and that no version holds: what the next sweep would see.
    pub(super) async fn check_orphans(
        &mut self,
        current: &Credential,
        previous: Option<&Credential>,
        pending: Option<&Credential>,
        listing: &Listing,
    ) {
        let arn = &self.description.arn;
        let mut versions = vec![(Marks::of(arn, current, previous), current.key_id.as_ref())];
        if let Some(previous) = previous.filter(|previous| previous.account == current.account) {
            versions.push((Marks::of(arn, previous, None), previous.key_id.as_ref()));
        }
        let known: Vec<&Credential> = [Some(current), previous, pending].into_iter().flatten().collect();
        let others = self.session.marks_of_others(&self.description, &known, &current.account, &listing.keys).await;
        let others = match others {
            Ok(others) => others,
            Err(error) => return self.failed(CheckName::Orphans, &error),
        };
        let old_enough = |id: &KeyId| {
            let entry = listing.keys.iter().find(|key| key.id == *id);
            entry.is_some_and(|key| listing.at.duration_since(key.created_at).unwrap_or_default() > ORPHANED_AFTER)
        };
        let left = |held: &[ClaimedKeyId], others: &[Marks]| {
            let LeftOver { mut lost, mut in_use } = left_over(&listing.keys, &versions, others, held, held);
            lost.retain(old_enough);
            in_use.retain(old_enough);
            LeftOver { lost, in_use }
        };
        let mut held: Vec<_> = known.iter().filter_map(|version| version.key_id.clone()).collect();
        let mut found = left(&held, &others);
        // Other labels may hold them: that costs reads.
        if found != LeftOver::default() {
            held = match self.session.held_key_ids(&self.description, &known).await {
                Ok(held) => held,
                Err(error) => return self.failed(CheckName::Orphans, &error),
            };
            found = left(&held, &others);
        }
        let ids = |ids: &[KeyId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        // One that was minted for a version further back, and was rotated in its turn since, ends with its grace period: nothing tells it
        // from one of an abandoned rotation before.
        let ends = estimated_death(current.created, self.policy);
        if found != LeftOver::default() && self.now <= ends + STUCK_AFTER && left(&held, &[]) == LeftOver::default() {
            return self.passed(
                CheckName::Orphans,
                format!(
                    "Keys were minted for a version that only a label of a person's own keeps in sight, and no version holds them: {}. If \
                     they were replaced since, they end by {}; if not, this check fails after that.",
                    ids(&found.in_use),
                    rfc3339(ends)
                ),
            );
        }
        let LeftOver { lost, in_use } = found;
        if lost.is_empty() && in_use.is_empty() {
            return self
                .passed(CheckName::Orphans, "No key that was minted for this secret is without a version.".to_owned());
        }
        let mut detail = "Keys were minted for this secret, and no version holds them.".to_owned();
        if !lost.is_empty() {
            detail +=
                &format!(" {}: never used, as Kosli shows it; the next rotation replaces or revokes them.", ids(&lost));
        }
        if !in_use.is_empty() {
            detail += &format!(
                " {}: used, or described otherwise; no rotation touches them. Revoke them once they are not used any more: {}.",
                ids(&in_use),
                by_hand::revoke_keys(&in_use, &current.account, self.session.host())
            );
        }
        self.not_ok(CheckName::Orphans, detail);
    }
}
