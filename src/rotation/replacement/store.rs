//! The store of a minted key: whether it is this execution's that counts, and what becomes of the lost and the superfluous.

use tracing::{info, warn};

use super::plan::Plan;
use super::{Made, Replacement, Stored};
use crate::clock::rfc3339;
use crate::error::{Change, ErrorKind, RotationError};
use crate::identity::KeyId;
use crate::kosli::{KosliError, Listing, Minted};
use crate::metrics::count;
use crate::rotation::credential::{Credential, KEY_ID_LABEL};
use crate::rotation::failures::TRY_AGAIN;
use crate::rotation::invocation::{Invocation, Outcome, STALE_VIEW_PAUSES};
use crate::rotation::marks::{CLOCK_TOLERANCE, may_succeed};
use crate::secrets_manager::{NewValue, SecretsManagerError, Version, Which};

impl Replacement<'_> {
    /// Stores a new key, and nothing comes between the mint and this.
    pub(super) async fn store(
        &mut self,
        minted: Minted,
        expires_at: u64,
        plan: &Plan,
        listing: &Listing,
    ) -> Result<Stored, RotationError> {
        let Invocation { session, event } = self.invocation;
        let rotation_token = event.rotation_token.as_ref();
        let version_id = self.invocation.version_id();
        if let (Plan::Rotate { head: false, .. }, Some(at)) = (plan, minted.grace_period_expires_at) {
            self.current_key_dies = Some(at);
        }
        let value = self.current.document.with_key(&minted.key, &minted.id);
        let label = (!self.current.document.has_key_id_field()).then(|| format!("{KEY_ID_LABEL}{}", minted.id));
        let new = NewValue { text: &value, key: &minted.key, label: label.as_deref() };
        let manager = &session.function.secrets_manager;
        let stored = manager.store(&session.budget, session.secret, version_id, rotation_token, &new).await;
        if let Err(error) = stored {
            // The answer may have been lost, or another execution may have been faster: only the version itself tells.
            let mut version = self.invocation.session.read(Which::Id(version_id)).await.ok().flatten();
            // There is another value, and a read may not see it yet.
            let mut pauses = STALE_VIEW_PAUSES.iter().filter(|_| error.is("ResourceExistsException"));
            while version.is_none()
                && let Some(&pause) = pauses.next()
                && self.invocation.session.budget.pause(pause).await
            {
                version = self.invocation.session.read(Which::Id(version_id)).await.ok().flatten();
            }
            let Some(version) = version else { return Err(self.store_failed(minted.id, &error)) };
            let winner = Credential::parse(&version, self.description, "AWSPENDING").ok();
            if winner.as_ref().is_none_or(|winner| !winner.key().same(&minted.key)) {
                return self.lose_to_twin(version, winner, &minted, plan).await;
            }
        }
        let tally = &session.tally;
        count(&tally.minted);
        let mut warnings = self.check_marker(&minted, expires_at, listing);
        let mut revoked = Vec::new();
        let (how, replaced) = match plan {
            Plan::Rotate { id, head: true, .. } => {
                // It has been replaced, so nobody needs it any more; where that fails, the sweep does it.
                match self.revoke(id, &minted.id).await {
                    Ok(true) => revoked.push(id.clone()),
                    Ok(false) => {}
                    Err(error) => warnings.push(format!("The lost key {id} could not be revoked yet: {error}.")),
                }
                count(&tally.recovered);
                (Outcome::Recovered, self.current.key_id.clone())
            }
            Plan::Rotate { id, .. } => (Outcome::Rotated, Some(id.clone())),
            Plan::Create { beside, .. } => {
                if let Some(id) = beside {
                    let id = id.as_ref().map_or_else(|| "(unknown id)".to_owned(), ToString::to_string);
                    warnings.push(format!(
                        "Kosli refused to rotate the current key {id}, so a new key was created beside it: nobody ends the old \
                         one. Revoke it in Kosli when nobody uses it any more."
                    ));
                }
                (Outcome::Created, self.current.key_id.clone())
            }
            Plan::LeaveToTwin { .. } => (Outcome::Rotated, None),
        };
        Ok(Stored::Ours(Made {
            id: minted.id,
            how,
            replaced,
            current_key_dies: self.current_key_dies,
            revoked,
            warnings,
        }))
    }

    /// The version has another value than ours. Our key is superfluous, unless minting it has put the winner's in its grace
    /// period.
    async fn lose_to_twin(
        &self,
        version: Version,
        winner: Option<Credential>,
        minted: &Minted,
        plan: &Plan,
    ) -> Result<Stored, RotationError> {
        let Some(winner_id) = winner.and_then(|winner| winner.key_id) else {
            // Without its id nothing is proven; the sweep after the promotion takes care of ours.
            return Ok(Stored::ByTwin(version));
        };
        let rotated = match plan {
            Plan::Rotate { id, .. } => Some(id),
            _ => None,
        };
        if winner_id == minted.id || rotated == Some(&winner_id) {
            let at = minted.grace_period_expires_at.map_or_else(|| "soon".to_owned(), rfc3339);
            return Err(RotationError::after(
                Change::NotStored(minted.id.clone()),
                ErrorKind::PendingKeyDying,
                format!(
                    "Another execution stored the key {winner_id}, and this one has put that key in its grace period: it \
                     dies {at}."
                ),
                "Let this rotation end, then rotate once more at once (`aws secretsmanager rotate-secret`).",
            ));
        }
        match self.revoke(&minted.id, &winner_id).await {
            Ok(_) => info!(key_id = %minted.id, "another execution was faster: revoked the superfluous key"),
            Err(error) => warn!(key_id = %minted.id, %error, "a superfluous key could not be revoked yet"),
        }
        Ok(Stored::ByTwin(version))
    }

    /// Revokes a key of this replacement, never one that the current or the pending version holds.
    async fn revoke(&self, id: &KeyId, pending: &KeyId) -> Result<bool, KosliError> {
        if id == pending || self.current.key_id.as_ref() == Some(id) {
            return Ok(false);
        }
        let revoked = self.invocation.session.revoke(&self.current.account, id, &self.authority).await?;
        info!(key_id = %id, "revoked a key that nobody holds");
        Ok(revoked)
    }

    fn store_failed(&mut self, id: KeyId, error: &SecretsManagerError) -> RotationError {
        let what = format!("The new key {id} could not be stored: {error}.");
        let action = if error.is_unclear() {
            TRY_AGAIN.to_owned()
        } else {
            format!("{} Then rotate again.", self.invocation.session.aws_failed(error).action())
        };
        self.lost.push(id);
        RotationError::before_any_change(ErrorKind::StoreFailed, what, action)
    }

    /// Notices when Kosli has changed the expiry that carries the mark, and names the keys that may then be ours unseen.
    fn check_marker(&self, minted: &Minted, expires_at: u64, listing: &Listing) -> Vec<String> {
        if minted.expires_at.is_none_or(|answered| answered == expires_at) {
            return Vec::new();
        }
        count(&self.invocation.session.tally.marker_changed);
        warn!(sent = expires_at, answered = minted.expires_at, "Kosli changed the expiry of the new key");
        let current_entry = self.current.key_id.as_ref().and_then(|id| listing.keys.iter().find(|key| key.id == *id));
        listing
            .keys
            .iter()
            .filter(|key| key.id != minted.id && self.current.key_id.as_ref() != Some(&key.id))
            .filter(|key| key.last_used_at.is_none() && key.created_at + CLOCK_TOLERANCE >= self.current.created)
            .filter(|key| may_succeed(current_entry, key))
            .map(|key| {
                count(&self.invocation.session.tally.suspected_orphans);
                warn!(key_id = %key.id, "a key that may have been minted here was left alone");
                format!(
                    "Kosli changed the expiry of the new key, so lost keys cannot be recognized. The key {} was never used and \
                     may be one: it was not touched. Revoke it in Kosli if nobody holds it.",
                    key.id
                )
            })
            .collect()
    }
}
