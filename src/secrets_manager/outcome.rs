//! What came of a call to Secrets Manager: by AWS's own error code, the HTTP status, and the innermost cause.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};

use crate::api_key::without_words;
use crate::budget::{Repeatable, TimedOut};
use crate::http_client::innermost;

/// A call that failed.
#[derive(Clone, Debug)]
pub enum SecretsManagerError {
    /// Secrets Manager (or KMS) said no: it did not happen.
    Refused {
        /// The operation, as IAM names it.
        operation: &'static str,
        /// AWS's error code.
        code: String,
        /// The first line of AWS's message; it names actions, ARNs and labels.
        message: String,
    },
    /// There is no trustworthy answer: it may have happened.
    Unclear {
        /// The operation, as IAM names it.
        operation: &'static str,
        /// What came instead of an answer.
        why: String,
    },
}

impl SecretsManagerError {
    /// The same, without the words that tell a secret. AWS's model marks secret values as sensitive, and its own errors do not
    /// quote them; but another server may have answered. What such a server has encoded is not recognized.
    pub(super) fn without_words(self, tells: impl Fn(&str) -> bool) -> Self {
        let without = |text: String| without_words(&text, &tells);
        match self {
            Self::Refused { operation, code, message } => {
                Self::Refused { operation, code: without(code), message: without(message) }
            }
            Self::Unclear { operation, why } => Self::Unclear { operation, why: without(why) },
        }
    }

    /// Whether AWS's error code is this one.
    pub fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { code, .. } if code == wanted)
    }

    /// Whether the secret, the version or its value does not exist.
    pub fn is_not_found(&self) -> bool {
        self.is("ResourceNotFoundException")
    }

    /// Whether the call may have had its effect.
    pub fn is_unclear(&self) -> bool {
        matches!(self, Self::Unclear { .. })
    }

    /// The operation, as IAM names it.
    pub fn operation(&self) -> &'static str {
        match self {
            Self::Refused { operation, .. } | Self::Unclear { operation, .. } => operation,
        }
    }
}

impl Repeatable for SecretsManagerError {
    fn repeat_after(&self) -> Option<Duration> {
        match self {
            Self::Unclear { .. } => Some(Duration::ZERO),
            Self::Refused { code, .. } if is_throttling(code) => Some(Duration::ZERO),
            Self::Refused { .. } => None,
        }
    }
}

impl fmt::Display for SecretsManagerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { operation, code, message } => write!(f, "{operation}: {code}: {message}"),
            Self::Unclear { operation, why } => write!(f, "{operation}: {why}"),
        }
    }
}

/// The codes by which AWS asks for a slower pace; they are not part of the service's model.
/// Source: the SDK's own retry classifier (`aws-runtime`, `THROTTLING_ERRORS`).
fn is_throttling(code: &str) -> bool {
    matches!(
        code,
        "Throttling"
            | "ThrottlingException"
            | "ThrottledException"
            | "RequestThrottledException"
            | "TooManyRequestsException"
            | "RequestLimitExceeded"
            | "BandwidthLimitExceeded"
            | "LimitExceededException"
            | "RequestThrottled"
            | "SlowDown"
            | "PriorRequestNotComplete"
    )
}

/// Refused or unclear: by AWS's own error code and the HTTP status.
pub(super) fn outcome<T, E: ProvideErrorMetadata>(
    operation: &'static str,
    answer: Result<Result<T, SdkError<E>>, TimedOut>,
) -> Result<T, SecretsManagerError> {
    let unclear = |why: String| SecretsManagerError::Unclear { operation, why };
    let error = match answer {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error,
        Err(timed_out) => return Err(unclear(format!("no answer within {:.1} s", timed_out.0.as_secs_f32()))),
    };
    Err(match &error {
        // Something in between has answered: a proxy, a firewall, another service's endpoint.
        SdkError::ServiceError(service) if service.raw().status().is_client_error() && error.code().is_none() => {
            SecretsManagerError::Refused {
                operation,
                code: format!("HTTP status {}", service.raw().status().as_u16()),
                message:
                    "the answer is none of Secrets Manager's: is a proxy or a firewall in between, or is the endpoint \
                          another service's?"
                        .to_owned(),
            }
        }
        SdkError::ServiceError(service) if service.raw().status().is_client_error() => SecretsManagerError::Refused {
            operation,
            code: error.code().unwrap_or_default().to_owned(),
            // Where a signature is wrong, the lines below show all that was signed, the session token with it.
            // Source: <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html>
            message: error.message().and_then(|message| message.lines().next()).unwrap_or_default().to_owned(),
        },
        SdkError::ServiceError(service) => {
            unclear(format!("it answered {} {}", service.raw().status().as_u16(), error.code().unwrap_or_default()))
        }
        SdkError::ConstructionFailure(_) => SecretsManagerError::Refused {
            operation,
            code: "RequestNotMade".to_owned(),
            message: "the SDK could not make the request: are region and credentials set?".to_owned(),
        },
        SdkError::DispatchFailure(failure) => {
            let Some(failure) = failure.as_connector_error() else {
                return Err(unclear("the request could not be sent".to_owned()));
            };
            let sent = failure.source().and_then(|cause| cause.downcast_ref::<reqwest::Error>());
            let what = match sent {
                Some(error) if error.is_connect() => "no connection could be made",
                _ if failure.is_user() || failure.is_other() => "the request could not be sent",
                _ => "the connection broke",
            };
            unclear(format!("{what}: {}", innermost(failure)))
        }
        SdkError::ResponseError(response) => {
            unclear(format!("its answer cannot be read (HTTP status {})", response.raw().status().as_u16()))
        }
        _ => unclear("its answer cannot be read".to_owned()),
    })
}
