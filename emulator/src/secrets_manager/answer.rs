//! How answers look: AWS's JSON 1.1 protocol and its errors.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::Value;

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
