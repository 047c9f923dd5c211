//! The function's real executable, killed with SIGKILL before and after the effect of every call of a clean rotation, and
//! delivered again until it completes.
//!
//! The other tests end an execution by dropping a future; here a process dies as it does on Lambda, with its connections, and
//! everything that it has not sent. Each case has sockets and a process of its own. The emulator's clock follows the machine's,
//! and is moved between two attempts beyond the age at which a marked key counts as lost: the function measures that age by
//! Kosli's `Date`.

#![allow(clippy::unwrap_used)]

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use emulator::process::FunctionProcess;
use emulator::rotation::{Event, Retries};
use emulator::runtime_api::Function;
use emulator::secrets_manager::RotationRequest;
use emulator::{BoxFuture, Call, Clock, Fault, Hook};
use testbed::faults::{Trouble, Which};
use testbed::{ADMIN_SECRET, Probe, Setting, Testbed, say, token};

/// At once: what passes between two attempts passes on the emulator's clock.
const RETRIES: Retries = Retries { attempts: 6, spacing: Duration::ZERO };

/// Longer than the function's time-out and the margin after which a marked key counts as lost.
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(120);

/// The probe, with a process to kill.
struct Killer {
    probe: Arc<Probe>,
    process: OnceLock<FunctionProcess>,
    kills: AtomicUsize,
}

impl Hook for Killer {
    fn before<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Option<Fault>> {
        self.probe.before(call)
    }

    fn after(&self, call: &Call) {
        self.probe.after(call);
    }

    fn kill(&self, _: &Call) {
        if self.process.get().is_some_and(FunctionProcess::kill) {
            self.kills.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// A setting, and the calls at which the process is killed.
struct Case {
    admin: bool,
    immediately: bool,
    kills: Vec<(Which, Fault)>,
}

/// It is written `admin=true immediately=false | CALL => kill-after | …`.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "admin={} immediately={}", self.admin, self.immediately)?;
        self.kills.iter().try_for_each(|(which, fault)| write!(f, " | {which} => {fault}"))
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(" | ");
        let setting = parts.next().unwrap_or_default();
        let kill = |text: &str| {
            let (which, fault) = text.split_once(" => ").ok_or_else(|| format!("\"{text}\" kills at no call"))?;
            Ok((which.parse()?, fault.parse().map_err(|error| format!("{error}"))?))
        };
        let kills = parts.map(kill).collect::<Result<_, String>>()?;
        Ok(Self { admin: setting.contains("admin=true"), immediately: setting.contains("immediately=true"), kills })
    }
}

/// Rotates in a process; what was broken comes back, and the calls that were made.
async fn run(case: &Case) -> (Vec<String>, Vec<Call>) {
    let testbed = Testbed::with_clock(0, Clock::real()).await;
    let setting = Setting { admin: case.admin, ..Setting::default() };
    let world = testbed.world(&setting);
    for (which, fault) in &case.kills {
        world.probe.trouble(which.clone(), Trouble { fault: fault.clone(), lasts: Duration::ZERO });
    }
    let mut function = Function::new(env!("CARGO_BIN_EXE_function"));
    if case.admin {
        function.environment.push(("KOSLI_ADMIN_SECRET_ID".to_owned(), ADMIN_SECRET.to_owned()));
    }
    if case.immediately {
        function.environment.push(("KOSLI_REVOKE_OLD_KEY".to_owned(), "immediately".to_owned()));
    }
    let killer = Arc::new(Killer { probe: world.probe.clone(), process: OnceLock::new(), kills: AtomicUsize::new(0) });
    let process = killer.process.get_or_init(|| FunctionProcess::new(&world.emulator, "a", function));
    world.emulator.set_hook(killer.clone());

    let rotation = world.begin_rotation(&token("second", 0)).unwrap();
    let observe = |_: &RotationRequest, event: &Event| {
        world.say(event.to_string());
        if matches!(event, Event::StepFailed(..)) {
            world.emulator.clock().advance(BETWEEN_ATTEMPTS);
        }
    };
    let invoke = |event| async move { process.invoke(&event).await };
    let end = emulator::rotation::rotate(&world.emulator, &rotation, RETRIES, invoke, observe).await;
    process.stop().await;

    let mut broken = world.check_completed();
    if end != Event::Succeeded {
        broken.push(format!("it did not complete: {end}"));
    }
    if killer.kills.load(Ordering::SeqCst) != case.kills.len() {
        broken.push("a kill did not come to pass".to_owned());
    }
    // Searched with all that is emitted here.
    process.output().iter().for_each(|line| testbed::emit(line));
    if !broken.is_empty() {
        broken.push(world.story());
        broken.extend(process.output());
    }
    (broken, world.emulator.calls())
}

/// Runs the cases, several at once, each on ports of its own. The calls of each come back.
fn run_all(cases: &[Case]) -> Vec<Vec<Call>> {
    let begin = Instant::now();
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let calls = Mutex::new(vec![Vec::new(); cases.len()]);
    std::thread::scope(|scope| {
        for _ in 0..2 * std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    let Some(case) = cases.get(number) else { break };
                    let (broken, made) = runtime.block_on(run(case));
                    if !broken.is_empty() {
                        let failure = format!("{}\n{}", exhaustive::replay("killed", case), broken.join("\n"));
                        failures.lock().unwrap().push(failure);
                    }
                    calls.lock().unwrap()[number] = made;
                }
            });
        }
    });
    say!("{} cases in {:.1?}", cases.len(), begin.elapsed());
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} failed, the first of them:\n{}", failures.len(), failures[0]);
    calls.into_inner().unwrap()
}

const KILLS: [Fault; 2] = [Fault::KillBefore, Fault::KillAfter];

#[test]
fn killed_before_and_after_the_effect_of_every_call() {
    if let Some(case) = exhaustive::asked_for::<Case>() {
        run_all(&[case]);
        return;
    }
    let settings = [(true, false), (true, true), (false, false), (false, true)];
    let clean = settings.map(|(admin, immediately)| Case { admin, immediately, kills: Vec::new() });
    let mut cases = Vec::new();
    for (Case { admin, immediately, .. }, calls) in clean.iter().zip(run_all(&clean)) {
        assert!(calls.len() > 15, "so few calls prove nothing");
        for (which, _) in Which::name(&calls) {
            for fault in KILLS {
                cases.push(Case { admin: *admin, immediately: *immediately, kills: vec![(which.clone(), fault)] });
            }
        }
    }
    run_all(&cases);
}

#[test]
fn killed_again_at_every_call_of_the_recovery_from_a_kill_at_a_change() {
    if exhaustive::asked_for::<Case>().is_some() {
        // The other test has run it.
        return;
    }
    let changes = ["rotate", "revoke", "PutSecretValue", "UpdateSecretVersionStage"];
    for admin in [true, false] {
        let case = |kills| Case { admin, immediately: true, kills };
        let clean = run_all(&[case(Vec::new())]).concat();
        let mut once = Vec::new();
        for (which, call) in Which::name(&clean) {
            if changes.contains(&call.operation.as_str()) {
                once.extend(KILLS.map(|fault| case(vec![(which.clone(), fault)])));
            }
        }
        let mut twice = Vec::new();
        for (first, calls) in once.iter().zip(run_all(&once)) {
            let named = Which::name(&calls);
            for (second, _) in named.iter().skip_while(|(which, _)| *which != first.kills[0].0).skip(1) {
                let both = |fault| [first.kills.clone(), vec![(second.clone(), fault)]].concat();
                twice.extend(KILLS.map(|fault| case(both(fault))));
            }
        }
        run_all(&twice);
    }
}
