//! What there is to see in a world, and what people do to it.

use std::time::Duration;

use emulator::kosli::{Key, MintedBy};
use serde_json::{Value, json};

use crate::values::key_in;
use crate::world::World;

impl World {
    /// Lets time pass while nothing runs.
    pub fn advance(&self, by: Duration) {
        self.emulator.clock().advance(by);
    }

    /// Clears the label of a pending version, as a person does at the command line.
    pub fn clear_pending(&self, version: &str) {
        let body = json!({"SecretId": self.arn, "VersionStage": "AWSPENDING", "RemoveFromVersionId": version});
        self.aws("UpdateSecretVersionStage", body).unwrap();
    }

    /// Stores a value by hand: it is current at once.
    pub fn put(&self, value: &str, version: &str) {
        let body = json!({"SecretId": self.arn, "SecretString": value, "ClientRequestToken": version});
        self.aws("PutSecretValue", body).unwrap();
    }

    /// Puts a tag on the secret.
    pub fn tag(&self, key: &str, value: &str) {
        let body = json!({"SecretId": self.arn, "Tags": [{"Key": key, "Value": value}]});
        self.aws("TagResource", body).unwrap();
    }

    /// Takes a tag off the secret.
    pub fn untag(&self, key: &str) {
        self.aws("UntagResource", json!({"SecretId": self.arn, "TagKeys": [key]})).unwrap();
    }

    /// How many calls there were of one of these operations.
    pub fn count(&self, operations: &[&str]) -> usize {
        self.emulator.calls().iter().filter(|call| operations.contains(&call.operation.as_str())).count()
    }

    /// How many calls there were that change something.
    pub fn writes(&self) -> usize {
        self.count(&["rotate", "create", "revoke", "PutSecretValue", "UpdateSecretVersionStage"])
    }

    /// A key, dead or alive; where ids are handed on, the newest.
    pub fn kosli_key(&self, id: &str) -> Key {
        self.emulator.with_kosli(|kosli| kosli.keys().filter(|key| key.id == id).last().cloned()).unwrap()
    }

    /// Whether a key is alive now.
    pub fn lives(&self, id: &str) -> bool {
        self.kosli_key(id).is_live_at(self.emulator.clock().now())
    }

    /// The value under a label.
    pub fn value(&self, label: &str) -> Option<String> {
        self.emulator.with_secrets_manager(|service| {
            let secret = service.secret(&self.arn)?;
            Some(secret.versions.labelled(label)?.text()?.to_owned())
        })
    }

    /// The value under `AWSCURRENT`, JSON, with a field that somebody edits.
    pub fn edited(&self) -> String {
        self.with_fields(&[("note", "edited")])
    }

    /// The value under `AWSCURRENT`, of the shape with `api_key`, with this key in the place of its own.
    pub fn with_key(&self, key: &Key) -> String {
        self.with_fields(&[("api_key", &key.value), ("key_id", &key.id)])
    }

    fn with_fields(&self, fields: &[(&str, &str)]) -> String {
        let mut value: Value = serde_json::from_str(&self.value("AWSCURRENT").unwrap()).unwrap();
        for (name, field) in fields {
            value[*name] = (*field).into();
        }
        value.to_string()
    }

    /// The Kosli key whose value a label holds.
    pub fn key(&self, label: &str) -> Option<Key> {
        let value = key_in(&self.value(label)?)?;
        self.emulator.with_kosli(|kosli| kosli.keys().find(|key| key.value == value).cloned())
    }

    /// The keys that the function has minted.
    pub fn minted(&self) -> Vec<Key> {
        self.emulator.with_kosli(|kosli| kosli.keys().filter(|key| key.minted_by != MintedBy::SetUp).cloned().collect())
    }

    /// How many calls the function has made since the set-up.
    pub fn calls(&self) -> usize {
        self.probe.calls()
    }

    /// What was broken at any instant so far.
    pub fn violations(&self) -> Vec<String> {
        self.probe.violations.lock().unwrap().clone()
    }
}
