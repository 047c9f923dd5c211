//! Failures that several steps can meet, in words for the operator: one wording each.

use std::fmt;
use std::time::{Duration, SystemTime};

use reqwest::{StatusCode, Url};

use super::credential::Credential;
use crate::budget::{Repeatable, TEMPLATE_TIMEOUT};
use crate::by_hand;
use crate::config::Policy;
use crate::error::{Change, ErrorKind, RotationError};
use crate::event::{SecretId, VersionId};
use crate::identity::{Account, KeyId};
use crate::kosli::KosliError;
use crate::secrets_manager::{PENDING, SecretsManagerError, Version};

/// What to do about something that may pass.
pub(super) fn try_again(secret: &SecretId) -> String {
    format!("Secrets Manager tries the rotation again within its window; or call {}.", by_hand::rotate(secret))
}

/// Which key a call was made with: the first thing to know when Kosli refuses it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Role {
    Admin,
    Current,
    New,
}

impl Role {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Admin => "the admin key",
            Self::Current => "the secret's own key (self-rotation)",
            Self::New => "the new key (self-rotation)",
        }
    }
}

/// When the old key dies, seen from after the mint: the new version was made right after it.
pub(super) fn estimated_death(new_version_created: SystemTime, policy: Policy) -> SystemTime {
    new_version_created + policy.grace()
}

/// An error of Secrets Manager in words for the operator.
pub(super) fn aws_failed(error: &SecretsManagerError, secret: &SecretId) -> RotationError {
    let operation = error.operation();
    match error {
        // Throttling passes, as an outage does.
        _ if error.repeat_after().is_some() => RotationError::before_any_change(
            ErrorKind::SecretsManagerUnavailable,
            format!("Secrets Manager failed: {error}."),
            try_again(secret),
        ),
        _ if error.is_not_found() => RotationError::before_any_change(
            ErrorKind::SecretNotFound,
            format!("There is no secret {secret} ({error})."),
            "Check SecretId, account and region.",
        ),
        SecretsManagerError::Refused { code, message, .. } if code == "AccessDeniedException" => {
            access_denied(error, operation, message, secret)
        }
        _ => RotationError::before_any_change(
            ErrorKind::SecretsManagerRefused,
            format!("Secrets Manager refused a call: {error}."),
            "Correct what it names, then rotate again.",
        ),
    }
}

/// A call that IAM or KMS denied. Of AWS's message only its own words count: what it quotes, a role's or a secret's name, may be
/// anything, but has no blank in it.
/// Source: <https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html>
fn access_denied(error: &SecretsManagerError, operation: &str, message: &str, secret: &SecretId) -> RotationError {
    let named = message.split_once("is not authorized to perform: ").map(|(_, rest)| rest);
    let action = named.and_then(|rest| rest.split_whitespace().next()).filter(|action| is_action(action));
    let kms = "kms:Decrypt and kms:GenerateDataKey";
    let denied_by_kms = message.starts_with("Access to KMS is not allowed");
    let (what, permission, on) = match action {
        Some(action) if action.starts_with("kms:") => ("The secret's KMS key may not be used", action, "the key of "),
        Some(action) => ("The function's role lacks a permission", action, ""),
        None if denied_by_kms => ("The secret's KMS key may not be used", kms, "the key of "),
        None => ("The function's role lacks a permission", operation, ""),
    };
    let action = if message.contains(" with an explicit deny in ") {
        format!(
            "A policy denies {permission} on {on}{secret} explicitly: correct that policy; to allow it elsewhere does not help."
        )
    } else if message.contains(" because no VPC endpoint policy allows the ") {
        format!("Allow {permission} on {on}{secret} in the policy of the VPC endpoint.")
    } else {
        format!("Allow the function's role {permission} on {on}{secret}.")
    };
    RotationError::before_any_change(ErrorKind::SecretsManagerRefused, format!("{what}: {error}."), action)
}

/// Whether a text is the name of an action, such as `kms:Decrypt`.
fn is_action(text: &str) -> bool {
    let word = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    text.split_once(':').is_some_and(|(service, action)| word(service) && word(action))
}

/// The function's own time ran out while a service was asked.
pub(super) fn out_of_time(error: &impl fmt::Display, timeout: Duration, secret: &SecretId) -> RotationError {
    RotationError::before_any_change(
        ErrorKind::OutOfTime,
        format!("The invocation's time ran out: {error}."),
        format!("{}{}", longer(timeout), try_again(secret)),
    )
}

/// What to do about the function's time-out, if it is shorter than the template's, the little left out that passes before the handler
/// is called.
pub(super) fn longer(timeout: Duration) -> &'static str {
    if timeout < TEMPLATE_TIMEOUT - Duration::from_secs(2) { "Set the function's time-out to 90 s. " } else { "" }
}

/// An error of Kosli in words for the operator: which key, which call.
pub(super) fn kosli_failed(error: &KosliError, role: Role, call: &str, secret: &SecretId) -> RotationError {
    let what = format!("Kosli did not do what was asked ({call}, with {}): {error}.", role.name());
    match error {
        KosliError::Refused { status: StatusCode::UNAUTHORIZED, .. } if role == Role::Admin => {
            RotationError::before_any_change(
                ErrorKind::AdminKeyDead,
                format!(
                    "{what} Kosli does not accept the admin key: it was revoked, or it expired (every Kosli key does within a year)."
                ),
                "Put a working admin key into the secret that KOSLI_ADMIN_SECRET_ID names, then rotate again. The secret's own \
             key is not used in its place.",
            )
        }
        KosliError::Refused { status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, .. } => {
            RotationError::before_any_change(
                ErrorKind::KosliForbidden,
                what,
                match role {
                    Role::Admin => {
                        "Give the admin key's service account a role that may manage the keys of other accounts (Admin)."
                    }
                    _ => {
                        "A key that may not rotate itself (or not any more, in its grace period) needs an admin key: set \
                      KOSLI_ADMIN_SECRET_ID."
                    }
                },
            )
        }
        KosliError::Refused { status: StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS, .. }
        | KosliError::NotSent(_)
        | KosliError::Unclear(_) => {
            RotationError::before_any_change(ErrorKind::KosliUnavailable, what, try_again(secret))
        }
        KosliError::Refused { status: StatusCode::NOT_FOUND, .. } => RotationError::before_any_change(
            ErrorKind::KosliRefused,
            what,
            "Check organization, service account and KOSLI_HOST: on this host there may be no such account.",
        ),
        KosliError::Refused { .. } => RotationError::before_any_change(
            ErrorKind::KosliRefused,
            what,
            "Correct what Kosli names, then rotate again.",
        ),
    }
}

/// Whether a key is accepted cannot be told.
pub(super) fn acceptance_unknown(
    error: &KosliError,
    account: &Account,
    whose: &str,
    secret: &SecretId,
) -> RotationError {
    let what =
        format!("It is not known whether Kosli accepts {whose}: reading the environments of {}, {error}.", account.org);
    match error {
        KosliError::Refused { status, .. } if !matches!(status.as_u16(), 409 | 429) => {
            RotationError::before_any_change(
                if *status == StatusCode::FORBIDDEN { ErrorKind::KosliForbidden } else { ErrorKind::KosliRefused },
                what,
                "Check that the organization is right and that the service account may read its environments.",
            )
        }
        _ => RotationError::before_any_change(ErrorKind::KosliUnavailable, what, try_again(secret)),
    }
}

pub(super) fn current_unreadable(seen: Option<&Version>, holder: &VersionId, secret: &SecretId) -> RotationError {
    match seen {
        Some(_) => RotationError::before_any_change(
            ErrorKind::CurrentMoved,
            format!("AWSCURRENT was on the version {holder} and then on another one."),
            try_again(secret),
        ),
        None => RotationError::before_any_change(
            ErrorKind::NoCurrentValue,
            "The version under AWSCURRENT has no value.",
            format!("Put a key in ({}), then rotate again.", by_hand::put_value(secret)),
        ),
    }
}

/// The incident that this function cannot heal alone, with the steps to do by hand.
pub(super) fn dead_without_admin(current: &Credential, secret: &SecretId, host: &Url) -> RotationError {
    RotationError::before_any_change(
        ErrorKind::CurrentKeyDead,
        format!(
            "Kosli does not accept the key under AWSCURRENT ({}): it was revoked or has expired, and there is no admin key that \
             could make a new one.",
            current.account
        ),
        format!(
            "Make a key by hand for the service account {} ({}, or Kosli's web pages), put it with its id into the secret ({}), \
             then rotate ({}). With KOSLI_ADMIN_SECRET_ID set, the function does this itself.",
            current.account,
            by_hand::create_key(&current.account, host),
            by_hand::put_value(secret),
            by_hand::rotate(secret)
        ),
    )
}

/// The key that the secret's readers get is dead, and this step makes no other.
pub(super) fn current_key_dead(secret: &SecretId) -> RotationError {
    RotationError::before_any_change(
        ErrorKind::CurrentKeyDead,
        "Kosli does not accept the key under AWSCURRENT: it was revoked or has expired.",
        format!(
            "Put a working key into the secret ({}), or rotate with an admin key (KOSLI_ADMIN_SECRET_ID): {}.",
            by_hand::put_value(secret),
            by_hand::rotate(secret)
        ),
    )
}

/// No version has a value that could be tested.
pub(super) fn no_value(secret: &SecretId) -> RotationError {
    RotationError::before_any_change(
        ErrorKind::NoCurrentValue,
        "Neither the version under AWSPENDING nor the one under AWSCURRENT has a value.",
        format!("Put the first key in ({}).", by_hand::put_value(secret)),
    )
}

/// The two command lines that clear a pending version *with* a value and begin again.
fn begin_again(secret: &SecretId, version_id: &VersionId) -> String {
    let (clear, rotate) = (by_hand::remove_label(secret, PENDING, version_id), by_hand::rotate(secret));
    format!("Clear the pending version and begin again: {clear}, then {rotate}.")
}

/// The pending version holds the current key: a left-over of a configuration test.
pub(super) fn pending_is_current(secret: &SecretId, version_id: &VersionId) -> RotationError {
    RotationError::before_any_change(
        ErrorKind::PendingIsCurrent,
        "The version under AWSPENDING holds the current key: it is left over from a test of the configuration, or a person put its key \
         under AWSCURRENT by hand.",
        begin_again(secret, version_id),
    )
}

/// The pending version's key is dead for good.
pub(super) fn pending_dead(secret: &SecretId, version_id: &VersionId) -> RotationError {
    RotationError::before_any_change(
        ErrorKind::PendingKeyDead,
        "Kosli does not accept the key under AWSPENDING: it was revoked or has expired.",
        format!("{} {TRY_AGAIN_AFTERWARDS}", begin_again(secret, version_id)),
    )
}

/// The pending version's key is in a grace period.
pub(super) fn pending_key_dying(
    secret: &SecretId,
    version_id: &VersionId,
    id: Option<&KeyId>,
    how: &str,
) -> RotationError {
    let key = id.map_or_else(String::new, |id| format!(" {id}"));
    RotationError::before_any_change(
        ErrorKind::PendingKeyDying,
        format!("The key{key} under AWSPENDING works and is dying: {how}. A reader of it would be refused soon."),
        format!("{} {TRY_AGAIN_AFTERWARDS}", begin_again(secret, version_id)),
    )
}

/// The promoted key is in a grace period.
pub(super) fn promoted_key_dying(secret: &SecretId, how: &str) -> RotationError {
    RotationError::after(
        Change::Promoted,
        ErrorKind::PendingKeyDying,
        format!("The key under AWSCURRENT works and is dying: {how}. Nothing was revoked."),
        format!("Rotate at once: {}.", by_hand::rotate(secret)),
    )
}

/// Another key than the one that the pending version replaces is current, and it works.
pub(super) fn pending_superseded(secret: &SecretId, version_id: &VersionId, id: Option<&KeyId>) -> RotationError {
    let key = id.map_or_else(
        || "The key that the pending version holds".to_owned(),
        |id| format!("The key {id}, which the pending version holds,"),
    );
    RotationError::before_any_change(
        ErrorKind::PendingSuperseded,
        "The secret was changed while it was rotated: the version under AWSCURRENT holds another key than the one that \
             the version under AWSPENDING was made to replace, and Kosli accepts it. This rotation does not overwrite it.",
        format!(
            "To keep the key under AWSCURRENT: {} {key} then lives on, and no rotation ends it: revoke it in Kosli \
             once it is not used any more. {TRY_AGAIN_AFTERWARDS}",
            begin_again(secret, version_id)
        ),
    )
}

const TRY_AGAIN_AFTERWARDS: &str = "Trying this rotation again cannot succeed.";

/// The pending version has no value, long after it should have.
pub(super) fn pending_value_missing(secret: &SecretId) -> RotationError {
    RotationError::before_any_change(
        ErrorKind::PendingValueMissing,
        "The version under AWSPENDING has no value.",
        format!("Do not remove its label; createSecret fills it. {}", try_again(secret)),
    )
}
