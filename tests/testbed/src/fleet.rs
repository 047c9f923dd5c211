//! A thousand secrets on twenty service accounts, all due at once.
//!
//! The fifty keys of an account have fifty descriptions, as keys have that people tell apart. Where all are called the same, a
//! mark is all that tells the new key of one secret from the lost key of another: see `docs/performance.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use emulator::kosli::{Key, MintedBy};
use emulator::rotation::Event;
use emulator::secrets_manager::RotationRequest;
use emulator::{Call, Emulator, Hook, Service};
use serde_json::json;

use crate::clock::{DAY, HOUR};
use crate::values::{FUNCTION, ORG, key_in, token};
use crate::world::World;

/// How many secrets.
pub const SECRETS: usize = 1_000;
/// On how many service accounts.
pub const ACCOUNTS: usize = 20;

/// One secret of the fleet.
#[derive(Clone)]
pub struct Member {
    arn: String,
    account: String,
    /// The version that the rotation makes.
    token: String,
    /// The id of the key that it holds at first.
    first_key: String,
}

/// All of them, and the keys that are nobody's business.
pub struct Fleet {
    emulator: Emulator,
    members: Vec<Member>,
    strangers: Vec<String>,
}

impl Fleet {
    /// Makes accounts, keys and secrets in a world that has an admin secret already, in all three shapes.
    pub fn new(world: &World) -> Self {
        let now = world.emulator.clock().now();
        let add_key = |account: &str, description: &str, age: u32| {
            world
                .emulator
                .with_kosli(|kosli| kosli.add_key(ORG, account, description, now - DAY * age, Some(now + DAY * 200)))
        };
        let mut strangers = Vec::new();
        for account in 0..ACCOUNTS {
            for age in [1, 90] {
                strangers.push(add_key(&format!("fleet-{account}"), "somebody's laptop", age).0);
            }
        }
        let members = (0..SECRETS).map(|number| {
            let account = format!("fleet-{}", number % ACCOUNTS);
            let (first_key, value) = add_key(&account, &format!("made by hand for fleet/{number}"), 30);
            let tag = |name: &str, value: &str| json!({ "Key": format!("kosli:{name}"), "Value": value });
            let (document, tags) = match number % 3 {
                0 => {
                    (json!({"api_key": value, "org": ORG, "service_account": account, "key_id": first_key}), json!([]))
                }
                1 => (
                    json!({"KOSLI_API_TOKEN": value, "KOSLI_ORG": ORG, "KOSLI_SERVICE_ACCOUNT": account,
                           "KOSLI_API_KEY_ID": first_key}),
                    json!([]),
                ),
                _ => (
                    json!(value),
                    json!([tag("org", ORG), tag("service-account", &account), tag("key-id", &first_key)]),
                ),
            };
            let document = document.as_str().map_or_else(|| document.to_string(), str::to_owned);
            let made = world.aws(
                "CreateSecret",
                json!({"Name": format!("fleet/{number}"), "SecretString": document, "Tags": tags,
                       "ClientRequestToken": token("first", number)}),
            );
            let arn = made.unwrap()["ARN"].as_str().unwrap().to_owned();
            Member { arn, account, token: token("second", number), first_key }
        });
        let members = members.collect();
        // A version is as old as its key.
        world.emulator.clock().advance(HOUR);
        Self { emulator: world.emulator.clone(), members, strangers }
    }

    /// Calls `RotateSecret` for all of them, as a schedule that they share does.
    pub fn begin(&self, world: &World) -> Vec<RotationRequest> {
        for member in &self.members {
            let body = json!({"SecretId": member.arn, "ClientRequestToken": member.token, "RotationLambdaARN": FUNCTION,
                              "RotationRules": {"AutomaticallyAfterDays": 30}});
            world.aws("RotateSecret", body).unwrap();
        }
        let begun = self.emulator.with_secrets_manager(|service| service.take_rotations());
        assert_eq!(begun.len(), SECRETS);
        begun
    }

    /// The key that a label of a secret holds, as its readers see it.
    fn held(&self, member: &Member, label: &str) -> Option<String> {
        self.emulator.with_secrets_manager(|service| {
            service.secret(&member.arn)?.versions.labelled(label)?.text().and_then(key_in)
        })
    }

    /// The keys of an account, by value; of all of them without one.
    fn keys(&self, account: Option<&str>) -> BTreeMap<String, Key> {
        let wanted = |key: &&Key| account.is_none_or(|account| key.account == account);
        self.emulator
            .with_kosli(|kosli| kosli.keys().filter(wanted).map(|key| (key.value.clone(), key.clone())).collect())
    }

    /// The promises that hold at every instant, for the secrets of an account: readers get a key that works, and nobody
    /// ends the key that is about to be promoted.
    fn look(&self, account: &str) -> Vec<String> {
        let members = self.members.iter().filter(|member| member.account == account);
        let held: Vec<_> =
            members.map(|member| (member, self.held(member, "AWSCURRENT"), self.held(member, "AWSPENDING"))).collect();
        // After the values: another execution may mint a key and store it between the two looks.
        let keys = self.keys(Some(account));
        let now = self.emulator.clock().now();
        let mut broken = Vec::new();
        for (member, current, pending) in held {
            if !current.as_ref().and_then(|value| keys.get(value)).is_some_and(|key| key.is_live_at(now)) {
                broken.push(format!("I1: the current key of {} is dead", member.arn));
            }
            let pending = pending.filter(|value| current.as_ref() != Some(value)).and_then(|value| keys.get(&value));
            if pending.is_some_and(|key| key.revoked_at.is_some() || key.rotated_at.is_some()) {
                broken.push(format!("I4: the pending key of {} is about to die", member.arn));
            }
        }
        broken
    }

    /// The promises that hold when all rotations have completed. `lost` answers of Kosli's were lost on the way.
    pub fn look_at_the_end(&self, lost: usize) -> Vec<String> {
        let now = self.emulator.clock().now();
        let keys = self.keys(None);
        let mut broken: Vec<String> = (0..ACCOUNTS).flat_map(|number| self.look(&format!("fleet-{number}"))).collect();
        let mut held = BTreeSet::new();
        for member in &self.members {
            let labelled = ["AWSCURRENT", "AWSPREVIOUS"].map(|label| keys.get(&self.held(member, label)?));
            let [Some(current), Some(previous)] = labelled else {
                broken.push(format!("{} was not rotated", member.arn));
                continue;
            };
            let rotated = current.minted_by != MintedBy::SetUp && current.rotated_at.is_none();
            let in_grace = previous.id == member.first_key && previous.is_in_grace_at(now);
            if !rotated || !in_grace || !held.insert(current.id.clone()) {
                broken.push(format!("{} was not rotated: {current:?} {previous:?}", member.arn));
            }
        }
        let minted: Vec<&Key> = keys.values().filter(|key| key.minted_by != MintedBy::SetUp).collect();
        if minted.len() != SECRETS + lost {
            broken.push(format!("{} keys were minted for {SECRETS} secrets, with {lost} lost answers", minted.len()));
        }
        for key in minted.iter().filter(|key| !held.contains(&key.id)) {
            if key.dies_at().is_none_or(|death| death > now + HOUR) {
                broken.push(format!("I3: nobody holds the key {}, and it lives on", key.id));
            }
        }
        for key in keys.values().filter(|key| self.strangers.contains(&key.id)) {
            if key.revoked_at.is_some() || key.rotated_at.is_some() {
                broken.push(format!("I4: the stranger's key {} was touched", key.id));
            }
        }
        broken
    }
}

/// Looks at an account whenever something of it has changed.
pub struct Watch {
    fleet: Arc<Fleet>,
    broken: Mutex<Vec<String>>,
}

impl Watch {
    /// One that has seen nothing yet.
    pub fn new(fleet: &Arc<Fleet>) -> Self {
        Self { fleet: fleet.clone(), broken: Mutex::default() }
    }

    /// What was broken so far.
    pub fn broken(&self) -> Vec<String> {
        std::mem::take(&mut *self.broken.lock().unwrap())
    }
}

impl Hook for Watch {
    fn after(&self, call: &Call) {
        let changes = ["create", "rotate", "revoke", "PutSecretValue", "UpdateSecretVersionStage"];
        if !changes.contains(&call.operation.as_str()) || call.effect.is_none_or(|status| status >= 300) {
            return;
        }
        let account = match call.service {
            Service::Kosli => call.detail.split('/').nth(1).unwrap().to_owned(),
            Service::SecretsManager => {
                let name = call.detail.split(['=', ' ']).nth(1).unwrap();
                let member = self.fleet.members.iter().find(|member| member.arn.ends_with(name));
                member.unwrap().account.clone()
            }
        };
        let broken = self.fleet.look(&account).into_iter().map(|what| format!("{what}, after {call}"));
        self.broken.lock().unwrap().extend(broken);
    }
}

/// What became of the rotations.
#[derive(Default)]
pub struct Tally {
    /// How many needed so many attempts.
    pub attempts: BTreeMap<usize, usize>,
    /// How often which error failed a step.
    pub errors: BTreeMap<String, usize>,
    /// Rotations that did not complete.
    pub unfinished: Vec<Event>,
}

impl Tally {
    /// Counts it.
    pub fn observe(&mut self, event: &Event) {
        match event {
            Event::StepFailed(step, error) => {
                *self.errors.entry(format!("{} in {step}", error.error_type)).or_default() += 1;
            }
            Event::AttemptBegan(attempt) => {
                *self.attempts.entry(*attempt).or_default() += 1;
                if let Some(before) = attempt.checked_sub(1).and_then(|before| self.attempts.get_mut(&before)) {
                    *before -= 1;
                }
            }
            Event::GivenUp | Event::Abandoned => self.unfinished.push(event.clone()),
            Event::StepBegan(_) | Event::StepSucceeded(..) | Event::Succeeded => {}
        }
    }
}
