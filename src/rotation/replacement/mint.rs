//! The mint: what it needs to know, whether there is time for it, how it is sent, and how it is looked for where its outcome is
//! unclear.

use std::time::Duration;

use tracing::info;

use super::plan::{Fact, Look, Mint, Task, Tried};
use super::stop::{mint_unclear, out_of_time, twin_execution};
use crate::error::RotationError;
use crate::event::VersionId;
use crate::identity::KeyId;
use crate::kosli::{KosliError, LONGEST_MINT, Listing, MintAnswer, SHORTEST_GRACE_HOURS, SHORTEST_MINT};
use crate::marker::Attempt;
use crate::rotation::credential::KEY_ID_LABEL;
use crate::rotation::invocation::Invocation;
use crate::rotation::session::Authority;
use crate::secrets_manager::{Description, STORE_RESERVE, Version, Which};

/// The pauses before each look for a key whose mint had an unclear outcome: its effect may come seconds after the client gave
/// up.
const LOOK_PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(3), Duration::from_secs(4)];

/// How often the pending version is looked at while another execution may be about to fill it.
const TWIN_PAUSE: Duration = Duration::from_secs(5);

/// The shortest grace period of Kosli's.
const SHORTEST_GRACE: Duration = Duration::from_secs(SHORTEST_GRACE_HOURS as u64 * 3_600);

/// Who mints, in which invocation, for what.
pub(in crate::rotation) struct Minter<'a> {
    pub(super) invocation: &'a Invocation<'a>,
    pub(super) authority: Authority,
    pub(in crate::rotation) task: Task<'a>,
}

/// A mint that was sent.
pub(super) struct Sent {
    pub(super) attempt: Attempt,
    pub(super) expires_at: u64,
    pub(super) answer: Result<MintAnswer, KosliError>,
}

impl Minter<'_> {
    /// Lists the account's keys.
    pub(super) async fn list(&self) -> Result<Listing, RotationError> {
        self.invocation.session.list(&self.task.current.account, &self.authority).await
    }

    /// The event's version, if it has a value by now: another execution has stored its key.
    pub(super) async fn pending(&self) -> Result<Option<Version>, RotationError> {
        self.invocation.session.read(Which::Id(self.invocation.version_id())).await
    }

    /// Finds out what the decision depends on.
    pub(super) async fn ask(&self, fact: &Fact, look: &mut Look) -> Result<(), RotationError> {
        let Task { description, current, previous, .. } = &self.task;
        let session = &self.invocation.session;
        match fact {
            Fact::HeldKeyIds => {
                let known: Vec<_> = [current].into_iter().chain(previous).collect();
                // The event's version has no value: that is looked at right before the mint, and costs no read here.
                let mut others = Description::clone(description);
                others.versions.remove(self.invocation.version_id());
                look.held = Some(session.held_key_ids(&others, &known).await?);
            }
            Fact::IsOnAccount(id) => {
                let entry = session.kosli(&self.authority.key).get(&current.account, id).await;
                let failed =
                    |error| session.kosli_failed(&error, self.authority.role, &format!("looking up the key {id}"));
                look.unlisted = Some(entry.map_err(failed)?.is_some());
            }
        }
        Ok(())
    }

    /// Attaches the label that names the current key, where neither its version nor its value does: every later step then knows the id.
    pub(super) async fn settle_key_id(&self, mint: &Mint, look: &Look, tried: &mut Tried) -> Result<(), RotationError> {
        let Some(id) = self.task.unlabelled(mint, look).filter(|id| tried.labelled.as_ref() != Some(*id)) else {
            return Ok(());
        };
        let (session, version) = (&self.invocation.session, &self.task.current.version);
        let label = format!("{KEY_ID_LABEL}{id}");
        let manager = &session.function.secrets_manager;
        let attached = manager.attach_label(&session.budget, session.secret, &label, version).await;
        attached.map_err(|error| session.aws_failed(&error))?;
        info!(label, version_id = %version, "attached the key's id to the version that is replaced");
        tried.labelled = Some(id.clone());
        Ok(())
    }

    /// Removes labels that are in the way of the new version's.
    pub(super) async fn make_room<'l>(
        &self,
        stale_labels: impl Iterator<Item = &'l (VersionId, String)>,
    ) -> Result<(), RotationError> {
        let session = &self.invocation.session;
        for (version, label) in stale_labels {
            let manager = &session.function.secrets_manager;
            let removed = manager.remove_label(&session.budget, session.secret, label, version).await;
            removed.map_err(|error| session.aws_failed(&error))?;
            // Not the label: that the id in it is one is not proven.
            info!(version_id = %version, "removed a stale staging label");
        }
        Ok(())
    }

    /// Sends one mint.
    ///
    /// # Errors
    /// It was not sent: there is no time left to store what it would bring.
    pub(super) async fn send(&self, mint: &Mint, look: &Look, tried: &mut Tried) -> Result<Sent, RotationError> {
        let Task { current, policy, marks, .. } = &self.task;
        let budget = &self.invocation.session.budget;
        let remaining = budget.remaining();
        if remaining < SHORTEST_MINT + STORE_RESERVE {
            return Err(out_of_time(remaining, budget.function_timeout(), self.invocation.session.secret));
        }
        let limit = LONGEST_MINT.min(remaining - STORE_RESERVE);
        // Attempt bits that no key on the account carries, and none of this execution's that may be there.
        let mut seen = tried.unclear.clone();
        seen.extend(look.listing.keys.iter().filter_map(|key| marks.attempt_of(key)));
        let attempt = Attempt::fresh(&seen);
        let expires_at = marks.new_key().expires_at(attempt, look.listing.at, policy.life());
        let kosli = self.invocation.session.kosli(&self.authority.key);
        let rotate = async |id: &KeyId, grace_period_hours: u32, lost: bool| {
            info!(key_id = %id, grace_period_hours, expires_at, lost, "rotating a key");
            kosli.rotate(limit, &current.account, id, grace_period_hours, expires_at).await
        };
        let answer = match mint {
            Mint::RotateCurrent(id) => rotate(id, policy.grace_period_hours, false).await,
            Mint::RotateLost(id) => rotate(id, SHORTEST_GRACE_HOURS, true).await,
            Mint::Create { description, .. } => {
                info!(expires_at, "creating a key");
                kosli.create(limit, &current.account, description, expires_at).await
            }
        };
        if !matches!(answer, Err(KosliError::Refused { .. } | KosliError::NotSent(_))) {
            match mint {
                Mint::RotateCurrent(id) => {
                    let ends = budget.now() + policy.grace();
                    tried.rotated.push((id.clone(), ends));
                    tried.note_death(self.task.dies_at(ends, &look.listing));
                }
                Mint::RotateLost(id) => {
                    tried.rotated.push((id.clone(), budget.now() + SHORTEST_GRACE));
                    tried.replaced.push(id.clone());
                }
                Mint::Create { .. } => {}
            }
        }
        Ok(Sent { attempt, expires_at, answer })
    }

    /// Looks for a key whose mint had an unclear outcome, for long enough that a late effect is seen.
    pub(super) async fn look_for(&self, unclear: &[Attempt]) -> Result<Listing, RotationError> {
        let mut last = None;
        for pause in LOOK_PAUSES {
            if !self.invocation.session.budget.pause(pause).await {
                return Err(mint_unclear("there is no time left to look for it", self.invocation.session.secret));
            }
            let listing = self.list().await;
            if let Ok(listing) = &listing
                && listing
                    .keys
                    .iter()
                    .filter_map(|key| self.task.marks.attempt_of(key))
                    .any(|attempt| unclear.contains(&attempt))
            {
                return Ok(listing.clone());
            }
            last = Some(listing);
        }
        // Only a list that came after the whole wait says that nothing was minted.
        match last {
            Some(Ok(listing)) => Ok(listing),
            _ => Err(mint_unclear("the keys of the account cannot be listed", self.invocation.session.secret)),
        }
    }

    /// Waits until another execution has stored its key, or can no longer live. `None`: it can no longer live.
    pub(super) async fn wait_for_twin(&self, id: &KeyId, age: Duration) -> Result<Option<Version>, RotationError> {
        let budget = &self.invocation.session.budget;
        let wait = self.task.take_over_after.saturating_sub(age);
        let has_room = budget.remaining() > wait + SHORTEST_MINT + STORE_RESERVE;
        info!(key_id = %id, wait_s = wait.as_secs(), has_room, "another execution may be about to store its key");
        let until = budget.now() + wait;
        while has_room && let Ok(left) = until.duration_since(budget.now()) {
            if left.is_zero() || !budget.pause(left.min(TWIN_PAUSE)).await {
                break;
            }
            if let Some(version) = self.pending().await? {
                return Ok(Some(version));
            }
        }
        if has_room {
            return Ok(None);
        }
        // One more look: the other execution may have been faster than this one's reads.
        match self.pending().await? {
            Some(version) => Ok(Some(version)),
            None => Err(twin_execution(id, age, wait, self.invocation.session.secret)),
        }
    }
}
