//! What the report says about the keys: the current one, the one before it, and those that no version holds.

use std::time::{Duration, SystemTime};

use super::super::credential::{Credential, KEY_ID_LABEL};
use super::super::failures::estimated_death;
use super::super::marks::Marks;
use super::super::session::{Authority, DEATH_PAUSES};
use super::{CheckName, Checkup, STUCK_AFTER};
use crate::by_hand;
use crate::clock::{from_epoch_seconds, rfc3339};
use crate::identity::KeyId;
use crate::kosli::{Acceptance, KeyEntry, Listing};

/// A marked key that no version holds counts as orphaned once it is older than this; before, a rotation may be at work.
const ORPHANED_AFTER: Duration = Duration::from_secs(3_600);

impl Checkup<'_> {
    pub(super) fn has_marked_keys(
        &self,
        current: &Credential,
        previous: Option<&Credential>,
        listing: &Listing,
    ) -> bool {
        let marks = Marks::of(&self.description.arn, current, previous);
        listing.keys.iter().any(|key| !key.is(current.key_id.as_ref()) && marks.attempt_of(key).is_some())
    }

    /// The successor of the current key that a rotation has minted, though none is pending any more, and when the current key dies
    /// of that.
    pub(super) fn abandoned(
        &self,
        is_pending: bool,
        current: &Credential,
        previous: Option<&Credential>,
        listing: &Listing,
    ) -> Option<(KeyId, SystemTime)> {
        let marks = Marks::of(&self.description.arn, current, previous);
        let successors = listing.keys.iter().filter(|key| !key.is(current.key_id.as_ref()));
        let first = successors.filter(|key| marks.carried_by(key).is_some()).min_by_key(|key| key.created_at)?;
        let dies = first.created_at + self.policy.grace();
        (!is_pending && dies > self.now).then(|| (first.id.clone(), dies))
    }

    pub(super) async fn check_current_key(&mut self, current: &Credential, rotating: bool) {
        if rotating {
            return self.passed(
                CheckName::CurrentKey,
                "Not tried: a rotation is under way, so the key may be in its grace period.".to_owned(),
            );
        }
        match self.session.accepts(&current.account, current.key(), "the current key", &DEATH_PAUSES).await {
            Ok(Acceptance::Accepted) => self.passed(CheckName::CurrentKey, "Kosli accepts the current key.".to_owned()),
            Ok(Acceptance::Dead) => self.not_ok(
                CheckName::CurrentKey,
                format!(
                    "Kosli does not accept the current key: it was revoked or has expired. With an admin key, rotate now ({}); \
                     without, put a working key in ({}).",
                    by_hand::rotate(&self.secret()),
                    by_hand::put_value(&self.secret())
                ),
            ),
            Err(error) => self.failed(CheckName::CurrentKey, &error),
        }
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
            return self.passed(
                CheckName::OldKey,
                "The old key shares its id with the new one: it ends with its grace period.".to_owned(),
            );
        }
        let (id, entry) = match self.session.look_up(previous, authority, Some(listing)).await {
            // So it is after the first rotation of a value without a field for the id.
            Ok(None) => {
                return self.passed(
                    CheckName::OldKey,
                    "Nothing says which id the old key has: it ends with its grace period.".to_owned(),
                );
            }
            Ok(Some((id, Some(entry)))) => (id, entry),
            Ok(Some((id, None))) => {
                return self.passed(CheckName::OldKey, format!("The old key {id} is not on the account any more."));
            }
            Err(error) => return self.failed(CheckName::OldKey, &error),
        };
        // The current version was made right after its key was minted, which began the old key's grace period.
        let ends = estimated_death(current.created, self.policy);
        let used =
            entry.last_used_at.map_or_else(|| "never used".to_owned(), |at| format!("last used {}", rfc3339(at)));
        if self.now > ends + STUCK_AFTER {
            return self.not_ok(
                CheckName::OldKey,
                format!(
                    "The old key {id} is alive, though a grace period would have ended at {}: nobody ends it ({used}). Revoke it: \
                     {}.",
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
                format!("{detail} Somebody still uses it: find out who did not notice the rotation."),
            );
        }
        self.passed(CheckName::OldKey, detail);
    }

    pub(super) async fn check_orphans(
        &mut self,
        current: &Credential,
        previous: Option<&Credential>,
        pending: Option<&Credential>,
        listing: &Listing,
    ) {
        let arn = &self.description.arn;
        let coming = Marks::of(arn, current, previous);
        let last = previous.map(|previous| Marks::of(arn, previous, None));
        let old_enough =
            |key: &&KeyEntry| listing.at.duration_since(key.created_at).unwrap_or_default() > ORPHANED_AFTER;
        let replaces = |marks: &Marks, key: &KeyEntry| marks.attempt_of(key).is_some();
        let marked: Vec<&KeyEntry> = listing
            .keys
            .iter()
            .filter(|key| replaces(&coming, key) || last.as_ref().is_some_and(|last| replaces(last, key)))
            .filter(old_enough)
            .collect();
        let known: Vec<&Credential> = [Some(current), previous, pending].into_iter().flatten().collect();
        let held = match marked.is_empty() {
            true => Ok(Vec::new()),
            false => self.session.held_key_ids(&self.description, &known).await,
        };
        let held = match held {
            Ok(held) => held,
            Err(error) => return self.failed(CheckName::Orphans, &error),
        };
        let (healing, left): (Vec<&KeyEntry>, Vec<&KeyEntry>) =
            marked.into_iter().filter(|key| !key.id.is_among(&held)).partition(|key| replaces(&coming, key));
        let ids = |keys: &[&KeyEntry]| keys.iter().map(|key| key.id.to_string()).collect::<Vec<_>>().join(", ");
        if healing.is_empty() && left.is_empty() {
            return self
                .passed(CheckName::Orphans, "No key that was minted for this secret is without a version.".to_owned());
        }
        let mut detail = "Keys were minted for this secret, and no version holds them.".to_owned();
        if !healing.is_empty() {
            detail += &format!(" {}: the next rotation replaces or revokes them.", ids(&healing));
        }
        if !left.is_empty() {
            detail += &format!(
                " {}: left behind by the clean-up of the last rotation. The next one does not touch them: invoke finishSecret once \
                 more for the version {}, or revoke them: {}.",
                ids(&left),
                current.version,
                by_hand::revoke_keys(left.iter().map(|key| &key.id), &current.account, self.session.host())
            );
        }
        self.not_ok(CheckName::Orphans, detail);
    }
}
