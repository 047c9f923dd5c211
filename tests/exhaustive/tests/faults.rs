//! Whatever fails, wherever: a rotation completes over redelivery, and all promises hold, at every instant.
//!
//! The calls of a clean rotation are recorded, and then every fault befalls every one of them, in every setting. Nothing is
//! sampled. Every case runs the real handler and the real clients against the emulator, on a frozen clock.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use emulator::kosli::Switches;
use emulator::rotation::Event;
use emulator::{Call, Service};
use exhaustive::{excused, on_every_core};
use testbed::faults::{self, Trouble, Which};
use testbed::{RETRIES, Setting, Testbed, World, say, token};

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
    let mut broken = if completed { world.check_completed() } else { world.violations() };
    match expected {
        Expected::CompletesWithWarning => broken.retain(|what| !excused::lost_key_is_hidden(world, what)),
        Expected::MayStop if !completed && !excused::own_key_may_not(world) => {
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

/// A case that can be run again: a setting, and what befalls which calls. It is written `SETTING | CALL => TROUBLE | …`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Case {
    setting: String,
    troubles: Vec<(Which, Trouble)>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.setting)?;
        self.troubles.iter().try_for_each(|(call, trouble)| write!(f, " | {call} => {trouble}"))
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(" | ");
        let setting = parts.next().unwrap_or_default().to_owned();
        let trouble = |text: &str| {
            let (call, trouble) = text.split_once(" => ").ok_or_else(|| format!("\"{text}\" befalls no call"))?;
            Ok((call.parse()?, trouble.parse()?))
        };
        Ok(Self { setting, troubles: parts.map(trouble).collect::<Result<_, String>>()? })
    }
}

/// What all cases of a test came to.
#[derive(Default)]
struct Report {
    cases: AtomicUsize,
    failures: Mutex<Vec<(Case, String, String)>>,
}

/// A setting on a core, where its cases are run.
struct Site<'a> {
    testbed: &'a Testbed,
    setting: &'a Setting,
    expected: Expected,
    report: &'a Report,
}

impl Site<'_> {
    /// Runs a case; the calls that were made come back.
    async fn run(&self, troubles: &[(Which, Trouble)]) -> Vec<Call> {
        let world = self.testbed.world(self.setting);
        for (which, trouble) in troubles {
            world.probe.trouble(which.clone(), trouble.clone());
        }
        self.report.cases.fetch_add(1, Ordering::SeqCst);
        if let Some(what) = broken(&world, self.expected).await {
            let case = Case { setting: self.setting.name.clone(), troubles: troubles.to_vec() };
            self.report.failures.lock().unwrap().push((case, what, world.story()));
        }
        self.testbed.emulator.calls()
    }
}

/// Runs the settings, one after the other on each core; or the one case that is asked for.
fn run_all(settings: &[(Setting, Expected)], test: impl AsyncFn(&Site<'_>) + Sync) {
    let begin = Instant::now();
    let report = Report::default();
    let asked_for: Option<Case> = exhaustive::asked_for();
    on_every_core(settings.len(), 1, async |testbed, number| {
        let (setting, expected) = &settings[number];
        let site = Site { testbed, setting, expected: *expected, report: &report };
        match &asked_for {
            None => test(&site).await,
            Some(case) if case.setting == setting.name => drop(site.run(&case.troubles).await),
            Some(_) => {}
        }
    });
    let failures = report.failures.into_inner().unwrap();
    let cases = report.cases.into_inner();
    say!("{cases} cases in {:.1?}, {} failed", begin.elapsed(), failures.len());
    excused::say_what_was_excused();
    let mut by_setting: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for (case, what, _) in &failures {
        by_setting.entry(&case.setting).or_default().push((case, what));
    }
    for (setting, cases) in by_setting {
        println!("{setting}: {} failed, the first of them:", cases.len());
        for (case, what) in cases.iter().take(12) {
            println!("  {case}: {what}");
        }
    }
    if let Some((case, what, story)) = failures.first() {
        panic!("{}\n{what}\n{story}", exhaustive::replay("faults", case));
    }
    assert!(cases > 1_000 || asked_for.is_some(), "so few cases prove nothing");
}

#[test]
fn every_fault_at_every_call_in_every_setting() {
    run_all(&settings(), async |site| {
        let calls = site.run(&[]).await;
        for (which, call) in Which::name(&calls) {
            for trouble in faults::all(call.service) {
                site.run(&[(which.clone(), trouble)]).await;
            }
        }
    });
}

/// Of every class of outcomes one fault.
fn classes(call: &Call) -> Vec<Trouble> {
    let writes = ["rotate", "create", "revoke", "PutSecretValue", "UpdateSecretVersionStage"];
    faults::classes(call.service, writes.contains(&call.operation.as_str()))
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
    run_all(&settings, async |site| {
        let clean = site.run(&[]).await;
        for (first, call) in Which::name(&clean) {
            for trouble in classes(call) {
                let one = (first.clone(), trouble);
                let calls = site.run(std::slice::from_ref(&one)).await;
                // The second fault befalls the calls of the recovery too.
                let named = Which::name(&calls);
                for (second, call) in named.iter().skip_while(|(which, _)| *which != first).skip(1) {
                    for trouble in classes(call) {
                        site.run(&[one.clone(), (second.clone(), trouble)]).await;
                    }
                }
            }
        }
    });
}

#[test]
fn a_case_is_read_again_from_what_is_printed() {
    let calls = ["DescribeSecret SecretId=kosli/ci-xFIbmB #1", "create acme/ci/api-keys #2"];
    for (setting, _) in settings() {
        for trouble in [Service::Kosli, Service::SecretsManager].into_iter().flat_map(faults::all) {
            let troubles = calls.map(|call| (call.parse().unwrap(), trouble.clone())).to_vec();
            let case = Case { setting: setting.name.clone(), troubles };
            assert_eq!(case.to_string().parse(), Ok(case));
        }
    }
}

/// The same case makes the same calls, and the same of them meet what it says.
#[test]
fn a_case_replays() {
    let settings = settings();
    let (setting, expected) = &settings[0];
    let report = Report::default();
    Testbed::run(async |testbed| {
        let site = Site { testbed, setting, expected: *expected, report: &report };
        let clean = site.run(&[]).await;
        let named = Which::name(&clean);
        let of = |operation: &str| {
            let call = named.iter().find(|(_, call)| call.operation == operation);
            call.map(|(which, _)| which.clone()).unwrap()
        };
        let trouble = |text: &str| text.parse().unwrap();
        let troubles = vec![
            (of("DescribeSecret"), trouble("drop-after")),
            (of("rotate"), trouble("drop-after")),
            (of("PutSecretValue"), trouble("error-before:503 for 12s")),
        ];
        let printed = Case { setting: setting.name.clone(), troubles: troubles.clone() }.to_string();
        let replayed: Case = printed.parse().unwrap();
        let mut courses = Vec::new();
        for troubles in [troubles, replayed.troubles] {
            let calls = site.run(&troubles).await;
            let mut course: Vec<_> =
                Which::name(&calls).into_iter().map(|(which, call)| (which, call.fault.clone(), call.status)).collect();
            // Calls that are made side by side arrive in any order.
            course.sort_by(|(a, ..), (b, ..)| a.cmp(b));
            courses.push(course);
        }
        assert!(courses[0].iter().filter(|(_, fault, _)| fault.is_some()).count() >= 3, "{courses:?}");
        assert_eq!(courses[0], courses[1]);
    });
    assert_eq!(report.failures.lock().unwrap().len(), 0);
}
