//! What is said: the answers of a rotation, to the field, and which words go with which failure of a service. Whoever reads
//! an answer or an error at night acts on it, so a word that names the wrong key or the wrong service is a fault.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::time::Duration;

use emulator::kosli::{ListShape, Switches};
use emulator::rotation::{Event, STEPS};
use emulator::secrets_manager::Staleness;
use serde_json::{Value, json};
use testbed::{ONCE, Setting, Shape, Testbed, World, done, rfc3339, second};

/// The whole answer of a step, for this version.
fn answer(world: &World, step: &str, outcome: &str, more: &Value) -> Value {
    let mut answer = json!({"step": step, "secret_id": world.arn, "version_id": second(), "outcome": outcome});
    for (name, value) in more.as_object().unwrap() {
        answer[name] = value.clone();
    }
    answer
}

#[test]
fn the_answers_of_a_rotation_name_both_keys_and_the_old_ones_death() {
    Testbed::run(async |testbed| {
        for revoke_immediately in [false, true] {
            for shape in [Shape::ApiKey, Shape::Environment] {
                let world = testbed.world(&Setting { revoke_immediately, shape, ..Setting::default() });
                let rotation = world.begin_rotation(&second()).unwrap();
                let step = async |step: &str| done(world.step(&rotation, step).await);
                let begin = world.emulator.clock().now();
                let created = step("createSecret").await;
                let (old, new) = (&world.first_key, world.minted().remove(0).id);
                let dies = rfc3339(world.kosli_key(old).grace_ends_at.unwrap());
                let expected = json!({"key_id": new, "replaced_key_id": old, "current_key_dies_at": dies});
                assert_eq!(created, answer(&world, "createSecret", "rotated", &expected));
                // An id in a value is foreign text, and these look at no list that would prove it.
                for (name, outcome) in
                    [("createSecret", "already created"), ("setSecret", "checked"), ("testSecret", "tested")]
                {
                    assert_eq!(step(name).await, answer(&world, name, outcome, &json!({})));
                }
                let mut expected = json!({"key_id": new, "replaced_key_id": old});
                if revoke_immediately {
                    expected["revoked_key_ids"] = json!([old]);
                    expected["old_key"] = "dead".into();
                }
                assert_eq!(step("finishSecret").await, answer(&world, "finishSecret", "promoted", &expected));
                // Where nothing fails, nothing is waited for.
                assert_eq!(world.emulator.clock().now(), begin, "{}", world.story());
                // A key that is dead already is not revoked again.
                if expected.as_object_mut().unwrap().remove("revoked_key_ids").is_some() {
                    // Nor is it listed any more.
                    expected.as_object_mut().unwrap().remove("replaced_key_id");
                }
                assert_eq!(step("finishSecret").await, answer(&world, "finishSecret", "already current", &expected));
                for name in ["createSecret", "setSecret"] {
                    assert_eq!(step(name).await, answer(&world, name, "already current", &json!({})));
                }
                world.assert_completed();
            }
        }
    });
}

#[test]
fn the_answer_of_a_recovery_names_the_lost_key_that_was_revoked() {
    Testbed::run(async |testbed| {
        let world = testbed.world(&Setting::default());
        let rotation = world.begin_rotation(&second()).unwrap();
        world.rule("rotate#1=incomplete");
        let recovered = done(world.step(&rotation, "createSecret").await);
        let minted = world.minted();
        let dies = rfc3339(world.kosli_key(&world.first_key).grace_ends_at.unwrap());
        let expected = json!({"key_id": minted[1].id, "replaced_key_id": world.first_key, "current_key_dies_at": dies,
                              "revoked_key_ids": [minted[0].id]});
        assert_eq!(recovered, answer(&world, "createSecret", "recovered", &expected));
    });
}

#[test]
fn a_new_value_that_is_not_visible_yet_is_waited_for_and_tested() {
    Testbed::run(async |testbed| {
        for step in ["setSecret", "testSecret", "finishSecret"] {
            let staleness = Staleness::For(Duration::from_secs(1));
            let world = testbed.world(&Setting { staleness, ..Setting::default() });
            // The rotation's own version has been there for a while.
            let rotation = world.begin_rotation(&second()).unwrap();
            world.advance(Duration::from_secs(10));
            done(world.step(&rotation, "createSecret").await);
            let answer = done(world.step(&rotation, step).await);
            assert!(["checked", "tested", "promoted"].contains(&answer["outcome"].as_str().unwrap()), "{answer}");
            world.assert_kept();
        }
    });
}

#[test]
fn a_list_that_does_not_show_the_new_key_is_said_to_be_not_whole() {
    Testbed::run(async |testbed| {
        let switches = Switches { list_shape: ListShape::Pages(2), ..Switches::default() };
        let world = testbed.world(&Setting { switches, ..Setting::default() });
        assert_eq!(world.rotate(&second(), ONCE).await, Event::Succeeded, "{}", world.story());
        let story = world.history.borrow().join("\n");
        let new = world.minted().remove(0).id;
        assert!(story.contains(&format!("does not show the new key {new}")), "{story}");
    });
}

/// An error of a step: its word, and what it says.
async fn failure(world: &World, rules: &[&str], failing: &str) -> (String, String) {
    let rotation = world.begin_rotation(&second()).unwrap();
    for step in STEPS.into_iter().take_while(|step| *step != failing) {
        done(world.step(&rotation, step).await);
    }
    rules.iter().for_each(|rule| world.rule(rule));
    let error = world.step(&rotation, failing).await.expect_err(failing);
    world.assert_kept();
    (error.error_type, error.error_message)
}

#[test]
fn every_refusal_of_kosli_names_the_key_that_was_used_and_whose_fault_it_is() {
    const ADMIN: &str = "with the admin key)";
    const OWN: &str = "with the secret's own key (self-rotation))";
    Testbed::run(async |testbed| {
        for (admin, step, rule, word, says) in [
            (true, "createSecret", "list=refuse:401", "AdminKeyDead", ADMIN),
            (true, "createSecret", "list=refuse:403", "KosliForbidden", ADMIN),
            (true, "createSecret", "list=refuse:403", "KosliForbidden", "Give the admin key's service account a role"),
            (true, "createSecret", "list=refuse:404", "KosliRefused", "Check organization, service account"),
            (true, "createSecret", "list=refuse:400", "KosliRefused", "Correct what Kosli names"),
            (true, "createSecret", "list=refuse:429", "KosliUnavailable", ADMIN),
            (true, "createSecret", "list=error-before:503", "KosliUnavailable", ADMIN),
            (false, "createSecret", "list=refuse:401", "KosliForbidden", OWN),
            (false, "createSecret", "list=refuse:403", "KosliForbidden", "needs an admin key"),
            (false, "createSecret", "list=refuse:429", "KosliUnavailable", OWN),
            (true, "createSecret", "rotate=refuse:403", "KosliForbidden", "rotating the key"),
            (false, "finishSecret", "list=refuse:403", "CleanUpIncomplete", "with the new key (self-rotation))"),
            (
                true,
                "createSecret",
                "verify=refuse:403",
                "KosliForbidden",
                "known whether Kosli accepts the current key",
            ),
            (true, "createSecret", "verify=refuse:404", "KosliRefused", "reading the environments of acme"),
            (true, "createSecret", "verify=refuse:429", "KosliUnavailable", "reading the environments of acme"),
            (true, "createSecret", "verify=refuse:409", "KosliUnavailable", "reading the environments of acme"),
            (true, "createSecret", "verify=error-before:500", "KosliUnavailable", "reading the environments of acme"),
            (true, "testSecret", "verify=refuse:403", "KosliForbidden", "the key under AWSPENDING"),
            (true, "finishSecret", "verify=refuse:403", "KosliForbidden", "the key under AWSPENDING"),
        ] {
            let world = testbed.world(&Setting { admin, ..Setting::default() });
            let (kind, text) = failure(&world, &[rule], step).await;
            assert_eq!(kind, word, "{step} {rule}: {text}");
            assert!(text.contains(says), "{step} {rule}: {says} is not in: {text}");
        }
    });
}

#[test]
fn every_refusal_of_secrets_manager_says_what_is_to_be_done() {
    Testbed::run(async |testbed| {
        for (fault, word, says) in [
            ("error-before:500", "SecretsManagerUnavailable", "Secrets Manager failed"),
            ("refuse:400:ResourceNotFoundException", "SecretNotFound", "There is no secret"),
            ("refuse:400:AccessDeniedException", "SecretsManagerRefused", "lacks a permission"),
            ("refuse:400:AccessDeniedException", "SecretsManagerRefused", "secretsmanager:DescribeSecret on"),
            (
                "refuse:400:AccessDeniedException:message=Access to KMS is not allowed",
                "SecretsManagerRefused",
                "kms:Decrypt and kms:GenerateDataKey",
            ),
            (
                "refuse:400:AccessDeniedException:message=User arn/KMS-role is not authorized to perform: secretsmanager:DescribeSecret on resource KMS",
                "SecretsManagerRefused",
                "Allow the function's role secretsmanager:DescribeSecret on arn",
            ),
            (
                "refuse:400:AccessDeniedException:message=User x is not authorized to perform: kms:Decrypt on resource y",
                "SecretsManagerRefused",
                "Allow the function's role kms:Decrypt on the key of",
            ),
            (
                "refuse:400:AccessDeniedException:message=User x is not authorized to perform: kms:Decrypt on resource y with an explicit deny in a resource-based policy",
                "SecretsManagerRefused",
                "denies kms:Decrypt on the key of",
            ),
            (
                "refuse:400:AccessDeniedException:message=User x is not authorized to perform: secretsmanager:DescribeSecret on resource y because no VPC endpoint policy allows the secretsmanager:DescribeSecret action",
                "SecretsManagerRefused",
                "in the policy of the VPC endpoint",
            ),
            ("refuse:400:DecryptionFailure", "SecretsManagerRefused", "Secrets Manager refused a call"),
            ("refuse:400:DecryptionFailure:message=KMS", "SecretsManagerRefused", "Secrets Manager refused a call"),
        ] {
            let world = testbed.world(&Setting::default());
            let (kind, text) = failure(&world, &[&format!("DescribeSecret={fault}")], "createSecret").await;
            assert_eq!(kind, word, "{fault}: {text}");
            assert!(text.contains(says), "{fault}: {says} is not in: {text}");
            assert!(world.minted().is_empty());
        }
    });
}

/// The emulator's words are in each of them, and so is the status; nothing is tried that cannot help.
#[test]
fn every_4xx_of_kosli_ends_a_step_at_once_with_its_status_and_words() {
    Testbed::run(async |testbed| {
        for status in
            [400, 402, 405, 406, 410, 411, 412, 413, 414, 415, 416, 417, 418, 422, 423, 424, 426, 428, 431, 451]
        {
            for operation in ["verify", "list", "rotate"] {
                if (status, operation) == (400, "rotate") {
                    // It may have been rotated before: a new key is created beside it.
                    continue;
                }
                let world = testbed.world(&Setting::default());
                let begin = world.emulator.clock().now();
                let rule = format!("{operation}=refuse:{status}:message=not like this");
                let (kind, text) = failure(&world, &[&rule], "createSecret").await;
                assert_eq!(kind, "KosliRefused", "{rule}: {text}");
                assert!(text.contains(&format!("it answered {status}: not like this")), "{rule}: {text}");
                assert_eq!(world.count(&[operation]), 1, "{rule}");
                assert_eq!(world.emulator.clock().now(), begin, "{rule}: nothing is waited for");
                assert!(world.minted().is_empty());
            }
        }
    });
}

/// These say nothing about what happened: a mint is looked for, and a read is asked again.
#[test]
fn a_4xx_that_tells_of_time_or_of_the_connection_is_no_answer() {
    Testbed::run(async |testbed| {
        for status in [408, 421, 425, 499] {
            for (operation, word) in
                [("verify", "KosliUnavailable"), ("list", "KosliUnavailable"), ("rotate", "MintUnclear")]
            {
                let world = testbed.world(&Setting::default());
                let rule = format!("{operation}=refuse:{status}");
                let (kind, text) = failure(&world, &[&rule], "createSecret").await;
                assert_eq!(kind, word, "{rule}: {text}");
                assert!(world.count(&[operation]) > 1, "{rule}");
            }
        }
    });
}

#[test]
fn what_kosli_refuses_for_good_is_asked_once_and_what_may_pass_is_asked_again() {
    Testbed::run(async |testbed| {
        // A 404 for a key that is listed may pass; where it does not, a key is to be created, and the error has both answers.
        for (refusal, times) in [("403", 1), ("404", 6), ("422", 1), ("429", 6)] {
            let world = testbed.world(&Setting::default());
            let rules = [&*format!("rotate=refuse:{refusal}"), "create=refuse:422:message=no more keys"];
            let (_, text) = failure(&world, &rules, "createSecret").await;
            assert_eq!(world.count(&["rotate"]), times, "{refusal}");
            assert_eq!(text.contains("no more keys"), refusal == "404", "{text}");
            assert!(text.contains(&format!("it answered {refusal}")), "{text}");
            assert!(world.minted().is_empty());
        }
    });
}
