//! The store of a minted key: whether it is this execution's that counts, and what becomes of the lost and the superfluous.

use std::time::{Duration, SystemTime};

use tracing::{info, warn};

use super::mint::Minter;
use super::plan::{Look, Mint, Refused, Tried};
use crate::budget::Repeatable;
use crate::by_hand;
use crate::error::{Change, ErrorKind, RotationError};
use crate::identity::KeyId;
use crate::kosli::{Listing, Minted};
use crate::metrics::count;
use crate::rotation::credential::{Credential, KEY_ID_LABEL};
use crate::rotation::failures::try_again;
use crate::rotation::invocation::{Invocation, Outcome, STALE_VIEW_PAUSES};
use crate::rotation::marks::{CLOCK_TOLERANCE, may_succeed};
use crate::secrets_manager::{NewValue, SecretsManagerError, Version};

/// What is kept back of the store's time: where its outcome is unclear, the version is read.
const READ_BACK: Duration = Duration::from_secs(2);

/// What came of a replacement.
pub(in crate::rotation) enum Stored {
    /// This execution's key is under `AWSPENDING`.
    Ours(Made),
    /// Another execution's value is: this version.
    ByTwin(Version),
    /// Nothing is stored. Time has passed, or a mint was sent: everything is to be looked at anew.
    LookAgain(Known),
}

/// What need not be asked again, as long as the same version is current.
pub(in crate::rotation) struct Known {
    /// Whether Kosli accepts its key.
    pub(in crate::rotation) alive: bool,
    /// A list that has just been read.
    pub(in crate::rotation) listing: Option<Listing>,
}

/// The new key, stored.
pub(in crate::rotation) struct Made {
    pub(in crate::rotation) id: KeyId,
    pub(in crate::rotation) how: Outcome,
    pub(in crate::rotation) replaced: Option<KeyId>,
    pub(in crate::rotation) current_key_dies: Option<SystemTime>,
    pub(in crate::rotation) revoked: Vec<KeyId>,
    pub(in crate::rotation) warnings: Vec<String>,
}

impl Minter<'_> {
    /// Stores a new key, and nothing comes between the mint and this. `look` is what the mint was decided on.
    pub(super) async fn store(
        &self,
        minted: Minted,
        expires_at: u64,
        mint: &Mint,
        look: &Look,
        tried: &mut Tried,
    ) -> Result<Stored, RotationError> {
        let Invocation { session, event } = self.invocation;
        if let (Some(_), Some(at), Some((_, ends))) =
            (mint.rotates(), minted.grace_period_expires_at, tried.rotated.last_mut())
        {
            *ends = at;
            if matches!(mint, Mint::RotateCurrent(_)) {
                tried.current_key_dies = Some(at);
            }
        }
        let document = &self.task.current.document;
        let value = document.with_key(&minted.key, &minted.id);
        let label = (!document.has_key_id_field()).then(|| format!("{KEY_ID_LABEL}{}", minted.id));
        let new = NewValue { text: &value, key: &minted.key, label: label.as_deref() };
        let (manager, rotation_token) = (&session.function.secrets_manager, event.rotation_token.as_ref());
        let budget = session.budget.less(READ_BACK);
        let stored = manager.store(&budget, session.secret, &event.version_id, rotation_token, &new).await;
        if let Err(error) = stored {
            // The answer may have been lost, or another execution may have been faster: only the version itself tells.
            let Some(version) = self.value_after(&error).await else {
                let failed = self.store_failed(&minted.id, &error);
                tried.lost.push(minted.id);
                return Err(failed);
            };
            let winner = Credential::parse(&version, self.task.description, "AWSPENDING").ok();
            if winner.as_ref().is_none_or(|winner| !winner.key().same(&minted.key)) {
                return Ok(self.lose_to_twin(version, winner, minted, tried).await);
            }
        }
        count(&session.tally.minted);
        let mut warnings = self.check_marker(&minted, expires_at, &look.listing);
        let (how, replaced) = match mint {
            Mint::RotateCurrent(id) => (Outcome::Rotated, Some(id.clone())),
            Mint::RotateLost(_) => {
                count(&session.tally.recovered);
                (Outcome::Recovered, self.task.current_id.clone())
            }
            Mint::Create { beside, .. } => {
                warnings.extend(beside.as_ref().map(|Refused { id, answer }| {
                    format!(
                        "Kosli refused to rotate the current key {id} ({answer}), so a new key was created beside it. Nothing \
                         ends the old one: revoke it once it is not used any more ({}).",
                        by_hand::revoke_keys([id], &self.task.current.account, session.host())
                    )
                }));
                (Outcome::Created, self.task.current_id.clone())
            }
        };
        // Every lost key that was replaced on the way here, listed or not: what the list hides, no sweep would find.
        let mut revoked = Vec::new();
        for id in tried.replaced.iter().filter(|id| **id != minted.id) {
            match self.revoke_unless_held(id).await {
                Ok(true) => revoked.push(id.clone()),
                Ok(false) => {}
                Err(error) => warnings.push(format!(
                    "The lost key {id}, which was replaced, could not be revoked yet: {}",
                    error.what_to_do()
                )),
            }
        }
        let current_key_dies = tried.current_key_dies;
        Ok(Stored::Ours(Made { id: minted.id, how, replaced, current_key_dies, revoked, warnings }))
    }

    /// The value that the event's version has after a store that failed like this.
    async fn value_after(&self, error: &SecretsManagerError) -> Option<Version> {
        // There is another value, and a read may not see it yet.
        let mut pauses = STALE_VIEW_PAUSES.iter().filter(|_| error.is("ResourceExistsException"));
        loop {
            let version = self.pending().await.ok().flatten();
            match pauses.next() {
                Some(&pause) if version.is_none() && self.invocation.session.budget.pause(pause).await => {}
                _ => return version,
            }
        }
    }

    /// The version has another value than ours. Our key is superfluous, unless minting it, or what came before, has put the winner's in
    /// its grace period.
    async fn lose_to_twin(
        &self,
        version: Version,
        winner: Option<Credential>,
        minted: Minted,
        tried: &mut Tried,
    ) -> Stored {
        // Without its id nothing is proven; the sweep after the promotion takes care of ours.
        let winner = winner.and_then(|winner| winner.key_id);
        if winner.is_none_or(|winner| winner == minted.id || tried.rotated_at(&winner).is_some()) {
            tried.not_stored = Some(minted.id);
        } else {
            match self.revoke_unless_held(&minted.id).await {
                Ok(_) => info!("another execution was faster"),
                Err(error) => warn!(%error, "a superfluous key could not be revoked yet"),
            }
        }
        Stored::ByTwin(version)
    }

    /// Revokes a key of this replacement that is not needed any more, unless a labelled version holds it by now. Whether it did. What was not
    /// done here the sweep does.
    async fn revoke_unless_held(&self, id: &KeyId) -> Result<bool, RotationError> {
        let (session, current) = (&self.invocation.session, &self.task.current);
        let description = session.function.secrets_manager.describe(&session.budget, session.secret).await;
        let description = description.map_err(|error| session.aws_failed(&error))?;
        if id.is_among(&session.held_key_ids(&description, &[current]).await?) {
            return Ok(false);
        }
        session.revoke(&current.account, id, &self.authority).await.map_err(|error| {
            session.kosli_failed(&error, self.authority.role, &format!("revoking the superfluous key {id}"))
        })?;
        info!(key_id = %id, "revoked a key that no version holds");
        Ok(true)
    }

    fn store_failed(&self, id: &KeyId, error: &SecretsManagerError) -> RotationError {
        let secret = self.invocation.session.secret;
        let what = format!("The new key {id} could not be stored: {error}.");
        let action = if error.repeat_after().is_some() {
            try_again(secret)
        } else {
            let allow = self.invocation.session.aws_failed(error);
            format!("{} Then rotate again ({}).", allow.action(), by_hand::rotate(secret))
        };
        RotationError::after(Change::KeyLost(id.clone()), ErrorKind::StoreFailed, what, action)
    }

    /// Notices when Kosli has changed the expiry that carries the mark, and names the keys that may then be ours unseen.
    fn check_marker(&self, minted: &Minted, expires_at: u64, listing: &Listing) -> Vec<String> {
        if minted.expires_at.is_none_or(|answered| answered == expires_at) {
            return Vec::new();
        }
        let (current, tally) = (&self.task.current, &self.invocation.session.tally);
        count(&tally.marker_changed);
        warn!(sent = expires_at, answered = minted.expires_at, "Kosli changed the expiry of the new key");
        let current_entry = listing.entry(current.key_id.as_ref());
        listing
            .keys
            .iter()
            .filter(|key| key.id != minted.id && !key.is(current.key_id.as_ref()))
            .filter(|key| key.last_used_at.is_none() && key.created_at + CLOCK_TOLERANCE >= current.created)
            .filter(|key| may_succeed(current_entry, key))
            .map(|key| {
                count(&tally.suspected_orphans);
                warn!(key_id = %key.id, "a key that may have been minted here was left alone");
                format!(
                    "Kosli changed the expiry of the new key, so lost keys cannot be recognized. The key {} was never used and \
                     may be one: it was not touched. Revoke it if it is not in use ({}).",
                    key.id,
                    by_hand::revoke_keys([&key.id], &current.account, self.invocation.session.host())
                )
            })
            .collect()
    }
}
