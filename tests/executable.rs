//! Whole rotations: `RotateSecret` over HTTP, the function's real executable over the Runtime API, and its real clients over
//! sockets.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

#[path = "executable/calls.rs"]
mod calls;

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use emulator::Clock;
use emulator::kosli::{MintedBy, Role};
use emulator::rotation::{Event, STEPS};
use emulator::secrets_manager::{AWSCURRENT, AWSPENDING, AWSPREVIOUS, RotationRequest, TestedVersion};
use serde_json::{Value, json};
use testbed::{ACCOUNT, ADMIN_SECRET, Executable, SECRET};

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// What the marker takes of a key's life at the most: its window, an hour's distance from Kosli's cap, and some seconds for
/// the calls in between.
const MARKER: Duration = Duration::from_secs((1 << 18) + 3_600 + 60);

/// The two JSON shapes, with everything that a value can say.
const SHAPES: [&str; 2] = [
    r#"{"api_key":"<key>","org":"acme","service_account":"ci","key_id":"<id>"}"#,
    r#"{"KOSLI_API_TOKEN":"<key>","KOSLI_ORG":"acme","KOSLI_SERVICE_ACCOUNT":"ci","KOSLI_API_KEY_ID":"<id>"}"#,
];

/// The variable that names the admin secret.
const WITH_ADMIN: [(&str, &str); 1] = [("KOSLI_ADMIN_SECRET_ID", ADMIN_SECRET)];

/// A value with this key and this key id.
fn filled_in(shape: &str, (id, key): (&str, &str)) -> String {
    shape.replace("<key>", key).replace("<id>", id)
}

/// A world with one secret, and with an admin secret if a variable names it; without one, the key has to be an admin's itself.
async fn world_with(clock: Clock, shape: &str, variables: &[(&str, &str)]) -> Executable {
    let world = Executable::new(env!("CARGO_BIN_EXE_kosli-key-rotation"), clock, variables).await;
    let with_admin = variables.contains(&WITH_ADMIN[0]);
    if with_admin {
        world.add_admin().await;
    }
    let (id, key) = world.add_key(ACCOUNT, if with_admin { Role::Member } else { Role::Admin });
    world.create_secret(SECRET, json!({ "SecretString": filled_in(shape, (&id, &key)) })).await;
    world
}

/// The whole contract of one rotation, seen from outside, in both JSON shapes, with an admin key and without.
#[tokio::test]
async fn a_rotation_from_end_to_end() {
    for shape in SHAPES {
        for variables in [&WITH_ADMIN[..], &[]] {
            let world = world_with(Clock::real(), shape, variables).await;
            let old = world.newest_key();
            let old_version = world.labelled(SECRET, AWSCURRENT);
            let rotation = world.rotate(SECRET).await;

            let new = world.newest_key();
            assert_eq!(new.minted_by, MintedBy::Rotate { of: old.id.clone() });
            assert_eq!(world.read(SECRET).await, filled_in(shape, (&new.id, &new.value)));
            assert!(world.kosli_accepts(&new.value).await && world.kosli_accepts(&old.value).await);

            assert_eq!(world.labelled(SECRET, AWSCURRENT).as_ref(), Some(&rotation.token));
            assert_eq!(world.labelled(SECRET, AWSPREVIOUS), old_version);
            assert_eq!(world.labelled(SECRET, AWSPENDING), None);
            let passed_on = world.emulator.with_secrets_manager(|service| {
                service.secret(SECRET).unwrap().versions.get(&rotation.token).unwrap().rotation_token.clone()
            });
            assert_eq!(passed_on, Some(rotation.rotation_token), "PutSecretValue passes the RotationToken on");

            let life = new.expires_at.unwrap().duration_since(new.created_at).unwrap();
            assert!(life > 365 * DAY - MARKER && life <= 365 * DAY, "{life:?}");
            world.end().await;
        }
    }
}

/// Nothing lies between the proof that the new key works and the moment at which everybody gets it, but the list
/// that is asked for side by side with the proof: which of the two comes first is chance.
#[tokio::test]
async fn the_new_key_is_used_right_before_it_becomes_current() {
    let world = world_with(Clock::real(), SHAPES[0], &WITH_ADMIN).await;
    world.rotate(SECRET).await;
    let calls = world.calls();
    let moved = calls.iter().position(|call| call.operation == "UpdateSecretVersionStage").unwrap();
    let mut before: Vec<_> = calls[moved - 2..moved].iter().map(|call| (&*call.operation, call.status)).collect();
    before.sort_unstable();
    assert_eq!(before, [("list", Some(200)), ("verify", Some(200))]);
    let proof = calls[..moved].iter().rfind(|call| call.operation == "verify").unwrap();
    assert_eq!(proof.key_id, Some(world.newest_key().id));
    world.end().await;
}

#[tokio::test]
async fn three_rotations_in_a_row() {
    for variables in [&WITH_ADMIN[..], &[]] {
        let world = world_with(Clock::real(), SHAPES[0], variables).await;
        let mut current = world.newest_key().id;
        for _ in 0..3 {
            let keys = world.keys().len();
            let rotation = world.rotate(SECRET).await;
            let new = world.newest_key();
            assert_eq!(world.keys().len(), keys + 1);
            assert_eq!(new.minted_by, MintedBy::Rotate { of: current });
            assert_eq!(world.labelled(SECRET, AWSCURRENT), Some(rotation.token));
            assert_eq!(world.read(SECRET).await, filled_in(SHAPES[0], (&new.id, &new.value)));
            current = new.id;
        }
        world.end().await;
    }
}

/// Lambda asks every function to put up with the same event more than once.
#[tokio::test]
async fn every_step_delivered_three_times_mints_one_key() {
    let immediately = [WITH_ADMIN[0], ("KOSLI_REVOKE_OLD_KEY", "immediately")];
    for variables in [&WITH_ADMIN[..], &[], &immediately] {
        let world = world_with(Clock::real(), SHAPES[0], variables).await;
        let old = world.newest_key();
        let keys = world.keys().len();
        let rotation = world.begin(SECRET, json!({})).await;
        for (step, outcomes) in [
            ("createSecret", ["rotated", "already created", "already created"]),
            ("setSecret", ["checked"; 3]),
            ("testSecret", ["tested"; 3]),
            ("finishSecret", ["promoted", "already current", "already current"]),
            // All of them late, when the rotation has ended.
            ("createSecret", ["already current"; 3]),
            ("setSecret", ["already current"; 3]),
            ("testSecret", ["tested"; 3]),
        ] {
            for outcome in outcomes {
                assert_eq!(world.step(&rotation, step).await.unwrap()["outcome"], outcome, "{step}");
            }
        }
        let new = world.newest_key();
        assert_eq!(world.keys().len(), keys + 1);
        assert_eq!(world.read(SECRET).await, filled_in(SHAPES[0], (&new.id, &new.value)));
        assert!(world.kosli_accepts(&new.value).await);
        assert_eq!(world.kosli_accepts(&old.value).await, variables.len() < 2, "with {variables:?}");
        world.end().await;
    }
}

/// The shape that the user chose is the shape that stays, to the last digit and space.
#[tokio::test]
async fn a_value_survives_but_for_its_key_and_key_id() {
    let shape = "\n { \"z\": 12345678901234567890,\t\"key_id\" :\"<id>\",\r\n  \"price\":2.50 , \"huge\": 1E400, \"nothing\": null,\
                 \"unicode\": \"\\u00e9é☃ \\ud83d\\ude00\", \"api_key\"\t:  \"<key>\" ,\"org\":\"acme\",\
                 \"service_account\":\"ci\", \"nested\": {\"api_key\": [1, -0.0, {}] }, \"\":\"\", \"a\": false,\
                 \"z\": \"twice\"  }  \n";
    let world = world_with(Clock::real(), shape, &[]).await;
    for _ in 0..2 {
        world.rotate(SECRET).await;
        let new = world.newest_key();
        assert_eq!(world.read(SECRET).await, filled_in(shape, (&new.id, &new.value)));
    }
    world.end().await;
}

/// To the second, whether the function or the secret says so.
#[tokio::test]
async fn the_old_key_works_for_the_configured_grace_period() {
    const A_SECOND: Duration = Duration::from_secs(1);
    let variable = [WITH_ADMIN[0], ("KOSLI_GRACE_PERIOD_HOURS", "48")];
    for (variables, tag, hours) in [(&[][..], None, 24), (&variable, None, 48), (&variable, Some("1"), 1)] {
        // The clock stands, so that "to the second" means something.
        let world = world_with(Clock::frozen(SystemTime::now()), SHAPES[0], variables).await;
        if let Some(hours) = tag {
            world.tag("kosli:grace-period-hours", hours).await;
        }
        let old = world.newest_key();
        world.rotate(SECRET).await;
        world.emulator.clock().advance(hours * HOUR - A_SECOND);
        assert!(world.kosli_accepts(&old.value).await, "{hours} h");
        world.emulator.clock().advance(A_SECOND);
        assert!(!world.kosli_accepts(&old.value).await, "{hours} h");
        assert!(world.kosli_accepts(&world.newest_key().value).await);
        world.end().await;
    }
}

/// `RotateImmediately=false`: AWS runs `testSecret` alone, with a copy of the current value or with none, and documents
/// neither that nor whether rotation counts as switched on meanwhile.
#[tokio::test]
async fn a_rotation_for_later_is_only_tested() {
    let copy = [false, true].map(|enabled| only_tested(TestedVersion::CopyOfCurrent, enabled));
    let none = [false, true].map(|enabled| only_tested(TestedVersion::NoValue, enabled));
    let ([first, second], [third, fourth]) = (copy, none);
    // Side by side: for a value that is not there the function waits some seconds.
    tokio::join!(first, second, third, fourth);
}

async fn only_tested(tested_version: TestedVersion, enabled_after_test: bool) {
    let world = world_with(Clock::real(), SHAPES[0], &WITH_ADMIN).await;
    world.emulator.with_secrets_manager(|service| {
        service.switches.tested_version = tested_version;
        service.switches.enabled_after_test = enabled_after_test;
    });
    let (keys, versions) = (world.keys().len(), world.versions(SECRET));
    let rotation = world.begin(SECRET, json!({ "RotateImmediately": false })).await;
    assert_eq!(world.run(&rotation).await, Event::Succeeded);
    let answers = world.answers();
    assert_eq!(answers.len(), 1);
    for said in [r#""step":"testSecret""#, r#""outcome":"tested the current key""#] {
        assert!(answers[0].contains(said), "{answers:?}");
    }
    let only_reads = ["DescribeSecret", "GetSecretValue", "verify", "list"];
    assert!(world.calls().iter().all(|call| only_reads.contains(&&*call.operation)));
    assert_eq!(world.keys().len(), keys);
    assert!(world.versions(SECRET) == versions, "the secret is as it was");

    world.rotate(SECRET).await;
    assert_eq!(world.keys().len(), keys + 1, "the configuration that was tested works");
    world.end().await;
}

/// A tag is checked before the mint. One that became malformed afterwards does not keep the new key from becoming current.
#[tokio::test]
async fn a_tag_that_becomes_malformed_does_not_block_the_promotion() {
    let world = world_with(Clock::real(), SHAPES[0], &[("KOSLI_REVOKE_OLD_KEY", "immediately")]).await;
    let old = world.newest_key();
    let rotation = world.begin(SECRET, json!({})).await;
    for step in &STEPS[..3] {
        world.step(&rotation, step).await.unwrap();
    }
    world.tag("kosli:revoke-old-key", "some day").await;
    let answer = world.step(&rotation, "finishSecret").await.unwrap();
    assert_eq!(answer["outcome"], "promoted");
    assert!(answer["warnings"][0].as_str().unwrap().contains("kosli:revoke-old-key"), "{answer}");
    assert!(world.kosli_accepts(&old.value).await, "the safe value leaves the old key its grace");
    world.end().await;
}

/// With `immediately` the old key is dead when the rotation ends, and the answer says that this has been proven.
#[tokio::test]
async fn the_old_key_can_be_revoked_at_once() {
    let variables = [("KOSLI_REVOKE_OLD_KEY", "immediately"), WITH_ADMIN[0]];
    for variables in [&variables[..], &variables[..1]] {
        let world = world_with(Clock::real(), SHAPES[0], variables).await;
        let old = world.newest_key();
        let rotation = world.begin(SECRET, json!({})).await;
        for step in &STEPS[..3] {
            world.step(&rotation, step).await.unwrap();
        }
        assert!(world.kosli_accepts(&old.value).await, "not before the new key is current");
        let answer = world.step(&rotation, "finishSecret").await.unwrap();
        assert_eq!((&answer["old_key"], &answer["revoked_key_ids"]), (&json!("dead"), &json!([old.id])));
        assert!(!world.kosli_accepts(&old.value).await);
        assert!(world.kosli_accepts(&world.newest_key().value).await);
        world.end().await;
    }
}

/// The files in `events/` are what AWS sends, but for the secret's name in place of its ARN, which ends in random letters: with them
/// and nothing else a rotation runs from its beginning to its end.
#[tokio::test]
async fn the_example_events_drive_a_rotation() {
    let read = |step: &str| -> Value {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("events").join(format!("{step}.json"));
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    };
    let events = STEPS.map(read);
    let text = |field: &str| events[0][field].as_str().unwrap().to_owned();
    let world = world_with(Clock::real(), SHAPES[0], &WITH_ADMIN).await;
    let rotation = world.begin(SECRET, json!({ "ClientRequestToken": text("ClientRequestToken") })).await;
    let rotation = RotationRequest { arn: text("SecretId"), rotation_token: text("RotationToken"), ..rotation };
    for (step, event) in STEPS.iter().zip(&events) {
        assert_eq!(*event, emulator::rotation::step_event(&rotation, step), "{step}");
        assert_eq!(world.invoke(event).await.unwrap()["step"], *step);
    }
    let new = world.newest_key();
    assert_eq!(world.labelled(SECRET, AWSCURRENT), Some(rotation.token));
    assert_eq!(world.read(SECRET).await, filled_in(SHAPES[0], (&new.id, &new.value)));
    world.end().await;
}

/// What the answers say: who was replaced by whom, and until when the old key works.
#[tokio::test]
async fn the_answers_say_what_was_done() {
    let now = UNIX_EPOCH + Duration::from_secs(1_788_220_800);
    let world = world_with(Clock::frozen(now), SHAPES[0], &WITH_ADMIN).await;
    let old = world.newest_key();
    let rotation = world.begin(SECRET, json!({})).await;
    let mut answers = Vec::new();
    for step in STEPS {
        answers.push(world.step(&rotation, step).await.unwrap());
    }
    let new = world.newest_key();
    let answer = |step: &str, outcome: &str, rest: Value| {
        let mut answer = json!({
            "step": step,
            "secret_id": rotation.arn,
            "version_id": rotation.token,
            "outcome": outcome,
        });
        answer.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        answer
    };
    let expected = [
        answer(
            "createSecret",
            "rotated",
            json!({ "key_id": new.id, "replaced_key_id": old.id, "current_key_dies_at": "2026-09-02T00:00:00Z" }),
        ),
        answer("setSecret", "checked", json!({})),
        answer("testSecret", "tested", json!({})),
        answer("finishSecret", "promoted", json!({ "key_id": new.id, "replaced_key_id": old.id })),
    ];
    assert_eq!(answers, expected);
    world.end().await;
}
