//! What real AWS was recorded to answer.
//!
//! Most tests reproduce facts from LocalStack's public repository (localstack/localstack), where the tests in
//! `tests/aws/services/secretsmanager/test_secretsmanager.py` were run against AWS and its answers kept in
//! `test_secretsmanager.snapshot.json` beside them; each names the test there. A few come from tests that moto's authors
//! marked as verified against AWS (getmoto/moto, `tests/test_secretsmanager/test_secretsmanager.py`).

#![allow(clippy::unwrap_used)]

mod aws_client;

use aws_client::{Aws, json_of, recorded, refusal, text, token};
use emulator::secrets_manager::{PendingLabel, RotationOutcome};
use serde_json::{Value, json};

const NOT_FOUND: &str = "Secrets Manager can't find the specified secret.";
const FUNCTION: &str = "arn:aws:lambda:eu-west-1:123456789012:function:rotate";

/// A service with one secret, `s`, whose value is stored as version 1.
fn with_secret(value: &str) -> Aws {
    let mut aws = Aws::new();
    aws.ok("CreateSecret", json!({ "Name": "s", "SecretString": value }));
    aws
}

fn put(aws: &mut Aws, value: &str, stages: &[&str]) -> Value {
    let mut body = json!({ "SecretId": "s", "SecretString": value });
    if !stages.is_empty() {
        body["VersionStages"] = json!(stages);
    }
    recorded(aws.ok("PutSecretValue", body))
}

fn get(aws: &mut Aws) -> Value {
    recorded(aws.ok("GetSecretValue", json!({ "SecretId": "s" })))
}

fn value(name: &str, value: &str, version: &str, stages: &[&str]) -> Value {
    json!({
        "ARN": "arn", "Name": name, "VersionId": version, "SecretString": value, "VersionStages": stages,
        "CreatedDate": "datetime",
    })
}

fn describe(aws: &mut Aws) -> Value {
    recorded(aws.ok("DescribeSecret", json!({ "SecretId": "s" })))
}

/// localstack `test_create_and_update_secret`
#[test]
fn create_and_update() {
    for name in ["s-c64bdc03", "Valid/_+=.@-Name", "Valid/_+=.@-Name-a1b2", "Valid/_+=.@-Name-a1b2c3-"] {
        let mut aws = Aws::new();
        let created = aws.ok(
            "CreateSecret",
            json!({ "Name": name, "SecretString": "my_secret", "Description": "Testing secret creation." }),
        );
        assert_eq!(recorded(created.clone()), json!({ "ARN": "arn", "Name": name, "VersionId": "1" }));
        let arn = text(&created["ARN"]);
        assert_eq!(arn.rsplit_once('-').unwrap().1.len(), 6);

        let first = value(name, "my_secret", "1", &["AWSCURRENT"]);
        assert_eq!(recorded(aws.ok("GetSecretValue", json!({ "SecretId": name }))), first);
        assert_eq!(
            recorded(aws.ok("DescribeSecret", json!({ "SecretId": name }))),
            json!({
                "ARN": "arn", "Name": name, "Description": "Testing secret creation.", "LastChangedDate": "datetime",
                "LastAccessedDate": "datetime", "CreatedDate": "datetime", "VersionIdsToStages": { "1": ["AWSCURRENT"] },
            })
        );
        assert_eq!(recorded(aws.ok("GetSecretValue", json!({ "SecretId": arn }))), first);
        let partial = &arn[..arn.len() - 7];
        assert_eq!(recorded(aws.ok("GetSecretValue", json!({ "SecretId": partial }))), first);

        let put = aws.ok("PutSecretValue", json!({ "SecretId": name, "SecretString": "new_secret" }));
        assert_eq!(
            recorded(put),
            json!({ "ARN": "arn", "Name": name, "VersionId": "2", "VersionStages": ["AWSCURRENT"] })
        );
        let second = value(name, "new_secret", "2", &["AWSCURRENT"]);
        assert_eq!(recorded(aws.ok("GetSecretValue", json!({ "SecretId": name }))), second);

        let updated =
            aws.ok("UpdateSecret", json!({ "SecretId": arn, "SecretString": "test123", "Description": "d1" }));
        assert_eq!(recorded(updated), json!({ "ARN": "arn", "Name": name, "VersionId": "3" }));
        let deleted = aws.ok("DeleteSecret", json!({ "SecretId": name, "ForceDeleteWithoutRecovery": true }));
        assert_eq!(recorded(deleted), json!({ "ARN": "arn", "Name": name, "DeletionDate": "datetime" }));
    }
}

/// localstack `test_create_and_update_secret[Invalid/_+=.@-Name-a1b2c3]`: the name looks as if it ended with an ARN's suffix.
#[test]
fn partial_arn_of_a_name_that_ends_like_an_arn() {
    let mut aws = Aws::new();
    let name = "Invalid/_+=.@-Name-a1b2c3";
    let arn = text(&aws.ok("CreateSecret", json!({ "Name": name, "SecretString": "my_secret" }))["ARN"]);
    let first = value(name, "my_secret", "1", &["AWSCURRENT"]);
    assert_eq!(recorded(aws.ok("GetSecretValue", json!({ "SecretId": arn }))), first);
    let partial = &arn[..arn.len() - 7];
    let error = aws.refused("GetSecretValue", json!({ "SecretId": partial }));
    assert_eq!(error, refusal("ResourceNotFoundException", NOT_FOUND));
}

/// localstack `test_secret_not_found`
#[test]
fn secret_not_found() {
    let mut aws = Aws::new();
    for operation in ["GetSecretValue", "ListSecretVersionIds"] {
        let error = aws.refused(operation, json!({ "SecretId": "s-12345678" }));
        assert_eq!(error, refusal("ResourceNotFoundException", NOT_FOUND), "{operation}");
    }
}

/// localstack `test_secret_version_not_found`
#[test]
fn version_not_found() {
    let mut aws = Aws::new();
    aws.ok("CreateSecret", json!({ "Name": "s" }));
    for (extra, what) in [
        (json!({}), "staging label: AWSCURRENT".to_owned()),
        (json!({ "VersionId": token(7) }), format!("VersionId: {}", token(7))),
        (json!({ "VersionStage": "AWSPENDING" }), "staging label: AWSPENDING".to_owned()),
    ] {
        let mut body = extra;
        body["SecretId"] = json!("s");
        let message = format!("Secrets Manager can't find the specified secret value for {what}");
        assert_eq!(aws.refused("GetSecretValue", body), refusal("ResourceNotFoundException", &message));
    }
}

/// localstack `test_get_secret_value_errors`
#[test]
fn get_secret_value_errors() {
    let mut aws = with_secret("test");
    assert_eq!(
        aws.refused("GetSecretValue", json!({ "SecretId": "s", "VersionStage": "AWSPREVIOUS" })),
        refusal(
            "ResourceNotFoundException",
            "Secrets Manager can't find the specified secret value for staging label: AWSPREVIOUS"
        )
    );
    assert_eq!(
        aws.refused("GetSecretValue", json!({ "SecretId": "s", "VersionId": token(1), "VersionStage": "AWSPREVIOUS" })),
        refusal(
            "InvalidRequestException",
            "You provided a VersionStage that is not associated to the provided VersionId."
        )
    );
}

/// localstack `test_call_lists_secrets_multiple_times_snapshots` and `test_create_multi_secrets_snapshot`
#[test]
fn list_secrets() {
    let mut aws = Aws::new();
    for name in ["a", "b", "c"] {
        let body = json!({ "Name": name, "SecretString": "my_secret", "Description": "Testing secrets creation." });
        aws.ok("CreateSecret", body);
    }
    let entry = |name: &str, version: &str| {
        json!({
            "ARN": "arn", "Name": name, "Description": "Testing secrets creation.", "LastChangedDate": "datetime",
            "CreatedDate": "datetime", "SecretVersionsToStages": { version: ["AWSCURRENT"] },
        })
    };
    for _ in 0..3 {
        let list = recorded(aws.ok("ListSecrets", json!({})));
        assert_eq!(list, json!({ "SecretList": [entry("a", "1"), entry("b", "2"), entry("c", "3")] }));
    }
}

/// localstack `test_list_secrets_filtering`
#[test]
fn list_secrets_filtering() {
    let mut aws = Aws::new();
    for (name, description) in [
        ("testing1/one-5", "a secret"),
        ("/testing2/two-5", "an secret"),
        ("testing3/three-5", "asecret"),
        ("/testing4/four-5", "thesecret"),
    ] {
        aws.ok("CreateSecret", json!({ "Name": name, "SecretString": "secret", "Description": description }));
    }
    let mut check = |filters: &[(&str, &str)], expected: &str| {
        let filters: Vec<_> = filters.iter().map(|(key, value)| json!({ "Key": key, "Values": [value] })).collect();
        let list = aws.ok("ListSecrets", json!({ "Filters": filters }));
        let names: String = list["SecretList"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|entry| text(&entry["Name"]).chars().find(char::is_ascii_digit))
            .collect();
        assert_eq!(names, expected, "{filters:?}");
    };
    check(&[("name", "/")], "24");
    check(&[("name", "!/")], "13");
    check(&[("name", "testing1 one")], "");
    check(&[("description", "a")], "123");
    check(&[("description", "!a")], "4");
    check(&[("description", "a secret")], "12");
    check(&[("description", "a"), ("name", "secret")], "");
    check(&[("description", "a"), ("name", "an")], "");
    check(&[("description", "!c")], "1234");
}

/// localstack `test_invalid_secret_name`
#[test]
fn invalid_secret_name() {
    let invalid = refusal(
        "ValidationException",
        "Invalid name. Must be a valid name containing alphanumeric characters, or any of the following: -/_+=.@!",
    );
    let mut aws = Aws::new();
    for name in ["Inv Name", " Inv Name", " Inv*Name? ", " Inv *?!]Name\\-"] {
        assert_eq!(aws.refused("CreateSecret", json!({ "Name": name, "SecretString": "MySecretString" })), invalid);
        for (operation, body) in [
            ("DeleteSecret", json!({ "ForceDeleteWithoutRecovery": true })),
            ("DescribeSecret", json!({})),
            ("GetSecretValue", json!({})),
            ("ListSecretVersionIds", json!({ "IncludeDeprecated": true })),
            ("PutSecretValue", json!({ "SecretString": "MySecretString" })),
            ("TagResource", json!({ "Tags": [{ "Key": "FirstTag", "Value": "SomeValue" }] })),
            ("UntagResource", json!({ "TagKeys": ["FirstTag"] })),
            ("UpdateSecret", json!({ "Description": "MyNewDescription" })),
        ] {
            let mut body = body;
            body["SecretId"] = json!(name);
            assert_eq!(aws.refused(operation, body), invalid, "{operation}");
        }
    }
}

/// localstack `test_no_client_request_token`; the one place where the raw body of an error was recorded.
#[test]
fn no_client_request_token() {
    let mut aws = Aws::new();
    for (operation, kind) in [
        ("CreateSecret", "InvalidRequestException"),
        ("UpdateSecret", "InvalidRequestException"),
        ("RotateSecret", "InvalidParameterException"),
        ("PutSecretValue", "InvalidRequestException"),
    ] {
        let id = if operation == "CreateSecret" { "Name" } else { "SecretId" };
        let body = json!({ "SecretString": "thisisthesecret", "Description": "My secret string", id: "s" });
        let response = aws.send(operation, &body);
        assert_eq!(response.status(), 400);
        let message = "You must provide a ClientRequestToken value. We recommend a UUID-type value.";
        assert_eq!(json_of(&response), json!({ "Message": message, "__type": kind }), "{operation}");
    }
}

/// localstack `test_secret_exists_snapshots`
#[test]
fn secret_exists() {
    let mut aws = with_secret("my_secret");
    assert_eq!(
        aws.refused("CreateSecret", json!({ "Name": "s", "SecretString": "my_secret" })),
        refusal("ResourceExistsException", "The operation failed because the secret s already exists.")
    );
}

/// localstack `test_create_secret_version_from_empty_secret`
#[test]
fn create_version_from_empty_secret() {
    let mut aws = Aws::new();
    let created = aws.ok("CreateSecret", json!({ "Name": "s", "Description": "" }));
    assert_eq!(recorded(created), json!({ "ARN": "arn", "Name": "s" }));
    assert_eq!(
        describe(&mut aws),
        json!({ "ARN": "arn", "Name": "s", "LastChangedDate": "datetime", "CreatedDate": "datetime" })
    );
    assert_eq!(
        put(&mut aws, "example-string-to-protect", &[]),
        json!({ "ARN": "arn", "Name": "s", "VersionId": "2", "VersionStages": ["AWSCURRENT"] })
    );
}

/// localstack `test_put_secret_value_with_version_stages`
#[test]
fn put_with_version_stages() {
    let mut aws = with_secret("v0");
    for stages in [vec!["SAMPLESTAGE0", "SAMPLESTAGE1"], vec!["SAMPLESTAGE0", "SAMPLESTAGE1"], vec!["AWSPENDING"]] {
        assert_eq!(put(&mut aws, "next", &stages)["VersionStages"], json!(stages));
        assert_eq!(get(&mut aws), value("s", "v0", "1", &["AWSCURRENT"]));
    }
    assert_eq!(put(&mut aws, "v4", &[])["VersionStages"], json!(["AWSCURRENT"]));
    assert_eq!(get(&mut aws), value("s", "v4", "5", &["AWSCURRENT"]));
}

/// localstack `test_update_secret_description`
#[test]
fn update_description() {
    let mut aws = with_secret("MySecretString");
    let updated = aws.ok("UpdateSecret", json!({ "SecretId": "s", "Description": "MyDescription" }));
    // The SDK sent a token; without a value there is no version, and no `VersionId` in the answer.
    assert_eq!(recorded(updated), json!({ "ARN": "arn", "Name": "s" }));
    assert_eq!(describe(&mut aws)["Description"], "MyDescription");
    assert_eq!(describe(&mut aws)["VersionIdsToStages"], json!({ "1": ["AWSCURRENT"] }));

    aws.ok(
        "UpdateSecret",
        json!({ "SecretId": "s", "SecretString": "MyNewSecretString", "Description": "MyNewDescription" }),
    );
    assert_eq!(describe(&mut aws)["Description"], "MyNewDescription");
    assert_eq!(describe(&mut aws)["VersionIdsToStages"], json!({ "1": ["AWSPREVIOUS"], "3": ["AWSCURRENT"] }));

    aws.ok("UpdateSecret", json!({ "SecretId": "s", "SecretString": "again" }));
    let versions = json!({ "3": ["AWSPREVIOUS"], "4": ["AWSCURRENT"] });
    assert_eq!(describe(&mut aws)["VersionIdsToStages"], versions);
    assert_eq!(recorded(aws.ok("UpdateSecret", json!({ "SecretId": "s" }))), json!({ "ARN": "arn", "Name": "s" }));
    assert_eq!(describe(&mut aws)["VersionIdsToStages"], versions);
}

/// localstack `test_update_secret_version_stages_current_previous`
#[test]
fn stages_current_previous() {
    let mut aws = with_secret("v0");
    let version = |id: &str, stage: &str| {
        json!({
            "VersionId": id, "VersionStages": [stage], "CreatedDate": "datetime", "KmsKeyIds": ["DefaultEncryptionKey"],
        })
    };
    let list = recorded(aws.ok("ListSecretVersionIds", json!({ "SecretId": "s" })));
    assert_eq!(list, json!({ "ARN": "arn", "Name": "s", "Versions": [version("1", "AWSCURRENT")] }));
    aws.ok("UpdateSecret", json!({ "SecretId": "s", "SecretString": "v1" }));
    let list = recorded(aws.ok("ListSecretVersionIds", json!({ "SecretId": "s" })));
    assert_eq!(list["Versions"], json!([version("1", "AWSPREVIOUS"), version("2", "AWSCURRENT")]));
}

/// localstack `test_update_secret_version_stages_return_type` and `…_current_pending`
#[test]
fn stages_current_pending() {
    let mut aws = with_secret("Something1");
    put(&mut aws, "Something2", &["AWSPENDING"]);
    assert_eq!(aws.labels(), "1: AWSCURRENT, 2: AWSPENDING");
    assert_eq!(recorded(aws.promote(1, 2)), json!({ "ARN": "arn", "Name": "s" }));
    // Moving the label does not take AWSPENDING off; a new current value does.
    assert_eq!(aws.labels(), "1: AWSPREVIOUS, 2: AWSCURRENT+AWSPENDING");
    put(&mut aws, "SS3", &[]);
    assert_eq!(aws.labels(), "2: AWSPREVIOUS, 3: AWSCURRENT");
}

/// localstack `test_update_secret_version_stages_current_pending_cycle`
#[test]
fn stages_current_pending_cycle() {
    let mut aws = with_secret("S1");
    put(&mut aws, "S2", &["AWSPENDING"]);
    assert_eq!(get(&mut aws), value("s", "S1", "1", &["AWSCURRENT"]));
    aws.promote(1, 2);
    assert_eq!(aws.labels(), "1: AWSPREVIOUS, 2: AWSCURRENT+AWSPENDING");
    assert_eq!(get(&mut aws), value("s", "S2", "2", &["AWSCURRENT", "AWSPENDING"]));
    put(&mut aws, "S3", &["AWSPENDING"]);
    assert_eq!(aws.labels(), "1: AWSPREVIOUS, 2: AWSCURRENT, 3: AWSPENDING");
    assert_eq!(get(&mut aws), value("s", "S2", "2", &["AWSCURRENT"]));
    aws.promote(2, 3);
    assert_eq!(aws.labels(), "2: AWSPREVIOUS, 3: AWSCURRENT+AWSPENDING");
    assert_eq!(get(&mut aws), value("s", "S3", "3", &["AWSCURRENT", "AWSPENDING"]));
}

/// localstack `test_update_secret_version_stages_current_pending_cycle_custom_stages_1`
#[test]
fn stages_custom_1() {
    let mut aws = with_secret("S1");
    put(&mut aws, "S2", &["AWSSOMETHING", "AWSPENDING", "PUT1"]);
    assert_eq!(aws.labels(), "1: AWSCURRENT, 2: AWSPENDING+AWSSOMETHING+PUT1");
    aws.promote(1, 2);
    assert_eq!(aws.labels(), "1: AWSPREVIOUS, 2: AWSCURRENT+AWSPENDING+AWSSOMETHING+PUT1");
    put(&mut aws, "S3", &["AWSPENDING", "PUT2"]);
    assert_eq!(aws.labels(), "1: AWSPREVIOUS, 2: AWSCURRENT+AWSSOMETHING+PUT1, 3: AWSPENDING+PUT2");
    aws.promote(2, 3);
    assert_eq!(aws.labels(), "2: AWSPREVIOUS+AWSSOMETHING+PUT1, 3: AWSCURRENT+AWSPENDING+PUT2");
}

/// localstack `test_update_secret_version_stages_current_pending_cycle_custom_stages_2`
#[test]
fn stages_custom_2() {
    let mut aws = with_secret("SS");
    put(&mut aws, "S1", &["AWSCURRENT", "PUT0"]);
    assert_eq!(aws.labels(), "1: AWSPREVIOUS, 2: AWSCURRENT+PUT0");
    put(&mut aws, "S2", &["AWSPENDING", "PUT1"]);
    assert_eq!(aws.labels(), "1: AWSPREVIOUS, 2: AWSCURRENT+PUT0, 3: AWSPENDING+PUT1");
    aws.promote(2, 3);
    assert_eq!(aws.labels(), "2: AWSPREVIOUS+PUT0, 3: AWSCURRENT+AWSPENDING+PUT1");
    put(&mut aws, "S3", &["AWSPENDING", "PUT2"]);
    assert_eq!(aws.labels(), "2: AWSPREVIOUS+PUT0, 3: AWSCURRENT+PUT1, 4: AWSPENDING+PUT2");
    aws.promote(3, 4);
    assert_eq!(aws.labels(), "2: PUT0, 3: AWSPREVIOUS+PUT1, 4: AWSCURRENT+AWSPENDING+PUT2");
}

/// localstack `test_update_secret_version_stages_current_pending_cycle_custom_stages_3`
#[test]
fn stages_custom_3() {
    let mut aws = with_secret("SS");
    put(&mut aws, "S1", &["PENDING"]);
    assert_eq!(aws.labels(), "1: AWSCURRENT, 2: PENDING");
    aws.promote(1, 2);
    assert_eq!(aws.labels(), "1: AWSPREVIOUS, 2: AWSCURRENT+PENDING");
    let body = json!({ "SecretId": "s", "RemoveFromVersionId": token(2), "VersionStage": "PENDING" });
    assert_eq!(recorded(aws.ok("UpdateSecretVersionStage", body)), json!({ "ARN": "arn", "Name": "s" }));
    assert_eq!(aws.labels(), "1: AWSPREVIOUS, 2: AWSCURRENT");
    let first = aws.ok("GetSecretValue", json!({ "SecretId": "s", "VersionId": token(1) }));
    assert_eq!(recorded(first), value("s", "SS", "1", &["AWSPREVIOUS"]));
}

/// localstack `test_non_versioning_version_stages_replacement` and `…_no_replacement`
#[test]
fn custom_stages_move_to_the_newest_version() {
    let mut aws = with_secret("S0");
    put(&mut aws, "S1", &["one", "two", "three"]);
    assert_eq!(aws.labels(), "1: AWSCURRENT, 2: one+three+two");
    put(&mut aws, "S2", &["one", "two", "three", "four"]);
    assert_eq!(aws.labels(), "1: AWSCURRENT, 3: four+one+three+two");

    let mut aws = with_secret("S0");
    put(&mut aws, "S1", &["one", "two", "three"]);
    put(&mut aws, "S2", &["one", "two", "four"]);
    assert_eq!(aws.labels(), "1: AWSCURRENT, 2: three, 3: four+one+two");
}

/// localstack `test_deprecated_secret_version_stage`
#[test]
fn deprecated_versions_are_listed_on_demand() {
    let mut aws = with_secret("original");
    put(&mut aws, "update1", &[]);
    assert_eq!(aws.labels(), "1: AWSPREVIOUS, 2: AWSCURRENT");
    put(&mut aws, "update2", &[]);
    assert_eq!(aws.labels(), "2: AWSPREVIOUS, 3: AWSCURRENT");
    assert_eq!(aws.all_labels(), "1: , 2: AWSPREVIOUS, 3: AWSCURRENT");
    put(&mut aws, "update3", &[]);
    assert_eq!(aws.labels(), "3: AWSPREVIOUS, 4: AWSCURRENT");
    assert_eq!(aws.all_labels(), "1: , 2: , 3: AWSPREVIOUS, 4: AWSCURRENT");
    let list = aws.ok("ListSecretVersionIds", json!({ "SecretId": "s", "IncludeDeprecated": true }));
    assert_eq!(list["Versions"][0].get("VersionStages"), None);
}

/// localstack `test_last_accessed_date`: there is none before the first read, then it is a day.
#[test]
fn last_accessed_date() {
    let mut aws = with_secret("MySecretValue");
    let accessed =
        |aws: &mut Aws| aws.ok("DescribeSecret", json!({ "SecretId": "s" })).get("LastAccessedDate").cloned();
    assert_eq!(accessed(&mut aws), None);
    aws.ok("GetSecretValue", json!({ "SecretId": "s" }));
    let first = accessed(&mut aws);
    assert!(first.is_some());
    aws.advance(60);
    aws.ok("GetSecretValue", json!({ "SecretId": "s" }));
    assert_eq!(accessed(&mut aws), first);
}

/// localstack `test_last_updated_date`
#[test]
fn last_updated_date() {
    let mut aws = with_secret("MySecretValue");
    let changed =
        |aws: &mut Aws| aws.ok("DescribeSecret", json!({ "SecretId": "s" }))["LastChangedDate"].as_f64().unwrap();
    let mut last = changed(&mut aws);
    // The same value under a new token is a new version.
    for value in ["MyNewSecretValue", "MyNewSecretValue", "MyVeryNewSecretValue"] {
        aws.advance(1);
        aws.ok("UpdateSecret", json!({ "SecretId": "s", "SecretString": value }));
        assert!(last < changed(&mut aws));
        last = changed(&mut aws);
    }
}

/// localstack `test_secret_tags`
#[test]
fn tags() {
    let mut aws = Aws::new();
    aws.ok("CreateSecret", json!({ "Name": "s" }));
    assert_eq!(describe(&mut aws).get("Tags"), None);
    let tag = |number: u32| json!({ "Key": format!("tag{number}"), "Value": format!("value{number}") });
    assert_eq!(aws.ok("TagResource", json!({ "SecretId": "s", "Tags": [tag(1)] })), Value::Null);
    aws.ok("TagResource", json!({ "SecretId": "s", "Tags": [tag(2)] }));
    assert_eq!(describe(&mut aws)["Tags"], json!([tag(1), tag(2)]));
    assert_eq!(aws.ok("UntagResource", json!({ "SecretId": "s", "TagKeys": ["tag1"] })), Value::Null);
    assert_eq!(describe(&mut aws)["Tags"], json!([tag(2)]));
    aws.ok("UntagResource", json!({ "SecretId": "s", "TagKeys": ["tag2"] }));
    assert_eq!(describe(&mut aws)["Tags"], json!([]));
    aws.ok("TagResource", json!({ "SecretId": "s", "Tags": [tag(3), tag(4)] }));
    assert_eq!(describe(&mut aws)["Tags"], json!([tag(3), tag(4)]));
    aws.ok("UntagResource", json!({ "SecretId": "s", "TagKeys": ["tag3", "tag4"] }));
    assert_eq!(describe(&mut aws)["Tags"], json!([]));
}

/// localstack `test_tag_untag_resource_on_deleted_secret`, of which the error's type is stated in the test itself
#[test]
fn tags_of_a_deleted_secret() {
    let mut aws = with_secret("test-secret-value");
    aws.ok("DeleteSecret", json!({ "SecretId": "s" }));
    let tag = json!({ "SecretId": "s", "Tags": [{ "Key": "new-tag", "Value": "new-value" }] });
    assert_eq!(aws.refused("TagResource", tag).0, "InvalidRequestException");
    let untag = json!({ "SecretId": "s", "TagKeys": ["initial-tag"] });
    assert_eq!(aws.refused("UntagResource", untag).0, "InvalidRequestException");
}

/// localstack `test_get_secret_value` and `test_put_secret_value`: over HTTP, a binary value is base64
#[test]
fn binary_values() {
    let mut aws = Aws::new();
    // "footest", "footest2"
    aws.ok("CreateSecret", json!({ "Name": "s", "SecretBinary": "Zm9vdGVzdA==" }));
    let expected = |value: &str, version: &str| {
        json!({
            "ARN": "arn", "Name": "s", "VersionId": version, "SecretBinary": value, "VersionStages": ["AWSCURRENT"],
            "CreatedDate": "datetime",
        })
    };
    assert_eq!(get(&mut aws), expected("Zm9vdGVzdA==", "1"));
    aws.ok("PutSecretValue", json!({ "SecretId": "s", "SecretBinary": "Zm9vdGVzdDI=" }));
    assert_eq!(get(&mut aws), expected("Zm9vdGVzdDI=", "2"));
}

/// localstack `test_delete_non_existent_secret_returns_as_if_secret_exists`
#[test]
fn force_delete_of_no_secret() {
    let deleted = Aws::new().ok("DeleteSecret", json!({ "SecretId": "s", "ForceDeleteWithoutRecovery": true }));
    assert_eq!(recorded(deleted), json!({ "ARN": "arn", "Name": "s", "DeletionDate": "datetime" }));
}

/// localstack `test_exp_raised_on_creation_of_secret_scheduled_for_deletion`
#[test]
fn create_of_a_secret_scheduled_for_deletion() {
    let mut aws = with_secret("value");
    let deleted = aws.ok("DeleteSecret", json!({ "SecretId": "s", "RecoveryWindowInDays": 7 }));
    assert_eq!(recorded(deleted), json!({ "ARN": "arn", "Name": "s", "DeletionDate": "datetime" }));
    assert_eq!(
        aws.refused("CreateSecret", json!({ "Name": "s", "SecretString": "value" })),
        refusal(
            "InvalidRequestException",
            "You can't create this secret because a secret with this name is already scheduled for deletion."
        )
    );
}

/// localstack `test_can_recreate_delete_secret`: the new secret has another ARN
#[test]
fn recreate_a_deleted_secret() {
    let mut aws = Aws::new();
    let first = aws.ok("CreateSecret", json!({ "Name": "s", "SecretString": "value" }));
    aws.ok("DeleteSecret", json!({ "SecretId": "s", "ForceDeleteWithoutRecovery": true }));
    let second = aws.ok("CreateSecret", json!({ "Name": "s", "SecretString": "value" }));
    assert_ne!(first["ARN"], second["ARN"]);
}

/// localstack `test_force_delete_deleted_secret`; after the first deletion the secret can still be described
#[test]
fn force_delete_of_a_deleted_secret() {
    let mut aws = with_secret("value");
    aws.ok("DeleteSecret", json!({ "SecretId": "s" }));
    assert_eq!(describe(&mut aws)["DeletedDate"], "datetime");
    aws.ok("DeleteSecret", json!({ "SecretId": "s", "ForceDeleteWithoutRecovery": true }));
    let error = aws.refused("DescribeSecret", json!({ "SecretId": "s" }));
    assert_eq!(error, refusal("ResourceNotFoundException", NOT_FOUND));
}

/// localstack `test_secret_restore`
#[test]
fn restore() {
    let mut aws = with_secret("my_secret");
    aws.ok("DeleteSecret", json!({ "SecretId": "s" }));
    assert_eq!(recorded(aws.ok("RestoreSecret", json!({ "SecretId": "s" }))), json!({ "ARN": "arn", "Name": "s" }));
    assert_eq!(get(&mut aws), value("s", "my_secret", "1", &["AWSCURRENT"]));
}

/// localstack `test_rotate_secret_with_lambda_success`, with `RotateImmediately` true and left out, and
/// `test_rotate_secret_multiple_times_with_lambda_success`. The calls in between are those that the rotation function of
/// these tests made on AWS (`functions/lambda_rotate_secret.py`).
#[test]
fn rotation() {
    for immediately in [Some(true), None] {
        let mut aws = Aws::new();
        aws.service.switches.pending_label = PendingLabel::Kept;
        let created = json!({ "Name": "s", "SecretString": "my_secret", "Description": "testing rotation of secrets" });
        aws.ok("CreateSecret", created);
        let mut body = json!({
            "SecretId": "s", "RotationLambdaARN": FUNCTION, "RotationRules": { "AutomaticallyAfterDays": 1 },
        });
        if let Some(immediately) = immediately {
            body["RotateImmediately"] = json!(immediately);
        }
        let answer = recorded(aws.ok("RotateSecret", body));
        assert_eq!(answer, json!({ "ARN": "arn", "Name": "s", "VersionId": "2" }));
        run_recorded_function(&mut aws, 1, 2);
        assert_eq!(
            describe(&mut aws),
            json!({
                "ARN": "arn", "Name": "s", "Description": "testing rotation of secrets", "RotationEnabled": true,
                "RotationLambdaARN": FUNCTION, "RotationRules": { "AutomaticallyAfterDays": 1 },
                "LastRotatedDate": "datetime", "LastChangedDate": "datetime", "LastAccessedDate": "datetime",
                "NextRotationDate": "datetime", "CreatedDate": "datetime",
                "VersionIdsToStages": { "1": ["AWSPREVIOUS"], "2": ["AWSCURRENT", "AWSPENDING"] },
            })
        );

        // Configured once, it rotates again without being told how.
        aws.ok("RotateSecret", json!({ "SecretId": "s" }));
        run_recorded_function(&mut aws, 2, 3);
        assert_eq!(aws.labels(), "2: AWSPREVIOUS, 3: AWSCURRENT+AWSPENDING");
    }
}

fn run_recorded_function(aws: &mut Aws, from: u32, to: u32) {
    let rotations = aws.service.take_rotations();
    let [rotation] = rotations.as_slice() else { panic!("{rotations:?}") };
    let (arn, pending) = (&rotation.arn, token(to));
    assert_eq!((&rotation.token, rotation.test_only), (&pending, false));
    aws.ok("GetSecretValue", json!({ "SecretId": arn, "VersionStage": "AWSCURRENT" }));
    // AWSPENDING is there, but its version has no value yet.
    let body = json!({ "SecretId": arn, "VersionId": pending, "VersionStage": "AWSPENDING" });
    assert_eq!(aws.refused("GetSecretValue", body).0, "ResourceNotFoundException");
    aws.ok(
        "PutSecretValue",
        json!({ "SecretId": arn, "ClientRequestToken": pending, "SecretString": "next", "VersionStages": ["AWSPENDING"] }),
    );
    aws.promote(from, to);
    aws.service.end_rotation(rotation, RotationOutcome::Succeeded);
}

/// localstack `test_rotate_secret_invalid_lambda_arn`
#[test]
fn rotation_function_that_cannot_be_invoked() {
    let mut aws = with_secret("init");
    aws.service.switches.functions = Some([FUNCTION.to_owned()].into());
    let arn = "arn:aws:lambda:eu-west-1:123456789012:function:rotate_secret_invalid_lambda_arn";
    let rules = json!({ "AutomaticallyAfterDays": 1 });
    assert_eq!(
        aws.refused("RotateSecret", json!({ "SecretId": "s", "RotationLambdaARN": arn, "RotationRules": rules })),
        refusal(
            "AccessDeniedException",
            "Secrets Manager cannot invoke the specified Lambda function. Ensure that the function policy grants access \
             to the principal secretsmanager.amazonaws.com."
        )
    );
    assert_eq!(
        describe(&mut aws),
        json!({
            "ARN": "arn", "Name": "s", "LastChangedDate": "datetime", "CreatedDate": "datetime",
            "VersionIdsToStages": { "1": ["AWSCURRENT"] },
        })
    );
}

/// localstack `test_first_rotate_secret_with_missing_lambda_arn`
#[test]
fn rotation_without_a_function() {
    let mut aws = with_secret("init");
    assert_eq!(
        aws.refused("RotateSecret", json!({ "SecretId": "s", "RotationRules": { "AutomaticallyAfterDays": 1 } })),
        refusal("InvalidRequestException", "No Lambda rotation function ARN is associated with this secret.")
    );
}

/// moto `test_rotate_secret_using_lambda_dont_rotate_immediately`: the tested version is a copy under a new id
#[test]
fn rotation_that_is_only_tested() {
    let mut aws = with_secret("init");
    aws.ok("RotateSecret", json!({ "SecretId": "s", "RotationLambdaARN": FUNCTION, "RotateImmediately": false }));
    assert_eq!(aws.labels(), "1: AWSCURRENT, 2: AWSPENDING");
    let pending = aws.ok("GetSecretValue", json!({ "SecretId": "s", "VersionStage": "AWSPENDING" }));
    assert_eq!(recorded(pending), value("s", "init", "2", &["AWSPENDING"]));
    assert!(aws.service.take_rotations()[0].test_only);
}

/// moto `test_update_secret_version_stage_manually` and `…_dont_specify_current_stage`
#[test]
fn moving_current_needs_its_holder() {
    let mut aws = with_secret("first");
    put(&mut aws, "second", &["AWSPENDING"]);
    let body = json!({ "SecretId": "s", "VersionStage": "AWSCURRENT", "MoveToVersionId": token(2) });
    let message = format!(
        "The parameter RemoveFromVersionId can't be empty. Staging label AWSCURRENT is currently attached to version {}, \
         so you must explicitly reference that version in RemoveFromVersionId.",
        token(1)
    );
    let error = aws.refused("UpdateSecretVersionStage", body);
    assert_eq!(error, refusal("InvalidParameterException", &message));
    assert_eq!(aws.labels(), "1: AWSCURRENT, 2: AWSPENDING");
    aws.promote(1, 2);
    assert_eq!(aws.labels(), "1: AWSPREVIOUS, 2: AWSCURRENT+AWSPENDING");
}

/// moto `test_put_same_secret_value_with_same_token` and `test_put_different_secret_value_with_same_token`
#[test]
fn same_token_twice() {
    let mut aws = with_secret("init");
    let body = |value: &str| json!({ "SecretId": "s", "SecretString": value, "ClientRequestToken": token(9) });
    let first = aws.ok("PutSecretValue", body("same"));
    assert_eq!(aws.ok("PutSecretValue", body("same")), first);
    let (kind, message) = aws.refused("PutSecretValue", body("other"));
    assert_eq!(kind, "ResourceExistsException");
    let token = token(9);
    let expected =
        format!("You can't use ClientRequestToken {token} because that value is already in use for a version of");
    assert!(message.starts_with(&expected), "{message}");
    assert_eq!(aws.labels(), "1: AWSPREVIOUS, 9: AWSCURRENT");
}
