//! `testSecret`, called alone: a test of the configuration, which gives the error that `createSecret` would give, before anybody depends
//! on it. And called in a rotation: nothing can fail it but the new key.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use emulator::kosli::{KeyManagers, Switches};
use emulator::secrets_manager::{RotationRequest, TestedVersion};
use emulator::{BoxFuture, Call, Emulator, Fault, Hook};
use http::StatusCode;
use serde_json::json;
use testbed::{
    ADMIN_SECRET, DAY, FUNCTION, Gate, ORG, Setting, Shape, Testbed, World, aws, done, refused, rfc3339, second, token,
};

const BOTH: [TestedVersion; 2] = [TestedVersion::CopyOfCurrent, TestedVersion::NoValue];

/// Configures rotation for later.
fn configure(world: &World, tested_version: TestedVersion) -> RotationRequest {
    world.emulator.with_secrets_manager(|service| service.switches.tested_version = tested_version);
    let body = json!({"SecretId": world.arn, "ClientRequestToken": second(), "RotateImmediately": false,
                      "RotationLambdaARN": FUNCTION});
    world.aws("RotateSecret", body).unwrap();
    world.emulator.with_secrets_manager(|service| service.take_rotations()).remove(0)
}

/// The same under another version id.
fn configure_again(world: &World) -> RotationRequest {
    let body = json!({"SecretId": world.arn, "ClientRequestToken": token("third", 0), "RotateImmediately": false,
                      "RotationLambdaARN": FUNCTION});
    world.aws("RotateSecret", body).unwrap();
    world.emulator.with_secrets_manager(|service| service.take_rotations()).remove(0)
}

fn put_admin(world: &World, value: &str) {
    let body = json!({"SecretId": ADMIN_SECRET, "SecretString": value, "ClientRequestToken": token("other", 0)});
    world.aws("PutSecretValue", body).unwrap();
}

fn key_of_a_member(world: &World) -> String {
    let now = world.emulator.clock().now();
    world.emulator.with_kosli(|kosli| kosli.add_key(ORG, "member", "reads", now, Some(now + DAY * 190)).1)
}

/// What is wrong with a world, by the error that it leads to.
struct Wrong {
    error_type: &'static str,
    setting: Setting,
    variables: &'static [(&'static str, &'static str)],
    happens: fn(&World),
}

fn wrong(error_type: &'static str, happens: fn(&World)) -> Wrong {
    Wrong { error_type, setting: Setting::default(), variables: &[], happens }
}

/// All that a rotation needs beside its key.
fn everything_that_is_needed() -> Vec<Wrong> {
    let without_id = || Setting { shape: Shape::WithoutId, ..Setting::default() };
    let admins_alone = Switches { key_managers: KeyManagers::Admins, ..Switches::default() };
    vec![
        Wrong { setting: without_id(), ..wrong("InvalidIdentity", |world| world.untag("kosli:service-account")) },
        Wrong { setting: without_id(), ..wrong("InvalidIdentity", |world| world.tag("kosli:service-account", "c i")) },
        Wrong { setting: without_id(), ..wrong("InvalidTag", |world| world.tag("kosli:key-id", "a/b")) },
        wrong("IdentityConflict", |world| world.tag("kosli:org", "other")),
        Wrong { variables: &[("KOSLI_SERVICE_ACCOUNTS", "acme/other")], ..wrong("NotPermitted", |_| ()) },
        wrong("InvalidTag", |world| world.tag("kosli:grace-period-hours", "a day")),
        wrong("InvalidTag", |world| world.tag("kosli:revoke-old-key", "now")),
        wrong("InvalidTag", |world| world.tag("kosli:key-ttl-days", "a year")),
        Wrong { variables: &[("KOSLI_ADMIN_SECRET_ID", "kosli/nowhere")], ..wrong("InvalidAdminSecret", |_| ()) },
        wrong("InvalidAdminSecret", |world| put_admin(world, "{}")),
        wrong("InvalidAdminSecret", |world| put_admin(world, &world.kosli_key(&world.first_key).value)),
        wrong("AdminKeyDead", |world| put_admin(world, "made-up-key-that-nobody-has")),
        wrong("KosliForbidden", |world| put_admin(world, &key_of_a_member(world))),
        wrong("KosliUnavailable", |world| world.rule("list=error-before:503")),
        wrong("KosliUnavailable", |world| world.rule("verify=error-before:503")),
        Wrong {
            setting: Setting { admin: false, switches: admins_alone, ..Setting::default() },
            ..wrong("KosliForbidden", |_| ())
        },
    ]
}

fn worlds(testbed: &Testbed) -> impl Iterator<Item = (&'static str, World, fn(&World))> {
    everything_that_is_needed().into_iter().map(|Wrong { error_type, setting, variables, happens }| {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        (error_type, testbed.world(&Setting { variables, ..setting }), happens)
    })
}

#[test]
fn what_is_wrong_is_the_error_that_create_secret_would_give() {
    Testbed::run(async |testbed| {
        for tested_version in BOTH {
            for (error_type, world, happens) in worlds(testbed) {
                happens(&world);
                let rotation = configure(&world, tested_version);
                let tested = refused(world.step(&rotation, "testSecret").await, error_type);
                assert!(tested.contains("Nothing was changed."), "{tested}");
                world.clear_pending(&second());
                let rotation = world.begin_rotation(&token("third", 0)).unwrap();
                let created = refused(world.step(&rotation, "createSecret").await, error_type);
                assert_eq!(tested, created);
                assert_eq!((world.minted().len(), world.writes()), (0, 0));
                world.assert_kept();
            }
        }
    });
}

/// Nothing is wrong.
#[test]
fn the_configuration_is_tested_and_nothing_is_rotated() {
    Testbed::run(async |testbed| {
        for tested_version in BOTH {
            for admin in [true, false] {
                let world = testbed.world(&Setting { admin, ..Setting::default() });
                let rotation = configure(&world, tested_version);
                let answer = done(world.step(&rotation, "testSecret").await);
                let expected = json!({"step": "testSecret", "secret_id": world.arn, "version_id": second(),
                                      "outcome": "tested the current key", "key_id": world.first_key});
                assert_eq!(answer, expected);
                assert_eq!((world.count(&["verify"]), world.count(&["list"])), (1, 1), "{}", world.story());
                assert_eq!((world.minted().len(), world.writes()), (0, 0));
            }
        }
    });
}

/// The current key is dead: with an admin key the rotation would create another, but whoever reads the secret is refused now.
#[test]
fn a_dead_current_key_fails_the_test() {
    Testbed::run(async |testbed| {
        for tested_version in BOTH {
            for admin in [true, false] {
                let world = testbed.world(&Setting { admin, ..Setting::default() });
                assert!(world.emulator.with_kosli(|kosli| kosli.revoke_key(&world.first_key)));
                world.probe.current_is_alive.store(false, Ordering::SeqCst);
                world.probe.pending_is_safe.store(false, Ordering::SeqCst);
                let rotation = configure(&world, tested_version);
                let message = refused(world.step(&rotation, "testSecret").await, "CurrentKeyDead");
                assert!(message.contains("put-secret-value"), "{message}");
                assert_eq!(world.writes(), 0);
            }
        }
    });
}

/// The version has no value because what was minted for it is lost: an error of the test also says until when the current key works.
#[test]
fn an_error_of_the_test_names_the_instant_after_a_lost_mint() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        let (rotation, _) = world.lose_a_key().await;
        world.tag("kosli:key-ttl-days", "a year");
        let dies = rfc3339(world.kosli_key(&world.first_key).grace_ends_at.unwrap());
        let message = refused(world.step(&rotation, "testSecret").await, "InvalidTag");
        assert!(message.contains("works until") && message.contains(&dies), "{message}");
        // A copy of the current key is no successor of it.
        let world = testbed.world(&Setting::default());
        world.tag("kosli:key-ttl-days", "a year");
        let rotation = configure(&world, TestedVersion::CopyOfCurrent);
        let message = refused(world.step(&rotation, "testSecret").await, "InvalidTag");
        assert!(!message.contains("works until"), "{message}");
    });
}

/// The value under `AWSCURRENT` cannot be read.
struct Unreadable;

impl Hook for Unreadable {
    fn before<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Option<Fault>> {
        let meant = call.operation == "GetSecretValue" && call.detail.contains("VersionStage=AWSCURRENT");
        Box::pin(std::future::ready(meant.then_some(Fault::ErrorBefore(StatusCode::SERVICE_UNAVAILABLE))))
    }
}

/// In a rotation, and when it comes again after that, whatever is wrong by now is none of `testSecret`'s business.
#[test]
fn nothing_but_the_new_key_can_fail_the_test_in_a_rotation() {
    Testbed::run(async |testbed| {
        for promoted in [false, true] {
            for (error_type, world, happens) in worlds(testbed) {
                // What is wrong from the beginning comes to no rotation; without Kosli, or without a word on whose key it is, nothing can
                // be tested.
                let from_the_beginning = ["NotPermitted", "KosliForbidden"].contains(&error_type)
                    || world.setting.variables.iter().any(|(name, _)| name == "KOSLI_ADMIN_SECRET_ID");
                let untestable = ["KosliUnavailable", "InvalidIdentity", "IdentityConflict"].contains(&error_type);
                if from_the_beginning || untestable {
                    continue;
                }
                let rotation = world.until_finish(&second()).await;
                if promoted {
                    done(world.step(&rotation, "finishSecret").await);
                }
                happens(&world);
                let before = world.calls();
                let answer = done(world.step(&rotation, "testSecret").await);
                assert_eq!(answer["outcome"], "tested", "{error_type}: {}", world.story());
                assert_eq!(world.calls() - before, 4, "{}", world.story());
            }
            let world = testbed.world(&Setting::default());
            let rotation = world.until_finish(&second()).await;
            if promoted {
                done(world.step(&rotation, "finishSecret").await);
            }
            world.emulator.set_hook(Arc::new(Unreadable));
            assert_eq!(done(world.step(&rotation, "testSecret").await)["outcome"], "tested");
        }
    });
}

/// Another execution promotes the version after this one has looked at the labels.
struct Promoted {
    has_looked: AtomicBool,
    emulator: Emulator,
    body: serde_json::Value,
}

impl Gate for Promoted {
    fn pass<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if call.operation == "DescribeSecret" {
                self.has_looked.store(true, Ordering::SeqCst);
            } else if call.detail.contains("VersionStage=AWSCURRENT") {
                while !self.has_looked.load(Ordering::SeqCst) {
                    tokio::task::yield_now().await;
                }
                // The look itself, which the gate is before.
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                aws(&self.emulator, "UpdateSecretVersionStage", &self.body).unwrap();
            }
        })
    }
}

/// The version under `AWSCURRENT` is the very version that is tested: that is no copy, and nothing but its key is tested.
#[test]
fn a_version_that_is_promoted_meanwhile_is_no_copy_of_itself() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        let rotation = world.until_finish(&second()).await;
        world.tag("kosli:key-ttl-days", "a year");
        let body = json!({"SecretId": world.arn, "VersionStage": "AWSCURRENT", "MoveToVersionId": second(),
                          "RemoveFromVersionId": token("first", 0)});
        world.set_gate(Some(Arc::new(Promoted {
            has_looked: AtomicBool::new(false),
            emulator: world.emulator.clone(),
            body,
        })));
        let answer = done(world.step(&rotation, "testSecret").await);
        assert_eq!(answer["outcome"], "tested", "{}", world.story());
        assert_ne!(world.key("AWSCURRENT").unwrap().id, world.first_key);
    });
}

/// What stands under `AWSCURRENT` may be no value at all by then.
#[test]
fn a_broken_current_value_does_not_fail_the_test_in_a_rotation() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        let rotation = world.until_finish(&second()).await;
        world.probe.current_is_alive.store(false, Ordering::SeqCst);
        let body = json!({"SecretId": world.arn, "SecretString": "{", "ClientRequestToken": token("hand", 0),
                          "VersionStages": ["by-hand"]});
        world.aws("PutSecretValue", body).unwrap();
        let body = json!({"SecretId": world.arn, "VersionStage": "AWSCURRENT", "MoveToVersionId": token("hand", 0),
                          "RemoveFromVersionId": token("first", 0)});
        world.aws("UpdateSecretVersionStage", body).unwrap();
        assert_eq!(done(world.step(&rotation, "testSecret").await)["outcome"], "tested");
        // A test of the configuration says what is wrong with it.
        world.clear_pending(&second());
        let rotation = configure_again(&world);
        let message = refused(world.step(&rotation, "testSecret").await, "InvalidSecret");
        assert!(message.contains("The value under AWSCURRENT"), "{message}");
    });
}
