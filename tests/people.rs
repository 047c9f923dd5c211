//! What people do around a rotation, as an adversary would think of it: edits, roll-backs, labels, deletions, advice that is followed.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::time::Duration;

use emulator::kosli::{LastUsedAt, ListInGrace, Switches};
use emulator::rotation::Event;
use serde_json::{Value, json};
use testbed::{
    ACCOUNT, DAY, HOUR, ONCE, RETRIES, Setting, Shape, Testbed, World, aws, done, refused, rfc3339, second, token,
};

const EVERY_LIST: [ListInGrace; 3] = [ListInGrace::OwnExpiry, ListInGrace::EndOfGrace, ListInGrace::Hidden];

/// The same key, and another text in a field of the user's.
fn edit(world: &World, number: usize) {
    let mut value: Value = serde_json::from_str(&world.value("AWSCURRENT").unwrap()).unwrap();
    value["note"] = number.into();
    world.put(&value.to_string(), &token("hand", number));
}

async fn report(world: &World) -> Value {
    done(world.invoke(0, &json!({"Step": "checkSecret", "SecretId": world.arn})).await)
}

/// `immediately`, a clean-up that failed, a roll-back, the cleared label, and the runbook's finishSecret for the version under AWSCURRENT:
/// the living successor of the dying current key is revoked.
#[test]
fn the_successor_of_a_key_that_was_rolled_back_to_is_not_revoked() {
    Testbed::run(async |testbed| {
        for list_in_grace in EVERY_LIST {
            let switches = Switches { list_in_grace, ..Switches::default() };
            let world = testbed.world(&Setting { revoke_immediately: true, switches, ..Setting::default() });
            world.rotate_completely(&token("turn", 0)).await;
            world.advance(DAY * 30);
            let rotation = world.until_finish(&token("turn", 1)).await;
            world.rule("revoke=refuse:403");
            refused(world.step(&rotation, "finishSecret").await, "CleanUpIncomplete");
            world.emulator.faults().clear();
            let successor = world.key("AWSCURRENT").unwrap();
            world.move_label("AWSCURRENT", &token("turn", 0), Some(&token("turn", 1)));
            world.clear_pending(&token("turn", 1));
            world.advance(HOUR);
            let event = json!({"Step": "finishSecret", "SecretId": world.arn, "ClientRequestToken": token("turn", 0)});
            let answer = world.invoke(0, &event).await;
            assert!(world.key("AWSCURRENT").unwrap().grace_ends_at.is_some(), "the current key is dying");
            assert!(world.lives(&successor.id), "{answer:?}");
        }
    });
}

/// A field is edited between the store and the promotion: the key in the edit is the one that was replaced, and is revoked as any old key
/// is. If that fails, a step that comes again cannot tell it from a key that a person has put in and taken back, and names it.
#[test]
fn the_old_key_is_revoked_though_a_field_was_edited_meanwhile() {
    Testbed::run(async |testbed| {
        for list_in_grace in EVERY_LIST {
            for rule in [None, Some("revoke#1=refuse:403")] {
                let switches = Switches { list_in_grace, ..Switches::default() };
                let world = testbed.world(&Setting { revoke_immediately: true, switches, ..Setting::default() });
                let rotation = world.until_finish(&second()).await;
                world.advance(HOUR);
                world.put_current(&world.edited(), &token("hand", 0));
                if let Some(rule) = rule {
                    world.rule(rule);
                    refused(world.step(&rotation, "finishSecret").await, "CleanUpIncomplete");
                }
                let answer = done(world.step(&rotation, "finishSecret").await);
                let what = format!("{list_in_grace:?} {rule:?} {answer}\n{}", world.story());
                assert_eq!(answer["old_key"], if rule.is_none() { "dead" } else { "cannot tell" }, "{what}");
                assert_eq!(world.lives(&world.first_key), rule.is_some(), "{what}");
                assert_eq!(answer["warnings"].to_string().contains("was not revoked"), rule.is_some(), "{what}");
            }
        }
    });
}

/// A value without a field for the id was edited twice, and the rotation fails before its mint: the label that names the id is not lost.
#[test]
fn a_rotation_that_fails_leaves_the_label_that_names_the_current_key() {
    Testbed::run(async |testbed| {
        for rule in ["rotate=refuse:403", "rotate=kill-before", "rotate=drop-after"] {
            let world = testbed.world(&Setting { shape: Shape::WithoutId, ..Setting::default() });
            world.rotate_completely(&token("turn", 0)).await;
            world.advance(DAY * 10);
            edit(&world, 1);
            edit(&world, 2);
            let rotation = world.begin_rotation(&token("turn", 1)).unwrap();
            world.rule(rule);
            let _ = world.step(&rotation, "createSecret").await;
            world.emulator.faults().clear();
            world.advance(Duration::from_secs(120));
            assert_eq!(world.drive(&rotation, ONCE).await, Event::Succeeded, "{rule}: {}", world.story());
        }
    });
}

/// The same without a failure: a key that a person has put in and has taken back, made before the current one or after it.
#[test]
fn a_key_that_was_put_in_and_taken_back_is_not_revoked() {
    Testbed::run(async |testbed| {
        for older in [true, false] {
            let world = testbed.world(&Setting { revoke_immediately: true, ..Setting::default() });
            let before = older.then(|| world.made_by_hand(ACCOUNT));
            world.advance(HOUR);
            world.rotate_completely(&second()).await;
            let key = before.unwrap_or_else(|| world.made_by_hand(ACCOUNT));
            world.advance(HOUR);
            world.put(&world.with_key(&key), &token("hand", 0));
            world.advance(HOUR);
            world.move_label("AWSCURRENT", &second(), Some(&token("hand", 0)));
            let event = json!({"Step": "finishSecret", "SecretId": world.arn, "ClientRequestToken": second()});
            let answer = world.invoke(0, &event).await;
            assert!(world.lives(&key.id), "{answer:?}");
        }
    });
}

/// A value without a field for the id is edited twice between two rotations: the id stands on a labelled version that holds the very key.
#[test]
fn a_field_that_is_edited_twice_leaves_the_key_its_id() {
    Testbed::run(async |testbed| {
        for strangers in [false, true] {
            let world = testbed.world(&Setting { shape: Shape::WithoutId, strangers, ..Setting::default() });
            world.rotate_completely(&token("turn", 0)).await;
            world.advance(DAY * 10);
            edit(&world, 1);
            edit(&world, 2);
            assert_eq!(world.rotate(&token("turn", 1), ONCE).await, Event::Succeeded, "{}", world.story());
            world.assert_completed();
        }
    });
}

/// One edit, a rotation, and a roll-back to the edit.
#[test]
fn a_roll_back_to_an_edit_leaves_the_key_its_id() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting { shape: Shape::WithoutId, strangers: false, ..Setting::default() });
        world.rotate_completely(&token("turn", 0)).await;
        world.advance(DAY * 10);
        edit(&world, 1);
        world.rotate_completely(&token("turn", 1)).await;
        world.move_label("AWSCURRENT", &token("hand", 1), Some(&token("turn", 1)));
        let rotation = world.begin_rotation(&token("turn", 2)).unwrap();
        done(world.step(&rotation, "createSecret").await);
    });
}

/// The command of KeyIdUnknown is refused by AWS where an older version has the label.
#[test]
fn the_command_of_key_id_unknown_can_be_run() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting { shape: Shape::WithoutId, ..Setting::default() });
        world.rotate_completely(&token("turn", 0)).await;
        let id = world.key("AWSCURRENT").unwrap().id;
        edit(&world, 1);
        edit(&world, 2);
        let rotation = world.begin_rotation(&token("turn", 1)).unwrap();
        if let Err(error) = world.step(&rotation, "createSecret").await {
            let names_the_other = error.error_message.contains("--remove-from-version-id");
            let body = json!({"SecretId": world.arn, "VersionStage": format!("kosli-key-id:{id}"),
                              "MoveToVersionId": token("hand", 2)});
            let attached = world.aws("UpdateSecretVersionStage", body);
            assert!(names_the_other || attached.is_ok(), "{attached:?}");
        }
    });
}

/// The clean-up failed with `immediately`. The message says rotate-secret; after that the old key lives on, and nothing says so.
#[test]
fn the_advice_of_an_incomplete_clean_up_ends_the_old_key() {
    Testbed::run(async |testbed| {
        for rule in ["revoke=error-before:500", "list=error-before:500", "revoke=refuse:403"] {
            let world = testbed.world(&Setting { revoke_immediately: true, ..Setting::default() });
            let rotation = world.until_finish(&second()).await;
            world.rule(rule);
            let message = refused(world.step(&rotation, "finishSecret").await, "CleanUpIncomplete");
            assert!(!message.contains("rotate-secret"), "{message}");
            let (_, event) = message.split_once("`echo '").unwrap();
            let event: Value = serde_json::from_str(event.split('\'').next().unwrap()).unwrap();
            world.emulator.faults().clear();
            done(world.invoke(0, &event).await);
            assert!(!world.lives(&world.first_key), "{}", world.story());
            world.assert_completed();
        }
    });
}

/// A person attaches a wrong candidate's id first, and then the right one: whichever AWS lists first is rotated.
#[test]
fn two_labels_with_ids_on_the_current_version_are_not_guessed_between() {
    Testbed::run(async |testbed| {
        for number in 0..3 {
            let world = testbed.world(&Setting { shape: Shape::WithoutId, ..Setting::default() });
            for id in [&world.strangers[number], &world.first_key] {
                world.move_label(&format!("kosli-key-id:{id}"), &token("first", 0), None);
            }
            let rotation = world.begin_rotation(&second()).unwrap();
            let _ = world.step(&rotation, "createSecret").await;
            world.assert_kept();
        }
    });
}

/// Where Kosli shows the ends of grace periods, a report during an ordinary rotation is unhealthy.
#[test]
fn a_report_during_an_ordinary_rotation_is_healthy() {
    Testbed::run(async |testbed| {
        for list_in_grace in EVERY_LIST {
            let switches = Switches { list_in_grace, ..Switches::default() };
            let world = testbed.world(&Setting { switches, ..Setting::default() });
            let rotation = world.begin_rotation(&second()).unwrap();
            done(world.step(&rotation, "createSecret").await);
            let report = report(&world).await;
            assert_eq!(report["healthy"], true, "{report:#}");
        }
    });
}

/// the secret is deleted right before any call, and restored.
#[test]
fn a_secret_that_is_deleted_and_restored_at_every_gap() {
    Testbed::run(async |testbed| {
        for revoke_immediately in [false, true] {
            let operations = [
                "DescribeSecret",
                "GetSecretValue",
                "list",
                "verify",
                "rotate",
                "PutSecretValue",
                "UpdateSecretVersionStage",
                "revoke",
            ];
            for (operation, number) in
                operations.into_iter().flat_map(|operation| (1..5).map(move |number| (operation, number)))
            {
                let world = testbed.world(&Setting { revoke_immediately, ..Setting::default() });
                let rotation = world.begin_rotation(&second()).unwrap();
                let gone = json!({"SecretId": world.arn, "RecoveryWindowInDays": 7});
                world.before_call(operation, number, move |emulator| {
                    drop(aws(emulator, "DeleteSecret", &gone).unwrap());
                });
                for step in ["createSecret", "setSecret", "testSecret", "finishSecret"] {
                    if world.step(&rotation, step).await.is_err() {
                        break;
                    }
                }
                world.set_gate(None);
                report(&world).await;
                let _ = world.aws("RestoreSecret", json!({"SecretId": world.arn}));
                assert_eq!(
                    world.drive(&rotation, RETRIES).await,
                    Event::Succeeded,
                    "{operation}#{number}\n{}",
                    world.story()
                );
                world.assert_completed();
            }
        }
    });
}

/// a report after every step, whatever was lost, with and without an admin key, changes nothing and breaks nothing.
#[test]
fn a_report_after_every_step() {
    Testbed::run(async |testbed| {
        for (admin, list_in_grace) in [true, false].into_iter().flat_map(|admin| EVERY_LIST.map(|list| (admin, list))) {
            for fault in ["verify=late:0s", "rotate#1=kill-after", "PutSecretValue#1=kill-before"] {
                let switches = Switches { list_in_grace, ..Switches::default() };
                let world = testbed.world(&Setting { admin, switches, ..Setting::default() });
                let rotation = world.begin_rotation(&second()).unwrap();
                world.rule(fault);
                for step in ["createSecret", "setSecret", "testSecret", "finishSecret"] {
                    let _ = world.step(&rotation, step).await;
                    let writes = world.writes();
                    report(&world).await;
                    done(world.invoke(0, &json!({"Step": "checkSecret"})).await);
                    assert_eq!(world.writes(), writes);
                }
                world.emulator.faults().clear();
                world.advance(Duration::from_secs(120));
                assert_eq!(world.drive(&rotation, RETRIES).await, Event::Succeeded, "{}", world.story());
                world.assert_completed();
            }
        }
    });
}

/// after a leak, in self-rotation: the tag `immediately`, then rotate-secret. No reader is refused at any instant, and the leaked key is
/// dead when the rotation has ended. The runbook's order (revoke, then rotate) ends with `CurrentKeyDead` here.
#[test]
fn a_leak_without_an_outage_in_self_rotation() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting { admin: false, ..Setting::default() });
        world.tag("kosli:revoke-old-key", "immediately");
        world.rotate_completely(&second()).await;
        assert!(!world.lives(&world.first_key));
    });
}

/// A person keeps a version in sight with a label of their own, abandons the rotation that was to replace it, and puts two keys in: neither
/// AWSCURRENT nor AWSPREVIOUS is on it any more, and its mark still tells whose the abandoned key is.
#[test]
fn a_key_of_an_abandoned_rotation_is_named_as_long_as_a_label_of_a_persons_own_tells() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        world.move_label("keep", &token("first", 0), None);
        world.until_finish(&second()).await;
        let abandoned = world.key("AWSPENDING").unwrap().id;
        for number in 0..2 {
            let key = world.made_by_hand(ACCOUNT);
            let value = json!({"api_key": key.value, "org": "acme", "service_account": ACCOUNT, "key_id": key.id});
            world.put(&value.to_string(), &token("hand", number));
        }
        world.advance(HOUR * 2);
        let orphans = |report: &Value| {
            let checks = report["checks"].as_array().unwrap().iter();
            checks.filter(|check| check["name"] == "orphans").map(ToString::to_string).collect::<String>()
        };
        let found = report(&world).await;
        assert!(orphans(&found).contains(&abandoned), "{found}");
        let rotation = world.until_finish(&token("third", 0)).await;
        let answer = done(world.step(&rotation, "finishSecret").await);
        assert!(answer["warnings"].to_string().contains(&abandoned), "{answer}");
        assert!(world.lives(&abandoned), "it may be in use");
        // Once the label is gone, nothing tells.
        world
            .aws(
                "UpdateSecretVersionStage",
                json!({"SecretId": world.arn, "VersionStage": "keep",
                                                     "RemoveFromVersionId": token("first", 0)}),
            )
            .unwrap();
        let found = report(&world).await;
        assert!(!orphans(&found).contains(&abandoned), "{found}");
    });
}

/// A person names another account while the secret is rotated: the clean-up looks there, and says so.
#[test]
fn a_clean_up_on_another_account_than_the_mint_says_so() {
    Testbed::run(async |testbed| {
        for changed in [true, false] {
            let world = testbed.world(&Setting { shape: Shape::Plain, ..Setting::default() });
            let rotation = world.until_finish(&second()).await;
            if changed {
                world.tag("kosli:service-account", "platform");
            }
            let answer = done(world.step(&rotation, "finishSecret").await);
            let new = world.key("AWSCURRENT").unwrap().id;
            let said = format!("does not find the new key {new} on the service account acme/platform");
            assert_eq!(answer["warnings"].to_string().contains(&said), changed, "{answer}");
        }
    });
}

/// The key under AWSCURRENT was made after the late step's version, and a field was edited since: that step has minted no successor of it.
#[test]
fn a_late_step_of_a_rotation_that_was_replaced_does_not_say_that_an_edited_key_is_dying() {
    Testbed::run(async |testbed| {
        for list_in_grace in EVERY_LIST {
            for later in [HOUR, DAY * 30] {
                let switches = Switches { list_in_grace, ..Switches::default() };
                let world = testbed.world(&Setting { switches, ..Setting::default() });
                let first = world.begin_rotation(&token("turn", 0)).unwrap();
                world.complete(&first, ONCE).await;
                world.advance(later);
                world.rotate_completely(&token("turn", 1)).await;
                world.advance(HOUR);
                edit(&world, 1);
                let text = refused(world.step(&first, "finishSecret").await, "TokenNotStaged");
                assert!(
                    !text.contains("Rotate now") && !text.contains("works until"),
                    "{list_in_grace:?} {later:?} {text}"
                );
            }
        }
    });
}

/// The promotion is stopped, for a person has put another key in: it is not in its grace period, and the report says whether it works.
#[test]
fn a_report_tries_a_key_that_a_person_has_put_in_beside_a_pending_version() {
    Testbed::run(async |testbed| {
        for alive in [true, false] {
            let world = testbed.world(&Setting::default());
            let rotation = world.until_finish(&second()).await;
            let key = world.made_by_hand(ACCOUNT);
            world.put_current(&world.with_key(&key), &token("hand", 0));
            refused(world.step(&rotation, "finishSecret").await, "PendingSuperseded");
            if !alive {
                world.probe.current_is_alive.store(false, std::sync::atomic::Ordering::SeqCst);
                assert!(world.emulator.with_kosli(|kosli| kosli.revoke_key(&key.id)));
            }
            let found = report(&world).await;
            assert_eq!(found["healthy"], alive, "{found:#}");
            assert!(!found.to_string().contains("Not tried: a rotation is under way"), "{found:#}");
        }
    });
}

/// Another key is put in between the mint and the store, so its version is the older one; the mark tells what was replaced.
#[test]
fn a_late_step_does_not_say_that_a_key_is_dying_that_was_put_in_before_the_store() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        let rotation = world.begin_rotation(&second()).unwrap();
        let key = world.made_by_hand(ACCOUNT);
        let value = world.with_key(&key);
        let arn = world.arn.clone();
        world.meanwhile("rotate", move |emulator| {
            aws(
                emulator,
                "PutSecretValue",
                &json!({"SecretId": arn, "SecretString": value,
                "ClientRequestToken": token("hand", 0), "VersionStages": ["AWSCURRENT"]}),
            )
            .unwrap();
            emulator.clock().advance(Duration::from_secs(1));
        });
        done(world.step(&rotation, "createSecret").await);
        world.advance(HOUR);
        assert_eq!(world.key("AWSCURRENT").unwrap().id, key.id);
        world.clear_pending(&second());
        let text = refused(world.step(&rotation, "testSecret").await, "TokenNotStaged");
        assert!(!text.contains("works until"), "{text}");
    });
}

/// A person has copied the pending value to a version under a label of their own: its readers use the key.
#[test]
fn a_late_step_tells_nobody_to_revoke_a_key_that_a_label_of_a_persons_own_holds() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        let rotation = world.until_finish(&second()).await;
        let pending = world.key("AWSPENDING").unwrap();
        world
            .aws(
                "PutSecretValue",
                json!({"SecretId": world.arn, "SecretString": world.value("AWSPENDING").unwrap(),
                "ClientRequestToken": token("hand", 0), "VersionStages": ["blue"]}),
            )
            .unwrap();
        let key = world.made_by_hand(ACCOUNT);
        world.put(&world.with_key(&key), &token("hand", 1));
        let text = refused(world.step(&rotation, "testSecret").await, "TokenNotStaged");
        assert!(!text.contains(&format!("delete api-key {}", pending.id)), "{text}");
    });
}

/// A version older than the rotation, with a key made by hand, is current for a moment: a step that comes again sees it under AWSPREVIOUS.
#[test]
fn a_key_that_was_put_in_before_the_rotation_and_tried_after_it_is_not_revoked() {
    Testbed::run(async |testbed| {
        for list_in_grace in EVERY_LIST {
            let switches = Switches { list_in_grace, ..Switches::default() };
            let world = testbed.world(&Setting { revoke_immediately: true, switches, ..Setting::default() });
            let key = world.made_by_hand(ACCOUNT);
            world.put(&world.with_key(&key), &token("hand", 0));
            world.advance(HOUR);
            world.move_label("AWSCURRENT", &token("first", 0), Some(&token("hand", 0)));
            world.advance(HOUR);
            let rotation = world.begin_rotation(&second()).unwrap();
            world.complete(&rotation, ONCE).await;
            world.advance(HOUR);
            world.move_label("AWSCURRENT", &token("hand", 0), Some(&second()));
            world.move_label("AWSCURRENT", &second(), Some(&token("hand", 0)));
            let event = json!({"Step": "finishSecret", "SecretId": world.arn, "ClientRequestToken": second()});
            let answer = world.invoke(0, &event).await;
            assert!(world.lives(&key.id), "{answer:?}");
        }
    });
}

/// A label of a person's own keeps the first version in sight, and its successor, replaced in its turn, is in its grace period.
#[test]
fn a_report_after_three_rotations_within_a_grace_period_is_healthy() {
    Testbed::run(async |testbed| {
        for list_in_grace in EVERY_LIST {
            let switches = Switches { list_in_grace, ..Switches::default() };
            let world = testbed.world(&Setting { switches, ..Setting::default() });
            world.move_label("keep", &token("first", 0), None);
            for number in 0..3 {
                assert_eq!(world.rotate(&token("turn", number), ONCE).await, Event::Succeeded);
                world.advance(HOUR * 2);
            }
            let found = report(&world).await;
            assert_eq!(found["healthy"], true, "{list_in_grace:?} {found:#}");
        }
    });
}

/// A person keeps a pending version by a label of their own and abandons its rotation. The next rotation takes no label off that version:
/// it names the id of a key that the version holds.
#[test]
fn a_key_that_was_never_used_is_not_swept_while_a_label_of_a_persons_own_keeps_its_version() {
    Testbed::run(async |testbed| {
        for shape in [Shape::ApiKey, Shape::WithoutId, Shape::Plain] {
            let world = testbed.world(&Setting { shape, ..Setting::default() });
            let rotation = world.begin_rotation(&second()).unwrap();
            done(world.step(&rotation, "createSecret").await);
            let kept = world.key("AWSPENDING").unwrap();
            world.move_label("blue", &second(), None);
            world.clear_pending(&second());
            world.advance(HOUR);
            assert_eq!(world.rotate(&token("third", 0), ONCE).await, Event::Succeeded, "{}", world.story());
            let key = world.kosli_key(&kept.id);
            assert_eq!((key.revoked_at, key.rotated_at), (None, None), "{shape:?} {}", world.story());
        }
    });
}

/// The same of a version that was rolled back, over several rotations, where Kosli never shows that its key is used.
#[test]
fn a_key_that_was_rolled_back_is_not_swept_while_a_label_of_a_persons_own_keeps_its_version() {
    Testbed::run(async |testbed| {
        for shape in [Shape::ApiKey, Shape::WithoutId, Shape::Plain] {
            let switches = Switches { last_used_at: LastUsedAt::Never, ..Switches::default() };
            let world = testbed.world(&Setting { shape, switches, ..Setting::default() });
            world.rotate_completely(&second()).await;
            let kept = world.key("AWSCURRENT").unwrap();
            world.move_label("deployed", &second(), None);
            world.move_label("AWSCURRENT", &token("first", 0), Some(&second()));
            for turn in 0..3 {
                world.advance(HOUR);
                assert_eq!(world.rotate(&token("turn", turn), ONCE).await, Event::Succeeded, "{}", world.story());
                assert!(world.lives(&kept.id), "{shape:?} {turn} {}", world.story());
            }
        }
    });
}

/// A person copies the pending value, but for the names of organization and account, to a version under a label of their own.
#[test]
fn a_copy_that_names_no_account_holds_its_key() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        let rotation = world.begin_rotation(&second()).unwrap();
        done(world.step(&rotation, "createSecret").await);
        let kept = world.key("AWSPENDING").unwrap();
        let copy = json!({"api_key": kept.value, "key_id": kept.id});
        let body = json!({"SecretId": world.arn, "SecretString": copy.to_string(),
                          "ClientRequestToken": token("hand", 0), "VersionStages": ["blue"]});
        world.aws("PutSecretValue", body).unwrap();
        world.clear_pending(&second());
        world.advance(HOUR);
        assert_eq!(world.rotate(&token("third", 0), ONCE).await, Event::Succeeded, "{}", world.story());
        let key = world.kosli_key(&kept.id);
        assert_eq!((key.revoked_at, key.rotated_at), (None, None), "{}", world.story());
    });
}

/// A value without a field for the id was edited twice: the label that names the id stands on a version further back. The old key is
/// revoked at once, as it is after any other rotation, and also where the step comes again.
#[test]
fn the_old_key_is_revoked_at_once_though_its_id_stands_on_a_version_further_back() {
    Testbed::run(async |testbed| {
        for rule in [None, Some("revoke#1=refuse:403")] {
            let world =
                testbed.world(&Setting { shape: Shape::WithoutId, revoke_immediately: true, ..Setting::default() });
            world.rotate_completely(&token("turn", 0)).await;
            world.advance(DAY * 10);
            let old = world.key("AWSCURRENT").unwrap();
            edit(&world, 1);
            edit(&world, 2);
            let rotation = world.until_finish(&token("turn", 1)).await;
            if let Some(rule) = rule {
                world.rule(rule);
                refused(world.step(&rotation, "finishSecret").await, "CleanUpIncomplete");
            }
            let answer = done(world.step(&rotation, "finishSecret").await);
            assert_eq!(answer["old_key"], "dead", "{answer} {}", world.story());
            assert!(!world.lives(&old.id));
        }
    });
}

/// The same version in a report: its key's id is known, and nothing is to be put in by hand.
#[test]
fn a_report_after_two_edits_knows_the_keys_id() {
    Testbed::run(async |testbed| {
        for strangers in [false, true] {
            let world = testbed.world(&Setting { shape: Shape::WithoutId, strangers, ..Setting::default() });
            world.rotate_completely(&token("turn", 0)).await;
            world.advance(DAY * 10);
            edit(&world, 1);
            edit(&world, 2);
            let found = report(&world).await;
            assert_eq!(found["healthy"], true, "{found:#}");
        }
    });
}

/// `immediately`, a clean-up that failed, and nothing under AWSPREVIOUS that tells what was replaced: the step that comes again does not
/// look as if it had done its work.
#[test]
fn a_clean_up_that_cannot_tell_what_was_replaced_says_so() {
    Testbed::run(async |testbed| {
        for value in [None, Some("two words"), Some(r#"{"api_key":"k","org":"acme","service_account":"platform"}"#)] {
            let world = testbed.world(&Setting { revoke_immediately: true, ..Setting::default() });
            let rotation = world.until_finish(&second()).await;
            world.rule("revoke=refuse:403");
            refused(world.step(&rotation, "finishSecret").await, "CleanUpIncomplete");
            world.emulator.faults().clear();
            let mut taken =
                json!({"SecretId": world.arn, "VersionStage": "AWSPREVIOUS", "RemoveFromVersionId": token("first", 0)});
            if let Some(value) = value {
                let body = json!({"SecretId": world.arn, "SecretString": value, "ClientRequestToken": token("hand", 0),
                                  "VersionStages": ["by-hand"]});
                world.aws("PutSecretValue", body).unwrap();
                taken["MoveToVersionId"] = token("hand", 0).into();
            }
            world.aws("UpdateSecretVersionStage", taken).unwrap();
            let answer = done(world.step(&rotation, "finishSecret").await);
            assert!(world.lives(&world.first_key));
            assert_eq!(answer["old_key"], "cannot tell", "{answer}");
            assert!(answer["warnings"].to_string().contains("Nothing was cleaned up"), "{answer}");
        }
    });
}

/// `immediately`, a clean-up that failed, and a field that was edited since: the step that the error advises comes late, and does not say
/// that the key which was to be revoked at once needs nobody any more.
#[test]
fn a_late_step_after_a_clean_up_that_failed_leaves_the_revocation_to_a_person() {
    Testbed::run(async |testbed| {
        for edits in [1, 2] {
            let world = testbed.world(&Setting { revoke_immediately: true, ..Setting::default() });
            let rotation = world.until_finish(&second()).await;
            world.rule("revoke=refuse:403");
            refused(world.step(&rotation, "finishSecret").await, "CleanUpIncomplete");
            world.emulator.faults().clear();
            (0..edits).for_each(|number| edit(&world, number));
            let text = world.step(&rotation, "finishSecret").await.unwrap_err().error_message;
            assert!(world.lives(&world.first_key));
            assert!(text.contains("unless its clean-up failed"), "{text}");
        }
    });
}

/// A person puts the value from before the last rotation back, as a version of their own: its key is in its grace period, and nothing shows
/// the version any more that the younger key was minted to replace.
#[test]
fn a_report_on_an_old_value_that_was_put_back_says_until_when_its_key_works() {
    Testbed::run(async |testbed| {
        for list_in_grace in EVERY_LIST {
            for shape in [Shape::ApiKey, Shape::Environment] {
                let switches = Switches { list_in_grace, ..Switches::default() };
                let world = testbed.world(&Setting { shape, switches, ..Setting::default() });
                let old = world.value("AWSCURRENT").unwrap();
                world.rotate_completely(&second()).await;
                let ends = world.kosli_key(&world.first_key).grace_ends_at.unwrap();
                world.advance(HOUR);
                world.put(&old, &token("hand", 0));
                world.advance(HOUR);
                let used = world.kosli_key(&world.first_key).last_used_at();
                let found = report(&world).await;
                assert_eq!(found["healthy"], false, "{list_in_grace:?} {found:#}");
                assert!(found.to_string().contains(&format!("works until about {}", rfc3339(ends))), "{found:#}");
                assert_eq!(world.kosli_key(&world.first_key).last_used_at(), used, "it is not used by the report");
            }
        }
    });
}
