//! What somebody else does between two calls of one execution: another execution that is faster, and a person. Not by lucky
//! timing: it happens right before a call that the scenario names.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::time::Duration;

use emulator::Emulator;
use emulator::kosli::{LastUsedAt, RotateInGrace, Switches};
use emulator::rotation::Event;
use kosli_key_rotation::marker::{Attempt, Mark};
use serde_json::json;
use testbed::{
    ACCOUNT, DAY, DESCRIPTION, HOUR, ONCE, ORG, Setting, Shape, Testbed, aws, done, key_in, refused, rfc3339,
    rotate_by_hand, second, token, version_id,
};

/// Another execution makes a key of its own and stores it under `AWSPENDING`; `named`: the value names the key's id.
fn a_twin_stores(arn: String, named: bool) -> impl FnOnce(&Emulator) + Send + 'static {
    move |emulator| {
        let now = emulator.clock().now();
        let (id, value) =
            emulator.with_kosli(|kosli| kosli.add_key(ORG, ACCOUNT, DESCRIPTION, now, Some(now + DAY * 90)));
        let mut value = json!({"org": ORG, "service_account": ACCOUNT, "api_key": value});
        if named {
            value["key_id"] = id.into();
        }
        let body = json!({"SecretId": arn, "SecretString": value.to_string(), "ClientRequestToken": second(),
                          "VersionStages": ["AWSPENDING"]});
        aws(emulator, "PutSecretValue", &body).unwrap();
    }
}

#[test]
fn a_value_that_another_execution_stores_before_the_mint_is_taken_and_nothing_is_minted() {
    Testbed::run(async |testbed| {
        for operation in ["list", "verify"] {
            let world = testbed.world(&Setting::default());
            let rotation = world.begin_rotation(&second()).unwrap();
            world.meanwhile(operation, a_twin_stores(world.arn.clone(), true));
            let answer = done(world.step(&rotation, "createSecret").await);
            assert_eq!(answer["outcome"], "already created");
            assert!(world.minted().is_empty(), "{}", world.story());
            assert_eq!(world.drive(&rotation, ONCE).await, Event::Succeeded, "{}", world.story());
            world.assert_kept();
        }
    });
}

/// The value that it stores holds a key that is dead: the error says until when the current key works, as at any other time.
#[test]
fn a_dead_key_that_another_execution_stores_before_the_mint_is_named_with_the_instant() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        let rotation = world.begin_rotation(&second()).unwrap();
        let (arn, put) = (world.arn.clone(), a_twin_stores(world.arn.clone(), true));
        world.meanwhile("list", move |emulator| {
            put(emulator);
            let stored = emulator.with_secrets_manager(|service| {
                let version = service.secret(&arn).unwrap().versions.labelled("AWSPENDING").unwrap();
                key_in(version.text().unwrap()).unwrap()
            });
            emulator.with_kosli(|kosli| {
                let id = kosli.keys().find(|key| key.value == stored).unwrap().id.clone();
                assert!(kosli.revoke_key(&id));
            });
        });
        let message = refused(world.step(&rotation, "createSecret").await, "PendingKeyDead");
        let created = world.emulator.with_secrets_manager(|service| {
            service.secret(&world.arn).unwrap().versions.get(&second()).unwrap().created
        });
        let until = rfc3339(created + DAY);
        assert!(message.contains(&format!("works until about {until}")), "{message}");
    });
}

#[test]
fn a_key_that_another_execution_makes_superfluous_is_revoked_before_the_step_ends() {
    Testbed::run(async |testbed| {
        for admin in [true, false] {
            let world = testbed.world(&Setting { admin, ..Setting::default() });
            let rotation = world.begin_rotation(&second()).unwrap();
            world.meanwhile("PutSecretValue", a_twin_stores(world.arn.clone(), true));
            assert_eq!(done(world.step(&rotation, "createSecret").await)["outcome"], "already created");
            let minted = world.minted();
            assert_eq!(minted.len(), 1);
            assert!(minted[0].revoked_at.is_some(), "{}", world.story());
            world.complete(&rotation, ONCE).await;
        }
    });
}

#[test]
fn where_the_other_executions_value_names_no_key_id_the_superfluous_key_is_left_to_the_sweep() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        let rotation = world.begin_rotation(&second()).unwrap();
        world.meanwhile("PutSecretValue", a_twin_stores(world.arn.clone(), false));
        assert_eq!(done(world.step(&rotation, "createSecret").await)["outcome"], "already created");
        // Nothing says that it is not this very key that the value came from.
        let superfluous = world.minted().remove(0).id;
        assert!(world.lives(&superfluous));
        assert_eq!(world.drive(&rotation, ONCE).await, Event::Succeeded, "{}", world.story());
        assert!(!world.lives(&superfluous));
        world.assert_completed();
    });
}

#[test]
fn a_refusal_because_another_execution_has_rotated_is_no_answer() {
    Testbed::run(async |testbed| {
        for rotate_in_grace in [RotateInGrace::NotFound, RotateInGrace::BadRequest, RotateInGrace::Conflict] {
            let switches = Switches { rotate_in_grace, ..Switches::default() };
            let world = testbed.world(&Setting { switches, ..Setting::default() });
            let rotation = world.begin_rotation(&second()).unwrap();
            let (key, arn) = (world.first_key.clone(), world.arn.clone());
            world.meanwhile("rotate", move |emulator| {
                let mark = Mark::of(&arn, &version_id(&token("first", 0)));
                let expires_at = mark.expires_at(Attempt::fresh(&[]), emulator.clock().now(), DAY * 300);
                rotate_by_hand(emulator, &key, &json!({"grace_period_hours": 24, "expires_at": expires_at}));
            });
            // The other execution may be about to store its key.
            refused(world.step(&rotation, "createSecret").await, "TwinExecution");
            assert_eq!(world.minted().len(), 1, "{}", world.story());
            world.advance(Duration::from_secs(105));
            world.complete(&rotation, ONCE).await;
        }
    });
}

#[test]
fn a_current_version_that_a_person_makes_while_the_label_moves_stays_current() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        let rotation = world.until_finish(&second()).await;
        let edited = world.edited();
        let body = json!({"SecretId": world.arn, "SecretString": edited, "ClientRequestToken": token("hand", 0)});
        world.meanwhile("UpdateSecretVersionStage", move |emulator| {
            aws(emulator, "PutSecretValue", &body).unwrap();
        });
        let message = refused(world.step(&rotation, "finishSecret").await, "CurrentMoved");
        assert!(message.contains(&token("hand", 0)), "{message}");
        assert_eq!(world.value("AWSCURRENT"), Some(edited));
        assert_eq!(world.count(&["UpdateSecretVersionStage"]), 1);
        assert_eq!(world.count(&["revoke"]), 0);
        world.assert_kept();
    });
}

#[test]
fn a_current_label_that_a_person_moves_while_it_is_read_is_read_again() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        world.put(&world.edited(), &token("hand", 0));
        let rotation = world.begin_rotation(&second()).unwrap();
        let back = json!({"SecretId": world.arn, "VersionStage": "AWSCURRENT", "MoveToVersionId": token("first", 0),
                          "RemoveFromVersionId": token("hand", 0)});
        world.meanwhile("GetSecretValue", move |emulator| {
            aws(emulator, "UpdateSecretVersionStage", &back).unwrap();
        });
        done(world.step(&rotation, "createSecret").await);
        assert!(world.value("AWSPENDING").unwrap().contains("ours"));
        world.complete(&rotation, ONCE).await;
    });
}

#[test]
fn the_label_moves_once_whatever_becomes_of_the_answer() {
    Testbed::run(async |testbed| {
        for (rule, calls, error) in [
            ("UpdateSecretVersionStage#1=delay:1s", 1, None),
            ("UpdateSecretVersionStage#1..3=refuse:400:ThrottlingException", 4, None),
            ("UpdateSecretVersionStage#1..3=error-before:500", 4, None),
            ("UpdateSecretVersionStage#1=drop-before", 2, None),
            // It has moved, and the labels say so.
            ("UpdateSecretVersionStage=drop-after", 1, None),
            ("UpdateSecretVersionStage=error-after:500", 1, None),
            ("UpdateSecretVersionStage=no-answer-after", 1, None),
            ("UpdateSecretVersionStage=garble", 1, None),
            ("UpdateSecretVersionStage=refuse:400:ThrottlingException", 4, Some("SecretsManagerUnavailable")),
            ("UpdateSecretVersionStage=error-before:500", 4, Some("SecretsManagerUnavailable")),
            ("UpdateSecretVersionStage=refuse:400:AccessDeniedException", 1, Some("SecretsManagerRefused")),
        ] {
            let world = testbed.world(&Setting::default());
            let rotation = world.until_finish(&second()).await;
            world.rule(rule);
            let begin = world.emulator.clock().now();
            let outcome = world.step(&rotation, "finishSecret").await;
            assert_eq!(world.count(&["UpdateSecretVersionStage"]), calls, "{rule}\n{}", world.story());
            if let Some(error) = error {
                refused(outcome, error);
                assert_eq!(world.key("AWSCURRENT").unwrap().id, world.first_key);
                assert_eq!(world.count(&["revoke"]), 0);
                world.assert_kept();
                world.emulator.faults().clear();
                assert_eq!(world.drive(&rotation, ONCE).await, Event::Succeeded, "{rule}\n{}", world.story());
            } else {
                assert_eq!(done(outcome)["outcome"], "promoted");
                // Taking AWSPENDING off is Secrets Manager's.
                assert_eq!(world.value("AWSPENDING"), world.value("AWSCURRENT"), "{}", world.story());
            }
            if calls == 4 {
                // The pauses grow, and it is left alone for three seconds in all.
                let waited = world.emulator.clock().now().duration_since(begin).unwrap();
                assert!(waited >= Duration::from_secs(3), "{rule}: {waited:?}");
            }
            world.assert_completed();
        }
    });
}

#[test]
fn a_key_that_a_version_holds_is_not_lost_although_kosli_never_says_that_it_was_used() {
    Testbed::run(async |testbed| {
        for shape in [Shape::ApiKey, Shape::Plain] {
            let switches = Switches { last_used_at: LastUsedAt::Never, ..Switches::default() };
            let world = testbed.world(&Setting { shape, switches, ..Setting::default() });
            if shape == Shape::Plain {
                let body = json!({"SecretId": world.arn, "MoveToVersionId": token("first", 0),
                                  "VersionStage": format!("kosli-key-id:{}", world.first_key)});
                world.aws("UpdateSecretVersionStage", body).unwrap();
            }
            world.rotate_completely(&second()).await;
            let deployed = world.key("AWSCURRENT").unwrap();
            // A person goes back, and keeps the version by a label of his own: somebody uses it.
            let body = |label: &str, to: &str, from: Option<&str>| {
                let mut body = json!({"SecretId": world.arn, "VersionStage": label, "MoveToVersionId": to});
                if let Some(from) = from {
                    body["RemoveFromVersionId"] = from.into();
                }
                body
            };
            world.aws("UpdateSecretVersionStage", body("deployed", &second(), None)).unwrap();
            let back = body("AWSCURRENT", &token("first", 0), Some(&second()));
            world.aws("UpdateSecretVersionStage", back).unwrap();
            world.advance(HOUR);
            let rotation = world.begin_rotation(&token("third", 0)).unwrap();
            assert_eq!(world.drive(&rotation, ONCE).await, Event::Succeeded, "{}", world.story());
            // The clean-up comes a second time.
            done(world.step(&rotation, "finishSecret").await);
            let key = world.kosli_key(&deployed.id);
            assert_eq!((key.revoked_at, key.rotated_at), (None, None), "{}", world.story());
            world.assert_kept();
        }
    });
}
