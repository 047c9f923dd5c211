//! What a rotation needs beside a version to fill: `createSecret` asks for it before the mint, and `testSecret` where it is called alone,
//! as a test of the configuration. One place, so that the test gives the error that the rotation would give.

use super::credential::Credential;
use super::failures::Role;
use super::session::{AdminKey, Authority, DEATH_PAUSES, Session};
use crate::config::Policy;
use crate::error::{ErrorKind, RotationError};
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

/// The key that makes the calls for a replacement: the admin key, or in self-rotation the current key itself.
///
/// # Errors
/// The admin key *is* the current one, in a secret of its own: it would die with the grace period, and with it every rotation of the
/// function.
pub(super) fn authorized(
    session: &Session<'_>,
    description: &Description,
    current: &Credential,
    admin: Option<AdminKey>,
) -> Result<Authority, RotationError> {
    if let Some(admin) = admin.as_ref().filter(|admin| admin.is_rotated_elsewhere(&description.arn, current.key())) {
        return Err(RotationError::before_any_change(
            ErrorKind::InvalidAdminSecret,
            format!(
                "The admin secret {} holds the very key that this secret holds: a rotation would end it, and then this function could \
                 rotate nothing.",
                admin.secret_arn
            ),
            "Put a key of its own into the admin secret, then rotate again. Nothing was minted.",
        ));
    }
    Ok(session.authority(admin, current.key(), Role::Current))
}

/// Whether Kosli accepts the current key, and the account's keys, asked for side by side. `listed` is told of the list, whatever became
/// of the rest.
///
/// # Errors
/// It cannot be told, or the authority does not work or may not list.
pub(super) async fn seen_at_kosli(
    session: &Session<'_>,
    current: &Credential,
    authority: &Authority,
    listed: impl FnOnce(&Listing),
) -> Result<(Acceptance, Listing), RotationError> {
    let (acceptance, listing) = tokio::join!(
        session.accepts(&current.account, current.key(), "the current key", &DEATH_PAUSES),
        session.list(&current.account, authority),
    );
    if let Ok(listing) = &listing {
        listed(listing);
    }
    match (acceptance?, listing) {
        // In self-rotation a dead key can do nothing, the list included: the incident, in words of its own.
        (Acceptance::Dead, Err(_)) if authority.role == Role::Current => {
            // Unless key and id are swapped.
            session.proven_id(current, None).await?;
            Err(session.dead_without_admin(current))
        }
        (acceptance, listing) => Ok((acceptance, listing?)),
    }
}
