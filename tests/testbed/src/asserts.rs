//! The promises, asserted; and what a step came to.

use emulator::kosli::{Key, MintedBy};
use emulator::rotation::{Event, Retries};
use emulator::runtime_api::Outcome;
use emulator::secrets_manager::RotationRequest;
use serde_json::Value;

use crate::clock::HOUR;
use crate::values::{key_in, second};
use crate::world::{RETRIES, World};

impl World {
    /// Rotates over redelivery, and asserts that it completes and that every promise holds.
    pub async fn rotate_completely(&self, token: &str) {
        let end = self.rotate(token, RETRIES).await;
        assert_eq!(end, Event::Succeeded, "{}", self.story());
        self.assert_completed();
    }

    /// Drives a rotation that has begun, and asserts that it completes and that every promise holds.
    pub async fn complete(&self, rotation: &RotationRequest, retries: Retries) {
        assert_eq!(self.drive(rotation, retries).await, Event::Succeeded, "{}", self.story());
        self.assert_completed();
    }

    /// Rotates while this befalls it, and asserts that every promise holds and how many keys it took.
    pub async fn rotate_through(&self, rule: &str, retries: Retries, keys: usize) {
        self.rule(rule);
        assert_eq!(self.rotate(&second(), retries).await, Event::Succeeded, "{rule}\n{}", self.story());
        self.assert_completed();
        self.assert_chain(keys);
    }

    /// Asserts that every key but the last was lost, and that each was replaced by rotating it.
    pub fn assert_chain(&self, length: usize) {
        let minted = self.minted();
        assert_eq!(minted.len(), length, "{}", self.story());
        let mut replaced = self.first_key.clone();
        for key in &minted {
            assert_eq!(key.minted_by, MintedBy::Rotate { of: replaced.clone() }, "{}", self.story());
            replaced.clone_from(&key.id);
        }
        for lost in &minted[..length - 1] {
            assert!(lost.revoked_at.is_some(), "the lost key {} was not revoked\n{}", lost.id, self.story());
        }
        assert_eq!(self.key("AWSCURRENT").map(|key| key.id), Some(replaced));
    }

    /// Asserts the promises that hold once a rotation has completed.
    pub fn assert_completed(&self) {
        let broken = self.check_completed();
        assert!(broken.is_empty(), "{broken:?}\n{}", self.story());
    }

    /// Asserts the promises that hold at every instant.
    pub fn assert_kept(&self) {
        self.probe.look("now");
        let broken = self.violations();
        assert!(broken.is_empty(), "{broken:?}\n{}", self.story());
    }

    /// The promises that hold once a rotation has completed.
    pub fn check_completed(&self) -> Vec<String> {
        self.probe.look("at the end");
        let mut broken = self.violations();
        let now = self.emulator.clock().now();
        // By any secret: several may share an account.
        let held: Vec<String> = self.emulator.with_secrets_manager(|service| {
            let versions = service.secrets().flat_map(|secret| secret.versions.iter());
            versions
                .filter(|version| !version.stages.is_empty())
                .filter_map(|version| key_in(version.text()?))
                .collect()
        });
        for key in self.minted() {
            let dies_soon = key.dies_at().is_some_and(|death| death <= now + HOUR);
            let shares_an_id = self
                .emulator
                .with_kosli(|kosli| kosli.keys().any(|other| other.id == key.id && held.contains(&other.value)));
            if key.is_live_at(now) && !held.contains(&key.value) && !dies_soon && !shares_an_id {
                broken.push(format!("I3: the key {} lives, and no version holds it: {key:?}", key.id));
            }
        }
        match self.key("AWSCURRENT") {
            Some(key) if key.id == self.first_key && key.minted_by == MintedBy::SetUp => {
                broken.push("the key was not replaced".to_owned());
            }
            Some(key) if key.rotated_at.is_some() => broken.push("I1: the new key is in its grace period".to_owned()),
            Some(_) => {}
            None => broken.push("nothing is under AWSCURRENT".to_owned()),
        }
        let pending = self.value("AWSPENDING");
        if pending.is_some() && pending != self.value("AWSCURRENT") {
            broken.push("AWSPENDING was left behind".to_owned());
        }
        broken
    }

    /// Begins a rotation whose first mint has its effect and whose execution then dies: the key's value is lost.
    pub async fn lose_a_key(&self) -> (RotationRequest, Key) {
        let rotation = self.begin_rotation(&second()).unwrap();
        self.rule("rotate#1=kill-after");
        refused(self.step(&rotation, "createSecret").await, "Runtime.killed");
        let [lost] = <[Key; 1]>::try_from(self.minted()).unwrap();
        (rotation, lost)
    }

    /// Begins a rotation and runs its steps up to the promotion.
    pub async fn until_finish(&self, token: &str) -> RotationRequest {
        let rotation = self.begin_rotation(token).unwrap();
        for step in ["createSecret", "setSecret", "testSecret"] {
            done(self.step(&rotation, step).await);
        }
        rotation
    }
}

/// The answer of a step that succeeded.
#[track_caller]
pub fn done(outcome: Outcome) -> Value {
    outcome.unwrap_or_else(|error| panic!("{error}"))
}

/// The message of a step that failed in this way.
#[track_caller]
pub fn refused(outcome: Outcome, error_type: &str) -> String {
    match outcome {
        Err(error) if error.error_type == error_type => error.error_message,
        other => panic!("{other:?} instead of {error_type}"),
    }
}
