//! One case: the services as they are at its beginning, and rotations in it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use emulator::kosli::{OddEntries, Role, Switches};
use emulator::rotation::{Event, Retries, step_event};
use emulator::runtime_api::Outcome;
use emulator::secrets_manager::RotationRequest;
use emulator::{Emulator, Fault};
use serde_json::{Value, json};

use crate::aws::aws;
use crate::clock::{DAY, HOUR};
use crate::emitted::{must_not_emit, search_what_was_emitted};
use crate::gate::{Act, Gate, Meanwhile};
use crate::probe::Probe;
use crate::setting::Setting;
use crate::testbed::{Execution, Testbed};
use crate::values::{ACCOUNT, ADMIN_SECRET, DESCRIPTION, FUNCTION, ORG, SECRET, token, version_id};

/// How Secrets Manager tries again; longer apart than the function's time-out and the age at which a key counts as lost.
pub const RETRIES: Retries = Retries { attempts: 6, spacing: Duration::from_secs(120) };

/// One attempt, and no other.
pub const ONCE: Retries = Retries { attempts: 1, spacing: Duration::ZERO };

/// One case: a secret with the key of a service account, other keys on that account, and an admin secret.
pub struct World {
    /// Both services.
    pub emulator: Emulator,
    /// What it was made by.
    pub setting: Setting,
    /// The execution environments of the function.
    pub executions: Vec<Execution>,
    /// The secret's ARN.
    pub arn: String,
    /// The key under `AWSCURRENT` at the beginning.
    pub first_key: String,
    /// Keys that are nobody's business here.
    pub strangers: Vec<String>,
    /// Who watches every call.
    pub probe: Arc<Probe>,
    /// What the invocations came to, for a test that fails.
    pub history: Rc<RefCell<Vec<String>>>,
}

impl World {
    pub(crate) fn new(testbed: &Testbed, setting: &Setting) -> Self {
        let emulator = testbed.emulator.clone();
        // The end of the case before.
        search_what_was_emitted(&emulator);
        emulator.reset();
        // Every case of a setting takes the same course: ids, ARNs and attempt bits are the same.
        fastrand::seed(7);
        emulator.with_secrets_manager(|service| service.seed(7));
        let begin = emulator.clock().now();
        let ago = |days: u32| begin - DAY * days;
        let expiry = begin + DAY * 200;
        let (first_key, value, mut strangers, admin_value) = emulator.with_kosli(|kosli| {
            kosli.seed(7);
            // The keys of the beginning look like those of later.
            kosli.switches = Switches { key_value: setting.switches.key_value, ..Switches::default() };
            kosli.add_account(ORG, ACCOUNT, setting.account_role());
            kosli.add_account(ORG, "platform", Role::Admin);
            let (id, value) = kosli.add_key(ORG, ACCOUNT, DESCRIPTION, ago(60), Some(expiry));
            let (_, admin_value) = kosli.add_key(ORG, "platform", "rotates", ago(60), Some(expiry));
            let mut strangers = Vec::new();
            if setting.strangers {
                strangers.push(kosli.add_key(ORG, ACCOUNT, DESCRIPTION, ago(90), Some(expiry)).0);
                strangers.push(kosli.add_key(ORG, ACCOUNT, "somebody's laptop", ago(2), Some(expiry)).0);
            }
            (id, value, strangers, admin_value)
        });
        let document = setting.shape.value(&first_key, &value);
        let tags = setting.shape.tags(&first_key);
        let tags: Vec<Value> = tags.iter().map(|(key, value)| json!({"Key": key, "Value": value})).collect();
        let aws = |operation: &str, body: Value| aws(&emulator, operation, &body).unwrap();
        aws(
            "CreateSecret",
            json!({"Name": ADMIN_SECRET, "SecretString": admin_value, "ClientRequestToken": token("admin", 0)}),
        );
        let made = aws(
            "CreateSecret",
            json!({"Name": SECRET, "SecretString": document, "Tags": tags, "ClientRequestToken": token("first", 0)}),
        );
        let arn = made["ARN"].as_str().unwrap().to_owned();
        // The version is as old as its key.
        emulator.clock().advance(HOUR);

        // A stranger whose expiry carries our very mark: it was used, and it is older than the version.
        let mark = kosli_key_rotation::marker::Mark::of(&arn, &version_id(&token("first", 0)));
        let attempt = kosli_key_rotation::marker::Attempt::fresh(&[]);
        let marked = mark.expires_at(attempt, begin, DAY * 100);
        if setting.strangers {
            strangers.push(emulator.with_kosli(|kosli| {
                let expires_at = UNIX_EPOCH + Duration::from_secs(marked);
                kosli.add_key(ORG, ACCOUNT, DESCRIPTION, ago(1), Some(expires_at)).0
            }));
        }
        emulator.with_kosli(|kosli| kosli.switches = setting.switches.clone());
        if setting.switches.odd_entries == OddEntries::Strangers {
            strangers.extend(emulator.with_kosli(|kosli| kosli.odd_keys(ORG, ACCOUNT)));
        }
        emulator.with_secrets_manager(|service| service.set_staleness(setting.staleness));
        let executions = testbed.executions.clone();
        let probe = Arc::new(Probe::new(&emulator, &executions, &arn, &strangers));
        emulator.set_hook(probe.clone());
        Self {
            emulator,
            setting: setting.clone(),
            executions,
            arn,
            first_key,
            strangers,
            probe,
            history: Rc::default(),
        }
    }

    /// A second secret, with a key of its own on the same service account: to each other they are strangers.
    pub fn sibling(&self, name: &str) -> Self {
        let now = self.emulator.clock().now();
        let (first_key, value) = self
            .emulator
            .with_kosli(|kosli| kosli.add_key(ORG, ACCOUNT, DESCRIPTION, now - DAY * 30, Some(now + DAY * 200)));
        let document = json!({"org": ORG, "service_account": ACCOUNT, "key_id": first_key, "api_key": value});
        let token = token("sibling", 0);
        let made = self
            .aws(
                "CreateSecret",
                json!({"Name": name, "SecretString": document.to_string(), "ClientRequestToken": token}),
            )
            .unwrap();
        let arn = made["ARN"].as_str().unwrap().to_owned();
        self.probe.arns.lock().unwrap().push(arn.clone());
        Self {
            emulator: self.emulator.clone(),
            setting: self.setting.clone(),
            executions: self.executions.clone(),
            arn,
            first_key,
            strangers: self.strangers.clone(),
            probe: self.probe.clone(),
            history: self.history.clone(),
        }
    }

    /// Lets a fault befall the first call of this operation.
    pub fn fault_on(&self, operation: &str, fault: Fault) {
        self.probe.first_of.lock().unwrap().push((operation.to_owned(), fault));
    }

    /// Lets a fault befall calls that are counted from now on, as the emulator's rules say: `rotate#1=drop-after`.
    pub fn rule(&self, rule: &str) {
        self.emulator.faults().add(rule.parse().unwrap());
    }

    /// Lets something happen once, right before a call of this operation reaches its service.
    pub fn meanwhile(&self, operation: &'static str, act: impl FnOnce(&Emulator) + Send + 'static) {
        self.before_call(operation, 1, act);
    }

    /// The same, right before the call of this operation that has this number, counted from now on.
    pub fn before_call(&self, operation: &'static str, number: usize, act: impl FnOnce(&Emulator) + Send + 'static) {
        let act: Act = Box::new(act);
        self.set_gate(Some(Arc::new(Meanwhile {
            operation,
            passing: AtomicUsize::new(number - 1),
            emulator: self.emulator.clone(),
            act: Mutex::new(Some(act)),
        })));
    }

    /// Who decides from now on when a call may go on.
    pub fn set_gate(&self, gate: Option<Arc<dyn Gate>>) {
        *self.probe.gate.lock().unwrap() = gate;
    }

    /// Calls Secrets Manager as a person does, without being counted.
    pub fn aws(&self, operation: &str, body: Value) -> Result<Value, String> {
        aws(&self.emulator, operation, &body)
    }

    /// Calls `RotateSecret` with this token and takes the rotation that it began.
    pub fn begin_rotation(&self, token: &str) -> Option<RotationRequest> {
        let body = json!({
            "SecretId": self.arn,
            "ClientRequestToken": token,
            "RotationLambdaARN": FUNCTION,
            "RotationRules": {"AutomaticallyAfterDays": 30},
        });
        // A refusal that attempts an earlier rotation again begins one all the same.
        let _ = self.aws("RotateSecret", body);
        let rotation = self.emulator.with_secrets_manager(|service| service.take_rotations()).into_iter().next()?;
        must_not_emit(&rotation.rotation_token);
        Some(rotation)
    }

    /// Rotates once, as Secrets Manager does: all four steps, the whole process again after a failure.
    pub async fn rotate(&self, token: &str, retries: Retries) -> Event {
        let Some(rotation) = self.begin_rotation(token) else { return Event::Abandoned };
        self.drive(&rotation, retries).await
    }

    /// Drives a rotation that has begun.
    pub async fn drive(&self, rotation: &RotationRequest, retries: Retries) -> Event {
        let invoke = |event: Value| async move { self.invoke(0, &event).await };
        emulator::rotation::rotate(&self.emulator, rotation, retries, invoke, |_, event| self.say(event.to_string()))
            .await
    }

    /// Invokes the first execution environment for one step of a rotation.
    pub async fn step(&self, rotation: &RotationRequest, step: &str) -> Outcome {
        self.invoke(0, &step_event(rotation, step)).await
    }
}
