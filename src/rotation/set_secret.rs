//! `setSecret`: there is nothing to set, Kosli knows the key since it minted it. What remains is the cross-check.

use super::credential::Credential;
use super::invocation::{Invocation, Needs, Outcome, StepAnswer, View};
use crate::error::RotationError;
use crate::secrets_manager::{CURRENT, PENDING, Version};
use crate::staging::Standing;

/// Runs the step: pending and current must belong to the same organization and service account (confused deputy).
pub(super) async fn set_secret(invocation: &Invocation<'_>) -> Result<StepAnswer, RotationError> {
    let view = invocation.observe(Needs { current: true, pending_value: true, ..Needs::default() }).await?;
    if matches!(view.standing, Standing::Current { .. }) {
        return Ok(invocation.answer(Outcome::AlreadyCurrent));
    }
    let Some(pending) = &view.pending else { return Err(invocation.pending_value_missing(&view.description).await) };
    let pending = cross_check(invocation, &view, pending).map_err(invocation.with_death(&view))?;
    Ok(StepAnswer { key_id: pending.key_id.as_ref().map(ToString::to_string), ..invocation.answer(Outcome::Checked) })
}

fn cross_check(invocation: &Invocation<'_>, view: &View, pending: &Version) -> Result<Credential, RotationError> {
    let pending = Credential::parse(pending, &view.description, PENDING)?;
    if let Some(current) = &view.current {
        let current = Credential::parse(current, &view.description, CURRENT)?;
        pending.same_account_as(&current, [PENDING, CURRENT])?;
    }
    invocation.session.permit(&pending.account)?;
    Ok(pending)
}
