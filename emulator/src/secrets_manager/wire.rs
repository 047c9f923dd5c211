//! What goes over the wire: AWS's JSON 1.1 protocol, its errors, and the input of each operation.
//!
//! Field names and types are those of AWS's published service model (`secretsmanager/2017-10-17`).

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::model::{RotationRules, Tag};

/// An answer's body, or the refusal.
pub(super) type Answer = Result<Value, Error>;

/// A refusal, in AWS's words: the `__type` and the message. All of them are answered with status 400.
#[derive(Debug)]
pub(super) struct Error {
    pub(super) kind: &'static str,
    pub(super) message: String,
}

impl Error {
    pub(super) fn secret_not_found() -> Self {
        Self::not_found("Secrets Manager can't find the specified secret.")
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self { kind: "ResourceNotFoundException", message: message.into() }
    }

    pub(super) fn exists(message: impl Into<String>) -> Self {
        Self { kind: "ResourceExistsException", message: message.into() }
    }

    pub(super) fn token_in_use(token: &str, arn: &str) -> Self {
        Self::exists(format!(
            "You can't use ClientRequestToken {token} because that value is already in use for a version of secret {arn}."
        ))
    }

    pub(super) fn invalid_request(message: impl Into<String>) -> Self {
        Self { kind: "InvalidRequestException", message: message.into() }
    }

    pub(super) fn invalid_parameter(message: impl Into<String>) -> Self {
        Self { kind: "InvalidParameterException", message: message.into() }
    }

    pub(super) fn limit_exceeded(message: impl Into<String>) -> Self {
        Self { kind: "LimitExceededException", message: message.into() }
    }

    pub(super) fn access_denied(message: impl Into<String>) -> Self {
        Self { kind: "AccessDeniedException", message: message.into() }
    }

    /// A value outside of the bounds in the service model. The value itself is not repeated: it may be a secret's.
    pub(super) fn constraint(member: &str, constraint: &str) -> Self {
        Self::validation(format!(
            "1 validation error detected: Value at '{member}' failed to satisfy constraint: Member must {constraint}"
        ))
    }

    pub(super) fn validation(message: impl Into<String>) -> Self {
        Self { kind: "ValidationException", message: message.into() }
    }

    pub(super) fn response(&self) -> Response<Bytes> {
        refusal(StatusCode::BAD_REQUEST, self.kind, &self.message)
    }
}

/// A refusal as Secrets Manager sends it, for faults that are injected around the service as well.
///
/// Recorded bodies have the fields `__type` and `Message`; both SDKs also read `message`.
pub fn refusal(status: StatusCode, kind: &str, message: &str) -> Response<Bytes> {
    respond(status, &serde_json::json!({ "__type": kind, "Message": message }))
}

/// An answer with a JSON body; `null` stands for operations that answer nothing.
pub(super) fn respond(status: StatusCode, body: &Value) -> Response<Bytes> {
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/x-amz-json-1.1"));
    if let Ok(id) = http::HeaderValue::from_str(&uuid(fastrand::u128(..))) {
        headers.insert("x-amzn-requestid", id);
    }
    response
}

/// Random bits in the form of a version 4 UUID.
pub(super) fn uuid(bits: u128) -> String {
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// A point in time as AWS writes it: seconds since 1970, to the millisecond.
pub(super) fn seconds(time: SystemTime) -> f64 {
    (time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1000.0).round() / 1000.0
}

/// Leaves out the fields that have no value, as AWS does; it never writes `null`.
pub(super) fn without_nulls(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    object
}

/// Reads an operation's input. Unknown fields are ignored, as AWS ignores them.
///
/// The reason is not passed on: a parser's message quotes the value, and the value may be a secret's.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|_| Error {
        kind: "SerializationException",
        message: "The request body is not JSON of the expected shape".to_owned(),
    })
}

// An absent required field is read as empty; the operations refuse both with the same error.

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct CreateSecret {
    pub(super) name: String,
    pub(super) client_request_token: Option<String>,
    pub(super) description: Option<String>,
    pub(super) kms_key_id: Option<String>,
    #[serde(flatten)]
    pub(super) value: NewValue,
    pub(super) tags: Option<Vec<Tag>>,
}

/// The two fields of which a request for a new version has one.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct NewValue {
    pub(super) secret_string: Option<String>,
    pub(super) secret_binary: Option<String>,
}

/// The input of every operation that names a secret and nothing else.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct OfSecret {
    pub(super) secret_id: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct GetSecretValue {
    pub(super) secret_id: String,
    pub(super) version_id: Option<String>,
    pub(super) version_stage: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct PutSecretValue {
    pub(super) secret_id: String,
    pub(super) client_request_token: Option<String>,
    #[serde(flatten)]
    pub(super) value: NewValue,
    pub(super) version_stages: Option<Vec<String>>,
    pub(super) rotation_token: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct UpdateSecret {
    pub(super) secret_id: String,
    pub(super) client_request_token: Option<String>,
    pub(super) description: Option<String>,
    pub(super) kms_key_id: Option<String>,
    #[serde(flatten)]
    pub(super) value: NewValue,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct UpdateSecretVersionStage {
    pub(super) secret_id: String,
    pub(super) version_stage: String,
    pub(super) remove_from_version_id: Option<String>,
    pub(super) move_to_version_id: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct ListSecretVersionIds {
    pub(super) secret_id: String,
    pub(super) include_deprecated: bool,
    #[serde(flatten)]
    pub(super) page: Page,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct ListSecrets {
    pub(super) include_planned_deletion: bool,
    pub(super) filters: Vec<Filter>,
    pub(super) sort_by: Option<String>,
    pub(super) sort_order: Option<String>,
    #[serde(flatten)]
    pub(super) page: Page,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Page {
    pub(super) max_results: Option<usize>,
    pub(super) next_token: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Filter {
    pub(super) key: String,
    pub(super) values: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct TagResource {
    pub(super) secret_id: String,
    pub(super) tags: Vec<Tag>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct UntagResource {
    pub(super) secret_id: String,
    pub(super) tag_keys: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct RotateSecret {
    pub(super) secret_id: String,
    pub(super) client_request_token: Option<String>,
    #[serde(rename = "RotationLambdaARN")]
    pub(super) rotation_lambda_arn: Option<String>,
    pub(super) rotation_rules: Option<RotationRules>,
    pub(super) rotate_immediately: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct DeleteSecret {
    pub(super) secret_id: String,
    pub(super) recovery_window_in_days: Option<u32>,
    pub(super) force_delete_without_recovery: bool,
}
