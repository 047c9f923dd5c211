//! What is minted next: which key is rotated, or whether one is created, from what is on the account and what has failed.

use std::time::Duration;

use tracing::info;

use super::{Replacement, TAKE_OVER_MARGIN};
use crate::clock::rfc3339;
use crate::error::{ErrorKind, RotationError};
use crate::event::SecretId;
use crate::identity::KeyId;
use crate::kosli::{KeyEntry, KosliError, LONGEST_DESCRIPTION, Listing, SHORTEST_GRACE_HOURS};
use crate::marker::Attempt;
use crate::rotation::credential::{Credential, KEY_ID_LABEL};
use crate::rotation::failures::{Role, TRY_AGAIN, dead_without_admin, kosli_failed};
use crate::rotation::marks::may_succeed;

/// What to do next.
pub(super) enum Plan {
    /// Rotate this key.
    Rotate { id: KeyId, grace_period_hours: u32, head: bool },
    /// Create a key beside those that there are; `beside`: the key that lives on and that nobody ends.
    Create { description: String, beside: Option<Option<KeyId>> },
    /// Another execution may be about to store this key.
    LeaveToTwin { id: KeyId, age: Duration },
}

impl Replacement<'_> {
    /// Decides what comes next. The order is the design's: the head of a chain first, then by where the current key stands.
    pub(super) async fn plan(&mut self, listing: &Listing) -> Result<Plan, RotationError> {
        let marked = self.marked(listing).await?;
        if let Some((key, _)) = marked.first() {
            // The first lost key began the current key's grace period, if it was minted by rotating the current key.
            let grace = self.policy.grace();
            let first = marked.iter().map(|(key, _)| key.created_at).min().unwrap_or(key.created_at);
            self.note_current_key_dies(first + grace, listing);
        }
        let age_limit = self.invocation.session.budget.function_timeout() + TAKE_OVER_MARGIN;
        for (key, attempt) in &marked {
            let age = listing.at.duration_since(key.created_at).unwrap_or_default();
            if !self.unclear.contains(attempt) && !self.lost.contains(&key.id) && age < age_limit {
                return Ok(Plan::LeaveToTwin { id: key.id.clone(), age });
            }
        }
        // The newest has certainly not been rotated before. A key that Kosli itself has named needs no mark.
        let newest = marked.iter().max_by_key(|(key, _)| key.created_at).map(|(key, _)| &key.id);
        let named =
            self.lost.last().filter(|id| !self.refused.contains(id) && self.current.key_id.as_ref() != Some(*id));
        if let Some(head) = named.or(newest) {
            return Ok(Plan::Rotate { id: head.clone(), grace_period_hours: SHORTEST_GRACE_HOURS, head: true });
        }
        match self.current.key_id.clone() {
            Some(id) => self.plan_by_id(id, listing).await,
            None => self.plan_without_id(listing),
        }
    }

    async fn plan_by_id(&self, id: KeyId, listing: &Listing) -> Result<Plan, RotationError> {
        let invocation = self.invocation;
        let entry = listing.keys.iter().find(|key| key.id == id);
        let rotate = Plan::Rotate { id: id.clone(), grace_period_hours: self.policy.grace_period_hours, head: false };
        let refused = self.refused.contains(&id);
        if self.alive {
            return Ok(if refused { self.create(listing, Some(Some(id))) } else { rotate });
        }
        if entry.is_some_and(|entry| self.marks.attempt_of(entry).is_some()) && !refused {
            // The successor kept the id, and its value was lost: proven to be ours.
            return Ok(rotate);
        }
        let on_account = entry.is_some()
            || invocation
                .session
                .kosli(&self.authority.key)
                .get(&self.current.account, &id)
                .await
                .map_err(|error| kosli_failed(&error, self.authority.role, &format!("looking up the key {id}")))?
                .is_some();
        if on_account {
            return Err(RotationError::before_any_change(
                ErrorKind::KeyIdMismatch,
                format!(
                    "Kosli does not accept the key under AWSCURRENT, yet its key id {id} is on the service account {}: value \
                     and id do not belong together.",
                    self.current.account
                ),
                "Correct the value or the key id in the secret, then rotate again. Nothing was minted.",
            ));
        }
        if self.authority.role == Role::Admin {
            info!(key_id = %id, "the current key was revoked: creating a new one");
            return Ok(self.create(listing, None));
        }
        Err(dead_without_admin(&self.current))
    }

    fn plan_without_id(&self, listing: &Listing) -> Result<Plan, RotationError> {
        let strangers: Vec<&KeyEntry> =
            listing.keys.iter().filter(|key| self.marks.attempt_of(key).is_none()).collect();
        match strangers.as_slice() {
            [only] if self.alive && !self.is_held_elsewhere(&only.id) => Ok(if self.refused.contains(&only.id) {
                self.create(listing, Some(Some(only.id.clone())))
            } else {
                Plan::Rotate { id: only.id.clone(), grace_period_hours: self.policy.grace_period_hours, head: false }
            }),
            [] if !self.alive && self.authority.role == Role::Admin => Ok(self.create(listing, None)),
            _ if !self.alive && self.authority.role != Role::Admin => Err(dead_without_admin(&self.current)),
            _ => Err(key_id_unknown(self.invocation.session.secret, &self.current, self.alive, &strangers)),
        }
    }

    /// Whether a version that holds another key than the current one has this id. The current key may be on the account and
    /// not on the list, in its grace period: the only key that is listed is then not the one that is looked for.
    fn is_held_elsewhere(&self, id: &KeyId) -> bool {
        let labelled = |label: &String| label.strip_prefix(KEY_ID_LABEL) == Some(id.as_str());
        self.description.versions.values().flatten().any(labelled)
            || self.previous.as_ref().is_some_and(|previous| previous.key_id.as_ref() == Some(id))
    }

    fn create(&self, listing: &Listing, beside: Option<Option<KeyId>>) -> Plan {
        let described = |credential: &Credential| {
            let id = credential.key_id.as_ref()?;
            let entry = listing.keys.iter().find(|key| key.id == *id)?;
            Some(entry.description.clone()).filter(|description| !description.is_empty())
        };
        let previous = self.previous.as_ref().filter(|previous| previous.account == self.current.account);
        let description = described(&self.current)
            .or_else(|| previous.and_then(described))
            .unwrap_or_else(|| format!("AWS Secrets Manager: {}", self.description.name));
        Plan::Create { description: description.chars().take(LONGEST_DESCRIPTION).collect(), beside }
    }

    /// The keys that were minted to replace the current version and that no version holds: lost, or a twin's.
    pub(super) async fn marked(&mut self, listing: &Listing) -> Result<Vec<(KeyEntry, Attempt)>, RotationError> {
        let current_entry = self.current.key_id.as_ref().and_then(|id| listing.keys.iter().find(|key| key.id == *id));
        let marked: Vec<(KeyEntry, Attempt)> = listing
            .keys
            .iter()
            .filter(|key| self.current.key_id.as_ref() != Some(&key.id) && !self.refused.contains(&key.id))
            .filter(|key| may_succeed(current_entry, key))
            .filter_map(|key| Some((key.clone(), self.marks.attempt_of(key)?)))
            .collect();
        if marked.is_empty() {
            return Ok(marked);
        }
        let held = match self.held.take() {
            Some(held) => held,
            None => {
                let known: Vec<&Credential> = [&self.current].into_iter().chain(self.previous.as_ref()).collect();
                self.invocation.session.held_key_ids(self.description, &known).await?
            }
        };
        let unheld = marked.into_iter().filter(|(key, _)| !held.contains(&key.id)).collect();
        self.held = Some(held);
        Ok(unheld)
    }

    /// Takes a refusal that lasted as Kosli's answer: this key cannot be rotated. Ok: there is another way.
    pub(super) fn believe_refusal(&mut self, plan: Plan, error: &KosliError) -> Result<(), RotationError> {
        let call = match &plan {
            Plan::Rotate { id, .. } => format!("rotating the key {id}"),
            _ => "creating a key".to_owned(),
        };
        match (plan, error.status()) {
            // A lost key that has died, or that was rotated before after all: the next best.
            (Plan::Rotate { id, head: true, .. }, Some(400 | 404 | 409)) => {
                self.refused.push(id);
                Ok(())
            }
            (Plan::Rotate { id, head: false, .. }, Some(404)) => Err(RotationError::before_any_change(
                ErrorKind::KeyNotOnAccount,
                format!(
                    "Kosli accepts the key under AWSCURRENT, and does not find its key id {id} on the service account {}. \
                     Either the id is mistyped, or the key is in its grace period after a rotation that was abandoned.",
                    self.current.account
                ),
                format!(
                    "Compare the id with the account's keys (`kosli list api-keys`). If the key is in its grace period, make a \
                     new one by hand and put it with its id into the secret. {TRY_AGAIN}"
                ),
            )),
            // It exists, and it was rotated before.
            (Plan::Rotate { id, head: false, .. }, Some(400 | 409)) => {
                self.refused.push(id);
                Ok(())
            }
            _ => Err(kosli_failed(error, self.authority.role, &call)),
        }
    }
}

fn key_id_unknown(secret: &SecretId, current: &Credential, alive: bool, candidates: &[&KeyEntry]) -> RotationError {
    let listed: Vec<String> = candidates
        .iter()
        .take(20)
        .map(|key| {
            let used =
                key.last_used_at.map_or_else(|| "never used".to_owned(), |at| format!("last used {}", rfc3339(at)));
            let description: String = key.description.chars().take(60).flat_map(char::escape_default).collect();
            format!("{} (\"{description}\", created {}, {used})", key.id, rfc3339(key.created_at))
        })
        .collect();
    let works = if alive { "works" } else { "does not work" };
    RotationError::before_any_change(
        ErrorKind::KeyIdUnknown,
        format!(
            "Nothing says which key the secret holds: the value and the tags name no key id, and the service account {} has {} \
             keys. The secret's key {works}. Candidates: {}.",
            current.account,
            candidates.len(),
            if listed.is_empty() { "none".to_owned() } else { listed.join("; ") }
        ),
        format!(
            "Put the key's id into the value (`key_id`, `KOSLI_API_KEY_ID`); or, before the first rotation, into the tag \
             kosli:key-id; or attach it to the version: `aws secretsmanager update-secret-version-stage --secret-id {secret} \
             --version-stage {KEY_ID_LABEL}ID --move-to-version-id {}`. Then rotate again.",
            current.version
        ),
    )
}
