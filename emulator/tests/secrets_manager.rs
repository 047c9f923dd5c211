//! The rules of the emulated Secrets Manager that no recording covers: documented ones, limits, what happens at the end of a
//! rotation, and the switches.

#![allow(clippy::unwrap_used)]

mod aws_client;

use std::time::Duration;

use aws_client::{Aws, recorded, refusal, text, token};
use bytes::Bytes;
use emulator::secrets_manager::{
    PendingLabel, RotationOutcome, RotationRequest, SecretsManager, Staleness, TestedVersion,
};
use http::Request;
use serde_json::{Value, json};

const FUNCTION: &str = "arn:aws:lambda:eu-west-1:123456789012:function:rotate";
const IN_PROGRESS: &str = "A previous rotation isn't complete. That rotation will be reattempted.";
const DAY: u64 = 24 * 60 * 60;

/// A service with one secret, `s`, whose value `first` is stored as version 1.
fn with_secret() -> Aws {
    let mut aws = Aws::new();
    aws.ok("CreateSecret", json!({ "Name": "s", "SecretString": "first" }));
    aws
}

/// The same, with a rotation that has just begun: version 2 is pending and has no value.
fn rotating() -> (Aws, RotationRequest) {
    let mut aws = with_secret();
    rotate(&mut aws, json!({}));
    let rotation = taken(&mut aws);
    (aws, rotation)
}

fn rotate(aws: &mut Aws, more: Value) {
    let mut body = json!({
        "SecretId": "s", "RotationLambdaARN": FUNCTION, "RotationRules": { "AutomaticallyAfterDays": 30 },
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    aws.ok("RotateSecret", body);
}

/// The one rotation that has begun.
fn taken(aws: &mut Aws) -> RotationRequest {
    let mut rotations = aws.service.take_rotations();
    assert_eq!(rotations.len(), 1, "{rotations:?}");
    rotations.remove(0)
}

fn put(aws: &mut Aws, version: u32, value: &str, stages: &[&str]) -> Result<Value, aws_client::Refusal> {
    aws.call(
        "PutSecretValue",
        json!({ "SecretId": "s", "SecretString": value, "ClientRequestToken": token(version), "VersionStages": stages }),
    )
}

fn read(aws: &mut Aws, label: &str) -> Option<String> {
    aws.call("GetSecretValue", json!({ "SecretId": "s", "VersionStage": label }))
        .ok()
        .map(|value| text(&value["SecretString"]))
}

fn describe(aws: &mut Aws) -> Value {
    aws.ok("DescribeSecret", json!({ "SecretId": "s" }))
}

fn move_label(aws: &mut Aws, label: &str, from: Option<u32>, to: Option<u32>) -> Result<Value, aws_client::Refusal> {
    let mut body = json!({ "SecretId": "s", "VersionStage": label });
    if let Some(from) = from {
        body["RemoveFromVersionId"] = json!(token(from));
    }
    if let Some(to) = to {
        body["MoveToVersionId"] = json!(token(to));
    }
    aws.call("UpdateSecretVersionStage", body)
}

// The protocol

#[test]
fn requests_that_are_not_understood() {
    let mut service = Aws::new().service;
    let mut check = |target: &str, authorization: &str, body: &'static str, kind: &str| {
        let request = Request::post("/").header("x-amz-target", target).header("authorization", authorization);
        let response = service.handle(&request.body(Bytes::from_static(body.as_bytes())).unwrap());
        assert_eq!(response.status(), 400);
        let answer = aws_client::json_of(&response);
        assert_eq!(answer["__type"], kind, "{answer}");
        assert!(!answer.to_string().contains("hidden"), "{answer}");
    };
    let signed = "AWS4-HMAC-SHA256 Credential=made/up";
    check("secretsmanager.ListSecrets", "Bearer x", "{}", "MissingAuthenticationTokenException");
    check("secretsmanager.Frobnicate", signed, "{}", "UnknownOperationException");
    check("dynamodb.ListTables", signed, "{}", "UnknownOperationException");
    check("secretsmanager.ListSecrets", signed, "{", "SerializationException");
    check("secretsmanager.PutSecretValue", signed, r#"{"VersionStages":"hidden"}"#, "SerializationException");
    check("secretsmanager.DescribeSecret", signed, "{}", "ValidationException");
}

#[test]
fn operation_of_a_request() {
    let request = |target: &str| Request::post("/").header("x-amz-target", target).body(Bytes::new()).unwrap();
    assert_eq!(SecretsManager::operation(&request("secretsmanager.PutSecretValue")), Some("PutSecretValue"));
    assert_eq!(SecretsManager::operation(&request("dynamodb.ListTables")), None);
    assert_eq!(SecretsManager::operation(&Request::get("/").body(Bytes::new()).unwrap()), None);
}

#[test]
fn dates_are_seconds_with_a_fraction() {
    let mut aws = Aws::new();
    aws.clock.advance(Duration::from_micros(1_234_567));
    aws.ok("CreateSecret", json!({ "Name": "s" }));
    assert_eq!(describe(&mut aws)["CreatedDate"], json!(1_800_000_001.235));
}

#[test]
fn account_and_region_are_in_the_arn() {
    let mut aws = Aws::new();
    aws.service = SecretsManager::in_account(aws.clock.clone(), "210987654321", "us-east-2");
    aws.ok("CreateSecret", json!({ "Name": "s" }));
    let arn = text(&describe(&mut aws)["ARN"]);
    assert!(arn.starts_with("arn:aws:secretsmanager:us-east-2:210987654321:secret:s-"), "{arn}");
    assert!(aws.service.secret(&arn).is_some());
    assert!(aws.service.secret(&arn.replace("us-east-2", "us-east-1")).is_none());
}

#[test]
fn nothing_secret_is_printed() {
    let (mut aws, rotation) = rotating();
    let body = json!({
        "SecretId": "s", "SecretString": "hidden-value", "ClientRequestToken": token(2), "VersionStages": ["AWSPENDING"],
        "RotationToken": rotation.rotation_token,
    });
    aws.ok("PutSecretValue", body);
    let version = aws.service.secret("s").unwrap().versions.get(&token(2)).unwrap();
    assert_eq!(version.rotation_token.as_ref(), Some(&rotation.rotation_token));
    assert_eq!(version.text(), Some("hidden-value"));
    let printed = format!("{:?} {rotation:?} {:?}", aws.service, version.value);
    assert!(!printed.contains("hidden-value") && !printed.contains(&rotation.rotation_token), "{printed}");
}

// Values and limits

#[test]
fn limits_of_a_value() {
    let mut aws = with_secret();
    put(&mut aws, 2, &"x".repeat(65_536), &["AWSPENDING"]).unwrap();
    let error = put(&mut aws, 3, &"x".repeat(65_537), &["AWSPENDING"]).unwrap_err();
    assert_eq!(error.0, "ValidationException");
    assert!(error.1.len() < 200);
    assert_eq!(put(&mut aws, 3, "", &["AWSPENDING"]).unwrap_err().0, "ValidationException");
    let both = json!({ "SecretId": "s", "SecretString": "x", "SecretBinary": "eA==" });
    assert_eq!(aws.refused("PutSecretValue", both).0, "InvalidParameterException");
    assert_eq!(aws.refused("PutSecretValue", json!({ "SecretId": "s" })).0, "InvalidRequestException");
}

#[test]
fn limits_of_tokens() {
    let mut aws = with_secret();
    let mut check = |length: usize, rotation_token: &str, accepted: bool| {
        let body = json!({
            "SecretId": "s", "SecretString": "x", "ClientRequestToken": "T".repeat(length),
            "RotationToken": rotation_token, "VersionStages": ["AWSPENDING"],
        });
        assert_eq!(aws.call("PutSecretValue", body).is_ok(), accepted, "{length} {rotation_token}");
    };
    let rotation_token = "r".repeat(36);
    check(31, &rotation_token, false);
    check(32, &rotation_token, true);
    check(64, &rotation_token, true);
    check(65, &rotation_token, false);
    check(40, "too-short", false);
    check(40, &"_".repeat(36), false);
}

#[test]
fn twenty_labels_at_most() {
    let mut aws = with_secret();
    // With AWSCURRENT that makes twenty.
    let labels: Vec<_> = (0..19).map(|number| format!("label-{number}")).collect();
    put(&mut aws, 2, "second", &labels.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    let before = aws.labels();
    assert_eq!(put(&mut aws, 3, "third", &["one-more"]).unwrap_err().0, "LimitExceededException");
    // Promoting a version for the first time adds AWSPREVIOUS.
    assert_eq!(move_label(&mut aws, "AWSCURRENT", Some(1), Some(2)).unwrap_err().0, "LimitExceededException");
    assert_eq!(aws.labels(), before);
    assert_eq!(aws.all_labels(), before);
    move_label(&mut aws, "label-0", Some(2), None).unwrap();
    move_label(&mut aws, "AWSCURRENT", Some(1), Some(2)).unwrap();
}

#[test]
fn old_versions_are_dropped() {
    let mut aws = with_secret();
    let update = |aws: &mut Aws| aws.call("PutSecretValue", json!({ "SecretId": "s", "SecretString": "x" }));
    let versions = |aws: &Aws| aws.service.secret("s").unwrap().versions.iter().count();
    // AWSCURRENT, AWSPREVIOUS and 100 without a label; none of them may be dropped on its first day.
    for _ in 0..101 {
        update(&mut aws).unwrap();
    }
    assert_eq!(versions(&aws), 102);
    assert_eq!(update(&mut aws).unwrap_err().0, "LimitExceededException");
    aws.advance(DAY);
    update(&mut aws).unwrap();
    assert_eq!(versions(&aws), 102);
    assert!(aws.service.secret("s").unwrap().versions.get(&token(1)).is_none());
}

#[test]
fn first_version_is_current_whatever_was_asked() {
    let mut aws = Aws::new();
    aws.ok("CreateSecret", json!({ "Name": "s" }));
    put(&mut aws, 2, "value", &["AWSPENDING"]).unwrap();
    assert_eq!(aws.labels(), "2: AWSCURRENT+AWSPENDING");
}

#[test]
fn repeated_put_changes_no_label() {
    let mut aws = with_secret();
    put(&mut aws, 2, "second", &["AWSPENDING"]).unwrap();
    aws.promote(1, 2);
    put(&mut aws, 2, "second", &["AWSPENDING", "other"]).unwrap();
    assert_eq!(aws.labels(), "1: AWSPREVIOUS, 2: AWSCURRENT+AWSPENDING");
    assert_eq!(put(&mut aws, 2, "second ", &["AWSPENDING"]).unwrap_err().0, "ResourceExistsException");
    assert_eq!(read(&mut aws, "AWSCURRENT").unwrap(), "second");
}

#[test]
fn repeated_create() {
    let mut aws = Aws::new();
    let body = |value: &str| json!({ "Name": "s", "SecretString": value, "ClientRequestToken": token(1) });
    let first = aws.ok("CreateSecret", body("value"));
    assert_eq!(aws.ok("CreateSecret", body("value")), first);
    assert_eq!(aws.refused("CreateSecret", body("other")).0, "ResourceExistsException");
}

// Labels

#[test]
fn label_moves_that_are_refused() {
    let mut aws = with_secret();
    put(&mut aws, 2, "second", &["AWSPENDING"]).unwrap();
    put(&mut aws, 3, "third", &["other"]).unwrap();
    let before = aws.labels();
    let mut check = |label: &str, from: Option<u32>, to: Option<u32>, kind: &str, message: &str| {
        let error = move_label(&mut aws, label, from, to).unwrap_err();
        assert!(error.0 == kind && error.1.contains(message), "{error:?}");
    };
    let parameter = "InvalidParameterException";
    check("AWSCURRENT", Some(3), Some(2), parameter, "currently attached");
    check("other", None, Some(2), parameter, &format!("is currently attached to version {}", token(3)));
    check("nowhere", Some(1), Some(2), parameter, "currently attached");
    check("AWSCURRENT", Some(1), None, parameter, "can’t be completely removed");
    check("AWSPENDING", Some(1), None, parameter, "not attached");
    check("AWSPENDING", None, None, parameter, "must specify");
    check("", None, Some(2), "ValidationException", "versionStage");
    check("AWSCURRENT", Some(1), Some(9), "ResourceNotFoundException", "VersionId");
    assert_eq!(aws.labels(), before);
}

#[test]
fn label_moves_that_are_accepted() {
    let mut aws = with_secret();
    put(&mut aws, 2, "second", &["AWSPENDING"]).unwrap();
    move_label(&mut aws, "new", None, Some(2)).unwrap();
    assert_eq!(aws.labels(), "1: AWSCURRENT, 2: AWSPENDING+new");
    // Where the label is there already, nothing changes, with or without RemoveFromVersionId.
    move_label(&mut aws, "AWSCURRENT", None, Some(1)).unwrap();
    move_label(&mut aws, "AWSCURRENT", Some(1), Some(1)).unwrap();
    assert_eq!(aws.labels(), "1: AWSCURRENT, 2: AWSPENDING+new");
    // There, and back again.
    aws.promote(1, 2);
    assert_eq!(aws.labels(), "1: AWSPREVIOUS, 2: AWSCURRENT+AWSPENDING+new");
    aws.promote(2, 1);
    assert_eq!(aws.labels(), "1: AWSCURRENT, 2: AWSPENDING+AWSPREVIOUS+new");
}

// Rotation

#[test]
fn rotation_from_beginning_to_end() {
    for (pending_label, labels) in
        [(PendingLabel::Removed, "AWSCURRENT"), (PendingLabel::Kept, "AWSCURRENT+AWSPENDING")]
    {
        let (mut aws, rotation) = rotating();
        aws.service.switches.pending_label = pending_label;
        let arn = text(&describe(&mut aws)["ARN"]);
        assert_eq!((&rotation.arn, &rotation.token, &rotation.function_arn), (&arn, &token(2), &FUNCTION.to_owned()));
        assert_eq!(rotation.rotation_token.len(), 36);
        assert_eq!(aws.labels(), "1: AWSCURRENT, 2: AWSPENDING");
        assert_eq!(describe(&mut aws).get("LastRotatedDate"), None);

        put(&mut aws, 2, "second", &["AWSPENDING"]).unwrap();
        aws.promote(1, 2);
        assert_eq!(aws.labels(), "1: AWSPREVIOUS, 2: AWSCURRENT+AWSPENDING");
        assert!(aws.service.is_rotation_wanted(&rotation));
        aws.advance(7_200);
        aws.service.end_rotation(&rotation, RotationOutcome::Succeeded);
        assert_eq!(aws.labels(), format!("1: AWSPREVIOUS, 2: {labels}"));
        assert_eq!(describe(&mut aws)["LastRotatedDate"], json!(1_800_007_200.0));
        assert_eq!(describe(&mut aws)["NextRotationDate"], json!(1_800_007_200.0 + (30 * DAY) as f64));

        // Both ends are legal: the next rotation begins, and takes the label along.
        rotate(&mut aws, json!({ "ClientRequestToken": token(3) }));
        assert_eq!(taken(&mut aws).token, token(3));
        assert_eq!(aws.labels(), "1: AWSPREVIOUS, 2: AWSCURRENT, 3: AWSPENDING");
    }
}

#[test]
fn unfinished_rotation_is_reattempted() {
    for with_value in [false, true] {
        let (mut aws, rotation) = rotating();
        if with_value {
            put(&mut aws, 2, "second", &["AWSPENDING"]).unwrap();
        }
        let again = json!({ "SecretId": "s", "ClientRequestToken": token(3) });
        let in_progress = refusal("InvalidRequestException", IN_PROGRESS);
        // It is still running: nothing to begin.
        assert_eq!(aws.refused("RotateSecret", again.clone()), in_progress);
        assert_eq!(aws.service.take_rotations(), []);

        let next = describe(&mut aws)["NextRotationDate"].clone();
        aws.advance(60 * DAY);
        aws.service.end_rotation(&rotation, RotationOutcome::Failed);
        assert_eq!(aws.labels(), "1: AWSCURRENT, 2: AWSPENDING");
        assert_eq!(describe(&mut aws)["NextRotationDate"], next);
        assert_eq!(aws.refused("RotateSecret", again.clone()), in_progress);
        assert_eq!(taken(&mut aws).token, token(2));
        // A client that repeats its request after a lost answer is not refused.
        aws.ok("RotateSecret", json!({ "SecretId": "s", "ClientRequestToken": token(2) }));
        assert_eq!(aws.service.take_rotations(), []);

        // The way out: take the label off, and begin again with a new token.
        move_label(&mut aws, "AWSPENDING", Some(2), None).unwrap();
        assert_eq!(aws.all_labels(), if with_value { "1: AWSCURRENT, 2: " } else { "1: AWSCURRENT" });
        assert!(!aws.service.is_rotation_wanted(&rotation));
        aws.ok("RotateSecret", again);
        assert_eq!(taken(&mut aws).token, token(3));
    }
}

#[test]
fn success_without_a_promotion_is_none() {
    let (mut aws, rotation) = rotating();
    put(&mut aws, 2, "second", &["AWSPENDING"]).unwrap();
    aws.service.end_rotation(&rotation, RotationOutcome::Succeeded);
    assert_eq!(aws.labels(), "1: AWSCURRENT, 2: AWSPENDING");
    assert_eq!(describe(&mut aws).get("LastRotatedDate"), None);
    assert_eq!(aws.refused("RotateSecret", json!({ "SecretId": "s" })).1, IN_PROGRESS);
}

#[test]
fn new_value_by_hand_abandons_a_rotation() {
    for operation in ["PutSecretValue", "UpdateSecret"] {
        for with_value in [false, true] {
            let (mut aws, rotation) = rotating();
            if with_value {
                put(&mut aws, 2, "second", &["AWSPENDING"]).unwrap();
            }
            aws.advance(DAY);
            let body = json!({ "SecretId": "s", "SecretString": "by hand", "ClientRequestToken": token(9) });
            aws.ok(operation, body);
            assert_eq!(aws.labels(), "1: AWSPREVIOUS, 9: AWSCURRENT");
            assert!(!aws.service.is_rotation_wanted(&rotation));
            // It counts as a rotation for the schedule.
            assert_eq!(describe(&mut aws)["NextRotationDate"], json!(1_800_000_000.0 + (31 * DAY) as f64));

            rotate(&mut aws, json!({ "ClientRequestToken": token(10) }));
            let next = taken(&mut aws);
            // The end of the abandoned rotation is not the end of the new one.
            aws.service.end_rotation(&rotation, RotationOutcome::Failed);
            assert_eq!(aws.refused("RotateSecret", json!({ "SecretId": "s" })).1, IN_PROGRESS);
            assert_eq!(aws.service.take_rotations(), []);
            assert!(aws.service.is_rotation_wanted(&next));
        }
    }
}

#[test]
fn custom_label_does_not_abandon_a_rotation() {
    let (mut aws, rotation) = rotating();
    put(&mut aws, 9, "other", &["custom"]).unwrap();
    aws.ok("UpdateSecret", json!({ "SecretId": "s", "Description": "changed" }));
    assert_eq!(aws.labels(), "1: AWSCURRENT, 2: AWSPENDING, 9: custom");
    assert!(aws.service.is_rotation_wanted(&rotation));
}

#[test]
fn pending_value_put_by_hand_blocks_a_first_rotation() {
    let mut aws = with_secret();
    put(&mut aws, 2, "second", &["AWSPENDING"]).unwrap();
    let body = json!({ "SecretId": "s", "RotationLambdaARN": FUNCTION, "ClientRequestToken": token(3) });
    assert_eq!(aws.refused("RotateSecret", body).1, IN_PROGRESS);
    // There is no earlier rotation to reattempt, and nothing of the request was kept.
    assert_eq!(aws.service.take_rotations(), []);
    assert_eq!(describe(&mut aws).get("RotationLambdaARN"), None);
}

#[test]
fn rotation_token_that_was_used_before() {
    let mut aws = with_secret();
    put(&mut aws, 2, "second", &["other"]).unwrap();
    let body = json!({ "SecretId": "s", "RotationLambdaARN": FUNCTION, "ClientRequestToken": token(2) });
    assert_eq!(aws.refused("RotateSecret", body).0, "ResourceExistsException");
    assert_eq!(describe(&mut aws).get("RotationEnabled"), None);
}

#[test]
fn tested_version_is_removed_at_the_end() {
    for outcome in [RotationOutcome::Succeeded, RotationOutcome::Failed] {
        for (tested_version, value) in [(TestedVersion::CopyOfCurrent, Some("first")), (TestedVersion::NoValue, None)] {
            let mut aws = with_secret();
            aws.service.switches.tested_version = tested_version;
            rotate(&mut aws, json!({ "RotateImmediately": false }));
            let rotation = taken(&mut aws);
            assert!(rotation.test_only);
            assert_eq!(describe(&mut aws)["RotationEnabled"], json!(true));
            assert_eq!(read(&mut aws, "AWSPENDING").as_deref(), value);
            aws.service.end_rotation(&rotation, outcome);
            assert_eq!(aws.all_labels(), "1: AWSCURRENT");
            assert_eq!(describe(&mut aws).get("LastRotatedDate"), None);
        }
    }
}

#[test]
fn rotation_may_be_enabled_only_after_the_test() {
    let mut aws = with_secret();
    aws.service.switches.enabled_after_test = true;
    rotate(&mut aws, json!({ "RotateImmediately": false }));
    let rotation = taken(&mut aws);
    assert_eq!(describe(&mut aws).get("RotationEnabled"), None);
    assert!(aws.service.is_rotation_wanted(&rotation));
    aws.service.end_rotation(&rotation, RotationOutcome::Succeeded);
    assert_eq!(describe(&mut aws)["RotationEnabled"], json!(true));
    assert!(describe(&mut aws).get("NextRotationDate").is_some());
}

#[test]
fn cancelled_rotation() {
    let (mut aws, rotation) = rotating();
    let answer = aws.ok("CancelRotateSecret", json!({ "SecretId": "s" }));
    assert_eq!(recorded(answer), json!({ "ARN": "arn", "Name": "s", "VersionId": "2" }));
    assert!(!aws.service.is_rotation_wanted(&rotation));
    assert_eq!(aws.labels(), "1: AWSCURRENT, 2: AWSPENDING");
    assert_eq!(describe(&mut aws)["RotationEnabled"], json!(false));
    assert_eq!(describe(&mut aws)["RotationLambdaARN"], FUNCTION);
    assert_eq!(describe(&mut aws).get("NextRotationDate"), None);
    aws.service.end_rotation(&rotation, RotationOutcome::Failed);
    assert_eq!(aws.refused("RotateSecret", json!({ "SecretId": "s" })).1, IN_PROGRESS);
    assert_eq!(aws.service.take_rotations(), []);
    move_label(&mut aws, "AWSPENDING", Some(2), None).unwrap();
    aws.ok("RotateSecret", json!({ "SecretId": "s" }));
    assert_eq!(taken(&mut aws).function_arn, FUNCTION);
    assert_eq!(describe(&mut aws)["RotationEnabled"], json!(true));
    assert_eq!(with_secret().refused("CancelRotateSecret", json!({ "SecretId": "s" })).0, "InvalidRequestException");
}

#[test]
fn rotation_rules() {
    let check = |rules: Value, accepted: bool| {
        let mut aws = with_secret();
        let body = json!({ "SecretId": "s", "RotationLambdaARN": FUNCTION, "RotationRules": rules });
        match aws.call("RotateSecret", body) {
            Ok(_) => assert!(accepted, "{rules}"),
            Err(error) => {
                assert!(!accepted && error.0 == "InvalidParameterException", "{rules}: {error:?}");
                assert_eq!(aws.labels(), "1: AWSCURRENT");
            }
        }
    };
    check(json!({ "AutomaticallyAfterDays": 1 }), true);
    check(json!({ "AutomaticallyAfterDays": 1000, "Duration": "3h" }), true);
    check(json!({ "AutomaticallyAfterDays": 0 }), false);
    check(json!({ "AutomaticallyAfterDays": 1001 }), false);
    check(json!({ "AutomaticallyAfterDays": 1, "ScheduleExpression": "rate(1 day)" }), false);
    check(json!({ "AutomaticallyAfterDays": 1, "Duration": "3 hours" }), false);
    check(json!({ "ScheduleExpression": "rate(4 hours)" }), true);
    check(json!({ "ScheduleExpression": "rate(3 hours)" }), false);
    check(json!({ "ScheduleExpression": "rate(10 days)" }), true);
    check(json!({ "ScheduleExpression": "rate(10 weeks)" }), false);
    check(json!({ "ScheduleExpression": "cron(0 8 1 * ? *)" }), true);
    check(json!({ "ScheduleExpression": "cron(5 8 1 * ? *)" }), false);
    check(json!({ "ScheduleExpression": "cron(0 8 1 * ? 2030)" }), false);
    check(json!({ "ScheduleExpression": "every full moon" }), false);
}

// Staleness

#[test]
fn stale_for_a_number_of_reads() {
    let mut aws = with_secret();
    aws.service.set_staleness(Staleness::Reads(2));
    put(&mut aws, 2, "second", &["AWSPENDING"]).unwrap();
    let stages = |aws: &mut Aws| recorded(describe(aws))["VersionIdsToStages"].clone();
    assert_eq!(stages(&mut aws), json!({ "1": ["AWSCURRENT"] }));
    assert_eq!(read(&mut aws, "AWSPENDING"), None);
    assert_eq!(read(&mut aws, "AWSPENDING").unwrap(), "second");

    aws.promote(1, 2);
    assert_eq!(read(&mut aws, "AWSCURRENT").unwrap(), "first");
    assert_eq!(stages(&mut aws), json!({ "1": ["AWSCURRENT"], "2": ["AWSPENDING"] }));
    assert_eq!(read(&mut aws, "AWSCURRENT").unwrap(), "second");
}

#[test]
fn stale_for_a_time() {
    let mut aws = with_secret();
    aws.service.set_staleness(Staleness::For(Duration::from_secs(5)));
    put(&mut aws, 2, "second", &["AWSPENDING"]).unwrap();
    aws.advance(3);
    aws.promote(1, 2);
    assert_eq!(read(&mut aws, "AWSPENDING"), None);
    // Each write comes to light on its own.
    aws.advance(2);
    assert_eq!(read(&mut aws, "AWSPENDING").unwrap(), "second");
    assert_eq!(read(&mut aws, "AWSCURRENT").unwrap(), "first");
    aws.advance(3);
    assert_eq!(read(&mut aws, "AWSCURRENT").unwrap(), "second");
}

/// Values and labels share one quota; reads have none here.
#[test]
fn quota_of_writes() {
    let mut aws = with_secret();
    aws.service.switches.writes_per_second = Some(2);
    put(&mut aws, 2, "second", &["AWSPENDING"]).unwrap();
    aws.promote(1, 2);
    let throttled = refusal("ThrottlingException", "Rate exceeded");
    assert_eq!(put(&mut aws, 3, "third", &["AWSPENDING"]).unwrap_err(), throttled);
    assert_eq!(move_label(&mut aws, "AWSPENDING", Some(2), None).unwrap_err(), throttled);
    assert_eq!(aws.labels(), "1: AWSPREVIOUS, 2: AWSCURRENT+AWSPENDING");
    assert_eq!(read(&mut aws, "AWSCURRENT").unwrap(), "second");
    aws.advance(1);
    put(&mut aws, 3, "third", &["AWSPENDING"]).unwrap();
}

#[test]
fn writes_and_lists_are_never_stale() {
    let mut aws = with_secret();
    aws.service.set_staleness(Staleness::Reads(9));
    put(&mut aws, 2, "second", &["AWSPENDING"]).unwrap();
    assert_eq!(put(&mut aws, 2, "other", &["AWSPENDING"]).unwrap_err().0, "ResourceExistsException");
    assert_eq!(aws.labels(), "1: AWSCURRENT, 2: AWSPENDING");
}

// Deletion and lists

#[test]
fn deletion() {
    let mut aws = with_secret();
    for days in [6, 31] {
        let error = aws.refused("DeleteSecret", json!({ "SecretId": "s", "RecoveryWindowInDays": days }));
        assert_eq!(error.0, "InvalidParameterException");
    }
    let both = json!({ "SecretId": "s", "RecoveryWindowInDays": 7, "ForceDeleteWithoutRecovery": true });
    assert_eq!(aws.refused("DeleteSecret", both).0, "InvalidParameterException");

    let deleted = aws.ok("DeleteSecret", json!({ "SecretId": "s", "RecoveryWindowInDays": 7 }));
    assert_eq!(deleted["DeletionDate"], json!(1_800_000_000.0 + (7 * DAY) as f64));
    let marked = "You can't perform this operation on the secret because it was marked for deletion.";
    for (operation, more) in [
        ("GetSecretValue", json!({})),
        ("PutSecretValue", json!({ "SecretString": "x" })),
        ("UpdateSecretVersionStage", json!({ "VersionStage": "AWSCURRENT" })),
        ("RotateSecret", json!({ "RotationLambdaARN": FUNCTION })),
        ("DeleteSecret", json!({})),
    ] {
        let mut body = more;
        body["SecretId"] = json!("s");
        assert_eq!(aws.refused(operation, body), refusal("InvalidRequestException", marked), "{operation}");
    }
    assert_eq!(aws.ok("ListSecrets", json!({}))["SecretList"], json!([]));
    let all = aws.ok("ListSecrets", json!({ "IncludePlannedDeletion": true }));
    assert_eq!(all["SecretList"][0]["Name"], "s");
    aws.advance(7 * DAY);
    assert_eq!(aws.refused("DescribeSecret", json!({ "SecretId": "s" })).0, "ResourceNotFoundException");
}

#[test]
fn lists_come_in_pages() {
    let mut aws = Aws::new();
    for name in ["b", "a", "c"] {
        aws.ok("CreateSecret", json!({ "Name": name, "SecretString": "x" }));
    }
    let names = |list: &Value| -> String {
        list["SecretList"].as_array().unwrap().iter().map(|entry| text(&entry["Name"])).collect()
    };
    let first = aws.ok("ListSecrets", json!({ "MaxResults": 2 }));
    assert_eq!(names(&first), "ba");
    let second = aws.ok("ListSecrets", json!({ "MaxResults": 2, "NextToken": first["NextToken"] }));
    assert_eq!((names(&second).as_str(), second.get("NextToken")), ("c", None));
    assert_eq!(names(&aws.ok("ListSecrets", json!({ "SortBy": "name", "SortOrder": "desc" }))), "cba");
    assert_eq!(aws.refused("ListSecrets", json!({ "NextToken": "x" })).0, "InvalidNextTokenException");
    assert_eq!(aws.refused("ListSecrets", json!({ "MaxResults": 101 })).0, "ValidationException");

    aws.ok("UpdateSecret", json!({ "SecretId": "a", "SecretString": "y" }));
    let body = json!({ "SecretId": "a", "MaxResults": 1 });
    let page = aws.ok("ListSecretVersionIds", body.clone());
    assert_eq!(page["Versions"].as_array().unwrap().len(), 1);
    let mut body = body;
    body["NextToken"] = page["NextToken"].clone();
    assert_eq!(aws.ok("ListSecretVersionIds", body)["Versions"][0]["VersionStages"], json!(["AWSCURRENT"]));
}

#[test]
fn a_function_finds_its_secrets() {
    let (mut aws, _) = rotating();
    aws.ok("CreateSecret", json!({ "Name": "other", "Tags": [{ "Key": "team", "Value": "Blue" }] }));
    let list = aws.ok("ListSecrets", json!({}));
    let functions: Vec<_> = (0..2).map(|index| list["SecretList"][index].get("RotationLambdaARN").cloned()).collect();
    assert_eq!(functions, [Some(json!(FUNCTION)), None]);
    assert_eq!(list["SecretList"][0]["RotationEnabled"], json!(true));

    let mut check = |key: &str, value: &str, found: usize| {
        let list = aws.ok("ListSecrets", json!({ "Filters": [{ "Key": key, "Values": ["nothing", value] }] }));
        assert_eq!(list["SecretList"].as_array().unwrap().len(), found, "{key} {value}");
    };
    check("tag-key", "te", 1);
    check("tag-value", "blue", 0);
    check("tag-value", "Blue", 1);
    check("all", "blue other", 1);
    check("primary-region", "eu-west-1", 0);
    let unknown = json!({ "Filters": [{ "Key": "colour", "Values": ["x"] }] });
    assert_eq!(aws.refused("ListSecrets", unknown).0, "ValidationException");
}
