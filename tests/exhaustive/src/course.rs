//! The course of a case: invocations, what they come to, and the operator who does what he is told until all is well.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use emulator::Call;
use emulator::kosli::Key;
use emulator::rotation::{Event, Retries};
use emulator::runtime_api::{FunctionError, Outcome};
use emulator::secrets_manager::{RotationRequest, Secret, Version};
use kosli_key_rotation::marker::Mark;
use serde_json::{Value, json};
use testbed::{ACCOUNT, ADMIN_SECRET, DAY, DESCRIPTION, HOUR, ORG, Shape, TIMEOUT, World, key_in, token, version_id};

use crate::excused;
use crate::ledger::{Ledger, is_labelled};

/// How Secrets Manager tries again: longer apart than the function's time-out and the age at which a key counts as lost.
const RETRIES: Retries = Retries { attempts: 4, spacing: Duration::from_secs(120) };

/// How often the operator asks for a rotation.
const ASKS: usize = 6;

/// How much of a key's life a healthy state leaves.
const HEALTHY_FOR: Duration = Duration::from_secs(7 * 86_400);

/// How much later the end of a case is looked at: by then whatever dies soon has died, and `checkSecret` sees what is left.
const AFTERWARDS: Duration = Duration::from_secs(2 * 3_600);

/// The field that a person edits: no word of the function's own.
pub const FIELD: &str = "pager_duty_team";

/// What a person takes back, or corrects, once an error has come.
pub type Repair = Box<dyn FnOnce(&Course)>;

/// One case.
pub struct Course {
    /// The world.
    pub world: World,
    /// Who holds what, and what was said.
    pub ledger: Arc<Ledger>,
    /// The function's time-out.
    pub timeout: Cell<Duration>,
    /// Rotations that somebody has begun and that have not been driven yet.
    pub begun: RefCell<VecDeque<RotationRequest>>,
    /// What a person corrects once something has failed.
    pub repairs: RefCell<Vec<Repair>>,
    /// When it began.
    begin: SystemTime,
    /// Other secrets of the same account.
    pub siblings: RefCell<Vec<World>>,
    /// How many version ids people have made up.
    versions: Rc<Cell<usize>>,
    /// Nobody can tell a dying key from its successor: Kosli has given both the same id, or shows no marks.
    pub is_blind: bool,
    /// Several things befall it one after the other, as in random schedules: what only such a course comes to may be forgiven.
    pub is_long: bool,
    /// The execution environment that other rotations run on.
    pub elsewhere: usize,
    last_error: RefCell<Option<FunctionError>>,
}

/// How often a report is asked for in the end.
const REPORTS: usize = 3;

impl Course {
    /// Begins a case.
    pub fn new(world: World) -> Self {
        let ledger = Arc::new(Ledger::new(&world.emulator));
        ledger.observe();
        Self::with(world, ledger)
    }

    /// The course of another secret in the same case.
    pub fn beside(&self, world: World) -> Self {
        let (elsewhere, is_long, versions) = (self.elsewhere, self.is_long, self.versions.clone());
        Self { elsewhere, is_long, versions, ..Self::with(world, self.ledger.clone()) }
    }

    fn with(world: World, ledger: Arc<Ledger>) -> Self {
        Self {
            begin: world.emulator.clock().now(),
            is_blind: excused::one_id(&world.setting.switches) || excused::hides_lost_keys(&world.setting.switches),
            is_long: false,
            world,
            ledger,
            timeout: Cell::new(TIMEOUT),
            begun: RefCell::default(),
            repairs: RefCell::default(),
            siblings: RefCell::default(),
            versions: Rc::default(),
            elsewhere: 1,
            last_error: RefCell::default(),
        }
    }

    /// Says something to whoever reads the story of a case that failed.
    pub fn tell(&self, what: &str) {
        self.world.say(what.to_owned());
    }

    /// A version id that nobody has used yet, whose mark nobody has: two marks are the same by chance once in so many times, whose
    /// odds the design names.
    pub fn fresh_version(&self) -> String {
        let marks = self.marks(|_| true);
        let ends: Vec<u64> = self.world.emulator.with_kosli(|kosli| kosli.keys().filter_map(expiry).collect());
        loop {
            self.versions.set(self.versions.get() + 1);
            let version = token("again", self.versions.get());
            let mark = Mark::of(&self.world.arn, &version_id(&version));
            if !marks.contains(&mark) && ends.iter().all(|end| mark.attempt_in(*end).is_none()) {
                return version;
            }
        }
    }

    /// Every mark that a key of some secret's may carry, of those versions that count.
    fn marks(&self, counts: impl Fn(&Version) -> bool) -> Vec<Mark> {
        self.world.emulator.with_secrets_manager(|service| {
            let of_secret = |secret: &Secret| -> Vec<Mark> {
                let of_version = |version: &Version| Mark::of(&secret.arn, &version_id(&version.id));
                secret.versions.iter().filter(|version| counts(version)).map(of_version).collect()
            };
            service.secrets().flat_map(of_secret).collect()
        })
    }

    /// Invokes the function.
    pub async fn invoke(&self, execution: usize, event: &Value) -> Outcome {
        let emulator = &self.world.emulator;
        let (before, began) = (emulator.calls().len(), emulator.clock().now());
        let in_sight = if self.is_long { self.marks(is_labelled) } else { Vec::new() };
        let outcome = self.world.invoke_within(execution, event, self.timeout.get()).await;
        self.ledger.note(&outcome);
        self.ledger.observe();
        if self.is_long {
            excused::promoted(self, &in_sight, &outcome);
        }
        match &outcome {
            Err(error) => {
                let mut calls = emulator.calls().split_off(before);
                calls.retain(|call| call.tag == self.world.executions[execution].tag);
                self.expect_death_named(error, event, began, &calls);
            }
            Ok(_) => self.tell(&format!("{} came to an answer", event["Step"])),
        }
        outcome
    }

    /// Every failure after a mint names the instant at which the key under `AWSCURRENT` dies (promise I7).
    fn expect_death_named(&self, error: &FunctionError, event: &Value, began: SystemTime, calls: &[Call]) {
        let emulator = &self.world.emulator;
        let now = emulator.clock().now();
        let arn = event["SecretId"].as_str().unwrap_or_default();
        let current = emulator
            .with_secrets_manager(|service| key_in(service.secret(arn)?.versions.labelled("AWSCURRENT")?.text()?));
        let minted = calls.iter().any(|call| call.operation == "rotate");
        // One that was rotated before this case began, and that somebody has gone back to, is no failure after a mint; one that somebody
        // else has rotated meanwhile, none of this step's.
        let since = |key: &Key| key.rotated_at.is_some_and(|at| at >= self.begin && (at < began || minted));
        let dying = |key: &&Key| Some(&key.value) == current.as_ref() && key.is_in_grace_at(now) && since(key);
        let Some(dying) = emulator.with_kosli(|kosli| kosli.keys().find(dying).cloned()) else { return };
        let says = |words: &str| error.error_message.contains(words);
        let is_named = says("works until") || says("may have stopped working at about");
        let says_nothing = !error.error_type.starts_with("Runtime.") && !is_named;
        // A clean-up that fails says that the new version is current: a person has moved the label back since its last look at the labels.
        let is_promoted = error.error_type == "CleanUpIncomplete";
        if says_nothing && !is_promoted && !excused::nothing_tells_of_the_mint(self, &dying, event, calls) {
            self.tell(&format!("this does not say that {} is dying, at {}: {error}", dying.id, event["Step"]));
            self.world.probe.report(format!("I7: {} does not say until when the current key works", error.error_type));
        }
    }

    /// Whether the secret says which account its key belongs to, and there is a key that may list that account's keys.
    pub fn can_list(&self, arn: &str) -> bool {
        let world = &self.world;
        let now = world.emulator.clock().now();
        let named = world.emulator.with_secrets_manager(|service| {
            let secret = service.secret(arn)?;
            let tags = secret.tags.iter().flatten();
            tags.filter(|tag| tag.key == "kosli:service-account").map(|tag| tag.value.clone()).next()
        });
        let current = world.emulator.with_secrets_manager(|service| {
            Some(service.secret(arn)?.versions.labelled("AWSCURRENT")?.text()?.to_owned())
        });
        let by_value = current.as_ref().is_some_and(|value| value.contains(&format!("\"{ACCOUNT}\"")));
        let is_named = named.map_or(by_value, |name| name == ACCOUNT);
        let with = if world.setting.admin {
            world.emulator.with_secrets_manager(|service| {
                Some(service.secret(ADMIN_SECRET)?.versions.labelled("AWSCURRENT")?.text()?.to_owned())
            })
        } else {
            current.as_deref().and_then(key_in)
        };
        let may = |key: &Key| {
            Some(&key.value) == with.as_ref() && key.is_live_at(now) && (key.account == ACCOUNT) != world.setting.admin
        };
        is_named && world.emulator.with_kosli(|kosli| kosli.keys().any(may))
    }

    /// Drives a rotation as Secrets Manager does. `between` is told when a step has ended.
    pub async fn drive(
        &self,
        execution: usize,
        rotation: &RotationRequest,
        attempts: usize,
        between: impl AsyncFn(&str),
    ) -> Event {
        let between = &between;
        let invoke = |event: Value| async move {
            let outcome = self.invoke(execution, &event).await;
            between(event["Step"].as_str().unwrap_or_default()).await;
            outcome
        };
        self.drive_with(rotation, attempts, invoke).await
    }

    /// The same, with steps that are delivered in another way.
    pub async fn drive_with<F: Future<Output = Outcome>>(
        &self,
        rotation: &RotationRequest,
        attempts: usize,
        invoke: impl Fn(Value) -> F,
    ) -> Event {
        let observe = |_: &RotationRequest, event: &Event| {
            match event {
                Event::AttemptBegan(_) | Event::StepBegan(_) => return,
                Event::StepFailed(_, error) => *self.last_error.borrow_mut() = Some(error.clone()),
                Event::Succeeded => *self.last_error.borrow_mut() = None,
                _ => {}
            }
            self.tell(&format!("{}: {event}", rotation.token));
        };
        let retries = Retries { attempts, ..RETRIES };
        emulator::rotation::rotate(&self.world.emulator, rotation, retries, invoke, observe).await
    }

    /// Calls `RotateSecret` as a person does, after `AWSPENDING` is off whatever was abandoned, where that stands in the way.
    pub fn begin_again(&self, clear_first: bool) -> Option<RotationRequest> {
        if clear_first {
            self.clear_pending();
        }
        let version = self.fresh_version();
        self.tell(&format!("rotate-secret, {version}"));
        self.world.begin_rotation(&version)
    }

    /// Takes `AWSPENDING` off a version that is not current. False: there is none.
    pub fn clear_pending(&self) -> bool {
        let (Some(pending), current) = (self.holder("AWSPENDING"), self.holder("AWSCURRENT")) else { return false };
        if Some(&pending) == current.as_ref() {
            return false;
        }
        self.tell(&format!("a person takes AWSPENDING off {pending}"));
        self.world.clear_pending(&pending);
        true
    }

    /// The version that carries a label.
    pub fn holder(&self, label: &str) -> Option<String> {
        self.world
            .emulator
            .with_secrets_manager(|service| Some(service.secret(&self.world.arn)?.versions.labelled(label)?.id.clone()))
    }

    /// Makes a key by hand, as a person does in Kosli's pages.
    pub fn make_key(&self) -> Key {
        let now = self.world.emulator.clock().now();
        let marks = self.marks(|_| true);
        let is_marked = |end: u64| marks.iter().any(|mark| mark.attempt_in(end).is_some());
        let end = seconds(now + DAY * 190);
        let end = (end..).find(|end| !is_marked(*end)).map(|end| UNIX_EPOCH + Duration::from_secs(end));
        self.world.emulator.with_kosli(|kosli| {
            let (_, value) = kosli.add_key(ORG, ACCOUNT, DESCRIPTION, now, end);
            kosli.keys().find(|key| key.value == value).cloned().unwrap()
        })
    }

    /// Puts a key into the secret by hand, with its id where the secret keeps it; the version comes back.
    pub fn put_key(&self, key: &Key) -> String {
        let version = self.fresh_version();
        let shape = self.world.setting.shape;
        self.world.put(&self.with_key(key), &version);
        if matches!(shape, Shape::WithoutId | Shape::Plain) {
            let label = json!({"SecretId": self.world.arn, "VersionStage": format!("kosli-key-id:{}", key.id),
                               "MoveToVersionId": version});
            self.world.aws("UpdateSecretVersionStage", label).unwrap();
        }
        self.tell(&format!("a person puts the key {} in, {version}", key.id));
        version
    }

    /// The value under `AWSCURRENT` with this key and its id in the place of its own.
    fn with_key(&self, key: &Key) -> String {
        let current = self.world.value("AWSCURRENT").unwrap();
        let Ok(Value::Object(mut fields)) = serde_json::from_str(&current) else { return key.value.clone() };
        let (id, value) = (&key.id, &key.value);
        for (field, value) in [("api_key", value), ("KOSLI_API_TOKEN", value), ("key_id", id), ("KOSLI_API_KEY_ID", id)]
        {
            fields.entry(field).and_modify(|old| *old = json!(value));
        }
        if self.world.setting.shape == Shape::ApiKey {
            fields.insert("key_id".to_owned(), json!(key.id));
        }
        Value::Object(fields).to_string()
    }

    /// Why this state is not one to leave alone; `None`: all is well.
    pub fn unhealthy(&self) -> Option<String> {
        let now = self.world.emulator.clock().now();
        let Some(current) = self.world.key("AWSCURRENT") else { return Some("nothing is under AWSCURRENT".to_owned()) };
        if !current.is_live_at(now) {
            return Some(format!("the current key {} is dead", current.id));
        }
        if current.rotated_at.is_some() || current.dies_at().is_some_and(|at| at < now + HEALTHY_FOR) {
            return Some(format!("the current key {} is dying", current.id));
        }
        let pending = self.holder("AWSPENDING");
        (pending.is_some() && pending != self.holder("AWSCURRENT")).then(|| "AWSPENDING was left behind".to_owned())
    }

    /// Asks for a report; whether all is well by it.
    pub async fn check_secret(&self) -> bool {
        let outcome = self.invoke(0, &json!({"Step": "checkSecret", "SecretId": self.world.arn})).await;
        self.tell(&format!("checkSecret: {outcome:?}"));
        outcome.is_ok_and(|report| report["healthy"] == true)
    }

    /// The operator does what he is told, until all is well.
    pub async fn operate(&self) {
        for _ in 0..ASKS {
            if self.unhealthy().is_none() {
                return;
            }
            self.act().await;
        }
        if let Some(why) = self.unhealthy() {
            let error = self.last_error.borrow().as_ref().map(|error| error.error_type.clone()).unwrap_or_default();
            self.world.probe.report(format!("I6: the operator did all that he was told, and still {why} ({error})"));
        }
    }

    /// The operator does once what he is told, where all is not well.
    pub async fn act(&self) {
        let Some(why) = self.unhealthy() else { return };
        let error = self.last_error.take();
        if error.is_none() && !self.is_blind && self.check_secret().await {
            // A rotation may be at work, for all that a report knows; later it is stuck.
            self.world.advance(AFTERWARDS);
            // People and other executions go on meanwhile.
            if self.check_secret().await && self.unhealthy().as_ref() == Some(&why) {
                self.world.probe.report(format!("I7: {why}, and nobody was told"));
            }
        }
        // What was wrong was somebody's mistake a moment ago: he needs no new key.
        let error = error.filter(|_| !self.put_right());
        let begun = self.begun.borrow_mut().pop_front();
        let rotation = begun.or_else(|| self.do_as_told(error.as_ref())).or_else(|| self.begin_again(false));
        // AWS: cancel-rotate-secret can leave AWSPENDING behind, which has to be taken off.
        let rotation = rotation.or_else(|| self.begin_again(true));
        let Some(rotation) = rotation else { return };
        self.drive(0, &rotation, RETRIES.attempts, async |_| {}).await;
    }

    /// Somebody puts right what he has broken. False: he has broken nothing.
    pub fn put_right(&self) -> bool {
        let repairs = self.repairs.take();
        let any = !repairs.is_empty();
        for repair in repairs {
            repair(self);
        }
        any
    }

    /// Executes the command lines of an error, and what else it asks for. The rotation that it led to comes back.
    fn do_as_told(&self, error: Option<&FunctionError>) -> Option<RotationRequest> {
        let error = error?;
        let by_hand = ["CurrentKeyDead", "KeyNotOnAccount", "KeyIdMismatch"];
        if by_hand.contains(&error.error_type.as_str()) {
            // What they say: make a key, and put it with its id into the secret. What becomes of the one before is his to know.
            excused::replaced_by_hand(self);
            self.put_key(&self.make_key());
        }
        let mut rotation = None;
        for line in error.error_message.split('`').filter(|line| line.starts_with("aws secretsmanager ")) {
            let words: Vec<&str> = line.split(' ').collect();
            let option = |name: &str| {
                let place = words.iter().position(|word| *word == name)?;
                words.get(place + 1).map(|word| (*word).to_owned())
            };
            let Some(secret) = option("--secret-id") else { continue };
            match words[2] {
                "update-secret-version-stage" => {
                    let mut label = option("--version-stage").unwrap();
                    if let Some(key) = self.world.key("AWSCURRENT").filter(|_| label == "kosli-key-id:KEY_ID") {
                        label = format!("kosli-key-id:{}", key.id);
                    }
                    let mut body = json!({"SecretId": secret, "VersionStage": label});
                    if let Some(version) = option("--remove-from-version-id") {
                        body["RemoveFromVersionId"] = version.into();
                    }
                    if let Some(version) = option("--move-to-version-id") {
                        body["MoveToVersionId"] = version.into();
                    }
                    let mut outcome = self.world.aws("UpdateSecretVersionStage", body.clone());
                    // A label is on one version; AWS says which, and what else to say.
                    if let Some(place) =
                        outcome.as_ref().err().and_then(|error| error.split("attached to version ").nth(1))
                    {
                        body["RemoveFromVersionId"] = place.split(',').next().unwrap_or_default().into();
                        outcome = self.world.aws("UpdateSecretVersionStage", body);
                    }
                    self.tell(&format!("{line}: {}", outcome.err().unwrap_or_default()));
                }
                "rotate-secret" => rotation = rotation.or_else(|| self.begin_again(false)),
                _ => {}
            }
        }
        rotation
    }

    /// Keys that live and that nobody holds, ends or was told of (promise I3).
    pub fn unaccounted(&self) -> Vec<String> {
        self.ledger.unaccounted(|key| excused::shares_its_id(self, key))
    }

    /// The end: two hours later, so that late effects have come and what dies soon is dead. What was broken comes back.
    pub async fn end(&self) -> Vec<String> {
        self.world.advance(AFTERWARDS);
        self.ledger.observe();
        // What one report reads may be a moment old.
        for _ in 0..REPORTS {
            if !self.unaccounted().is_empty() {
                self.check_secret().await;
            }
        }
        self.world.probe.look("at the end");
        let mut broken = self.world.violations();
        broken.extend(self.unaccounted());
        broken.extend(self.unhealthy().map(|why| format!("I1: at the end {why}")));
        for sibling in self.siblings.borrow().iter() {
            if sibling.key("AWSCURRENT").is_none_or(|key| key.rotated_at.is_some() || key.revoked_at.is_some()) {
                broken.push("I4: the other secret's key was touched".to_owned());
            }
        }
        broken.dedup();
        broken
    }

    /// The value of the key under a label.
    pub fn key_value(&self, label: &str) -> Option<String> {
        key_in(&self.world.value(label)?)
    }

    /// Lets an hour pass.
    pub fn an_hour_later(&self) {
        self.world.advance(HOUR);
    }
}

/// The second at which a key expires by itself.
pub(crate) fn expiry(key: &Key) -> Option<u64> {
    key.expires_at.map(seconds)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap().as_secs()
}
