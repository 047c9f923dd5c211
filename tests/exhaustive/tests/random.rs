//! Long random schedules: several rotations in a row, of two secrets on one account, with faults, kills, duplicates, late
//! deliveries, clock jumps, and whatever people do, between any two calls. Then the faults end, a rotation completes, and every
//! promise holds, as it has held at every instant.
//!
//! Every schedule follows from its seed. `SEED=n` runs that one alone; `CASES=n` says how many are run, and `FROM=n` which is
//! the first (`FROM=$RANDOM` for others than the same ones again).
//!
//! What is forgiven is in `excused.rs`, and nothing else is. The clock jumps only while no execution runs, and never past the grace period of a key that is
//! still current: promise I1 ends there.

#![allow(clippy::unwrap_used)]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use emulator::faults::FAULTS;
use emulator::kosli::{KeyManagers, ListShape, RateLimit, RotateInGrace, SuccessorId, Switches};
use emulator::rotation::{Event, STEPS, step_event};
use emulator::runtime_api::Outcome;
use emulator::secrets_manager::{RotationRequest, Staleness};
use emulator::{BoxFuture, Call, Emulator, Fault, Hook, Service};
use exhaustive::course::Course;
use exhaustive::happening::{Happening, Write};
use exhaustive::turns::Turns;
use exhaustive::{excused, kind, on_every_core};
use fastrand::Rng;
use kosli_key_rotation::marker::WINDOW;
use serde_json::{Value, json};
use testbed::faults::{self, Trouble};
use testbed::{DAY, HOUR, ORG, Probe, RETRIES, Setting, Shape, Testbed, say};

/// How many schedules are run where nothing else is asked for.
const CASES: usize = 1_000;

/// How much of a grace period a jump of the clock leaves: more than all attempts of several rotations take.
const ROOM_TO_COMPLETE: Duration = Duration::from_secs(5 * 3_600);

/// By then every late effect has come.
const LATEST: Duration = Duration::from_secs(360);

/// What may befall a call.
fn troubles(service: Service) -> Vec<Trouble> {
    let mut troubles = faults::all(service);
    // Calls that are made side by side would run out of time at the same instant and draw their jitter in any order, and a seed would
    // not replay. Such a silence befalls every call in `faults`.
    let is_silence = |fault: &Fault| matches!(fault, Fault::NoAnswer | Fault::NoAnswerAfter);
    troubles.retain(|trouble| trouble.lasts.is_zero() || !is_silence(&trouble.fault));
    // Twice as often as the others: they end more.
    let kills = troubles.iter().filter(|trouble| is_kill(&trouble.fault));
    troubles.extend(kills.cloned().collect::<Vec<_>>());
    troubles
}

fn is_kill(fault: &Fault) -> bool {
    matches!(fault, Fault::KillBefore | Fault::KillAfter)
}

/// One or two of Kosli's open questions answered differently, and everything else that a setting says.
fn setting(random: &mut Rng) -> Setting {
    let named = Switches::named();
    let (name, switches, admin) = loop {
        let admin = random.bool();
        let (first, second) = (random.choice(&named).unwrap(), random.choice(&named).unwrap());
        let (name, switches) = if random.bool() {
            (first.0.to_owned(), first.1.clone())
        } else {
            (format!("{} {}", first.0, second.0), first.1.and(&second.1))
        };
        if is_workable(&switches, admin) {
            break (name, out_of_step(switches), admin);
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

/// Whether a rotation can be recovered at all under these answers. The others are refused, or stopped for want of a right: `faults` has
/// them.
fn is_workable(switches: &Switches, admin: bool) -> bool {
    let default = Switches::default();
    let refused = switches.list_shape == ListShape::Wrapped
        || (!admin && matches!(switches.key_managers, KeyManagers::Admins | KeyManagers::OwnKeyToo))
        || (!admin && switches.rights_in_grace != default.rights_in_grace);
    // A lost key cannot be seen, or has the current key's id: what is left is to rotate the current key again.
    let rotates_again = excused::hides_lost_keys(switches) || switches.successor_id == SuccessorId::Same;
    let allows_again = matches!(switches.rotate_in_grace, RotateInGrace::RestartsGrace | RotateInGrace::KeepsGrace);
    // People make more keys than that.
    let crowded = switches.key_limit.is_some();
    !refused && !crowded && (!rotates_again || allows_again)
}

/// A limiter that counts calls, and not time, must not be in step with the three calls before every mint: it would refuse them all.
fn out_of_step(switches: Switches) -> Switches {
    let rate_limit = switches.rate_limit.map(|limit| RateLimit { every: 7, ..limit });
    Switches { rate_limit, ..switches }
}

/// Sees every call: it lets one after the other go on, and notes which secret each was made for.
struct Watch {
    turns: Turns,
    emulator: Emulator,
    probe: Arc<Probe>,
    /// Which secret an execution works for, by its tag.
    works_for: Mutex<BTreeMap<String, String>>,
    /// Which secret a call was made for, by the call's number in the emulator's log.
    made_for: Mutex<BTreeMap<usize, String>>,
    /// What the calls met, in the order of their turns.
    met: Mutex<Vec<String>>,
    /// Whether an execution was killed.
    killed: AtomicBool,
}

impl Hook for Watch {
    fn before<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Option<Fault>> {
        if let Some(secret) = self.works_for.lock().unwrap().get(&call.tag) {
            self.made_for.lock().unwrap().insert(call.number, secret.clone());
        }
        Box::pin(async move {
            let fault = self.turns.before(call).await;
            self.met.lock().unwrap().push(format!("{} {} {fault:?}", call.tag, call.operation));
            fault
        })
    }

    fn after(&self, call: &Call) {
        excused::rotated_again(&self.emulator, &self.probe, call);
        self.turns.after(call);
    }

    fn kill(&self, call: &Call) {
        self.killed.store(true, Ordering::SeqCst);
        self.turns.kill(call);
    }
}

/// The execution environment for whatever is not one of the rotations that the schedule itself has begun.
const ELSEWHERE: usize = 2;

/// A schedule: what happens is drawn while it happens.
struct Schedule {
    random: RefCell<Rng>,
    /// The secrets, each with a course of its own.
    courses: Vec<Course>,
    watch: Arc<Watch>,
    /// Calls to come that meet a fault, by number, and the number that decides which.
    faults: RefCell<BTreeMap<usize, usize>>,
    /// Calls to come before which somebody does something.
    hands: RefCell<BTreeSet<usize>>,
    /// Somebody does something at this moment.
    acts: Cell<bool>,
    /// What people have written, with the secret's place among the courses.
    writes: RefCell<Vec<(usize, Write)>>,
    /// Rotations so far, for late duplicates of their steps.
    begun: RefCell<Vec<(usize, RotationRequest)>>,
    /// How many executions run.
    running: Cell<usize>,
    completed: Cell<usize>,
    happened: Cell<usize>,
}

impl Schedule {
    fn new(testbed: &Testbed, seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let setting = setting(&mut random);
        let mut world = testbed.world(&setting);
        world.restart();
        // The only key of an account that a person names by mistake would be taken for the secret's, where nothing says which id it has.
        let now = world.emulator.clock().now();
        world.emulator.with_kosli(|kosli| kosli.add_key(ORG, "platform", "deploys", now, Some(now + DAY * 190)));
        // The function's own random numbers: attempt bits and jitter.
        fastrand::seed(seed);
        excused::pending_key_may_be_rotated(&world);
        let sibling = random.bool().then(|| world.sibling("kosli/other"));
        let mut course = Course::new(world);
        course.is_long = true;
        course.elsewhere = ELSEWHERE;
        let other = sibling.map(|sibling| course.beside(sibling));
        course.ledger.observe();
        let watch = Arc::new(Watch {
            emulator: testbed.emulator.clone(),
            probe: course.world.probe.clone(),
            turns: Turns::new(&testbed.emulator, course.world.probe.clone(), course.ledger.clone(), None),
            works_for: Mutex::default(),
            made_for: Mutex::default(),
            met: Mutex::default(),
            killed: AtomicBool::new(false),
        });
        testbed.emulator.set_hook(watch.clone());
        Self {
            random: RefCell::new(random),
            courses: std::iter::once(course).chain(other).collect(),
            watch,
            faults: RefCell::default(),
            hands: RefCell::default(),
            acts: Cell::new(false),
            writes: RefCell::default(),
            begun: RefCell::default(),
            running: Cell::new(0),
            completed: Cell::new(0),
            happened: Cell::new(0),
        }
    }

    fn say(&self, what: String) {
        let calls = self.courses[0].world.calls();
        self.courses[0].tell(&format!("-- {what} (after call {calls})"));
    }

    /// True once in so many times.
    fn once_in(&self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn below(&self, limit: usize) -> usize {
        self.random.borrow_mut().usize(..limit)
    }

    /// Lets one call after the other go on, of executions that are drawn.
    async fn take_turns(&self) {
        let turns = &self.watch.turns;
        loop {
            turns.settle().await;
            let next: Vec<(String, Service)> = turns.next().into_iter().collect();
            if next.is_empty() {
                continue;
            }
            let number = self.courses[0].world.calls() + 1;
            if take_due(&mut self.hands.borrow_mut(), number) && !self.acts.get() {
                turns.before_it_goes_on(self.somebody_acts()).await;
                continue;
            }
            let (tag, service) = &next[self.below(next.len())];
            self.draw(number, *service);
            turns.pass_of(tag);
        }
    }

    /// Draws the fault of a call, where it is the turn of one.
    fn draw(&self, number: usize, service: Service) {
        let due = self.faults.borrow().first_key_value().is_some_and(|(due, _)| *due <= number);
        let Some((_, which)) = due.then(|| self.faults.borrow_mut().pop_first()).flatten() else { return };
        let mut troubles = troubles(service);
        let Trouble { fault, lasts } = troubles.swap_remove(which % troubles.len());
        self.courses[0].world.probe.fault(number, fault, lasts);
    }

    /// All of it; what was broken comes back.
    async fn run(&self) -> Vec<String> {
        for _ in 0..2 + self.below(4) {
            let which = self.below(self.courses.len());
            self.disturb().await;
            if self.courses.len() == 2 && self.once_in(3) {
                // Each secret's rotation on an execution of its own, at the same time.
                self.plan(4, 60);
                tokio::join!(self.rotate(0, 0, false), self.rotate(1, 1, false));
            } else {
                self.plan(5, 45);
                self.rotate(which, 0, true).await;
            }
            if self.once_in(3) {
                self.works_for(which, 0);
                self.courses[which].act().await;
            }
        }
        self.say("nothing fails any more".to_owned());
        self.faults.borrow_mut().clear();
        self.hands.borrow_mut().clear();
        self.courses[0].world.probe.end_faults();
        self.let_late_effects_happen();
        self.complete().await
    }

    /// Draws which of the next calls meet a fault, and before which somebody does something.
    fn plan(&self, faults: usize, within: usize) {
        let next = self.courses[0].world.calls() + 1;
        for _ in 0..self.below(faults) {
            let (call, which) = (next + self.below(within), self.below(1 << 16));
            self.faults.borrow_mut().insert(call, which);
        }
        for _ in 0..self.below(3) {
            let call = next + self.below(within);
            self.hands.borrow_mut().insert(call);
        }
    }

    /// One rotation with all its attempts, on one execution, and those that people begin meanwhile; `disturbed`: with duplicates, jumps
    /// and hands between the steps.
    async fn rotate(&self, which: usize, execution: usize, disturbed: bool) {
        let course = &self.courses[which];
        let version = course.fresh_version();
        let Some(rotation) = course.world.begin_rotation(&version) else { return };
        self.say(format!("secret {which}: RotateSecret {version} begins {}", rotation.token));
        let invoke = |event: Value| async move {
            if disturbed {
                self.disturb().await;
                if self.once_in(4) {
                    return self.twice(which, &event).await;
                }
            }
            self.invoke(which, execution, &event).await
        };
        let mut next = Some(rotation);
        while let Some(rotation) = next {
            self.begun.borrow_mut().push((which, rotation.clone()));
            let end = course.drive_with(&rotation, RETRIES.attempts, invoke).await;
            self.completed.set(self.completed.get() + usize::from(end == Event::Succeeded));
            next = course.begun.borrow_mut().pop_front();
        }
    }

    async fn invoke(&self, which: usize, execution: usize, event: &Value) -> Outcome {
        let course = &self.courses[which];
        self.works_for(which, execution);
        self.running.set(self.running.get() + 1);
        let outcome = course.invoke(execution, event).await;
        self.running.set(self.running.get() - 1);
        if self.running.get() == 0 {
            // From here on, whoever looks sees what was written.
            self.writes.borrow_mut().iter_mut().for_each(|(which, write)| write.has_been_seen(&self.courses[*which]));
        }
        outcome
    }

    fn works_for(&self, which: usize, execution: usize) {
        let world = &self.courses[which].world;
        let tag = world.executions[execution].tag.clone();
        self.watch.works_for.lock().unwrap().insert(tag, world.arn.clone());
    }

    /// A step that is delivered a second time while the first delivery runs.
    async fn twice(&self, which: usize, event: &Value) -> Outcome {
        let world = &self.courses[which].world;
        let by = Duration::from_millis([0, 50, 700, 3_000, 40_000][self.below(5)]);
        self.say(format!("secret {which}: {} is delivered twice, {by:?} apart", event["Step"]));
        if event["Step"] == "createSecret" && self.once_in(2) {
            // Whoever loses cannot revoke what it has minted: this is what the sweep is for.
            world.fault_on("revoke", if self.once_in(2) { Fault::KillBefore } else { Fault::DropBefore });
        }
        let second = async {
            if !by.is_zero() {
                world.emulator.sleep(by).await;
            }
            let outcome = self.invoke(which, 1, event).await;
            self.say(format!("secret {which}: the second delivery came to {outcome:?}"));
        };
        tokio::join!(self.invoke(which, 0, event), second).0
    }

    /// Something happens between two steps, sometimes.
    async fn disturb(&self) {
        if self.once_in(4) {
            match self.below(3) {
                0 => self.jump(),
                _ => self.somebody_acts().await,
            }
        }
    }

    /// Hours pass: as many as leave every current key enough of its life to complete a rotation.
    fn jump(&self) {
        if self.running.get() > 0 {
            return;
        }
        self.let_late_effects_happen();
        let emulator = &self.courses[0].world.emulator;
        let now = emulator.clock().now();
        let deaths = self.courses.iter().filter_map(|course| course.world.key("AWSCURRENT")?.dies_at());
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
        let emulator = &self.courses[0].world.emulator;
        emulator.clock().advance(LATEST);
        emulator.with_kosli(|_| ());
    }

    /// Somebody does something, or a step of some rotation, perhaps of one long ended, comes late.
    async fn somebody_acts(&self) {
        if self.acts.replace(true) {
            return;
        }
        match self.below(8) {
            0 => self.deliver_late().await,
            1 => self.label(),
            _ => self.happens(Happening::ALL[self.below(Happening::ALL.len())]).await,
        }
        self.acts.set(false);
    }

    async fn happens(&self, happening: Happening) {
        // The schedule itself rotates another secret, beside this one and beside its faults.
        if happening == Happening::SiblingRotates {
            return;
        }
        let which = self.below(self.courses.len());
        let course = &self.courses[which];
        self.say(format!("secret {which}: {} happens", happening.name()));
        self.happened.set(self.happened.get() + 1);
        self.works_for(which, ELSEWHERE);
        // What is overwritten by hand is looked at before.
        let puts_a_key = matches!(
            happening,
            Happening::KeyWithId | Happening::KeyBesideOldId | Happening::KeyWithoutId | Happening::Back
        );
        if puts_a_key || happening == Happening::Edit {
            self.undone(which).into_iter().for_each(|what| course.world.probe.report(what));
        }
        let Some(write) = happening.happen(course, &self.watch.turns).await else { return };
        if happening == Happening::KeyBesideOldId {
            excused::put_in_beside_another_id(course);
        }
        if puts_a_key {
            self.writes.borrow_mut().retain(|(of, _)| *of != which);
        }
        self.writes.borrow_mut().extend(write.map(|write| (which, write)));
        course.ledger.observe();
    }

    /// What people have written to this secret, and was undone in silence.
    fn undone(&self, which: usize) -> Vec<String> {
        let writes = self.writes.borrow();
        let of_it = writes.iter().filter(|(of, _)| *of == which);
        of_it.filter_map(|(_, write)| write.undone(&self.courses[which])).collect()
    }

    /// A step of some rotation, perhaps of one long ended, comes late.
    async fn deliver_late(&self) {
        let begun = self.begun.borrow().len();
        if begun == 0 {
            return;
        }
        let (which, rotation) = self.begun.borrow()[self.below(begun)].clone();
        let step = STEPS[self.below(STEPS.len())];
        self.say(format!("secret {which}: {step} of {} comes late", rotation.token));
        let outcome = self.invoke(which, ELSEWHERE, &step_event(&rotation, step)).await;
        self.say(format!("secret {which}: {step} of {}: {outcome:?}", rotation.token));
    }

    /// A person puts a label of his own on the current version, or takes it along.
    fn label(&self) {
        let course = &self.courses[self.below(self.courses.len())];
        let mut body = json!({"SecretId": course.world.arn, "VersionStage": "deployed",
                              "MoveToVersionId": course.holder("AWSCURRENT")});
        if let Some(holder) = course.holder("deployed") {
            body["RemoveFromVersionId"] = json!(holder);
        }
        if course.world.aws("UpdateSecretVersionStage", body).is_ok() {
            course.tell("a person labels the current version");
        }
    }

    /// The operators do what they are told, and a rotation of every secret completes. What was broken at any instant, or is at the end.
    async fn complete(&self) -> Vec<String> {
        if self.courses.len() == 2 {
            // What one of them has broken, the other's operator does not put right.
            for course in &self.courses {
                course.put_right();
            }
        }
        for (which, course) in self.courses.iter().enumerate() {
            self.works_for(which, 0);
            course.operate().await;
            course.put_right();
        }
        let mut broken: Vec<String> = Vec::new();
        let killed = self.watch.killed.load(Ordering::SeqCst);
        if !excused::next_rotation_ends_it(&self.courses[0], killed) {
            broken.extend(self.at_the_end().await);
        }
        for which in 0..self.courses.len() {
            broken.extend(self.undone(which));
        }
        for (which, course) in self.courses.iter().enumerate() {
            self.works_for(which, 0);
            self.say(format!("secret {which} is rotated a last time"));
            let rotation = course.begin_again(false).or_else(|| course.begin_again(true));
            let end = course.drive(0, &rotation.unwrap(), RETRIES.attempts, async |_| {}).await;
            self.completed.set(self.completed.get() + usize::from(end == Event::Succeeded));
            // What it asks for is done.
            course.operate().await;
        }
        broken.extend(self.at_the_end().await);
        broken.extend(self.wrong_hands());
        broken.extend(self.leaks());
        broken.retain(|what| {
            let is_hidden = |course: &Course| {
                excused::lost_key_is_hidden(&course.world, what) || excused::mark_is_hidden(course, what)
            };
            !self.courses.iter().any(is_hidden)
        });
        // What goes on is broken once.
        let mut kinds = BTreeSet::new();
        broken.into_iter().filter(|what| kinds.insert(kind(what))).collect()
    }

    async fn at_the_end(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for (which, course) in self.courses.iter().enumerate() {
            self.works_for(which, 0);
            broken.extend(course.end().await.into_iter().filter(|what| !what.starts_with("I3")));
        }
        // Once every secret's report has been asked for.
        broken.extend(self.courses[0].ledger.unaccounted(|key| excused::shares_its_id(&self.courses[0], key)));
        broken
    }

    /// Whether a rotation of one secret has touched a key of the other.
    fn wrong_hands(&self) -> Vec<String> {
        let made_for = self.watch.made_for.lock().unwrap();
        let mut owners: BTreeMap<String, String> =
            self.courses.iter().map(|course| (course.world.first_key.clone(), course.world.arn.clone())).collect();
        let calls = self.courses[0].world.emulator.calls();
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
                // A key that a person has made is whose secret he puts it into.
                let (owner, secret) = (owners.get(id)?, made_for.get(&call.number)?);
                (owner != secret)
                    .then(|| format!("I4: call {} for {secret} touched {id}, which is {owner}'s", call.number))
            })
            .collect()
    }

    /// No answer and no error holds a key.
    fn leaks(&self) -> Vec<String> {
        let world = &self.courses[0].world;
        let history = world.history.borrow().join("\n");
        let leaked: Vec<String> = world.emulator.with_kosli(|kosli| {
            kosli.keys().filter(|key| history.contains(&key.value)).map(|key| key.id.clone()).collect()
        });
        leaked.into_iter().map(|id| format!("I5: the value of {id} was said")).collect()
    }

    /// Whether two executions have chosen the same attempt bits for one version: the odds that the design accepts.
    fn is_coincidence(&self) -> bool {
        let made_for = self.watch.made_for.lock().unwrap();
        let mut seen: BTreeMap<(String, u64), String> = BTreeMap::new();
        self.courses[0].world.emulator.calls().iter().any(|call| {
            let expiry = call.detail.split("expires_at=").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
            let (Some(expiry), Some(secret)) = (expiry, made_for.get(&call.number)) else { return false };
            let expiry: u64 = expiry;
            let other = seen.insert((secret.clone(), expiry % WINDOW), call.tag.clone());
            other.is_some_and(|tag| tag != call.tag)
        })
    }
}

/// Whether something was due by now; it is none any more.
fn take_due(due: &mut BTreeSet<usize>, now: usize) -> bool {
    due.first().is_some_and(|first| *first <= now) && due.pop_first().is_some()
}

/// What all schedules came to.
#[derive(Default)]
struct Report {
    rotations: AtomicUsize,
    calls: AtomicUsize,
    happened: AtomicUsize,
    coincidences: AtomicUsize,
    failures: Mutex<Vec<(u64, Vec<String>, String)>>,
}

/// Runs a schedule; its course comes back.
async fn run(testbed: &Testbed, seed: u64, report: &Report) -> String {
    let schedule = Schedule::new(testbed, seed);
    let broken = tokio::select! {
        broken = schedule.run() => broken,
        () = schedule.take_turns() => unreachable!("it goes on for as long as the schedule"),
    };
    let world = &schedule.courses[0].world;
    report.rotations.fetch_add(schedule.completed.get(), Ordering::SeqCst);
    report.calls.fetch_add(world.calls(), Ordering::SeqCst);
    report.happened.fetch_add(schedule.happened.get(), Ordering::SeqCst);
    let story = world.story();
    if !broken.is_empty() && schedule.is_coincidence() {
        excused::same_attempt_bits();
        report.coincidences.fetch_add(1, Ordering::SeqCst);
    } else if !broken.is_empty() {
        let text = broken.join("\n");
        let failure = format!("SEED={seed} cargo exhaustive --test random: {:?}\n{text}\n{story}", world.setting);
        report.failures.lock().unwrap().push((seed, broken, failure));
    }
    let met = schedule.watch.met.lock().unwrap().clone();
    let course = [schedule.watch.turns.log(), world.history.borrow().clone(), met].concat();
    unsigned(&course.join("\n"))
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

/// On a machine that does other things at once, the kernel hands a call on a little later now and then, and the calls that wait for their
/// turn are sorted without it: a schedule that is to replay has the machine for itself.
static MACHINE: Mutex<()> = Mutex::new(());

#[test]
fn long_random_schedules_keep_every_promise() {
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let begin = Instant::now();
    // A seed that nobody has tried before, every time: printed, so that it can be tried again.
    let first = number("SEED").or_else(|| number("FROM")).unwrap_or(1);
    let cases = if number("SEED").is_some() { 1 } else { number("CASES").unwrap_or(CASES as u64) as usize };
    say!("seeds {first} to {}", first + cases as u64 - 1);
    let report = Report::default();
    on_every_core(cases, 3, async |testbed, case| drop(run(testbed, first + case as u64, &report).await));
    let failures = report.failures.into_inner().unwrap();
    let (rotations, calls) = (report.rotations.into_inner(), report.calls.into_inner());
    let (coincidences, happened) = (report.coincidences.into_inner(), report.happened.into_inner());
    say!(
        "{cases} schedules, {rotations} completed rotations, {calls} calls, {happened} happenings in {:.1?}; {} failed",
        begin.elapsed(),
        failures.len()
    );
    excused::say_what_was_excused();
    let mut kinds: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for (seed, broken, _) in &failures {
        for what in broken {
            kinds.entry(kind(what)).or_default().insert(*seed);
        }
    }
    for (kind, seeds) in kinds {
        let seeds: Vec<String> = seeds.iter().take(8).map(u64::to_string).collect();
        println!("{kind}: SEED={}", seeds.join(", "));
    }
    if let Some((_, _, failure)) = failures.first() {
        panic!("{failure}");
    }
    assert!(rotations >= cases, "schedules without rotations prove nothing");
    assert!(happened >= cases || cases == 1, "schedules in which nobody does anything prove nothing");
    assert!(coincidences * 100 <= cases.max(100), "too many schedules were set aside");
}

#[test]
fn a_seed_replays() {
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let testbed = Testbed::new(3).await;
        for seed in 0..20 {
            let first = run(&testbed, seed, &Report::default()).await;
            // Whatever was before: nothing, or other schedules.
            let fresh = Testbed::new(3).await;
            let again = run(&fresh, seed, &Report::default()).await;
            let place = first.lines().zip(again.lines()).position(|(first, again)| first != again);
            let around = |course: &str| {
                course.lines().skip(place.unwrap_or(0).saturating_sub(3)).take(5).collect::<Vec<_>>().join("\n")
            };
            assert!(first == again, "SEED={seed}, line {place:?}:\n{}\n---\n{}", around(&first), around(&again));
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
