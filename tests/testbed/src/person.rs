//! Kosli as somebody else uses it: a person, or another execution of the function.

use emulator::Emulator;
use http::Request;
use serde_json::Value;

use crate::values::{ACCOUNT, ORG};

/// Rotates a key of the account with somebody's key who may, without being counted. `body` is what the request says; the answer has
/// the new key.
#[track_caller]
pub fn rotate_by_hand(emulator: &Emulator, id: &str, body: &Value) -> Value {
    let path = format!("/api/v2/service-accounts/{ORG}/{ACCOUNT}/api-keys/{id}/rotate");
    emulator.with_kosli(|kosli| {
        let admin = kosli.keys().find(|key| key.account != ACCOUNT && key.revoked_at.is_none()).unwrap();
        let request = Request::post(path).header("authorization", format!("Bearer {}", admin.value));
        let answer = kosli.handle(&request.body(body.to_string().into()).unwrap());
        assert!(answer.status().is_success(), "{answer:?}");
        serde_json::from_slice(answer.body()).unwrap()
    })
}
