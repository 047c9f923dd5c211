//! What a request asks for: its path, the key that it presents, its body.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, StatusCode};
use serde_json::{Map, Value};

use super::answer::{Invalid, Refusal};
use super::key::Key;

/// A call of Kosli's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Mints a key.
    Create,
    /// Shows one key of an account, never its value.
    Get,
    /// Shows the live keys of an account, never their values.
    List,
    /// Ends a key at once.
    Revoke,
    /// Mints a successor of a key and lets the key live on for a grace period.
    Rotate,
    /// Reads an organization's environments: any key of the organization may.
    Verify,
    /// Makes a service account.
    CreateAccount,
    /// Shows the service accounts of an organization.
    ListAccounts,
    /// Shows one service account.
    GetAccount,
    /// Removes a service account with its keys.
    DeleteAccount,
}

impl Operation {
    /// The word for it, as in the table of the [module](super)'s documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Get => "get",
            Self::List => "list",
            Self::Revoke => "revoke",
            Self::Rotate => "rotate",
            Self::Verify => "verify",
            Self::CreateAccount => "create-account",
            Self::ListAccounts => "list-accounts",
            Self::GetAccount => "get-account",
            Self::DeleteAccount => "delete-account",
        }
    }
}

/// A request's path, parsed.
pub(super) struct Route {
    pub(super) operation: Operation,
    pub(super) org: String,
    /// Empty where the call is not about an account.
    pub(super) account: String,
    /// Empty where the call does not name a key.
    pub(super) key_id: String,
    /// Which page of the list is asked for, from 1.
    pub(super) page: usize,
}

impl Route {
    pub(super) fn of<T>(request: &Request<T>) -> Option<Self> {
        let path = request.uri().path().strip_prefix("/api/v2/")?;
        let segments: Vec<String> = path.split('/').map(percent_decoded).collect::<Option<_>>()?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let (operation, org, account, key_id) = match (request.method().as_str(), &*segments) {
            ("GET", &["environments", org]) => (Operation::Verify, org, "", ""),
            ("POST", &["service-accounts", org]) => (Operation::CreateAccount, org, "", ""),
            ("GET", &["service-accounts", org]) => (Operation::ListAccounts, org, "", ""),
            ("GET", &["service-accounts", org, account]) => (Operation::GetAccount, org, account, ""),
            ("DELETE", &["service-accounts", org, account]) => (Operation::DeleteAccount, org, account, ""),
            (method, &["service-accounts", org, account, "api-keys", ref rest @ ..]) => match (method, rest) {
                ("GET", &[]) => (Operation::List, org, account, ""),
                ("POST", &[]) => (Operation::Create, org, account, ""),
                ("GET", &[key_id]) => (Operation::Get, org, account, key_id),
                ("DELETE", &[key_id]) => (Operation::Revoke, org, account, key_id),
                ("POST", &[key_id, "rotate"]) => (Operation::Rotate, org, account, key_id),
                _ => return None,
            },
            _ => return None,
        };
        let mut parameters = request.uri().query().unwrap_or_default().split('&');
        let page = parameters.find_map(|parameter| parameter.strip_prefix("page=")?.parse().ok()).unwrap_or(1);
        Some(Self { operation, org: org.to_owned(), account: account.to_owned(), key_id: key_id.to_owned(), page })
    }

    pub(super) fn names_account_of(&self, key: &Key) -> bool {
        key.org == self.org && key.account == self.account
    }

    pub(super) fn names(&self, key: &Key) -> bool {
        self.names_account_of(key) && key.id == self.key_id
    }
}

/// Clients may escape more of a path than they must, `-` included.
fn percent_decoded(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// The key value that a request authenticates with: a bearer token, or the user name of the legacy basic form.
pub(super) fn presented_key(headers: &HeaderMap) -> Option<String> {
    let (scheme, credentials) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(credentials.trim().to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64.decode(credentials.trim()).ok()?).ok()?;
    decoded.split_once(':').map(|(user, _)| user.to_owned())
}

/// The body of a create or a rotate.
pub(super) struct KeyRequest {
    /// Empty for a rotate, which has none.
    pub(super) description: String,
    /// `None`: left out, or asked never to expire.
    pub(super) expires_at: Option<SystemTime>,
    /// The default for a create, which has none.
    pub(super) grace_period: Duration,
}

impl KeyRequest {
    /// Checks every field before it refuses, so that the answer names all that are wrong. An expiry in the past is looked for
    /// last: it is of the right type.
    pub(super) fn parse(body: &Bytes, operation: Operation, now: SystemTime) -> Result<Self, Refusal> {
        let fields = object(body)?;
        let description = match operation {
            Operation::Create => description(fields.get("description")),
            _ => Ok(String::new()),
        };
        let expires_at = expires_at(fields.get("expires_at"));
        let grace_period = grace_period(fields.get("grace_period_hours"));
        match (description, expires_at, grace_period) {
            (Ok(description), Ok(expires_at), Ok(grace_period)) => match expires_at {
                Some(time) if time <= now => Err(Refusal::expiry_in_the_past()),
                _ => Ok(Self { description, expires_at, grace_period }),
            },
            (description, expires_at, grace_period) => {
                Err(Refusal::invalid([description.err(), expires_at.err(), grace_period.err()]))
            }
        }
    }
}

pub(super) fn object(body: &Bytes) -> Result<Map<String, Value>, Refusal> {
    if body.is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        _ => Err(Refusal::new(StatusCode::BAD_REQUEST, "The request body is not a JSON object")),
    }
}

fn description(value: Option<&Value>) -> Result<String, Invalid> {
    const LONGEST: usize = 256;
    let invalid = |message, kind| Err(Invalid::new("description", message, kind));
    match value {
        None => Err(Invalid::missing("description")),
        Some(Value::String(text)) if text.is_empty() => {
            invalid("String should have at least 1 character", "string_too_short")
        }
        Some(Value::String(text)) if text.chars().count() > LONGEST => {
            invalid("String should have at most 256 characters", "string_too_long")
        }
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => invalid("Input should be a valid string", "string_type"),
    }
}

fn expires_at(value: Option<&Value>) -> Result<Option<SystemTime>, Invalid> {
    /// 2100-01-01: the API reference gives it as the upper bound.
    const LATEST: i64 = 4_102_444_800;
    let seconds = integer("expires_at", value, (i64::MIN, LATEST))?.filter(|seconds| *seconds != 0);
    // What lies before 1970 is in the past as well.
    Ok(seconds.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap_or_default())))
}

fn grace_period(value: Option<&Value>) -> Result<Duration, Invalid> {
    const DEFAULT_HOURS: u64 = 24;
    let hours = integer("grace_period_hours", value, (1, 720))?;
    Ok(Duration::from_hours(hours.and_then(|hours| hours.try_into().ok()).unwrap_or(DEFAULT_HOURS)))
}

/// A whole number within these bounds. `None`: left out, or null.
fn integer(field: &'static str, value: Option<&Value>, (least, most): (i64, i64)) -> Result<Option<i64>, Invalid> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Ok(None) };
    let Some(number) = value.as_i64() else {
        return Err(Invalid::new(field, "Input should be a valid integer", "int_type"));
    };
    if number < least {
        let message = format!("Input should be greater than or equal to {least}");
        return Err(Invalid::new(field, &message, "greater_than_equal"));
    }
    if number > most {
        return Err(Invalid::new(field, &format!("Input should be less than or equal to {most}"), "less_than_equal"));
    }
    Ok(Some(number))
}
