//! `checkSecret`: what it says of each situation, and that it changes nothing.

#![allow(clippy::unwrap_used)]

use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use emulator::Fault;
use emulator::kosli::Key;
use emulator::rotation::Event;
use kosli_key_rotation::function::LambdaContext;
use kosli_key_rotation::marker::{Attempt, Mark};
use serde_json::{Value, json};
use testbed::{
    ACCOUNT, ADMIN_SECRET, DAY, DESCRIPTION, FUNCTION, HOUR, ONCE, ORG, RETRIES, SECRET, Setting, Shape, Testbed,
    World, token, version_id,
};

/// A world after one rotation.
async fn rotated(testbed: &Testbed, setting: &Setting) -> World {
    let world = testbed.world(setting);
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
            let in_grace = |key: &Key| key.is_in_grace_at(now).then(|| key.used_at.clone());
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

/// The details of a check at the last instant at which all is well, and a second later, when it no longer is.
async fn turns_after(world: &World, name: &str, last: SystemTime) -> [String; 2] {
    world.advance(last.duration_since(world.emulator.clock().now()).unwrap());
    let before = check(world).await;
    world.advance(Duration::from_secs(1));
    [detail(&before, name, true).to_owned(), detail(&check(world).await, name, false).to_owned()]
}

/// When the version under a label got its value.
fn stored(world: &World, label: &str) -> SystemTime {
    world
        .emulator
        .with_secrets_manager(|service| service.secret(&world.arn).unwrap().versions.labelled(label).unwrap().created)
}

/// Calls Kosli with a key, as a program that holds it does.
fn use_key(world: &World, key: &Key) {
    let request = http::Request::get("/api/v2/environments/acme")
        .header("authorization", format!("Bearer {}", key.value))
        .body(Default::default())
        .unwrap();
    world.emulator.with_kosli(|kosli| assert_eq!(kosli.handle(&request).status(), 200));
}

/// Puts another key into the admin secret, together with its id and what else there is.
fn name_admin_key(world: &World, expiry: SystemTime, mut value: Value) -> String {
    let now = world.emulator.clock().now();
    let (id, key) = world.emulator.with_kosli(|kosli| kosli.add_key(ORG, "platform", "rotates", now, Some(expiry)));
    (value["key_id"], value["api_key"]) = (json!(id), json!(key));
    let value = value.to_string();
    let body = json!({"SecretId": ADMIN_SECRET, "SecretString": value, "ClientRequestToken": token("hand", 1)});
    world.aws("PutSecretValue", body).unwrap();
    id
}

/// Has the next rotation due at this instant, or never.
fn schedule(world: &World, next: Option<SystemTime>) {
    world.emulator.with_secrets_manager(|service| service.secret_mut(&world.arn).unwrap().rotation.next = next);
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
    Testbed::run(async |testbed| {
        for shape in [Shape::ApiKey, Shape::Environment, Shape::WithoutId, Shape::Plain] {
            for admin in [true, false] {
                let world = rotated(testbed, &Setting { shape, admin, ..Setting::default() }).await;
                assert_eq!(check(&world).await["healthy"], true, "{shape:?}");
                world.emulator.clock().advance(DAY * 30);
                assert_eq!(world.rotate(&token("third", 0), RETRIES).await, Event::Succeeded, "{}", world.story());
                let report = check(&world).await;
                assert_eq!(report["healthy"], true, "{shape:?} {report:#}");
                assert_eq!(report["secret_id"], world.arn.as_str());
                assert!(detail(&report, "old-key", true).contains("in its grace period until"));
                assert!(detail(&report, "key-id", true).contains("expires at"));
                detail(&report, "rotation", true);
                assert_eq!(report.to_string().contains("The admin key works"), admin, "{report:#}");
                world.emulator.clock().advance(HOUR * 25);
                let report = check(&world).await;
                assert!(detail(&report, "old-key", true).contains("not on the account any more"), "{report:#}");
            }
        }
    });
}

#[test]
fn a_secret_that_is_not_rotated_any_more_is_named() {
    Testbed::run(async |testbed| {
        let world = rotated(testbed, &Setting::default()).await;
        world.aws("CancelRotateSecret", json!({"SecretId": world.arn})).unwrap();
        assert!(detail(&check(&world).await, "rotation", false).contains("rotate-secret"));
    });
}

#[test]
fn a_revoked_current_key_is_named() {
    Testbed::run(async |testbed| {
        let world = rotated(testbed, &Setting::default()).await;
        let id = world.key("AWSCURRENT").unwrap().id;
        world.emulator.with_kosli(|kosli| kosli.revoke_key(&id));
        let report = check(&world).await;
        assert!(detail(&report, "current-key", false).contains("revoked or has expired"));
        assert!(detail(&report, "key-id", false).contains(&id));
    });
}

#[test]
fn a_stuck_rotation_is_named_with_and_without_a_pending_value() {
    Testbed::run(async |testbed| {
        for after in ["rotate", "PutSecretValue"] {
            let world = rotated(testbed, &Setting::default()).await;
            world.emulator.clock().advance(DAY * 3);
            let fault = if after == "rotate" { Fault::KillBefore } else { Fault::KillAfter };
            world.fault_on(after, fault);
            assert_eq!(world.rotate(&token("third", 0), ONCE).await, Event::GivenUp);
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
    Testbed::run(async |testbed| {
        let world = rotated(testbed, &Setting::default()).await;
        world.emulator.clock().advance(DAY * 3);
        world.fault_on("rotate", Fault::KillAfter);
        assert_eq!(world.rotate(&token("third", 0), ONCE).await, Event::GivenUp);
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
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
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
    Testbed::run(async |testbed| {
        let world = rotated(testbed, &Setting::default()).await;
        world.emulator.clock().advance(HOUR * 13);
        assert!(detail(&check(&world).await, "old-key", true).contains("last used"));
        use_key(&world, &world.key("AWSPREVIOUS").unwrap());
        assert!(detail(&check(&world).await, "old-key", false).contains("Somebody still uses it"));
    });
}

#[test]
fn expiry_and_schedule_are_compared() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting {
            variables: vec![("KOSLI_KEY_TTL_DAYS".to_owned(), "20".to_owned())],
            ..Setting::default()
        });
        assert_eq!(world.rotate(&token("second", 0), RETRIES).await, Event::Succeeded);
        let report = check(&world).await;
        assert!(detail(&report, "schedule", false).contains("rotate before"), "{report:#}");
        let world = rotated(testbed, &Setting::default()).await;
        let tags = json!({"SecretId": world.arn, "Tags": [{"Key": "kosli:grace-period-hours", "Value": "720"}]});
        world.aws("TagResource", tags).unwrap();
        assert!(detail(&check(&world).await, "schedule", false).contains("not shorter than the time between"));
        world.emulator.clock().advance(DAY * 33);
        assert!(detail(&check(&world).await, "schedule", false).contains("has not happened"));
    });
}

#[test]
fn a_dead_admin_key_and_a_malformed_value_are_answers_not_errors() {
    Testbed::run(async |testbed| {
        let world = rotated(testbed, &Setting::default()).await;
        let admin = world.emulator.with_kosli(|kosli| {
            let admin = kosli.keys().find(|key| key.account == "platform").unwrap().id.clone();
            kosli.revoke_key(&admin);
            admin
        });
        let report = check(&world).await;
        assert!(detail(&report, "admin-key", false).contains("AdminKeyDead"), "{report:#}");
        assert!(!report.to_string().contains(&admin));

        let world = rotated(testbed, &Setting::default()).await;
        let value = json!({"SecretId": world.arn, "SecretString": "{\"org\":\"acme\"}", "ClientRequestToken": token("hand", 0)});
        world.aws("PutSecretValue", value).unwrap();
        assert!(detail(&check(&world).await, "value", false).contains("InvalidSecret"));

        let report = world.invoke(0, &json!({"Step": "checkSecret", "SecretId": "no-such-secret"})).await.unwrap();
        assert!(detail(&report, "secret", false).contains("There is no secret"));
    });
}

#[test]
fn the_admin_keys_expiry_is_told_where_its_secret_names_it() {
    Testbed::run(async |testbed| {
        let world = rotated(testbed, &Setting::default()).await;
        let report = check(&world).await;
        assert!(!report.to_string().contains("admin-expiry"), "{report:#}");
        let expiry = world.emulator.clock().now() + DAY * 20;
        let id = name_admin_key(&world, expiry, json!({"org": ORG, "service_account": "platform"}));
        let expires = format!("The admin key {id} expires at {}", testbed::rfc3339(expiry));
        // Two weeks are time enough for a person.
        for told in turns_after(&world, "admin-expiry", expiry - DAY * 14).await {
            assert!(told.contains(&expires), "{told}");
        }
    });
}

/// Where the admin secret does not say whose the key is, the tags of the rotated secret do not say it either.
#[test]
fn an_admin_key_of_an_unknown_account_is_not_looked_up() {
    Testbed::run(async |testbed| {
        let world = rotated(testbed, &Setting { shape: Shape::Plain, ..Setting::default() }).await;
        let id = name_admin_key(&world, world.emulator.clock().now() + DAY, json!({}));
        let report = check(&world).await;
        assert!(!report.to_string().contains("admin-expiry"), "{report:#}");
        assert!(world.emulator.calls().iter().all(|call| !call.detail.contains(&id)), "{}", world.story());
    });
}

#[test]
fn without_a_secret_all_secrets_of_this_function_are_reported() {
    Testbed::run(async |testbed| {
        let world = rotated(testbed, &Setting::default()).await;
        let reports = world.invoke(0, &json!({"Step": "checkSecret"})).await.unwrap();
        let reports = reports.as_array().unwrap();
        assert_eq!(reports.len(), 1, "the admin secret is not rotated by this function");
        assert_eq!(reports[0]["secret_id"], world.arn.as_str());
        assert!(world.arn.contains(SECRET) && FUNCTION.ends_with("kosli-key-rotation"));
    });
}

#[test]
fn a_secret_for_which_no_time_is_left_is_reported_as_not_checked() {
    Testbed::run(async |testbed| {
        // Ten seconds are enough for one secret, and a second and a half is kept for the answer.
        for (time, is_checked) in [(11_499, false), (11_500, true)] {
            let world = rotated(testbed, &Setting::default()).await;
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
    Testbed::run(async |testbed| {
        let world = rotated(testbed, &Setting::default()).await;
        let mut function = world.function(0);
        function.metrics.write = |line| METRICS.lock().unwrap().push(line.to_owned());
        let expiry = world.key("AWSCURRENT").unwrap().expires_at.unwrap();
        let admin_expiry = world.emulator.clock().now() + DAY * 100;
        name_admin_key(&world, admin_expiry, json!({"org": ORG, "service_account": "platform"}));
        for (unhealthy, event) in [
            (0, json!({"Step": "checkSecret"})),
            (0, json!({"Step": "checkSecret", "SecretId": world.arn})),
            (1, json!({"Step": "checkSecret"})),
            (1, json!({"Step": "checkSecret", "SecretId": world.arn})),
        ] {
            if unhealthy > 0 {
                world.rule("verify=refuse:401");
            }
            let deadline = world.emulator.clock().now() + testbed::TIMEOUT;
            let context = LambdaContext { request_id: "made-up", deadline, function_arn: FUNCTION };
            function.handle(&event, context).await.unwrap();
            let line: Value = serde_json::from_str(&METRICS.lock().unwrap().remove(0)).unwrap();
            assert_eq!(line["CheckUnhealthy"], unhealthy, "{line:#}");
            let now = world.emulator.clock().now();
            for (name, expiry) in [("DaysToCurrentKeyExpiry", expiry), ("DaysToAdminKeyExpiry", admin_expiry)] {
                let days = expiry.duration_since(now).unwrap().as_secs_f64() / DAY.as_secs_f64();
                assert!(line[name].as_f64().is_some_and(|told| (told - days).abs() < 0.001), "{name} {days} {line:#}");
            }
            world.emulator.faults().clear();
        }
    });
}

/// An hour is enough for a rotation with all its redeliveries.
#[test]
fn a_rotation_is_stuck_and_a_key_orphaned_after_an_hour() {
    Testbed::run(async |testbed| {
        for (fault, name) in [(Fault::KillAfter, "stuck"), (Fault::KillBefore, "orphans"), (Fault::KillBefore, "stuck")]
        {
            let world = rotated(testbed, &Setting::default()).await;
            world.advance(DAY * 3);
            world.fault_on("PutSecretValue", fault.clone());
            let began = world.emulator.clock().now();
            assert_eq!(world.rotate(&token("third", 0), ONCE).await, Event::GivenUp);
            let since = match (name, fault) {
                ("orphans", _) => world.minted().last().unwrap().created_at,
                (_, Fault::KillAfter) => stored(&world, "AWSPENDING"),
                // One that has no value yet has no date of its own either.
                _ => began,
            };
            let [before, after] = turns_after(&world, name, since + HOUR).await;
            if name == "stuck" {
                assert!(before.contains("pending for 60 min") && after.contains("pending for 1 h"), "{before} {after}");
            }
        }
    });
}

#[test]
fn an_old_key_is_used_too_late_after_half_of_its_grace_period_and_alive_too_long_an_hour_after_it() {
    Testbed::run(async |testbed| {
        let world = rotated(testbed, &Setting::default()).await;
        world.tag("kosli:grace-period-hours", "10");
        let old = world.key("AWSPREVIOUS").unwrap();
        let stored = stored(&world, "AWSCURRENT");
        let half = stored + HOUR * 5;
        world.advance(half.duration_since(world.emulator.clock().now()).unwrap());
        use_key(&world, &old);
        detail(&check(&world).await, "old-key", true);
        world.advance(Duration::from_secs(1));
        use_key(&world, &old);
        let report = check(&world).await;
        assert!(detail(&report, "old-key", false).contains("Somebody still uses it"), "{report:#}");

        // The same without a late use.
        let world = rotated(testbed, &Setting::default()).await;
        world.tag("kosli:grace-period-hours", "10");
        let ends = self::stored(&world, "AWSCURRENT") + HOUR * 10;
        let [before, after] = turns_after(&world, "old-key", ends + HOUR).await;
        let ends = testbed::rfc3339(ends);
        assert!(before.contains(&format!("in its grace period until about {ends}")), "{before}");
        assert!(after.contains(&format!("would have ended at {ends}")), "{after}");
    });
}

/// A key that the next rotation takes care of, and one that it does not.
#[test]
fn what_becomes_of_an_orphan_is_told() {
    Testbed::run(async |testbed| {
        const HEALS: &str = "the next rotation replaces or revokes them";
        const LEFT: &str = "left behind by the clean-up of the last rotation";
        for (heals, is_left) in [(true, false), (false, true), (true, true)] {
            let world = rotated(testbed, &Setting::default()).await;
            // Minted with the mark of a version, never stored, and not swept.
            let mint = |version: &str| {
                let now = world.emulator.clock().now();
                let mark = Mark::of(&world.arn, &version_id(version));
                let expiry = UNIX_EPOCH + Duration::from_secs(mark.expires_at(Attempt::fresh(&[]), now, DAY * 100));
                world.emulator.with_kosli(|kosli| kosli.add_key(ORG, ACCOUNT, DESCRIPTION, now, Some(expiry)).0)
            };
            let coming = heals.then(|| mint(&token("second", 0)));
            let last = is_left.then(|| mint(&token("first", 0)));
            world.advance(HOUR * 2);
            let report = check(&world).await;
            let detail = detail(&report, "orphans", false);
            for (key, said) in [(&coming, HEALS), (&last, LEFT)] {
                let told = key.as_ref().map(|id| format!(" {id}: {said}"));
                assert_eq!(detail.contains(said), told.is_some(), "{detail}");
                assert!(told.is_none_or(|told| detail.contains(&told)), "{detail}");
            }
            assert_eq!(detail.contains(&format!("for the version {}", token("second", 0))), is_left, "{detail}");
        }
    });
}

#[test]
fn a_rotation_is_late_a_day_after_it_was_due_and_a_key_must_outlive_the_next_one() {
    Testbed::run(async |testbed| {
        let world = rotated(testbed, &Setting::default()).await;
        let due = world.emulator.clock().now() + DAY * 9;
        schedule(&world, Some(due));
        let [_, late] = turns_after(&world, "schedule", due + DAY).await;
        assert!(late.contains(&format!("was due at {} has not happened", testbed::rfc3339(due))), "{late}");

        // The admin key of these worlds ends sooner.
        let world = rotated(testbed, &Setting { admin: false, ..Setting::default() }).await;
        let expiry = world.key("AWSCURRENT").unwrap().expires_at.unwrap();
        schedule(&world, Some(expiry));
        detail(&check(&world).await, "schedule", true);
        schedule(&world, Some(expiry + Duration::from_secs(1)));
        assert!(detail(&check(&world).await, "schedule", false).contains("the next rotation is due at"));
        // Where none is scheduled, two weeks are time enough for a person.
        schedule(&world, None);
        let [_, soon] = turns_after(&world, "schedule", expiry - DAY * 14).await;
        assert!(soon.contains(&testbed::rfc3339(expiry)) && soon.contains("no rotation is scheduled"), "{soon}");
    });
}

/// The interval is 30 days.
#[test]
fn grace_period_lifetime_and_interval_are_compared() {
    Testbed::run(async |testbed| {
        const FITS: &str = "fit together";
        const GRACE: &str = "The grace period (720 h) is not shorter than the time between two rotations (720 h)";
        const LIFE: &str = "A key lives 59 days (less up to three), and it is replaced only every 30 days";
        for (grace, life, ok, says) in [
            ("719", "365", true, FITS),
            ("720", "365", false, GRACE),
            // 30 days and 25 days and the four that are kept back.
            ("600", "59", true, FITS),
            ("601", "59", false, LIFE),
        ] {
            let variables = vec![("KOSLI_KEY_TTL_DAYS".to_owned(), life.to_owned())];
            let world = rotated(testbed, &Setting { variables, ..Setting::default() }).await;
            world.tag("kosli:grace-period-hours", grace);
            let report = check(&world).await;
            assert!(detail(&report, "schedule", ok).contains(says), "{report:#}");
        }
    });
}
