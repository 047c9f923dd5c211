//! Secrets Manager as a person calls it.

use emulator::Emulator;
use http::Request;
use serde_json::Value;

/// Calls Secrets Manager as a person does, without being counted.
pub fn aws(emulator: &Emulator, operation: &str, body: &Value) -> Result<Value, String> {
    let request = Request::post("/")
        .header("x-amz-target", format!("secretsmanager.{operation}"))
        .header("authorization", "AWS4-HMAC-SHA256 made up")
        .body(body.to_string().into())
        .unwrap();
    let answer = emulator.with_secrets_manager(|service| service.handle(&request));
    let value = serde_json::from_slice(answer.body()).unwrap_or_default();
    if answer.status().is_success() { Ok(value) } else { Err(format!("{value}")) }
}
