//! Why a replacement stops, in words.

use std::time::Duration;

use reqwest::Url;

use crate::api_key::repeatable;
use crate::by_hand;
use crate::clock::rfc3339;
use crate::error::{Change, ErrorKind, RotationError};
use crate::event::SecretId;
use crate::identity::KeyId;
use crate::kosli::{KeyEntry, SHORTEST_MINT};
use crate::rotation::credential::{Credential, KEY_ID_LABEL};
use crate::rotation::failures::{dead_without_admin, longer, try_again};
use crate::secrets_manager::STORE_RESERVE;

/// Why nothing can be minted.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Stop {
    /// The current key is dead, and there is no admin key that could make a new one.
    CurrentKeyDead,
    /// The current key is dead, and a key with its id is on the account: value and id do not belong together.
    KeyIdMismatch(KeyId),
    /// Nothing says which of these keys the current one is.
    KeyIdUnknown(Vec<KeyEntry>),
}

impl Stop {
    /// The error. `alive`: Kosli accepts the current key.
    pub(super) fn error(self, current: &Credential, alive: bool, secret: &SecretId, host: &Url) -> RotationError {
        match self {
            Self::CurrentKeyDead => dead_without_admin(current, secret, host),
            Self::KeyIdMismatch(id) => RotationError::before_any_change(
                ErrorKind::KeyIdMismatch,
                format!(
                    "Kosli does not accept the key under AWSCURRENT, yet its key id {id} is on the service account {}: value \
                     and id do not belong together.",
                    current.account
                ),
                "Correct the value or the key id in the secret, then rotate again. Nothing was minted.",
            ),
            Self::KeyIdUnknown(candidates) => key_id_unknown(secret, current, alive, &candidates),
        }
    }
}

fn key_id_unknown(secret: &SecretId, current: &Credential, alive: bool, candidates: &[KeyEntry]) -> RotationError {
    let listed: Vec<String> = candidates
        .iter()
        .take(20)
        .map(|key| {
            let used =
                key.last_used_at.map_or_else(|| "never used".to_owned(), |at| format!("last used {}", rfc3339(at)));
            // A person may have put a key there: this one or another.
            let description = repeatable(&key.description, current.key());
            let description: String = description.chars().take(60).flat_map(char::escape_default).collect();
            format!("{} (\"{description}\", created {}, {used})", key.id, rfc3339(key.created_at))
        })
        .collect();
    let works = if alive { "works" } else { "does not work" };
    RotationError::before_any_change(
        ErrorKind::KeyIdUnknown,
        format!(
            "Nothing says which key the secret holds: the value and the tags name no key id, and the service account {} has {} \
             keys. The secret's key {works}. Candidates: {}.",
            current.account,
            candidates.len(),
            if listed.is_empty() { "none".to_owned() } else { listed.join("; ") }
        ),
        format!(
            "Put the key's id into the value (`key_id`, `KOSLI_API_KEY_ID`); or, before the first rotation, into the tag \
             kosli:key-id; or attach it to the version, in the place of KEY_ID: {}. Then rotate again.",
            by_hand::attach_label(secret, &format!("{KEY_ID_LABEL}KEY_ID"), &current.version)
        ),
    )
}

/// Kosli accepts the current key and does not know its id.
pub(super) fn not_on_account(id: &KeyId, current: &Credential, secret: &SecretId, host: &Url) -> RotationError {
    RotationError::before_any_change(
        ErrorKind::KeyNotOnAccount,
        format!(
            "Kosli accepts the key under AWSCURRENT, and does not find its key id {id} on the service account {}. \
             Either the id is mistyped, or the key is in its grace period after a rotation that was abandoned.",
            current.account
        ),
        format!(
            "Compare the id with the account's keys ({}). If the key is in its grace period, make a new one by hand ({}) and \
             put it with its id into the secret ({}). {}",
            by_hand::list_keys(&current.account, host),
            by_hand::create_key(&current.account, host),
            by_hand::put_value(secret),
            try_again(secret)
        ),
    )
}

/// Another execution may be about to store this key, and this one has no time to wait for it.
pub(super) fn twin_execution(id: &KeyId, age: Duration, wait: Duration, secret: &SecretId) -> RotationError {
    RotationError::after(
        Change::LeftToTwin,
        ErrorKind::TwinExecution,
        format!(
            "The key {id} was minted for this rotation {} s ago, and the execution that minted it may still be about to \
             store it.",
            age.as_secs()
        ),
        format!(
            "This resolves itself: in {} s the key counts as lost and is replaced. {}",
            wait.as_secs(),
            try_again(secret)
        ),
    )
}

/// There is no time for a mint and its store.
pub(super) fn out_of_time(remaining: Duration, timeout: Duration, secret: &SecretId) -> RotationError {
    RotationError::before_any_change(
        ErrorKind::OutOfTime,
        format!(
            "{} s of this invocation were left, and minting and storing a key takes up to {} s.",
            remaining.as_secs(),
            (SHORTEST_MINT + STORE_RESERVE).as_secs()
        ),
        format!("{}{}", longer(timeout), try_again(secret)),
    )
}

/// What an unclear mint has come to cannot be told.
pub(super) fn mint_unclear(why: &str, secret: &SecretId) -> RotationError {
    RotationError::before_any_change(
        ErrorKind::MintUnclear,
        format!("It is not known whether Kosli minted a key: {why}."),
        try_again(secret),
    )
}
