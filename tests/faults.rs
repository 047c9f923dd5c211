//! Whatever fails, wherever: a rotation completes over redelivery, and all promises hold, at every instant.
//!
//! The calls of a clean rotation are recorded, and then every fault befalls every one of them, in every setting. Nothing is
//! sampled. Every case runs the real handler and the real clients against the emulator, on a frozen clock.

mod support;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use emulator::kosli::Switches;
use emulator::rotation::{Event, Retries};
use emulator::{Fault, Service};
use support::{Bench, Setting, World, token};

/// How Secrets Manager tries again; longer apart than the function's time-out and the age at which a key counts as lost.
const RETRIES: Retries = Retries { attempts: 6, spacing: Duration::from_secs(120) };

const ONCE: Duration = Duration::ZERO;
const A_WHILE: Duration = Duration::from_secs(12);
const LONGER_THAN_A_STEP: Duration = Duration::from_secs(100);

/// Everything that can befall a call.
fn faults(service: Service) -> Vec<(Fault, Duration)> {
    let parse = |text: &str| -> Fault { text.parse().unwrap() };
    let refusals: &[(&str, Duration)] = match service {
        Service::SecretsManager => &[
            ("refuse:400:ThrottlingException", ONCE),
            ("refuse:400:ThrottlingException", A_WHILE),
            ("refuse:400:AccessDeniedException", ONCE),
            ("refuse:400:AccessDeniedException", LONGER_THAN_A_STEP),
            ("late:6s", ONCE),
        ],
        Service::Kosli => &[
            ("refuse:429", ONCE),
            ("refuse:429:retry-after=3", ONCE),
            ("refuse:429", A_WHILE),
            ("refuse:409", ONCE),
            ("refuse:409", LONGER_THAN_A_STEP),
            ("refuse:403", ONCE),
            ("refuse:401", ONCE),
            ("late:9s", ONCE),
            ("late:33s", ONCE),
            ("late:300s", ONCE),
        ],
    };
    let both = [
        ("error-before:500", ONCE),
        ("error-before:503", A_WHILE),
        ("error-after:500", ONCE),
        ("drop-before", ONCE),
        ("drop-after", ONCE),
        ("no-answer", ONCE),
        ("no-answer-after", ONCE),
        ("no-answer-after", LONGER_THAN_A_STEP),
        ("delay:3s", ONCE),
        ("garble", ONCE),
        ("truncate", ONCE),
        ("incomplete", ONCE),
        ("html:502", ONCE),
        ("kill-before", ONCE),
        ("kill-after", ONCE),
    ];
    refusals.iter().chain(&both).map(|(text, lasts)| (parse(text), *lasts)).collect()
}

/// What is expected of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// The rotation completes, whatever befalls it.
    Completes,
    /// Kosli does not allow it: nothing is minted, and nothing is lost.
    Refuses,
}

/// Every answer to every open question, both revocation policies, with and without an admin secret.
fn settings() -> Vec<(Setting, Expected)> {
    let mut settings = Vec::new();
    let mut variations = Switches::variations();
    variations.insert(0, ("default", Switches::default()));
    for (name, switches) in variations {
        for admin in [true, false] {
            for revoke_immediately in [false, true] {
                let expected = match name {
                    "list_shape=wrapped" => Expected::Refuses,
                    "key_managers=admins" if !admin => Expected::Refuses,
                    _ => Expected::Completes,
                };
                let name = format!("{name} admin={admin} immediately={revoke_immediately}");
                let setting = Setting { name, switches: switches.clone(), admin, revoke_immediately, ..Setting::default() };
                settings.push((setting, expected));
            }
        }
    }
    settings
}

/// What a case came to, if it broke a promise.
async fn broken(world: &World, expected: Expected) -> Option<String> {
    let end = world.rotate(&token("second", 0), RETRIES).await;
    let mut broken = match expected {
        Expected::Completes => world.check_completed(),
        Expected::Refuses => world.violations(),
    };
    match expected {
        Expected::Completes if end != Event::Succeeded => broken.push(format!("it did not complete: {end}")),
        Expected::Refuses if !world.minted().is_empty() => broken.push("a key was minted".to_owned()),
        _ => {}
    }
    (!broken.is_empty()).then(|| broken.join("; "))
}

#[test]
fn every_fault_at_every_call_in_every_setting() {
    let settings = settings();
    let begin = Instant::now();
    let (next, cases) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failures = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let bench = Bench::new(1).await;
                    while let Some((setting, expected)) = settings.get(next.fetch_add(1, Ordering::SeqCst)) {
                        let world = bench.world(setting);
                        let clean = broken(&world, *expected).await;
                        let calls = bench.emulator.calls();
                        if let Some(what) = clean {
                            failures.lock().unwrap().insert(format!("{} without a fault", setting.name), (what, world.story()));
                        }
                        for (call, recorded) in calls.iter().enumerate() {
                            for (fault, lasts) in faults(recorded.service) {
                                let world = bench.world(setting);
                                world.fault(call + 1, fault.clone(), lasts);
                                cases.fetch_add(1, Ordering::SeqCst);
                                if let Some(what) = broken(&world, *expected).await {
                                    let case = format!(
                                        "{}: {fault} for {lasts:?} at call {} ({})",
                                        setting.name,
                                        call + 1,
                                        recorded.operation
                                    );
                                    failures.lock().unwrap().insert(case, (what, world.story()));
                                }
                            }
                        }
                    }
                });
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    println!("{} cases in {:.1?}, {} failed", cases.into_inner(), begin.elapsed(), failures.len());
    if let Some((case, (what, story))) = failures.first_key_value() {
        for (case, (what, _)) in failures.iter().take(400) {
            println!("{case}: {what}");
        }
        panic!("{case}\n{what}\n{story}");
    }
}
