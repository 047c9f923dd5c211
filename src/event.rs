//! The event: parsed once, at the edge.

use std::fmt;

use secrecy::SecretString;
use serde_json::{Map, Value};

use crate::error::{ErrorKind, RotationError};

/// What an invocation asks for.
#[derive(Debug)]
pub enum Event {
    /// One of the four steps of a rotation.
    Rotation(RotationEvent),
    /// A read-only report, on one secret or on all whose rotation function this is.
    Check {
        /// The secret; `None` for all.
        secret_id: Option<SecretId>,
    },
}

/// The event that Secrets Manager sends.
/// Source: <https://docs.aws.amazon.com/secretsmanager/latest/userguide/rotate-secrets_lambda.html>
#[derive(Debug)]
pub struct RotationEvent {
    /// Which of the four steps.
    pub step: Step,
    /// The secret; Secrets Manager sends its ARN.
    pub secret_id: SecretId,
    /// `ClientRequestToken`: the id of the version that this rotation makes.
    pub version_id: VersionId,
    /// Proves the source of the request in assumed-role and cross-account rotation. Passed on to `PutSecretValue`, and
    /// printed nowhere.
    pub rotation_token: Option<SecretString>,
}

/// The four steps, in their order, spelled as on the wire.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Mint the new key and store it under `AWSPENDING`.
    CreateSecret,
    /// Cross-check: Kosli knows the key already.
    SetSecret,
    /// Authenticate with the pending key.
    TestSecret,
    /// Promote the pending version, then clean up.
    FinishSecret,
}

/// A secret, by ARN or by name. Safe to print.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SecretId(String);

/// The id of a version of a secret: opaque. Safe to print.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct VersionId(String);

/// The name under which a report is asked for.
const CHECK_SECRET: &str = "checkSecret";

impl Event {
    /// Reads an event; fields that it does not know are ignored.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidEvent`], naming the field and what it must be. No value of the event is repeated, except an
    /// unknown step.
    pub fn parse(event: &Value) -> Result<Self, RotationError> {
        let Value::Object(fields) = event else {
            return Err(invalid("The event is not a JSON object."));
        };
        let step = required(fields, "Step")?;
        if step == CHECK_SECRET {
            return Ok(Self::Check { secret_id: optional(fields, "SecretId")?.map(SecretId::new).transpose()? });
        }
        Ok(Self::Rotation(RotationEvent {
            step: Step::parse(step)?,
            secret_id: SecretId::new(required(fields, "SecretId")?)?,
            version_id: VersionId::parse(required(fields, "ClientRequestToken")?)?,
            rotation_token: optional(fields, "RotationToken")?.map(rotation_token).transpose()?,
        }))
    }
}

impl Step {
    const ALL: [Self; 4] = [Self::CreateSecret, Self::SetSecret, Self::TestSecret, Self::FinishSecret];

    /// The step's name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::CreateSecret => "createSecret",
            Self::SetSecret => "setSecret",
            Self::TestSecret => "testSecret",
            Self::FinishSecret => "finishSecret",
        }
    }

    fn parse(name: &str) -> Result<Self, RotationError> {
        Self::ALL.into_iter().find(|step| step.name() == name).ok_or_else(|| {
            // Ours to print: every principal that may invoke the function may send events, so it is cut and escaped.
            let shown: String = name.chars().take(32).flat_map(char::escape_default).collect();
            invalid(format!("`Step` is \"{shown}\"."))
        })
    }
}

impl SecretId {
    /// The longest that Secrets Manager accepts.
    const LONGEST: usize = 2_048;

    fn new(id: &str) -> Result<Self, RotationError> {
        if id.len() > Self::LONGEST || id.chars().any(char::is_control) {
            return Err(invalid(format!("`SecretId` is longer than {} characters or not printable.", Self::LONGEST)));
        }
        Ok(Self(id.to_owned()))
    }

    /// For an id that a service or the configuration has named.
    pub(crate) fn trusted(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl VersionId {
    /// The longest that Secrets Manager accepts.
    const LONGEST: usize = 64;

    /// Reads an id that an event names.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidEvent`]. The text is not repeated.
    pub fn parse(id: &str) -> Result<Self, RotationError> {
        if id.len() > Self::LONGEST || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(invalid("`ClientRequestToken` is not a version id of 32 to 64 characters."));
        }
        Ok(Self(id.to_owned()))
    }

    /// For an id that Secrets Manager has named.
    pub(crate) fn trusted(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Secrets Manager's own rule for `PutSecretValue`, which would refuse another token after the mint, and so lose the key.
/// Source: <https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_PutSecretValue.html>
fn rotation_token(text: &str) -> Result<SecretString, RotationError> {
    let valid =
        (36..=256).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if valid {
        Ok(SecretString::from(text))
    } else {
        Err(invalid("`RotationToken` is not 36 to 256 letters, digits or '-'."))
    }
}

fn required<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a str, RotationError> {
    optional(fields, name)?.ok_or_else(|| invalid(format!("The event has no `{name}`.")))
}

fn optional<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, RotationError> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Err(invalid(format!("`{name}` is empty."))),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(invalid(format!("`{name}` is not a string."))),
    }
}

fn invalid(what: impl Into<String>) -> RotationError {
    RotationError::before_any_change(
        ErrorKind::InvalidEvent,
        what,
        "An event is {\"Step\", \"SecretId\", \"ClientRequestToken\"}, with createSecret, setSecret, testSecret or \
         finishSecret as its step, or {\"Step\": \"checkSecret\", \"SecretId\"}; the folder events has one of each.",
    )
}
