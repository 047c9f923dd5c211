//! Whatever fails, wherever: a rotation completes over redelivery, and all promises hold, at every instant.
//!
//! The calls of a clean rotation are recorded, and then every fault befalls every one of them, in every setting. Nothing is
//! sampled. Every case runs the real handler and the real clients against the emulator, on a frozen clock.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use emulator::kosli::Switches;
use emulator::rotation::Event;
use emulator::{Call, Fault, Service};
use testbed::{RETRIES, Setting, Testbed, World, say, token};

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
    /// The rotation completes, whatever befalls it, and every promise holds.
    Completes,
    /// The rotation completes. Kosli hides from everybody which key was lost, so it may stay; but a warning says so.
    CompletesWithWarning,
    /// The secret's own key is not allowed what the recovery (or an immediate revocation) needs. The rotation may stop with
    /// an error that says which right is missing, and nothing but completion is missing.
    MayStop,
    /// Kosli does not allow it: nothing is minted.
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
                    "key_managers=own-key" | "rights_in_grace=verify-only" if !admin => Expected::MayStop,
                    "expires_at=ignored" | "expires_at=start-of-day" | "list_shape=pages-of-2" => {
                        Expected::CompletesWithWarning
                    }
                    _ => Expected::Completes,
                };
                let name = format!("{name} admin={admin} immediately={revoke_immediately}");
                let setting =
                    Setting { name, switches: switches.clone(), admin, revoke_immediately, ..Setting::default() };
                settings.push((setting, expected));
            }
        }
    }
    settings
}

/// Rotates, and says what was broken.
async fn broken(world: &World, expected: Expected) -> Option<String> {
    let end = world.rotate(&token("second", 0), RETRIES).await;
    let completed = end == Event::Succeeded;
    let history = world.history.borrow().join("\n");
    let mut broken = if completed { world.check_completed() } else { world.violations() };
    match expected {
        Expected::CompletesWithWarning => {
            let warned = |what: &String| {
                let named = |key: &emulator::kosli::Key| {
                    what.contains(&key.id) && history.contains(&format!("The key {} was never used", key.id))
                };
                what.starts_with("I3")
                    && (history.contains("the list is not whole") || world.minted().iter().any(named))
            };
            broken.retain(|what| !warned(what));
        }
        Expected::MayStop
            if !completed && !["KosliForbidden", "CleanUpIncomplete"].iter().any(|kind| history.contains(kind)) =>
        {
            broken.push("it stopped without saying which right is missing".to_owned());
        }
        Expected::Refuses if !world.minted().is_empty() => broken.push("a key was minted".to_owned()),
        _ => {}
    }
    if !completed && matches!(expected, Expected::Completes | Expected::CompletesWithWarning) {
        broken.push(format!("it did not complete: {end}"));
    }
    (!broken.is_empty()).then(|| broken.join("; "))
}

/// A case that can be run again: a setting and the faults at numbered calls.
struct Case<'a> {
    setting: &'a Setting,
    expected: Expected,
    faults: Vec<(usize, Fault, Duration)>,
}

impl Case<'_> {
    /// Runs it; the calls that were made come back.
    async fn run(&self, testbed: &Testbed, report: &Report) -> Vec<Call> {
        let world = testbed.world(self.setting);
        for (call, fault, lasts) in &self.faults {
            world.fault(*call, fault.clone(), *lasts);
        }
        report.cases.fetch_add(1, Ordering::SeqCst);
        if let Some(what) = broken(&world, self.expected).await {
            report.failures.lock().unwrap().push((self.name(), what, world.story()));
        }
        testbed.emulator.calls()
    }

    fn name(&self) -> String {
        let faults = self.faults.iter().map(|(call, fault, lasts)| format!("{fault} for {lasts:?} at call {call}"));
        format!("{}: {}", self.setting.name, faults.collect::<Vec<_>>().join(", "))
    }
}

/// What all cases of a test came to.
#[derive(Default)]
struct Report {
    cases: AtomicUsize,
    failures: Mutex<Vec<(String, String, String)>>,
}

impl Report {
    /// Runs the settings, one after the other on each core.
    fn run(settings: &[(Setting, Expected)], test: impl AsyncFn(&Testbed, &Setting, Expected, &Self) + Sync) {
        let begin = Instant::now();
        let report = Self::default();
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
                scope.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(async {
                        let testbed = Testbed::new(1).await;
                        while let Some((setting, expected)) = settings.get(next.fetch_add(1, Ordering::SeqCst)) {
                            test(&testbed, setting, *expected, &report).await;
                        }
                    });
                });
            }
        });
        let failures = report.failures.into_inner().unwrap();
        let cases = report.cases.into_inner();
        say!("{cases} cases in {:.1?}, {} failed", begin.elapsed(), failures.len());
        let mut by_setting: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
        for (case, what, _) in &failures {
            by_setting.entry(case.split(':').next().unwrap_or_default()).or_default().push((case, what));
        }
        for (setting, cases) in by_setting {
            println!("{setting}: {} failed, the first of them:", cases.len());
            for (case, what) in cases.iter().take(12) {
                println!("  {case}: {what}");
            }
        }
        if let Some((case, what, story)) = failures.first() {
            panic!("{case}\n{what}\n{story}");
        }
        assert!(cases > 1_000, "so few cases prove nothing");
    }
}

#[test]
fn every_fault_at_every_call_in_every_setting() {
    Report::run(&settings(), async |testbed, setting, expected, report| {
        let calls = Case { setting, expected, faults: Vec::new() }.run(testbed, report).await;
        for (number, call) in (1..).zip(&calls) {
            for (fault, lasts) in faults(call.service) {
                Case { setting, expected, faults: vec![(number, fault, lasts)] }.run(testbed, report).await;
            }
        }
    });
}

/// Of every class of outcomes one fault: what a read's faults have in common is that there is no answer.
fn classes(call: &Call) -> Vec<(Fault, Duration)> {
    let writes = ["rotate", "create", "revoke", "PutSecretValue", "UpdateSecretVersionStage"];
    let refusal = if call.service == Service::Kosli { "refuse:409" } else { "refuse:400:AccessDeniedException" };
    let faults = if writes.contains(&call.operation.as_str()) {
        &[refusal, "error-before:500", "drop-after", "late:33s", "incomplete", "kill-before", "kill-after"][..]
    } else {
        &[refusal, "drop-after", "kill-after"]
    };
    let lasts = |text: &str| if text == refusal { LONGER_THAN_A_STEP } else { ONCE };
    faults.iter().map(|text| (text.parse().unwrap(), lasts(text))).collect()
}

#[test]
fn every_pair_of_faults_in_the_settings_that_differ_most() {
    let named = [
        "default admin=true immediately=false",
        "default admin=false immediately=true",
        "rotate_in_grace=409 admin=true immediately=true",
        "list_in_grace=hidden admin=true immediately=false",
        "successor_id=same admin=true immediately=true",
        "last_used_at=never admin=true immediately=false",
    ];
    let settings: Vec<_> =
        settings().into_iter().filter(|(setting, _)| named.contains(&setting.name.as_str())).collect();
    assert_eq!(settings.len(), named.len());
    Report::run(&settings, async |testbed, setting, expected, report| {
        let clean = Case { setting, expected, faults: Vec::new() }.run(testbed, report).await;
        for (first, call) in (1..).zip(&clean) {
            for (fault, lasts) in classes(call) {
                let one = vec![(first, fault, lasts)];
                let calls = Case { setting, expected, faults: one.clone() }.run(testbed, report).await;
                // The second fault befalls the calls of the recovery too.
                for (second, call) in (1..).zip(&calls).skip(first) {
                    for (fault, lasts) in classes(call) {
                        let mut two = one.clone();
                        two.push((second, fault, lasts));
                        Case { setting, expected, faults: two }.run(testbed, report).await;
                    }
                }
            }
        }
    });
}
