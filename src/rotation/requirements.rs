//! What a rotation needs beside a version to fill: `createSecret` asks for it before the mint, and `testSecret` where it is called alone,
//! as a test of the configuration. One place, so that the test gives the error that the rotation would give.

use super::credential::Credential;
use super::failures::Role;
use super::session::{Authority, DEATH_PAUSES, Session};
use crate::config::Policy;
use crate::error::RotationError;
use crate::event::VersionId;
use crate::kosli::{Acceptance, Listing};
use crate::secrets_manager::{CURRENT, Description, Version};

/// The version under `AWSCURRENT`, with whose key it is: it is named, and permitted, and the tags are well-formed. Nothing is sent.
pub(super) fn identified(
    session: &Session<'_>,
    description: &Description,
    current: &Version,
    version_id: &VersionId,
) -> Result<(Policy, Credential), RotationError> {
    let policy = session.function.config.policy.with_tags(&description.tags)?;
    let current = Credential::parse_replaced(current, description, version_id, CURRENT)?;
    session.permit(&current.account)?;
    Ok((policy, current))
}

/// Whether Kosli accepts the current key, and the account's keys, asked for side by side.
///
/// # Errors
/// It cannot be told, or the authority does not work or may not list.
pub(super) async fn seen_at_kosli(
    session: &Session<'_>,
    current: &Credential,
    authority: &Authority,
) -> Result<(Acceptance, Listing), RotationError> {
    let (acceptance, listing) = tokio::join!(
        session.accepts(&current.account, current.key(), "the current key", &DEATH_PAUSES),
        session.list(&current.account, authority),
    );
    match (acceptance?, listing) {
        // In self-rotation a dead key can do nothing, the list included: the incident, in words of its own.
        (Acceptance::Dead, Err(_)) if authority.role == Role::Current => Err(session.dead_without_admin(current)),
        (acceptance, listing) => Ok((acceptance, listing?)),
    }
}
