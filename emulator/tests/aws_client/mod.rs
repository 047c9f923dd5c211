//! Calls the emulated Secrets Manager as an AWS SDK does, without a network.

// Each test binary compiles its own copy and uses a part of it.
#![allow(dead_code)]

use bytes::Bytes;
use emulator::clock::Clock;
use emulator::secrets_manager::SecretsManager;
use http::{Request, Response};
use serde_json::{Value, json};
use std::time::{Duration, UNIX_EPOCH};

/// The service on a frozen clock, and its caller.
pub(crate) struct Aws {
    pub(crate) service: SecretsManager,
    pub(crate) clock: Clock,
    tokens: u32,
}

/// An error's `__type` and message.
pub(crate) type Refusal = (String, String);

impl Aws {
    pub(crate) fn new() -> Self {
        let clock = Clock::frozen(UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        Self { service: SecretsManager::new(clock.clone()), clock, tokens: 0 }
    }

    /// Sends exactly `body`.
    pub(crate) fn send(&mut self, operation: &str, body: &Value) -> Response<Bytes> {
        let request = Request::post("/")
            .header("x-amz-target", format!("secretsmanager.{operation}"))
            .header("content-type", "application/x-amz-json-1.1")
            .header("authorization", "AWS4-HMAC-SHA256 Credential=made/up, Signature=not-checked")
            .body(Bytes::from(body.to_string()));
        self.service.handle(&request.unwrap())
    }

    /// Calls an operation; like the SDKs, it fills in a `ClientRequestToken`: `token(1)`, `token(2)`, and so on.
    pub(crate) fn call(&mut self, operation: &str, mut body: Value) -> Result<Value, Refusal> {
        let takes_token = ["CreateSecret", "PutSecretValue", "UpdateSecret", "RotateSecret"].contains(&operation);
        if takes_token && body.get("ClientRequestToken").is_none() {
            self.tokens += 1;
            body["ClientRequestToken"] = json!(token(self.tokens));
        }
        let response = self.send(operation, &body);
        assert_eq!(response.headers()["content-type"], "application/x-amz-json-1.1");
        assert_eq!(response.headers()["x-amzn-requestid"].len(), 36);
        let answer = if response.body().is_empty() { Value::Null } else { json_of(&response) };
        if response.status() == 200 {
            return Ok(answer);
        }
        assert_eq!(response.status(), 400, "{answer}");
        Err((text(&answer["__type"]), text(&answer["Message"])))
    }

    /// The answer to a call that succeeds.
    pub(crate) fn ok(&mut self, operation: &str, body: Value) -> Value {
        self.call(operation, body).unwrap_or_else(|refusal| panic!("{operation} was refused: {refusal:?}"))
    }

    /// The error of a call that fails.
    pub(crate) fn refused(&mut self, operation: &str, body: Value) -> Refusal {
        self.call(operation, body).expect_err(operation)
    }

    /// The labelled versions of the secret `s` as `ListSecretVersionIds` lists them: `"1: AWSPREVIOUS, 2: AWSCURRENT"`.
    pub(crate) fn labels(&mut self) -> String {
        self.list_labels(false)
    }

    /// The same, with versions that carry no label.
    pub(crate) fn all_labels(&mut self) -> String {
        self.list_labels(true)
    }

    fn list_labels(&mut self, deprecated: bool) -> String {
        let list = self.ok("ListSecretVersionIds", json!({ "SecretId": "s", "IncludeDeprecated": deprecated }));
        let version = |version: &Value| {
            let labels = version["VersionStages"].as_array().map(Vec::as_slice).unwrap_or_default();
            let labels: Vec<_> = labels.iter().map(text).collect();
            format!("{}: {}", short(&text(&version["VersionId"])), labels.join("+"))
        };
        list["Versions"].as_array().unwrap().iter().map(version).collect::<Vec<_>>().join(", ")
    }

    /// Moves `AWSCURRENT` as `finishSecret` does.
    pub(crate) fn promote(&mut self, from: u32, to: u32) -> Value {
        self.ok(
            "UpdateSecretVersionStage",
            json!({
                "SecretId": "s",
                "VersionStage": "AWSCURRENT",
                "RemoveFromVersionId": token(from),
                "MoveToVersionId": token(to),
            }),
        )
    }

    pub(crate) fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }
}

/// A version id that is easy to recognise.
pub(crate) fn token(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

pub(crate) fn refusal(kind: &str, message: &str) -> Refusal {
    (kind.to_owned(), message.to_owned())
}

pub(crate) fn json_of(response: &Response<Bytes>) -> Value {
    serde_json::from_slice(response.body()).unwrap()
}

/// An answer with what differs from run to run replaced, as recordings have it: dates, the ARN, and version ids by number.
pub(crate) fn recorded(mut answer: Value) -> Value {
    normalise(&mut answer);
    answer
}

fn normalise(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            *fields = std::mem::take(fields)
                .into_iter()
                .map(|(name, mut value)| {
                    if name.ends_with("Date") {
                        assert!(value.is_number(), "{name} is {value}");
                        value = json!("datetime");
                    } else if name == "ARN" {
                        value = json!("arn");
                    } else {
                        normalise(&mut value);
                    }
                    (short(&name), value)
                })
                .collect();
        }
        Value::Array(values) => values.iter_mut().for_each(normalise),
        Value::String(text) => *text = short(text),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The number of a version id made by [`token`]; anything else as it is.
fn short(text: &str) -> String {
    match text.strip_prefix("00000000-0000-4000-8000-") {
        Some(number) => number.trim_start_matches('0').to_owned(),
        None => text.to_owned(),
    }
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a string: {value}")).to_owned()
}
