//! The one error type of the function: a stable word for machines, and a text that tells the operator what to do.

use std::fmt;
use std::time::SystemTime;

use lambda_runtime::Diagnostic;

use crate::clock::rfc3339;
use crate::identity::KeyId;

/// Declares the kinds once: the enum, its words and the list that the runbook is checked against.
macro_rules! error_kinds {
    ($($(#[$doc:meta])* $kind:ident,)*) => {
        /// What went wrong. The variant's name is the `errorType` of the answer: stable, so that alarms can name it.
        /// `docs/runbook.md` has a row for each.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        #[non_exhaustive]
        pub enum ErrorKind { $($(#[$doc])* $kind,)* }

        impl ErrorKind {
            /// Every kind, in the order of the runbook.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// The `errorType` word.
            pub fn word(self) -> &'static str {
                match self { $(Self::$kind => stringify!($kind),)* }
            }
        }
    };
}

error_kinds! {
    /// An environment variable of the function is malformed. Nothing works until it is corrected.
    InvalidConfiguration,
    /// The event is not one that Secrets Manager sends.
    InvalidEvent,
    /// There is no such secret, or the function may not see that it exists.
    SecretNotFound,
    /// The secret has no value under `AWSCURRENT` yet.
    NoCurrentValue,
    /// Rotation is not switched on for this secret.
    RotationNotEnabled,
    /// The version that the event names is not part of the secret.
    TokenNotStaged,
    /// The version that the event names does not carry `AWSPENDING` (any more).
    TokenNotPending,
    /// The secret's value is not one of the three shapes.
    InvalidSecret,
    /// A tag of the secret is malformed.
    InvalidTag,
    /// Organization, service account or key id is missing, or not a valid name.
    InvalidIdentity,
    /// Two places name different organizations, service accounts or keys.
    IdentityConflict,
    /// `KOSLI_SERVICE_ACCOUNTS` does not permit this service account.
    NotPermitted,
    /// The new version would not fit: too many staging labels, or too large.
    NoRoom,
    /// Nothing says which of the account's keys the secret holds.
    KeyIdUnknown,
    /// The secret's key id is not on the service account, though its key works.
    KeyNotOnAccount,
    /// The secret's key does not work, though its key id is on the service account.
    KeyIdMismatch,
    /// The secret's key does not work and there is no admin key that could make a new one.
    CurrentKeyDead,
    /// The admin secret cannot be read, or is in no shape that holds a key.
    InvalidAdminSecret,
    /// Kosli does not accept the admin key.
    AdminKeyDead,
    /// Kosli accepts the key, but not for what had to be done with it.
    KosliForbidden,
    /// Kosli refused a call for another reason.
    KosliRefused,
    /// Kosli could not be reached, or had no proper answer, for long enough to give up.
    KosliUnavailable,
    /// A key may have been minted whose answer was lost. The next attempt looks for it.
    MintUnclear,
    /// A key was minted and its value could not be stored. The next attempt replaces it.
    StoreFailed,
    /// Another execution of this rotation may be about to store its key.
    TwinExecution,
    /// The key under `AWSPENDING` is in a grace period: another execution took it for lost and has replaced it.
    PendingKeyDying,
    /// A person has put another key that works in the place of the one that was replaced.
    PendingSuperseded,
    /// The version under `AWSPENDING` has no value.
    PendingValueMissing,
    /// The key under `AWSPENDING` does not work.
    PendingKeyDead,
    /// The version under `AWSPENDING` holds the current key.
    PendingIsCurrent,
    /// `AWSCURRENT` moved to another version while this step ran.
    CurrentMoved,
    /// `AWSCURRENT` has moved, and what should follow could not be done.
    CleanUpIncomplete,
    /// Secrets Manager (or KMS) refused a call.
    SecretsManagerRefused,
    /// Secrets Manager could not be reached, or had no proper answer, for long enough to give up.
    SecretsManagerUnavailable,
    /// Too little of the invocation's time was left.
    OutOfTime,
}

/// A step that failed: what is wrong, what was changed, what to do.
///
/// It holds no key material: whatever is put into it is made of ids, labels, status codes and our own words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RotationError {
    kind: ErrorKind,
    what: String,
    /// Empty: nothing.
    changed: Vec<Change>,
    action: String,
    current_key_dies: Option<Death>,
}

/// What a step had changed, or may have, by the time it failed: said in every error.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Change {
    /// This key was minted, and its value is lost.
    KeyLost(KeyId),
    /// The answer to a mint was lost.
    MaybeMinted,
    /// This key was minted, and another execution's value was stored.
    NotStored(KeyId),
    /// Another execution is at work, and this one has left all of it alone.
    LeftToTwin,
    /// The version under `AWSCURRENT` has got a staging label that names its key.
    KeyIdAttached(KeyId),
    /// `AWSCURRENT` has moved.
    Promoted,
    /// The answer to the move of `AWSCURRENT` was lost.
    MaybePromoted,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyLost(id) => write!(
                f,
                "The new key {id} was minted, and its value is lost; AWSCURRENT was not touched. The next attempt replaces \
                 that key and revokes it."
            ),
            Self::MaybeMinted => f.write_str(
                "A new key may have been minted; AWSCURRENT was not touched. The next attempt looks for it, replaces it and \
                 revokes it.",
            ),
            Self::NotStored(id) => write!(f, "The key {id} was minted and not stored."),
            Self::LeftToTwin => f.write_str("This execution changed nothing."),
            Self::KeyIdAttached(id) => write!(
                f,
                "The version under AWSCURRENT has got the staging label kosli-key-id:{id}, which names its key and may stay."
            ),
            Self::Promoted => f.write_str("AWSCURRENT has moved to the new version."),
            Self::MaybePromoted => f.write_str("AWSCURRENT may have moved to the new version; the next attempt looks."),
        }
    }
}

/// When the key under `AWSCURRENT` dies, and how that is known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Death {
    /// This invocation has begun its grace period, or sees that it was begun.
    Known(SystemTime),
    /// Worked out from the age of the pending version.
    Estimated(SystemTime),
}

impl RotationError {
    /// An error before this step has changed anything.
    pub fn before_any_change(kind: ErrorKind, what: impl Into<String>, action: impl Into<String>) -> Self {
        Self { kind, what: what.into(), changed: Vec::new(), action: action.into(), current_key_dies: None }
    }

    /// An error after something was changed, or may have been.
    pub fn after(change: Change, kind: ErrorKind, what: impl Into<String>, action: impl Into<String>) -> Self {
        Self { changed: vec![change], ..Self::before_any_change(kind, what, action) }
    }

    /// The same error, of a call that did not know what its caller had changed before.
    #[must_use]
    pub fn once_changed(mut self, changes: impl IntoIterator<Item = Change>) -> Self {
        for change in changes {
            if !self.changed.contains(&change) {
                self.changed.push(change);
            }
        }
        self
    }

    /// Whether it names the instant at which the key under `AWSCURRENT` dies.
    pub fn names_death(&self) -> bool {
        self.current_key_dies.is_some()
    }

    /// The same error, with the instant at which the key under `AWSCURRENT` dies (promise I7).
    #[must_use]
    pub fn current_key_dies(mut self, death: Option<Death>) -> Self {
        self.current_key_dies = self.current_key_dies.or(death);
        self
    }

    /// The same, where the instant can only be worked out.
    #[must_use]
    pub fn current_key_dies_about(mut self, at: SystemTime) -> Self {
        match self.kind {
            // Another key is current than the one that was replaced, or none was minted: the pending version's age tells nothing.
            ErrorKind::PendingSuperseded | ErrorKind::PendingIsCurrent => {}
            _ => self.current_key_dies = self.current_key_dies.or(Some(Death::Estimated(at))),
        }
        self
    }

    /// The same error, in the clean-up after `AWSCURRENT` has moved: the rotation is safe, and only the rest is missing.
    /// `again`: the command that has `finishSecret` called again; `rotate-secret` would begin another rotation, which knows nothing of
    /// what this one has left.
    #[must_use]
    pub fn after_promotion(self, again: &str) -> Self {
        let passes = matches!(
            self.kind,
            ErrorKind::KosliUnavailable | ErrorKind::SecretsManagerUnavailable | ErrorKind::OutOfTime
        );
        let cause = if passes { String::new() } else { format!("{} ", self.action) };
        Self {
            kind: ErrorKind::CleanUpIncomplete,
            what: format!("The clean-up after the promotion failed: {} ({}).", self.what, self.kind.word()),
            changed: vec![Change::Promoted],
            action: format!(
                "{cause}finishSecret does the clean-up again whenever it is called for this version: {again}."
            ),
            current_key_dies: None,
        }
    }

    /// The same error, with what led to it.
    #[must_use]
    pub(crate) fn with_cause(mut self, cause: &str) -> Self {
        self.what = format!("{} {cause}", self.what);
        self
    }

    /// The same error, with what an answer would have warned of: nothing else comes back.
    #[must_use]
    pub(crate) fn with_warnings(self, warnings: &[String]) -> Self {
        warnings.iter().fold(self, |error, warning| error.with_cause(warning))
    }

    /// The same error, with something else to do.
    #[must_use]
    pub(crate) fn with_action(mut self, action: String) -> Self {
        self.action = action;
        self
    }

    /// What is wrong and what to do, without what was changed: for a report, which changes nothing.
    pub(crate) fn what_to_do(&self) -> String {
        format!("{} {}", self.what, self.action)
    }

    /// What to do.
    pub(crate) fn action(&self) -> &str {
        &self.action
    }

    /// The kind, and with it the `errorType`.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for RotationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.what)?;
        if self.changed.is_empty() {
            f.write_str("Nothing was changed. ")?;
        }
        self.changed.iter().try_for_each(|change| write!(f, "{change} "))?;
        f.write_str(&self.action)?;
        match self.current_key_dies {
            Some(Death::Known(at)) => {
                write!(f, " The key under AWSCURRENT works until {}: complete a rotation before then.", rfc3339(at))
            }
            Some(Death::Estimated(at)) => write!(
                f,
                " The key under AWSCURRENT is in its grace period, if its successor was minted by this rotation, and works \
                 until about {}: complete a rotation before then.",
                rfc3339(at)
            ),
            None => Ok(()),
        }
    }
}

impl std::error::Error for RotationError {}

impl From<RotationError> for Diagnostic {
    fn from(error: RotationError) -> Self {
        Self { error_type: error.kind.word().to_owned(), error_message: error.to_string() }
    }
}
