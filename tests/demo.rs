//! `cargo demo`, as far as it does not build: every way in which it can be asked to go, with the real executable.

use std::sync::{Arc, Mutex};

use emulator::demo::{self, Ended, Options};
use testbed::Canaries;

/// Runs the demo with these options, as they are typed; what it said, and how it ended.
async fn run(options: &str) -> (Ended, String) {
    let options = Options::parse(&options.split_whitespace().collect::<Vec<_>>()).expect("valid options");
    let said = Arc::new(Mutex::new(String::new()));
    let told = said.clone();
    let out = Arc::new(move |line: &str| {
        let mut said = told.lock().expect("nobody panics while writing");
        said.push_str(line);
        said.push('\n');
    });
    let ended = demo::run(&options, env!("CARGO_BIN_EXE_kosli-key-rotation").into(), out).await.expect("it runs");
    let said = said.lock().expect("nobody panics while writing").clone();
    assert_eq!(ended.promises.len(), 5, "{said}");
    let mut canaries = Canaries::default();
    ended.world.emulator.with_kosli(|kosli| canaries.add(kosli.keys().map(|key| key.value.as_str())));
    assert_eq!(canaries.find(said.as_bytes()), None);
    (ended, said)
}

#[tokio::test]
async fn every_shape_and_policy_ends_well() {
    for shape in ["api-key", "environment", "plain"] {
        for revoke in ["after-grace-period", "immediately"] {
            for who in ["", "--self-rotation"] {
                let options = format!("--shape {shape} --revoke {revoke} {who}");
                let (ended, said) = run(&options).await;
                assert!(ended.well(), "{options}:\n{said}");
                let report = ended.report.as_ref().expect("an unhealthy secret is an answer, not an error");
                assert_eq!(report["healthy"], true, "{options}:\n{said}");
                let old_key = ended.world.emulator.with_kosli(|kosli| {
                    kosli.keys().find(|key| key.id == ended.world.own_key).cloned().expect("it was there")
                });
                assert_eq!(old_key.revoked_at.is_some(), revoke == "immediately", "{options}:\n{said}");
                assert!(old_key.rotated_at.is_some(), "{options}:\n{said}");
            }
        }
    }
}

#[tokio::test]
async fn it_tells_what_happens_in_order() {
    let (_, said) = run("").await;
    let mut rest = said.as_str();
    for words in [
        "made-up keys, no cloud, no account",
        "Before",
        "AWSCURRENT ",
        "a stranger's, with the same description; works until",
        "$ aws secretsmanager rotate-secret --secret-id kosli/ci",
        "1/4 createSecret",
        "a NEW KEY; the current key lives 24 h more",
        "PutSecretValue AWSPENDING",
        "Done in ",
        "2/4 setSecret",
        "3/4 testSecret",
        "does the new key work?                       yes",
        "4/4 finishSecret",
        "readers get the new key from now on",
        "Is the secret healthy?",
        "\"Step\":\"checkSecret\"",
        "ok      rotation      Rotation is switched on.",
        "ok      current-key   Kosli accepts the current key.",
        "ok      old-key       The old key ",
        "is in its grace period until about",
        "ok      schedule ",
        "The secret is healthy.",
        "After",
        "AWSPREVIOUS ",
        "in its grace period, works until",
        "held    I1",
        "held    I2",
        "held    I3",
        "held    I4",
        "held    I5",
    ] {
        let at = rest.find(words).unwrap_or_else(|| panic!("\"{words}\" is missing, or in another place:\n{said}"));
        rest = &rest[at + words.len()..];
    }
}

/// What works here must not be taken for a promise of Kosli's.
#[tokio::test]
async fn self_rotation_says_what_kosli_probably_asks_for() {
    let (ended, said) = run("--self-rotation").await;
    assert!(ended.well(), "{said}");
    let caution = "Kosli probably asks for the role Admin, or for a key of the account's creator";
    assert!(said.contains("which rotates itself") && said.contains(caution), "{said}");
    let (_, said) = run("").await;
    assert!(!said.contains("probably"), "{said}");
}

/// The case that the product exists for: Kosli mints a key, and nobody gets to know its value.
#[tokio::test]
async fn a_lost_key_is_replaced_and_revoked() {
    let (ended, said) = run("--fault rotate#1=drop-after").await;
    assert!(ended.well(), "{said}");
    assert!(said.contains("drop-after: it did happen, and the function is told nothing"), "{said}");
    assert!(said.contains("end the lost key, now"), "{said}");
    assert!(said.contains("its value was lost; revoked"), "{said}");
}

#[tokio::test]
async fn after_a_kill_the_clock_is_moved_instead_of_making_a_person_wait() {
    let (ended, said) = run("--fault rotate#1=kill-after").await;
    assert!(ended.well(), "{said}");
    assert!(said.contains("and the function is killed"), "{said}");
    assert!(said.contains("the clock of both services is moved by 2 minutes instead"), "{said}");
    assert!(said.contains("its value was lost; revoked"), "{said}");
}

/// What cannot succeed does not end well, whatever was promised.
#[tokio::test]
async fn a_rotation_that_cannot_succeed_is_not_called_a_success() {
    let (ended, said) = run("--fault list=refuse:403").await;
    assert!(!ended.succeeded && !ended.well(), "{said}");
    assert!(ended.promises.iter().all(|promise| promise.held), "{said}");
    assert!(said.contains("KosliForbidden") && said.contains("The rotation has failed for good"), "{said}");
    let report = ended.report.expect("an unhealthy secret is an answer, not an error");
    assert_eq!(report["healthy"], false, "{said}");
    assert!(said.contains("NOT OK  admin-key ") && said.contains("The secret is NOT healthy."), "{said}");
}

#[test]
fn options_are_explained() {
    for (options, why) in [
        ("--shape round", "--shape takes api-key, environment or plain, not \"round\""),
        ("--revoke never", "--revoke takes after-grace-period or immediately, not \"never\""),
        ("--fault", "--fault needs a value."),
        ("--fault rotate", "--fault: \"rotate\" names no fault"),
        ("--loud", "\"--loud\" is not an option of the demo."),
    ] {
        let error = Options::parse(&options.split_whitespace().collect::<Vec<_>>()).expect_err(options);
        assert!(error.contains(why), "{options}: {error}");
    }
}
