//! `checkSecret`: what it says of each situation, and that it changes nothing.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Mutex;
use std::time::Duration;

use emulator::Fault;
use emulator::rotation::{Event, Retries};
use kosli_key_rotation::rotation::LambdaContext;
use serde_json::{Value, json};
use support::{Bench, DAY, FUNCTION, HOUR, SECRET, Setting, Shape, World, token};

const RETRIES: Retries = Retries { attempts: 6, spacing: Duration::from_secs(120) };

/// Runs a test on a bench of its own.
fn on_a_bench(test: impl AsyncFnOnce(&Bench)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let bench = Bench::new(1).await;
        test(&bench).await;
    });
}

/// A world after one rotation.
async fn rotated(bench: &Bench, setting: &Setting) -> World {
    let world = bench.world(setting);
    assert_eq!(world.rotate(&token("second", 0), RETRIES).await, Event::Succeeded, "{}", world.story());
    world
}

/// The report; that nothing was changed by making it is asserted every time.
async fn check(world: &World) -> Value {
    let state = || {
        let secret = world.emulator.with_secrets_manager(|service| {
            format!(
                "{:?}",
                service.secret(&world.arn).unwrap().versions.iter().map(|v| (&v.id, &v.stages)).collect::<Vec<_>>()
            )
        });
        let keys = world.emulator.with_kosli(|kosli| {
            let now = world.emulator.clock().now();
            let in_grace = |key: &emulator::kosli::Key| key.is_in_grace_at(now).then(|| key.used_at.clone());
            kosli.keys().map(|key| (key.id.clone(), key.revoked_at, key.rotated_at, in_grace(key))).collect::<Vec<_>>()
        });
        (secret, keys)
    };
    let (before, calls) = (state(), world.emulator.calls().len());
    let report = world.invoke(0, &json!({"Step": "checkSecret", "SecretId": world.arn})).await.unwrap();
    assert_eq!(before, state(), "checkSecret changed something");
    for call in &world.emulator.calls()[calls..] {
        let reads = ["DescribeSecret", "GetSecretValue", "list", "get", "verify"];
        assert!(reads.contains(&call.operation.as_str()), "checkSecret called {}", call.operation);
    }
    report
}

/// The detail of a check, which must have this verdict; the report as a whole agrees with its checks.
fn detail<'a>(report: &'a Value, name: &str, ok: bool) -> &'a str {
    let checks = report["checks"].as_array().unwrap();
    let healthy = checks.iter().all(|check| check["ok"] == true);
    assert_eq!(report["healthy"], healthy, "{report:#}");
    let check = checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name} in {report:#}"));
    assert_eq!(check["ok"], ok, "{report:#}");
    check["detail"].as_str().unwrap()
}

#[test]
fn a_secret_after_a_rotation_is_healthy_in_every_shape() {
    on_a_bench(async |bench| {
        for shape in [Shape::ApiKey, Shape::Environment, Shape::WithoutId, Shape::Plain] {
            for admin in [true, false] {
                let world = rotated(bench, &Setting { shape, admin, ..Setting::default() }).await;
                assert_eq!(check(&world).await["healthy"], true, "{shape:?}");
                world.emulator.clock().advance(DAY * 30);
                assert_eq!(world.rotate(&token("third", 0), RETRIES).await, Event::Succeeded, "{}", world.story());
                let report = check(&world).await;
                assert_eq!(report["healthy"], true, "{shape:?} {report:#}");
                assert_eq!(report["secret_id"], world.arn.as_str());
                assert!(detail(&report, "old-key", true).contains("in its grace period until"));
                assert!(detail(&report, "key-id", true).contains("expires at"));
                world.emulator.clock().advance(HOUR * 25);
                let report = check(&world).await;
                assert!(detail(&report, "old-key", true).contains("not on the account any more"), "{report:#}");
            }
        }
    });
}

#[test]
fn a_revoked_current_key_is_named() {
    on_a_bench(async |bench| {
        let world = rotated(bench, &Setting::default()).await;
        let id = world.key("AWSCURRENT").unwrap().id;
        world.emulator.with_kosli(|kosli| kosli.revoke_key(&id));
        let report = check(&world).await;
        assert!(detail(&report, "current-key", false).contains("revoked or has expired"));
        assert!(detail(&report, "key-id", false).contains(&id));
    });
}

#[test]
fn a_stuck_rotation_is_named_with_and_without_a_pending_value() {
    on_a_bench(async |bench| {
        for after in ["rotate", "PutSecretValue"] {
            let world = rotated(bench, &Setting::default()).await;
            world.emulator.clock().advance(DAY * 3);
            let fault = if after == "rotate" { Fault::KillBefore } else { Fault::KillAfter };
            world.fault_on(after, fault);
            let once = Retries { attempts: 1, ..RETRIES };
            assert_eq!(world.rotate(&token("third", 0), once).await, Event::GivenUp);
            detail(&check(&world).await, "stuck", true);
            world.emulator.clock().advance(HOUR * 2);
            let report = check(&world).await;
            let stuck = detail(&report, "stuck", false);
            assert!(stuck.contains("pending for 2 h") && stuck.contains("rotate-secret"), "{stuck}");
            assert_eq!(stuck.contains("may die at"), after == "PutSecretValue", "{stuck}");
        }
    });
}

#[test]
fn an_orphan_is_named_once_no_rotation_can_be_at_work() {
    on_a_bench(async |bench| {
        let world = rotated(bench, &Setting::default()).await;
        world.emulator.clock().advance(DAY * 3);
        world.fault_on("rotate", Fault::KillAfter);
        let once = Retries { attempts: 1, ..RETRIES };
        assert_eq!(world.rotate(&token("third", 0), once).await, Event::GivenUp);
        let lost = world.minted().last().unwrap().id.clone();
        let report = check(&world).await;
        detail(&report, "orphans", true);
        assert!(detail(&report, "current-key", true).starts_with("Not tried"), "{report:#}");
        world.emulator.clock().advance(HOUR * 2);
        assert!(detail(&check(&world).await, "orphans", false).contains(&lost));
    });
}

#[test]
fn an_old_key_that_nobody_ends_is_named() {
    on_a_bench(async |bench| {
        let world = bench.world(&Setting::default());
        assert_eq!(world.rotate(&token("second", 0), RETRIES).await, Event::Succeeded);
        let old = world.key("AWSPREVIOUS").unwrap().id;
        // Its grace period is long over by the policy, but Kosli still has it: made so by a longer grace period.
        let tags = json!({"SecretId": world.arn, "Tags": [{"Key": "kosli:grace-period-hours", "Value": "1"}]});
        world.aws("TagResource", tags).unwrap();
        world.emulator.clock().advance(HOUR * 4);
        let report = check(&world).await;
        let detail = detail(&report, "old-key", false);
        assert!(detail.contains(&old) && detail.contains("nobody ends it"), "{detail}");
    });
}

#[test]
fn a_consumer_that_did_not_notice_the_rotation_is_noticed() {
    on_a_bench(async |bench| {
        let world = rotated(bench, &Setting::default()).await;
        world.emulator.clock().advance(HOUR * 13);
        assert!(detail(&check(&world).await, "old-key", true).contains("last used"));
        let old = world.key("AWSPREVIOUS").unwrap();
        let request = http::Request::get("/api/v2/environments/acme")
            .header("authorization", format!("Bearer {}", old.value))
            .body(Default::default())
            .unwrap();
        world.emulator.with_kosli(|kosli| assert_eq!(kosli.handle(&request).status(), 200));
        assert!(detail(&check(&world).await, "old-key", false).contains("Somebody still uses it"));
    });
}

#[test]
fn expiry_and_schedule_are_compared() {
    on_a_bench(async |bench| {
        let world = bench.world(&Setting {
            variables: vec![("KOSLI_KEY_TTL_DAYS".to_owned(), "20".to_owned())],
            ..Setting::default()
        });
        assert_eq!(world.rotate(&token("second", 0), RETRIES).await, Event::Succeeded);
        let report = check(&world).await;
        assert!(detail(&report, "schedule", false).contains("rotate before"), "{report:#}");
        let world = rotated(bench, &Setting::default()).await;
        let tags = json!({"SecretId": world.arn, "Tags": [{"Key": "kosli:grace-period-hours", "Value": "720"}]});
        world.aws("TagResource", tags).unwrap();
        assert!(detail(&check(&world).await, "schedule", false).contains("not shorter than the time between"));
        world.emulator.clock().advance(DAY * 33);
        assert!(detail(&check(&world).await, "schedule", false).contains("has not happened"));
    });
}

#[test]
fn a_dead_admin_key_and_a_malformed_value_are_answers_not_errors() {
    on_a_bench(async |bench| {
        let world = rotated(bench, &Setting::default()).await;
        let admin = world.emulator.with_kosli(|kosli| {
            let admin = kosli.keys().find(|key| key.account == "platform").unwrap().id.clone();
            kosli.revoke_key(&admin);
            admin
        });
        let report = check(&world).await;
        assert!(detail(&report, "admin-key", false).contains("AdminKeyDead"), "{report:#}");
        assert!(!report.to_string().contains(&admin));

        let world = rotated(bench, &Setting::default()).await;
        let value = json!({"SecretId": world.arn, "SecretString": "{\"org\":\"acme\"}", "ClientRequestToken": token("hand", 0)});
        world.aws("PutSecretValue", value).unwrap();
        assert!(detail(&check(&world).await, "value", false).contains("InvalidSecret"));

        let report = world.invoke(0, &json!({"Step": "checkSecret", "SecretId": "no-such-secret"})).await.unwrap();
        assert!(detail(&report, "secret", false).contains("There is no secret"));
    });
}

#[test]
fn the_admin_keys_expiry_is_told_where_its_secret_names_it() {
    on_a_bench(async |bench| {
        let world = rotated(bench, &Setting::default()).await;
        let (id, value) = world.emulator.with_kosli(|kosli| {
            let now = support::start();
            kosli.add_key("acme", "platform", "soon", now - DAY, Some(now + DAY * 5))
        });
        let value = json!({"org": "acme", "service_account": "platform", "key_id": id, "api_key": value}).to_string();
        let put =
            json!({"SecretId": support::ADMIN_SECRET, "SecretString": value, "ClientRequestToken": token("hand", 1)});
        world.aws("PutSecretValue", put).unwrap();
        assert!(detail(&check(&world).await, "admin-expiry", false).contains(&id));
    });
}

#[test]
fn without_a_secret_all_secrets_of_this_function_are_reported() {
    on_a_bench(async |bench| {
        let world = rotated(bench, &Setting::default()).await;
        let reports = world.invoke(0, &json!({"Step": "checkSecret"})).await.unwrap();
        let reports = reports.as_array().unwrap();
        assert_eq!(reports.len(), 1, "the admin secret is not rotated by this function");
        assert_eq!(reports[0]["secret_id"], world.arn.as_str());
        assert!(world.arn.contains(SECRET) && FUNCTION.ends_with("kosli-key-rotation"));
    });
}

#[test]
fn a_secret_for_which_no_time_is_left_is_reported_as_not_checked() {
    on_a_bench(async |bench| {
        // Ten seconds are enough for one secret, and a second and a half is kept for the answer.
        for (time, is_checked) in [(11_499, false), (11_500, true)] {
            let world = rotated(bench, &Setting::default()).await;
            let event = json!({"Step": "checkSecret"});
            let reports = world.invoke_within(0, &event, Duration::from_millis(time)).await.unwrap();
            assert_eq!(reports[0]["healthy"], is_checked, "{reports:#}");
            assert_eq!(reports.to_string().contains("No time was left"), !is_checked);
        }
    });
}

/// The lines of metrics that the function has written here.
static METRICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

#[test]
fn the_metrics_count_the_unhealthy_secrets_and_the_days_that_are_left() {
    on_a_bench(async |bench| {
        let world = rotated(bench, &Setting::default()).await;
        let mut function = world.function(0);
        function.metrics.write = |line| METRICS.lock().unwrap().push(line.to_owned());
        for (unhealthy, event) in [
            (0, json!({"Step": "checkSecret"})),
            (0, json!({"Step": "checkSecret", "SecretId": world.arn})),
            (1, json!({"Step": "checkSecret"})),
            (1, json!({"Step": "checkSecret", "SecretId": world.arn})),
        ] {
            if unhealthy > 0 {
                world.rule("verify=refuse:401");
            }
            let deadline = world.emulator.clock().now() + support::TIMEOUT;
            let context = LambdaContext { request_id: "made-up", deadline, function_arn: FUNCTION };
            function.handle(&event, context).await.unwrap();
            let line: Value = serde_json::from_str(&METRICS.lock().unwrap().remove(0)).unwrap();
            assert_eq!(line["CheckUnhealthy"], unhealthy, "{line:#}");
            assert!(line["DaysToCurrentKeyExpiry"].as_f64().is_some_and(|days| days > 300.0), "{line:#}");
            world.emulator.faults().clear();
        }
    });
}
