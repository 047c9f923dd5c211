//! Where exactly the lines run: which key counts as lost, how long is waited, who is believed, and what is said at the edge.
//! Each scenario stands on one side of a line of the design, or on both, and would fail if the line ran elsewhere.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use emulator::kosli::{ExpiresAt, Key, LastUsedAt, ListInGrace, MintedBy, SuccessorId, Switches};
use emulator::rotation::{Event, step_event};
use http::Request;
use kosli_key_rotation::kosli::SHORTEST_MINT;
use kosli_key_rotation::marker::{Attempt, Mark};
use kosli_key_rotation::secrets_manager::STORE_RESERVE;
use serde_json::{Value, json};
use testbed::{
    ACCOUNT, DAY, DESCRIPTION, HOUR, ONCE, ORG, Setting, Shape, Testbed, World, done, key_in, refused, rfc3339, second,
    token, version_id,
};

const MINUTE: Duration = Duration::from_secs(60);

/// The function's time-out and some fifteen seconds: after this long another execution's key counts as lost.
const TAKE_OVER: Duration = Duration::from_secs(105);

/// What every invocation keeps back for its answer.
const ANSWER_RESERVE: Duration = Duration::from_millis(1_500);

/// The account has no keys but those of the scenario.
fn alone() -> Setting {
    Setting { strangers: false, ..Setting::default() }
}

fn now(world: &World) -> SystemTime {
    world.emulator.clock().now()
}

/// An expiry that carries the mark of what is minted to replace this version.
fn marked(world: &World, version: &str) -> SystemTime {
    let mark = Mark::of(&world.arn, &version_id(version));
    UNIX_EPOCH + Duration::from_secs(mark.expires_at(Attempt::fresh(&[]), now(world), DAY * 100))
}

/// A key on the account, of which the secret knows nothing.
fn add_key(world: &World, description: &str, created: SystemTime, expires: SystemTime) -> Key {
    let (id, _) = world.emulator.with_kosli(|kosli| kosli.add_key(ORG, ACCOUNT, description, created, Some(expires)));
    world.kosli_key(&id)
}

/// Somebody authenticates with a key.
fn use_key(world: &World, key: &Key) {
    let request = Request::get(format!("/api/v2/environments/{ORG}"))
        .header("authorization", format!("Bearer {}", key.value))
        .body(Vec::new().into())
        .unwrap();
    assert!(world.emulator.with_kosli(|kosli| kosli.handle(&request)).status().is_success());
}

fn assert_untouched(world: &World, key: &Key) {
    let key = world.kosli_key(&key.id);
    assert_eq!((key.revoked_at, key.rotated_at), (None, None), "{} was touched\n{}", key.id, world.story());
}

/// The first rotation, in one attempt.
async fn rotate_once(world: &World) {
    assert_eq!(world.rotate(&second(), ONCE).await, Event::Succeeded, "{}", world.story());
}

fn rotated(key: &str) -> MintedBy {
    MintedBy::Rotate { of: key.to_owned() }
}

fn current_may_be_dead(world: &World) {
    world.probe.current_is_alive.store(false, Ordering::SeqCst);
}

#[test]
fn a_marked_key_is_ours_unless_it_is_too_old_or_used_or_of_another_description() {
    Testbed::run(async |testbed| {
        for (before_the_version, description, used, ours) in [
            // Kosli's clock may be five minutes behind.
            (MINUTE * 5, DESCRIPTION, false, true),
            (MINUTE * 5 + Duration::from_secs(1), DESCRIPTION, false, false),
            (Duration::ZERO, DESCRIPTION, true, false),
            (Duration::ZERO, "somebody's laptop", false, false),
        ] {
            let world = testbed.world(&alone());
            let version = now(&world) - HOUR;
            // It stands before the others, and its description says nothing about theirs.
            let laptop = add_key(&world, "somebody's laptop", version, now(&world) + DAY * 90);
            let key = add_key(&world, description, version - before_the_version, marked(&world, &token("first", 0)));
            if used {
                use_key(&world, &key);
            }
            rotate_once(&world).await;
            world.assert_completed();
            assert_untouched(&world, &laptop);
            if ours {
                assert_eq!(world.minted()[0].minted_by, rotated(&key.id), "{}", world.story());
                assert!(!world.lives(&key.id));
            } else {
                assert_eq!(world.minted()[0].minted_by, rotated(&world.first_key), "{}", world.story());
                assert_untouched(&world, &key);
            }
        }
    });
}

#[test]
fn the_sweep_touches_what_is_ours_alone() {
    Testbed::run(async |testbed| {
        for immediately in [true, false] {
            let world = testbed.world(&Setting { revoke_immediately: immediately, ..alone() });
            let laptop = add_key(&world, "somebody's laptop", now(&world), now(&world) + DAY * 90);
            let rotation = world.until_finish(&second()).await;
            // They have shown up since: an orphan, and keys that look like one but for a single thing.
            let (version, expires) = (now(&world) - HOUR, marked(&world, &token("first", 0)));
            let orphan = add_key(&world, DESCRIPTION, now(&world), expires);
            let strangers = [
                add_key(&world, "somebody's laptop", now(&world), expires),
                add_key(&world, DESCRIPTION, version - MINUTE * 6, expires),
                add_key(&world, DESCRIPTION, now(&world), expires + HOUR),
                laptop,
            ];
            let used = add_key(&world, DESCRIPTION, now(&world), expires);
            use_key(&world, &used);
            let answer = done(world.step(&rotation, "finishSecret").await);
            assert!(!world.lives(&orphan.id), "{}", world.story());
            strangers.iter().chain([&used]).for_each(|key| assert_untouched(&world, key));
            let mut revoked: Vec<String> = immediately.then(|| world.first_key.clone()).into_iter().collect();
            revoked.push(orphan.id);
            assert_eq!(answer["revoked_key_ids"], json!(revoked));
            world.assert_completed();
        }
    });
}

#[test]
fn a_key_that_was_lost_before_the_last_promotion_is_the_head_of_no_chain() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        let (rotation, lost) = world.lose_a_key().await;
        world.advance(TAKE_OVER);
        // Kosli does not rotate it, the sweep cannot revoke it, and nobody asks for the clean-up again.
        world.rule("rotate#1=refuse:404");
        world.rule("revoke=error-before:503");
        assert_eq!(world.drive(&rotation, ONCE).await.to_string(), Event::GivenUp.to_string());
        world.emulator.faults().clear();
        let current = world.key("AWSCURRENT").unwrap();
        assert_ne!(current.id, world.first_key);
        world.advance(DAY);
        assert_eq!(world.rotate(&token("third", 0), ONCE).await, Event::Succeeded, "{}", world.story());
        assert_eq!(world.minted()[2].minted_by, rotated(&current.id), "{}", world.story());
        // No version is current that it was minted to replace: it is not rotated, and its end comes after this promotion.
        assert_eq!(world.kosli_key(&lost.id).rotated_at, None);
        assert!(!world.lives(&lost.id), "{}", world.story());
        world.assert_completed();
    });
}

#[test]
fn the_sweep_finds_what_was_lost_before_a_field_was_edited() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        let (_, lost) = world.lose_a_key().await;
        world.put(&world.edited(), &token("hand", 0));
        world.advance(TAKE_OVER);
        world.rule("revoke=error-before:503");
        let rotation = world.until_finish(&token("third", 0)).await;
        assert!(world.lives(&lost.id));
        world.emulator.faults().clear();
        assert_eq!(done(world.step(&rotation, "finishSecret").await)["revoked_key_ids"], json!([lost.id]));
        world.assert_completed();
    });
}

#[test]
fn the_old_key_is_not_revoked_while_another_version_is_pending() {
    Testbed::run(async |testbed| {
        for (same_id, same_value) in [(false, false), (true, false), (false, true), (true, true)] {
            let world = testbed.world(&Setting::default());
            let rotation = world.begin_rotation(&second()).unwrap();
            assert_eq!(world.drive(&rotation, ONCE).await, Event::Succeeded, "{}", world.story());
            let old = world.kosli_key(&world.first_key);
            let other = add_key(&world, DESCRIPTION, now(&world), now(&world) + DAY * 90);
            let value = json!({"org": ORG, "service_account": ACCOUNT,
                               "key_id": if same_id { &old.id } else { &other.id },
                               "api_key": if same_value { &old.value } else { &other.value }});
            let body = json!({"SecretId": world.arn, "SecretString": value.to_string(), "VersionStages": ["AWSPENDING"],
                              "ClientRequestToken": token("hand", 0)});
            world.aws("PutSecretValue", body).unwrap();
            world.probe.pending_is_safe.store(false, Ordering::SeqCst);
            world.tag("kosli:revoke-old-key", "immediately");
            let answer = done(world.step(&rotation, "finishSecret").await);
            assert!(world.lives(&old.id), "{answer}");
            assert_eq!(answer["old_key"], "cannot tell");
            world.assert_kept();
        }
    });
}

#[test]
fn a_lost_key_that_kosli_does_not_rotate_makes_way_for_the_current_one() {
    Testbed::run(async |testbed| {
        for (in_the_same_step, refusal) in [
            (false, "rotate#1=refuse:400"),
            (false, "rotate#1=refuse:404"),
            (false, "rotate#1..6=refuse:409"),
            (true, "rotate#2=refuse:400"),
            (true, "rotate#2=refuse:404"),
        ] {
            let world = testbed.world(&Setting::default());
            if in_the_same_step {
                world.rule("rotate#1=incomplete");
                world.rule(refusal);
                rotate_once(&world).await;
            } else {
                let (rotation, _) = world.lose_a_key().await;
                world.advance(TAKE_OVER);
                world.rule(refusal);
                assert_eq!(world.drive(&rotation, ONCE).await, Event::Succeeded, "{refusal}\n{}", world.story());
            }
            let minted = world.minted();
            assert_eq!(minted.len(), 2, "{refusal}\n{}", world.story());
            assert_eq!(minted[1].minted_by, rotated(&world.first_key), "{refusal}\n{}", world.story());
            // The sweep ends it.
            assert!(minted[0].revoked_at.is_some(), "{refusal}\n{}", world.story());
            world.assert_completed();
        }
    });
}

#[test]
fn a_key_that_kosli_names_is_replaced_although_the_list_does_not_show_it_yet() {
    Testbed::run(async |testbed| {
        let switches = Switches { list_lag: MINUTE, ..Switches::default() };
        let world = testbed.world(&Setting { switches, ..Setting::default() });
        world.rotate_through("rotate#1=incomplete", ONCE, 2).await;
    });
}

#[test]
fn an_execution_gives_up_after_four_keys_without_a_value() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        let rotation = world.begin_rotation(&second()).unwrap();
        world.rule("rotate=incomplete");
        let message = refused(world.step(&rotation, "createSecret").await, "MintUnclear");
        let minted = world.minted();
        assert_eq!(minted.len(), 4, "{}", world.story());
        assert!(message.contains(&format!("The new key {} was minted", minted[3].id)), "{message}");
        world.assert_kept();
        world.emulator.faults().clear();
        world.advance(TAKE_OVER);
        world.complete(&rotation, ONCE).await;
    });
}

#[test]
fn a_recovered_keys_successor_that_has_its_id_is_not_revoked_with_it() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        let (rotation, _) = world.lose_a_key().await;
        world.advance(TAKE_OVER);
        world.emulator.with_kosli(|kosli| kosli.switches.successor_id = SuccessorId::Same);
        assert_eq!(world.drive(&rotation, ONCE).await, Event::Succeeded, "{}", world.story());
        assert_eq!(world.count(&["revoke"]), 0);
        world.assert_completed();
    });
}

#[test]
fn a_successor_with_the_current_id_whose_value_was_lost_is_rotated_after_the_old_value_has_died() {
    Testbed::run(async |testbed| {
        let switches = Switches { successor_id: SuccessorId::Same, ..Switches::default() };
        let world = testbed.world(&Setting { switches, ..Setting::default() });
        let (rotation, _) = world.lose_a_key().await;
        current_may_be_dead(&world);
        world.advance(DAY + HOUR);
        assert_eq!(done(world.step(&rotation, "createSecret").await)["outcome"], "rotated");
        world.complete(&rotation, ONCE).await;
    });
}

#[test]
fn a_dead_value_whose_id_is_hidden_in_its_grace_period_is_a_mismatch() {
    Testbed::run(async |testbed| {
        // The list does not show the key, and asking for it by its id does.
        let switches = Switches { list_in_grace: ListInGrace::Hidden, ..Switches::default() };
        let world = testbed.world(&Setting { switches, ..alone() });
        let value = world.value("AWSCURRENT").unwrap();
        rotate_once(&world).await;
        world.put(&value.replace(&key_in(&value).unwrap(), "emulated-kosli-key-of-nobody"), &token("hand", 0));
        current_may_be_dead(&world);
        let rotation = world.begin_rotation(&token("third", 0)).unwrap();
        refused(world.step(&rotation, "createSecret").await, "KeyIdMismatch");
        assert_eq!(world.minted().len(), 1);
    });
}

/// What is on an account whose secret names no key id.
#[derive(Clone, Copy, Debug)]
enum Listed {
    TheCurrentKey,
    TheCurrentKeyAndAnother,
    Another,
    Nothing,
}

#[test]
fn where_nothing_names_the_key_id_the_list_and_the_key_decide_together() {
    Testbed::run(async |testbed| {
        for (admin, alive, listed, expected) in [
            (true, true, Listed::TheCurrentKey, Ok("rotated")),
            (false, true, Listed::TheCurrentKey, Ok("rotated")),
            (true, true, Listed::TheCurrentKeyAndAnother, Err("KeyIdUnknown")),
            (false, true, Listed::TheCurrentKeyAndAnother, Err("KeyIdUnknown")),
            (true, false, Listed::Nothing, Ok("created")),
            (true, false, Listed::Another, Err("KeyIdUnknown")),
            // Kosli says that the key is dead, and lists the account for it.
            (false, false, Listed::TheCurrentKey, Err("CurrentKeyDead")),
            (true, false, Listed::TheCurrentKey, Err("KeyIdUnknown")),
        ] {
            let world = testbed.world(&Setting { shape: Shape::Plain, admin, ..alone() });
            world.untag("kosli:key-id");
            if matches!(listed, Listed::TheCurrentKeyAndAnother | Listed::Another) {
                add_key(&world, DESCRIPTION, now(&world), now(&world) + DAY * 90);
            }
            if matches!(listed, Listed::Nothing | Listed::Another) {
                current_may_be_dead(&world);
                world.emulator.with_kosli(|kosli| kosli.revoke_key(&world.first_key));
            } else if !alive {
                world.rule("verify=refuse:401");
            }
            let rotation = world.begin_rotation(&second()).unwrap();
            let outcome = world.step(&rotation, "createSecret").await;
            match expected {
                Ok(how) => assert_eq!(done(outcome)["outcome"], how, "{admin} {alive} {listed:?}"),
                Err(kind) => {
                    refused(outcome, kind);
                    assert!(world.minted().is_empty());
                }
            }
            world.assert_kept();
        }
    });
}

#[test]
fn the_key_of_the_version_before_is_not_the_one_that_is_looked_for() {
    Testbed::run(async |testbed| {
        let switches = Switches { list_in_grace: ListInGrace::Hidden, ..Switches::default() };
        let world = testbed.world(&Setting { switches, ..alone() });
        let first = key_in(&world.value("AWSCURRENT").unwrap()).unwrap();
        rotate_once(&world).await;
        let second_key = world.key("AWSCURRENT").unwrap();
        // Somebody goes back to the first key, and to a plain value. The only key on the list is the other one.
        world.tag("kosli:org", ORG);
        world.tag("kosli:service-account", ACCOUNT);
        world.put(&first, &token("hand", 0));
        let rotation = world.begin_rotation(&token("third", 0)).unwrap();
        refused(world.step(&rotation, "createSecret").await, "KeyIdUnknown");
        assert_untouched(&world, &second_key);
    });
}

#[test]
fn a_created_key_is_described_as_the_one_that_it_replaces() {
    Testbed::run(async |testbed| {
        for (description, expected) in [
            ("the deployment's", "the deployment's".to_owned()),
            ("", format!("AWS Secrets Manager: {}", testbed::SECRET)),
        ] {
            let world = testbed.world(&Setting::default());
            let key = add_key(&world, description, now(&world), now(&world) + DAY * 90);
            let value = world.with_key(&key);
            // Nothing is known of the version before.
            world.put("placeholder", &token("hand", 0));
            world.put(&value, &token("hand", 1));
            world.rule("rotate=refuse:400");
            let rotation = world.begin_rotation(&second()).unwrap();
            let answer = done(world.step(&rotation, "createSecret").await);
            assert_eq!(answer["outcome"], "created");
            let warning = format!("Kosli refused to rotate the current key {}", key.id);
            assert!(answer["warnings"].to_string().contains(&warning), "{answer}");
            assert_eq!(world.minted()[0].description, expected);
        }
    });
}

#[test]
fn where_kosli_changes_the_expiry_what_may_be_an_orphan_is_named_and_nothing_else() {
    Testbed::run(async |testbed| {
        let switches = Switches { expires_at: ExpiresAt::Ignored, ..Switches::default() };
        let world = testbed.world(&Setting { switches, ..alone() });
        let (version, expires) = (now(&world) - HOUR, now(&world) + DAY * 90);
        let others = [
            add_key(&world, "somebody's laptop", now(&world), expires),
            add_key(&world, DESCRIPTION, version - MINUTE * 5 - Duration::from_secs(1), expires),
        ];
        let used = add_key(&world, DESCRIPTION, now(&world), expires);
        use_key(&world, &used);
        let suspected = [
            add_key(&world, DESCRIPTION, version - MINUTE * 5, expires),
            add_key(&world, DESCRIPTION, now(&world), expires),
        ];
        let rotation = world.begin_rotation(&second()).unwrap();
        let answer = done(world.step(&rotation, "createSecret").await);
        let warnings: Vec<&str> = answer["warnings"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert_eq!(warnings.len(), suspected.len(), "{answer}");
        for (warning, key) in warnings.iter().zip(&suspected) {
            assert!(warning.contains(&format!("The key {} was never used", key.id)), "{warning}");
        }
        others.iter().chain([&used]).chain(&suspected).for_each(|key| assert_untouched(&world, key));

        // The current key itself is none, however young and unused it looks.
        let switches = Switches { last_used_at: LastUsedAt::Never, ..world.setting.switches.clone() };
        let world = testbed.world(&Setting { switches, ..alone() });
        let key = add_key(&world, DESCRIPTION, now(&world), now(&world) + DAY * 90);
        world.put(&world.with_key(&key), &token("hand", 0));
        let rotation = world.begin_rotation(&second()).unwrap();
        assert_eq!(done(world.step(&rotation, "createSecret").await).get("warnings"), None);
    });
}

#[test]
fn kosli_is_left_alone_for_as_long_as_it_asks_up_to_twenty_seconds() {
    Testbed::run(async |testbed| {
        for (seconds, is_waited_for) in [(19, true), (20, true), (21, false), (3_600, false)] {
            let world = testbed.world(&Setting::default());
            let rotation = world.begin_rotation(&second()).unwrap();
            world.rule(&format!("rotate#1=refuse:429:retry-after={seconds}"));
            let begin = now(&world);
            let outcome = world.step(&rotation, "createSecret").await;
            let waited = now(&world).duration_since(begin).unwrap();
            if is_waited_for {
                done(outcome);
                assert!(waited >= Duration::from_secs(seconds), "{waited:?}");
            } else {
                let message = refused(outcome, "KosliUnavailable");
                assert!(message.contains("rotating") || message.contains("minting"), "{message}");
                assert!(waited < Duration::from_secs(5), "{waited:?}");
                assert!(world.minted().is_empty());
            }
        }
    });
}

#[test]
fn another_executions_key_is_taken_over_when_that_execution_cannot_live_any_more_and_no_sooner() {
    Testbed::run(async |testbed| {
        for age in [50, 80, 100] {
            let world = testbed.world(&Setting::default());
            let (rotation, lost) = world.lose_a_key().await;
            let already = now(&world).duration_since(lost.created_at).unwrap();
            world.advance(Duration::from_secs(age) - already);
            let lists = world.count(&["list"]);
            let answer = done(world.invoke(1, &step_event(&rotation, "createSecret")).await);
            assert_eq!(answer["outcome"], "recovered");
            let taken_over = world.minted()[1].created_at.duration_since(lost.created_at).unwrap();
            // Kosli's clock is read from its answers, to the second.
            assert!(taken_over >= TAKE_OVER && taken_over < TAKE_OVER + MINUTE / 6, "{taken_over:?}");
            // Nothing is asked of Kosli while the time passes.
            assert!(world.count(&["list"]) - lists <= 3, "{}", world.story());
            world.complete(&rotation, ONCE).await;
        }
    });
}

#[test]
fn the_last_moment_to_mint_leaves_the_store_its_time() {
    Testbed::run(async |testbed| {
        let shortest = SHORTEST_MINT + STORE_RESERVE + ANSWER_RESERVE;
        let world = testbed.world(&Setting::default());
        let rotation = world.begin_rotation(&second()).unwrap();
        let event = step_event(&rotation, "createSecret");
        refused(world.invoke_within(0, &event, shortest - Duration::from_millis(1)).await, "OutOfTime");
        assert!(world.minted().is_empty());
        done(world.invoke_within(0, &event, shortest).await);
        world.complete(&rotation, ONCE).await;

        // An answer that does not come is not waited for in the store's time.
        let world = testbed.world(&Setting::default());
        let rotation = world.begin_rotation(&second()).unwrap();
        let event = step_event(&rotation, "createSecret");
        world.rule("rotate#1=delay:20s");
        let begin = now(&world);
        let error = world.invoke_within(0, &event, shortest).await.expect_err("there is no time for another mint");
        let looks = Duration::from_secs(10);
        let taken = now(&world).duration_since(begin).unwrap();
        assert!(taken <= SHORTEST_MINT + looks, "{taken:?}: {error}");
        assert_eq!(world.count(&["rotate", "PutSecretValue"]), 1);
        world.assert_kept();
    });
}

#[test]
fn an_instant_of_death_is_named_as_soon_as_a_key_may_have_been_minted_and_never_before() {
    Testbed::run(async |testbed| {
        for (rule, may_be_minted) in [
            ("rotate=no-answer", true),
            ("rotate=drop-before", true),
            ("rotate=error-before:503", true),
            ("rotate=refuse:403", false),
            ("rotate=refuse:429", false),
        ] {
            let world = testbed.world(&Setting::default());
            let rotation = world.begin_rotation(&second()).unwrap();
            world.rule(rule);
            let error = world.step(&rotation, "createSecret").await.expect_err(rule);
            let text = error.error_message;
            assert_eq!(text.contains("The key under AWSCURRENT works until"), may_be_minted, "{rule}: {text}");
            assert_eq!(text.contains("A new key may have been minted"), may_be_minted, "{rule}: {text}");
            if rule == "rotate=refuse:403" {
                assert!(text.contains(&format!("rotating the key {}", world.first_key)), "{text}");
            }
            world.assert_kept();
        }
    });
}

#[test]
fn a_current_key_that_expires_before_its_grace_period_ends_is_said_to_die_then() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        let key = add_key(&world, DESCRIPTION, now(&world), now(&world) + HOUR * 5);
        world.put(&world.with_key(&key), &token("hand", 0));
        let rotation = world.begin_rotation(&second()).unwrap();
        world.rule("rotate=drop-after");
        let error = world.step(&rotation, "createSecret").await.unwrap_err();
        let dies = rfc3339(key.expires_at.unwrap());
        assert!(error.error_message.contains(&format!("The key under AWSCURRENT works until {dies}")), "{error}");
    });
}

#[test]
fn labels_of_abandoned_versions_are_no_reason_to_refuse() {
    Testbed::run(async |testbed| {
        for (own, fits) in [(15, true), (16, false)] {
            let world = testbed.world(&Setting { shape: Shape::Plain, ..Setting::default() });
            let abandoned = world.begin_rotation(&second()).unwrap();
            done(world.step(&abandoned, "createSecret").await);
            world.clear_pending(&abandoned.token);
            for number in 0..own {
                let body = json!({"SecretId": world.arn, "VersionStage": format!("mine-{number}"),
                                  "MoveToVersionId": token("first", 0)});
                world.aws("UpdateSecretVersionStage", body).unwrap();
            }
            world.advance(TAKE_OVER);
            // With AWSCURRENT, AWSPENDING, the labels of both versions' keys and, soon, AWSPREVIOUS: 20, or one too many.
            let rotation = world.begin_rotation(&token("third", 0)).unwrap();
            let outcome = world.step(&rotation, "createSecret").await;
            if fits {
                // The key of the abandoned version is nobody's: it is the one that is rotated.
                assert_eq!(done(outcome)["outcome"], "recovered");
                assert_eq!(world.minted()[1].minted_by, rotated(&world.minted()[0].id));
                world.complete(&rotation, ONCE).await;
            } else {
                refused(outcome, "NoRoom");
                assert_eq!(world.minted().len(), 1);
            }
        }
    });
}

#[test]
fn a_tag_that_names_another_key_than_the_value_counts_for_the_first_version_alone() {
    Testbed::run(async |testbed| {
        // As good as no tag.
        let world = testbed.world(&Setting::default());
        world.tag("kosli:key-id", &world.first_key);
        world.rotate_completely(&second()).await;

        // Before the first rotation: one of the two is wrong.
        let world = testbed.world(&Setting::default());
        world.tag("kosli:key-id", "another-key");
        let rotation = world.begin_rotation(&second()).unwrap();
        refused(world.step(&rotation, "createSecret").await, "IdentityConflict");
        assert!(world.minted().is_empty());

        // Somebody has stored another version since the tag was written.
        world.put(&world.edited(), &token("hand", 0));
        world.rotate_completely(&token("third", 0)).await;

        // After a rotation the tag names the key before.
        world.advance(DAY);
        world.rotate_completely(&token("fourth", 0)).await;
    });
}

#[test]
fn a_tag_is_stale_once_a_version_of_ours_was_current_although_no_rotation_has_ended() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting { shape: Shape::Plain, ..alone() });
        let rotation = world.until_finish(&second()).await;
        world.rule("list=error-before:503");
        refused(world.step(&rotation, "finishSecret").await, "CleanUpIncomplete");
        world.emulator.faults().clear();
        // Somebody ends the new key and stores one that was made by hand. The tag still names the first key, which lives on.
        let by_hand = add_key(&world, DESCRIPTION, now(&world), now(&world) + DAY * 90);
        world.put(&by_hand.value, &token("hand", 0));
        let rotated = world.minted().remove(0).id;
        assert!(world.emulator.with_kosli(|kosli| kosli.revoke_key(&rotated)));
        let rotation = world.begin_rotation(&token("third", 0)).unwrap();
        refused(world.step(&rotation, "createSecret").await, "KeyIdUnknown");
        assert_eq!(world.minted().len(), 1);
        assert_untouched(&world, &by_hand);
    });
}

#[test]
fn a_label_of_a_version_that_was_never_current_makes_no_tag_stale() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting { shape: Shape::Plain, ..Setting::default() });
        let abandoned = world.begin_rotation(&second()).unwrap();
        done(world.step(&abandoned, "createSecret").await);
        world.clear_pending(&abandoned.token);
        let key = world.minted().remove(0).id;
        assert!(world.emulator.with_kosli(|kosli| kosli.revoke_key(&key)));
        let rotation = world.begin_rotation(&token("third", 0)).unwrap();
        assert_eq!(world.drive(&rotation, ONCE).await, Event::Succeeded, "{}", world.story());
        assert_eq!(world.minted()[1].minted_by, rotated(&world.first_key));
        world.assert_completed();
    });
}

#[test]
fn a_key_id_that_a_person_has_corrected_is_not_taken_from_the_version_before() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        let value = world.value("AWSCURRENT").unwrap();
        world.put(&value.replace(&world.first_key, "mistyped"), &token("hand", 0));
        world.put(&value, &token("hand", 1));
        world.rotate_completely(&second()).await;
        assert_eq!(world.minted()[0].minted_by, rotated(&world.first_key));
    });
}
