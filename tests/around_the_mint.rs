//! Something else happens around a mint: another execution of another version id, a person, a late effect, an answer of Kosli's that
//! contradicts its list. Each course was once seen to lose a key, to end one that is used, or to blame somebody who has done nothing.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::sync::atomic::Ordering;
use std::time::Duration;

use emulator::kosli::{LastUsedAt, ListInGrace, MintedBy, Role, RotateInGrace, Switches};
use emulator::rotation::{Event, step_event};
use serde_json::{Value, json};
use testbed::{
    ACCOUNT, ADMIN_SECRET, DAY, DESCRIPTION, HOUR, ONCE, ORG, Setting, Shape, Testbed, World, aws, done, refused,
    rfc3339, rotate_by_hand, second, token,
};

const EVERY_LIST: [ListInGrace; 3] = [ListInGrace::OwnExpiry, ListInGrace::EndOfGrace, ListInGrace::Hidden];

fn labels_of(world: &World, version: &str) -> String {
    world.aws("DescribeSecret", json!({"SecretId": world.arn})).unwrap()["VersionIdsToStages"][version].to_string()
}

/// The three ways in which nothing but the key is in the value.
const WITHOUT_ID: [Shape; 3] = [Shape::WithoutId, Shape::ApiKeyAlone, Shape::Plain];

/// Case 2. While an execution waits for a key that another one has minted for another version id, that one goes on: its store takes
/// `AWSPENDING` away from this one's version, which has nothing to do any more.
#[test]
fn a_rotation_that_has_lost_its_label_during_the_wait_mints_nothing() {
    Testbed::run(async |testbed| {
        for list_in_grace in EVERY_LIST {
            let switches = Switches { list_in_grace, last_used_at: LastUsedAt::Never, ..Switches::default() };
            let world = testbed.world(&Setting { switches, ..Setting::default() });
            let first = world.begin_rotation(&second()).unwrap();
            world.rule("PutSecretValue=late:60s");
            let event = step_event(&first, "createSecret");
            refused(world.invoke_within(0, &event, Duration::from_secs(40)).await, "StoreFailed");
            world.emulator.faults().clear();
            world.clear_pending(&second());
            let waiting = world.begin_rotation(&token("third", 0)).unwrap();
            world.advance(Duration::from_secs(15));
            let error = world.step(&waiting, "createSecret").await.unwrap_err();
            assert!(error.error_type.starts_with("TokenNot"), "{error}\n{}", world.story());
            assert_eq!((world.minted().len(), world.count(&["revoke"])), (1, 0), "{}", world.story());
            // The other one is completed.
            done(world.step(&first, "testSecret").await);
            done(world.step(&first, "finishSecret").await);
            assert_eq!(world.key("AWSCURRENT").unwrap().id, world.minted()[0].id);
            world.assert_kept();
        }
    });
}

/// The same, and it has become current by the time that the wait is over. Its key looks never used, and is what is to be replaced now.
#[test]
fn a_key_that_has_become_current_during_the_wait_is_rotated_as_the_current_one() {
    Testbed::run(async |testbed| {
        for list_in_grace in EVERY_LIST {
            let switches = Switches { list_in_grace, last_used_at: LastUsedAt::Never, ..Switches::default() };
            let world = testbed.world(&Setting { switches, ..Setting::default() });
            let (_, k2) = world.lose_a_key().await;
            world.emulator.faults().clear();
            world.clear_pending(&second());
            let waiting = world.begin_rotation(&token("third", 0)).unwrap();
            let put = json!({"SecretId": world.arn, "SecretString": world.with_key(&k2), "ClientRequestToken": second(),
                             "VersionStages": ["by-hand"]});
            let moved = json!({"SecretId": world.arn, "VersionStage": "AWSCURRENT", "MoveToVersionId": second(),
                               "RemoveFromVersionId": token("first", 0)});
            world.advance(Duration::from_secs(50));
            let emulator = world.emulator.clone();
            let promote = async {
                emulator.sleep(Duration::from_secs(20)).await;
                aws(&emulator, "PutSecretValue", &put).unwrap();
                aws(&emulator, "UpdateSecretVersionStage", &moved).unwrap();
            };
            let (answer, ()) = tokio::join!(world.step(&waiting, "createSecret"), promote);
            let answer = done(answer);
            assert_eq!(answer["replaced_key_id"], json!(k2.id), "{answer}\n{}", world.story());
            assert_eq!(world.minted().last().unwrap().minted_by, MintedBy::Rotate { of: k2.id.clone() });
            // It has the grace period of a key that is used.
            let ends = world.kosli_key(&k2.id).grace_ends_at.unwrap();
            assert!(ends >= world.emulator.clock().now() + HOUR * 23, "{}", world.story());
            world.assert_kept();
        }
    });
}

/// The neighbours of case 2: what else can have happened to the labels by the time of the second mint.
#[test]
fn a_second_mint_is_not_sent_where_the_labels_are_others_by_then() {
    Testbed::run(async |testbed| {
        for what in ["cleared", "put", "edited"] {
            let world = testbed.world(&Setting::default());
            let rotation = world.begin_rotation(&second()).unwrap();
            world.rule("rotate#1=drop-after");
            let (arn, edited) = (world.arn.clone(), world.edited());
            let act = move |emulator: &emulator::Emulator| {
                let clear = json!({"SecretId": arn, "VersionStage": "AWSPENDING", "RemoveFromVersionId": second()});
                let put = |label: &str| {
                    json!({"SecretId": arn, "SecretString": edited, "ClientRequestToken": token("hand", 0),
                           "VersionStages": [label]})
                };
                let moved = json!({"SecretId": arn, "VersionStage": "AWSCURRENT", "RemoveFromVersionId": token("first", 0),
                                   "MoveToVersionId": token("hand", 0)});
                match what {
                    "cleared" => drop(aws(emulator, "UpdateSecretVersionStage", &clear).unwrap()),
                    "put" => drop(aws(emulator, "PutSecretValue", &put("AWSCURRENT")).unwrap()),
                    _ => {
                        aws(emulator, "PutSecretValue", &put("by-hand")).unwrap();
                        aws(emulator, "UpdateSecretVersionStage", &moved).unwrap();
                    }
                }
            };
            // Right after the first mint, when the execution looks for what became of it.
            world.before_call("list", 2, act);
            let outcome = world.step(&rotation, "createSecret").await;
            if what == "edited" {
                // The key is the same, and so is its replacement: it goes on.
                assert_eq!(done(outcome)["outcome"], "recovered", "{}", world.story());
            } else {
                let error = outcome.unwrap_err();
                assert!(error.error_type.starts_with("TokenNot"), "{error}");
                let dies = rfc3339(world.kosli_key(&world.first_key).grace_ends_at.unwrap());
                assert!(error.error_message.contains(&dies), "{error}");
                assert!(error.error_message.contains("may have been minted"), "{error}");
                assert_eq!(world.minted().len(), 1, "{}", world.story());
            }
            world.assert_kept();
        }
    });
}

/// Cases 1 and 1b, the half of createSecret: another execution's value is stored, and its key is one that this execution has rotated.
#[test]
fn who_has_rotated_the_key_that_another_execution_stores_says_that_it_is_dying() {
    Testbed::run(async |testbed| {
        // Before which call of the second execution it is stored: where it looks anew, or where it stores its own.
        for (rule, operation, number) in [
            (Some("rotate#1=drop-after"), "DescribeSecret", 2),
            (Some("rotate#1=incomplete"), "DescribeSecret", 2),
            (Some("rotate#1=incomplete"), "PutSecretValue", 1),
            (None, "PutSecretValue", 1),
        ] {
            let world = testbed.world(&Setting::default());
            let (rotation, k2) = world.lose_a_key().await;
            world.emulator.faults().clear();
            world.advance(Duration::from_secs(106));
            rule.into_iter().for_each(|rule| world.rule(rule));
            world.probe.pending_is_safe.store(false, Ordering::SeqCst);
            let put = json!({"SecretId": world.arn, "SecretString": world.with_key(&k2), "ClientRequestToken": second(),
                             "VersionStages": ["AWSPENDING"]});
            world.before_call(operation, number, move |emulator| {
                aws(emulator, "PutSecretValue", &put).unwrap();
            });
            let message = refused(world.step(&rotation, "createSecret").await, "PendingKeyDying");
            assert!(message.contains("update-secret-version-stage") && message.contains("rotate-secret"), "{message}");
            assert_eq!(world.key("AWSPENDING").unwrap().id, k2.id, "{rule:?}: {}", world.story());
            assert_eq!(world.count(&["revoke"]), 0, "{rule:?}: {}", world.story());
            // However often it is tried again: not promoted until it is cleared.
            world.emulator.faults().clear();
            assert_ne!(world.drive(&rotation, ONCE).await, Event::Succeeded, "{rule:?}: {}", world.story());
            assert_eq!(world.key("AWSCURRENT").unwrap().id, world.first_key);
            world.clear_pending(&second());
            world.advance(Duration::from_secs(120));
            world.probe.pending_is_safe.store(true, Ordering::SeqCst);
            let third = world.begin_rotation(&token("third", 0)).unwrap();
            world.complete(&third, ONCE).await;
        }
    });
}

/// Case 8. The admin key would die with the rotation. The admin secret that rotates itself is not meant.
#[test]
fn an_admin_secret_that_holds_the_very_key_is_refused_before_the_mint() {
    Testbed::run(async |testbed| {
        for step in ["createSecret", "testSecret"] {
            let world = testbed.world(&Setting::default());
            let copy = json!({"SecretId": ADMIN_SECRET, "SecretString": world.value("AWSCURRENT").unwrap(),
                              "ClientRequestToken": token("copy", 0)});
            world.aws("PutSecretValue", copy).unwrap();
            let rotation = world.begin_rotation(&second()).unwrap();
            if step == "testSecret" {
                let copy = json!({"SecretId": world.arn, "SecretString": world.value("AWSCURRENT").unwrap(),
                                  "ClientRequestToken": second(), "VersionStages": ["AWSPENDING"]});
                world.aws("PutSecretValue", copy).unwrap();
            }
            let message = refused(world.step(&rotation, step).await, "InvalidAdminSecret");
            assert!(message.contains("admin secret") && message.contains("Nothing was"), "{message}");
            assert!(world.minted().is_empty());
            world.assert_kept();
        }
    });
}

/// Case 9. The secret's own key was rotated by hand and is hidden: the only key that is listed is another, and younger than the version.
#[test]
fn a_key_that_is_younger_than_the_version_is_not_taken_for_its_own() {
    Testbed::run(async |testbed| {
        for shape in WITHOUT_ID {
            let switches = Switches { list_in_grace: ListInGrace::Hidden, ..Switches::default() };
            let world = testbed.world(&Setting { shape, switches, strangers: false, ..Setting::default() });
            world.untag("kosli:key-id");
            world.advance(DAY);
            let own = world.kosli_key(&world.first_key);
            rotate_by_hand(&world.emulator, &own.id, &json!({}));
            world.advance(HOUR);
            let other = world.emulator.with_kosli(|kosli| {
                let listed: Vec<String> =
                    kosli.keys().filter(|key| key.account == ACCOUNT).map(|key| key.id.clone()).collect();
                listed.into_iter().next_back().unwrap()
            });
            let rotation = world.begin_rotation(&second()).unwrap();
            let message = refused(world.step(&rotation, "createSecret").await, "KeyIdUnknown");
            assert!(message.contains(&other), "{message}");
            assert!(world.kosli_key(&other).rotated_at.is_none(), "{}", world.story());
            world.assert_kept();
        }
    });
}

/// Case 10. The current key was revoked by hand, and Kosli goes on accepting it for some seconds.
#[test]
fn a_key_that_was_revoked_a_moment_ago_is_an_incident_in_the_same_step() {
    Testbed::run(async |testbed| {
        for seconds in [1, 3, 8] {
            for admin in [true, false] {
                let switches =
                    Switches { revoked_key_accepted_for: Duration::from_secs(seconds), ..Switches::default() };
                let world = testbed.world(&Setting { switches, admin, ..Setting::default() });
                let rotation = world.begin_rotation(&second()).unwrap();
                world.probe.current_is_alive.store(false, Ordering::SeqCst);
                assert!(world.emulator.with_kosli(|kosli| kosli.revoke_key(&world.first_key)));
                let outcome = world.step(&rotation, "createSecret").await;
                if admin {
                    assert_eq!(done(outcome)["outcome"], "created", "{}", world.story());
                    assert_eq!(world.minted()[0].minted_by, MintedBy::Create);
                } else {
                    refused(outcome, "CurrentKeyDead");
                    assert!(world.minted().is_empty());
                }
            }
        }
    });
}

/// The same, where a wait for Kosli is when the key is revoked: in self-rotation the list is refused then, and that is no permission
/// that is missing.
#[test]
fn a_key_that_is_revoked_during_a_wait_is_an_incident_in_the_same_step() {
    Testbed::run(async |testbed| {
        for refusal in ["refuse:429", "refuse:409", "incomplete"] {
            for admin in [true, false] {
                let world = testbed.world(&Setting { admin, ..Setting::default() });
                let rotation = world.begin_rotation(&second()).unwrap();
                world.rule(&format!("rotate#1={refusal}"));
                world.probe.current_is_alive.store(false, Ordering::SeqCst);
                let key = world.first_key.clone();
                world.before_call("DescribeSecret", 2, move |emulator| {
                    assert!(emulator.with_kosli(|kosli| kosli.revoke_key(&key)));
                });
                let outcome = world.step(&rotation, "createSecret").await;
                if admin {
                    done(outcome);
                } else {
                    let message = refused(outcome, "CurrentKeyDead");
                    assert!(!message.contains("may not"), "{refusal}: {message}");
                }
            }
        }
    });
}

/// Case 11. The list shows the key, and `rotate` does not find it; and its neighbours, where Kosli refuses otherwise.
#[test]
fn a_key_that_kosli_lists_and_does_not_rotate_is_created_beside_in_kosli_s_own_words() {
    Testbed::run(async |testbed| {
        for status in [400, 404, 409] {
            for also_create in [false, true] {
                let world = testbed.world(&Setting::default());
                let rotation = world.begin_rotation(&second()).unwrap();
                world.rule(&format!("rotate=refuse:{status}:message=not this one"));
                if also_create {
                    world.rule("create=refuse:403:message=no more of them");
                }
                let outcome = world.step(&rotation, "createSecret").await;
                let said = if also_create {
                    let message = refused(outcome, "KosliForbidden");
                    assert!(
                        message.contains("no more of them") && !message.contains("not on the account"),
                        "{message}"
                    );
                    message
                } else {
                    let answer = done(outcome);
                    assert_eq!(answer["outcome"], "created");
                    let warning = answer["warnings"].to_string();
                    assert!(warning.contains("Nothing ends the old one"), "{warning}");
                    warning
                };
                assert!(said.contains(&format!("{status}: not this one")) && said.contains(&world.first_key), "{said}");
                assert!(world.lives(&world.first_key));
                world.assert_kept();
            }
        }
    });
}

/// A 404 that passes is no answer.
#[test]
fn a_listed_key_that_is_not_found_for_a_moment_is_rotated() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        world.rule("rotate#1=refuse:404");
        world.rule("rotate#2=refuse:404");
        world.rotate_completely(&second()).await;
        assert_eq!(world.minted().len(), 1);
    });
}

/// Case 13. After a mint nothing is worth more than the store.
#[test]
fn the_store_is_tried_until_the_time_is_used_up() {
    Testbed::run(async |testbed| {
        for refusal in ["refuse:400:ThrottlingException", "error-before:503", "refuse:400:TooManyRequestsException"] {
            let world = testbed.world(&Setting::default());
            let rotation = world.begin_rotation(&second()).unwrap();
            for number in 1..=12 {
                world.rule(&format!("PutSecretValue#{number}={refusal}"));
            }
            let answer = done(world.step(&rotation, "createSecret").await);
            assert_eq!(answer["outcome"], "rotated", "{}", world.story());
            assert_eq!(world.minted().len(), 1);
            world.complete(&rotation, ONCE).await;
        }
        // To its end: the error says what can be done about it, and blames nobody's permissions.
        let world = testbed.world(&Setting::default());
        let rotation = world.begin_rotation(&second()).unwrap();
        world.rule("PutSecretValue=refuse:400:ThrottlingException");
        let begin = world.emulator.clock().now();
        let message = refused(world.step(&rotation, "createSecret").await, "StoreFailed");
        let taken = world.emulator.clock().now().duration_since(begin).unwrap();
        assert!(taken >= testbed::TIMEOUT - Duration::from_secs(8), "{taken:?}");
        assert!(!message.contains("Correct what") && message.contains("tries the rotation again"), "{message}");
        let dies = rfc3339(world.kosli_key(&world.first_key).grace_ends_at.unwrap());
        assert!(message.contains(&dies), "{message}");
        world.assert_kept();
    });
}

/// Case 14. A key was lost, and the next attempt fails before it can do anything: it names the instant all the same.
#[test]
fn every_error_after_a_lost_mint_names_the_instant() {
    type Trouble = fn(&World);
    let troubles: [(&str, Trouble, &str); 8] = [
        ("verify=error-before:503", |world| world.rule("verify=error-before:503"), "KosliUnavailable"),
        ("verify=refuse:403", |world| world.rule("verify=refuse:403"), "KosliForbidden"),
        ("a malformed tag", |world| world.tag("kosli:grace-period-hours", "a day"), "InvalidTag"),
        ("rotation switched off", cancel, "RotationNotEnabled"),
        ("rotate=refuse:403", |world| world.rule("rotate=refuse:403"), "KosliForbidden"),
        ("rotate=refuse:429", |world| world.rule("rotate=refuse:429"), "KosliUnavailable"),
        ("rotate=error-before:503", |world| world.rule("rotate=error-before:503"), "MintUnclear"),
        (
            "no admin secret",
            |world| {
                world
                    .aws(
                        "PutSecretValue",
                        json!({"SecretId": ADMIN_SECRET, "SecretString": "{}",
                                             "ClientRequestToken": token("hand", 0)}),
                    )
                    .unwrap();
            },
            "InvalidAdminSecret",
        ),
    ];
    Testbed::run(async |testbed| {
        for (what, trouble, error_type) in troubles {
            for age in [Duration::ZERO, HOUR] {
                let world = testbed.world(&Setting::default());
                let (rotation, lost) = world.lose_a_key().await;
                world.emulator.faults().clear();
                world.advance(age);
                trouble(&world);
                let error = world.step(&rotation, "createSecret").await.unwrap_err();
                let (expected, message) = (error.error_type, error.error_message);
                let waits = age.is_zero() && what.starts_with("rotate");
                assert!(expected == error_type || waits, "{what}: {expected} {message}");
                let dies = rfc3339(world.kosli_key(&world.first_key).grace_ends_at.unwrap());
                if error_type == "InvalidAdminSecret" {
                    // There is no key to list with. What is not known is not made up.
                    assert!(!message.contains("works until"), "{message}");
                } else {
                    assert!(message.contains(&dies) && message.contains("works until"), "{what}: {message}");
                }
                assert!(world.lives(&lost.id), "{}", world.story());
                world.assert_kept();
            }
        }
    });
}

fn cancel(world: &World) {
    world.aws("CancelRotateSecret", json!({"SecretId": world.arn})).unwrap();
}

/// Case 18. One execution loses several mints in a row, and the list hides keys in their grace period.
#[test]
fn an_execution_revokes_every_lost_key_that_it_has_replaced() {
    Testbed::run(async |testbed| {
        for list_in_grace in EVERY_LIST {
            for rotate_in_grace in [RotateInGrace::default(), RotateInGrace::NotFound] {
                for rule in ["incomplete", "drop-after"] {
                    for lost in 1..=3 {
                        let switches = Switches { list_in_grace, rotate_in_grace, ..Switches::default() };
                        let world = testbed.world(&Setting { switches, ..Setting::default() });
                        let rotation = world.begin_rotation(&second()).unwrap();
                        for number in 1..=lost {
                            world.rule(&format!("rotate#{number}={rule}"));
                        }
                        let answer = done(world.step(&rotation, "createSecret").await);
                        let minted = world.minted();
                        assert_eq!(minted.len(), lost + 1, "{}", world.story());
                        for key in &minted[..lost] {
                            assert!(!world.lives(&key.id), "{list_in_grace:?} {rule} {lost}: {}", world.story());
                            assert!(answer["revoked_key_ids"].to_string().contains(&key.id), "{answer}");
                        }
                        assert!(world.lives(&minted[lost].id) && world.lives(&world.first_key));
                        world.complete(&rotation, ONCE).await;
                    }
                }
            }
        }
    });
}

/// What one revocation comes to hides nothing of the others: each key is said to be revoked, or to be left.
#[test]
fn a_lost_key_that_cannot_be_revoked_is_named_beside_those_that_are() {
    Testbed::run(async |testbed| {
        for refused_first in [true, false] {
            let world = testbed.world(&Setting::default());
            let rotation = world.begin_rotation(&second()).unwrap();
            world.rule("rotate#1=incomplete");
            world.rule("rotate#2=incomplete");
            world.rule(if refused_first { "revoke#1=refuse:403" } else { "revoke#2=refuse:403" });
            let answer = done(world.step(&rotation, "createSecret").await);
            let minted = world.minted();
            let (left, gone) = if refused_first { (&minted[0], &minted[1]) } else { (&minted[1], &minted[0]) };
            assert_eq!(answer["revoked_key_ids"], json!([gone.id]), "{answer}");
            assert!(answer["warnings"].to_string().contains(&left.id), "{answer}");
            assert!(world.lives(&left.id) && !world.lives(&gone.id), "{}", world.story());
            world.complete(&rotation, ONCE).await;
        }
    });
}

/// Right before a superfluous key is revoked, the labels are read anew: a version may hold it by now.
#[test]
fn a_superfluous_key_that_a_version_holds_by_now_is_not_revoked() {
    Testbed::run(async |testbed| {
        for held in [true, false] {
            let world = testbed.world(&Setting::default());
            let rotation = world.begin_rotation(&second()).unwrap();
            world.rule("rotate#1=incomplete");
            let (arn, value) = (world.arn.clone(), world.value("AWSCURRENT").unwrap());
            let (old, old_key) = (world.first_key.clone(), world.kosli_key(&world.first_key).value);
            world.before_call("PutSecretValue", 1, move |emulator| {
                let lost = emulator
                    .with_kosli(|kosli| kosli.keys().find(|key| key.minted_by != MintedBy::SetUp).cloned().unwrap());
                let value = value.replace(&old_key, &lost.value).replace(&old, &lost.id);
                let label = if held { "by-hand" } else { "kosli-key-id:other" };
                let put = json!({"SecretId": arn, "SecretString": value, "ClientRequestToken": token("hand", 0),
                                 "VersionStages": [label]});
                aws(emulator, "PutSecretValue", &put).unwrap();
            });
            let answer = done(world.step(&rotation, "createSecret").await);
            let lost = world.minted().remove(0);
            assert_eq!(world.lives(&lost.id), held, "{answer}\n{}", world.story());
            assert_eq!(answer.get("revoked_key_ids").is_some(), !held, "{answer}");
        }
    });
}

/// A key was lost, and then a person puts in a key of another service account: the sweep of this rotation looks at that account alone, so
/// what may live on the one before is named.
#[test]
fn a_lost_key_on_the_account_that_the_secret_named_before_is_named() {
    Testbed::run(async |testbed| {
        for rules in
            [&["rotate#1=drop-after"][..], &["rotate#1=incomplete"], &["rotate#1=incomplete", "rotate#2=drop-after"]]
        {
            for refused_after in [false, true] {
                let world = testbed.world(&Setting::default());
                let rotation = world.begin_rotation(&second()).unwrap();
                rules.iter().for_each(|rule| world.rule(rule));
                if refused_after {
                    world.rule(&format!("rotate#{}=refuse:403", rules.len() + 1));
                }
                let now = world.emulator.clock().now();
                let (id, key) = world.emulator.with_kosli(|kosli| {
                    kosli.add_account(ORG, "other", Role::Member);
                    kosli.add_key(ORG, "other", DESCRIPTION, now, Some(now + DAY * 300))
                });
                let value = json!({"api_key": key, "key_id": id, "org": ORG, "service_account": "other"}).to_string();
                let put = json!({"SecretId": world.arn, "SecretString": value, "ClientRequestToken": token("hand", 0),
                                 "VersionStages": ["by-hand"]});
                let moved = json!({"SecretId": world.arn, "VersionStage": "AWSCURRENT",
                                   "MoveToVersionId": token("hand", 0), "RemoveFromVersionId": token("first", 0)});
                world.before_call("DescribeSecret", 1 + rules.len(), move |emulator| {
                    aws(emulator, "PutSecretValue", &put).unwrap();
                    aws(emulator, "UpdateSecretVersionStage", &moved).unwrap();
                });
                let outcome = world.step(&rotation, "createSecret").await;
                let lost = world.minted().remove(0);
                let said = if refused_after {
                    refused(outcome, "KosliForbidden")
                } else {
                    let answer = done(outcome);
                    assert_eq!(answer.get("revoked_key_ids"), None, "{answer}");
                    answer["warnings"].to_string()
                };
                assert!(said.contains(&format!("{ORG}/{ACCOUNT}")), "{said}\n{}", world.story());
                assert_eq!(said.contains(&lost.id), rules[0].ends_with("incomplete"), "{said}");
                assert!(world.lives(&lost.id), "{}", world.story());
            }
        }
    });
}

/// Case 7 and decision 15. Where nothing but the tag names the key's id, the version that is replaced gets a label before the mint.
#[test]
fn the_id_of_the_replaced_key_is_settled_before_the_mint() {
    Testbed::run(async |testbed| {
        for shape in WITHOUT_ID {
            // Immediate revocation finds the old key, also when its first attempt failed and the step comes again.
            let world = testbed.world(&Setting { shape, revoke_immediately: true, ..Setting::default() });
            let rotation = world.until_finish(&second()).await;
            let label = format!("kosli-key-id:{}", world.first_key);
            assert!(labels_of(&world, &token("first", 0)).contains(&label), "{}", world.story());
            world.rule("revoke#1=refuse:403");
            refused(world.step(&rotation, "finishSecret").await, "CleanUpIncomplete");
            world.untag("kosli:key-id");
            let answer = done(world.step(&rotation, "finishSecret").await);
            assert_eq!(answer["replaced_key_id"], json!(world.first_key), "{answer}");
            assert!(!world.lives(&world.first_key), "{}", world.story());
            assert_eq!(answer["old_key"], "dead", "{answer}");

            // The next rotation needs no label, for the version has its own.
            let writes = world.count(&["UpdateSecretVersionStage"]);
            world.advance(DAY * 2);
            world.rotate_completely(&token("third", 0)).await;
            assert_eq!(world.count(&["UpdateSecretVersionStage"]), writes + 1, "{}", world.story());
        }
    });
}

/// The same, where the id is found out by being the account's only key; and it is said by an error that comes after it.
#[test]
fn an_error_after_the_label_says_that_it_was_attached() {
    Testbed::run(async |testbed| {
        for tagged in [true, false] {
            let world = testbed.world(&Setting { shape: Shape::Plain, strangers: false, ..Setting::default() });
            if !tagged {
                world.untag("kosli:key-id");
            }
            let rotation = world.begin_rotation(&second()).unwrap();
            world.rule("rotate#1=refuse:422");
            let message = refused(world.step(&rotation, "createSecret").await, "KosliRefused");
            assert!(message.contains(&format!("kosli-key-id:{}", world.first_key)), "{message}");
            assert!(!message.contains("Nothing was changed"), "{message}");
            world.emulator.faults().clear();
            world.rule("rotate#1=refuse:422");
            // It is there now: nothing is said of it again, and nothing done.
            let message = refused(world.step(&rotation, "createSecret").await, "KosliRefused");
            assert!(message.contains("Nothing was changed"), "{message}");
            assert_eq!(world.count(&["UpdateSecretVersionStage"]), 1);
            world.emulator.faults().clear();
            world.complete(&rotation, ONCE).await;
        }
    });
}

/// A tag that names no key of the account is not put on a label: it may be mistyped.
#[test]
fn an_id_that_no_list_shows_gets_no_label() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting { shape: Shape::Plain, ..Setting::default() });
        world.tag("kosli:key-id", "mistyped");
        let rotation = world.begin_rotation(&second()).unwrap();
        refused(world.step(&rotation, "createSecret").await, "KeyNotOnAccount");
        assert_eq!(world.count(&["UpdateSecretVersionStage"]), 0, "{}", world.story());
        assert!(world.minted().is_empty());
    });
}

/// Before anybody is blamed, the labels are looked at anew: another execution may have promoted meanwhile, and the key that is not found
/// any more is the one that was replaced.
#[test]
fn nobody_is_blamed_for_what_another_execution_has_done_meanwhile() {
    Testbed::run(async |testbed| {
        for list_in_grace in EVERY_LIST {
            let switches = Switches { list_in_grace, rotate_in_grace: RotateInGrace::NotFound, ..Switches::default() };
            let world = testbed.world(&Setting { switches, ..Setting::default() });
            let rotation = world.until_finish(&second()).await;
            let next = {
                // The rotation after it begins with a view from before the promotion.
                world.clear_pending(&second());
                world.begin_rotation(&token("third", 0)).unwrap()
            };
            let back = json!({"SecretId": world.arn, "VersionStage": "AWSCURRENT", "MoveToVersionId": second(),
                              "RemoveFromVersionId": token("first", 0)});
            world.meanwhile("verify", move |emulator| {
                aws(emulator, "UpdateSecretVersionStage", &back).unwrap();
            });
            let k2 = world.minted()[0].id.clone();
            let answer = done(world.step(&next, "createSecret").await);
            assert_eq!(answer["replaced_key_id"], json!(k2), "{list_in_grace:?} {answer}\n{}", world.story());
            let _ = rotation;
            world.assert_kept();
        }
    });
}

/// The admin secret is rotated between its read and its use.
#[test]
fn an_admin_key_that_was_rotated_meanwhile_is_read_anew() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        let rotation = world.begin_rotation(&second()).unwrap();
        let now = world.emulator.clock().now();
        world.meanwhile("verify", move |emulator| {
            let (old, new) = emulator.with_kosli(|kosli| {
                let old = kosli.keys().find(|key| key.account != ACCOUNT && key.revoked_at.is_none()).unwrap().clone();
                let (_, value) = kosli.add_key(&old.org, &old.account, "admin", now, Some(now + DAY * 90));
                (old.id, value)
            });
            let put: Value =
                json!({"SecretId": ADMIN_SECRET, "SecretString": new, "ClientRequestToken": token("hand", 0)});
            aws(emulator, "PutSecretValue", &put).unwrap();
            emulator.with_kosli(|kosli| kosli.revoke_key(&old));
        });
        world.complete(&rotation, ONCE).await;
        assert!(world.lives(&world.key("AWSCURRENT").unwrap().id));
    });
}

/// A key by hand beside the account's own does no harm where the id is known.
#[test]
fn a_stranger_that_is_made_between_two_mints_is_left_alone() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        let rotation = world.begin_rotation(&second()).unwrap();
        world.rule("rotate#1=drop-after");
        let by_hand = world.made_by_hand(ACCOUNT).id;
        world.complete(&rotation, ONCE).await;
        assert!(world.lives(&by_hand), "{}", world.story());
    });
}
