//! The replacement of a version's key: the one place that mints.
//!
//! A mint cannot be repeated, and its answer may be lost. So this is a loop around *looking*: `plan.rs` decides from what is on
//! the account what is minted next, a mint whose outcome is unclear is looked for, and a key whose value was lost is itself rotated,
//! for it is the one key that can certainly be rotated, and nobody uses it.
//!
//! Before every mint the event's version is read once more: a value in it means that another execution has stored its key, and that
//! this one is done. What the answer to the mint leads to:
//!
//! | Kosli's answer | noted | then |
//! |---|---|---|
//! | a key | when the current key dies | store it: done |
//! | a key's id and no value | a lost key | look, decide again: it is rotated |
//! | none that can be trusted | an unclear attempt | look for its mark, for some seconds; decide again |
//! | 409, 429, no connection, and it passes | | wait, look, decide again |
//! | it asks for more patience than there is | | stop |
//! | any other refusal, or a lasting one | | look (after an unclear attempt: for some seconds), and then |
//! | … lost keys have turned up meanwhile | | decide again: they come first |
//! | … another execution has stored its key | | done |
//! | … of a key that exists | a key that cannot be rotated | decide again: there is another way |
//! | … otherwise | | stop, with Kosli's own words |
//!
//! After four lost or unclear mints it stops; the next execution goes on from there.

mod mint;
mod plan;
mod stop;
mod store;

use std::time::Duration;

use tracing::{info, warn};

use super::credential::Credential;
use super::invocation::Invocation;
use super::session::Authority;
use crate::config::Policy;
use crate::error::{Change, RotationError};
use crate::event::{SecretId, VersionId};
use crate::kosli::{KosliError, Listing, MintAnswer};
use crate::secrets_manager::{Description, Version};
pub(super) use mint::Minter;
use plan::{Fact, Look, Mint, Next, Refusal, Task, Tried};
use stop::{mint_unclear, not_on_account};
pub(super) use store::Stored;

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

impl<'a> Minter<'a> {
    /// Prepares the replacement of `current`; nothing is sent. `alive`: Kosli accepts its key.
    pub(super) fn new(
        invocation: &'a Invocation<'a>,
        description: &'a Description,
        current: Credential,
        previous: Option<Credential>,
        authority: Authority,
        alive: bool,
        policy: Policy,
    ) -> Self {
        let timeout = invocation.session.budget.function_timeout();
        let task = Task::new(description, current, previous, alive, authority.role, policy, timeout);
        Self { invocation, authority, task }
    }

    /// Mints and stores. `stale_labels` are removed before the mint, so that there is room for the new version's.
    ///
    /// # Errors
    /// Everything that can go wrong between here and the stored version; where a key may have been minted, the error says so
    /// and names the instant at which the current key dies.
    pub(super) async fn mint_and_store(
        &self,
        listing: Listing,
        stale_labels: &[(VersionId, String)],
    ) -> Result<Stored, RotationError> {
        let mut tried = Tried::default();
        let stored = self.course(Look::at(listing), &mut tried, stale_labels).await;
        stored.map_err(|error| {
            let error = error.current_key_dies(tried.current_key_dies);
            match (tried.lost.last(), tried.unclear.is_empty()) {
                (Some(id), _) => error.once_changed(Change::KeyLost(id.clone())),
                (None, false) => error.once_changed(Change::MaybeMinted),
                (None, true) => error,
            }
        })
    }

    async fn course(
        &self,
        mut look: Look,
        tried: &mut Tried,
        stale_labels: &[(VersionId, String)],
    ) -> Result<Stored, RotationError> {
        let mut stale_labels = stale_labels.iter();
        let mut patience = REFUSAL_PAUSES.iter();
        loop {
            tried.note_death(plan::current_key_dies(&self.task, &look, tried));
            let mint = match plan::next(&self.task, &look, tried) {
                Next::Ask(fact) => {
                    self.ask(&fact, &mut look).await?;
                    continue;
                }
                Next::WaitForTwin { id, age } => {
                    if let Some(version) = self.wait_for_twin(&id, age).await? {
                        return Ok(Stored::ByTwin(version));
                    }
                    look.renew(self.list().await?);
                    continue;
                }
                Next::Stop(stop) => {
                    let session = &self.invocation.session;
                    return Err(stop.error(&self.task.current, self.task.alive, session.secret, session.host()));
                }
                Next::Mint(mint) => mint,
            };
            if let (Mint::Create { beside: None, .. }, Some(id)) = (&mint, &self.task.current_id) {
                info!(key_id = %id, "the current key was revoked: creating a new one");
            }
            self.make_room(stale_labels.by_ref()).await?;
            // Right before every mint: another execution may have stored its key.
            if let Some(version) = self.pending().await? {
                return Ok(Stored::ByTwin(version));
            }
            let sent = self.send(&mint, &look, tried).await?;
            match sent.answer {
                Ok(MintAnswer::Minted(minted)) => {
                    return self.store(minted, sent.expires_at, &mint, &look, tried).await;
                }
                Ok(MintAnswer::Lost(id)) => {
                    warn!(key_id = %id, "Kosli minted a key and did not show its value");
                    tried.lost.push(id);
                    give_up_after_too_many(tried, self.invocation.session.secret)?;
                    look.renew(self.list().await?);
                }
                Err(error @ KosliError::Unclear(_)) => {
                    warn!(%error, "a key may have been minted whose answer was lost: looking for it");
                    tried.unclear.push(sent.attempt);
                    look.renew(self.look_for(&tried.unclear).await?);
                    give_up_after_too_many(tried, self.invocation.session.secret)?;
                    patience = REFUSAL_PAUSES.iter();
                }
                Err(error) => {
                    if self.waited_out(&error, &mut patience).await? {
                        look.renew(self.list().await?);
                        continue;
                    }
                    if let Some(version) = self.take_refusal(&mint, &error, &mut look, tried).await? {
                        return Ok(Stored::ByTwin(version));
                    }
                    patience = REFUSAL_PAUSES.iter();
                }
            }
        }
    }

    /// Whether a refusal may pass, and there was the patience to wait. False: it is Kosli's answer.
    async fn waited_out(
        &self,
        error: &KosliError,
        patience: &mut impl Iterator<Item = &'static Duration>,
    ) -> Result<bool, RotationError> {
        let Some(asked) = passing(error) else { return Ok(false) };
        let failed = || self.invocation.session.kosli_failed(error, self.authority.role, "minting a key");
        if asked > LONGEST_RETRY_AFTER {
            return Err(failed());
        }
        let Some(pause) = patience.next() else { return Ok(false) };
        info!(%error, "Kosli refused a mint for the moment");
        if !self.invocation.session.budget.pause(asked + pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await {
            return Err(failed());
        }
        Ok(true)
    }

    /// Takes a refusal that lasted as Kosli's answer, and looks for another way. A version: another execution has stored its key.
    async fn take_refusal(
        &self,
        mint: &Mint,
        error: &KosliError,
        look: &mut Look,
        tried: &mut Tried,
    ) -> Result<Option<Version>, RotationError> {
        info!(%error, "Kosli refused a mint");
        // After an unclear outcome it may mean that the first one had its effect: look before believing it.
        look.renew(if tried.unclear.is_empty() { self.list().await? } else { self.look_for(&tried.unclear).await? });
        let superseded = loop {
            match plan::superseded(mint, &self.task, look, tried) {
                Ok(superseded) => break superseded,
                Err(_) => self.ask(&Fact::HeldKeyIds, look).await?,
            }
        };
        // What another execution has minted comes next, or it has stored that already.
        if superseded {
            return Ok(None);
        }
        if let Some(version) = self.pending().await? {
            return Ok(Some(version));
        }
        match plan::refusal(mint, error.status()) {
            Refusal::OfKey(id) => {
                tried.refused.push(id);
                Ok(None)
            }
            Refusal::NotOnAccount(id) => {
                let session = &self.invocation.session;
                Err(not_on_account(&id, &self.task.current, session.secret, session.host()))
            }
            Refusal::Final => {
                let call =
                    mint.rotates().map_or_else(|| "creating a key".to_owned(), |id| format!("rotating the key {id}"));
                Err(self.invocation.session.kosli_failed(error, self.authority.role, &call))
            }
        }
    }
}

fn give_up_after_too_many(tried: &Tried, secret: &SecretId) -> Result<(), RotationError> {
    if tried.unclear.len() + tried.lost.len() < MOST_LOST_MINTS {
        return Ok(());
    }
    Err(mint_unclear("too many attempts have ended without a key's value", secret))
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
