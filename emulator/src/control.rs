//! What a person with `curl` may see and change: JSON in, JSON out. No key's value is ever shown, but that of a new key.

use std::fmt::Display;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::emulator::Emulator;
use crate::faults::{Rule, parse_duration};
use crate::kosli::{Key, Kosli, Role};
use crate::reply::json as answer_with;
use crate::secrets_manager::Secret;

/// Where the control pages begin.
pub(crate) const PREFIX: &str = "/_emulator";

const HELP: &str = r#"The emulator's control pages. H is the address that you have just asked.

  curl H/_emulator/state                                  secrets with their versions and labels, keys, faults
  curl H/_emulator/calls                                  every call to Secrets Manager and Kosli so far
  curl -d '{"advance":"25h"}' H/_emulator/clock           let time pass, in both services: 90s, 20m, 25h, 30d
  curl -d '{"fault":"rotate#1=drop-after"}' H/_emulator/faults
                                                          let the next rotate happen and lose its answer
  curl -X DELETE H/_emulator/faults                       no more faults
  curl -d '{"org":"acme","service_account":"ci","description":"made by hand"}' H/_emulator/kosli/keys
                                                          a new key; optional: "role" (admin, member, snapshotter,
                                                          reader) of its account, "expires_in" (default 365d)
  curl -X DELETE H/_emulator/kosli/keys/KEY_ID            revoke a key, as a person would after a leak

A fault is OPERATION#NUMBERS=FAULT: the numbers are #1, #2..4 or #3.. and count from now on; without them: every such
call. OPERATION@function#NUMBERS=FAULT counts the function's calls alone. Operations are Secrets Manager's (PutSecretValue) and Kosli's: create, list, get, rotate, revoke, verify,
create-account, list-accounts, get-account, delete-account.
A refusal, an error, a page and a garbled answer echo the request, as some servers and proxies do, with the key in it.
Faults are "#;

/// Answers a request to the control pages.
pub(crate) fn answer(emulator: &Emulator, request: &Request<Bytes>) -> Response<Bytes> {
    let path = request.uri().path().strip_prefix(PREFIX).unwrap_or_default();
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let body = request.body();
    let answer = match (request.method(), segments.as_slice()) {
        (&Method::GET, []) => return help(),
        (&Method::GET, ["state"]) => Ok(state(emulator)),
        (&Method::GET, ["calls"]) => Ok(emulator.calls().iter().map(ToString::to_string).collect()),
        (&Method::POST, ["clock"]) => advance(emulator, body),
        (&Method::POST, ["faults"]) => add_fault(emulator, body),
        (&Method::DELETE, ["faults"]) => {
            emulator.faults().clear();
            Ok(faults(emulator))
        }
        (&Method::POST, ["kosli", "keys"]) => add_key(emulator, body),
        (&Method::DELETE, ["kosli", "keys", id]) => revoke_key(emulator, id),
        _ => Err((StatusCode::NOT_FOUND, format!("no such page: GET {PREFIX} lists them"))),
    };
    match answer {
        Ok(value) => answer_with(StatusCode::OK, format!("{value:#}\n")),
        Err((status, message)) => answer_with(status, format!("{:#}\n", json!({ "message": message }))),
    }
}

type Answer = Result<Value, (StatusCode, String)>;

fn help() -> Response<Bytes> {
    let mut answer = answer_with(StatusCode::OK, format!("{HELP}{}.\n", crate::faults::FAULTS));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

fn state(emulator: &Emulator) -> Value {
    let now = emulator.clock().now();
    json!({
        "time": date(now),
        "secrets": emulator.with_secrets_manager(|service| service.secrets().map(secret).collect::<Value>()),
        "keys": emulator.with_kosli(|kosli| kosli.keys().map(|entry| key(kosli, entry, now)).collect::<Value>()),
        "faults": faults(emulator),
    })
}

fn secret(secret: &Secret) -> Value {
    let versions = secret.versions.iter().map(|version| {
        json!({
            "id": version.id,
            "labels": version.stages,
            "created": date(version.created),
            "has_a_value": version.value.is_some(),
        })
    });
    json!({
        "name": secret.name,
        "arn": secret.arn,
        "rotation_enabled": secret.rotation.enabled.unwrap_or_default(),
        "next_rotation": secret.rotation.next.map(date),
        "versions": versions.collect::<Value>(),
    })
}

fn key(kosli: &Kosli, key: &Key, now: SystemTime) -> Value {
    let standing = if key.revoked_at.is_some_and(|revoked| revoked <= now) {
        "revoked"
    } else if key.is_in_grace_at(now) {
        "in its grace period"
    } else if key.is_live_at(now) {
        "live"
    } else {
        "dead"
    };
    json!({
        "id": key.id,
        "account": format!("{}/{}", key.org, key.account),
        "description": key.description,
        "standing": standing,
        "accepted": kosli.accepts(&key.value),
        "created": date(key.created_at),
        "dies": key.dies_at().map(date),
        "last_used": key.last_used_at().map(date),
    })
}

fn faults(emulator: &Emulator) -> Value {
    let rules = emulator.faults().rules();
    rules.iter().map(|(rule, seen)| json!({ "fault": rule.to_string(), "calls_counted": seen })).collect()
}

fn advance(emulator: &Emulator, body: &Bytes) -> Answer {
    #[derive(Deserialize)]
    struct Input {
        advance: String,
    }
    let input: Input = parse(body)?;
    emulator.clock().advance(parse_duration(&input.advance).map_err(bad_request)?);
    Ok(json!({ "time": date(emulator.clock().now()) }))
}

fn add_fault(emulator: &Emulator, body: &Bytes) -> Answer {
    #[derive(Deserialize)]
    struct Input {
        fault: String,
    }
    let input: Input = parse(body)?;
    emulator.faults().add(input.fault.parse::<Rule>().map_err(bad_request)?);
    Ok(faults(emulator))
}

fn add_key(emulator: &Emulator, body: &Bytes) -> Answer {
    #[derive(Deserialize)]
    struct Input {
        org: String,
        service_account: String,
        role: Option<String>,
        description: Option<String>,
        expires_in: Option<String>,
    }
    let input: Input = parse(body)?;
    let role = input.role.as_deref().map(|name| {
        let no_role = || bad_request(format!("\"{name}\" is no role: admin, member, snapshotter and reader are"));
        Role::named(name).ok_or_else(no_role)
    });
    let role = role.transpose()?;
    let expires_in = parse_duration(input.expires_in.as_deref().unwrap_or("365d")).map_err(bad_request)?;
    let now = emulator.clock().now();
    let description = input.description.as_deref().unwrap_or("made at the emulator's control page");
    let (id, value) = emulator.with_kosli(|kosli| {
        if let Some(role) = role {
            kosli.add_account(&input.org, &input.service_account, role);
        }
        kosli.add_key(&input.org, &input.service_account, description, now, Some(now + expires_in))
    });
    Ok(json!({ "id": id, "key": value }))
}

fn revoke_key(emulator: &Emulator, id: &str) -> Answer {
    if emulator.with_kosli(|kosli| kosli.revoke_key(id)) {
        Ok(json!({ "revoked": id }))
    } else {
        Err((StatusCode::NOT_FOUND, format!("no live key has the id {id}")))
    }
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, (StatusCode, String)> {
    serde_json::from_slice(body).map_err(bad_request)
}

fn bad_request(why: impl Display) -> (StatusCode, String) {
    (StatusCode::BAD_REQUEST, why.to_string())
}

fn date(time: SystemTime) -> String {
    httpdate::fmt_http_date(time)
}
