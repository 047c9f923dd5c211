//! One mint: whether there is time for it, how it is sent, and how it is looked for where its outcome is unclear.

use std::time::Duration;

use tracing::info;

use super::plan::Plan;
use super::{Replacement, mint_unclear};
use crate::error::{ErrorKind, RotationError};
use crate::kosli::{KosliError, LONGEST_MINT, Listing, MintAnswer, SHORTEST_MINT};
use crate::marker::Attempt;
use crate::rotation::failures::TRY_AGAIN;
use crate::secrets_manager::STORE_RESERVE;

/// The pauses before each look for a key whose mint had an unclear outcome: its effect may come seconds after the client gave
/// up.
const LOOK_PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(3), Duration::from_secs(4)];

impl Replacement<'_> {
    /// Attempt bits that no key on the account carries, and none of this execution's that may be there.
    pub(super) fn fresh_attempt(&self, listing: &Listing) -> Attempt {
        let mut seen = self.unclear.clone();
        seen.extend(listing.keys.iter().filter_map(|key| self.marks.attempt_of(key)));
        Attempt::fresh(&seen)
    }

    /// Sends one mint. The outer error means that it was not sent.
    pub(super) async fn mint(
        &mut self,
        plan: &Plan,
        attempt: Attempt,
        listing: &Listing,
    ) -> Result<Result<(MintAnswer, u64), KosliError>, RotationError> {
        let budget = &self.invocation.session.budget;
        let remaining = budget.remaining();
        if remaining < SHORTEST_MINT + STORE_RESERVE {
            return Err(RotationError::before_any_change(
                ErrorKind::OutOfTime,
                format!(
                    "{} s of this invocation were left, and minting and storing a key takes up to {} s.",
                    remaining.as_secs(),
                    (SHORTEST_MINT + STORE_RESERVE).as_secs()
                ),
                format!("Set the function's time-out to 90 s. {TRY_AGAIN}"),
            ));
        }
        let limit = LONGEST_MINT.min(remaining - STORE_RESERVE);
        let life = self.policy.life();
        let Some(mark) = self.marks.new_key() else { return Ok(Err(KosliError::NotSent("no mark".to_owned()))) };
        let expires_at = mark.expires_at(attempt, listing.at, life);
        let kosli = self.invocation.session.kosli(&self.authority.key);
        let account = &self.current.account;
        let answer = match plan {
            Plan::Rotate { id, grace_period_hours, head } => {
                info!(key_id = %id, grace_period_hours, expires_at, lost = head, "rotating a key");
                let answer = kosli.rotate(limit, account, id, *grace_period_hours, expires_at).await;
                if !head && !matches!(answer, Err(KosliError::Refused { .. } | KosliError::NotSent(_))) {
                    self.note_current_key_dies(budget.now() + self.policy.grace(), listing);
                }
                answer
            }
            Plan::Create { description, .. } => {
                info!(expires_at, "creating a key");
                kosli.create(limit, account, description, expires_at).await
            }
            Plan::LeaveToTwin { .. } => return Ok(Err(KosliError::NotSent("left to a twin".to_owned()))),
        };
        Ok(answer.map(|answer| (answer, expires_at)))
    }

    /// Looks for a key whose mint had an unclear outcome, for long enough that a late effect is seen.
    pub(super) async fn look(&self) -> Result<Listing, RotationError> {
        let mut last = None;
        for pause in LOOK_PAUSES {
            if !self.invocation.session.budget.pause(pause).await {
                return Err(mint_unclear("there is no time left to look for it"));
            }
            let listing = self.list().await;
            if let Ok(listing) = &listing
                && listing
                    .keys
                    .iter()
                    .filter_map(|key| self.marks.attempt_of(key))
                    .any(|attempt| self.unclear.contains(&attempt))
            {
                return Ok(listing.clone());
            }
            last = Some(listing);
        }
        // Only a list that came after the whole wait says that nothing was minted.
        match last {
            Some(Ok(listing)) => Ok(listing),
            _ => Err(mint_unclear("the keys of the account cannot be listed")),
        }
    }
}
