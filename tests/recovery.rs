//! A key is lost, a store fails, time runs out, an execution comes twice or late: named scenarios, each with what has to come
//! of it. That the promises hold whatever fails is `faults.rs`; here is what the function does about it, and what it says.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::sync::atomic::Ordering;
use std::time::Duration;

use emulator::kosli::{ExpiresAt, Key, MintedBy, RotateInGrace, Switches};
use emulator::rotation::{Event, STEPS, step_event};
use emulator::secrets_manager::Staleness;
use kosli_key_rotation::function::LambdaContext;
use serde_json::json;
use testbed::{DAY, HOUR, ONCE, RETRIES, Setting, Shape, Testbed, World, done, refused, rfc3339, second, token};

/// After this long another execution's key counts as lost: the function's time-out and some fifteen seconds.
const TAKE_OVER: Duration = Duration::from_secs(106);

fn death(key: &Key) -> String {
    rfc3339(key.dies_at().unwrap())
}

/// The two command lines that clear the pending version and begin again.
fn command_lines(world: &World, version: &str) -> [String; 2] {
    let arn = &world.arn;
    [
        format!(
            "`aws secretsmanager update-secret-version-stage --secret-id {arn} --version-stage AWSPENDING \
             --remove-from-version-id {version} --region eu-west-1`"
        ),
        format!("`aws secretsmanager rotate-secret --secret-id {arn} --region eu-west-1`"),
    ]
}

#[test]
fn a_lost_key_is_rotated_and_revoked_by_the_next_attempt() {
    Testbed::run(async |testbed| {
        for admin in [true, false] {
            let world = testbed.world(&Setting { admin, ..Setting::default() });
            world.rotate_through("rotate#1=kill-after", RETRIES, 2).await;
        }
    });
}

#[test]
fn a_lost_key_is_found_by_a_rotation_with_another_token() {
    Testbed::run(async |testbed| {
        for admin in [true, false] {
            let world = testbed.world(&Setting { admin, ..Setting::default() });
            let (abandoned, _) = world.lose_a_key().await;
            world.clear_pending(&abandoned.token);
            world.advance(TAKE_OVER);
            world.rotate_completely(&token("third", 0)).await;
            world.assert_chain(2);
        }
    });
}

#[test]
fn a_lost_key_is_found_after_a_field_of_the_secret_was_edited() {
    for shape in [Shape::ApiKey, Shape::Environment, Shape::WithoutId] {
        Testbed::run(async |testbed| {
            let world = testbed.world(&Setting { shape, ..Setting::default() });
            world.lose_a_key().await;
            world.put(&world.edited(), &token("edited", 0));
            world.advance(TAKE_OVER);
            world.rotate_completely(&token("third", 0)).await;
            world.assert_chain(2);
            assert!(world.value("AWSCURRENT").unwrap().contains("\"note\":\"edited\""));
        });
    }
}

#[test]
fn a_lost_key_is_the_head_of_the_chain_and_no_second_candidate_where_nothing_names_the_key_id() {
    Testbed::run(async |testbed| {
        for shape in [Shape::WithoutId, Shape::Plain] {
            let world = testbed.world(&Setting { shape, strangers: false, ..Setting::default() });
            world.untag("kosli:key-id");
            world.rotate_through("rotate#1=kill-after", RETRIES, 2).await;
        }
    });
}

#[test]
fn a_chain_of_two_lost_keys_is_rotated_at_its_head() {
    Testbed::run(async |testbed| {
        for admin in [true, false] {
            let world = testbed.world(&Setting { admin, ..Setting::default() });
            world.rotate_through("rotate#1..2=kill-after", RETRIES, 3).await;
        }
    });
}

#[test]
fn a_key_that_kosli_names_without_its_value_is_replaced_in_the_same_step() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        world.rotate_through("rotate#1=incomplete", ONCE, 2).await;
    });
}

#[test]
fn a_mint_whose_outcome_is_unclear_is_looked_for_in_the_same_step() {
    Testbed::run(async |testbed| {
        for (rule, keys) in [
            // It had its effect: what it made is found, and replaced.
            ("rotate#1=error-after:500", 2),
            ("rotate#1=drop-after", 2),
            ("rotate#1=no-answer-after", 2),
            ("rotate#1=garble", 2),
            ("rotate#1=truncate", 2),
            // The client gives up after 30 s, and the effect comes just in time for each of the looks.
            ("rotate#1=late:31s", 2),
            ("rotate#1=late:33s", 2),
            ("rotate#1=late:36s", 2),
            ("rotate#1=late:40s", 2),
            // It had none: after the whole wait, the same key is rotated.
            ("rotate#1=error-before:503", 1),
            ("rotate#1=drop-before", 1),
            ("rotate#1=no-answer", 1),
            ("rotate#1=html:502", 1),
        ] {
            for admin in [true, false] {
                let world = testbed.world(&Setting { admin, ..Setting::default() });
                world.rotate_through(rule, ONCE, keys).await;
            }
        }
    });
}

#[test]
fn a_refusal_after_an_unclear_outcome_is_a_reason_to_look_again() {
    Testbed::run(async |testbed| {
        for rotate_in_grace in [RotateInGrace::NotFound, RotateInGrace::BadRequest, RotateInGrace::Conflict] {
            // The list shows what the first call has made only after it was looked for, and the second call is refused for it.
            let switches = Switches { rotate_in_grace, list_lag: Duration::from_secs(15), ..Switches::default() };
            let world = testbed.world(&Setting { switches, ..Setting::default() });
            world.rotate_through("rotate#1=drop-after", ONCE, 2).await;
        }
    });
}

#[test]
fn a_lost_key_is_replaced_with_the_shortest_grace_period() {
    Testbed::run(async |testbed| {
        let variables = vec![("KOSLI_GRACE_PERIOD_HOURS".to_owned(), "48".to_owned())];
        let world = testbed.world(&Setting { variables, ..Setting::default() });
        let (rotation, _) = world.lose_a_key().await;
        world.advance(TAKE_OVER);
        world.rule("revoke=error-before:503");
        done(world.step(&rotation, "createSecret").await);
        let lost = world.minted().remove(0);
        assert_eq!(lost.grace_ends_at, Some(lost.rotated_at.unwrap() + HOUR));
        // The current key keeps what it was given.
        let first = world.kosli_key(&world.first_key);
        assert_eq!(first.grace_ends_at, Some(first.rotated_at.unwrap() + HOUR * 48));
    });
}

#[test]
fn a_single_401_is_no_death() {
    Testbed::run(async |testbed| {
        for admin in [true, false] {
            for rule in ["verify#1=refuse:401", "list#1=refuse:401"] {
                let world = testbed.world(&Setting { admin, ..Setting::default() });
                world.rotate_through(rule, ONCE, 1).await;
            }
        }
    });
}

#[test]
fn where_kosli_changes_the_expiry_no_stranger_is_touched_and_the_suspected_orphan_is_named() {
    Testbed::run(async |testbed| {
        for expires_at in [ExpiresAt::Ignored, ExpiresAt::StartOfDay] {
            for rotate_in_grace in [RotateInGrace::RestartsGrace, RotateInGrace::Conflict, RotateInGrace::BadRequest] {
                let switches = Switches { expires_at, rotate_in_grace, ..Switches::default() };
                let world = testbed.world(&Setting { switches, ..Setting::default() });
                world.rule("rotate#1=kill-after");
                assert_eq!(world.rotate(&second(), RETRIES).await, Event::Succeeded, "{}", world.story());
                let minted = world.minted();
                let [lost, new] = minted.as_slice() else { panic!("{}", world.story()) };
                let mint = match rotate_in_grace {
                    RotateInGrace::RestartsGrace => MintedBy::Rotate { of: world.first_key.clone() },
                    _ => MintedBy::Create,
                };
                assert_eq!(new.minted_by, mint);
                assert_eq!((lost.revoked_at, lost.rotated_at), (None, None), "it is not proven ours");
                let named = format!("The key {} was never used", lost.id);
                assert!(world.history.borrow().iter().any(|line| line.contains(&named)), "{}", world.story());
                // The orphan that was named is all that is left.
                let broken = world.check_completed();
                assert!(broken.len() == 1 && broken[0].contains(&lost.id), "{broken:?}");
            }
        }
    });
}

#[test]
fn a_store_that_is_throttled_is_repeated_and_nothing_is_minted_twice() {
    Testbed::run(async |testbed| {
        for rule in [
            "PutSecretValue#1..3=refuse:400:ThrottlingException",
            "PutSecretValue#1..3=error-before:500",
            "PutSecretValue#1=no-answer",
            "PutSecretValue#1=drop-before",
        ] {
            let world = testbed.world(&Setting::default());
            world.rotate_through(rule, ONCE, 1).await;
        }
    });
}

#[test]
fn a_store_whose_outcome_is_unclear_is_read_back() {
    Testbed::run(async |testbed| {
        for rule in [
            "PutSecretValue#1=drop-after",
            "PutSecretValue#1=no-answer-after",
            "PutSecretValue#1=garble",
            // Every attempt: only the version itself tells that the first one did it.
            "PutSecretValue=error-after:500",
            "PutSecretValue=no-answer-after",
        ] {
            let world = testbed.world(&Setting::default());
            world.rotate_through(rule, ONCE, 1).await;
        }
    });
}

#[test]
fn a_store_that_is_refused_for_good_names_the_lost_key_and_the_next_attempt_recovers() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        let rotation = world.begin_rotation(&second()).unwrap();
        world.rule("PutSecretValue#1=refuse:400:AccessDeniedException");
        let message = refused(world.step(&rotation, "createSecret").await, "StoreFailed");
        let minted = world.minted();
        assert_eq!(minted.len(), 1);
        assert!(minted[0].revoked_at.is_none(), "a lost key stays until it has been replaced");
        for part in [&minted[0].id, &death(&world.kosli_key(&world.first_key)), "secretsmanager:PutSecretValue"] {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
        world.assert_kept();
        world.advance(TAKE_OVER);
        world.complete(&rotation, RETRIES).await;
        world.assert_chain(2);
    });
}

#[test]
fn with_too_little_time_left_nothing_is_minted() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        let rotation = world.begin_rotation(&second()).unwrap();
        let event = step_event(&rotation, "createSecret");
        let message = refused(world.invoke_within(0, &event, Duration::from_secs(20)).await, "OutOfTime");
        assert!(message.contains("Nothing was changed"), "{message}");
        assert_eq!((world.minted().len(), world.writes()), (0, 0));
        world.assert_kept();
        world.complete(&rotation, ONCE).await;
    });
}

#[test]
fn time_that_slow_reads_have_used_up_is_not_minted_in() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        let rotation = world.begin_rotation(&second()).unwrap();
        // The list comes at last, with 25 s left.
        world.rule("list#1=delay:7s");
        let event = step_event(&rotation, "createSecret");
        refused(world.invoke_within(0, &event, Duration::from_secs(33)).await, "OutOfTime");
        assert_eq!((world.minted().len(), world.writes()), (0, 0));
        world.assert_kept();
    });
}

#[test]
fn a_slow_rotation_is_waited_for_and_not_repeated() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        world.rotate_through("rotate#1=delay:25s", ONCE, 1).await;
        assert_eq!(world.count(&["rotate"]), 1);
    });
}

#[test]
fn every_step_waits_for_a_stale_view_to_pass() {
    let stale =
        (1..=8).map(Staleness::Reads).chain([100, 900, 2_000, 3_000].map(Duration::from_millis).map(Staleness::For));
    Testbed::run(async |testbed| {
        for staleness in stale {
            for shape in [Shape::ApiKey, Shape::Plain] {
                for revoke_immediately in [false, true] {
                    let world = testbed.world(&Setting { staleness, shape, revoke_immediately, ..Setting::default() });
                    let end = world.rotate(&second(), ONCE).await;
                    assert_eq!(end, Event::Succeeded, "{staleness:?} {shape:?}\n{}", world.story());
                    world.assert_completed();
                    world.assert_chain(1);
                }
            }
        }
    });
}

#[test]
fn a_view_that_stays_stale_fails_the_step_and_never_the_key() {
    Testbed::run(async |testbed| {
        let staleness = Staleness::For(Duration::from_secs(30));
        let world = testbed.world(&Setting { staleness, ..Setting::default() });
        world.rotate_completely(&second()).await;
        world.assert_chain(1);
        assert!(world.history.borrow().iter().any(|line| line.contains("PendingValueMissing")), "{}", world.story());
    });
}

#[test]
fn a_stale_no_value_costs_at_most_one_key_which_is_revoked() {
    Testbed::run(async |testbed| {
        for lag in [0, 5] {
            // Where the list lags too, nothing at all shows that the key has been minted and stored.
            let switches = Switches { list_lag: Duration::from_secs(lag), ..Switches::default() };
            let staleness = Staleness::For(Duration::from_secs(10));
            let world = testbed.world(&Setting { switches, staleness, ..Setting::default() });
            let rotation = world.begin_rotation(&second()).unwrap();
            done(world.step(&rotation, "createSecret").await);
            let again = world.step(&rotation, "createSecret").await;
            let superfluous = world.minted().split_off(1);
            assert!(superfluous.len() <= usize::from(lag > 0), "{again:?}\n{}", world.story());
            world.complete(&rotation, RETRIES).await;
            assert!(superfluous.iter().all(|key| !world.lives(&key.id)), "{}", world.story());
        }
    });
}

#[test]
fn a_dead_pending_key_stops_every_step_with_the_two_command_lines() {
    Testbed::run(async |testbed| {
        for rotate_in_grace in [RotateInGrace::RestartsGrace, RotateInGrace::Conflict] {
            let switches = Switches { rotate_in_grace, ..Switches::default() };
            let world = testbed.world(&Setting { switches, ..Setting::default() });
            let rotation = world.begin_rotation(&second()).unwrap();
            done(world.step(&rotation, "createSecret").await);
            world.probe.pending_is_safe.store(false, Ordering::SeqCst);
            let pending = world.key("AWSPENDING").unwrap().id;
            assert!(world.emulator.with_kosli(|kosli| kosli.revoke_key(&pending)));
            let writes = world.writes();
            for step in ["createSecret", "testSecret", "finishSecret"] {
                let message = refused(world.step(&rotation, step).await, "PendingKeyDead");
                for line in command_lines(&world, &rotation.token) {
                    assert!(message.contains(&line), "{step}: {line} is not in: {message}");
                }
            }
            assert_eq!(world.writes(), writes);
            world.assert_kept();
            world.clear_pending(&rotation.token);
            world.rotate_completely(&token("third", 0)).await;
        }
    });
}

#[test]
fn a_pending_copy_of_the_current_key_stops_creation_and_promotion() {
    Testbed::run(async |testbed| {
        for shape in [Shape::ApiKey, Shape::Plain] {
            let world = testbed.world(&Setting { shape, ..Setting::default() });
            // A test of the configuration that nobody has cleaned up after.
            let test = json!({"SecretId": world.arn, "ClientRequestToken": second(), "RotateImmediately": false,
                              "RotationLambdaARN": "arn:aws:lambda:eu-west-1:123456789012:function:rotation"});
            world.aws("RotateSecret", test).unwrap();
            let rotation = world.emulator.with_secrets_manager(|service| service.take_rotations()).remove(0);
            for step in ["createSecret", "finishSecret"] {
                let message = refused(world.step(&rotation, step).await, "PendingIsCurrent");
                assert!(!message.contains("works until"), "nothing was minted: {message}");
                for line in command_lines(&world, &rotation.token) {
                    assert!(message.contains(&line), "{step}: {line} is not in: {message}");
                }
            }
            assert_eq!((world.minted().len(), world.writes()), (0, 0));
            done(world.step(&rotation, "testSecret").await);
            world.assert_kept();
            world.clear_pending(&rotation.token);
            world.rotate_completely(&token("third", 0)).await;
        }
    });
}

#[test]
fn a_late_duplicate_of_any_step_changes_nothing() {
    Testbed::run(async |testbed| {
        for shape in [Shape::ApiKey, Shape::Plain] {
            for revoke_immediately in [false, true] {
                let world = testbed.world(&Setting { shape, revoke_immediately, ..Setting::default() });
                let rotation = world.begin_rotation(&second()).unwrap();
                let deliver = async |expected: [Option<&str>; 4]| {
                    let live = |world: &World| -> Vec<String> {
                        world.minted().iter().map(|key| key.id.clone()).filter(|id| world.lives(id)).collect()
                    };
                    let labels = |world: &World| [world.value("AWSCURRENT"), world.value("AWSPENDING")];
                    let before = (world.minted().len(), live(&world), labels(&world));
                    for (step, expected) in STEPS.into_iter().zip(expected) {
                        let outcome = world.step(&rotation, step).await;
                        match expected {
                            None => drop(done(outcome)),
                            Some(kind) => drop(refused(outcome, kind)),
                        }
                        world.assert_kept();
                    }
                    assert_eq!((world.minted().len(), live(&world), labels(&world)), before, "{}", world.story());
                };
                assert_eq!(world.drive(&rotation, ONCE).await, Event::Succeeded);
                deliver([None; 4]).await;
                let third = world.begin_rotation(&token("third", 0)).unwrap();
                deliver([None; 4]).await;
                done(world.step(&third, "createSecret").await);
                deliver([None; 4]).await;
                world.complete(&third, ONCE).await;
                deliver([Some("TokenNotPending"); 4]).await;
                world.advance(DAY);
                world.rotate_completely(&token("fourth", 0)).await;
                // A version without a key-id label of its own has no label left at all.
                let gone = if shape == Shape::Plain { "TokenNotPending" } else { "TokenNotStaged" };
                deliver([Some(gone); 4]).await;
            }
        }
    });
}

#[test]
fn the_sweep_is_done_when_finish_secret_comes_again() {
    Testbed::run(async |testbed| {
        for admin in [true, false] {
            let world = testbed.world(&Setting { admin, ..Setting::default() });
            let (rotation, _) = world.lose_a_key().await;
            world.advance(TAKE_OVER);
            world.rule("revoke=error-before:503");
            let answer = done(world.step(&rotation, "createSecret").await);
            let lost = world.minted()[0].id.clone();
            assert!(answer["warnings"][0].as_str().is_some_and(|warning| warning.contains(&lost)), "{answer}");
            done(world.step(&rotation, "setSecret").await);
            done(world.step(&rotation, "testSecret").await);
            world.rule("list=error-before:503");
            let message = refused(world.step(&rotation, "finishSecret").await, "CleanUpIncomplete");
            assert!(message.contains("AWSCURRENT has moved"), "{message}");
            assert_eq!(world.key("AWSCURRENT").map(|key| key.id), Some(world.minted()[1].id.clone()));
            assert!(world.lives(&lost));
            world.emulator.faults().clear();
            let answer = done(world.step(&rotation, "finishSecret").await);
            assert_eq!((&answer["outcome"], &answer["revoked_key_ids"]), (&json!("already current"), &json!([lost])));
            world.assert_completed();
            world.assert_chain(2);
        }
    });
}

#[test]
fn a_twins_key_is_left_alone_while_the_twin_may_live() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        let (rotation, _) = world.lose_a_key().await;
        let event = step_event(&rotation, "createSecret");
        for _ in 0..3 {
            world.advance(Duration::from_secs(10));
            let message = refused(world.invoke(1, &event).await, "TwinExecution");
            assert!(message.contains(&world.minted()[0].id), "{message}");
            let dies = death(&world.kosli_key(&world.first_key));
            assert!(message.contains(&dies), "{dies} is not in: {message}");
            assert_eq!(world.minted().len(), 1);
        }
        world.assert_kept();
        // From here on the step has room to wait until the twin can no longer live.
        world.advance(Duration::from_secs(30));
        let begin = world.emulator.clock().now();
        let answer = done(world.invoke(1, &event).await);
        assert_eq!(answer["outcome"], "recovered");
        let waited = world.emulator.clock().now().duration_since(begin).unwrap();
        assert!(waited > Duration::from_secs(30), "{waited:?}");
        world.complete(&rotation, ONCE).await;
        world.assert_chain(2);
    });
}

#[test]
fn a_twin_that_stores_while_it_is_waited_for_has_done_the_work() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        let rotation = world.begin_rotation(&second()).unwrap();
        let event = step_event(&rotation, "createSecret");
        // The first execution has died, and the value that it sent arrives while its twin waits for it.
        world.rule("PutSecretValue=late:75s");
        let first = world.invoke_within(0, &event, Duration::from_secs(60)).await;
        refused(first, "StoreFailed");
        world.emulator.faults().clear();
        world.advance(Duration::from_secs(20));
        let answer = done(world.invoke(1, &event).await);
        assert_eq!(answer["outcome"], "already created", "{}", world.story());
        world.complete(&rotation, ONCE).await;
        world.assert_chain(1);
    });
}

/// Until the first call of an operation has had its effect.
async fn until_effect(world: &World, operation: &str) {
    while !world.emulator.calls().iter().any(|call| call.operation == operation && call.effect.is_some()) {
        tokio::task::yield_now().await;
    }
}

#[test]
fn an_execution_that_was_held_between_mint_and_store_comes_too_late_and_does_no_harm() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        let rotation = world.begin_rotation(&second()).unwrap();
        let event = step_event(&rotation, "createSecret");
        // Held by nobody's time-out: the handler itself, not an invocation that Lambda ends.
        let function = world.function(0);
        let deadline = world.emulator.clock().now() + testbed::TIMEOUT;
        let context = LambdaContext { request_id: "held", deadline, function_arn: "" };
        let mut held = Box::pin(function.handle(&event, context));
        tokio::select! {
            biased;
            () = until_effect(&world, "rotate") => {}
            answer = &mut held => panic!("{answer:?}"),
        }
        assert_eq!((world.minted().len(), world.count(&["PutSecretValue"])), (1, 0));
        world.advance(TAKE_OVER);
        assert_eq!(done(world.invoke(1, &event).await)["outcome"], "recovered");
        let stored = world.value("AWSPENDING");
        // It goes on, past its deadline, with a key that has been replaced.
        let late = held.await;
        assert!(late.is_err(), "{late:?}");
        assert_eq!(world.value("AWSPENDING"), stored);
        world.complete(&rotation, ONCE).await;
        world.assert_chain(2);
    });
}

#[test]
fn a_value_that_is_stored_while_its_key_is_taken_over_asks_for_another_rotation() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        let rotation = world.begin_rotation(&second()).unwrap();
        let event = step_event(&rotation, "createSecret");
        // The first execution has died, and its store arrives when its key is being taken over. Nothing can prevent that.
        world.rule("PutSecretValue=late:110s");
        refused(world.invoke_within(0, &event, Duration::from_secs(40)).await, "StoreFailed");
        world.emulator.faults().clear();
        world.rule("rotate#1=delay:12s");
        world.probe.pending_is_safe.store(false, Ordering::SeqCst);
        let begin = world.kosli_key(&world.minted()[0].id).created_at;
        let elapsed = world.emulator.clock().now().duration_since(begin).unwrap();
        world.advance(Duration::from_secs(106) - elapsed);
        let message = refused(world.invoke(1, &event).await, "PendingKeyDying");
        let [winner, superfluous] = <[Key; 2]>::try_from(world.minted()).unwrap();
        assert_eq!(world.key("AWSPENDING").map(|key| key.id), Some(winner.id.clone()));
        for part in [&winner.id, &superfluous.id, &death(&winner)] {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
        // However often it is tried again, the key that dies within the hour is not promoted; once it is cleared, the next rotation
        // goes on from its successor.
        assert_ne!(world.drive(&rotation, ONCE).await, Event::Succeeded, "{}", world.story());
        assert_eq!(world.key("AWSCURRENT").unwrap().id, world.first_key);
        world.clear_pending(&second());
        world.advance(TAKE_OVER);
        world.rotate_completely(&token("third", 0)).await;
    });
}

#[test]
fn every_error_after_a_mint_names_the_instant_at_which_the_current_key_dies() {
    Testbed::run(async |testbed| {
        for rule in [
            "rotate=drop-after",
            "rotate=no-answer-after",
            "rotate=garble",
            "rotate=incomplete",
            "PutSecretValue=refuse:400:AccessDeniedException",
            "PutSecretValue=refuse:400:LimitExceededException",
            "PutSecretValue=error-before:500",
            "PutSecretValue=no-answer",
        ] {
            let world = testbed.world(&Setting::default());
            let rotation = world.begin_rotation(&second()).unwrap();
            world.rule(rule);
            let error = world.step(&rotation, "createSecret").await.expect_err(rule);
            let dies = death(&world.kosli_key(&world.first_key));
            let is_named = |text: &str| text.contains(&format!("The key under AWSCURRENT works until {dies}"));
            assert!(is_named(&error.error_message), "{rule}: {dies} is not in: {error}");
            world.assert_kept();
            // A minute later the key is known, and still too young to be taken over.
            let error = world.step(&rotation, "createSecret").await.expect_err(rule);
            assert!(is_named(&error.error_message), "{rule}: {dies} is not in: {error}");
        }
    });
}

#[test]
fn an_error_of_a_later_step_names_about_when_the_current_key_dies() {
    Testbed::run(async |testbed| {
        for step in STEPS {
            for rule in ["verify=error-before:503", "verify=refuse:403", "verify=refuse:401"] {
                let world = testbed.world(&Setting::default());
                let rotation = world.begin_rotation(&second()).unwrap();
                done(world.step(&rotation, "createSecret").await);
                world.rule(rule);
                match world.step(&rotation, step).await {
                    // This step calls nobody but Secrets Manager.
                    Ok(_) => assert_eq!(step, "setSecret"),
                    Err(error) => {
                        let dies = death(&world.kosli_key(&world.first_key));
                        let text = &error.error_message;
                        assert!(
                            text.contains(&format!("until about {dies}")),
                            "{step}, {rule}: {dies} is not in: {text}"
                        );
                    }
                }
                world.assert_kept();
            }
        }
    });
}
