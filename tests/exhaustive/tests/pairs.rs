//! Two executions at the same time, of any two steps that can meet: every order of their calls, not lucky timing.
//!
//! Each call waits until it is its turn, and a search goes through all orders. Orders that differ only in the succession of calls that do
//! not influence each other are one order: the search skips the second (sleep sets, as in stateless model checking). The same again
//! with either of the two killed.

#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use emulator::kosli::{LastUsedAt, ListInGrace, RotateInGrace, SuccessorId, Switches};
use emulator::rotation::{Retries, step_event};
use emulator::runtime_api::Outcome;
use emulator::secrets_manager::RotationRequest;
use emulator::{BoxFuture, Call, Emulator, Fault, Hook, Service};
use exhaustive::course::Course;
use exhaustive::excused;
use exhaustive::ledger::Ledger;
use exhaustive::{asked_for, everything, on_every_core, replay};
use serde_json::Value;
use testbed::{Probe, Setting, Testbed, say, second, token};
use tokio::sync::oneshot;

/// How often all others are let run before no call arrives by itself any more.
const QUIET_ROUNDS: usize = 48;

/// Calls that wait for their turn, by execution. Those that an execution makes side by side arrive in any order, so they are
/// sorted: the same order of turns is then the same order of calls.
struct Turnstile {
    emulator: Emulator,
    probe: Arc<Probe>,
    ledger: Arc<Ledger>,
    waiting: [Mutex<Queue>; 2],
    arrivals: AtomicUsize,
    /// How many calls of each kind an execution has made, for who is to be killed at one of them.
    made: Mutex<[BTreeMap<&'static str, usize>; 2]>,
    kill: Option<Kill>,
    was_killed: AtomicUsize,
}

/// The calls of an execution with their numbers of arrival, and what lets each pass.
type Queue = BTreeMap<(Waiting, usize), oneshot::Sender<()>>;

/// What matters of a call for the order of calls.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    operation: String,
    detail: String,
    kosli: bool,
    /// The key that it authenticates with.
    key: String,
    /// Nobody has used that key before: after this call the list says that somebody has.
    first_use: bool,
}

impl Waiting {
    /// Whether the two calls have the same result in either order, and leave the same behind.
    fn commutes_with(&self, other: &Self) -> bool {
        match (self.kosli, other.kosli) {
            (true, true) => self.commutes_at_kosli(other) && other.commutes_at_kosli(self),
            (false, false) => self.commutes_at_secrets_manager(other) && other.commutes_at_secrets_manager(self),
            // Neither service knows of the other.
            _ => true,
        }
    }

    fn commutes_at_kosli(&self, other: &Self) -> bool {
        let writes = ["rotate", "create", "revoke"];
        let is_write = |call: &Self| writes.contains(&call.operation.as_str());
        let shows_keys = ["list", "get"].contains(&other.operation.as_str());
        if shows_keys && (is_write(self) || self.first_use) {
            return false;
        }
        if is_write(self) && is_write(other) {
            return false;
        }
        // Whoever's key is revoked is not heard any more.
        self.operation != "revoke" || !self.detail.contains(&other.key)
    }

    fn commutes_at_secrets_manager(&self, other: &Self) -> bool {
        if self.secret() != other.secret() {
            return true;
        }
        match (self.operation.as_str(), other.operation.as_str()) {
            ("DescribeSecret" | "GetSecretValue", _) => true,
            // A value that is stored is nobody's under another label, and in no other version.
            ("PutSecretValue", "GetSecretValue") if !self.detail.contains("kosli-key-id:") => {
                match (self.names("ClientRequestToken"), other.names("VersionId"), other.names("VersionStage")) {
                    (Some(stored), Some(read), _) => stored != read,
                    (_, None, Some(label)) => label != "AWSPENDING",
                    _ => false,
                }
            }
            _ => false,
        }
    }

    fn names(&self, field: &str) -> Option<&str> {
        let mut words = self.detail.split(' ');
        words.find_map(|word| word.strip_prefix(field)?.strip_prefix('='))
    }

    fn secret(&self) -> Option<&str> {
        self.names("SecretId")
    }
}

impl Hook for Turnstile {
    fn before<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Option<Fault>> {
        Box::pin(async move {
            let execution = usize::from(call.tag == "b");
            let kosli = call.service == Service::Kosli;
            let key = call.key_id.clone().unwrap_or_default();
            let unused = |kosli: &mut emulator::kosli::Kosli| kosli.keys().any(|k| k.id == key && k.used_at.is_empty());
            let first_use = kosli && self.emulator.with_kosli(unused);
            // The attempt bits in it are random.
            let detail = call.detail.split(" expires_at=").next().unwrap_or_default().to_owned();
            self.wait(execution, Waiting { operation: call.operation.clone(), detail, kosli, key, first_use }).await;
            let fault = self.probe.before(call).await;
            fault.or_else(|| self.fault(execution, call))
        })
    }

    fn after(&self, call: &Call) {
        self.probe.after(call);
        self.ledger.observe();
    }

    fn kill(&self, call: &Call) {
        self.probe.kill(call);
    }
}

impl Turnstile {
    fn new(course: &Course, kill: Option<Kill>) -> Arc<Self> {
        let turnstile = Arc::new(Self {
            emulator: course.world.emulator.clone(),
            probe: course.world.probe.clone(),
            ledger: course.ledger.clone(),
            waiting: Default::default(),
            arrivals: AtomicUsize::new(0),
            made: Mutex::default(),
            kill,
            was_killed: AtomicUsize::new(0),
        });
        course.world.emulator.set_hook(turnstile.clone());
        turnstile
    }

    async fn wait(&self, execution: usize, waiting: Waiting) {
        let (pass, passed) = oneshot::channel();
        let arrival = self.arrivals.fetch_add(1, Ordering::SeqCst);
        self.waiting[execution].lock().unwrap().insert((waiting, arrival), pass);
        // A sender that is dropped lets everybody pass: the end of a case.
        let _ = passed.await;
    }

    /// A person's hands come before an execution's calls: they wait for their turn as well.
    async fn hands(&self, execution: usize, secret: &str) {
        let detail = format!("SecretId={}", secret.rsplit(":secret:").next().unwrap_or_default());
        let operation = "(a person)".to_owned();
        self.wait(execution, Waiting { operation, detail, kosli: false, key: String::new(), first_use: false }).await;
    }

    fn fault(&self, execution: usize, call: &Call) -> Option<Fault> {
        let kill = self.kill.filter(|kill| kill.execution == execution)?;
        let kind = match call.operation.as_str() {
            "rotate" | "create" => "mint",
            "PutSecretValue" => "store",
            "UpdateSecretVersionStage" => "move",
            "revoke" => "revoke",
            _ => "read",
        };
        let mut made = self.made.lock().unwrap();
        for kind in [kind, "call"] {
            let made = made[execution].entry(kind).or_default();
            *made += 1;
            if kind == kill.kind && *made == kill.number {
                self.was_killed.fetch_add(1, Ordering::SeqCst);
                return Some(if kill.after { Fault::KillAfter } else { Fault::KillBefore });
            }
        }
        None
    }

    fn first(&self, execution: usize) -> Option<Waiting> {
        self.waiting[execution].lock().unwrap().keys().next().map(|(waiting, _)| waiting.clone())
    }

    fn pass(&self, execution: usize) {
        if let Some((_, pass)) = self.waiting[execution].lock().unwrap().pop_first() {
            let _ = pass.send(());
        }
    }

    /// Waits until no more calls arrive by themselves.
    async fn settle(&self) {
        let (mut quiet, mut seen) = (0, self.arrivals.load(Ordering::SeqCst));
        while quiet < QUIET_ROUNDS {
            tokio::task::yield_now().await;
            let now = self.arrivals.load(Ordering::SeqCst);
            quiet = if now == seen { quiet + 1 } else { 0 };
            seen = now;
        }
    }
}

/// Who is killed, and where: `a before mint 1`, `b after call 7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kill {
    execution: usize,
    after: bool,
    kind: &'static str,
    number: usize,
}

const KINDS: [&str; 5] = ["call", "mint", "store", "move", "revoke"];

impl fmt::Display for Kill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (execution, when) = (["a", "b"][self.execution], if self.after { "after" } else { "before" });
        write!(f, "{execution} killed {when} {} {}", self.kind, self.number)
    }
}

fn parse_kill(text: &str) -> Option<Option<Kill>> {
    if text == "nobody killed" {
        return Some(None);
    }
    let [execution, "killed", when, kind, number] = text.split(' ').collect::<Vec<_>>()[..] else { return None };
    Some(Some(Kill {
        execution: usize::from(execution == "b"),
        after: when == "after",
        kind: KINDS.into_iter().find(|known| *known == kind)?,
        number: number.parse().ok()?,
    }))
}

/// Which two meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meeting {
    /// `createSecret`, delivered twice.
    CreateTwice,
    /// `createSecret` for two versions: a person has taken `AWSPENDING` off the first and begun again.
    CreateAndCreateAgain,
    /// `finishSecret`, and `createSecret` of the rotation after it: a person has begun again, at any time.
    FinishAndCreateAgain,
    /// `finishSecret` for a version that is current already, and `createSecret` of the rotation after it.
    LateFinishAndCreate,
    /// `finishSecret`, delivered twice.
    FinishTwice,
    /// `testSecret`, delivered late, and `finishSecret`.
    TestAndFinish,
    /// `createSecret` of two secrets of one account.
    TwoSecrets,
}

const MEETINGS: [(&str, Meeting); 7] = [
    ("create+create", Meeting::CreateTwice),
    ("create+create-again", Meeting::CreateAndCreateAgain),
    ("finish+create-again", Meeting::FinishAndCreateAgain),
    ("late-finish+create", Meeting::LateFinishAndCreate),
    ("finish+finish", Meeting::FinishTwice),
    ("test+finish", Meeting::TestAndFinish),
    ("two-secrets", Meeting::TwoSecrets),
];

/// Where they meet.
fn settings() -> Vec<Setting> {
    let default = Switches::default;
    let conflict = Switches { rotate_in_grace: RotateInGrace::Conflict, ..default() };
    let not_found = Switches { rotate_in_grace: RotateInGrace::NotFound, ..default() };
    let hidden = Switches { list_in_grace: ListInGrace::Hidden, ..default() };
    let lazy = Switches { last_used_at: LastUsedAt::Never, ..default() };
    let same_id = Switches { successor_id: SuccessorId::Same, ..default() };
    let mut settings = Vec::new();
    for (name, switches, admin) in [
        ("listed", default(), true),
        ("listed-self", default(), false),
        ("409", conflict, true),
        ("404", not_found, true),
        ("hidden", hidden, true),
        ("use-not-shown", lazy, true),
        ("same-id", same_id, true),
    ] {
        for (when, revoke_immediately) in [("after-grace", false), ("immediately", true)] {
            let (name, switches) = (format!("{name} {when}"), switches.clone());
            settings.push(Setting { name, switches, admin, revoke_immediately, ..Setting::default() });
        }
    }
    settings
}

/// A point at which both executions had a call waiting.
struct Node {
    options: [Waiting; 2],
    /// Executions whose waiting call need not go first here: that order is (equivalent to) one seen before.
    asleep: Vec<usize>,
    chosen: usize,
    explored: Vec<usize>,
}

/// Goes through all orders of a meeting.
#[derive(Default)]
struct Search {
    path: Vec<Node>,
    /// An order that is to be repeated, and no other.
    asked: Option<Vec<usize>>,
}

impl Search {
    /// Runs both in one order: the recorded path first, then always the first that is not asleep. `None`: the order is
    /// equivalent to one seen before, and was left at that point.
    async fn run<T>(&mut self, turnstile: &Turnstile, both: impl Future<Output = T>) -> Option<T> {
        let (mut depth, mut asleep): (usize, Vec<usize>) = (0, Vec::new());
        let scheduler = async {
            loop {
                turnstile.settle().await;
                match [turnstile.first(0), turnstile.first(1)] {
                    [Some(a), Some(b)] => {
                        if depth == self.path.len() {
                            let asked = self.asked.as_ref().and_then(|order| order.get(depth).copied());
                            let Some(chosen) = asked.or_else(|| (0..2).find(|option| !asleep.contains(option))) else {
                                return;
                            };
                            let (asleep, explored) = (asleep.clone(), vec![chosen]);
                            self.path.push(Node { options: [a, b], asleep, chosen, explored });
                        }
                        let node = &self.path[depth];
                        let first = turnstile.first(node.chosen);
                        assert_eq!(Some(&node.options[node.chosen]), first.as_ref(), "not repeatable");
                        let chosen = &node.options[node.chosen];
                        asleep = (0..2)
                            .filter(|other| *other != node.chosen)
                            .filter(|other| node.asleep.contains(other) || node.explored.contains(other))
                            .filter(|other| node.options[*other].commutes_with(chosen))
                            .collect();
                        turnstile.pass(node.chosen);
                        depth += 1;
                    }
                    [Some(_), None] => {
                        asleep.clear();
                        turnstile.pass(0);
                    }
                    [None, Some(_)] => {
                        asleep.clear();
                        turnstile.pass(1);
                    }
                    [None, None] => {}
                }
            }
        };
        tokio::select! {
            outcome = both => Some(outcome),
            () = scheduler => None,
        }
    }

    /// Turns to the next order; false: all have been seen.
    fn turn(&mut self) -> bool {
        while let Some(node) = self.path.last_mut() {
            let next = (0..2).find(|option| !node.explored.contains(option) && !node.asleep.contains(option));
            if let Some(next) = next {
                node.chosen = next;
                node.explored.push(next);
                return true;
            }
            self.path.pop();
        }
        false
    }

    fn order(&self) -> String {
        self.path.iter().map(|node| if node.chosen == 0 { 'a' } else { 'b' }).collect()
    }
}

/// A case: `create+create | 409 after-grace | a killed before store 1 | abba`.
#[derive(Clone, Debug)]
struct Case {
    meeting: Meeting,
    setting: Setting,
    kill: Option<Kill>,
    order: String,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meeting = MEETINGS.iter().find(|(_, known)| *known == self.meeting).unwrap().0;
        let kill = self.kill.map_or("nobody killed".to_owned(), |kill| kill.to_string());
        write!(f, "{meeting} | {} | {kill} | {}", self.setting.name, self.order)
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || text.to_owned();
        let [meeting, setting, kill, order] = text.split(" | ").collect::<Vec<_>>()[..] else { return Err(unknown()) };
        Ok(Self {
            meeting: MEETINGS.iter().find(|(known, _)| *known == meeting).ok_or_else(unknown)?.1,
            setting: settings().into_iter().find(|known| known.name == setting).ok_or_else(unknown)?,
            kill: parse_kill(kill).ok_or_else(unknown)?,
            order: order.to_owned(),
        })
    }
}

/// What one order came to.
struct Run {
    broken: Vec<String>,
    story: String,
    killed: bool,
    calls: [usize; 2],
}

/// Errors that nobody is to blame for: somebody else was faster, or slower. All others blame an operator who has done nothing.
const BLAMELESS: [&str; 9] = [
    "CurrentMoved",
    "OutOfTime",
    "PendingKeyDying",
    "PendingSuperseded",
    "PendingValueMissing",
    "Runtime.killed",
    "TokenNotPending",
    "TokenNotStaged",
    "TwinExecution",
];

impl Meeting {
    /// One order of the calls.
    async fn run(self, testbed: &Testbed, setting: &Setting, kill: Option<Kill>, search: &mut Search) -> Option<Run> {
        let world = testbed.world(setting);
        excused::pending_key_may_be_rotated(&world);
        let other = (self == Self::TwoSecrets).then(|| world.sibling("kosli/other"));
        let course = Course::new(world);
        let rotation = course.world.begin_rotation(&second()).unwrap();
        match self {
            Self::FinishAndCreateAgain | Self::FinishTwice | Self::TestAndFinish => {
                for step in ["createSecret", "setSecret", "testSecret"] {
                    course.invoke(0, &step_event(&rotation, step)).await.unwrap();
                }
            }
            Self::LateFinishAndCreate => {
                course.drive(0, &rotation, 1, async |_| {}).await;
            }
            Self::CreateTwice | Self::CreateAndCreateAgain | Self::TwoSecrets => {}
        }
        let others = other.as_ref().and_then(|other| other.begin_rotation(&token("other", 0)));
        let turnstile = Turnstile::new(&course, kill);
        let again: RefCell<Option<RotationRequest>> = RefCell::default();
        // A person begins again: takes the label off what is not current yet, and rotates.
        let begin_again = async || {
            turnstile.hands(1, &course.world.arn).await;
            let begun = course.begin_again(true).unwrap();
            again.replace(Some(begun.clone()));
            begun
        };
        let step = |execution: usize, rotation: &RotationRequest, step: &str| {
            let (event, course) = (step_event(rotation, step), &course);
            async move { course.invoke(execution, &event).await }
        };
        let both = async {
            match self {
                Self::CreateTwice => {
                    tokio::join!(step(0, &rotation, "createSecret"), step(1, &rotation, "createSecret"))
                }
                Self::CreateAndCreateAgain => {
                    let second = async { step(1, &begin_again().await, "createSecret").await };
                    tokio::join!(step(0, &rotation, "createSecret"), second)
                }
                Self::FinishAndCreateAgain | Self::LateFinishAndCreate => {
                    let second = async { step(1, &begin_again().await, "createSecret").await };
                    tokio::join!(step(0, &rotation, "finishSecret"), second)
                }
                Self::FinishTwice => {
                    tokio::join!(step(0, &rotation, "finishSecret"), step(1, &rotation, "finishSecret"))
                }
                Self::TestAndFinish => {
                    tokio::join!(step(0, &rotation, "testSecret"), step(1, &rotation, "finishSecret"))
                }
                Self::TwoSecrets => {
                    let others = others.as_ref().unwrap();
                    tokio::join!(step(0, &rotation, "createSecret"), step(1, others, "createSecret"))
                }
            }
        };
        let outcomes = search.run(&turnstile, both).await;
        let killed = turnstile.was_killed.load(Ordering::SeqCst) > 0;
        let calls = {
            let made = turnstile.made.lock().unwrap();
            [0, 1].map(|execution| made[execution].values().sum())
        };
        course.world.emulator.set_hook(Arc::new(Watcher(course.world.probe.clone(), course.ledger.clone())));
        let (a, b) = outcomes?;
        let mut broken = blamed(&[a, b]);
        let rotation = again.borrow().clone().unwrap_or(rotation);
        course.drive(0, &rotation, 4, async |_| {}).await;
        if let (Some(other), Some(rotation)) = (&other, &others) {
            let invoke = |event: Value| {
                let course = &course;
                async move { course.invoke(1, &event).await }
            };
            let retries = Retries { attempts: 4, spacing: std::time::Duration::from_secs(120) };
            emulator::rotation::rotate(&other.emulator, rotation, retries, invoke, |_, event| {
                course.tell(&format!("the other secret: {event}"));
            })
            .await;
        }
        course.siblings.borrow_mut().extend(other);
        course.operate().await;
        if excused::next_rotation_ends_it(&course, killed)
            && !course.unaccounted().is_empty()
            && let Some(rotation) = course.begin_again(false)
        {
            course.drive(0, &rotation, 4, async |_| {}).await;
        }
        broken.extend(course.end().await);
        Some(Run { broken, story: course.world.story(), killed, calls })
    }
}

/// Watches, and lets everybody go on.
struct Watcher(Arc<Probe>, Arc<Ledger>);

impl Hook for Watcher {
    fn before<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Option<Fault>> {
        self.0.before(call)
    }

    fn after(&self, call: &Call) {
        self.0.after(call);
        self.1.observe();
    }

    fn kill(&self, call: &Call) {
        self.0.kill(call);
    }
}

fn blamed(outcomes: &[Outcome]) -> Vec<String> {
    let errors = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    let blaming = errors.filter(|error| !BLAMELESS.contains(&error.error_type.as_str()));
    blaming.map(|error| format!("I7: {} blames somebody", error.error_type)).collect()
}

/// What all cases of a test came to.
#[derive(Default)]
struct Report {
    /// Orders by meeting.
    orders: Mutex<BTreeMap<&'static str, usize>>,
    failures: Mutex<Vec<(Case, Vec<String>, String)>>,
}

impl Report {
    /// Every order of a meeting. True: somebody was killed in one of them.
    async fn every_order(&self, testbed: &Testbed, meeting: Meeting, setting: &Setting, kill: Option<Kill>) -> bool {
        let name = MEETINGS.iter().find(|(_, known)| *known == meeting).unwrap().0;
        let (mut search, mut was_killed) = (Search::default(), false);
        loop {
            if let Some(run) = meeting.run(testbed, setting, kill, &mut search).await
                && run.killed == kill.is_some()
            {
                was_killed |= run.killed;
                *self.orders.lock().unwrap().entry(name).or_default() += 1;
                if !run.broken.is_empty() {
                    let case = Case { meeting, setting: setting.clone(), kill, order: search.order() };
                    self.failures.lock().unwrap().push((case, run.broken, run.story));
                }
            }
            if !search.turn() {
                return was_killed;
            }
        }
    }

    fn close(self, begin: Instant) {
        let failures = self.failures.into_inner().unwrap();
        let orders = self.orders.into_inner().unwrap();
        let all: usize = orders.values().sum();
        for (meeting, orders) in &orders {
            say!("{meeting}: {orders} orders");
        }
        say!("{all} orders in {:.1?}, {} failed", begin.elapsed(), failures.len());
        excused::say_what_was_excused();
        let mut kinds: BTreeMap<(String, String), Vec<&Case>> = BTreeMap::new();
        for (case, broken, _) in &failures {
            let meeting = case.to_string().split(" | ").next().unwrap_or_default().to_owned();
            for what in broken {
                let cases = kinds.entry((meeting.clone(), exhaustive::kind(what))).or_default();
                cases.push(case);
            }
        }
        for ((meeting, kind), cases) in kinds {
            println!("{meeting}: {} orders: {kind}\n    {}", cases.len(), replay("pairs", cases[0]));
        }
        if let Some((case, broken, story)) = failures.first() {
            panic!("{}\n{}\n{story}", replay("pairs", case), broken.join("\n"));
        }
        assert!(all > 100, "so few orders prove nothing");
    }
}

fn one() -> bool {
    let Some(case) = asked_for::<Case>() else { return false };
    Testbed::run(async |testbed| {
        let asked = case.order.chars().map(|execution| usize::from(execution == 'b')).collect();
        let mut search = Search { path: Vec::new(), asked: Some(asked) };
        let run = case.meeting.run(testbed, &case.setting, case.kill, &mut search).await.unwrap();
        println!("{case}\n{:?} calls\n{}", run.calls, run.story);
        assert!(run.broken.is_empty(), "{}", run.broken.join("\n"));
    });
    true
}

/// A meeting in a setting; with immediate revocation only where it is of interest.
fn pieces() -> Vec<(Meeting, Setting)> {
    let mut pieces = Vec::new();
    for (_, meeting) in MEETINGS {
        let finishes = !matches!(meeting, Meeting::CreateTwice | Meeting::CreateAndCreateAgain | Meeting::TwoSecrets);
        let settings = settings().into_iter().filter(|setting| finishes || !setting.revoke_immediately);
        pieces.extend(settings.map(|setting| (meeting, setting)));
    }
    pieces
}

#[test]
fn every_order_of_the_calls_of_every_pair() {
    if one() {
        return;
    }
    let (begin, report, pieces) = (Instant::now(), Report::default(), pieces());
    on_every_core(pieces.len(), 2, async |testbed, piece| {
        let (meeting, setting) = &pieces[piece];
        report.every_order(testbed, *meeting, setting, None).await;
    });
    report.close(begin);
}

#[test]
fn every_order_where_one_is_killed() {
    if asked_for::<Case>().is_some() {
        return;
    }
    let mut work = Vec::new();
    for (meeting, setting) in pieces() {
        for execution in [0, 1] {
            for after in [false, true] {
                work.push((meeting, setting.clone(), execution, after));
            }
        }
    }
    let (begin, report) = (Instant::now(), Report::default());
    // At every call, until there are no more; or where it hurts most.
    let kinds: &[&'static str] = if everything() { &["call"] } else { &["mint", "store"] };
    on_every_core(work.len(), 2, async |testbed, piece| {
        let (meeting, setting, execution, after) = work[piece].clone();
        for kind in kinds {
            for number in 1.. {
                let kill = Kill { execution, after, kind, number };
                let was_killed = report.every_order(testbed, meeting, &setting, Some(kill)).await;
                if !was_killed || !everything() {
                    break;
                }
            }
        }
    });
    report.close(begin);
}
