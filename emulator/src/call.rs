//! What is known, and safe to print, about one call.

use std::borrow::Cow;
use std::fmt::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response, header};
use serde_json::Value;

use crate::faults::Fault;
use crate::kosli::Kosli;
use crate::secrets_manager::SecretsManager;

/// One request to a service. It holds no key material: it is safe to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Counts the calls to both services, from one.
    pub number: usize,
    /// Which port it came through: see [`Emulator::listen`](crate::Emulator::listen).
    pub tag: String,
    /// Who was called.
    pub service: Service,
    /// `PutSecretValue`, …; `create`, `list`, `get`, `rotate`, `revoke`, `verify`, `create-account`, …; `unknown`.
    pub operation: String,
    /// What the request names: ids, labels, times.
    pub detail: String,
    /// The id of the Kosli key that the request authenticates with, if there ever was such a key.
    pub key_id: Option<String>,
    /// What goes wrong with the call.
    pub fault: Option<Fault>,
    /// The status that the service came to. `None`: the effect has not happened (yet).
    pub effect: Option<u16>,
    /// What the service said: the error's type, or the id of the key or version that the request has not named itself.
    pub outcome: String,
    /// The status that the client is told. `None`: it gets no answer, or is still waiting for it.
    pub status: Option<u16>,
}

#[cfg(test)]
impl Call {
    /// A call of the function to Kosli, or what is taken for one, that has succeeded: for tables of tests.
    pub(crate) fn seen(number: usize, operation: &str, detail: &str) -> Self {
        Self {
            number,
            tag: "function".to_owned(),
            service: Service::Kosli,
            operation: operation.to_owned(),
            detail: detail.to_owned(),
            key_id: None,
            fault: None,
            effect: Some(200),
            outcome: String::new(),
            status: Some(200),
        }
    }
}

/// The two services whose calls are counted, logged and disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Service {
    /// AWS Secrets Manager.
    SecretsManager,
    /// Kosli.
    Kosli,
}

impl Service {
    /// Whom a request is for, if it is for one of the two.
    pub(crate) fn of<T>(request: &Request<T>) -> Option<Self> {
        if request.headers().contains_key("x-amz-target") {
            Some(Self::SecretsManager)
        } else if request.uri().path().starts_with("/api/") {
            Some(Self::Kosli)
        } else {
            None
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SecretsManager => "Secrets Manager",
            Self::Kosli => "Kosli",
        })
    }
}

/// The fields of requests that are worth showing. Whatever could be, or name, a key's value is not among them.
const SHOWN: [&str; 14] = [
    "SecretId",
    "SecretIdList",
    "Name",
    "ClientRequestToken",
    "VersionId",
    "VersionStage",
    "VersionStages",
    "MoveToVersionId",
    "RemoveFromVersionId",
    "RotateImmediately",
    "IncludeDeprecated",
    "grace_period_hours",
    "expires_at",
    "description",
];

impl Call {
    pub(crate) fn new(number: usize, tag: &str, service: Service, request: &Request<Bytes>, kosli: &Kosli) -> Self {
        let operation = match service {
            Service::SecretsManager => SecretsManager::operation(request).map(str::to_owned),
            Service::Kosli => Kosli::operation(request).map(|operation| operation.as_str().to_owned()),
        };
        Self {
            number,
            tag: tag.to_owned(),
            service,
            operation: operation.unwrap_or_else(|| "unknown".to_owned()),
            detail: detail(service, request),
            key_id: key_id(service, request, kosli),
            fault: None,
            effect: None,
            outcome: String::new(),
            status: None,
        }
    }

    pub(crate) fn note_effect(&mut self, answer: &Response<Bytes>) {
        self.effect = Some(answer.status().as_u16());
        self.outcome = outcome(self.service, answer);
        // What the request has named itself is not worth a second mention.
        if self.outcome.split_once('=').is_some_and(|(_, id)| self.detail.contains(id)) {
            self.outcome.clear();
        }
    }

    /// Whether a rotation may have begun: a refusal, too, can begin an earlier one again.
    pub(crate) fn begins_rotation(&self) -> bool {
        self.operation == "RotateSecret" && self.effect.is_some()
    }
}

/// One line, such as `#7 Kosli rotate acme/ci/api-keys/7980 grace_period_hours=24 -> 201 id=9a1c`.
impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} {} {}", self.number, self.service, self.operation)?;
        if !self.detail.is_empty() {
            write!(f, " {}", self.detail)?;
        }
        match self.status {
            Some(status) => write!(f, " -> {status}")?,
            None => f.write_str(" -> no answer")?,
        }
        if let Some(effect) = self.effect.filter(|_| self.effect != self.status) {
            write!(f, " (done: {effect})")?;
        }
        if !self.outcome.is_empty() {
            write!(f, " {}", self.outcome)?;
        }
        self.fault.as_ref().map_or(Ok(()), |fault| write!(f, " [fault {fault}]"))
    }
}

fn detail(service: Service, request: &Request<Bytes>) -> String {
    let mut detail = String::new();
    if service == Service::Kosli {
        let path = request.uri().path();
        let path = path.strip_prefix("/api/v2/").unwrap_or(path);
        detail.push_str(path.strip_prefix("service-accounts/").unwrap_or(path));
    }
    let body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
    for name in SHOWN {
        let value = match &body[name] {
            Value::Null => continue,
            // Of an ARN the end, which has six random characters more than the name.
            Value::String(text) => Cow::Borrowed(text.split_once(":secret:").map_or(text.as_str(), |(_, end)| end)),
            Value::Array(items) => Cow::Owned(items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")),
            other => Cow::Owned(other.to_string()),
        };
        let space = if detail.is_empty() { "" } else { " " };
        // Writing to a string does not fail.
        let _ = write!(detail, "{space}{name}={value}");
    }
    detail
}

fn key_id(service: Service, request: &Request<Bytes>, kosli: &Kosli) -> Option<String> {
    let authorization = request.headers().get(header::AUTHORIZATION).filter(|_| service == Service::Kosli)?;
    let (scheme, credentials) = authorization.to_str().ok()?.split_once(' ')?;
    let value = if scheme.eq_ignore_ascii_case("basic") {
        let decoded = String::from_utf8(STANDARD.decode(credentials.trim()).ok()?).ok()?;
        decoded.split(':').next()?.to_owned()
    } else {
        credentials.trim().to_owned()
    };
    kosli.keys().find(|key| key.value == value).map(|key| key.id.clone())
}

fn outcome(service: Service, answer: &Response<Bytes>) -> String {
    let Ok(Value::Object(body)) = serde_json::from_slice(answer.body()) else { return String::new() };
    let field = |name: &str| body.get(name).and_then(Value::as_str);
    match service {
        Service::SecretsManager => match field("__type") {
            Some(kind) => kind.to_owned(),
            None => field("VersionId").map(|id| format!("VersionId={id}")).unwrap_or_default(),
        },
        Service::Kosli => field("id").map(|id| format!("id={id}")).unwrap_or_default(),
    }
}
