//! `createSecret`: mint the new key and store it, once.

use tracing::info;

use super::credential::{Credential, KEY_ID_LABEL};
use super::failures::{Role, current_unreadable, pending_dead, pending_is_current};
use super::invocation::{Invocation, Needs, Outcome, StepAnswer, View};
use super::replacement::{Minter, Stored};
use super::requirements::{identified, seen_at_kosli};
use super::session::ACCEPTANCE_PAUSES;
use crate::by_hand;
use crate::clock::rfc3339;
use crate::error::{ErrorKind, RotationError};
use crate::event::{SecretId, VersionId};
use crate::kosli::Acceptance;
use crate::secrets_manager::{CURRENT, Description, MOST_LABELS, PENDING, PREVIOUS, Version};
use crate::staging::Standing;

/// Runs the step.
///
/// Everything that can be checked is checked before the mint (promise I2): labels, documents, tags, permitted accounts, whether
/// the current key works and where it stands on the account, room for labels and value, and time.
pub(super) async fn create_secret(invocation: &Invocation<'_>) -> Result<StepAnswer, RotationError> {
    let needs = Needs { current: true, previous: true, admin: true, pending_value: false };
    let view = invocation.observe(needs).await?;
    if matches!(view.standing, Standing::Current { .. }) {
        return Ok(invocation.answer(Outcome::AlreadyCurrent));
    }
    if !view.description.rotation_enabled {
        return Err(RotationError::before_any_change(
            ErrorKind::RotationNotEnabled,
            "Rotation is not switched on for this secret.",
            format!(
                "Switch it on with {}.",
                by_hand::switch_on(invocation.session.secret, invocation.session.function_arn)
            ),
        ));
    }
    let with_death = invocation.with_death(&view);
    create(invocation, view).await.map_err(with_death)
}

async fn create(invocation: &Invocation<'_>, view: View) -> Result<StepAnswer, RotationError> {
    let View { description, pending, current, previous, admin, .. } = view;
    let Some(current) = current else {
        return Err(current_unreadable(None, invocation.version_id(), invocation.session.secret));
    };
    if let Some(pending) = pending {
        // The mint is behind us: neither a tag that was changed since nor the admin secret stands in the way of what it brought.
        let current = Credential::parse(&current, &description, CURRENT)?;
        invocation.session.permit(&current.account)?;
        return already_created(invocation, &current, &pending, &description).await;
    }
    let (policy, mut current) = identified(&invocation.session, &description, &current, invocation.version_id())?;
    let admin = admin?;
    let stale_labels = check_room(&current, &description)?;

    // A previous version that does not parse is ignored: it is only looked at to learn more, never to act on it.
    let previous = previous.and_then(|version| Credential::parse(&version, &description, PREVIOUS).ok());
    previous.iter().for_each(|previous| current.learn_key_id(previous));
    if let Some(previous) = &previous
        && tag_may_be_stale(invocation, &current, previous).await?
    {
        current.key_id = None;
    }
    let authority = invocation.session.authority(admin, current.key(), Role::Current);
    let (acceptance, listing) = seen_at_kosli(&invocation.session, &current, &authority).await?;
    let alive = acceptance == Acceptance::Accepted;
    let minter = Minter::new(invocation, &description, current, previous, authority, alive, policy);
    let stored = minter.mint_and_store(listing, &stale_labels).await?;
    match stored {
        Stored::Ours(made) => {
            info!(key_id = %made.id, how = made.how.word(), "the new key is stored under AWSPENDING");
            Ok(StepAnswer {
                key_id: Some(made.id.to_string()),
                replaced_key_id: made.replaced.as_ref().map(ToString::to_string),
                current_key_dies_at: made.current_key_dies.map(rfc3339),
                revoked_key_ids: made.revoked.iter().map(ToString::to_string).collect(),
                warnings: made.warnings,
                ..invocation.answer(made.how)
            })
        }
        Stored::ByTwin(version) => already_created(invocation, &minter.task.current, &version, &description).await,
    }
}

/// Whether the tag with the key id may name the key of the version before: nothing but the tag names an id, and that version
/// holds another key of the account which still works. A placeholder that was put in first is no such key.
async fn tag_may_be_stale(
    invocation: &Invocation<'_>,
    current: &Credential,
    previous: &Credential,
) -> Result<bool, RotationError> {
    if !current.key_id_from_tag || previous.account != current.account {
        return Ok(false);
    }
    // A field was edited, so the first version, which the tag was written for, is out of sight.
    if previous.key().same(current.key()) {
        return Ok(true);
    }
    let accepted = invocation.session.accepts(&previous.account, previous.key(), "the previous key", &[]).await?;
    Ok(accepted == Acceptance::Accepted)
}

/// The pending version has a value: from an earlier attempt, from a twin, or from somebody else. It is proven, not believed.
async fn already_created(
    invocation: &Invocation<'_>,
    current: &Credential,
    pending: &Version,
    description: &Description,
) -> Result<StepAnswer, RotationError> {
    let pending = Credential::parse(pending, description, PENDING)?;
    pending.same_account_as(current, [PENDING, CURRENT])?;
    if pending.key().same(current.key()) {
        return Err(pending_is_current(invocation.session.secret, invocation.version_id()));
    }
    match invocation.session.accepts(&pending.account, pending.key(), "the pending key", &ACCEPTANCE_PAUSES).await? {
        Acceptance::Accepted => Ok(StepAnswer {
            key_id: pending.key_id.as_ref().map(|id| id.believed().to_string()),
            ..invocation.answer(Outcome::AlreadyCreated)
        }),
        Acceptance::Dead => Err(pending_dead(invocation.session.secret, invocation.version_id())),
    }
}

/// Which labels can be removed before the mint, and whether there is room for the new version then (promise I2).
///
/// # Errors
/// [`ErrorKind::NoRoom`], when there is not.
pub fn check_room(current: &Credential, description: &Description) -> Result<Vec<(VersionId, String)>, RotationError> {
    if !current.document.has_room() {
        return Err(RotationError::before_any_change(
            ErrorKind::NoRoom,
            "The secret's value leaves less than 1 KiB of Secrets Manager's 64 KiB for the new key.",
            "Shorten the value. Nothing was minted.",
        ));
    }
    let in_use = |labels: &[String]| labels.iter().any(|label| matches!(label.as_str(), CURRENT | PENDING | PREVIOUS));
    let stale: Vec<(VersionId, String)> = description
        .versions
        .iter()
        .filter(|(_, labels)| !in_use(labels))
        .flat_map(|(version, labels)| labels.iter().map(|label| (version.clone(), label.clone())))
        .filter(|(_, label)| label.starts_with(KEY_ID_LABEL))
        .collect();
    let labels: usize = description.versions.values().map(Vec::len).sum();
    // The promotion attaches AWSPREVIOUS where there is none yet.
    let to_come =
        usize::from(!current.document.has_key_id_field()) + usize::from(description.holder(PREVIOUS).is_none());
    if labels - stale.len() + to_come > MOST_LABELS {
        return Err(RotationError::before_any_change(
            ErrorKind::NoRoom,
            format!("The secret has {labels} staging labels, and Secrets Manager allows {MOST_LABELS}."),
            format!(
                "Remove labels of your own from its versions ({} shows them, update-secret-version-stage removes them). Nothing \
                 was minted.",
                by_hand::show_labels(&SecretId::trusted(&description.arn))
            ),
        ));
    }
    Ok(stale)
}
