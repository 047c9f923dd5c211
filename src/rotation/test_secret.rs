//! `testSecret`: authenticate, and nothing else.

use super::credential::Credential;
use super::failures::pending_dead;
use super::invocation::{Invocation, Needs, Outcome, StepAnswer, View};
use super::session::ACCEPTANCE_PAUSES;
use crate::by_hand;
use crate::error::{ErrorKind, RotationError};
use crate::event::SecretId;
use crate::kosli::Acceptance;
use crate::secrets_manager::{CURRENT, PENDING, Which};

/// Runs the step.
///
/// It is also called alone, when rotation is configured with `RotateImmediately=false`: `AWSPENDING` is then a copy of
/// `AWSCURRENT`, or has no value at all. So nothing is asked of the pending key but that it works, and where there is none,
/// the current key is tested.
pub(super) async fn test_secret(invocation: &Invocation<'_>) -> Result<StepAnswer, RotationError> {
    let view = invocation.observe(Needs { pending_value: true, ..Needs::default() }).await?;
    authenticate(invocation, &view).await.map_err(invocation.with_death(&view))
}

async fn authenticate(invocation: &Invocation<'_>, view: &View) -> Result<StepAnswer, RotationError> {
    let of_current;
    let (version, role) = match &view.pending {
        Some(version) => (version, PENDING),
        None => {
            of_current = invocation
                .session
                .read(Which::Label(CURRENT))
                .await?
                .ok_or_else(|| no_value(invocation.session.secret))?;
            (&of_current, CURRENT)
        }
    };
    let credential = Credential::parse(version, &view.description, role)?;
    invocation.session.permit(&credential.account)?;
    let whose = if role == PENDING { "the key under AWSPENDING" } else { "the key under AWSCURRENT" };
    match invocation.session.accepts(&credential.account, credential.key(), whose, &ACCEPTANCE_PAUSES).await? {
        Acceptance::Accepted => Ok(StepAnswer {
            key_id: credential.key_id.as_ref().map(ToString::to_string),
            ..invocation.answer(if role == PENDING { Outcome::Tested } else { Outcome::TestedCurrent })
        }),
        Acceptance::Dead if role == PENDING => Err(pending_dead(invocation.session.secret, invocation.version_id())),
        Acceptance::Dead => Err(RotationError::before_any_change(
            ErrorKind::CurrentKeyDead,
            "Kosli does not accept the key under AWSCURRENT: it was revoked or has expired.",
            "Put a working key into the secret, or rotate with an admin key (KOSLI_ADMIN_SECRET_ID).",
        )),
    }
}

fn no_value(secret: &SecretId) -> RotationError {
    RotationError::before_any_change(
        ErrorKind::NoCurrentValue,
        "Neither the version under AWSPENDING nor the one under AWSCURRENT has a value.",
        format!("Put the first key in ({}).", by_hand::put_value(secret)),
    )
}
