//! Rotations, told call by call: the page to read first. Each scenario is some lines here, and what happens in it is a file in
//! `tests/traces/`, which the test compares with what happens now.
//!
//! After a change that is meant to change what happens, write the files anew, and read the difference:
//!
//! ```text
//! TRACES=write cargo test --test traces
//! ```

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::atomic::Ordering;

use emulator::Fault;
use emulator::rotation::{Event, STEPS, step_event};
use serde_json::json;
use testbed::{FUNCTION, ONCE, RETRIES, Setting, Shape, Testbed, World, second, token};

/// Compares what has happened with what is written down.
fn compare(world: &World, name: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/traces").join(name).with_extension("txt");
    let trace = world.trace();
    if std::env::var("TRACES").is_ok_and(|what| what == "write") {
        std::fs::write(&file, trace).unwrap();
        return;
    }
    let written = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    if trace != written {
        let differs = trace.lines().zip(written.lines()).position(|(now, then)| now != then);
        let line = differs.unwrap_or_else(|| trace.lines().count().min(written.lines().count()));
        panic!(
            "{}, line {}: what happens is not what is written. Read it, and if it is meant: TRACES=write cargo test --test \
             traces\n{trace}",
            file.display(),
            line + 1
        );
    }
}

/// A world of this setting, in which something happens; the promises that hold at every instant have held.
fn trace(name: &str, setting: &Setting, happens: impl AsyncFnOnce(&World)) {
    Testbed::run(async |testbed| {
        let world = testbed.world(setting);
        happens(&world).await;
        world.assert_kept();
        compare(&world, name);
    });
}

/// Nothing fails.
#[test]
fn clean() {
    trace("01-clean", &Setting::default(), async |world| world.rotate_completely(&second()).await);
}

/// The same, by the secret's own key.
#[test]
fn self_rotation() {
    let setting = Setting { admin: false, ..Setting::default() };
    trace("02-self-rotation", &setting, async |world| world.rotate_completely(&second()).await);
}

/// The same, and the old key is revoked at once.
#[test]
fn immediate_revocation() {
    let setting = Setting { revoke_immediately: true, ..Setting::default() };
    trace("03-immediate-revocation", &setting, async |world| world.rotate_completely(&second()).await);
}

/// The value is the key alone, and a tag says which key it is.
#[test]
fn first_rotation_with_a_tag() {
    let setting = Setting { shape: Shape::Plain, ..Setting::default() };
    trace("04-first-rotation-with-a-tag", &setting, async |world| world.rotate_completely(&second()).await);
}

/// `RotateImmediately` is false: the configuration is tested, and nothing is rotated.
#[test]
fn test_of_the_configuration() {
    trace("05-test-of-the-configuration", &Setting::default(), async |world| {
        let body = json!({"SecretId": world.arn, "ClientRequestToken": second(), "RotateImmediately": false,
                          "RotationLambdaARN": FUNCTION});
        world.aws("RotateSecret", body).unwrap();
        let rotation = world.emulator.with_secrets_manager(|service| service.take_rotations()).remove(0);
        assert_eq!(world.drive(&rotation, ONCE).await, Event::Succeeded);
    });
}

/// Kosli has rotated, and the answer with the new key's value is lost.
#[test]
fn lost_answer() {
    trace("06-lost-answer", &Setting::default(), async |world| {
        world.rule("rotate#1=drop-after");
        world.rotate_completely(&second()).await;
    });
}

/// Kosli's answer does not come, and what was asked happens later.
#[test]
fn late_effect() {
    trace("07-late-effect", &Setting::default(), async |world| {
        world.rule("rotate#1=late:20s");
        world.rotate_completely(&second()).await;
    });
}

/// The new key cannot be stored.
#[test]
fn store_refused() {
    trace("08-store-refused", &Setting::default(), async |world| {
        world.rule("PutSecretValue#1=refuse:400:AccessDeniedException");
        world.rotate_completely(&second()).await;
    });
}

/// One execution dies between the mint and the store, and another comes while the first might still live.
#[test]
fn twin() {
    trace("09-twin", &Setting::default(), async |world| {
        let rotation = world.begin_rotation(&second()).unwrap();
        world.fault_on("PutSecretValue", Fault::KillBefore);
        for execution in [0, 1] {
            world.say(format!("execution {} is given createSecret", ["a", "b"][execution]));
            let outcome = world.invoke(execution, &step_event(&rotation, "createSecret")).await;
            let error = outcome.unwrap_err();
            world.say(format!("it ends with {error}"));
        }
        world.advance(RETRIES.spacing);
        world.complete(&rotation, RETRIES).await;
    });
}

/// Somebody has revoked the current key, after a leak.
#[test]
fn incident() {
    trace("10-incident", &Setting::default(), async |world| {
        world.say("a person revokes the current key at Kosli");
        assert!(world.emulator.with_kosli(|kosli| kosli.revoke_key(&world.first_key)));
        world.probe.current_is_alive.store(false, Ordering::SeqCst);
        world.rotate_completely(&second()).await;
    });
}

/// Every step is delivered again, after the next rotation has begun.
#[test]
fn redelivery() {
    trace("11-redelivery", &Setting::default(), async |world| {
        let rotation = world.begin_rotation(&second()).unwrap();
        world.complete(&rotation, ONCE).await;
        world.say("the next rotation begins");
        world.begin_rotation(&token("third", 0)).unwrap();
        for step in STEPS {
            world.say(format!("{step} of the first rotation is delivered again"));
            let outcome = world.step(&rotation, step).await;
            let answer = outcome.unwrap();
            world.say(format!("it answers {answer}"));
        }
    });
}
