//! The emulator at its sockets: the way of a call, hooks, every fault, and many cases on one set of sockets.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use emulator::faults::{Effect, Rule};
use emulator::kosli::Role;
use emulator::{BoxFuture, Call, Clock, Emulator, Fault, Hook, Service};
use serde_json::{Value, json};
use support::{Client, Failure, aws, epoch};

const KEYS: &str = "/api/v2/service-accounts/acme/ci/api-keys";

/// An emulator on a frozen clock, the account `acme/ci` with one key, and a client that uses that key.
struct World {
    emulator: Emulator,
    client: Client,
    key_id: String,
}

impl World {
    async fn new() -> Self {
        let emulator = Emulator::new(Clock::frozen(epoch()));
        let address = emulator.listen("test", 0).await.unwrap();
        let (key_id, value) = add_key(&emulator);
        let client = Client::new(address, emulator.clock().clone()).with_key(&value);
        Self { emulator, client, key_id }
    }

    /// The next case on the same sockets.
    fn begin_anew(&mut self) {
        self.emulator.reset();
        let (key_id, value) = add_key(&self.emulator);
        self.key_id = key_id;
        self.client.set_key(&value);
    }

    fn fault(&self, rule: &str) {
        self.emulator.faults().add(rule.parse().unwrap());
    }

    async fn create(&mut self) -> Result<(u16, Value), Failure> {
        create_with(&mut self.client).await
    }

    /// How many keys there are besides the first one.
    fn created(&self) -> usize {
        self.emulator.with_kosli(|kosli| kosli.keys().count() - 1)
    }

    fn last_call(&self) -> Call {
        self.emulator.calls().pop().unwrap()
    }
}

fn add_key(emulator: &Emulator) -> (String, String) {
    emulator.with_kosli(|kosli| {
        kosli.add_account("acme", "ci", Role::Admin);
        kosli.add_key("acme", "ci", "the first", epoch(), None)
    })
}

async fn create_with(client: &mut Client) -> Result<(u16, Value), Failure> {
    client.post(KEYS, &json!({ "description": "made by a test" })).await
}

/// One port serves both services, and the log says who called whom, with which key, and for what.
#[tokio::test]
async fn calls_are_routed_and_logged() {
    let mut world = World::new().await;
    let (status, body) = world.create().await.unwrap();
    assert_eq!(status, 201);
    let created = body["id"].as_str().unwrap().to_owned();
    let secret = json!({ "Name": "s", "SecretString": "made-up value", "ClientRequestToken": support::token(1) });
    assert_eq!(aws(&mut world.client, "CreateSecret", &secret).await.unwrap().0, 200);

    let calls = world.emulator.calls();
    assert_eq!(calls.len(), 2);
    assert_eq!((calls[0].number, calls[0].service, calls[0].tag.as_str()), (1, Service::Kosli, "test"));
    assert_eq!((calls[0].status, calls[0].effect), (Some(201), Some(201)));
    assert_eq!(calls[0].key_id.as_ref(), Some(&world.key_id));
    assert_eq!(
        calls[0].to_string(),
        format!("#1 Kosli create acme/ci/api-keys description=made by a test -> 201 id={created}")
    );
    assert_eq!((calls[1].service, calls[1].operation.as_str()), (Service::SecretsManager, "CreateSecret"));
    let printed = format!("{calls:?}");
    assert!(!printed.contains("made-up value") && !printed.contains(body["key"].as_str().unwrap()));
}

/// Everything that says what time it is says what the emulator's clock says.
#[tokio::test]
async fn answers_are_dated_by_the_emulators_clock() {
    let mut world = World::new().await;
    world.emulator.clock().advance(Duration::from_secs(3600));
    let later = httpdate::fmt_http_date(epoch() + Duration::from_secs(3600)).to_lowercase();
    world.create().await.unwrap();
    assert_eq!(world.client.header("date"), Some(later.as_str()));
    aws(&mut world.client, "ListSecrets", &json!({})).await.unwrap();
    assert_eq!(world.client.header("date"), Some(later.as_str()));
}

#[tokio::test]
async fn unknown_paths_say_where_help_is() {
    let mut world = World::new().await;
    let (status, body) = world.client.get("/nowhere").await.unwrap();
    assert_eq!(status, 404);
    assert!(body["message"].as_str().unwrap().contains("/_emulator"));
    assert!(world.emulator.calls().is_empty());
}

/// Every fault: what the client gets to see, whether the key was made, and that the next call is served again.
#[tokio::test]
async fn every_fault_does_what_it_says() {
    use Failure::{CutShort, NotJson, Reset, TimedOut};
    let cases: [(&str, Result<u16, Failure>, usize); 17] = [
        ("refuse", Ok(429), 0),
        ("refuse:409", Ok(409), 0),
        ("error-before:503", Ok(503), 0),
        ("error-after", Ok(500), 1),
        ("drop-before", Err(Reset), 0),
        ("drop-after", Err(Reset), 1),
        ("no-answer", Err(TimedOut), 0),
        ("no-answer-after", Err(TimedOut), 1),
        ("late:20s", Err(TimedOut), 0),
        ("delay:3s", Ok(201), 1),
        ("delay:60s", Err(TimedOut), 1),
        ("garble", Err(NotJson), 1),
        ("truncate", Err(CutShort), 1),
        ("incomplete", Ok(201), 1),
        ("html:502", Err(NotJson), 0),
        ("kill-before", Err(Reset), 0),
        ("kill-after", Err(Reset), 1),
    ];
    let mut world = World::new().await;
    for (text, seen, created) in cases {
        let fault: Fault = text.parse().unwrap();
        world.begin_anew();
        world.fault(&format!("create#1={text}"));
        let answer = world.create().await;
        assert_eq!(answer.clone().map(|(status, _)| status), seen, "{text}");
        assert_eq!(world.created(), created, "{text}");
        let call = world.last_call();
        assert_eq!(call.effect.is_some(), created == 1, "{text}");
        assert_eq!(fault.effect() == Effect::Now, created == 1, "{text}");
        assert_eq!(call.fault, Some(fault));
        if text == "incomplete" {
            let body = answer.unwrap().1;
            assert!(body["id"].is_string() && body["key"].is_null() && body["api_key"].is_null());
        }
        assert_eq!(world.create().await.map(|(status, _)| status), Ok(201), "after {text}");
    }
}

/// Some servers and proxies echo requests: whoever prints an answer that is none has to be found out.
#[tokio::test]
async fn what_fails_echoes_the_request() {
    let mut world = World::new().await;
    let put = json!({ "SecretId": "s", "SecretString": "{\"a\":\n\"made-up value\"}", "ClientRequestToken": support::token(1) });
    for fault in ["refuse:302", "refuse", "error-before", "error-after:502", "html:403", "garble"] {
        world.begin_anew();
        world.fault(&format!("PutSecretValue={fault}"));
        world.fault(&format!("verify={fault}"));
        for secret in ["made-up value", "Bearer "] {
            let answer = match secret {
                "Bearer " => world.client.get("/api/v2/environments/acme").await,
                _ => aws(&mut world.client, "PutSecretValue", &put).await,
            };
            for header in ["x-request", "location"] {
                let echo = world.client.header(header).unwrap_or_default();
                assert!(echo.contains(&secret.to_lowercase()), "{fault}: {header}: {echo}");
            }
            if ["html:403", "garble"].contains(&fault) {
                assert!(answer.is_err(), "{fault}: no JSON");
                continue;
            }
            let (_, body) = answer.unwrap();
            assert!(body["request"].as_str().unwrap().contains(secret), "{fault}: {body}");
            // What the function repeats of it, and has to filter.
            let message = body["Message"].as_str();
            assert_eq!(
                message.map(|text| text.contains(secret)),
                (secret == "made-up value").then_some(true),
                "{body}"
            );
        }
    }
}

/// A refusal comes in the shape of the service that refuses.
#[tokio::test]
async fn refusals_look_like_the_services_own() {
    let mut world = World::new().await;
    for rule in [
        "#1=refuse:429:retry-after=7",
        "#2=refuse:429:retry-after=7",
        "#3=refuse:400:LimitExceededException:message=enough: no more",
        "#4=error-before:503",
    ] {
        world.fault(rule);
    }
    let (status, mut body) = world.client.get(KEYS).await.unwrap();
    assert_eq!((status, world.client.header("retry-after")), (429, Some("7")));
    body.as_object_mut().unwrap().remove("request");
    assert_eq!(body, json!({ "message": "Rate exceeded" }));

    let (status, body) = aws(&mut world.client, "ListSecrets", &json!({})).await.unwrap();
    assert_eq!((status, body["__type"].as_str()), (400, Some("ThrottlingException")));
    let (status, body) = aws(&mut world.client, "ListSecrets", &json!({})).await.unwrap();
    assert_eq!((status, body["__type"].as_str()), (400, Some("LimitExceededException")));
    assert!(body["Message"].as_str().unwrap().starts_with("enough: no more "), "{body}");
    let (status, body) = aws(&mut world.client, "ListSecrets", &json!({})).await.unwrap();
    assert_eq!((status, body["__type"].as_str()), (503, Some("InternalServiceError")));
}

/// The effect of a call whose client has given up comes when it is due: before any look at the services, not earlier.
#[tokio::test]
async fn late_effects_come_when_they_are_due() {
    let mut world = World::new().await;
    world.fault("create#1=late:20s");
    assert_eq!(world.create().await, Err(Failure::TimedOut));
    assert_eq!(world.emulator.clock().now(), epoch() + support::TIME_OUT);
    assert_eq!(world.created(), 0);
    world.emulator.clock().advance(Duration::from_secs(14));
    assert_eq!((world.created(), world.last_call().effect), (0, None));
    world.emulator.clock().advance(Duration::from_secs(1));
    assert_eq!(world.created(), 1);
    assert_eq!((world.last_call().effect, world.last_call().status), (Some(201), None));
}

/// Two executions, of which one is slow: its mint and its store come long after it has given up, and after what the other has done
/// meanwhile. Rules tell the two apart.
#[tokio::test]
async fn one_callers_effects_may_come_late_and_anothers_at_once() {
    let mut world = World::new().await;
    let address = world.emulator.listen("other", 0).await.unwrap();
    let mut other = world.client.another().at(address);
    let secret = json!({"Name": "s", "SecretString": "k1", "ClientRequestToken": "0".repeat(32)});
    assert_eq!(aws(&mut other, "CreateSecret", &secret).await.unwrap().0, 200);
    let put = |token: &str, value: &str| json!({"SecretId": "s", "SecretString": value, "ClientRequestToken": token.repeat(32), "VersionStages": ["AWSPENDING"]});
    let value = |world: &World| {
        world.emulator.with_secrets_manager(|service| {
            let versions = &service.secret("s").unwrap().versions;
            versions.labelled("AWSPENDING").and_then(|version| version.text().map(str::to_owned))
        })
    };
    let after = |world: &World, seconds: u64| {
        let begin = epoch() + Duration::from_secs(seconds);
        world.emulator.clock().advance(begin.duration_since(world.emulator.clock().now()).unwrap());
    };

    world.fault("create@test#1=late:45s");
    world.fault("PutSecretValue@test#1=late:107s");
    world.create().await.unwrap_err();
    assert_eq!(aws(&mut world.client, "PutSecretValue", &put("1", "late")).await, Err(Failure::TimedOut));
    assert_eq!(world.emulator.clock().now(), epoch() + 2 * support::TIME_OUT);
    assert_eq!(create_with(&mut other).await.unwrap().0, 201);
    assert_eq!(world.created(), 1);
    after(&world, 44);
    assert_eq!(world.created(), 1);
    after(&world, 45);
    assert_eq!(world.created(), 2);
    let stored = 107 + support::TIME_OUT.as_secs();
    after(&world, stored - 1);
    assert_eq!(value(&world), None);
    after(&world, stored);
    assert_eq!(value(&world).as_deref(), Some("late"));
    // One that comes after another value has been stored under the same version id changes nothing.
    world.fault("PutSecretValue@test#1=late:45s");
    aws(&mut world.client, "PutSecretValue", &put("2", "late")).await.unwrap_err();
    assert_eq!(aws(&mut other, "PutSecretValue", &put("2", "other")).await.unwrap().0, 200);
    after(&world, 400);
    assert_eq!(value(&world).as_deref(), Some("other"));
}

#[tokio::test]
async fn late_effects_come_before_the_next_call() {
    let mut world = World::new().await;
    world.fault("create#1=late:20s");
    world.create().await.unwrap_err();
    world.emulator.clock().advance(Duration::from_secs(60));
    let (_, listed) = world.client.get(KEYS).await.unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 2);
}

/// Nothing of an earlier case reaches a later one: no late effect, no call that is held back, no fault, no time.
#[tokio::test]
async fn reset_begins_the_world_anew() {
    let mut world = World::new().await;
    world.fault("create#1=late:20s");
    world.create().await.unwrap_err();
    let gate = Arc::new(Gate::default());
    world.emulator.set_hook(gate.clone());
    let mut other = world.client.another();
    let waiting = tokio::spawn(async move { create_with(&mut other).await });
    gate.call_arrives().await;

    world.begin_anew();
    assert_eq!(world.emulator.clock().now(), epoch());
    gate.open.notify_one();
    assert_eq!(waiting.await.unwrap(), Err(Failure::Reset));
    world.emulator.clock().advance(Duration::from_secs(3600));
    assert_eq!((world.created(), world.emulator.calls().len()), (0, 0));
    assert_eq!(world.create().await.map(|(status, _)| status), Ok(201));
    assert_eq!(gate.arrived.lock().unwrap().len(), 1, "the hook is gone");
}

/// Who sleeps on the clock when the world begins anew sleeps for ever, and no longer moves the clock.
#[tokio::test]
async fn sleepers_do_not_outlive_a_reset() {
    let world = World::new().await;
    let emulator = world.emulator.clone();
    let sleeper = tokio::spawn(async move { emulator.sleep(Duration::from_secs(60)).await });
    tokio::task::yield_now().await;
    world.emulator.reset();
    let timer = world.emulator.clock().timer(Duration::from_secs(1));
    let awaited = tokio::time::timeout(Duration::from_millis(50), timer).await;
    assert!(awaited.is_err() && !sleeper.is_finished());
    assert_eq!(world.emulator.clock().now(), epoch());
}

/// A request that was on its way when the world began anew, on a connection of either age, has no effect.
#[tokio::test]
async fn requests_of_dropped_clients_do_not_outlive_a_reset() {
    for connected_before in [true, false] {
        let mut world = World::new().await;
        let mut stale = world.client.another();
        if connected_before {
            create_with(&mut stale).await.unwrap();
        }
        stale.send_and_go(KEYS, &json!({ "description": "stale" }));
        world.begin_anew();
        world.emulator.settle().await;
        assert_eq!(world.emulator.calls(), [], "connected before: {connected_before}");
        assert_eq!(world.create().await.map(|(status, _)| status), Ok(201));
        assert_eq!(world.emulator.calls().len(), 1);
    }
}

/// A hook that holds every call until it is told to let one go, and that writes down what it is told.
#[derive(Default)]
struct Gate {
    arrived: Mutex<Vec<String>>,
    after: Mutex<Vec<Call>>,
    killed: Mutex<Vec<usize>>,
    open: tokio::sync::Notify,
    fault: Option<Fault>,
}

impl Gate {
    async fn call_arrives(&self) {
        while self.arrived.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    }
}

impl Hook for Gate {
    fn before<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Option<Fault>> {
        Box::pin(async move {
            self.arrived.lock().unwrap().push(call.tag.clone());
            self.open.notified().await;
            self.fault.clone()
        })
    }

    fn after(&self, call: &Call) {
        self.after.lock().unwrap().push(call.clone());
    }

    fn kill(&self, call: &Call) {
        self.killed.lock().unwrap().push(call.number);
    }
}

/// The hook sees a call before its effect, may hold it, and sees it again after its effect and before the answer.
#[tokio::test]
async fn a_hook_holds_calls_and_looks_between_them() {
    let world = World::new().await;
    let gate = Arc::new(Gate { fault: Some(Fault::KillAfter), ..Gate::default() });
    world.emulator.set_hook(gate.clone());
    let address = world.emulator.listen("another execution", 0).await.unwrap();
    let mut client = world.client.another().at(address);
    let call = tokio::spawn(async move { create_with(&mut client).await });
    gate.call_arrives().await;
    assert_eq!(*gate.arrived.lock().unwrap(), ["another execution"]);
    assert_eq!(world.created(), 0);
    gate.open.notify_one();
    assert_eq!(call.await.unwrap(), Err(Failure::Reset));
    assert_eq!(world.created(), 1);
    assert_eq!(*gate.killed.lock().unwrap(), [1]);
    let after = gate.after.lock().unwrap();
    assert_eq!((after.len(), after[0].effect, after[0].status), (1, Some(201), None));
}

/// A call that has arrived is handled to its end, although its client has gone.
#[tokio::test]
async fn calls_outlive_their_clients() {
    let world = World::new().await;
    let gate = Arc::new(Gate::default());
    world.emulator.set_hook(gate.clone());
    let mut client = world.client.another();
    let call = tokio::spawn(async move { create_with(&mut client).await });
    gate.call_arrives().await;
    call.abort();
    call.await.unwrap_err();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    gate.open.notify_one();
    world.emulator.settle().await;
    assert_eq!(world.created(), 1);
}

/// Two clients wait for an answer that never comes: the clock moves from one's time-out to the other's, no further.
#[tokio::test]
async fn a_frozen_clock_moves_from_time_out_to_time_out() {
    let world = World::new().await;
    world.fault("create=no-answer");
    let clock = world.emulator.clock().clone();
    let ends = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for seconds in [3, 2] {
        let (mut client, clock, ends) = (world.client.another(), clock.clone(), ends.clone());
        client.time_out = Duration::from_secs(seconds);
        tasks.push(tokio::spawn(async move {
            let failed = create_with(&mut client).await.unwrap_err();
            ends.lock().unwrap().push((failed, clock.now().duration_since(epoch()).unwrap().as_secs()));
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(*ends.lock().unwrap(), [(Failure::TimedOut, 2), (Failure::TimedOut, 3)]);
}

/// Texts that people write, and what is made of them.
#[test]
fn rules_are_read_and_written_alike() {
    for text in [
        "rotate#1=drop-after",
        "PutSecretValue#2..4=refuse:400:ThrottlingException",
        "PutSecretValue@function#1=late:107000ms",
        "@function=no-answer",
        "list=error-before:503",
        "verify#2..=delay:5000ms",
        "#7=kill-after",
        "#3..=no-answer",
        "create=refuse:429:retry-after=2:message=slow down: please",
    ] {
        assert_eq!(text.parse::<Rule>().unwrap().to_string(), text);
    }
    for (text, why) in [
        ("rotate#1", "\"rotate#1\" names no fault; write OPERATION#NUMBER=FAULT, such as rotate#1=drop-after"),
        ("rotate#0=garble", "in \"rotate#0=garble\": \"#0\" does not number calls; write #1, #2..4 or #3.."),
        ("rotate#3..2=garble", "\"#3..2\" does not number calls"),
        ("=garble", "name an operation, a call's number, or both"),
        ("createSecret=garble", "\"createSecret\" is not an operation; operations are create, list"),
        ("rotate=drop", "\"drop\" is not a fault; faults are refuse"),
        ("rotate=garble:1", "the fault garble takes nothing after it, not \":1\""),
        ("rotate@#1=no-answer", "name a caller after the \"@\""),
        ("rotate=late", "\"\" is not a length of time; write 1500ms, 90s, 20m, 25h or 30d"),
        ("rotate=refuse:200", "\"200\" is not the status of a failure"),
        ("rotate=refuse:429:retry-after=soon", "retry-after takes whole seconds, not \"soon\""),
    ] {
        let error = text.parse::<Rule>().unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

/// Of several rules the first that covers a call decides, and each counts the calls that it is about.
#[tokio::test]
async fn rules_count_the_calls_they_are_about() {
    let mut world = World::new().await;
    world.fault("create#2=error-before:501");
    world.fault("#2..3=error-before:502");
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(world.create().await.unwrap().0);
    }
    assert_eq!(seen, [201, 501, 502, 201]);
}

/// Thousands of fault cases a minute run in one process, and none of them may leave a socket in TIME_WAIT.
#[tokio::test]
async fn thousands_of_cases_run_on_one_set_of_sockets() {
    const CASES: usize = 1000;
    let faults = ["drop-after", "no-answer", "truncate", "late:20s", "garble", "kill-before"];
    let mut world = World::new().await;
    let began = Instant::now();
    for case in 0..CASES {
        world.begin_anew();
        world.fault(&format!("create#2={}", faults[case % faults.len()]));
        for _ in 0..5 {
            let _ = world.create().await;
        }
        assert_eq!(world.emulator.calls().len(), 5);
    }
    println!("{CASES} cases of 5 calls took {:?}", began.elapsed());
    let left = support::sockets_in_time_wait(world.client.address);
    assert!(left < 10, "{left} sockets are in TIME_WAIT");
}
