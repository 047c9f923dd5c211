//! How answers look: keys, errors, and the switches that decide their form.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, DATE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Map, Value, json};

use super::key::{Key, ShownCreation};
use super::switches::{
    ErrorBody, ExpiredKeys, InvalidRequest, KeyField, LastUsedAt, ListInGrace, Never, Switches, Timestamps,
};

/// A field that is not valid: what is wrong, in words and in one word for programs.
pub(super) struct Invalid {
    pub(super) field: &'static str,
    pub(super) message: String,
    pub(super) kind: &'static str,
}

impl Invalid {
    pub(super) fn new(field: &'static str, message: &str, kind: &'static str) -> Self {
        Self { field, message: message.to_owned(), kind }
    }

    pub(super) fn missing(field: &'static str) -> Self {
        Self::new(field, "Field required", "missing")
    }
}

/// A request that is answered with an error and has no effect.
pub(super) struct Refusal {
    reason: Reason,
    message: String,
    retry_after: Option<Duration>,
}

enum Reason {
    /// The fields that are wrong; status and form are a switch.
    Invalid(Vec<Invalid>),
    Status(StatusCode),
}

impl Refusal {
    pub(super) fn new(status: StatusCode, message: &str) -> Self {
        Self { reason: Reason::Status(status), message: message.to_owned(), retry_after: None }
    }

    pub(super) fn forbidden() -> Self {
        Self::new(StatusCode::FORBIDDEN, "You don't have permission to access this resource")
    }

    pub(super) fn invalid(errors: impl IntoIterator<Item = Option<Invalid>>) -> Self {
        let message = "Input payload validation failed".to_owned();
        Self { reason: Reason::Invalid(errors.into_iter().flatten().collect()), message, retry_after: None }
    }

    pub(super) fn expiry_in_the_past() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "expires_at cannot be in the past")
    }

    pub(super) fn account_not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "Service account not found")
    }

    pub(super) fn key_not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "API key not found")
    }

    pub(super) fn rate_limited(retry_after: Option<Duration>) -> Self {
        Self { retry_after, ..Self::new(StatusCode::TOO_MANY_REQUESTS, "Too many requests") }
    }
}

/// An answer with a JSON body and the time.
pub(super) fn response(status: StatusCode, body: &Value, now: SystemTime) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(now)) {
        headers.insert(DATE, date);
    }
    response
}

impl Switches {
    /// A refusal, as the switches want it to look.
    pub(super) fn refuse(&self, refusal: &Refusal, now: SystemTime) -> Response<Bytes> {
        let message = json!({ "message": refusal.message });
        let (status, body) = match &refusal.reason {
            Reason::Status(status) => (*status, message.clone()),
            Reason::Invalid(errors) => self.invalid(errors, &refusal.message),
        };
        let body = match self.error_body {
            ErrorBody::Object => body,
            ErrorBody::MessageOnly => message,
            ErrorBody::BareString => json!(refusal.message),
        };
        let mut response = response(status, &body, now);
        if let Some(retry_after) = refusal.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after.as_secs()));
        }
        response
    }

    fn invalid(&self, errors: &[Invalid], message: &str) -> (StatusCode, Value) {
        let by_field = || -> Value {
            let errors: Map<String, Value> =
                errors.iter().map(|error| (error.field.to_owned(), json!(error.message))).collect();
            json!({ "message": message, "errors": errors })
        };
        match self.invalid_request {
            InvalidRequest::Detail => {
                let detail = errors
                    .iter()
                    .map(|error| json!({ "loc": ["body", error.field], "msg": error.message, "type": error.kind }));
                (StatusCode::UNPROCESSABLE_ENTITY, json!({ "detail": detail.collect::<Value>() }))
            }
            InvalidRequest::Errors400 => (StatusCode::BAD_REQUEST, by_field()),
            InvalidRequest::Errors422 => (StatusCode::UNPROCESSABLE_ENTITY, by_field()),
        }
    }

    /// A key in the answer that shows its value, once.
    pub(super) fn minted(&self, key: &Key) -> Value {
        let mut fields = Map::new();
        fields.insert("id".to_owned(), json!(key.id));
        if self.key_field != KeyField::ApiKey {
            fields.insert("key".to_owned(), json!(key.value));
        }
        if self.key_field != KeyField::Key {
            fields.insert("api_key".to_owned(), json!(key.value));
        }
        fields.insert("description".to_owned(), json!(key.description));
        self.insert_creation(&mut fields, key);
        self.insert_time(&mut fields, "expires_at", key.expires_at);
        Value::Object(fields)
    }

    /// A successor, in the answer that shows its value.
    pub(super) fn rotated(&self, successor: &Key, grace_ends_at: SystemTime) -> Value {
        let mut answer = self.minted(successor);
        if let Some(fields) = answer.as_object_mut() {
            self.insert_time(fields, "grace_period_expires_at", Some(grace_ends_at));
        }
        answer
    }

    /// Whether an account shows a key at an instant, before a look at its grace period.
    pub(super) fn shows(&self, key: &Key, time: SystemTime) -> bool {
        let ended = [key.grace_ends_at, key.revoked_at].into_iter().flatten().any(|end| end <= time);
        let has_expired = key.expires_at.is_some_and(|end| end <= time);
        key.created_at <= time && !ended && (!has_expired || self.expired_keys == ExpiredKeys::Listed)
    }

    /// A key as the list and get-one show it: as it was at an instant, without its value.
    pub(super) fn listed(&self, key: &Key, seen_at: SystemTime) -> Value {
        let shows_grace = self.list_in_grace == ListInGrace::EndOfGrace && key.is_in_grace_at(seen_at);
        let grace_ends_at = key.grace_ends_at.filter(|_| shows_grace);
        let expires_at = [key.expires_at, grace_ends_at].into_iter().flatten().min();
        let shown_until = match self.last_used_at {
            LastUsedAt::AtOnce => Some(seen_at),
            LastUsedAt::After(delay) => seen_at.checked_sub(delay),
            LastUsedAt::Never => None,
        };
        let is_shown = |used: &&SystemTime| shown_until.is_some_and(|until| **used <= until);
        let last_used_at = key.used_at.iter().rev().chain(&key.carried_used_at).find(is_shown).copied();

        let mut fields = Map::new();
        fields.insert("id".to_owned(), json!(key.id));
        fields.insert("description".to_owned(), json!(key.description));
        self.insert_creation(&mut fields, key);
        self.insert_time(&mut fields, "expires_at", expires_at);
        self.insert_time(&mut fields, "last_used_at", last_used_at);
        Value::Object(fields)
    }

    fn insert_creation(&self, fields: &mut Map<String, Value>, key: &Key) {
        match key.shown_as_created {
            ShownCreation::At(time) => self.insert_time(fields, "created_at", Some(time)),
            ShownCreation::Zero => drop(fields.insert("created_at".to_owned(), json!(0))),
            ShownCreation::Null => drop(fields.insert("created_at".to_owned(), Value::Null)),
        }
    }

    fn insert_time(&self, fields: &mut Map<String, Value>, name: &str, time: Option<SystemTime>) {
        let seconds = time.map(|time| time.duration_since(UNIX_EPOCH).unwrap_or_default());
        let value = match (seconds, self.timestamps, self.never) {
            (Some(seconds), Timestamps::Float, _) => json!(seconds.as_secs_f64()),
            (Some(seconds), Timestamps::Integer, _) => json!(seconds.as_secs()),
            (None, _, Never::Zero) => json!(0),
            (None, _, Never::Null) => Value::Null,
            (None, _, Never::Absent) => return,
        };
        fields.insert(name.to_owned(), value);
    }
}
