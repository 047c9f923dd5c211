//! A thousand secrets on twenty service accounts, all due at once: Kosli and Secrets Manager throttle, several executions work
//! side by side, and Secrets Manager delivers again what has failed. Nothing is lost, and it ends.
//!
//! The fifty keys of an account have fifty descriptions, as keys have that people tell apart. Where all are called the same, a
//! mark is all that tells the new key of one secret from the lost key of another: see `docs/performance.md`.

#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use emulator::faults::Rule;
use emulator::kosli::{Key, MintedBy, Quota};
use emulator::process::FunctionProcess;
use emulator::rotation::{Event, Retries};
use emulator::runtime_api::Function;
use emulator::secrets_manager::RotationRequest;
use emulator::{Call, Clock, Emulator, Hook, Service};
use serde_json::json;
use testbed::{ADMIN_SECRET, DAY, FUNCTION, HOUR, ORG, RETRIES, Setting, Testbed, World, key_in, say, token};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};

const SECRETS: usize = 1_000;
const ACCOUNTS: usize = 20;

/// What Secrets Manager lets an account write ("AWS Secrets Manager quotas").
const WRITES_PER_SECOND: usize = 50;

/// How often a rotation is tried at most. It takes up to three attempts here; six is when Secrets Manager gives up.
const MOST_ATTEMPTS: usize = 4;

/// How many calls all rotations make at most: 23 are a clean one's, and half as many again are made in vain.
const MOST_CALLS: usize = 45 * SECRETS;

/// One secret of the fleet.
#[derive(Clone)]
struct Member {
    arn: String,
    account: String,
    /// The version that the rotation makes.
    token: String,
    /// The id of the key that it holds at first.
    first_key: String,
}

/// All of them, and the keys that are nobody's business.
struct Fleet {
    emulator: Emulator,
    members: Vec<Member>,
    strangers: Vec<String>,
}

impl Fleet {
    /// Makes accounts, keys and secrets in a world that has an admin secret already, in all three shapes.
    fn new(world: &World) -> Self {
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
    fn begin(&self, world: &World) -> Vec<RotationRequest> {
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
    fn look_at_the_end(&self, lost: usize) -> Vec<String> {
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
struct Watch {
    fleet: Arc<Fleet>,
    broken: Mutex<Vec<String>>,
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
struct Tally {
    /// How many needed so many attempts.
    attempts: BTreeMap<usize, usize>,
    /// How often which error failed a step.
    errors: BTreeMap<String, usize>,
    unfinished: Vec<Event>,
}

impl Tally {
    fn observe(&mut self, event: &Event) {
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

/// Rotates the fleet on a frozen clock, through so many executions at once, and says what it came to.
fn rotate_all(name: &str, executions: usize, quota: Quota, faults: &[String]) {
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (tally, calls, broken, took) = runtime.block_on(async {
        let testbed = Testbed::new(executions).await;
        let world = Rc::new(testbed.world(&Setting { strangers: false, ..Setting::default() }));
        let fleet = Arc::new(Fleet::new(&world));
        let rotations = fleet.begin(&world);
        let watch = Arc::new(Watch { fleet: fleet.clone(), broken: Mutex::default() });
        world.emulator.set_hook(watch.clone());
        world.emulator.with_kosli(|kosli| kosli.switches.quota = Some(quota));
        world.emulator.with_secrets_manager(|service| service.switches.writes_per_second = Some(WRITES_PER_SECOND));
        faults.iter().for_each(|fault| world.emulator.faults().add(fault.parse::<Rule>().unwrap()));
        let began = world.emulator.clock().now();

        let tally = Rc::new(RefCell::new(Tally::default()));
        // Lambda lets so many run at once; the others wait in its queue.
        let free = Rc::new((Semaphore::new(executions), RefCell::new((0..executions).collect::<Vec<_>>())));
        let all = LocalSet::new();
        for rotation in rotations {
            let (world, tally, free) = (world.clone(), tally.clone(), free.clone());
            all.spawn_local(async move {
                let invoke = async |event| {
                    let _turn = free.0.acquire().await.unwrap();
                    let execution = free.1.borrow_mut().pop().unwrap();
                    let outcome = world.invoke(execution, &event).await;
                    free.1.borrow_mut().push(execution);
                    outcome
                };
                let observe = |_: &RotationRequest, event: &Event| tally.borrow_mut().observe(event);
                emulator::rotation::rotate(&world.emulator, &rotation, RETRIES, invoke, observe).await;
            });
        }
        all.await;
        let took = world.emulator.clock().now().duration_since(began).unwrap();
        let calls = world.emulator.calls();
        let minted_unheard =
            |call: &&Call| call.operation == "rotate" && call.status.is_none() && call.effect == Some(201);
        let lost = calls.iter().filter(minted_unheard).count();
        let mut broken = std::mem::take(&mut *watch.broken.lock().unwrap());
        broken.extend(fleet.look_at_the_end(lost));
        (tally.take(), calls, broken, took)
    });
    let throttled = |service| {
        let refused = |call: &&Call| {
            call.service == service && (call.status == Some(429) || call.outcome == "ThrottlingException")
        };
        calls.iter().filter(refused).count()
    };
    say!(
        "{name}: {SECRETS} secrets through {executions} executions in {} s of theirs and {:.1?} of ours; {} calls, {} of them \
         throttled by Kosli and {} by Secrets Manager; rotations by attempts {:?}, errors {:?}",
        took.as_secs(),
        began.elapsed(),
        calls.len(),
        throttled(Service::Kosli),
        throttled(Service::SecretsManager),
        tally.attempts,
        tally.errors,
    );
    assert!(broken.is_empty(), "{name}: {} promises broken, the first: {}", broken.len(), broken[0]);
    assert_eq!(tally.unfinished, [], "{name}");
    assert!(throttled(Service::Kosli) > SECRETS, "{name}: hardly anything was throttled");
    let attempts = tally.attempts.iter().filter(|(_, count)| **count > 0).map(|(attempts, _)| *attempts).max();
    assert!(attempts.is_some_and(|most| most <= MOST_ATTEMPTS), "{name}: {:?}", tally.attempts);
    assert!(calls.len() <= MOST_CALLS, "{name}: {} calls", calls.len());
}

#[test]
fn a_fleet_behind_a_kosli_that_throttles_without_saying_for_how_long() {
    let quota = Quota { per_second: 30, retry_after: None };
    rotate_all("without Retry-After", 40, quota, &[]);
}

#[test]
fn a_fleet_behind_a_kosli_that_says_for_how_long_and_loses_answers() {
    let quota = Quota { per_second: 30, retry_after: Some(Duration::from_secs(2)) };
    // Each loses a key's value, which has to be found, replaced and revoked among the keys of fifty other secrets.
    let lost: Vec<String> = (0..10).map(|number| format!("rotate#{}=drop-after", 1 + number * 97)).collect();
    rotate_all("with Retry-After", 40, quota, &lost);
}

/// The real executable, four processes of it: each rotates a quarter of the fleet, and its memory stays what it was.
#[tokio::test(flavor = "multi_thread")]
async fn the_memory_of_a_process_that_rotates_hundreds_of_secrets_is_flat() {
    const PROCESSES: usize = 4;
    /// After so many the clients are made, the connections open, and the longest of everything has been seen.
    const WARM_UP: usize = 25;
    /// The lists that Kosli answers become longer by a key with every rotation. A leak of one answer in each would be ten
    /// times this.
    const MARGIN: u64 = 1_000;

    let began = Instant::now();
    let testbed = Testbed::with_clock(0, Clock::real()).await;
    let emulator = testbed.emulator.clone();
    let (fleet, rotations) = {
        let world = testbed.world(&Setting { strangers: false, ..Setting::default() });
        let fleet = Arc::new(Fleet::new(&world));
        let rotations = fleet.begin(&world);
        (fleet, rotations)
    };
    let watch = Arc::new(Watch { fleet: fleet.clone(), broken: Mutex::default() });
    emulator.set_hook(watch.clone());
    // Loose enough for the test to be quick, tight enough to be met.
    let quota = Quota { per_second: 150, retry_after: None };
    emulator.with_kosli(|kosli| kosli.switches.quota = Some(quota));

    let mut processes = JoinSet::new();
    for (number, share) in rotations.chunks(SECRETS / PROCESSES).enumerate() {
        let (emulator, share) = (emulator.clone(), share.to_vec());
        let mut function = Function::new(env!("CARGO_BIN_EXE_kosli-key-rotation"));
        function.environment.push(("KOSLI_ADMIN_SECRET_ID".to_owned(), ADMIN_SECRET.to_owned()));
        let process = FunctionProcess::new(&emulator, &number.to_string(), function);
        processes.spawn(async move {
            let (mut after_warm_up, mut tally) = (0, Tally::default());
            for (done, rotation) in share.iter().enumerate() {
                if done == WARM_UP {
                    after_warm_up = peak_memory(process.pid().unwrap());
                }
                let seen = Mutex::new(&mut tally);
                let invoke = |event| {
                    let process = process.clone();
                    async move { process.invoke(&event).await }
                };
                let retries = Retries { attempts: RETRIES.attempts, spacing: Duration::from_secs(1) };
                let observe = |_: &RotationRequest, event: &Event| seen.lock().unwrap().observe(event);
                emulator::rotation::rotate(&emulator, rotation, retries, invoke, observe).await;
            }
            let at_the_end = peak_memory(process.pid().unwrap());
            (after_warm_up, at_the_end, tally)
        });
    }
    let ended = processes.join_all().await;
    let memory: Vec<(u64, u64)> = ended.iter().map(|(before, after, _)| (*before, *after)).collect();
    say!(
        "{SECRETS} secrets through {PROCESSES} processes in {:.1?}; peak memory in kB after {WARM_UP} rotations and after {}: \
         {memory:?}",
        began.elapsed(),
        SECRETS / PROCESSES
    );
    let calls = emulator.calls();
    assert!(calls.iter().any(|call| call.status == Some(429)), "nothing was throttled");
    for (before, after, tally) in ended {
        assert_eq!(tally.unfinished, []);
        assert!(after <= before + MARGIN, "the memory grew from {before} to {after} kB");
    }
    let mut broken = std::mem::take(&mut *watch.broken.lock().unwrap());
    broken.extend(fleet.look_at_the_end(0));
    assert!(broken.is_empty(), "{} promises broken, the first: {}", broken.len(), broken[0]);
}

/// The most that was ever resident, in kB. A process that was started anew has none of its predecessor's.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim_end_matches("kB").trim().parse().unwrap()
}
