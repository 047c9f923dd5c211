//! The replacement of a version's key: the one place that mints.
//!
//! A mint cannot be repeated, and its answer may be lost. So this is a loop around *looking*: what is on the account decides
//! what is minted next, a mint whose outcome is unclear is looked for, and a key whose value was lost is itself rotated, for
//! it is the one key that can certainly be rotated, and nobody uses it.

mod mint;
mod plan;
mod store;

use std::time::{Duration, SystemTime};

use tracing::{info, warn};

use super::credential::Credential;
use super::failures::{TRY_AGAIN, kosli_failed};
use super::invocation::{Invocation, Outcome};
use super::marks::Marks;
use super::session::Authority;
use crate::clock::from_epoch_seconds;
use crate::config::Policy;
use crate::error::{Change, ErrorKind, RotationError};
use crate::event::VersionId;
use crate::identity::KeyId;
use crate::kosli::{KosliError, Listing, MintAnswer, SHORTEST_MINT};
use crate::marker::Attempt;
use crate::secrets_manager::{Description, STORE_RESERVE, Version, Which};
use plan::Plan;

/// How many mints of one execution may end without a value before it gives up; the next execution goes on from there.
const MOST_LOST_MINTS: usize = 4;

/// The pauses before a refused and transient mint (409, 429, no connection) is sent again. A refusal that outlasts them is
/// Kosli's answer.
const REFUSAL_PAUSES: [Duration; 5] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// The longest `Retry-After` that is waited for before a mint.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(20);

/// A marked key of another execution is taken over when it is older than the function's time-out and this.
const TAKE_OVER_MARGIN: Duration = Duration::from_secs(15);

/// How often the pending version is looked at while another execution may be about to fill it.
const TWIN_PAUSE: Duration = Duration::from_secs(5);

/// The replacement of the key under `AWSCURRENT`.
pub(super) struct Replacement<'a> {
    invocation: &'a Invocation<'a>,
    description: &'a Description,
    /// What is being replaced.
    pub(super) current: Credential,
    previous: Option<Credential>,
    authority: Authority,
    /// Whether Kosli accepts the current key.
    alive: bool,
    policy: Policy,
    marks: Marks,
    /// Key ids that labelled versions hold; `None` until they are needed, since it may take reads.
    held: Option<Vec<KeyId>>,
    /// The attempts of this execution whose outcome is unclear.
    unclear: Vec<Attempt>,
    /// Keys that this execution has minted, by Kosli's own word, and whose value it does not have.
    lost: Vec<KeyId>,
    /// Keys that Kosli refuses to rotate.
    refused: Vec<KeyId>,
    /// When the current key dies, as soon as a grace period may have begun.
    current_key_dies: Option<SystemTime>,
}

/// What came of it.
pub(super) enum Stored {
    /// This execution's key is under `AWSPENDING`.
    Ours(Made),
    /// Another execution's value is: this version.
    ByTwin(Version),
}

/// The new key, stored.
pub(super) struct Made {
    pub(super) id: KeyId,
    pub(super) how: Outcome,
    pub(super) replaced: Option<KeyId>,
    pub(super) current_key_dies: Option<SystemTime>,
    pub(super) revoked: Vec<KeyId>,
    pub(super) warnings: Vec<String>,
}

impl<'a> Replacement<'a> {
    /// Prepares a replacement; nothing is sent.
    pub(super) fn new(
        invocation: &'a Invocation<'a>,
        description: &'a Description,
        current: Credential,
        previous: Option<Credential>,
        authority: Authority,
        alive: bool,
        policy: Policy,
    ) -> Self {
        let marks = Marks::of(&description.arn, &current, previous.as_ref());
        Self {
            invocation,
            description,
            current,
            previous,
            authority,
            alive,
            policy,
            marks,
            held: None,
            unclear: Vec::new(),
            lost: Vec::new(),
            refused: Vec::new(),
            current_key_dies: None,
        }
    }

    /// Mints and stores. `stale_labels` are removed before the mint, so that there is room for the new version's.
    ///
    /// # Errors
    /// Everything that can go wrong between here and the stored version; where a key may have been minted, the error says so
    /// and names the instant at which the current key dies.
    pub(super) async fn mint_and_store(
        &mut self,
        listing: Listing,
        stale_labels: &[(VersionId, String)],
    ) -> Result<Stored, RotationError> {
        let result = self.mint_and_store_inner(listing, stale_labels).await;
        result.map_err(|error| {
            let error = error.current_key_dies(self.current_key_dies);
            match (self.lost.last(), self.unclear.is_empty()) {
                (Some(id), _) => error.once_changed(Change::KeyLost(id.clone())),
                (None, false) => error.once_changed(Change::MaybeMinted),
                (None, true) => error,
            }
        })
    }

    async fn mint_and_store_inner(
        &mut self,
        mut listing: Listing,
        stale_labels: &[(VersionId, String)],
    ) -> Result<Stored, RotationError> {
        let mut stale_labels = stale_labels.iter();
        let mut refusal_pauses = REFUSAL_PAUSES.iter();
        loop {
            let plan = self.plan(&listing).await?;
            if let Plan::LeaveToTwin { id, age } = &plan {
                match self.wait_for_twin(id, *age).await? {
                    Some(version) => return Ok(Stored::ByTwin(version)),
                    None => {
                        listing = self.list().await?;
                        continue;
                    }
                }
            }
            for (version, label) in stale_labels.by_ref() {
                let manager = &self.invocation.session.function.secrets_manager;
                manager
                    .remove_label(&self.invocation.session.budget, self.invocation.session.secret, label, version)
                    .await
                    .map_err(|error| self.invocation.session.aws_failed(&error))?;
                info!(label, version_id = %version, "removed a stale staging label");
            }
            // Right before every mint: another execution may have stored its key.
            if let Some(version) = self.invocation.session.read(Which::Id(self.invocation.version_id())).await? {
                return Ok(Stored::ByTwin(version));
            }
            let attempt = self.fresh_attempt(&listing);
            let error = match self.mint(&plan, attempt, &listing).await? {
                Ok((MintAnswer::Minted(minted), expires_at)) => {
                    return self.store(minted, expires_at, &plan, &listing).await;
                }
                Ok((MintAnswer::Lost(id), _)) => {
                    warn!(key_id = %id, "Kosli minted a key and did not show its value");
                    self.lost.push(id);
                    self.give_up_after_too_many()?;
                    listing = self.list().await?;
                    continue;
                }
                Err(error) => error,
            };
            match &error {
                KosliError::Unclear(_) => {
                    warn!(%error, "a key may have been minted whose answer was lost: looking for it");
                    self.unclear.push(attempt);
                    listing = self.look().await?;
                    self.give_up_after_too_many()?;
                    refusal_pauses = REFUSAL_PAUSES.iter();
                }
                // Nothing happened, and it may pass.
                _ if passing(&error).is_some_and(|asked| asked > LONGEST_RETRY_AFTER) => {
                    return Err(kosli_failed(&error, self.authority.role, "minting a key"));
                }
                _ if let Some(asked) = passing(&error)
                    && let Some(&pause) = refusal_pauses.next() =>
                {
                    info!(%error, "Kosli refused a mint for the moment");
                    if !self.invocation.session.budget.pause(asked + pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await {
                        return Err(kosli_failed(&error, self.authority.role, "minting a key"));
                    }
                    listing = self.list().await?;
                }
                _ => {
                    info!(%error, "Kosli refused a mint");
                    // A refusal after an unclear outcome may mean that the first one had its effect: look before believing it.
                    listing = if self.unclear.is_empty() { self.list().await? } else { self.look().await? };
                    // Or another execution was faster: what it minted comes next, or it has stored that already.
                    let superseded =
                        !matches!(plan, Plan::Rotate { head: true, .. }) && !self.marked(&listing).await?.is_empty();
                    if !superseded {
                        if let Some(version) =
                            self.invocation.session.read(Which::Id(self.invocation.version_id())).await?
                        {
                            return Ok(Stored::ByTwin(version));
                        }
                        self.believe_refusal(plan, &error)?;
                    }
                    refusal_pauses = REFUSAL_PAUSES.iter();
                }
            }
        }
    }

    async fn list(&self) -> Result<Listing, RotationError> {
        self.invocation.session.list(&self.current.account, &self.authority).await
    }

    /// Waits until another execution has stored its key, or can no longer live. `None`: it can no longer live.
    async fn wait_for_twin(&self, id: &KeyId, age: Duration) -> Result<Option<Version>, RotationError> {
        let budget = &self.invocation.session.budget;
        let wait = (budget.function_timeout() + TAKE_OVER_MARGIN).saturating_sub(age);
        let has_room = budget.remaining() > wait + SHORTEST_MINT + STORE_RESERVE;
        info!(key_id = %id, wait_s = wait.as_secs(), has_room, "another execution may be about to store its key");
        let until = budget.now() + wait;
        while has_room && let Ok(left) = until.duration_since(budget.now()) {
            if left.is_zero() || !budget.pause(left.min(TWIN_PAUSE)).await {
                break;
            }
            if let Some(version) = self.invocation.session.read(Which::Id(self.invocation.version_id())).await? {
                return Ok(Some(version));
            }
        }
        if has_room {
            return Ok(None);
        }
        // One more look: the other execution may have been faster than this one's reads.
        if let Some(version) = self.invocation.session.read(Which::Id(self.invocation.version_id())).await? {
            return Ok(Some(version));
        }
        Err(RotationError::after(
            Change::LeftToTwin,
            ErrorKind::TwinExecution,
            format!(
                "The key {id} was minted for this rotation {} s ago, and the execution that minted it may still be about to \
                 store it.",
                age.as_secs()
            ),
            format!(
                "This resolves itself: in {} s the key counts as lost and is replaced. {TRY_AGAIN}",
                wait.as_secs()
            ),
        ))
    }

    fn note_current_key_dies(&mut self, at: SystemTime, listing: &Listing) {
        if !self.alive {
            return;
        }
        let own_expiry = self
            .current
            .key_id
            .as_ref()
            .and_then(|id| listing.keys.iter().find(|key| key.id == *id))
            .and_then(|key| key.expires_at)
            .map(from_epoch_seconds);
        let at = own_expiry.map_or(at, |expiry| at.min(expiry));
        self.current_key_dies = Some(self.current_key_dies.map_or(at, |known| known.min(at)));
    }

    fn give_up_after_too_many(&self) -> Result<(), RotationError> {
        if self.unclear.len() + self.lost.len() < MOST_LOST_MINTS {
            return Ok(());
        }
        Err(mint_unclear("too many attempts have ended without a key's value"))
    }
}

/// How long Kosli asks to be left alone after a refusal that may pass; `None`: it is another kind of failure.
fn passing(error: &KosliError) -> Option<Duration> {
    match error {
        KosliError::Refused { status, retry_after, .. } if matches!(status.as_u16(), 409 | 429) => {
            Some(retry_after.unwrap_or_default())
        }
        KosliError::NotSent(_) => Some(Duration::ZERO),
        _ => None,
    }
}

fn mint_unclear(why: &str) -> RotationError {
    RotationError::before_any_change(
        ErrorKind::MintUnclear,
        format!("Whether Kosli minted a key is not known: {why}."),
        TRY_AGAIN,
    )
}
