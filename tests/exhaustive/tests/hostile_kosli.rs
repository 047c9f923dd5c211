//! A Kosli that does not mean well, or somebody who speaks in its place: whatever it answers, the function's time and memory
//! are bounded, its error says what is wrong, no key's value gets out, and once Kosli is honest again the rotation completes
//! with every promise kept.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

#[path = "hostile_kosli/answers.rs"]
mod answers;
#[path = "hostile_kosli/printed.rs"]
mod printed;
#[path = "hostile_kosli/server.rs"]
mod server;
#[path = "hostile_kosli/tls.rs"]
mod tls;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use answers::{Case, NOTHING, STATUS, answers, changed, echoes, endless, keys, lists, new_keys, under};
use emulator::Clock;
use emulator::kosli::Role;
use emulator::rotation::{Event, STEPS};
use emulator::secrets_manager::{RotationRequest, SecretValue};
use kosli_key_rotation::marker::{Attempt, Mark};
use serde_json::json;
use server::{Server, Trap, reply};
use testbed::{ACCOUNT, DAY, Executable, HOUR, ORG, RETRIES, SECRET, Setting, Testbed, World, token, version_id};
use tokio::net::TcpListener;

/// The calls of a clean rotation, and then those with which a current key is replaced that somebody has revoked.
const OPERATIONS: [&str; 6] = ["verify", "list", "rotate", "revoke", "get", "create"];

/// Half of what Lambda gives the function, in kB.
const MEMORY_KIB: usize = 64 << 10;

/// A mint that is refused, and happened: what it minted may be another execution's.
const REFUSED: [&str; 6] =
    ["KosliRefused", "KosliRefused", "TwinExecution", "CleanUpIncomplete", "KosliRefused", "TwinExecution"];

/// What a redirect has to say about a mint, nobody knows.
const REDIRECTED: [&str; 6] =
    ["KosliRefused", "KosliRefused", NOTHING[2], "CleanUpIncomplete", "KosliRefused", NOTHING[5]];

/// With immediate revocation every operation of a clean rotation is there. No other keys: whoever speaks for Kosli can have any
/// of them revoked, by naming it as ours.
fn setting() -> Setting {
    Setting { revoke_immediately: true, strangers: false, ..Setting::default() }
}

/// How far the function may read beyond what it can use: the sockets' buffers, on both sides.
const BUFFERED: usize = 8 << 20;

/// The longest list that the function reads, and the longest other answer.
const LARGEST_LIST: usize = 8 << 20;
const LARGEST_ANSWER: usize = 64 << 10;

/// The steps up to the first that fails: what all of them said, and the error's type, or `ok`.
async fn attempt(world: &World, rotation: &RotationRequest) -> (String, String) {
    let mut said = String::new();
    for step in STEPS {
        match world.step(rotation, step).await {
            Ok(answer) => said += &answer.to_string(),
            Err(error) => return (format!("{said}{error}"), error.error_type),
        }
    }
    (said, "ok".to_owned())
}

/// One trap at every call of one operation, and then an honest Kosli. An unexpected error type is returned, and not asserted:
/// one look at all of them tells more.
async fn check(testbed: &Testbed, name: &str, trap: &Trap, operation: &'static str, expected: &str) -> Option<String> {
    let name = format!("{name} at {operation}");
    let mut world = testbed.world(&setting());
    if ["get", "create"].contains(&operation) {
        assert!(world.emulator.with_kosli(|kosli| kosli.revoke_key(&world.first_key)));
        world.probe.current_is_alive.store(false, Ordering::SeqCst);
    }
    let kosli = Server::listen(&testbed.emulator, None).await;
    world.kosli_at(&format!("http://{}", kosli.address));
    kosli.set_trap(operation, trap.clone());
    let rotation = world.begin_rotation(&token("second", 0)).unwrap();
    let (said, end) = attempt(&world, &rotation).await;
    let wrong = (end != expected).then(|| format!("{name}: {end} instead of {expected}: {said}"));
    assert!(kosli.count(operation) > 0 && kosli.requests() < 120, "{name}: {} requests", kosli.requests());
    let most = BUFFERED + if operation == "list" { LARGEST_LIST } else { LARGEST_ANSWER };
    assert!(kosli.longest() < most, "{name}: {} bytes were read", kosli.longest());
    world.assert_kept();

    kosli.be_honest();
    world.advance(RETRIES.spacing);
    assert_eq!(world.drive(&rotation, RETRIES).await, Event::Succeeded, "{name}\n{}", world.story());
    world.assert_completed();
    wrong
}

/// Whatever bytes come, to whatever call.
#[test]
fn answers_that_are_none() {
    Testbed::run(async |testbed| {
        let mut wrong = Vec::new();
        for Case { name, trap, expected } in answers() {
            for (operation, expected) in OPERATIONS.into_iter().zip(expected) {
                wrong.extend(check(testbed, name, &trap, operation, expected).await);
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}

/// The answer to a mint is well-formed, and what it says of the new key is not to be believed.
#[test]
fn new_keys_that_are_none() {
    Testbed::run(async |testbed| {
        let mut wrong = Vec::new();
        for Case { name, trap, expected } in new_keys() {
            for (operation, expected) in [("rotate", expected[2]), ("create", expected[5])] {
                wrong.extend(check(testbed, name, &trap, operation, expected).await);
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}

/// A lying list cannot have a key revoked that a version holds, or a path sent that is none.
#[test]
fn lists_that_lie() {
    Testbed::run(async |testbed| {
        let mut wrong = Vec::new();
        let world = testbed.world(&setting());
        let now = world.emulator.clock().now();
        let mark = Mark::of(&world.arn, &version_id(&token("first", 0)));
        let marked = mark.expires_at(Attempt::fresh(&[]), now, 100 * DAY);
        let seconds = (now - HOUR / 2).duration_since(UNIX_EPOCH).unwrap().as_secs();
        for Case { name, trap, expected } in lists(marked, seconds) {
            wrong.extend(check(testbed, name, &trap, "list", expected[1]).await);
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}

/// The answer about the one key that is looked up is no better than a list.
#[test]
fn keys_that_are_none() {
    Testbed::run(async |testbed| {
        let mut wrong = Vec::new();
        for Case { name, trap, expected } in keys() {
            wrong.extend(check(testbed, name, &trap, "get", expected[4]).await);
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}

/// Every one of these has had its effect: a redirect proves nothing, least of all to a server that lies.
#[test]
fn redirects_are_not_followed() {
    Testbed::run(async |testbed| {
        let mut wrong = Vec::new();
        let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = elsewhere.local_addr().unwrap();
        let visits = Arc::new(AtomicUsize::new(0));
        let counted = visits.clone();
        tokio::spawn(async move {
            loop {
                elsewhere.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        for status in [300, 301, 302, 303, 304, 305, 307, 308] {
            for location in
                [format!("http://{address}/api/v2/environments/acme"), format!("//{address}/"), String::new()]
            {
                let trap =
                    under(status, vec![("location", location), ("refresh", format!("0; url=http://{address}/"))]);
                for (operation, expected) in OPERATIONS.into_iter().zip(REDIRECTED) {
                    wrong.extend(check(testbed, &status.to_string(), &trap, operation, expected).await);
                }
            }
        }
        assert_eq!(visits.load(Ordering::SeqCst), 0, "somebody else was called");
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}

/// Error pages echo requests, and so do proxies.
#[test]
fn an_echoed_key_is_not_repeated() {
    Testbed::run(async |testbed| {
        let mut wrong = Vec::new();
        let refused = |verify, list, revoke, get| [verify, list, "TwinExecution", revoke, get, "TwinExecution"];
        const UNSWEPT: &str = "CleanUpIncomplete";
        for (status, expected) in [
            (200, STATUS),
            (201, STATUS),
            (307, REDIRECTED),
            (400, REFUSED),
            (401, refused("KeyIdMismatch", "AdminKeyDead", UNSWEPT, "AdminKeyDead")),
            (403, refused("KosliForbidden", "KosliForbidden", UNSWEPT, "KosliForbidden")),
            // What is gone need not be revoked, and a key that is not there is replaced.
            (404, refused("KosliRefused", "KosliRefused", "ok", "ok")),
            (409, refused("KosliUnavailable", "KosliUnavailable", UNSWEPT, "KosliUnavailable")),
            (422, REFUSED),
            (429, refused("KosliUnavailable", "KosliUnavailable", UNSWEPT, "KosliUnavailable")),
            (500, NOTHING),
        ] {
            for (operation, expected) in OPERATIONS.into_iter().zip(expected) {
                wrong.extend(
                    check(testbed, &format!("an echo under {status}"), &echoes(status), operation, expected).await,
                );
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}

/// Headers that mean something, and lie.
#[test]
fn dates_and_pauses_beyond_reason() {
    Testbed::run(async |testbed| {
        let mut wrong = Vec::new();
        for (date, expected) in [
            // An expiry that was worked out from this one is later than Kosli takes, or has passed, and Kosli says so.
            ("Fri, 31 Dec 9999 23:59:59 GMT", "KosliRefused"),
            ("Thu, 01 Jan 1970 00:00:00 GMT", "KosliRefused"),
            ("yesterday", "ok"),
            ("\u{e9}", "ok"),
        ] {
            let trap = under(200, vec![("date", date.to_owned())]);
            wrong.extend(check(testbed, &format!("the date {date}"), &trap, "list", expected).await);
        }
        for (pause, minting) in [
            ("18446744073709551615", "KosliUnavailable"),
            ("99999999999999999999", "TwinExecution"),
            ("-1", "TwinExecution"),
            ("3.5", "TwinExecution"),
            ("Fri, 31 Dec 9999 23:59:59 GMT", "TwinExecution"),
        ] {
            let trap = under(429, vec![("retry-after", pause.to_owned())]);
            let expected =
                ["KosliUnavailable", "KosliUnavailable", minting, "CleanUpIncomplete", "KosliUnavailable", minting];
            for (operation, expected) in OPERATIONS.into_iter().zip(expected) {
                wrong.extend(check(testbed, &format!("a pause of {pause}"), &trap, operation, expected).await);
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}

/// The executable's memory is bounded, whatever comes, as long as it comes, as often as it comes.
#[tokio::test]
async fn endless_answers_do_not_use_up_the_memory() {
    let mut world = Executable::new(env!("CARGO_BIN_EXE_function"), Clock::real(), &[]).await;
    let kosli = Server::listen(&world.emulator, None).await;
    // So short an invocation ends soon: the function asks again as long as it has time. Not shorter: an executable that is not
    // optimized reads the longest lists for seconds, on a busy machine.
    world.configure(Duration::from_secs(12), &[("KOSLI_HOST", &format!("http://{}", kosli.address))]);
    let (id, key) = world.add_key(ACCOUNT, Role::Admin);
    let value = json!({ "api_key": key, "org": ORG, "service_account": ACCOUNT, "key_id": id });
    world.create_secret(SECRET, json!({ "SecretString": value.to_string() })).await;
    let rotation = world.begin(SECRET, json!({})).await;
    for (operation, trap) in endless() {
        kosli.set_trap(operation, trap);
        let error = world.step(&rotation, "createSecret").await.expect_err(operation);
        assert!(["KosliUnavailable", "OutOfTime"].contains(&&*error.error_type), "{operation}: {error}");
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.process.pid().unwrap())).unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let most: usize = most.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(most < MEMORY_KIB, "{most} KiB");
    assert_eq!(world.keys().len(), 1, "nothing was minted");
    kosli.be_honest();
    world.configure(Duration::from_secs(90), &[]);
    assert_eq!(world.run(&rotation).await, Event::Succeeded);
    world.end().await;
}

/// Many services make a key's id a part of its value. What is stored is what Kosli has shown.
#[tokio::test]
async fn a_value_that_contains_its_id() {
    let mut world = Executable::new(env!("CARGO_BIN_EXE_function"), Clock::real(), &[]).await;
    let kosli = Server::listen(&world.emulator, None).await;
    world.configure(Duration::from_secs(90), &[("KOSLI_HOST", &format!("http://{}", kosli.address))]);
    let (id, key) = world.add_key(ACCOUNT, Role::Admin);
    let value = json!({ "api_key": key, "org": ORG, "service_account": ACCOUNT, "key_id": id });
    world.create_secret(SECRET, json!({ "SecretString": value.to_string() })).await;
    let rotation = world.begin(SECRET, json!({})).await;
    kosli.set_trap(
        "rotate",
        changed(|body, _| {
            body["key"] = format!("kosli.{}.{}", body["id"].as_str().unwrap(), body["key"].as_str().unwrap()).into();
        }),
    );
    let answer = world.step(&rotation, "createSecret").await.unwrap();
    let minted = world.newest_key();
    assert_eq!((&answer["outcome"], &answer["key_id"]), (&json!("rotated"), &json!(minted.id)));
    let pending = world.versions(SECRET).into_iter().find(|(version, ..)| *version == rotation.token).unwrap().2;
    let Some(SecretValue::Text(pending)) = pending else { panic!("it has a value") };
    assert!(pending.contains(&format!("\"api_key\":\"kosli.{}.{}\"", minted.id, minted.value)));
    world.end().await;
}

/// A request that is not valid is refused in a form of its own.
#[test]
fn the_details_of_a_refusal_are_repeated() {
    Testbed::run(async |testbed| {
        for operation in ["verify", "list", "rotate"] {
            let mut world = testbed.world(&setting());
            let kosli = Server::listen(&testbed.emulator, None).await;
            world.kosli_at(&format!("http://{}", kosli.address));
            let detail = r#"{"detail":[{"loc":["body","expires_at"],"msg":"not a whole number","type":"int"}]}"#;
            kosli.set_trap(operation, Trap::Bytes(Arc::new(|_| reply(422, &[], detail))));
            let rotation = world.begin_rotation(&token("second", 0)).unwrap();
            let (said, end) = attempt(&world, &rotation).await;
            // The trap lets the mint have its effect, so what was minted is seen as another execution's.
            assert_eq!(end, if operation == "rotate" { "TwinExecution" } else { "KosliRefused" }, "{said}");
            let words = "it answered 422: expires_at: not a whole number";
            assert!(operation == "rotate" || said.contains(words), "{operation}: {said}");
        }
    });
}
