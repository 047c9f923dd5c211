//! `checkSecret`: what it says of each situation, and that it changes nothing.

#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use emulator::Fault;
use emulator::kosli::{Key, SuccessorId, Switches};
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

/// The days until the current key dies, in the metrics of the report on all secrets.
async fn days_left(world: &World) -> f64 {
    world.invoke(0, &json!({"Step": "checkSecret"})).await.unwrap();
    let emitted = testbed::emitted();
    let line = emitted.lines().rfind(|line| line.contains("SecretsChecked")).unwrap();
    serde_json::from_str::<Value>(line).unwrap()["DaysToCurrentKeyExpiry"].as_f64().unwrap()
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
            assert!(days_left(&world).await > 300.0, "a rotation that is under way alarms nobody");
            world.emulator.clock().advance(HOUR * 2);
            assert_eq!(
                days_left(&world).await < 1.0,
                after == "PutSecretValue",
                "nothing was minted by a rotation that did not begin"
            );
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
        assert!(detail.contains(&old) && detail.contains("nothing ends it"), "{detail}");
        // Readers may have it still: its real grace period is a longer one.
        assert!(detail.contains("Revoke it once it is not used any more: `kosli delete api-key"), "{detail}");

        // After a roll-back it is the key that was current a moment ago, and any reader that has read it uses it.
        let world = rotated(testbed, &Setting::default()).await;
        world.advance(HOUR * 30);
        let taken_back = world.key("AWSCURRENT").unwrap();
        world.move_label("AWSCURRENT", &token("first", 0), Some(&token("second", 0)));
        let report = check(&world).await;
        let detail = self::detail(&report, "old-key", false);
        assert!(detail.contains(&taken_back.id) && detail.contains("once it is not used any more"), "{detail}");
    });
}

#[test]
fn a_consumer_that_did_not_notice_the_rotation_is_noticed() {
    Testbed::run(async |testbed| {
        let world = rotated(testbed, &Setting::default()).await;
        world.emulator.clock().advance(HOUR * 13);
        assert!(detail(&check(&world).await, "old-key", true).contains("last used"));
        use_key(&world, &world.key("AWSPREVIOUS").unwrap());
        assert!(detail(&check(&world).await, "old-key", false).contains("It is still used"));
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
        let invoke = async |event: Value| {
            let deadline = world.emulator.clock().now() + testbed::TIMEOUT;
            let context = LambdaContext { request_id: "made-up", deadline, function_arn: FUNCTION };
            function.handle(&event, context).await.unwrap();
            std::mem::take(&mut *METRICS.lock().unwrap())
        };
        for unhealthy in [0, 1] {
            if unhealthy > 0 {
                world.rule("verify=refuse:401");
            }
            // Of one secret nothing is counted: the alarms take the figures for those of all.
            assert_eq!(invoke(json!({"Step": "checkSecret", "SecretId": world.arn})).await, [""; 0]);
            let lines = invoke(json!({"Step": "checkSecret"})).await;
            assert_eq!(lines.len(), 1);
            let line: Value = serde_json::from_str(&lines[0]).unwrap();
            assert_eq!((&line["SecretsChecked"], &line["CheckUnhealthy"]), (&json!(1), &json!(unhealthy)), "{line:#}");
            let now = world.emulator.clock().now();
            // A dead key has no days left.
            let expiry = if unhealthy > 0 { now } else { expiry };
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
        assert!(detail(&report, "old-key", false).contains("It is still used"), "{report:#}");

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

/// A key that was put in without its id, and was replaced by hand: nothing but the key itself tells whether it is alive.
#[test]
fn an_old_key_without_an_id_is_tried_once_its_grace_period_would_have_ended() {
    Testbed::run(async |testbed| {
        for revoked in [false, true] {
            let world = testbed.world(&Setting { shape: Shape::ApiKeyAlone, ..Setting::default() });
            for number in 0..2 {
                let key = world.made_by_hand(ACCOUNT).value;
                let value = world.value("AWSCURRENT").unwrap().replace(&world.key("AWSCURRENT").unwrap().value, &key);
                world.put(&value, &token("hand", number));
            }
            let old = world.key("AWSPREVIOUS").unwrap();
            if revoked {
                assert!(world.emulator.with_kosli(|kosli| kosli.revoke_key(&old.id)));
            }
            let ends = stored(&world, "AWSCURRENT") + DAY;
            world.advance((ends + HOUR).duration_since(world.emulator.clock().now()).unwrap());
            let report = check(&world).await;
            let told = detail(&report, "old-key", true);
            assert!(told.contains(&format!("until about {}", testbed::rfc3339(ends))), "{told}");
            assert_eq!(world.kosli_key(&old.id).used_at, old.used_at, "its use is left alone");
            world.advance(Duration::from_secs(1));
            let report = check(&world).await;
            let told = detail(&report, "old-key", revoked);
            assert!(
                told.contains(if revoked { "The old key is dead." } else { "revoke it once it is not used any more" }),
                "{told}"
            );
        }
    });
}

/// Keys that the next rotation takes care of, whichever version they were minted to replace, and those that it does not touch.
#[test]
fn what_becomes_of_an_orphan_is_told() {
    Testbed::run(async |testbed| {
        const HEALS: &str = "never used, as Kosli shows it; the next rotation replaces or revokes them";
        const LEFT: &str = "used, or described otherwise; no rotation touches them";
        for (version, used, said) in [
            ("second", false, HEALS),
            ("first", false, HEALS),
            ("second", true, LEFT),
            ("first", true, LEFT),
            ("hand", false, ""),
        ] {
            let world = rotated(testbed, &Setting::default()).await;
            // Minted with the mark of a version, and held by none.
            let now = world.emulator.clock().now();
            let mark = Mark::of(&world.arn, &version_id(&token(version, 0)));
            let expiry = UNIX_EPOCH + Duration::from_secs(mark.expires_at(Attempt::fresh(&[]), now, DAY * 100));
            let (id, _) =
                world.emulator.with_kosli(|kosli| kosli.add_key(ORG, ACCOUNT, DESCRIPTION, now, Some(expiry)));
            if used {
                use_key(&world, &world.kosli_key(&id));
            }
            world.advance(HOUR * 26);
            let report = check(&world).await;
            let detail = detail(&report, "orphans", said.is_empty());
            assert_eq!(detail.contains(&format!(" {id}: {said}")), !said.is_empty(), "{version} {used}: {detail}");
            assert_eq!(detail.contains(&format!("kosli delete api-key {id}")), said == LEFT, "{detail}");
            // What is said comes true.
            assert_eq!(world.rotate(&token("third", 0), RETRIES).await, Event::Succeeded, "{}", world.story());
            assert_eq!(world.lives(&id), said != HEALS, "{version} {used}: {}", world.story());
        }
    });
}

/// After the store a value is put in by hand: with the same key, or another. The rotation is abandoned by that.
#[test]
fn what_an_abandoned_rotation_leaves_behind_is_named() {
    Testbed::run(async |testbed| {
        for other_key in [false, true] {
            let world = testbed.world(&Setting::default());
            let rotation = world.until_finish(&token("second", 0)).await;
            let tested = world.key("AWSPENDING").unwrap();
            let put = match other_key {
                true => world.with_key(&world.kosli_key(&world.strangers[0])),
                false => world.edited(),
            };
            world.put(&put, &token("hand", 0));
            let report = check(&world).await;
            let dies = tested.created_at + HOUR * 24;
            if other_key {
                detail(&report, "current-key", true);
            } else {
                let told = detail(&report, "current-key", false);
                assert!(told.contains(&testbed::rfc3339(dies)) && told.contains("Rotate now"), "{told}");
                // The alarm looks at the days that are left.
                let days = days_left(&world).await;
                assert!(days > 0.9 && days < 1.1, "{days}");
            }
            world.advance(HOUR * 2);
            let orphans = detail(&check(&world).await, "orphans", false).to_owned();
            assert!(orphans.contains(&format!(" {}: used, or", tested.id)), "{orphans}");
            if !other_key {
                // Its grace period is over: by now it can be asked.
                world.advance(HOUR * 24);
                let report = check(&world).await;
                assert!(detail(&report, "current-key", false).contains("does not accept"), "{report:#}");
            }
            drop(rotation);
        }
    });
}

/// Somebody moves `AWSCURRENT` back, and the secret is rotated from there: the key that was current in between lives on.
#[test]
fn the_old_key_after_a_roll_back_is_named() {
    Testbed::run(async |testbed| {
        let world = rotated(testbed, &Setting::default()).await;
        let taken_back = world.key("AWSCURRENT").unwrap();
        let body = json!({"SecretId": world.arn, "VersionStage": "AWSCURRENT", "MoveToVersionId": token("first", 0),
                          "RemoveFromVersionId": token("second", 0)});
        world.aws("UpdateSecretVersionStage", body).unwrap();
        assert!(detail(&check(&world).await, "current-key", false).contains("taken back"));
        assert_eq!(world.rotate(&token("third", 0), RETRIES).await, Event::Succeeded, "{}", world.story());
        world.advance(HOUR * 2);
        assert!(world.lives(&taken_back.id));
        assert!(detail(&check(&world).await, "orphans", false).contains(&taken_back.id));
    });
}

/// A person revokes the new key and goes back to the old one, which is in its grace period: its successor is gone, and the age of the version
/// that it was in tells.
#[test]
fn a_current_key_that_was_gone_back_to_is_said_to_be_dying_though_its_successor_is_gone() {
    Testbed::run(async |testbed| {
        for revoked in [true, false] {
            let world = rotated(testbed, &Setting::default()).await;
            let dies = world.kosli_key(&world.first_key).grace_ends_at.unwrap();
            if revoked {
                let new = world.key("AWSCURRENT").unwrap().id;
                assert!(world.emulator.with_kosli(|kosli| kosli.revoke_key(&new)));
            }
            world.move_label("AWSCURRENT", &token("first", 0), Some(&token("second", 0)));
            let report = check(&world).await;
            let told = detail(&report, "current-key", false);
            assert!(told.contains(&testbed::rfc3339(dies)) && told.contains("Rotate now"), "{told}");
        }
        // The grace period was a longer one when the key was rotated.
        let world = testbed.world(&Setting::default());
        world.tag("kosli:grace-period-hours", "48");
        world.rotate_completely(&token("second", 0)).await;
        world.untag("kosli:grace-period-hours");
        world.move_label("AWSCURRENT", &token("first", 0), Some(&token("second", 0)));
        world.advance(HOUR * 25);
        let report = testbed::done(world.invoke(0, &json!({"Step": "checkSecret", "SecretId": world.arn})).await);
        assert!(detail(&report, "current-key", false).contains("it may end at any time"), "{report:#}");
        // A key that was put in by hand and taken back is nobody's successor.
        let world = testbed.world(&Setting::default());
        let key = world.made_by_hand(ACCOUNT);
        world.put(&Shape::ApiKey.value(&key.id, &key.value), &token("hand", 0));
        world.move_label("AWSCURRENT", &token("first", 0), Some(&token("hand", 0)));
        detail(&check(&world).await, "current-key", true);
    });
}

#[test]
fn a_key_put_in_beside_the_old_id_is_named() {
    Testbed::run(async |testbed| {
        let world = rotated(testbed, &Setting::default()).await;
        let mut value: Value = serde_json::from_str(&world.value("AWSCURRENT").unwrap()).unwrap();
        value["api_key"] = json!(world.kosli_key(&world.strangers[0]).value);
        world.put(&value.to_string(), &token("hand", 0));
        assert!(detail(&check(&world).await, "old-key", false).contains("put in by hand"));
        // A rotation in place keeps the id as well, and is none of that.
        let switches = Switches { successor_id: SuccessorId::Same, ..Switches::default() };
        let world = rotated(testbed, &Setting { switches, ..Setting::default() }).await;
        assert!(detail(&check(&world).await, "old-key", true).contains("shares its id"));
    });
}

#[test]
fn an_admin_secret_that_holds_the_key_itself_is_named() {
    Testbed::run(async |testbed| {
        let world = rotated(testbed, &Setting::default()).await;
        let body = json!({"SecretId": ADMIN_SECRET, "SecretString": world.key("AWSCURRENT").unwrap().value,
                          "ClientRequestToken": token("hand", 2)});
        world.aws("PutSecretValue", body).unwrap();
        let report = check(&world).await;
        let told = detail(&report, "admin-key", false);
        assert!(told.contains("InvalidAdminSecret") && told.contains("the very key"), "{told}");
    });
}

#[test]
fn secrets_with_one_key_are_named_and_the_urgent_one_comes_first() {
    Testbed::run(async |testbed| {
        let world = rotated(testbed, &Setting::default()).await;
        // By the order of names it would be the second.
        let other = world.sibling("kosli/zz");
        assert_eq!(other.rotate(&token("second", 1), RETRIES).await, Event::Succeeded, "{}", world.story());
        let reports = async || world.invoke(0, &json!({"Step": "checkSecret"})).await.unwrap();
        let healthy = reports().await;
        assert_eq!([&healthy[0]["healthy"], &healthy[1]["healthy"]], [true, true], "{healthy:#}");
        assert!(detail(&healthy[0], "shared-key", true).contains("No other secret"));
        assert!(!check(&world).await.to_string().contains("shared-key"), "one report compares nothing");

        other.aws("CancelRotateSecret", json!({"SecretId": other.arn})).unwrap();
        let urgent = reports().await;
        assert_eq!(urgent[0]["secret_id"], other.arn.as_str(), "{urgent:#}");
        assert_eq!(other.rotate(&token("third", 1), RETRIES).await, Event::Succeeded, "{}", world.story());

        other.put(&world.value("AWSCURRENT").unwrap(), &token("hand", 3));
        let shared = reports().await;
        for report in shared.as_array().unwrap() {
            let its = report["secret_id"].as_str().unwrap();
            let others = if its == world.arn { &other.arn } else { &world.arn };
            let told = detail(report, "shared-key", false);
            assert!(told.contains(others.as_str()) && !told.contains(its), "{told}");
        }
    });
}

#[test]
fn a_setting_that_nobody_knows_is_named() {
    Testbed::run(async |testbed| {
        let world = rotated(testbed, &Setting::default()).await;
        for (tag, value) in [("kosli:org", ORG), ("kosli:service-account", ACCOUNT), ("team", "platform")] {
            world.tag(tag, value);
        }
        detail(&check(&world).await, "settings", true);
        for tag in ["kosli:revoke_old_key", "Kosli:Grace-Period-Hours"] {
            world.tag(tag, "1");
            let warned = format!("the tag {tag} means nothing to this function");
            assert!(!testbed::emitted().contains(&warned));
            assert_eq!(world.rotate(&token(tag, 0), RETRIES).await, Event::Succeeded, "{}", world.story());
            assert!(testbed::emitted().contains(&warned));
            let report = check(&world).await;
            assert!(detail(&report, "settings", false).contains(&format!("The tag {tag} means nothing")), "{report:#}");
            world.untag(tag);
        }
        let mut function = world.function(0);
        function.config.unknown_variables = vec!["KOSLI_GRACE_PERIOD_HOUR".to_owned()];
        let deadline = world.emulator.clock().now() + testbed::TIMEOUT;
        let context = LambdaContext { request_id: "made-up", deadline, function_arn: FUNCTION };
        let report = function.handle(&json!({"Step": "checkSecret", "SecretId": world.arn}), context).await.unwrap();
        assert!(detail(&report, "settings", false).contains("The variable KOSLI_GRACE_PERIOD_HOUR"), "{report:#}");
    });
}

#[test]
fn an_empty_tag_is_none() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        for tag in ["org", "service-account", "key-id", "grace-period-hours", "revoke-old-key", "key-ttl-days", "odd"] {
            world.tag(&format!("kosli:{tag}"), "");
        }
        assert_eq!(world.rotate(&token("second", 0), RETRIES).await, Event::Succeeded, "{}", world.story());
        assert_eq!(check(&world).await["healthy"], true);
    });
}

#[test]
fn why_the_secrets_cannot_be_listed_is_told() {
    Testbed::run(async |testbed| {
        for (rule, kind, says) in [
            ("ListSecrets=refuse:503", "SecretsManagerUnavailable", "Ask for the report again"),
            ("ListSecrets=drop-before", "SecretsManagerUnavailable", "Ask for the report again"),
            ("ListSecrets=refuse:400:ThrottlingException", "SecretsManagerUnavailable", "Ask for the report again"),
            (
                "ListSecrets=refuse:400:AccessDeniedException",
                "SecretsManagerRefused",
                "secretsmanager:ListSecrets on *",
            ),
        ] {
            let world = rotated(testbed, &Setting::default()).await;
            world.rule(rule);
            let failed = world.invoke(0, &json!({"Step": "checkSecret"})).await;
            let message = testbed::refused(failed, kind);
            assert!(message.contains(says) && message.contains("ListSecrets"), "{rule}: {message}");
        }
    });
}

/// The next dates decide, as they do for a rate.
#[test]
fn a_cron_schedule_is_compared_to_the_grace_period() {
    Testbed::run(async |testbed| {
        for (expression, ok) in [
            ("rate(4 hours)", false),
            ("cron(0 /4 * * ? *)", false),
            ("cron(0 8,20 * * ? *)", false),
            ("cron(0 8 * * ? *)", false),
            ("cron(0 8 ? * MON *)", true),
            ("cron(0 8 1 * ? *)", true),
            ("cron(0 8 1 JAN ? *)", false),
        ] {
            let world = rotated(testbed, &Setting::default()).await;
            let rules = json!({"ScheduleExpression": expression});
            let body = json!({"SecretId": world.arn, "RotationRules": rules, "RotateImmediately": false,
                              "ClientRequestToken": token("third", 0)});
            world.aws("RotateSecret", body).unwrap();
            let report = check(&world).await;
            detail(&report, "schedule", ok);
        }
    });
}

/// The line of docs/check-secret.md.
#[test]
fn a_report_is_shown_to_people() {
    Testbed::run(async |testbed| {
        let world = rotated(testbed, &Setting::default()).await;
        let document = include_str!("../docs/check-secret.md");
        let filter = document.split("jq -r '").nth(1).and_then(|rest| rest.split('\'').next()).unwrap();
        let shown = |report: &Value| {
            let mut jq =
                Command::new("jq").args(["-r", filter]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            jq.stdin.take().unwrap().write_all(report.to_string().as_bytes()).unwrap();
            let output = jq.wait_with_output().unwrap();
            assert!(output.status.success());
            String::from_utf8(output.stdout).unwrap()
        };
        let one = check(&world).await;
        let all = world.invoke(0, &json!({"Step": "checkSecret"})).await.unwrap();
        assert_eq!(shown(&one), format!("ok   {}\n", world.arn));
        assert_eq!(shown(&all), shown(&one));
        world.aws("CancelRotateSecret", json!({"SecretId": world.arn})).unwrap();
        let report = check(&world).await;
        let detail = detail(&report, "rotation", false);
        assert_eq!(shown(&report), format!("BAD  {}\n     rotation: {detail}\n", world.arn));
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
