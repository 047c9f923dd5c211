//! Long random schedules: several rotations in a row, of two secrets on one account, with faults, kills, duplicates, late
//! deliveries, clock jumps and people's hands in between. Then the faults end, a rotation completes, and every promise holds.
//!
//! Every schedule follows from its seed. `SEED=n` runs that one alone; `CASES=n` says how many are run, and `FROM=n` which is
//! the first (`FROM=$RANDOM` for others than the same ones again).
//!
//! What a schedule may *not* do, because no function could make it good, or because the design says what it costs:
//! - Let the clock jump past the grace period of a key that is still current: promise I1 ends there.
//! - Let the effect of a call come later than half a minute after it: what is late to that degree is not looked for.
//! - Take `AWSPENDING` off, or store an edited value, while an execution runs or after `AWSCURRENT` has moved and before the
//!   rotation has ended: the one abandons what the execution is about to store, the other the sweep.
//! - The same, where Kosli ends the current key at once, or does not find it, when it is rotated a second time in its grace
//!   period: whoever abandons a key that was minted has to make another by hand there. For the same reason no second
//!   execution of `createSecret` runs at the same time where a second rotation ends the key at once.
//! - The same, where the key id is kept as a label and Kosli hands ids on: see `hands_on`.
//! - Edit a value twice before a rotation completes: the mark of the version before the last one is not looked for.
//! - Store a value without a key id under `AWSCURRENT` by hand: nothing would say which key it holds.

#![allow(clippy::unwrap_used)]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, UNIX_EPOCH};

use emulator::faults::FAULTS;
use emulator::kosli::{ExpiresAt, KeyManagers, ListShape, RotateInGrace, SuccessorId, Switches};
use emulator::rotation::{Event, STEPS, step_event};
use emulator::runtime_api::Outcome;
use emulator::secrets_manager::{RotationRequest, Staleness};
use emulator::{BoxFuture, Call, Fault, Hook, Service};
use exhaustive::on_every_core;
use fastrand::Rng;
use kosli_key_rotation::marker::{Mark, WINDOW};
use serde_json::{Value, json};
use testbed::faults::{self, Trouble};
use testbed::{
    ACCOUNT, DAY, DESCRIPTION, HOUR, ORG, Probe, RETRIES, Setting, Shape, Testbed, World, key_in, say, version_id,
};
use tokio::sync::oneshot;

/// How many schedules are run where nothing else is asked for.
const CASES: usize = 2_000;

/// How much of a grace period a jump of the clock leaves: more than all attempts of several rotations take.
const ROOM_TO_COMPLETE: Duration = Duration::from_secs(5 * 3_600);

/// How often all others are let run before no call arrives by itself any more.
const QUIET_ROUNDS: usize = 40;

/// How often an operator asks for a rotation once nothing fails any more.
const ASKS: usize = 6;

/// What may befall a call.
fn troubles(service: Service) -> Vec<Trouble> {
    /// What comes later than this is not looked for.
    const LATEST: Duration = Duration::from_secs(35);
    let mut troubles = faults::all(service);
    troubles.retain(|trouble| !matches!(trouble.fault, Fault::LateEffect(by) if by > LATEST));
    // Calls that are made side by side would run out of time at the same instant and draw their jitter in any order, and a seed would
    // not replay. Such a silence befalls every call in `faults`.
    let is_silence = |fault: &Fault| matches!(fault, Fault::NoAnswer | Fault::NoAnswerAfter);
    troubles.retain(|trouble| trouble.lasts.is_zero() || !is_silence(&trouble.fault));
    // Twice as often as the others: they end more.
    let kills = troubles.iter().filter(|trouble| matches!(trouble.fault, Fault::KillBefore | Fault::KillAfter));
    troubles.extend(kills.cloned().collect::<Vec<_>>());
    troubles
}

/// One or two of Kosli's open questions answered differently, and everything else that a setting says.
fn setting(random: &mut Rng) -> Setting {
    let variations = Switches::variations();
    let (name, switches, admin) = loop {
        let admin = random.bool();
        let (first, second) = (random.choice(&variations).unwrap(), random.choice(&variations).unwrap());
        let switches = if random.bool() { first.1.clone() } else { first.1.and(&second.1) };
        if is_workable(&switches, admin) {
            break (format!("{} {}", first.0, second.0), switches, admin);
        }
    };
    let shapes = [Shape::ApiKey, Shape::Environment, Shape::WithoutId, Shape::Plain];
    let staleness = [Staleness::None, Staleness::None, Staleness::Reads(2), Staleness::For(Duration::from_secs(1))];
    let mut variables = Vec::new();
    if random.bool() {
        variables.push(("KOSLI_GRACE_PERIOD_HOURS".to_owned(), random.choice(["24", "48", "720"]).unwrap().to_owned()));
        variables.push(("KOSLI_KEY_TTL_DAYS".to_owned(), random.choice(["30", "90", "365"]).unwrap().to_owned()));
    }
    Setting {
        name,
        switches,
        staleness: *random.choice(&staleness).unwrap(),
        admin,
        revoke_immediately: random.bool(),
        shape: *random.choice(&shapes).unwrap(),
        variables,
        ..Setting::default()
    }
}

/// Whether a rotation can be recovered at all under these answers.
fn is_workable(switches: &Switches, admin: bool) -> bool {
    let default = Switches::default();
    // Refused as a whole: `faults` has them.
    let refused = switches.list_shape == ListShape::Wrapped
        || (!admin && matches!(switches.key_managers, KeyManagers::Admins | KeyManagers::OwnKeyToo))
        || (!admin && switches.rights_in_grace != default.rights_in_grace);
    // A lost key cannot be seen, or has the current key's id: what is left is to rotate the current key again.
    let rotates_again = is_blind(switches) || switches.successor_id == SuccessorId::Same;
    let allows_again = matches!(switches.rotate_in_grace, RotateInGrace::RestartsGrace | RotateInGrace::KeepsGrace);
    // The account has more keys than that.
    let crowded = switches.key_limit.is_some();
    !refused && !crowded && (!rotates_again || allows_again)
}

/// Whether Kosli hides which keys were lost: they may stay, and a warning says so (`faults` checks the warning).
fn is_blind(switches: &Switches) -> bool {
    switches.expires_at != ExpiresAt::AsSent || switches.list_shape != ListShape::Array
}

/// Calls that are held, by execution, operation, detail and number of arrival, and what lets each pass.
type Queue = BTreeMap<(String, String, String, usize), oneshot::Sender<()>>;

/// Sees every call before and after the probe does: it draws the faults, and notes whose keys are whose.
struct Watch {
    probe: Arc<Probe>,
    emulator: emulator::Emulator,
    /// Calls to come that meet a fault, by number, and the number that decides which.
    plan: Mutex<BTreeMap<usize, usize>>,
    /// Which secret an execution works for, by its tag.
    works_for: Mutex<BTreeMap<String, String>>,
    /// Which secret a call was made for, by the call's number in the emulator's log.
    made_for: Mutex<BTreeMap<usize, String>>,
    /// Every key that was current at some time.
    promoted: Mutex<BTreeSet<String>>,
    /// Calls that wait for their turn. Those that are made side by side arrive in any order, so they are sorted: a seed then
    /// takes the same course again.
    waiting: Mutex<Queue>,
    arrivals: AtomicUsize,
    /// The calls in the order of their turns.
    log: Mutex<Vec<String>>,
}

impl Watch {
    /// Lets one call after the other go on, as soon as no more arrive by themselves.
    async fn take_turns(&self) {
        let (mut quiet, mut seen) = (0, 0);
        loop {
            tokio::task::yield_now().await;
            let now = self.arrivals.load(Ordering::SeqCst);
            quiet = if now == seen { quiet + 1 } else { 0 };
            seen = now;
            if quiet >= QUIET_ROUNDS
                && let Some((_, pass)) = self.waiting.lock().unwrap().pop_first()
            {
                let _ = pass.send(());
                quiet = 0;
            }
        }
    }
}

impl Hook for Watch {
    fn before<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Option<Fault>> {
        Box::pin(async move {
            let (pass, passed) = oneshot::channel();
            let arrival = self.arrivals.fetch_add(1, Ordering::SeqCst);
            let turn = (call.tag.clone(), call.operation.clone(), call.detail.clone(), arrival);
            self.waiting.lock().unwrap().insert(turn, pass);
            // A sender that is dropped belongs to a schedule that has ended.
            let _ = passed.await;
            self.draw(call);
            let fault = self.probe.before(call).await;
            // The attempt bits in it are random: the SDK draws from the same numbers.
            let detail = call.detail.split(" expires_at=").next().unwrap_or_default();
            self.log.lock().unwrap().push(format!("{} {} {detail} {fault:?}", call.tag, call.operation));
            fault
        })
    }

    fn after(&self, call: &Call) {
        self.probe.after(call);
        let current: Vec<String> = self.emulator.with_secrets_manager(|service| {
            let versions = service.secrets().filter_map(|secret| secret.versions.labelled("AWSCURRENT"));
            versions.filter_map(|version| key_in(version.text()?)).collect()
        });
        self.promoted.lock().unwrap().extend(current);
    }

    fn kill(&self, call: &Call) {
        self.probe.kill(call);
    }
}

impl Watch {
    /// Draws the fault of a call, where it is the turn of one, and notes for whom the call is made.
    fn draw(&self, call: &Call) {
        let number = self.probe.calls() + 1;
        if let Some(which) = self.plan.lock().unwrap().remove(&number) {
            let mut troubles = troubles(call.service);
            let Trouble { fault, lasts } = troubles.swap_remove(which % troubles.len());
            self.probe.fault(number, fault, lasts);
        }
        if let Some(secret) = self.works_for.lock().unwrap().get(&call.tag) {
            self.made_for.lock().unwrap().insert(call.number, secret.clone());
        }
    }
}

/// A schedule: what happens is drawn while it happens.
struct Schedule {
    random: RefCell<Rng>,
    /// The secrets, each seen as a world of its own.
    worlds: Vec<World>,
    watch: Arc<Watch>,
    /// Rotations so far, for late duplicates of their steps, with the secret's place among the worlds.
    begun: RefCell<Vec<(usize, RotationRequest)>>,
    /// Secrets whose value was edited since their last completed rotation.
    edited: RefCell<BTreeSet<usize>>,
    /// Key ids that a person has abandoned: by taking `AWSPENDING` off a version that has a value.
    abandoned: RefCell<BTreeSet<String>>,
    /// Whether an execution runs, so that hands are off.
    running: Cell<usize>,
    versions: Cell<usize>,
    completed: Cell<usize>,
}

impl Schedule {
    fn new(testbed: &Testbed, seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let setting = setting(&mut random);
        let world = testbed.world(&setting);
        // The function's own random numbers: attempt bits and jitter.
        fastrand::seed(seed);
        let mut worlds = vec![world];
        if random.bool() {
            worlds.push(worlds[0].sibling("kosli/other"));
        }
        let same_id = setting.switches.successor_id == SuccessorId::Same;
        worlds[0].probe.pending_is_safe.store(!same_id, Ordering::SeqCst);
        let watch = Arc::new(Watch {
            probe: worlds[0].probe.clone(),
            emulator: testbed.emulator.clone(),
            plan: Mutex::default(),
            works_for: Mutex::default(),
            made_for: Mutex::default(),
            promoted: Mutex::default(),
            waiting: Mutex::default(),
            arrivals: AtomicUsize::new(0),
            log: Mutex::default(),
        });
        testbed.emulator.set_hook(watch.clone());
        Self {
            random: RefCell::new(random),
            worlds,
            watch,
            begun: RefCell::default(),
            edited: RefCell::default(),
            abandoned: RefCell::default(),
            running: Cell::new(0),
            versions: Cell::new(0),
            completed: Cell::new(0),
        }
    }

    fn switches(&self) -> &Switches {
        &self.worlds[0].setting.switches
    }

    fn say(&self, what: String) {
        let calls = self.watch.probe.calls();
        self.worlds[0].say(format!("-- {what} (after call {calls})"));
    }

    /// True once in so many times.
    fn once_in(&self, times: usize) -> bool {
        self.random.borrow_mut().usize(..times) == 0
    }

    fn below(&self, limit: usize) -> usize {
        self.random.borrow_mut().usize(..limit)
    }

    /// All of it; what was broken comes back.
    async fn run(&self) -> Vec<String> {
        for _ in 0..2 + self.below(4) {
            let which = self.below(self.worlds.len());
            self.disturb().await;
            if self.worlds.len() == 2 && self.once_in(3) {
                // Each secret's rotation on an execution of its own, at the same time.
                let faults = self.below(4);
                self.plan_faults(faults, 60);
                tokio::join!(self.rotate(0, 0, false), self.rotate(1, 1, false));
            } else {
                let faults = self.below(5);
                self.plan_faults(faults, 45);
                self.rotate(which, 0, true).await;
            }
        }
        self.say("nothing fails any more".to_owned());
        self.watch.plan.lock().unwrap().clear();
        self.watch.probe.end_faults();
        self.let_late_effects_happen();
        let mut broken = Vec::new();
        for which in 0..self.worlds.len() {
            broken.extend(self.complete(which).await);
        }
        broken.extend(self.check());
        broken
    }

    fn plan_faults(&self, count: usize, within: usize) {
        for _ in 0..count {
            let call = self.watch.probe.calls() + 1 + self.below(within);
            let which = self.below(1 << 16);
            self.watch.plan.lock().unwrap().insert(call, which);
        }
    }

    /// One rotation with all its attempts, on one execution; `disturbed`: with duplicates, jumps and hands in between.
    async fn rotate(&self, which: usize, execution: usize, disturbed: bool) -> Event {
        let world = &self.worlds[which];
        let token = self.fresh_version(which);
        let Some(rotation) = world.begin_rotation(&token) else { return Event::Abandoned };
        self.say(format!("secret {which}: RotateSecret {token} begins {}", rotation.token));
        self.begun.borrow_mut().push((which, rotation.clone()));
        let invoke = |event: Value| async move {
            if disturbed {
                self.disturb().await;
                if self.once_in(4) {
                    return self.twice(which, &event).await;
                }
            }
            self.invoke(which, execution, &event).await
        };
        let observe = |_: &RotationRequest, event: &Event| {
            self.worlds[0].say(format!("secret {which}: {event}"));
        };
        let end = emulator::rotation::rotate(&world.emulator, &rotation, RETRIES, invoke, observe).await;
        if end == Event::GivenUp && self.holder(which, "AWSCURRENT").as_ref() == Some(&rotation.token) {
            // What the error says: finishSecret does the clean-up whenever it is called for this version.
            self.say(format!("secret {which}: the operator calls finishSecret until it succeeds"));
            for _ in 0..ASKS {
                if self.invoke(which, execution, &step_event(&rotation, "finishSecret")).await.is_ok() {
                    break;
                }
                world.emulator.sleep(RETRIES.spacing).await;
            }
        }
        if end == Event::Succeeded {
            self.edited.borrow_mut().remove(&which);
            self.completed.set(self.completed.get() + 1);
        }
        end
    }

    async fn invoke(&self, which: usize, execution: usize, event: &Value) -> Outcome {
        let world = &self.worlds[which];
        let tag = world.executions[execution].tag.clone();
        self.watch.works_for.lock().unwrap().insert(tag.clone(), world.arn.clone());
        self.running.set(self.running.get() + 1);
        let outcome = world.invoke(execution, event).await;
        self.running.set(self.running.get() - 1);
        outcome
    }

    /// A step that is delivered a second time while the first delivery runs.
    async fn twice(&self, which: usize, event: &Value) -> Outcome {
        let alone = event["Step"] == "createSecret" && self.switches().rotate_in_grace == RotateInGrace::EndsGrace;
        let by = Duration::from_millis([0, 50, 700, 3_000, 40_000][self.below(5)]);
        self.say(format!("secret {which}: {} is delivered twice, {by:?} apart, at once: {}", event["Step"], !alone));
        if alone {
            let outcome = self.invoke(which, 1, event).await;
            self.say(format!("secret {which}: the first delivery came to {outcome:?}"));
            return self.invoke(which, 0, event).await;
        }
        if event["Step"] == "createSecret" && self.once_in(2) {
            // Whoever loses cannot revoke what it has minted: this is what the sweep is for.
            self.worlds[0].fault_on("revoke", if self.once_in(2) { Fault::KillBefore } else { Fault::DropBefore });
        }
        let second = async {
            if !by.is_zero() {
                self.worlds[0].emulator.sleep(by).await;
            }
            let outcome = self.invoke(which, 1, event).await;
            self.say(format!("secret {which}: the second delivery came to {outcome:?}"));
        };
        tokio::join!(self.invoke(which, 0, event), second).0
    }

    /// Something else happens, sometimes.
    async fn disturb(&self) {
        if self.once_in(4) {
            match self.below(6) {
                0 => self.jump(),
                1 => self.stranger_mints(),
                2 => self.deliver_late().await,
                3 => self.clear_pending(),
                4 => self.edit(),
                _ => self.label(),
            }
        }
    }

    /// Hours pass: as many as leave every current key enough of its life to complete a rotation.
    fn jump(&self) {
        self.let_late_effects_happen();
        let emulator = &self.worlds[0].emulator;
        let now = emulator.clock().now();
        let deaths = self.worlds.iter().filter_map(|world| world.key("AWSCURRENT")?.dies_at());
        let left = deaths.map(|death| death.duration_since(now).unwrap_or_default()).min().unwrap_or(DAY);
        let Some(most) = left.checked_sub(ROOM_TO_COMPLETE) else { return };
        let hours = usize::try_from(most.as_secs() / 3_600).unwrap().min(36);
        if hours > 0 {
            let hours = 1 + self.below(hours);
            self.say(format!("{hours} hours pass"));
            emulator.clock().advance(HOUR * u32::try_from(hours).unwrap());
        }
    }

    /// An effect that is still on its way comes now, and not by a jump of the clock hours later.
    fn let_late_effects_happen(&self) {
        let emulator = &self.worlds[0].emulator;
        emulator.clock().advance(Duration::from_secs(60));
        emulator.with_kosli(|_| ());
    }

    /// Somebody makes a key for himself, and describes it as ours are described.
    fn stranger_mints(&self) {
        let world = &self.worlds[0];
        let now = world.emulator.clock().now();
        let marks = self.marks();
        let expires_at = loop {
            let end = now + DAY * 100 + Duration::from_secs(self.random.borrow_mut().u64(..WINDOW));
            let second = end.duration_since(UNIX_EPOCH).unwrap().as_secs();
            // The odds of carrying a mark by chance are the design's, not this test's.
            if marks.iter().all(|mark| mark.attempt_in(second).is_none()) {
                break end;
            }
        };
        let (id, _) =
            world.emulator.with_kosli(|kosli| kosli.add_key(ORG, ACCOUNT, DESCRIPTION, now, Some(expires_at)));
        self.say(format!("a stranger makes the key {id}"));
        self.watch.probe.add_stranger(id);
    }

    /// A step of some rotation, perhaps of one long ended, comes late.
    async fn deliver_late(&self) {
        let begun = self.begun.borrow().len();
        if begun == 0 {
            return;
        }
        let (which, rotation) = self.begun.borrow()[self.below(begun)].clone();
        let step = STEPS[self.below(STEPS.len())];
        let outcome = self.invoke(which, 1, &step_event(&rotation, step)).await;
        self.say(format!("secret {which}: {step} of {} comes late: {outcome:?}", rotation.token));
    }

    /// Whether a person may abandon what a rotation has made so far.
    fn hands_on(&self, which: usize) -> bool {
        let world = &self.worlds[which];
        let again = !matches!(self.switches().rotate_in_grace, RotateInGrace::EndsGrace | RotateInGrace::NotFound);
        // A label is on one version only. Where the id is kept as a label and Kosli hands ids on, the pending version takes it
        // away from the current one, and abandoning the pending one leaves nobody who says which key the current one holds.
        let takes_the_id = self.switches().successor_id == SuccessorId::Same
            && which == 0
            && matches!(world.setting.shape, Shape::WithoutId | Shape::Plain);
        let in_grace = world.key("AWSCURRENT").is_none_or(|key| key.rotated_at.is_some());
        let rotations = self.begun.borrow();
        let last = rotations.iter().rev().find(|(secret, _)| *secret == which);
        let unfinished = last.is_some_and(|(_, rotation)| {
            world.emulator.with_secrets_manager(|service| {
                let secret = service.secret(&world.arn).unwrap();
                // Until the rotation has ended, its label stays; then it goes with the end.
                secret.versions.labelled("AWSPENDING").is_some_and(|version| version.id == rotation.token)
                    && secret.versions.labelled("AWSCURRENT").is_some_and(|version| version.id == rotation.token)
            })
        });
        self.running.get() == 0 && !takes_the_id && (again || !in_grace) && !unfinished
    }

    fn holder(&self, which: usize, label: &str) -> Option<String> {
        let world = &self.worlds[which];
        world
            .emulator
            .with_secrets_manager(|service| Some(service.secret(&world.arn)?.versions.labelled(label)?.id.clone()))
    }

    fn note_abandoned(&self, which: usize) {
        if let Some(key) = self.worlds[which].key("AWSPENDING") {
            self.abandoned.borrow_mut().insert(key.id);
        }
    }

    /// The runbook's way out of a rotation that is stuck: take the label off; a new token comes with the next rotation.
    fn clear_pending(&self) {
        let which = self.below(self.worlds.len());
        self.let_late_effects_happen();
        let (Some(pending), current) = (self.holder(which, "AWSPENDING"), self.holder(which, "AWSCURRENT")) else {
            return;
        };
        if Some(&pending) == current.as_ref() || !self.hands_on(which) {
            return;
        }
        self.say(format!("secret {which}: a person takes AWSPENDING off {pending}"));
        self.note_abandoned(which);
        let world = &self.worlds[which];
        let body = json!({"SecretId": world.arn, "VersionStage": "AWSPENDING", "RemoveFromVersionId": pending});
        world.aws("UpdateSecretVersionStage", body).unwrap();
    }

    /// A person edits a field beside the key, which makes a new current version.
    fn edit(&self) {
        let which = self.below(self.worlds.len());
        let world = &self.worlds[which];
        self.let_late_effects_happen();
        let value = world.value("AWSCURRENT").unwrap();
        let Ok(Value::Object(mut fields)) = serde_json::from_str::<Value>(&value) else { return };
        let has_id = fields.contains_key("key_id") || fields.contains_key("KOSLI_API_KEY_ID");
        if !has_id || !self.hands_on(which) || !self.edited.borrow_mut().insert(which) {
            return;
        }
        let version = self.fresh_version(which);
        self.say(format!("secret {which}: a person edits a field: {version}"));
        self.note_abandoned(which);
        fields.insert("note".to_owned(), json!(version));
        let body = json!({"SecretId": world.arn, "ClientRequestToken": version,
                          "SecretString": Value::Object(fields).to_string()});
        world.aws("PutSecretValue", body).unwrap();
    }

    /// A person puts a label of his own on the current version, or takes it along.
    fn label(&self) {
        let which = self.below(self.worlds.len());
        let mut body = json!({"SecretId": self.worlds[which].arn, "VersionStage": "deployed",
                              "MoveToVersionId": self.holder(which, "AWSCURRENT")});
        if let Some(holder) = self.holder(which, "deployed") {
            body["RemoveFromVersionId"] = json!(holder);
        }
        if self.worlds[which].aws("UpdateSecretVersionStage", body).is_ok() {
            self.say(format!("secret {which}: a person labels the current version"));
        }
    }

    /// Every mark that a key of ours may carry.
    fn marks(&self) -> Vec<Mark> {
        let ids = self.worlds[0].emulator.with_secrets_manager(|service| {
            let versions = |world: &World| -> Vec<(String, String)> {
                let secret = service.secret(&world.arn).unwrap();
                secret.versions.iter().map(|version| (world.arn.clone(), version.id.clone())).collect()
            };
            self.worlds.iter().flat_map(versions).collect::<Vec<_>>()
        });
        ids.iter().map(|(arn, version)| Mark::of(arn, &version_id(version))).collect()
    }

    /// A version id whose mark nobody has yet: with thousands of schedules, two marks would be the same by chance, whose odds
    /// the design names.
    fn fresh_version(&self, which: usize) -> String {
        let world = &self.worlds[which];
        let marks = self.marks();
        let ends: Vec<u64> = world.emulator.with_kosli(|kosli| {
            kosli.keys().filter_map(|key| Some(key.expires_at?.duration_since(UNIX_EPOCH).unwrap().as_secs())).collect()
        });
        loop {
            self.versions.set(self.versions.get() + 1);
            let version = testbed::token("rotation", self.versions.get());
            let mark = Mark::of(&world.arn, &version_id(&version));
            if !marks.contains(&mark) && ends.iter().all(|end| mark.attempt_in(*end).is_none()) {
                return version;
            }
        }
    }

    /// An operator asks for rotations, does what the errors say, and one completes.
    async fn complete(&self, which: usize) -> Vec<String> {
        let world = &self.worlds[which];
        for _ in 0..ASKS {
            let end = self.rotate(which, 0, false).await;
            let history = world.history.borrow().iter().rev().take(8).cloned().collect::<Vec<_>>().join("\n");
            if end == Event::Succeeded && world.key("AWSCURRENT").is_some_and(|key| key.rotated_at.is_none()) {
                return Vec::new();
            }
            if ["PendingKeyDead", "PendingIsCurrent"].iter().any(|kind| history.contains(kind)) {
                self.say(format!("secret {which}: the operator clears AWSPENDING, as the error says"));
                self.note_abandoned(which);
                let pending = self.holder(which, "AWSPENDING");
                let body = json!({"SecretId": world.arn, "VersionStage": "AWSPENDING", "RemoveFromVersionId": pending});
                world.aws("UpdateSecretVersionStage", body).unwrap();
            }
        }
        vec![format!("secret {which}: no rotation completes, or the new key is in its grace period again and again")]
    }

    /// What was broken at any instant, or is at the end.
    fn check(&self) -> Vec<String> {
        let mut broken = BTreeSet::new();
        let promoted: BTreeSet<String> = self.worlds[0].emulator.with_kosli(|kosli| {
            let promoted = self.watch.promoted.lock().unwrap();
            kosli.keys().filter(|key| promoted.contains(&key.value)).map(|key| key.id.clone()).collect()
        });
        // A key that was current was no orphan of the rotation that minted it. One that a person abandoned is his.
        let known = |what: &String| {
            let id = what.strip_prefix("I3: the key ").and_then(|rest| rest.split(' ').next()).unwrap_or_default();
            let excused = promoted.contains(id) || self.abandoned.borrow().contains(id) || is_blind(self.switches());
            what.starts_with("I3") && excused
        };
        for world in &self.worlds {
            broken.extend(world.check_completed().into_iter().filter(|what| !known(what)));
        }
        broken.extend(self.unannounced());
        broken.extend(self.wrong_hands());
        broken.extend(self.leaks());
        broken.into_iter().collect()
    }

    /// A key that was current is in its grace period now or dead, or an answer has said that nobody ends it. An execution that
    /// created a key and ended without an answer could not say so, and the one that goes on from there does not know.
    fn unannounced(&self) -> Vec<String> {
        let world = &self.worlds[0];
        let history = world.history.borrow().join("\n");
        if ["\"recovered\"", "Runtime.", "StoreFailed"].iter().any(|ending| history.contains(ending)) {
            return Vec::new();
        }
        let now = world.emulator.clock().now();
        let current: Vec<String> = self.worlds.iter().filter_map(|world| Some(world.key("AWSCURRENT")?.id)).collect();
        let promoted = self.watch.promoted.lock().unwrap();
        world.emulator.with_kosli(|kosli| {
            kosli
                .keys()
                .filter(|key| promoted.contains(&key.value) && key.account == ACCOUNT && !current.contains(&key.id))
                .filter(|key| key.is_live_at(now) && key.rotated_at.is_none())
                .filter(|key| !history.contains(&format!("Kosli refused to rotate the current key {}", key.id)))
                .map(|key| format!("I7: nobody ends the old key {}, and nobody was told", key.id))
                .collect()
        })
    }

    /// Whether a rotation of one secret has touched a key of the other.
    fn wrong_hands(&self) -> Vec<String> {
        let made_for = self.watch.made_for.lock().unwrap();
        let mut owners: BTreeMap<String, String> =
            self.worlds.iter().map(|world| (world.first_key.clone(), world.arn.clone())).collect();
        let calls = self.worlds[0].emulator.calls();
        let done = calls.iter().filter(|call| call.effect.is_some_and(|status| status < 300));
        for call in done.clone() {
            if let (Some(id), Some(secret)) = (call.outcome.strip_prefix("id="), made_for.get(&call.number))
                && ["rotate", "create"].contains(&call.operation.as_str())
            {
                owners.insert(id.to_owned(), secret.clone());
            }
        }
        done.filter(|call| ["rotate", "revoke"].contains(&call.operation.as_str()))
            .filter_map(|call| {
                let id = call.detail.split("api-keys/").nth(1)?.split(['/', ' ']).next()?;
                let (owner, secret) = (owners.get(id), made_for.get(&call.number)?);
                let fits = owner == Some(secret);
                (!fits).then(|| format!("I4: call {} for {secret} touched {id}, which is {owner:?}'s", call.number))
            })
            .collect()
    }

    /// No answer and no error holds a key.
    fn leaks(&self) -> Vec<String> {
        let history = self.worlds[0].history.borrow().join("\n");
        let leaked: Vec<String> = self.worlds[0].emulator.with_kosli(|kosli| {
            kosli.keys().filter(|key| history.contains(&key.value)).map(|key| key.id.clone()).collect()
        });
        leaked.into_iter().map(|id| format!("I5: the value of {id} was said")).collect()
    }

    /// Whether two executions have chosen the same attempt bits for one version, one in 32 where both mint for it: the odds
    /// that the design accepts. Such a schedule proves nothing either way.
    fn is_coincidence(&self) -> bool {
        let made_for = self.watch.made_for.lock().unwrap();
        let mut seen: BTreeMap<(String, u64), String> = BTreeMap::new();
        self.worlds[0].emulator.calls().iter().any(|call| {
            let expiry = call.detail.split("expires_at=").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
            let (Some(expiry), Some(secret)) = (expiry, made_for.get(&call.number)) else { return false };
            let expiry: u64 = expiry;
            let other = seen.insert((secret.clone(), expiry % WINDOW), call.tag.clone());
            other.is_some_and(|tag| tag != call.tag)
        })
    }
}

/// What all schedules came to.
#[derive(Default)]
struct Report {
    rotations: AtomicUsize,
    calls: AtomicUsize,
    coincidences: AtomicUsize,
    failures: Mutex<Vec<(u64, String)>>,
}

/// Runs a schedule; its course comes back.
async fn run(testbed: &Testbed, seed: u64, report: &Report) -> String {
    let schedule = Rc::new(Schedule::new(testbed, seed));
    let broken = tokio::select! {
        broken = schedule.run() => broken,
        () = schedule.watch.take_turns() => unreachable!("it goes on for as long as the schedule"),
    };
    let world = &schedule.worlds[0];
    report.rotations.fetch_add(schedule.completed.get(), Ordering::SeqCst);
    report.calls.fetch_add(world.calls(), Ordering::SeqCst);
    let story = world.story();
    if !broken.is_empty() && schedule.is_coincidence() {
        report.coincidences.fetch_add(1, Ordering::SeqCst);
    } else if !broken.is_empty() {
        let broken = broken.join("\n");
        let failure = format!("SEED={seed} cargo exhaustive --test random: {:?}\n{broken}\n{story}", world.setting);
        report.failures.lock().unwrap().push((seed, failure));
    }
    let log = schedule.watch.log.lock().unwrap().join("\n");
    unsigned(&format!("{}\n{log}", world.history.borrow().join("\n")))
}

/// Without the signatures that refusals echo: they differ from run to run.
fn unsigned(course: &str) -> String {
    let mut parts = course.split("Signature=");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |course, part| course + "Signature=" + part.trim_start_matches(|c: char| c.is_ascii_hexdigit()))
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is not a number")))
}

#[test]
fn long_random_schedules_keep_every_promise() {
    let begin = Instant::now();
    // A seed that nobody has tried before, every time: printed, so that it can be tried again.
    let first = number("SEED").or_else(|| number("FROM")).unwrap_or(1);
    let cases = if number("SEED").is_some() { 1 } else { number("CASES").unwrap_or(CASES as u64) as usize };
    say!("seeds {first} to {}", first + cases as u64 - 1);
    let report = Report::default();
    on_every_core(cases, 2, async |testbed, case| drop(run(testbed, first + case as u64, &report).await));
    let failures = report.failures.into_inner().unwrap();
    let (rotations, calls) = (report.rotations.into_inner(), report.calls.into_inner());
    let coincidences = report.coincidences.into_inner();
    say!(
        "{cases} schedules, {rotations} completed rotations, {calls} calls in {:.1?}; {} failed, {coincidences} set aside",
        begin.elapsed(),
        failures.len()
    );
    for (seed, failure) in failures.iter().take(40) {
        println!("SEED={seed}: {}", failure.lines().nth(1).unwrap_or_default());
    }
    if let Some((_, failure)) = failures.first() {
        panic!("{failure}");
    }
    assert!(rotations >= cases, "schedules without rotations prove nothing");
    assert!(coincidences * 100 <= cases.max(100), "too many schedules were set aside");
}

#[test]
fn a_seed_replays() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let testbed = Testbed::new(2).await;
        for seed in 0..10 {
            let first = run(&testbed, seed, &Report::default()).await;
            assert_eq!(first, run(&testbed, seed, &Report::default()).await, "SEED={seed}");
        }
    });
}

#[test]
fn every_kind_of_fault_is_drawn() {
    let word = |kind: &str| kind.trim().split(['[', ':']).next().map(str::to_owned);
    let drawn: BTreeSet<String> = [Service::Kosli, Service::SecretsManager]
        .into_iter()
        .flat_map(troubles)
        .filter_map(|trouble| word(&trouble.fault.to_string()))
        .collect();
    let known: BTreeSet<String> = FAULTS.split(", ").filter_map(word).collect();
    assert_eq!(drawn, known);
}
