//! A thousand secrets on twenty service accounts, all due at once: Kosli and Secrets Manager throttle, several executions work
//! side by side, and Secrets Manager delivers again what has failed. Nothing is lost, and it ends.
//!
//! The fifty keys of an account have fifty descriptions, as keys have that people tell apart. Where all are called the same, a
//! mark is all that tells the new key of one secret from the lost key of another: see `docs/performance.md`.

#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use emulator::faults::Rule;
use emulator::kosli::Quota;
use emulator::rotation::Event;
use emulator::secrets_manager::RotationRequest;
use emulator::{Call, Service};
use testbed::fleet::{Fleet, SECRETS, Tally, Watch};
use testbed::{RETRIES, Setting, Testbed, say};
use tokio::sync::Semaphore;
use tokio::task::LocalSet;

/// What Secrets Manager lets an account write ("AWS Secrets Manager quotas").
const WRITES_PER_SECOND: usize = 50;

/// How often a rotation is tried at most. It takes up to three attempts here; six is when Secrets Manager gives up.
const MOST_ATTEMPTS: usize = 4;

/// How many calls all rotations make at most: 23 are a clean one's, and half as many again are made in vain.
const MOST_CALLS: usize = 45 * SECRETS;

/// Rotates the fleet on a frozen clock, through so many executions at once, and says what it came to.
fn rotate_all(name: &str, executions: usize, quota: Quota, faults: &[String]) {
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (tally, calls, broken, took) = runtime.block_on(async {
        let testbed = Testbed::new(executions).await;
        let world = Rc::new(testbed.world(&Setting { strangers: false, ..Setting::default() }));
        let fleet = Arc::new(Fleet::new(&world));
        let rotations = fleet.begin(&world);
        let watch = Arc::new(Watch::new(&fleet));
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
        let mut broken = watch.broken();
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
