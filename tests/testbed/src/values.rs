//! What things are called, and what is in a secret's value.

use serde_json::{Value, json};

/// The organization.
pub const ORG: &str = "acme";
/// The service account whose key is rotated.
pub const ACCOUNT: &str = "ci";
/// The secret that is rotated.
pub const SECRET: &str = "kosli/ci";
/// The secret with the admin key.
pub const ADMIN_SECRET: &str = "kosli/admin";
/// What the key is called.
pub const DESCRIPTION: &str = "continuous integration";
/// The function's ARN.
pub const FUNCTION: &str = "arn:aws:lambda:eu-west-1:123456789012:function:kosli-key-rotation";

/// The variables that Lambda itself sets, and without which there is no function.
pub fn set_by_lambda(name: &str) -> Option<String> {
    match name {
        "AWS_REGION" => Some("eu-west-1".to_owned()),
        "AWS_ACCESS_KEY_ID" | "AWS_SECRET_ACCESS_KEY" => Some("made-up".to_owned()),
        _ => None,
    }
}

/// A version id that looks like AWS's.
pub fn token(kind: &str, number: usize) -> String {
    format!("{kind:0>8}-0000-4000-8000-{number:012}")
}

/// The version id of the rotation that replaces the first key.
pub fn second() -> String {
    token("second", 0)
}

/// A version id as the function knows it, from an event.
pub fn version_id(id: &str) -> kosli_key_rotation::event::VersionId {
    use kosli_key_rotation::event::Event;
    let event = json!({"Step": "createSecret", "SecretId": "s", "ClientRequestToken": id});
    match Event::parse(&event) {
        Ok(Event::Rotation(event)) => event.version_id,
        other => panic!("{other:?}"),
    }
}

/// The key in a secret's value, of whatever shape.
pub fn key_in(value: &str) -> Option<String> {
    match serde_json::from_str::<Value>(value) {
        Ok(Value::Object(fields)) => {
            let key = fields.get("api_key").or(fields.get("KOSLI_API_TOKEN"))?;
            Some(key.as_str()?.to_owned())
        }
        _ => Some(value.trim().to_owned()),
    }
}
