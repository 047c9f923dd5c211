//! `finishSecret`: promote the proven key, then clean up, and be reachable for the clean-up when called again.

use std::time::Duration;

use tracing::info;

use super::clean_up::{Promoted, Replaced, clean_up};
use super::credential::Credential;
use super::failures::{current_unreadable, pending_dead, pending_is_current, pending_value_missing, try_again};
use super::invocation::{Invocation, Needs, Outcome, StepAnswer, View};
use super::session::{ACCEPTANCE_PAUSES, Session};
use crate::budget::Repeatable;
use crate::error::{ErrorKind, RotationError};
use crate::event::VersionId;
use crate::kosli::Acceptance;
use crate::secrets_manager::{CURRENT, PENDING};
use crate::staging::Standing;

/// How often the move of `AWSCURRENT` is tried.
const PROMOTION_ATTEMPTS: usize = 4;

/// Runs the step.
pub(super) async fn finish_secret(invocation: &Invocation<'_>) -> Result<StepAnswer, RotationError> {
    let needs = Needs { current: true, admin: true, pending_value: true, previous: false };
    let view = invocation.observe(needs).await?;
    let version = view.pending.as_ref().ok_or_else(|| pending_value_missing(invocation.session.secret))?;
    let (policy, unreadable) = invocation.session.function.config.policy.with_readable_tags(&view.description.tags);
    let mut answer = match &view.standing {
        Standing::Current { previous } => {
            let new = Credential::parse(version, &view.description, CURRENT)?;
            invocation.session.permit(&new.account)?;
            let answer = invocation.answer(Outcome::AlreadyCurrent);
            let replaced = Replaced::Previous(previous.clone());
            clean_up(invocation, Promoted { view: &view, new, replaced, policy }, answer).await?
        }
        Standing::Pending { current } => {
            let with_death = invocation.with_death(&view);
            let pending = Credential::parse(version, &view.description, PENDING).map_err(&with_death)?;
            let replaced = prove(invocation, &view, &pending).await.map_err(&with_death)?;
            promote(invocation, current).await.map_err(&with_death)?;
            info!(version_id = %invocation.version_id(), "AWSCURRENT moved to the new version");
            let answer = invocation.answer(Outcome::Promoted);
            let replaced = Replaced::Seen(replaced);
            clean_up(invocation, Promoted { view: &view, new: pending, replaced, policy }, answer).await?
        }
    };
    answer.warnings.extend(unreadable.iter().map(|tag| {
        format!("The tag {tag} is malformed: the function's own setting (or the one that leaves the old key its grace) was used.")
    }));
    Ok(answer)
}

/// Proves the pending version right before `AWSCURRENT` moves to it: another key than the current one, of the same account, and
/// Kosli accepts it. The current version, parsed, comes back.
async fn prove(invocation: &Invocation<'_>, view: &View, pending: &Credential) -> Result<Credential, RotationError> {
    let current = view
        .current
        .as_ref()
        .ok_or_else(|| current_unreadable(None, invocation.version_id(), invocation.session.secret))?;
    // The tag with the key id was checked before the mint; what became of it since must not block the promotion.
    let current = Credential::parse_replaced(current, &view.description, invocation.version_id(), CURRENT)
        .or_else(|_| Credential::parse(current, &view.description, CURRENT))?;
    pending.same_account_as(&current, [PENDING, CURRENT])?;
    invocation.session.permit(&pending.account)?;
    if pending.key().same(current.key()) {
        return Err(pending_is_current(invocation.session.secret, invocation.version_id()));
    }
    let accepted = invocation
        .session
        .accepts(&pending.account, pending.key(), "the key under AWSPENDING", &ACCEPTANCE_PAUSES)
        .await?;
    match accepted {
        Acceptance::Accepted => Ok(current),
        Acceptance::Dead => Err(pending_dead(invocation.session.secret, invocation.version_id())),
    }
}

/// Moves `AWSCURRENT`: the one write of this step, a compare-and-swap with both version ids. `AWSPENDING` is left to Secrets
/// Manager; taking it off in a second call "can indicate to Secrets Manager that the rotation did not complete".
/// Source: <https://docs.aws.amazon.com/secretsmanager/latest/userguide/rotate-secrets_lambda-functions.html>
async fn promote(invocation: &Invocation<'_>, current: &VersionId) -> Result<(), RotationError> {
    let Session { function, budget, secret, .. } = &invocation.session;
    let manager = &function.secrets_manager;
    let version_id = invocation.version_id();
    for attempt in 1.. {
        let Err(error) = manager.promote(budget, secret, version_id, current).await else { return Ok(()) };
        // Whatever the answer was, the labels tell what happened.
        let description =
            manager.describe(budget, secret).await.map_err(|error| invocation.session.aws_failed(&error))?;
        match description.holder(CURRENT) {
            Some(holder) if holder == version_id => return Ok(()),
            Some(holder) if holder != current => {
                return Err(RotationError::before_any_change(
                    ErrorKind::CurrentMoved,
                    format!("AWSCURRENT moved from the version {current} to {holder} while this step ran."),
                    format!(
                        "Somebody changed the secret. This rotation's key is not promoted over it. {}",
                        try_again(secret)
                    ),
                ));
            }
            _ => {}
        }
        let backoff = Duration::from_millis(500) * attempt;
        if error.repeat_after().is_none() || attempt as usize >= PROMOTION_ATTEMPTS || !budget.pause(backoff).await {
            return Err(invocation.session.aws_failed(&error));
        }
    }
    Ok(())
}
