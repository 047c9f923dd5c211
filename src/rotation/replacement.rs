//! The replacement of a version's key: the one place that mints.
//!
//! A mint cannot be repeated, and its answer may be lost. So this is a loop around *looking*: `plan.rs` decides from what is on
//! the account what is minted next, a mint whose outcome is unclear is looked for, and a key whose value was lost is itself rotated,
//! for it is the one key that can certainly be rotated, and no reader uses it.
//!
//! Before the first mint the event's version is read once more: a value in it means that another execution has stored its key, and that
//! this one is done. Before every further one the whole view is read again, as at the beginning ([`Stored::LookAgain`]): views do not grow
//! old. What the answer to the mint leads to:
//!
//! | Kosli's answer | noted | then |
//! |---|---|---|
//! | a key | when the current key dies | store it: done |
//! | a key's id and no value | a lost key | look again: it is rotated |
//! | none that can be trusted | an unclear attempt | look for its mark, for some seconds; look again |
//! | 409, 429, no connection, 404 for a key that is listed, and it passes | | wait, look again |
//! | it asks for more patience than there is | | stop |
//! | any other refusal, or a lasting one | | list (after an unclear attempt: for some seconds), and then |
//! | … lost keys have turned up meanwhile | | look again: they come first |
//! | … another execution has stored its key | | done |
//! | … of a key that exists | a key that cannot be rotated, in Kosli's words | look again: there is another way |
//! | … of the current key, which is not found | | use it for some seconds: if it is refused, it was revoked: look again; else stop |
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
use super::failures::Role;
use super::invocation::Invocation;
use super::session::{Authority, DEATH_PAUSES};
use crate::config::Policy;
use crate::error::RotationError;
use crate::event::{SecretId, VersionId};
use crate::identity::KeyId;
use crate::kosli::{Acceptance, KosliError, Listing, MintAnswer};
use crate::secrets_manager::Description;
pub(super) use mint::Minter;
pub(super) use plan::Tried;
use plan::{Fact, Look, Mint, Next, Refusal, Refused, Task};
use stop::{mint_unclear, not_on_account};
pub(super) use store::{Known, Stored};

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

/// The pauses between uses of a current key that Kosli does not find any more: a key that was revoked a moment ago may be accepted for
/// some seconds.
const REVOKED_PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(3), Duration::from_secs(4)];

impl<'a> Minter<'a> {
    /// Prepares the replacement of `current`, whose id is proven; nothing is sent. `alive`: Kosli accepts its key.
    pub(super) fn new(
        invocation: &'a Invocation<'a>,
        description: &'a Description,
        current: (Credential, Option<KeyId>),
        previous: Option<Credential>,
        authority: Authority,
        alive: bool,
        policy: Policy,
    ) -> Self {
        let timeout = invocation.session.take_over_after();
        let task = Task::new(description, current, previous, alive, authority.role, policy, timeout);
        Self { invocation, authority, task }
    }

    /// Sends one mint, and stores what it brings; or says what is to be looked at before the next. `stale_labels` are removed before the
    /// mint, so that there is room for the new version's.
    ///
    /// # Errors
    /// Everything that can go wrong between here and the stored version. What was changed by then is in `tried`.
    pub(super) async fn mint_and_store(
        &self,
        listing: Listing,
        stale_labels: &[(VersionId, String)],
        tried: &mut Tried,
    ) -> Result<Stored, RotationError> {
        let session = &self.invocation.session;
        let mut look = Look::at(listing);
        let mint = loop {
            match plan::next(&self.task, &look, tried) {
                Next::Ask(fact) => self.ask(&fact, &mut look).await?,
                Next::WaitForTwin { id, age } => {
                    return Ok(match self.wait_for_twin(&id, age).await? {
                        Some(version) => Stored::ByTwin(version),
                        None => self.look_again(None),
                    });
                }
                Next::Stop(stop) => {
                    return Err(stop.error(&self.task.current, self.task.alive, session.secret, session.host()));
                }
                Next::Mint(mint) => break mint,
            }
        };
        if let (Mint::Create { beside: None, .. }, Some(id)) = (&mint, &self.task.current_id) {
            info!(key_id = %id, "the current key was revoked: creating a new one");
        }
        self.make_room(stale_labels.iter()).await?;
        self.settle_key_id(&mint, &look, tried).await?;
        // Right before every mint: another execution may have stored its key.
        if let Some(version) = self.pending().await? {
            return Ok(Stored::ByTwin(version));
        }
        let sent = self.send(&mint, &look, tried).await?;
        match sent.answer {
            Ok(MintAnswer::Minted(minted)) => self.store(minted, sent.expires_at, &mint, &look, tried).await,
            Ok(MintAnswer::Lost(id)) => {
                warn!(key_id = %id, "Kosli minted a key and did not show its value");
                tried.lost.push(id);
                give_up_after_too_many(tried, session.secret)?;
                Ok(self.look_again(None))
            }
            Err(error @ KosliError::Unclear(_)) => {
                warn!(%error, "a key may have been minted whose answer was lost: looking for it");
                tried.unclear.push(sent.attempt);
                let listing = self.look_for(&tried.unclear).await?;
                give_up_after_too_many(tried, session.secret)?;
                // What is refused next may be refused for the one that is unclear: a single refusal is no answer.
                tried.waited = tried.waited.min(REFUSAL_PAUSES.len() - 1);
                Ok(self.look_again(Some(listing)))
            }
            Err(error) if self.waited_out(&mint, &error, &look, tried).await? => Ok(self.look_again(None)),
            Err(error) => self.take_refusal(&mint, &error, &mut look, tried).await,
        }
    }

    /// Everything is to be looked at anew; this list, if there is one, is fresh.
    fn look_again(&self, listing: Option<Listing>) -> Stored {
        Stored::LookAgain(Known { alive: self.task.alive, listing })
    }

    /// Whether a refusal may pass, and there was the patience to wait. False: it is Kosli's answer.
    async fn waited_out(
        &self,
        mint: &Mint,
        error: &KosliError,
        look: &Look,
        tried: &mut Tried,
    ) -> Result<bool, RotationError> {
        let asked = match error {
            KosliError::Refused { status, retry_after, .. } if plan::may_pass(mint, Some(status.as_u16()), look) => {
                retry_after.unwrap_or_default()
            }
            KosliError::NotSent(_) => Duration::ZERO,
            _ => return Ok(false),
        };
        let failed = || self.invocation.session.kosli_failed(error, self.authority.role, "minting a key");
        if asked > LONGEST_RETRY_AFTER {
            return Err(failed());
        }
        let Some(pause) = REFUSAL_PAUSES.get(tried.waited) else { return Ok(false) };
        tried.waited += 1;
        info!(%error, "Kosli refused a mint for the moment");
        if !self.invocation.session.budget.pause(asked + pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await {
            return Err(failed());
        }
        Ok(true)
    }

    /// Takes a refusal that lasted as Kosli's answer, and looks for another way.
    async fn take_refusal(
        &self,
        mint: &Mint,
        error: &KosliError,
        look: &mut Look,
        tried: &mut Tried,
    ) -> Result<Stored, RotationError> {
        info!(%error, "Kosli refused a mint");
        let session = &self.invocation.session;
        // After an unclear outcome it may mean that the first one had its effect: look before believing it.
        look.renew(if tried.unclear.is_empty() { self.list().await? } else { self.look_for(&tried.unclear).await? });
        tried.note_death(self.task.death(&look.listing));
        let superseded = loop {
            match plan::superseded(mint, &self.task, look, tried) {
                Ok(superseded) => break superseded,
                Err(_) => self.ask(&Fact::HeldKeyIds, look).await?,
            }
        };
        // What another execution has minted comes next, or it has stored that already.
        if superseded {
            return Ok(self.look_again(Some(look.listing.clone())));
        }
        if let Some(version) = self.pending().await? {
            return Ok(Stored::ByTwin(version));
        }
        let lasting = || {
            let call =
                mint.rotates().map_or_else(|| "creating a key".to_owned(), |id| format!("rotating the key {id}"));
            session.kosli_failed(error, self.authority.role, &call)
        };
        match plan::refusal(mint, error.status(), &self.task, look) {
            Refusal::OfKey(id) => {
                tried.refused.push(Refused { id, answer: error.to_string() });
                Ok(self.look_again(Some(look.listing.clone())))
            }
            Refusal::OfUnknown(_) if self.current_dies_soon().await? => match self.authority.role {
                Role::Admin => Ok(Stored::LookAgain(Known { alive: false, listing: None })),
                _ => Err(session.dead_without_admin(&self.task.current)),
            },
            Refusal::OfUnknown(id) if error.status() == Some(404) => {
                Err(not_on_account(&id, &self.task.current, session.secret, session.host()))
            }
            Refusal::OfUnknown(_) | Refusal::Final => Err(match mint {
                Mint::Create { beside: Some(Refused { id, answer }), .. } => {
                    lasting().with_cause(&format!("Before that, it refused to rotate the current key {id}: {answer}."))
                }
                _ => lasting(),
            }),
        }
    }

    /// Whether Kosli refuses the current key within some seconds.
    async fn current_dies_soon(&self) -> Result<bool, RotationError> {
        let (session, current) = (&self.invocation.session, &self.task.current);
        for pause in REVOKED_PAUSES {
            if !session.budget.pause(pause).await {
                break;
            }
            let accepted = session.accepts(&current.account, current.key(), "the current key", &DEATH_PAUSES).await?;
            if accepted == Acceptance::Dead {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn give_up_after_too_many(tried: &Tried, secret: &SecretId) -> Result<(), RotationError> {
    if tried.without_a_value() < MOST_LOST_MINTS {
        return Ok(());
    }
    Err(mint_unclear("too many attempts have ended without a key's value", secret))
}
