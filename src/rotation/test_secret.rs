//! `testSecret`: authenticate with the new key, and nothing else. Called alone it tests the configuration.

use secrecy::ExposeSecret;

use super::credential::Credential;
use super::failures::{current_key_dead, no_value, pending_dead};
use super::invocation::{Invocation, Needs, Outcome, StepAnswer, View};
use super::requirements::{authorized, identified, seen_at_kosli};
use super::session::ACCEPTANCE_PAUSES;
use crate::document::Document;
use crate::error::RotationError;
use crate::kosli::Acceptance;
use crate::secrets_manager::{CURRENT, Description, PENDING, Version, Which};
use crate::staging::Standing;

/// Runs the step (the design's decision 12).
///
/// It is also called alone, when rotation is configured with `RotateImmediately=false`: `AWSPENDING` is then a copy of
/// `AWSCURRENT`, or has no value at all. There is no new key then, and the step tests what a rotation would need, before any reader
/// depends on it. In a rotation nothing is asked of the new key but that it works: that `AWSCURRENT` cannot be read is no reason to
/// fail.
pub(super) async fn test_secret(invocation: &Invocation<'_>) -> Result<StepAnswer, RotationError> {
    let (view, current) = tokio::join!(
        invocation.observe(Needs { pending_value: true, ..Needs::default() }),
        invocation.session.read(Which::Label(CURRENT)),
    );
    let view = view?;
    let is_current = matches!(view.standing, Standing::Current { .. });
    match &view.pending {
        Some(version) if is_current => authenticate(invocation, &view, version, CURRENT).await,
        Some(version) if !current.as_ref().is_ok_and(|current| is_copy(version, current.as_ref())) => {
            authenticate(invocation, &view, version, PENDING).await.map_err(invocation.with_death(&view))
        }
        pending => {
            let tested = test_configuration(invocation, &view.description, current).await;
            // A copy of the current key is no successor of it; for a version without a value one may have been minted, and be lost.
            match (tested, pending) {
                (Err(error), None) => Err(invocation.naming_death(error, &view.description).await),
                (tested, _) => tested,
            }
        }
    }
}

/// Whether a version holds the very value, or the very key, of the current one. That is another version: one that was promoted a moment
/// ago is no copy of itself.
fn is_copy(version: &Version, current: Option<&Version>) -> bool {
    let current = current.filter(|current| current.id != version.id);
    let value = |version: &Version| version.value.clone();
    let (Some(version), Some(current)) = (value(version), current.and_then(value)) else { return false };
    let same_value = version.expose_secret() == current.expose_secret();
    let keys = (Document::parse(version), Document::parse(current));
    same_value || matches!(keys, (Ok(version), Ok(current)) if version.key().same(current.key()))
}

/// Authenticates with the event's version, which carries this label.
async fn authenticate(
    invocation: &Invocation<'_>,
    view: &View,
    version: &Version,
    label: &str,
) -> Result<StepAnswer, RotationError> {
    let session = &invocation.session;
    let credential = Credential::parse(version, &view.description, label)?;
    session.permit(&credential.account)?;
    let whose = format!("the key under {label}");
    match session.accepts(&credential.account, credential.key(), &whose, &ACCEPTANCE_PAUSES).await? {
        Acceptance::Accepted => Ok(invocation.answer(Outcome::Tested)),
        Acceptance::Dead if label == PENDING => Err(pending_dead(session.secret, invocation.version_id())),
        Acceptance::Dead => Err(current_key_dead(session.secret)),
    }
}

/// Tests the current key, and what a rotation would need: the error is the one that `createSecret` would give.
async fn test_configuration(
    invocation: &Invocation<'_>,
    description: &Description,
    current: Result<Option<Version>, RotationError>,
) -> Result<StepAnswer, RotationError> {
    let session = &invocation.session;
    let current = current?.ok_or_else(|| no_value(session.secret))?;
    let (_, current) = identified(session, description, &current, invocation.version_id())?;
    let admin = session.admin_key(true).await?;
    let authority = authorized(session, description, &current, admin)?;
    let (acceptance, listing) = seen_at_kosli(session, &current, &authority, |_| ()).await?;
    let id = session.proven_id(&current, Some(&listing)).await?;
    if acceptance == Acceptance::Dead {
        return Err(current_key_dead(session.secret));
    }
    Ok(StepAnswer { key_id: id.map(|id| id.to_string()), ..invocation.answer(Outcome::TestedCurrent) })
}
