//! Every secret in every situation: shapes without a key id, first rotations, immediate revocation, incidents and policies.
//! Each scenario goes through the boundary and asserts the promises.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::sync::atomic::Ordering;
use std::time::Duration;

use emulator::kosli::{GetInGrace, ListInGrace, MintedBy, Role, RotateInGrace, SuccessorId, Switches};
use emulator::rotation::{Event, step_event};
use emulator::secrets_manager::{RotationRequest, TestedVersion};
use kosli_key_rotation::marker::WINDOW;
use serde_json::{Value, json};
use testbed::{
    ACCOUNT, ADMIN_SECRET, DAY, DESCRIPTION, HOUR, ONCE, ORG, Setting, Shape, Testbed, World, done, key_in, refused,
    rotate_by_hand, token,
};

const EVERY_SHAPE: [Shape; 6] =
    [Shape::ApiKey, Shape::Environment, Shape::WithoutId, Shape::ApiKeyAlone, Shape::EnvironmentAlone, Shape::Plain];

const LABEL: &str = "kosli-key-id:";

fn turn(number: usize) -> String {
    token("turn", number)
}

fn with_variables(variables: &[(&str, &str)]) -> Setting {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Setting { variables, ..Setting::default() }
}

/// The staging labels of all versions.
fn labels(world: &World) -> Vec<String> {
    world.emulator.with_secrets_manager(|service| {
        let versions = &service.secret(&world.arn).unwrap().versions;
        versions.iter().flat_map(|version| version.stages.iter().cloned()).collect()
    })
}

/// A version's value with a placeholder for whatever is the key's: what a rotation must not change.
fn form(value: &str) -> String {
    let Ok(Value::Object(mut fields)) = serde_json::from_str(value) else { return "a plain key".to_owned() };
    for (name, field) in &mut fields {
        if ["api_key", "key_id", "KOSLI_API_TOKEN", "KOSLI_API_KEY_ID"].contains(&name.as_str()) {
            *field = "…".into();
        }
    }
    Value::Object(fields).to_string()
}

fn current_id(world: &World) -> String {
    world.key("AWSCURRENT").unwrap().id
}

fn revoke_by_hand(world: &World, id: &str) {
    assert!(world.emulator.with_kosli(|kosli| kosli.revoke_key(id)), "{id} is dead already");
}

/// What the error for an unknown key id asks for, where the value has no field for it.
fn attach_key_id(world: &World, id: &str, version: &str) {
    world.move_label(&format!("{LABEL}{id}"), version, None);
}

/// From here on the current key is known to be dead, until the rotation heals it.
fn current_may_be_dead(world: &World, may: bool) {
    world.probe.current_is_alive.store(!may, Ordering::SeqCst);
}

/// Rotates out of a state in which the current key is dead.
async fn heal(world: &World, token: &str) {
    current_may_be_dead(world, true);
    let end = world.rotate(token, ONCE).await;
    assert_eq!(end, Event::Succeeded, "{}", world.story());
    current_may_be_dead(world, false);
    world.assert_completed();
}

/// Asserts that no key of the account was touched or minted, and the secret neither.
fn assert_untouched(world: &World, keys: &[&str]) {
    for id in keys {
        let key = world.kosli_key(id);
        assert_eq!((key.revoked_at, key.rotated_at), (None, None), "{}", world.story());
    }
    assert_eq!(world.value("AWSPENDING"), None);
}

#[test]
fn fifty_rotations_keep_the_labels_bounded_and_the_value_in_its_form() {
    Testbed::run(async |testbed| {
        for (shape, revoke_immediately) in
            [(Shape::Plain, false), (Shape::Plain, true), (Shape::WithoutId, false), (Shape::ApiKeyAlone, true)]
        {
            let world = testbed.world(&Setting { shape, revoke_immediately, ..Setting::default() });
            let form_before = form(&world.value("AWSCURRENT").unwrap());
            let mut last: Option<RotationRequest> = None;
            for number in 0..50 {
                let rotation = world.begin_rotation(&turn(number)).unwrap();
                done(world.step(&rotation, "createSecret").await);
                if let Some(last) = last.filter(|_| number % 5 == 0) {
                    // The last delivery of the rotation before, while this one is pending.
                    let pending = world.value("AWSPENDING");
                    assert_eq!(done(world.step(&last, "finishSecret").await)["outcome"], "already current");
                    assert_eq!(world.value("AWSPENDING"), pending);
                }
                world.complete(&rotation, ONCE).await;
                let labels = labels(&world);
                let key_ids = labels.iter().filter(|label| label.starts_with(LABEL)).count();
                assert!(labels.len() <= 20 && key_ids <= 3, "{labels:?}");
                assert!(labels.contains(&format!("{LABEL}{}", current_id(&world))), "{labels:?}");
                assert_eq!(form(&world.value("AWSCURRENT").unwrap()), form_before);
                last = Some(rotation);
                world.advance(DAY * 3);
            }
            assert_eq!(world.minted().len(), 50);
            let alive = world.minted().iter().filter(|key| world.lives(&key.id)).count();
            assert_eq!(alive, 1);
        }
    });
}

#[test]
fn labels_of_the_users_own_leave_room_or_stop_before_the_mint() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting { shape: Shape::Plain, ..Setting::default() });
        let label = |number: usize, version: &str| {
            let body =
                json!({"SecretId": world.arn, "VersionStage": format!("mine-{number}"), "MoveToVersionId": version});
            world.aws("UpdateSecretVersionStage", body).unwrap();
        };
        // With AWSCURRENT, AWSPENDING, AWSPREVIOUS and the labels of both versions' keys: 20.
        (0..15).for_each(|number| label(number, &token("first", 0)));
        world.rotate_completely(&turn(0)).await;
        let rotation = world.begin_rotation(&turn(1)).unwrap();
        refused(world.step(&rotation, "createSecret").await, "NoRoom");
        assert_eq!(world.minted().len(), 1);
        world.assert_kept();
    });
}

/// The label that the replaced version gets before the mint counts for the room: with one label more there is none.
#[test]
fn the_label_of_a_first_rotation_counts_for_the_room() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting { shape: Shape::Plain, ..Setting::default() });
        for number in 0..16 {
            let body = json!({"SecretId": world.arn, "VersionStage": format!("mine-{number}"),
                              "MoveToVersionId": token("first", 0)});
            world.aws("UpdateSecretVersionStage", body).unwrap();
        }
        let rotation = world.begin_rotation(&turn(0)).unwrap();
        refused(world.step(&rotation, "createSecret").await, "NoRoom");
        assert_eq!((world.minted().len(), world.writes()), (0, 0), "{}", world.story());
    });
}

#[test]
fn identity_from_tags_alone_does_for_every_shape() {
    Testbed::run(async |testbed| {
        for shape in EVERY_SHAPE {
            for admin in [true, false] {
                let world = testbed.world(&Setting { shape, admin, ..Setting::default() });
                let form_before = form(&world.value("AWSCURRENT").unwrap());
                let fields: Vec<String> = match serde_json::from_str(&world.value("AWSCURRENT").unwrap()) {
                    Ok(Value::Object(fields)) => fields.keys().cloned().collect(),
                    _ => Vec::new(),
                };
                for number in 0..3 {
                    world.rotate_completely(&turn(number)).await;
                    let value = world.value("AWSCURRENT").unwrap();
                    assert_eq!(form(&value), form_before);
                    let now: Vec<String> = match serde_json::from_str(&value) {
                        Ok(Value::Object(fields)) => fields.keys().cloned().collect(),
                        _ => Vec::new(),
                    };
                    assert_eq!(now, fields, "no field is added, and none moves");
                    world.advance(DAY);
                }
                assert_eq!(world.minted().len(), 3);
            }
        }
    });
}

#[test]
fn the_first_rotation_without_a_key_id_takes_the_only_key() {
    Testbed::run(async |testbed| {
        for shape in [Shape::WithoutId, Shape::ApiKeyAlone, Shape::EnvironmentAlone, Shape::Plain] {
            for admin in [true, false] {
                let world = testbed.world(&Setting { shape, admin, strangers: false, ..Setting::default() });
                world.untag("kosli:key-id");
                world.rotate_completely(&turn(0)).await;
                assert_eq!(world.minted()[0].minted_by, MintedBy::Rotate { of: world.first_key.clone() });
                // From here on the label says it, however many keys there are.
                world.made_by_hand(ACCOUNT);
                world.rotate_completely(&turn(1)).await;
            }
        }
    });
}

#[test]
fn the_first_rotation_without_a_key_id_lists_the_candidates_where_there_are_several() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting { shape: Shape::Plain, strangers: false, ..Setting::default() });
        world.untag("kosli:key-id");
        let other = world.made_by_hand(ACCOUNT);
        let rotation = world.begin_rotation(&turn(0)).unwrap();
        let message = refused(world.step(&rotation, "createSecret").await, "KeyIdUnknown");
        for part in [world.first_key.as_str(), &other.id, DESCRIPTION, "never used", "kosli:key-id"] {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
        for key in [&other.value, &world.kosli_key(&world.first_key).value] {
            assert!(!message.contains(key.as_str()));
        }
        assert_untouched(&world, &[&world.first_key, &other.id]);
        world.assert_kept();
        // What the error asks for.
        world.tag("kosli:key-id", &world.first_key);
        world.complete(&rotation, ONCE).await;
        assert_eq!(world.kosli_key(&other.id).rotated_at, None);
    });
}

#[test]
fn the_first_rotation_without_a_key_id_finds_none_on_another_account() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting { shape: Shape::Plain, strangers: false, ..Setting::default() });
        world.untag("kosli:key-id");
        world.emulator.with_kosli(|kosli| kosli.add_account(ORG, "empty", Role::Member));
        world.tag("kosli:service-account", "empty");
        let rotation = world.begin_rotation(&turn(0)).unwrap();
        let message = refused(world.step(&rotation, "createSecret").await, "KeyIdUnknown");
        assert!(message.contains("acme/empty") && message.contains("Candidates: none"), "{message}");
        assert!(world.minted().is_empty());
        assert_untouched(&world, &[&world.first_key]);
        world.assert_kept();
    });
}

#[test]
fn a_value_stored_by_hand_without_a_label_is_never_taken_for_another_key() {
    Testbed::run(async |testbed| {
        for shape in [Shape::Plain, Shape::WithoutId] {
            let world = testbed.world(&Setting { shape, strangers: false, ..Setting::default() });
            world.rotate_completely(&turn(0)).await;
            let rotated = current_id(&world);
            let by_hand = world.made_by_hand(ACCOUNT);
            let old = world.value("AWSCURRENT").unwrap();
            world.put(&old.replace(&key_in(&old).unwrap(), &by_hand.value), &token("hand", 0));

            // The tag names the first key and the label of the version before names the second: both are stale.
            let rotation = world.begin_rotation(&turn(1)).unwrap();
            let message = refused(world.step(&rotation, "createSecret").await, "KeyIdUnknown");
            assert!(message.contains(&by_hand.id), "{message}");
            assert_untouched(&world, &[&rotated, &by_hand.id]);
            world.assert_kept();

            // What the error asks for: the id on the version itself.
            assert!(message.contains(&format!("{LABEL}KEY_ID --move-to-version-id {}", token("hand", 0))), "{message}");
            attach_key_id(&world, &by_hand.id, &token("hand", 0));
            assert_eq!(world.drive(&rotation, ONCE).await, Event::Succeeded, "{}", world.story());
            let minted = world.minted();
            assert_eq!(minted[1].minted_by, MintedBy::Rotate { of: by_hand.id.clone() });
            assert_eq!(world.kosli_key(&rotated).rotated_at, None, "another key's rotation");
            world.assert_kept();
        }
    });
}

#[test]
fn a_tag_for_the_key_before_is_never_taken_for_the_key_that_was_stored_by_hand() {
    Testbed::run(async |testbed| {
        for shape in [Shape::Plain, Shape::WithoutId] {
            // Before the first rotation: the tag names the first key, and then another key is stored.
            let world = testbed.world(&Setting { shape, strangers: false, ..Setting::default() });
            let by_hand = world.made_by_hand(ACCOUNT);
            let first = world.value("AWSCURRENT").unwrap();
            world.put(&first.replace(&key_in(&first).unwrap(), &by_hand.value), &token("hand", 0));
            let rotation = world.begin_rotation(&turn(0)).unwrap();
            let message = refused(world.step(&rotation, "createSecret").await, "KeyIdUnknown");
            assert!(message.contains(&by_hand.id) && message.contains(&world.first_key), "{message}");
            assert_untouched(&world, &[&world.first_key, &by_hand.id]);

            // A placeholder that was stored first is no key: the tag counts.
            let world = testbed.world(&Setting { shape, strangers: false, ..Setting::default() });
            let value = world.value("AWSCURRENT").unwrap();
            world.put(&value.replace(&key_in(&value).unwrap(), "placeholder"), &token("hand", 0));
            world.put(&value, &token("hand", 1));
            world.rotate_completely(&turn(0)).await;
            world.assert_kept();
        }
    });
}

#[test]
fn an_old_value_stored_by_hand_never_rotates_the_key_that_came_after_it() {
    Testbed::run(async |testbed| {
        for list_in_grace in [ListInGrace::OwnExpiry, ListInGrace::Hidden] {
            let switches = Switches { list_in_grace, ..Switches::default() };
            let setting = Setting { shape: Shape::Plain, strangers: false, switches, ..Setting::default() };
            let world = testbed.world(&setting);
            let first = world.value("AWSCURRENT").unwrap();
            world.rotate_completely(&turn(0)).await;
            let rotated = current_id(&world);
            // Somebody goes back by storing the old value, whose key is in its grace period and, in one setting, not listed:
            // the only key on the list is then another one.
            world.put(&first, &token("hand", 0));
            let rotation = world.begin_rotation(&turn(1)).unwrap();
            // The label on the version that held it before names its id: that key is rotated once more, and no other.
            let answer = done(world.step(&rotation, "createSecret").await);
            assert_eq!(answer["replaced_key_id"], json!(world.first_key), "{answer}");
            assert!(world.kosli_key(&rotated).rotated_at.is_none() && world.lives(&rotated), "{}", world.story());
            world.assert_kept();
        }
    });
}

#[test]
fn a_field_edited_by_hand_leaves_the_key_its_id() {
    Testbed::run(async |testbed| {
        for revoke_immediately in [false, true] {
            let setting = Setting { shape: Shape::WithoutId, revoke_immediately, ..Setting::default() };
            let world = testbed.world(&setting);
            world.rotate_completely(&turn(0)).await;
            let rotated = current_id(&world);
            world.put(&world.edited(), &token("hand", 0));
            world.rotate_completely(&turn(1)).await;
            assert_eq!(world.minted()[1].minted_by, MintedBy::Rotate { of: rotated.clone() });
            assert_eq!(world.lives(&rotated), !revoke_immediately);
            assert!(world.value("AWSCURRENT").unwrap().contains("\"note\":\"edited\""));
        }
    });
}

#[test]
fn immediate_revocation_proves_the_old_key_dead() {
    Testbed::run(async |testbed| {
        for admin in [true, false] {
            // Three seconds of delay at Kosli are waited for.
            for accepted_for in [0, 3] {
                let revoked_key_accepted_for = Duration::from_secs(accepted_for);
                let switches = Switches { revoked_key_accepted_for, ..Switches::default() };
                let setting = Setting { switches, admin, revoke_immediately: true, ..Setting::default() };
                let world = testbed.world(&setting);
                let rotation = world.until_finish(&turn(0)).await;
                let answer = done(world.step(&rotation, "finishSecret").await);
                assert_eq!(answer["old_key"], "dead", "{answer}");
                assert_eq!(answer["revoked_key_ids"], json!([world.first_key]));
                assert!(!world.lives(&world.first_key));
                world.assert_completed();
                // Again: it is gone already, and that is a success.
                assert_eq!(done(world.step(&rotation, "finishSecret").await)["old_key"], "dead");
                world.assert_completed();
            }
        }
    });
}

#[test]
fn immediate_revocation_says_that_the_old_key_is_alive() {
    Testbed::run(async |testbed| {
        let switches = Switches { revoked_key_accepted_for: HOUR, ..Switches::default() };
        let world = testbed.world(&Setting { switches, revoke_immediately: true, ..Setting::default() });
        let rotation = world.until_finish(&turn(0)).await;
        let answer = done(world.step(&rotation, "finishSecret").await);
        assert_eq!(answer["old_key"], "alive", "{answer}");
        let warning = answer["warnings"][0].as_str().unwrap();
        assert!(warning.contains(&world.first_key) && warning.contains("still accepts"), "{warning}");
        world.assert_completed();
    });
}

#[test]
fn immediate_revocation_says_that_it_cannot_tell() {
    Testbed::run(async |testbed| {
        for rule in ["verify#2..=error-before:503", "verify#2..=no-answer", "verify#2..=refuse:403"] {
            let world = testbed.world(&Setting { revoke_immediately: true, ..Setting::default() });
            let rotation = world.until_finish(&turn(0)).await;
            world.rule(rule);
            let answer = done(world.step(&rotation, "finishSecret").await);
            assert_eq!(answer["old_key"], "cannot tell", "{rule}: {answer}");
            assert!(!world.lives(&world.first_key));
            world.assert_completed();
        }
    });
}

#[test]
fn immediate_revocation_never_ends_an_id_that_the_new_key_has() {
    Testbed::run(async |testbed| {
        let switches = Switches { successor_id: SuccessorId::Same, ..Switches::default() };
        let world = testbed.world(&Setting { switches, revoke_immediately: true, ..Setting::default() });
        let rotation = world.until_finish(&turn(0)).await;
        let answer = done(world.step(&rotation, "finishSecret").await);
        assert_eq!(answer["old_key"], "cannot tell", "{answer}");
        assert!(answer["warnings"][0].as_str().is_some_and(|warning| warning.contains("the same id")), "{answer}");
        assert_eq!(world.count(&["revoke"]), 0);
        world.assert_completed();
    });
}

#[test]
fn immediate_revocation_never_ends_an_id_that_a_pending_version_holds() {
    Testbed::run(async |testbed| {
        for shape in [Shape::ApiKey, Shape::Plain] {
            let world = testbed.world(&Setting { shape, ..Setting::default() });
            let first = world.value("AWSCURRENT").unwrap();
            let rotation = world.until_finish(&turn(0)).await;
            done(world.step(&rotation, "finishSecret").await);
            // Somebody stages the old value, in order to go back to it. Then the policy changes, and the step comes again.
            let stages = match shape {
                Shape::Plain => json!(["AWSPENDING", format!("{LABEL}{}", world.first_key)]),
                _ => json!(["AWSPENDING"]),
            };
            let body = json!({"SecretId": world.arn, "SecretString": first, "ClientRequestToken": token("hand", 0),
                              "VersionStages": stages});
            world.aws("PutSecretValue", body).unwrap();
            world.probe.pending_is_safe.store(false, Ordering::SeqCst);
            world.tag("kosli:revoke-old-key", "immediately");
            let answer = done(world.step(&rotation, "finishSecret").await);
            assert!(world.lives(&world.first_key), "AWSPENDING holds it\n{}", world.story());
            assert_eq!(answer["old_key"], "cannot tell", "{answer}");
            world.assert_kept();
        }
    });
}

#[test]
fn a_key_that_was_revoked_by_hand_is_replaced_by_a_new_one() {
    Testbed::run(async |testbed| {
        for shape in EVERY_SHAPE {
            for revoke_immediately in [false, true] {
                let world = testbed.world(&Setting { shape, revoke_immediately, ..Setting::default() });
                world.rotate_completely(&turn(0)).await;
                revoke_by_hand(&world, &current_id(&world));
                heal(&world, &turn(1)).await;
                assert_eq!(world.minted()[1].minted_by, MintedBy::Create);
                world.rotate_completely(&turn(2)).await;
            }
        }
    });
}

#[test]
fn a_key_that_was_revoked_by_hand_needs_a_person_where_there_is_no_admin_key() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting { admin: false, ..Setting::default() });
        revoke_by_hand(&world, &world.first_key);
        current_may_be_dead(&world, true);
        let rotation = world.begin_rotation(&turn(0)).unwrap();
        let message = refused(world.step(&rotation, "createSecret").await, "CurrentKeyDead");
        for part in ["kosli create api-key", "put-secret-value", "KOSLI_ADMIN_SECRET_ID", "acme/ci"] {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
        assert!(world.minted().is_empty());
        // The steps, done by hand.
        let by_hand = world.made_by_hand(ACCOUNT);
        world.put(&world.with_key(&by_hand), &token("hand", 0));
        current_may_be_dead(&world, false);
        world.rotate_completely(&turn(1)).await;
    });
}

#[test]
fn a_dead_value_with_a_living_id_is_an_error_and_nothing_is_minted() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        let value = world.value("AWSCURRENT").unwrap();
        let mistyped = value.replace(&key_in(&value).unwrap(), "emulated-kosli-key-of-nobody");
        world.put(&mistyped, &token("hand", 0));
        current_may_be_dead(&world, true);
        let rotation = world.begin_rotation(&turn(0)).unwrap();
        let message = refused(world.step(&rotation, "createSecret").await, "KeyIdMismatch");
        assert!(message.contains(&world.first_key) && !message.contains("of-nobody"), "{message}");
        assert!(world.minted().is_empty());
        assert_untouched(&world, &[&world.first_key]);
        world.assert_kept();
    });
}

#[test]
fn everything_revoked_while_a_rotation_is_half_done() {
    Testbed::run(async |testbed| {
        for pending in [true, false] {
            let world = testbed.world(&Setting { strangers: false, ..Setting::default() });
            let rotation = world.begin_rotation(&turn(0)).unwrap();
            if !pending {
                world.rule("rotate#1=kill-after");
            }
            let created = world.step(&rotation, "createSecret").await;
            assert_eq!(created.is_ok(), pending, "{created:?}");
            world.probe.pending_is_safe.store(false, Ordering::SeqCst);
            current_may_be_dead(&world, true);
            world.emulator.with_kosli(|kosli| {
                let ids: Vec<String> =
                    kosli.keys().filter(|key| key.account == ACCOUNT).map(|key| key.id.clone()).collect();
                ids.iter().for_each(|id| _ = kosli.revoke_key(id));
            });
            if pending {
                // The value is stored and cannot be replaced: a person has to clear it.
                for step in ["testSecret", "createSecret", "finishSecret"] {
                    refused(world.step(&rotation, step).await, "PendingKeyDead");
                }
                world.clear_pending(&rotation.token);
                heal(&world, &turn(1)).await;
            } else {
                world.advance(Duration::from_secs(120));
                assert_eq!(world.drive(&rotation, ONCE).await, Event::Succeeded, "{}", world.story());
                current_may_be_dead(&world, false);
                world.assert_completed();
            }
            assert_eq!(world.minted().last().unwrap().minted_by, MintedBy::Create);
        }
    });
}

/// Least privilege: no Admin, but whoever created the account.
#[test]
fn the_creators_key_is_admin_enough() {
    Testbed::run(async |testbed| {
        for revoke_immediately in [false, true] {
            let world = testbed.world(&Setting { revoke_immediately, ..Setting::default() });
            world.emulator.with_kosli(|kosli| {
                kosli.add_account(ORG, "platform", Role::Snapshotter);
                kosli.set_creator(ORG, ACCOUNT, "platform");
            });
            heal(&world, &turn(0)).await;

            // Of an account that somebody else created it may do nothing: nothing is minted.
            let world = testbed.world(&Setting { revoke_immediately, ..Setting::default() });
            world.emulator.with_kosli(|kosli| kosli.add_account(ORG, "platform", Role::Snapshotter));
            let rotation = world.begin_rotation(&turn(0)).unwrap();
            refused(world.step(&rotation, "createSecret").await, "KosliForbidden");
            assert!(world.minted().is_empty());
            world.assert_kept();
        }
    });
}

#[test]
fn a_service_account_that_was_made_anew() {
    Testbed::run(async |testbed| {
        for shape in EVERY_SHAPE {
            let world = testbed.world(&Setting { shape, strangers: false, ..Setting::default() });
            world.emulator.with_kosli(|kosli| {
                kosli.remove_account(ORG, ACCOUNT);
                kosli.add_account(ORG, ACCOUNT, Role::Member);
            });
            heal(&world, &turn(0)).await;
            assert_eq!(world.minted()[0].minted_by, MintedBy::Create);
        }
        // As long as there is no such account, the error says so and nothing is minted.
        let world = testbed.world(&Setting { strangers: false, ..Setting::default() });
        world.emulator.with_kosli(|kosli| kosli.remove_account(ORG, ACCOUNT));
        current_may_be_dead(&world, true);
        let rotation = world.begin_rotation(&turn(0)).unwrap();
        let message = refused(world.step(&rotation, "createSecret").await, "KosliRefused");
        assert!(message.contains("acme/ci"), "{message}");
        assert!(world.minted().is_empty());
    });
}

#[test]
fn a_dead_admin_key_stops_the_rotation_and_the_secrets_own_key_does_not_stand_in() {
    Testbed::run(async |testbed| {
        for own_key_lives in [true, false] {
            let world = testbed.world(&Setting::default());
            let admin = world.emulator.with_kosli(|kosli| kosli.keys().find(|key| key.account == "platform").cloned());
            revoke_by_hand(&world, &admin.unwrap().id);
            if !own_key_lives {
                revoke_by_hand(&world, &world.first_key);
                current_may_be_dead(&world, true);
            }
            let rotation = world.begin_rotation(&turn(0)).unwrap();
            let message = refused(world.step(&rotation, "createSecret").await, "AdminKeyDead");
            for part in ["KOSLI_ADMIN_SECRET_ID", "Nothing was changed"] {
                assert!(message.contains(part), "{part} is not in: {message}");
            }
            assert_eq!(world.count(&["rotate", "create", "revoke"]), 0);
            world.assert_kept();
            // A new admin key in its secret is used by the very next attempt.
            let admin = world.made_by_hand("platform");
            let body =
                json!({"SecretId": ADMIN_SECRET, "SecretString": admin.value, "ClientRequestToken": token("admin", 1)});
            world.aws("PutSecretValue", body).unwrap();
            assert_eq!(world.drive(&rotation, ONCE).await, Event::Succeeded, "{}", world.story());
            current_may_be_dead(&world, false);
            world.assert_completed();
        }
    });
}

#[test]
fn a_current_label_that_was_rolled_back_within_the_grace_period() {
    Testbed::run(async |testbed| {
        for (rotate_in_grace, expected) in [
            (RotateInGrace::RestartsGrace, Some("rotated")),
            (RotateInGrace::KeepsGrace, Some("rotated")),
            (RotateInGrace::BadRequest, Some("created")),
            (RotateInGrace::Conflict, Some("created")),
            (RotateInGrace::NotFound, None),
        ] {
            for shape in [Shape::ApiKey, Shape::Plain] {
                let (list_in_grace, get_in_grace) = match expected {
                    Some(_) => (ListInGrace::OwnExpiry, GetInGrace::Found),
                    None => (ListInGrace::Hidden, GetInGrace::NotFound),
                };
                let switches = Switches { rotate_in_grace, list_in_grace, get_in_grace, ..Switches::default() };
                let world = testbed.world(&Setting { shape, switches, ..Setting::default() });
                world.rotate_completely(&turn(0)).await;
                world.advance(DAY);
                world.rotate_completely(&turn(1)).await;
                let rolled_back = current_id(&world);
                world.move_label("AWSCURRENT", &turn(0), Some(&turn(1)));
                let rotation = world.begin_rotation(&turn(2)).unwrap();
                let Some(how) = expected else {
                    // Hidden and refused: the error names both causes, and nothing is minted.
                    let message = refused(world.step(&rotation, "createSecret").await, "KeyNotOnAccount");
                    assert!(message.contains("mistyped") && message.contains("grace period"), "{message}");
                    assert_eq!(world.minted().len(), 2);
                    world.assert_kept();
                    continue;
                };
                let answer = done(world.step(&rotation, "createSecret").await);
                assert_eq!(answer["outcome"], how, "{answer}");
                let is_left = answer["warnings"].to_string().contains("Nothing ends the old one");
                assert_eq!(is_left, how == "created", "{answer}");
                assert_eq!(world.drive(&rotation, ONCE).await, Event::Succeeded, "{}", world.story());
                world.assert_kept();
                // The key that was rolled back was in use: it is the secret's own, and nobody's to revoke.
                let key = world.kosli_key(&rolled_back);
                assert_eq!((key.revoked_at, key.rotated_at), (None, None));
            }
        }
    });
}

#[test]
fn a_current_label_that_was_rolled_back_to_a_dead_key() {
    Testbed::run(async |testbed| {
        for shape in EVERY_SHAPE {
            for revoke_immediately in [true, false] {
                let world = testbed.world(&Setting { shape, revoke_immediately, ..Setting::default() });
                for number in 0..2 {
                    world.rotate_completely(&turn(number)).await;
                    world.advance(DAY);
                }
                let rolled_back = current_id(&world);
                current_may_be_dead(&world, true);
                world.move_label("AWSCURRENT", &turn(0), Some(&turn(1)));
                assert_eq!(world.rotate(&turn(2), ONCE).await, Event::Succeeded, "{}", world.story());
                current_may_be_dead(&world, false);
                world.assert_kept();
                let new = world.minted()[2].clone();
                assert_eq!(new.minted_by, MintedBy::Create);
                assert_eq!(current_id(&world), new.id);
                assert!(world.lives(&rolled_back), "it was in use, and it is not this rotation's");
            }
        }
    });
}

#[test]
fn a_current_label_that_was_rolled_back_to_a_version_whose_key_id_only_the_tag_names() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting { shape: Shape::Plain, ..Setting::default() });
        world.rotate_completely(&turn(0)).await;
        world.move_label("AWSCURRENT", &token("first", 0), Some(&turn(0)));
        // The tag is stale since the first rotation, before which the version got a label.
        let rotation = world.begin_rotation(&turn(1)).unwrap();
        assert_eq!(world.drive(&rotation, ONCE).await, Event::Succeeded, "{}", world.story());
        world.assert_kept();
        assert_eq!(world.minted()[1].minted_by, MintedBy::Rotate { of: world.first_key.clone() });
    });
}

#[test]
fn the_admin_secret_rotates_itself_and_the_next_rotation_uses_its_new_key() {
    Testbed::run(async |testbed| {
        for revoke_immediately in [false, true] {
            let world = testbed.world(&Setting { revoke_immediately, ..Setting::default() });
            let old =
                world.emulator.with_kosli(|kosli| kosli.keys().find(|key| key.account == "platform").cloned()).unwrap();
            let tag = |key: &str, value: &str| json!({"Key": key, "Value": value});
            let tags = [tag("kosli:org", ORG), tag("kosli:service-account", "platform"), tag("kosli:key-id", &old.id)];
            world.aws("TagResource", json!({"SecretId": ADMIN_SECRET, "Tags": tags})).unwrap();
            for number in 0..2 {
                let body = json!({"SecretId": ADMIN_SECRET, "ClientRequestToken": turn(number),
                                  "RotationLambdaARN": "arn:aws:lambda:eu-west-1:123456789012:function:rotation"});
                world.aws("RotateSecret", body).unwrap();
                let rotation = world.emulator.with_secrets_manager(|service| service.take_rotations()).remove(0);
                assert_eq!(world.drive(&rotation, ONCE).await, Event::Succeeded, "{}", world.story());
            }
            let admins = world.minted();
            assert_eq!(world.lives(&old.id), !revoke_immediately);
            let new = admins.last().unwrap();

            let calls = world.emulator.calls().len();
            assert_eq!(world.rotate(&turn(2), ONCE).await, Event::Succeeded, "{}", world.story());
            for call in &world.emulator.calls()[calls..] {
                if ["list", "rotate", "revoke"].contains(&call.operation.as_str()) {
                    assert_eq!(call.key_id.as_ref(), Some(&new.id), "{call}");
                }
            }
            // The admin keys are held by another secret than the one that is looked at here.
            let broken = world.check_completed();
            let other = |what: &&String| !admins.iter().any(|key| what.contains(&key.id));
            assert_eq!(broken.iter().filter(other).count(), 0, "{broken:?}");
        }
    });
}

#[test]
fn the_new_key_lives_as_long_as_it_was_given_or_up_to_three_days_less() {
    Testbed::run(async |testbed| {
        for days in [14, 30, 365] {
            let ttl = days.to_string();
            for in_tag in [false, true] {
                let variables = [("KOSLI_KEY_TTL_DAYS", ttl.as_str())];
                let world = testbed.world(&with_variables(if in_tag { &[] } else { &variables }));
                if in_tag {
                    world.tag("kosli:key-ttl-days", &ttl);
                }
                for number in 0..3 {
                    world.rotate_completely(&turn(number)).await;
                    let key = world.key("AWSCURRENT").unwrap();
                    let life = key.expires_at.unwrap().duration_since(key.created_at).unwrap();
                    let longest = DAY * days;
                    assert!(life <= longest, "{life:?} of {longest:?}");
                    // An hour is kept below Kosli's own cap.
                    assert!(life + Duration::from_secs(WINDOW) + HOUR > longest, "{life:?} of {longest:?}");
                    world.advance(DAY * 5);
                }
            }
        }
    });
}

#[test]
fn an_account_that_is_not_permitted_is_never_talked_about_to_kosli() {
    Testbed::run(async |testbed| {
        for patterns in ["other/*", "acme/ci-*", "acme/c,*/i"] {
            let world = testbed.world(&with_variables(&[("KOSLI_SERVICE_ACCOUNTS", patterns)]));
            let rotation = world.begin_rotation(&turn(0)).unwrap();
            let message = refused(world.step(&rotation, "createSecret").await, "NotPermitted");
            assert!(message.contains("acme/ci") && message.contains("KOSLI_SERVICE_ACCOUNTS"), "{message}");
            assert_eq!(world.count(&["list", "get", "verify", "rotate", "create", "revoke"]), 0);
            world.assert_kept();
        }
        let world = testbed.world(&with_variables(&[("KOSLI_SERVICE_ACCOUNTS", "other/*, acme/c*")]));
        world.rotate_completely(&turn(0)).await;
    });
}

#[test]
fn the_permission_is_asked_for_in_every_step() {
    Testbed::run(async |testbed| {
        let mut world = testbed.world(&Setting::default());
        let rotation = world.begin_rotation(&turn(0)).unwrap();
        done(world.step(&rotation, "createSecret").await);
        let kosli = |world: &World| world.count(&["list", "get", "verify", "rotate", "create", "revoke"]);
        let calls = kosli(&world);
        world.setting = with_variables(&[("KOSLI_SERVICE_ACCOUNTS", "other/*")]);
        for step in ["createSecret", "setSecret", "testSecret", "finishSecret"] {
            refused(world.step(&rotation, step).await, "NotPermitted");
        }
        assert_eq!(kosli(&world), calls);
        world.setting = Setting::default();
        world.complete(&rotation, ONCE).await;
        world.setting = with_variables(&[("KOSLI_SERVICE_ACCOUNTS", "other/*")]);
        refused(world.step(&rotation, "finishSecret").await, "NotPermitted");
    });
}

#[test]
fn the_rotation_token_is_passed_on_and_never_answered() {
    Testbed::run(async |testbed| {
        for shape in [Shape::ApiKey, Shape::Plain] {
            let world = testbed.world(&Setting { shape, ..Setting::default() });
            let rotation = world.begin_rotation(&turn(0)).unwrap();
            world.complete(&rotation, ONCE).await;
            let stored = world.emulator.with_secrets_manager(|service| {
                service.secret(&world.arn).unwrap().versions.get(&turn(0)).unwrap().rotation_token.clone()
            });
            assert_eq!(stored.as_ref(), Some(&rotation.rotation_token));
            // Where there is none, none is sent: this is what most accounts get.
            let next = world.begin_rotation(&turn(1)).unwrap();
            let mut event = step_event(&next, "createSecret");
            event.as_object_mut().unwrap().remove("RotationToken");
            done(world.invoke(0, &event).await);
            let stored = world.emulator.with_secrets_manager(|service| {
                service.secret(&world.arn).unwrap().versions.get(&turn(1)).unwrap().rotation_token.clone()
            });
            assert_eq!(stored, None);
            // Nor in an error: the store is refused by name.
            let refused_store = world.history.borrow().join("\n");
            assert!(!refused_store.contains(&rotation.rotation_token));
        }
    });
}

#[test]
fn a_rotation_for_later_is_tested_and_nothing_else() {
    Testbed::run(async |testbed| {
        for tested_version in [TestedVersion::CopyOfCurrent, TestedVersion::NoValue] {
            for enabled_after_test in [false, true] {
                for shape in EVERY_SHAPE {
                    let world = testbed.world(&Setting { shape, ..Setting::default() });
                    world.emulator.with_secrets_manager(|service| {
                        service.switches.tested_version = tested_version;
                        service.switches.enabled_after_test = enabled_after_test;
                    });
                    let body = json!({"SecretId": world.arn, "ClientRequestToken": turn(0), "RotateImmediately": false,
                                      "RotationLambdaARN": "arn:aws:lambda:eu-west-1:123456789012:function:rotation"});
                    world.aws("RotateSecret", body).unwrap();
                    let rotation = world.emulator.with_secrets_manager(|service| service.take_rotations()).remove(0);
                    assert_eq!(world.drive(&rotation, ONCE).await, Event::Succeeded, "{}", world.story());
                    assert!(
                        world.history.borrow().iter().any(|line| line.contains("tested the current key")),
                        "{}",
                        world.story()
                    );
                    assert_eq!((world.minted().len(), world.writes()), (0, 0));
                    assert_eq!(current_id(&world), world.first_key);
                    world.rotate_completely(&turn(1)).await;
                }
            }
        }
    });
}

#[test]
fn tags_override_the_functions_own_policy() {
    Testbed::run(async |testbed| {
        let variables = [("KOSLI_GRACE_PERIOD_HOURS", "48"), ("KOSLI_REVOKE_OLD_KEY", "immediately")];
        let world = testbed.world(&with_variables(&variables));
        world.tag("kosli:grace-period-hours", "2");
        world.tag("kosli:revoke-old-key", "after-grace-period");
        world.rotate_completely(&turn(0)).await;
        let old = world.kosli_key(&world.first_key);
        assert_eq!(old.grace_ends_at, Some(old.rotated_at.unwrap() + HOUR * 2));
        assert_eq!(old.revoked_at, None);

        let world = testbed.world(&Setting::default());
        world.tag("kosli:revoke-old-key", "immediately");
        world.rotate_completely(&turn(0)).await;
        assert!(world.kosli_key(&world.first_key).revoked_at.is_some());
    });
}

#[test]
fn a_malformed_tag_stops_the_rotation_before_the_mint_and_never_after_it() {
    Testbed::run(async |testbed| {
        for tag in ["kosli:grace-period-hours", "kosli:revoke-old-key", "kosli:key-ttl-days"] {
            let world = testbed.world(&Setting { revoke_immediately: true, ..Setting::default() });
            world.tag(tag, "soon");
            let rotation = world.begin_rotation(&turn(0)).unwrap();
            let message = refused(world.step(&rotation, "createSecret").await, "InvalidTag");
            assert!(message.contains(tag), "{message}");
            assert_eq!((world.minted().len(), world.writes()), (0, 0));

            world.untag(tag);
            done(world.step(&rotation, "createSecret").await);
            world.tag(tag, "soon");
            // The whole process again, as after a failure of a later step.
            assert_eq!(done(world.step(&rotation, "createSecret").await)["outcome"], "already created");
            done(world.step(&rotation, "setSecret").await);
            done(world.step(&rotation, "testSecret").await);
            let answer = done(world.step(&rotation, "finishSecret").await);
            assert_eq!(answer["outcome"], "promoted");
            let warnings = answer["warnings"].to_string();
            assert!(warnings.contains(tag) && warnings.contains("malformed"), "{warnings}");
            // The safe value of the revocation is the one that leaves the old key its grace period.
            assert_eq!(world.lives(&world.first_key), tag == "kosli:revoke-old-key");
            world.assert_completed();
        }
    });
}

#[test]
fn an_admin_secret_that_is_lost_after_the_mint_does_not_block_the_promotion() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        let rotation = world.begin_rotation(&turn(0)).unwrap();
        done(world.step(&rotation, "createSecret").await);
        let gone = json!({"SecretId": ADMIN_SECRET, "ForceDeleteWithoutRecovery": true});
        world.aws("DeleteSecret", gone).unwrap();
        assert_eq!(done(world.step(&rotation, "createSecret").await)["outcome"], "already created");
        let message = refused(world.step(&rotation, "finishSecret").await, "CleanUpIncomplete");
        assert!(message.contains("AWSCURRENT has moved") && message.contains("InvalidAdminSecret"), "{message}");
        assert_ne!(current_id(&world), world.first_key);
        world.assert_kept();
    });
}

#[test]
fn a_stale_tag_is_not_believed_where_a_field_was_edited_meanwhile() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting { shape: Shape::WithoutId, strangers: false, ..Setting::default() });
        let by_hand = world.made_by_hand(ACCOUNT);
        let first = world.value("AWSCURRENT").unwrap();
        let second = first.replace(&key_in(&first).unwrap(), &by_hand.value);
        world.put(&second, &token("hand", 0));
        world.put(&second.replace('{', "{ "), &token("hand", 1));
        let rotation = world.begin_rotation(&turn(0)).unwrap();
        refused(world.step(&rotation, "createSecret").await, "KeyIdUnknown");
        assert_untouched(&world, &[&world.first_key, &by_hand.id]);
    });
}

#[test]
fn the_old_key_is_not_revoked_by_a_tag_that_was_not_believed_before_the_mint() {
    Testbed::run(async |testbed| {
        let switches = Switches { list_in_grace: ListInGrace::Hidden, ..Switches::default() };
        let setting =
            Setting { shape: Shape::Plain, strangers: false, revoke_immediately: true, switches, ..Setting::default() };
        let world = testbed.world(&setting);
        // An admin rotates the first key in Kosli and stores the successor by hand; the tag still names the first one.
        let minted = rotate_by_hand(&world.emulator, &world.first_key, &json!({}));
        world.put(minted["key"].as_str().unwrap(), &token("hand", 0));
        let rotation = world.until_finish(&turn(0)).await;
        let answer = done(world.step(&rotation, "finishSecret").await);
        // The id of the key that was put in was found out before the mint, and it is that key which is revoked.
        assert_eq!((&answer["old_key"], &answer["replaced_key_id"]), (&json!("dead"), &minted["id"]), "{answer}");
        assert_eq!(world.kosli_key(&world.first_key).revoked_at, None);
        assert_eq!(done(world.step(&rotation, "finishSecret").await)["old_key"], "dead");
        assert_eq!(world.kosli_key(&world.first_key).revoked_at, None);
    });
}

#[test]
fn a_single_refusal_after_an_unclear_outcome_creates_no_second_key() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        for rule in ["rotate#1..5=refuse:409", "rotate#6=error-before:503", "rotate#7=refuse:409"] {
            world.emulator.faults().add(rule.parse().unwrap());
        }
        world.rotate_completely(&turn(0)).await;
        assert_eq!(world.minted().len(), 1);
        assert!(matches!(world.minted()[0].minted_by, MintedBy::Rotate { .. }), "{}", world.story());
    });
}

#[test]
fn a_key_id_tag_that_changes_after_the_mint_does_not_block_the_promotion() {
    Testbed::run(async |testbed| {
        for (shape, value) in
            [(Shape::Plain, "no key id"), (Shape::ApiKey, "another-key"), (Shape::ApiKey, "no key id")]
        {
            let world = testbed.world(&Setting { shape, ..Setting::default() });
            let rotation = world.begin_rotation(&turn(0)).unwrap();
            done(world.step(&rotation, "createSecret").await);
            world.tag("kosli:key-id", value);
            for step in ["setSecret", "testSecret", "finishSecret"] {
                done(world.step(&rotation, step).await);
            }
            world.assert_completed();
        }
    });
}

/// As an empty variable is an unset one.
#[test]
fn an_empty_tag_is_no_tag() {
    Testbed::run(async |testbed| {
        for shape in [Shape::ApiKey, Shape::Environment] {
            let world = testbed.world(&Setting { shape, ..Setting::default() });
            for tag in ["org", "service-account", "key-id", "grace-period-hours", "revoke-old-key", "key-ttl-days"] {
                world.tag(&format!("kosli:{tag}"), "");
            }
            world.rotate_completely(&turn(0)).await;
            world.assert_completed();
        }
    });
}
