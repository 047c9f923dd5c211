//! `setSecret`: there is nothing to set, Kosli knows the key since it minted it. What remains is to look whose it is.

use super::credential::Credential;
use super::invocation::{Invocation, Needs, Outcome, StepAnswer, View};
use crate::error::RotationError;
use crate::secrets_manager::{PENDING, Version};
use crate::staging::Standing;

/// Runs the step: the pending value belongs to an account that is permitted. Whether that is the account of the current one as well
/// (confused deputy), `finishSecret` asks before it moves the label.
pub(super) async fn set_secret(invocation: &Invocation<'_>) -> Result<StepAnswer, RotationError> {
    let view = invocation.observe(Needs { pending_value: true, ..Needs::default() }).await?;
    if matches!(view.standing, Standing::Current { .. }) {
        return Ok(invocation.answer(Outcome::AlreadyCurrent));
    }
    let Some(pending) = &view.pending else { return Err(invocation.pending_value_missing(&view.description).await) };
    check(invocation, &view, pending).map_err(invocation.with_death(&view))?;
    Ok(invocation.answer(Outcome::Checked))
}

fn check(invocation: &Invocation<'_>, view: &View, pending: &Version) -> Result<(), RotationError> {
    let pending = Credential::parse(pending, &view.description, PENDING)?;
    invocation.session.permit(&pending.account)
}
