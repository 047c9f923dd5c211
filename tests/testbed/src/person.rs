//! What a person does, or another execution of the function: in Kosli, and to the secret.

use emulator::Emulator;
use emulator::kosli::Key;
use http::Request;
use serde_json::{Value, json};

use crate::clock::DAY;
use crate::values::{ACCOUNT, DESCRIPTION, ORG};
use crate::world::World;

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

impl World {
    /// A key that a person makes in Kosli, on an account of the organization. It lives for 90 days.
    pub fn made_by_hand(&self, account: &str) -> Key {
        let now = self.emulator.clock().now();
        let end = Some(now + DAY * 90);
        let (id, _) = self.emulator.with_kosli(|kosli| kosli.add_key(ORG, account, DESCRIPTION, now, end));
        self.kosli_key(&id)
    }

    /// Moves a label, or attaches it, as a person does.
    #[track_caller]
    pub fn move_label(&self, label: &str, to: &str, from: Option<&str>) {
        let mut body = json!({"SecretId": self.arn, "VersionStage": label, "MoveToVersionId": to});
        if let Some(from) = from {
            body["RemoveFromVersionId"] = from.into();
        }
        self.aws("UpdateSecretVersionStage", body).unwrap();
    }

    /// Writes a version by hand, as a `put-secret-value` that leaves `AWSPENDING` where it is.
    #[track_caller]
    pub fn put_current(&self, value: &str, version: &str) {
        let body = json!({"SecretId": self.arn, "SecretString": value, "ClientRequestToken": version,
                          "VersionStages": ["by-hand"]});
        self.aws("PutSecretValue", body).unwrap();
        let current = self.emulator.with_secrets_manager(|service| {
            service.secret(&self.arn).unwrap().versions.labelled("AWSCURRENT").unwrap().id.clone()
        });
        self.move_label("AWSCURRENT", version, Some(&current));
    }
}
