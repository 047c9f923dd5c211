//! The event, from the bytes that Lambda delivers: what is accepted is valid, what is rejected says so in the documented
//! way, and the `RotationToken` shows in neither.
#![no_main]

use kosli_key_rotation::error::{ErrorKind, RotationError};
use kosli_key_rotation::event::{Event, RotationEvent};
use libfuzzer_sys::fuzz_target;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

fuzz_target!(|data: &[u8]| {
    // As `main.rs` has it: what is no JSON is `null`.
    let event: Value = serde_json::from_slice(data).unwrap_or_default();
    let outcome = Event::parse(&event);
    match &outcome {
        Ok(Event::Rotation(rotation)) => accepted(rotation, &event),
        Ok(Event::Check { secret_id }) => {
            assert_eq!(event["Step"], "checkSecret");
            assert_eq!(secret_id.as_ref().map(|id| id.as_str()), event["SecretId"].as_str());
            secret_id.iter().for_each(|id| valid_secret_id(id.as_str()));
        }
        Err(error) => rejected(error),
    }
    the_rotation_token_shows_nowhere(&event, &outcome);
    unknown_fields_are_ignored(&event, &outcome);
});

fn accepted(rotation: &RotationEvent, event: &Value) {
    assert_eq!(event["Step"], rotation.step.name());
    assert!(["createSecret", "setSecret", "testSecret", "finishSecret"].contains(&rotation.step.name()));
    assert_eq!(event["SecretId"], rotation.secret_id.as_str());
    valid_secret_id(rotation.secret_id.as_str());
    let version_id = rotation.version_id.as_str();
    assert_eq!(event["ClientRequestToken"], version_id);
    assert!((1..=64).contains(&version_id.len()) && version_id.bytes().all(|byte| byte.is_ascii_graphic()));
    let rotation_token = rotation.rotation_token.as_ref().map(|token| token.expose_secret());
    assert_eq!(event.get("RotationToken").and_then(Value::as_str), rotation_token);
    assert!(rotation_token.is_none_or(valid_rotation_token));
}

fn valid_secret_id(id: &str) {
    assert!((1..=2_048).contains(&id.len()) && !id.chars().any(char::is_control));
}

fn valid_rotation_token(token: &str) -> bool {
    (36..=256).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn rejected(error: &RotationError) {
    assert_eq!(error.kind(), ErrorKind::InvalidEvent);
    assert!(ErrorKind::ALL.contains(&error.kind()));
    let text = error.to_string();
    // Of the event at most 32 characters are repeated, each escaped to 10 at most.
    assert!(text.len() < 700 && text.chars().all(|character| (' '..='~').contains(&character)), "{text}");
}

/// Another token in its place changes nothing that anybody sees.
fn the_rotation_token_shows_nowhere(event: &Value, outcome: &Result<Event, RotationError>) {
    const OTHER: &str = "another-RotationToken-0123456789-0123456789";
    const MALFORMED: &str = "no RotationToken";
    let shown = shown(outcome);
    let mut event = event.clone();
    match event.get_mut("RotationToken") {
        Some(Value::String(token)) if valid_rotation_token(token) => OTHER.clone_into(token),
        Some(Value::String(token)) if !token.is_empty() => MALFORMED.clone_into(token),
        _ => return,
    }
    assert_eq!(self::shown(&Event::parse(&event)), shown);
}

fn unknown_fields_are_ignored(event: &Value, outcome: &Result<Event, RotationError>) {
    let mut event = event.clone();
    let Value::Object(fields) = &mut event else { return };
    fields.insert("Unknown".to_owned(), json!([{"Step": "createSecret"}, null]));
    assert_eq!(shown(&Event::parse(&event)), shown(outcome));
}

fn shown(outcome: &Result<Event, RotationError>) -> String {
    match outcome {
        Ok(event) => format!("{event:?}"),
        Err(error) => format!("{error:?} {error}"),
    }
}
