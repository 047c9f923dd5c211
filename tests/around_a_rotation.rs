//! Something else happens between two calls of a rotation: a person, another execution, a late effect. One test for each kind of
//! course that was once seen to break a promise, with its neighbours.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use emulator::kosli::{Key, LastUsedAt, ListInGrace, SuccessorId, Switches};
use emulator::rotation::{Event, STEPS, step_event};
use emulator::secrets_manager::RotationRequest;
use emulator::{BoxFuture, Call, Fault, Hook};
use http::StatusCode;
use kosli_key_rotation::marker::{Attempt, Mark};
use serde_json::json;
use testbed::{
    ACCOUNT, ADMIN_SECRET, DAY, HOUR, ONCE, Setting, Shape, Testbed, World, aws, done, refused, rfc3339,
    rotate_by_hand, second, token, version_id,
};

/// Another execution rotates this key, with this grace period and a successor that carries the mark of the first version. The
/// successor's value is lost.
fn rotate_by_another(world: &World, key: &Key, grace_hours: u32) -> String {
    let before = world.minted().len();
    let mark = Mark::of(&world.arn, &version_id(&token("first", 0)));
    let expires_at = mark.expires_at(Attempt::fresh(&[]), world.emulator.clock().now(), DAY * 300);
    let body = json!({"grace_period_hours": grace_hours, "expires_at": expires_at});
    rotate_by_hand(&world.emulator, &key.id, &body);
    world.minted().remove(before).id
}

fn warnings(answer: &serde_json::Value) -> String {
    answer["warnings"].to_string()
}

/// Cases 1 and 1b. The pending key was taken for lost and replaced by another execution, whose key's value is lost.
#[test]
fn a_pending_key_that_another_execution_has_replaced_is_not_promoted_until_it_is_cleared() {
    Testbed::run(async |testbed| {
        for list_in_grace in [ListInGrace::OwnExpiry, ListInGrace::EndOfGrace, ListInGrace::Hidden] {
            for age in [Duration::from_secs(106), HOUR] {
                let switches = Switches { list_in_grace, ..Switches::default() };
                let world = testbed.world(&Setting { switches, ..Setting::default() });
                let rotation = world.until_finish(&second()).await;
                let pending = world.key("AWSPENDING").unwrap();
                world.advance(age);
                world.probe.pending_is_safe.store(false, Ordering::SeqCst);
                let successor = rotate_by_another(&world, &pending, 1);
                for _ in 0..2 {
                    let message = refused(world.step(&rotation, "finishSecret").await, "PendingKeyDying");
                    assert!(message.contains("update-secret-version-stage") && message.contains("rotate-secret"));
                    assert_eq!(world.key("AWSCURRENT").unwrap().id, world.first_key);
                    assert!(world.lives(&successor), "{}", world.story());
                    assert_eq!(world.count(&["revoke", "UpdateSecretVersionStage"]), 0);
                }
                world.clear_pending(&second());
                world.advance(Duration::from_secs(120));
                let third = world.begin_rotation(&token("third", 0)).unwrap();
                assert_eq!(world.drive(&third, ONCE).await, Event::Succeeded, "{}", world.story());
                assert!(!world.lives(&successor), "{}", world.story());
                assert_eq!(world.key("AWSCURRENT").unwrap().rotated_at, None);
            }
        }
    });
}

/// The same after the promotion: the step that comes again says until when the key that it has made current works.
#[test]
fn a_promoted_key_that_another_execution_has_replaced_is_said_to_be_dying() {
    Testbed::run(async |testbed| {
        for list_in_grace in [ListInGrace::OwnExpiry, ListInGrace::EndOfGrace, ListInGrace::Hidden] {
            let switches = Switches { list_in_grace, ..Switches::default() };
            let world = testbed.world(&Setting { switches, ..Setting::default() });
            let rotation = world.until_finish(&second()).await;
            done(world.step(&rotation, "finishSecret").await);
            let promoted = world.key("AWSCURRENT").unwrap();
            world.advance(HOUR);
            let successor = rotate_by_another(&world, &promoted, 1);
            let message = refused(world.step(&rotation, "finishSecret").await, "PendingKeyDying");
            let dies = rfc3339(world.kosli_key(&promoted.id).grace_ends_at.unwrap());
            assert!(message.contains("works until") && message.contains(&dies), "{message}");
            assert!(message.contains("rotate-secret") && world.lives(&successor), "{message}");
            assert_eq!(world.count(&["revoke"]), 0);
        }
    });
}

/// Neighbours of cases 1 and 1b: a lost key that is there beside the pending one says nothing of it where it is older, or not much younger.
#[test]
fn a_lost_key_beside_a_pending_key_that_lives_is_swept() {
    Testbed::run(async |testbed| {
        for age in [Duration::ZERO, Duration::from_secs(100)] {
            let world = testbed.world(&Setting::default());
            let rotation = world.until_finish(&second()).await;
            world.advance(age);
            let lost = rotate_by_another(&world, &world.kosli_key(&world.first_key), 24);
            let answer = done(world.step(&rotation, "finishSecret").await);
            assert_eq!(answer["revoked_key_ids"], json!([lost]));
            world.assert_completed();
        }
    });
}

/// Case 3. The key in the edit is the old one, so it is dying.
#[test]
fn a_field_that_was_edited_before_the_store_is_overwritten_aloud() {
    Testbed::run(async |testbed| {
        for failing in [false, true] {
            let world = testbed.world(&Setting::default());
            let rotation = world.until_finish(&second()).await;
            world.put_current(&world.edited(), &token("hand", 0));
            if failing {
                world.rule("list=error-before:500");
            }
            let outcome = world.step(&rotation, "finishSecret").await;
            assert_ne!(world.key("AWSCURRENT").unwrap().id, world.first_key, "{}", world.story());
            assert!(world.value("AWSPREVIOUS").unwrap().contains("edited"));
            if failing {
                // It was promoted, and what can be told is that the documents differ.
                let message = refused(outcome, "CleanUpIncomplete");
                assert!(message.contains("AWSPREVIOUS") && message.contains("note"), "{message}");
                continue;
            }
            let answer = done(outcome);
            assert!(warnings(&answer).contains("AWSPREVIOUS") && warnings(&answer).contains("note"), "{answer}");
            assert!(!warnings(&answer).contains("edited\""), "{answer}");
            world.assert_kept();
        }
    });
}

/// The same where nothing but the key is in the value, and the list that would tell cannot be had: it is promoted (the key under
/// `AWSCURRENT` may be dying), and that somebody has written meanwhile is said.
#[test]
fn a_key_that_was_put_in_is_not_overwritten_in_silence_where_no_list_tells() {
    Testbed::run(async |testbed| {
        for (shape, by_hand) in [(Shape::Plain, true), (Shape::ApiKeyAlone, true), (Shape::Plain, false)] {
            for immediately in [true, false] {
                let setting = Setting { shape, revoke_immediately: immediately, ..Setting::default() };
                let world = testbed.world(&setting);
                let rotation = world.until_finish(&second()).await;
                let old = world.value("AWSCURRENT").unwrap();
                world.advance(Duration::from_secs(1));
                let key = world.made_by_hand(ACCOUNT).value;
                if by_hand {
                    world.put_current(&old.replace(&testbed::key_in(&old).unwrap(), &key), &token("hand", 0));
                }
                world.rule("list=error-before:500");
                let message = refused(world.step(&rotation, "finishSecret").await, "CleanUpIncomplete");
                assert_eq!(message.contains(&token("hand", 0)), by_hand, "{message}");
                assert_eq!(message.contains("put another key in"), by_hand, "{message}");
            }
        }
    });
}

/// The execution that moves the label is killed before it can say what it has put out of the way: the one that comes again says it.
#[test]
fn what_was_overwritten_is_said_though_the_execution_was_killed() {
    Testbed::run(async |testbed| {
        for edited in [true, false] {
            let world = testbed.world(&Setting::default());
            let rotation = world.until_finish(&second()).await;
            if edited {
                world.put_current(&world.edited(), &token("hand", 0));
            }
            world.rule("UpdateSecretVersionStage#1=kill-after");
            refused(world.step(&rotation, "finishSecret").await, "Runtime.killed");
            world.emulator.faults().clear();
            let answer = done(world.step(&rotation, "finishSecret").await);
            assert_eq!(answer["outcome"], "already current");
            assert_eq!(warnings(&answer).contains("the version under AWSPREVIOUS has the edit"), edited, "{answer}");
            assert_eq!(warnings(&answer).contains("note"), edited, "{answer}");
        }
    });
}

/// Case 3b. Another key that works has been put in, or `AWSCURRENT` moved to one.
#[test]
fn another_key_that_works_is_not_overwritten_and_one_that_is_dead_is() {
    Testbed::run(async |testbed| {
        for alive in [true, false] {
            let world = testbed.world(&Setting::default());
            let rotation = world.until_finish(&second()).await;
            let id = world.made_by_hand(ACCOUNT).id;
            let by_hand = world.with_key(&world.kosli_key(&id));
            world.put_current(&by_hand, &token("hand", 0));
            let pending = world.key("AWSPENDING").unwrap().id;
            if alive {
                let message = refused(world.step(&rotation, "finishSecret").await, "PendingSuperseded");
                assert!(message.contains("update-secret-version-stage") && message.contains("rotate-secret"));
                assert!(message.contains(&pending), "{message}");
                assert_eq!(world.value("AWSCURRENT"), Some(by_hand));
                assert!(world.lives(&id) && world.lives(&pending));
                assert_eq!(world.count(&["revoke", "UpdateSecretVersionStage"]), 0);
                world.assert_kept();
            } else {
                world.probe.current_is_alive.store(false, Ordering::SeqCst);
                assert!(world.emulator.with_kosli(|kosli| kosli.revoke_key(&id)));
                let answer = done(world.step(&rotation, "finishSecret").await);
                assert!(warnings(&answer).contains("another key"), "{answer}");
                assert_eq!(world.key("AWSCURRENT").unwrap().id, pending);
            }
        }
    });
}

/// Case 19. The pending version was current before, and a person has moved the label back.
#[test]
fn a_version_that_was_current_before_is_not_promoted_again_over_a_key_that_works() {
    Testbed::run(async |testbed| {
        for list_in_grace in [ListInGrace::OwnExpiry, ListInGrace::EndOfGrace, ListInGrace::Hidden] {
            let switches = Switches { list_in_grace, ..Switches::default() };
            let world = testbed.world(&Setting { switches, ..Setting::default() });
            let rotation = world.until_finish(&second()).await;
            done(world.step(&rotation, "finishSecret").await);
            world.move_label("AWSCURRENT", &token("first", 0), Some(&second()));
            let message = refused(world.step(&rotation, "finishSecret").await, "PendingSuperseded");
            // Where the list hides or does not say it, the pending version's age does: it replaced this very key.
            let dies = world.kosli_key(&world.first_key).grace_ends_at.unwrap();
            assert!(message.contains("works until") && message.contains(&rfc3339(dies)), "{message}");
            // Nor does it need a list.
            world.rule("list=error-before:403");
            let message = refused(world.step(&rotation, "finishSecret").await, "PendingSuperseded");
            assert!(message.contains("works until about") && message.contains(&rfc3339(dies)), "{message}");
            assert_eq!(world.key("AWSCURRENT").unwrap().id, world.first_key);
            world.assert_kept();
        }
    });
}

/// Case 20. The key of a version that was rolled back looks never used, and its readers still have it.
#[test]
fn the_key_of_a_version_that_was_rolled_back_is_named_and_not_touched() {
    Testbed::run(async |testbed| {
        let switches = Switches { last_used_at: LastUsedAt::Never, ..Switches::default() };
        let world = testbed.world(&Setting { switches, ..Setting::default() });
        world.rotate_completely(&second()).await;
        let rolled_back = world.key("AWSCURRENT").unwrap().id;
        world.move_label("AWSCURRENT", &token("first", 0), Some(&second()));
        world.advance(HOUR);
        let rotation = world.until_finish(&token("third", 0)).await;
        let answer = done(world.step(&rotation, "finishSecret").await);
        assert!(world.lives(&rolled_back), "{}", world.story());
        assert!(warnings(&answer).contains(&rolled_back), "{answer}");
        world.assert_kept();
    });
}

/// Case 4, and its neighbour where the late key comes before the clean-up.
#[test]
fn a_key_that_comes_late_is_ended_by_the_next_rotation() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        world.rotate_completely(&second()).await;
        let late = rotate_by_another(&world, &world.kosli_key(&world.first_key), 24);
        world.advance(DAY * 2);
        let rotation = world.until_finish(&token("third", 0)).await;
        let answer = done(world.step(&rotation, "finishSecret").await);
        assert_eq!(answer["revoked_key_ids"], json!([late]), "{}", world.story());
        world.assert_completed();
    });
}

/// Case 5. The version whose replacement was lost is now the one before.
#[test]
fn a_key_that_was_lost_before_a_roll_back_is_ended_by_the_next_rotation() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        world.rotate_completely(&second()).await;
        world.advance(DAY * 2);
        let third = world.begin_rotation(&token("third", 0)).unwrap();
        let before = world.minted().len();
        world.rule("rotate#1=kill-after");
        refused(world.step(&third, "createSecret").await, "Runtime.killed");
        let lost = world.minted().remove(before).id;
        world.clear_pending(&token("third", 0));
        world.probe.current_is_alive.store(false, Ordering::SeqCst);
        world.move_label("AWSCURRENT", &token("first", 0), Some(&second()));
        world.advance(Duration::from_secs(120));
        let rotation = world.until_finish(&token("fourth", 0)).await;
        let answer = done(world.step(&rotation, "finishSecret").await);
        assert!(!world.lives(&lost), "{answer}\n{}", world.story());
    });
}

/// Case 6. The old key's revocation needs no list, and one refusal stops no other.
#[test]
fn the_old_key_is_revoked_whatever_becomes_of_the_list_and_of_other_keys() {
    Testbed::run(async |testbed| {
        for rule in ["list=error-before:503", "list=garble", "revoke#2=refuse:403"] {
            let world = testbed.world(&Setting { revoke_immediately: true, ..Setting::default() });
            let rotation = world.until_finish(&second()).await;
            let lost = [0, 1].map(|_| rotate_by_another(&world, &world.kosli_key(&world.first_key), 24));
            world.rule(rule);
            refused(world.step(&rotation, "finishSecret").await, "CleanUpIncomplete");
            assert!(!world.lives(&world.first_key), "{rule}: {}", world.story());
            if rule.starts_with("revoke") {
                let living = lost.iter().filter(|id| world.lives(id)).count();
                assert_eq!(living, 1, "{rule}: {}", world.story());
            }
            world.emulator.faults().clear();
            done(world.step(&rotation, "finishSecret").await);
            world.assert_completed();
        }
    });
}

/// Case 12. The key was tested, and the rotation begun anew.
#[test]
fn a_tested_key_of_an_abandoned_rotation_is_named_and_not_touched() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        world.until_finish(&second()).await;
        let tested = world.key("AWSPENDING").unwrap().id;
        world.put(&world.edited(), &token("hand", 0));
        let rotation = world.until_finish(&token("third", 0)).await;
        let answer = done(world.step(&rotation, "finishSecret").await);
        assert!(world.lives(&tested), "{}", world.story());
        assert!(warnings(&answer).contains(&tested), "{answer}");
        world.assert_kept();
    });
}

/// Case 21. Between the promotion and a revocation somebody else goes on: nothing is revoked while `AWSCURRENT` is elsewhere or another
/// version is pending.
#[test]
fn nothing_is_revoked_once_somebody_else_is_at_work() {
    Testbed::run(async |testbed| {
        for label in ["AWSCURRENT", "AWSPENDING"] {
            let world = testbed.world(&Setting { revoke_immediately: true, ..Setting::default() });
            let rotation = world.until_finish(&second()).await;
            let lost = rotate_by_another(&world, &world.kosli_key(&world.first_key), 24);
            world.probe.pending_is_safe.store(false, Ordering::SeqCst);
            let body = json!({"SecretId": world.arn, "SecretString": world.edited(), "VersionStages": [label],
                              "ClientRequestToken": token("hand", 0)});
            // The first look at the labels belongs to the promotion.
            world.before_call("DescribeSecret", 2, move |emulator| {
                aws(emulator, "PutSecretValue", &body).unwrap();
            });
            let answer = done(world.step(&rotation, "finishSecret").await);
            assert_eq!(world.count(&["revoke"]), 0, "{}", world.story());
            assert_eq!(answer["old_key"], "cannot tell", "{answer}");
            assert!(warnings(&answer).contains(&lost) && warnings(&answer).contains(&world.first_key), "{answer}");
            assert!(world.lives(&lost) && world.lives(&world.first_key));
        }
    });
}

/// Case 3c, and its neighbour where the label was moved back. The late step is the only one that anybody hears of.
#[test]
fn a_late_step_of_an_abandoned_rotation_says_until_when_the_current_key_works() {
    Testbed::run(async |testbed| {
        for rolled_back in [false, true] {
            let world = testbed.world(&Setting::default());
            let rotation = world.until_finish(&second()).await;
            if rolled_back {
                done(world.step(&rotation, "finishSecret").await);
                world.clear_pending(&second());
                world.move_label("AWSCURRENT", &token("first", 0), Some(&second()));
            } else {
                world.put(&world.edited(), &token("hand", 0));
            }
            let dies = rfc3339(world.kosli_key(&world.first_key).grace_ends_at.unwrap());
            for step in ["createSecret", "setSecret", "testSecret", "finishSecret"] {
                let Err(error) = world.step(&rotation, step).await else { panic!("{step}") };
                assert!(error.error_type.starts_with("TokenNot"), "{error}");
                let message = error.error_message;
                assert!(message.contains(&dies) && message.contains("rotate-secret"), "{step}: {message}");
                assert!(!message.contains("Nothing needs to be done"), "{step}: {message}");
            }
            let report = done(world.invoke(0, &json!({"Step": "checkSecret", "SecretId": world.arn})).await);
            let check =
                report["checks"].as_array().unwrap().iter().find(|check| check["name"] == "current-key").unwrap();
            assert_eq!(check["ok"], false, "{report}");
            assert!(check["detail"].as_str().unwrap().contains(&dies), "{report}");
            // A rotation makes it good, and then the late step only names the key that is left over.
            let third = world.begin_rotation(&token("third", 0)).unwrap();
            assert_eq!(world.drive(&third, ONCE).await, Event::Succeeded, "{}", world.story());
            let Err(error) = world.step(&rotation, "testSecret").await else { panic!("testSecret") };
            let message = error.error_message;
            assert!(message.contains("`kosli delete api-key ") && !message.contains("works until"), "{message}");
        }
    });
}

/// The steps that Secrets Manager can still deliver.
async fn assert_every_step_says(world: &World, rotation: &RotationRequest, dies: &str) {
    for step in STEPS {
        let Err(error) = world.step(rotation, step).await else { panic!("{step}") };
        assert!(error.error_type.starts_with("TokenNot"), "{step}: {error}");
        let message = error.error_message;
        assert!(message.contains(dies) && message.contains("works until"), "{step}: {message}");
        assert!(message.contains("rotate-secret"), "{step}: {message}");
        assert!(!message.contains("Nothing needs to be done"), "{step}: {message}");
    }
}

/// Beside case 3c: a person takes `AWSPENDING` off the version, which then has no label at all, or only the one with its key's id.
#[test]
fn a_late_step_of_a_version_that_was_cleared_says_until_when_the_current_key_works() {
    Testbed::run(async |testbed| {
        for shape in [Shape::ApiKey, Shape::Plain] {
            for list_in_grace in [ListInGrace::OwnExpiry, ListInGrace::EndOfGrace, ListInGrace::Hidden] {
                for admin in [true, false] {
                    let switches = Switches { list_in_grace, ..Switches::default() };
                    let world = testbed.world(&Setting { shape, switches, admin, ..Setting::default() });
                    let rotation = world.until_finish(&second()).await;
                    world.clear_pending(&second());
                    let dies = rfc3339(world.kosli_key(&world.first_key).grace_ends_at.unwrap());
                    assert_every_step_says(&world, &rotation, &dies).await;
                    // The version's age is enough where there is no list.
                    if list_in_grace == ListInGrace::OwnExpiry {
                        world.rule("list=error-before:403");
                        assert_every_step_says(&world, &rotation, &dies).await;
                    }
                }
            }
        }
    });
}

/// The same, where nothing says any more whose the keys are: the account was in a tag. The version's age is enough.
#[test]
fn a_late_step_says_until_when_the_current_key_works_though_no_account_is_named() {
    Testbed::run(async |testbed| {
        for account in [None, Some("not a name")] {
            let world = testbed.world(&Setting { shape: Shape::Plain, ..Setting::default() });
            let rotation = world.until_finish(&second()).await;
            world.clear_pending(&second());
            let dies = rfc3339(world.kosli_key(&world.first_key).grace_ends_at.unwrap());
            match account {
                None => world.untag("kosli:service-account"),
                Some(name) => world.tag("kosli:service-account", name),
            }
            assert_every_step_says(&world, &rotation, &dies).await;
        }
    });
}

/// In self-rotation the account's keys are listed with the key of the late step's version; where that is dead, with the current one.
#[test]
fn a_late_step_whose_own_key_is_dead_lists_with_the_current_one() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting { admin: false, revoke_immediately: true, ..Setting::default() });
        let rotation = world.until_finish(&second()).await;
        done(world.step(&rotation, "finishSecret").await);
        world.rotate_completely(&token("third", 0)).await;
        let current = world.key("AWSCURRENT").unwrap().id;
        world.until_finish(&token("fourth", 0)).await;
        let dies = rfc3339(world.kosli_key(&current).grace_ends_at.unwrap());
        assert_every_step_says(&world, &rotation, &dies).await;
    });
}

/// The same, where the successor has kept the id.
#[test]
fn a_late_step_sees_a_successor_that_has_kept_the_id() {
    Testbed::run(async |testbed| {
        let switches = Switches { successor_id: SuccessorId::Same, ..Switches::default() };
        let world = testbed.world(&Setting { switches, ..Setting::default() });
        let (rotation, _) = world.lose_a_key().await;
        let dies = rfc3339(world.emulator.clock().now() + DAY);
        world.clear_pending(&second());
        assert_every_step_says(&world, &rotation, &dies).await;
        // Nobody is told to revoke an id that the current key has as well.
        world.rotate_completely(&token("third", 0)).await;
        world.advance(HOUR);
        let fourth = world.until_finish(&token("fourth", 0)).await;
        world.clear_pending(&token("fourth", 0));
        let message = refused(world.step(&fourth, "testSecret").await, "TokenNotStaged");
        assert!(message.contains("works until") && !message.contains("delete api-key"), "{message}");
    });
}

/// A person clears the label and breaks the admin secret while the step looks for the mint whose answer was lost: it knows by itself what it
/// has sent.
#[test]
fn a_step_that_is_stopped_after_its_mint_says_until_when_the_current_key_works() {
    Testbed::run(async |testbed| {
        for edited in [false, true] {
            let world = testbed.world(&Setting::default());
            let rotation = world.begin_rotation(&second()).unwrap();
            world.rule("rotate=drop-after");
            let arn = world.arn.clone();
            world.before_call("list", 2, move |emulator| {
                let write = |operation: &str, body: serde_json::Value| aws(emulator, operation, &body).unwrap();
                write(
                    "UpdateSecretVersionStage",
                    json!({"SecretId": arn, "VersionStage": "AWSPENDING",
                                                         "RemoveFromVersionId": second()}),
                );
                write(
                    "PutSecretValue",
                    json!({"SecretId": ADMIN_SECRET, "SecretString": "{}", "ClientRequestToken": token("hand", 0)}),
                );
                if edited {
                    let value = json!({"api_key": "made-up-by-hand", "org": "acme", "service_account": ACCOUNT});
                    write(
                        "PutSecretValue",
                        json!({"SecretId": arn, "SecretString": value.to_string(),
                                                   "ClientRequestToken": token("hand", 1)}),
                    );
                }
            });
            let message = refused(world.step(&rotation, "createSecret").await, "TokenNotStaged");
            let dies = rfc3339(world.kosli_key(&world.first_key).grace_ends_at.unwrap());
            // Of another key that is current by now it knows nothing.
            assert_eq!(message.contains(&format!("works until {dies}")), !edited, "{message}");
        }
    });
}

/// The same, where the version has no value: what was minted for it is lost, and the list tells.
#[test]
fn a_late_step_of_a_version_without_a_value_says_until_when_the_current_key_works() {
    Testbed::run(async |testbed| {
        for edited in [false, true] {
            let world = testbed.world(&Setting::default());
            let (rotation, lost) = world.lose_a_key().await;
            world.advance(HOUR);
            world.clear_pending(&second());
            if edited {
                world.put(&world.edited(), &token("hand", 0));
            }
            let dies = rfc3339(world.kosli_key(&world.first_key).grace_ends_at.unwrap());
            assert_every_step_says(&world, &rotation, &dies).await;
            assert!(world.lives(&lost.id));
            // Where there is no list, nothing can be told, and nothing is made up.
            world.rule("list=error-before:503");
            let Err(error) = world.step(&rotation, "testSecret").await else { panic!("testSecret") };
            assert!(!error.error_message.contains("works until"), "{error}");
        }
    });
}

/// The version is pending still, and has no value.
#[test]
fn a_step_that_misses_the_value_says_until_when_the_current_key_works() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        let (rotation, _) = world.lose_a_key().await;
        let dies = rfc3339(world.kosli_key(&world.first_key).grace_ends_at.unwrap());
        for step in ["setSecret", "finishSecret"] {
            let message = refused(world.step(&rotation, step).await, "PendingValueMissing");
            assert!(message.contains(&dies) && message.contains("works until"), "{step}: {message}");
        }
    });
}

/// A late step has nothing to say where the rotation that it belongs to has minted nothing, or has long been replaced.
#[test]
fn a_late_step_says_nothing_where_no_key_is_dying() {
    Testbed::run(async |testbed| {
        for minted in [true, false] {
            let world = testbed.world(&Setting::default());
            let rotation = world.begin_rotation(&second()).unwrap();
            if minted {
                world.complete(&rotation, ONCE).await;
                world.rotate_completely(&token("third", 0)).await;
            } else {
                world.clear_pending(&second());
            }
            for step in STEPS {
                let Err(error) = world.step(&rotation, step).await else { panic!("{step}") };
                assert!(error.error_message.contains("Nothing needs to be done"), "{step}: {error}");
            }
        }
    });
}

/// A person has put another key in, so no key is dying; the one that was stored and tested lives, and nobody holds it.
#[test]
fn a_late_step_names_the_key_that_its_version_leaves_behind() {
    Testbed::run(async |testbed| {
        for shape in [Shape::ApiKey, Shape::WithoutId] {
            let world = testbed.world(&Setting { shape, ..Setting::default() });
            let rotation = world.until_finish(&second()).await;
            let tested = world.key("AWSPENDING").unwrap().id;
            let Key { id, value, .. } = world.made_by_hand(ACCOUNT);
            world.put(&shape.value(&id, &value), &token("hand", 0));
            if shape == Shape::WithoutId {
                world.move_label(&format!("kosli-key-id:{id}"), &token("hand", 0), None);
            }
            for step in STEPS {
                let Err(error) = world.step(&rotation, step).await else { panic!("{step}") };
                let message = error.error_message;
                assert!(message.contains(&format!("`kosli delete api-key {tested} ")), "{step}: {message}");
                assert!(!message.contains("works until"), "{step}: {message}");
                assert!(!message.contains("Nothing needs to be done"), "{step}: {message}");
            }
            // So does the rotation that follows.
            let third = world.until_finish(&token("third", 0)).await;
            let answer = done(world.step(&third, "finishSecret").await);
            assert!(warnings(&answer).contains(&tested), "{answer}");
            assert!(world.lives(&tested) && world.lives(&id));
            // Once it is dead, there is nothing left to say.
            assert!(world.emulator.with_kosli(|kosli| kosli.revoke_key(&tested)));
            let Err(error) = world.step(&rotation, "testSecret").await else { panic!("testSecret") };
            assert!(error.error_message.contains("Nothing needs to be done"), "{error}");
        }
    });
}

/// The grace period of the abandoned rotation is over, and nobody has rotated since.
#[test]
fn a_late_step_after_the_grace_period_does_not_say_that_nothing_needs_to_be_done() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        let rotation = world.until_finish(&second()).await;
        let dies = rfc3339(world.kosli_key(&world.first_key).grace_ends_at.unwrap());
        world.clear_pending(&second());
        world.probe.current_is_alive.store(false, Ordering::SeqCst);
        world.advance(DAY * 2);
        let Err(error) = world.step(&rotation, "finishSecret").await else { panic!("finishSecret") };
        let message = error.error_message;
        assert!(message.contains(&dies) && message.contains("rotate-secret"), "{message}");
        assert!(!message.contains("Nothing needs to be done") && !message.contains("works until"), "{message}");
    });
}

/// A key is put in beside the old one's id while `createSecret` reads: the ids are the same, the keys are not.
#[test]
fn a_key_that_was_put_in_beside_the_old_id_is_not_overwritten() {
    Testbed::run(async |testbed| {
        for list_in_grace in [ListInGrace::OwnExpiry, ListInGrace::EndOfGrace] {
            let switches = Switches { list_in_grace, ..Switches::default() };
            let world = testbed.world(&Setting { switches, ..Setting::default() });
            let rotation = world.until_finish(&second()).await;
            let id = world.made_by_hand(ACCOUNT).id;
            let beside = Key { id: world.first_key.clone(), ..world.kosli_key(&id) };
            let by_hand = world.with_key(&beside);
            world.put_current(&by_hand, &token("hand", 0));
            let message = refused(world.step(&rotation, "finishSecret").await, "PendingSuperseded");
            assert_eq!(world.value("AWSCURRENT"), Some(by_hand), "{}", world.story());
            // What the list shows of that id is another key's end.
            assert!(!message.contains("works until"), "{message}");
            world.assert_kept();
        }
    });
}

/// Where a successor keeps its id, a mint has rotated whichever key of that id was current: another execution has promoted meanwhile.
#[test]
fn a_key_that_the_mint_has_rotated_by_its_kept_id_is_replaced() {
    Testbed::run(async |testbed| {
        let switches = Switches { successor_id: SuccessorId::Same, ..Switches::default() };
        let world = testbed.world(&Setting { switches, ..Setting::default() });
        world.until_finish(&second()).await;
        world.clear_pending(&second());
        let third = world.begin_rotation(&token("third", 0)).unwrap();
        let body = json!({"SecretId": world.arn, "VersionStage": "AWSCURRENT", "MoveToVersionId": second(),
                          "RemoveFromVersionId": token("first", 0)});
        world.meanwhile("rotate", move |emulator| {
            aws(emulator, "UpdateSecretVersionStage", &body).unwrap();
        });
        done(world.step(&third, "createSecret").await);
        assert!(world.key("AWSCURRENT").unwrap().rotated_at.is_some(), "{}", world.story());
        let answer = done(world.step(&third, "finishSecret").await);
        assert!(warnings(&answer).contains("AWSPREVIOUS has it"), "{answer}");
        assert_eq!(world.key("AWSCURRENT").unwrap().rotated_at, None, "{}", world.story());
    });
}

/// `AWSCURRENT` is moved back between the promotion and the old key's revocation.
#[test]
fn a_clean_up_that_sees_the_label_moved_back_does_not_say_that_the_new_key_is_current() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting { revoke_immediately: true, ..Setting::default() });
        let rotation = world.until_finish(&second()).await;
        let back = json!({"SecretId": world.arn, "VersionStage": "AWSCURRENT", "MoveToVersionId": token("first", 0),
                          "RemoveFromVersionId": second()});
        world.before_call("DescribeSecret", 2, move |emulator| {
            aws(emulator, "UpdateSecretVersionStage", &back).unwrap();
        });
        let message = refused(world.step(&rotation, "finishSecret").await, "CurrentMoved");
        let dies = rfc3339(world.kosli_key(&world.first_key).grace_ends_at.unwrap());
        assert!(message.contains("works until") && message.contains(&dies), "{message}");
        assert!(!message.contains("The new key is current"), "{message}");
        assert!(world.lives(&world.first_key));
        assert_eq!(world.count(&["revoke"]), 0);
    });
}

/// The answer to the move of the label is lost, and so is the look whether it has moved.
#[test]
fn a_move_whose_outcome_is_unknown_is_said_to_be_unknown() {
    Testbed::run(async |testbed| {
        for rule in ["UpdateSecretVersionStage=drop-after", "UpdateSecretVersionStage=drop-before"] {
            let world = testbed.world(&Setting::default());
            let rotation = world.until_finish(&second()).await;
            let dies = rfc3339(world.kosli_key(&world.first_key).grace_ends_at.unwrap());
            world.rule(rule);
            world.rule("DescribeSecret#2..=error-before:503");
            let message = refused(world.step(&rotation, "finishSecret").await, "SecretsManagerUnavailable");
            assert!(message.contains("may have moved") && !message.contains("Nothing was changed"), "{message}");
            assert!(message.contains(&dies), "{message}");
            world.emulator.faults().clear();
            done(world.step(&rotation, "finishSecret").await);
            world.assert_completed();
        }
        // Whoever looks and sees that it has not moved may look too early.
        let world = testbed.world(&Setting::default());
        let rotation = world.until_finish(&second()).await;
        world.rule("UpdateSecretVersionStage=drop-before");
        let message = refused(world.step(&rotation, "finishSecret").await, "SecretsManagerUnavailable");
        assert!(message.contains("may have moved"), "{message}");
        // A refusal is none of these.
        world.emulator.faults().clear();
        world.rule("UpdateSecretVersionStage=refuse:400:AccessDeniedException");
        let message = refused(world.step(&rotation, "finishSecret").await, "SecretsManagerRefused");
        assert!(message.contains("Nothing was changed"), "{message}");
    });
}

/// The function's own time runs out while a service is asked: the error says so, and until when the current key works.
#[test]
fn a_step_whose_own_time_runs_out_says_so() {
    Testbed::run(async |testbed| {
        for (step, rule, knows) in [
            ("setSecret", "GetSecretValue=no-answer", false),
            ("testSecret", "verify=no-answer", true),
            ("finishSecret", "verify=no-answer", true),
            ("finishSecret", "list=no-answer", true),
            ("finishSecret", "UpdateSecretVersionStage=no-answer", true),
        ] {
            let world = testbed.world(&Setting::default());
            let rotation = world.until_finish(&second()).await;
            let dies = rfc3339(world.kosli_key(&world.first_key).grace_ends_at.unwrap());
            world.rule(rule);
            let event = step_event(&rotation, step);
            let message = refused(world.invoke_within(0, &event, Duration::from_secs(5)).await, "OutOfTime");
            assert!(message.contains("time-out"), "{step} {rule}: {message}");
            assert_eq!(message.contains(&dies), knows, "{step} {rule}: {message}");
            world.assert_kept();
        }
    });
}

/// What the pending version tells is told, whatever else cannot be read.
#[test]
fn a_step_that_cannot_read_the_current_value_says_until_when_the_current_key_works() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        let rotation = world.until_finish(&second()).await;
        let dies = rfc3339(world.kosli_key(&world.first_key).grace_ends_at.unwrap());
        world.emulator.set_hook(Arc::new(Unreadable));
        let message = refused(world.step(&rotation, "finishSecret").await, "SecretsManagerUnavailable");
        assert!(message.contains("works until") && message.contains(&dies), "{message}");
    });
}

/// The value under `AWSCURRENT` cannot be read.
struct Unreadable;

impl Hook for Unreadable {
    fn before<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Option<Fault>> {
        let meant =
            call.operation == "GetSecretValue" && call.detail.contains("ci-") && call.detail.contains("AWSCURRENT");
        Box::pin(std::future::ready(meant.then_some(Fault::ErrorBefore(StatusCode::SERVICE_UNAVAILABLE))))
    }
}
