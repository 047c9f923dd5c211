//! What the rotation functions of others ask of Secrets Manager, and this project's own does not: random passwords, values in one
//! batch, resource policies.

#![allow(clippy::unwrap_used)]

mod aws_client;

use aws_client::{Aws, text, token};
use emulator::faults::OPERATIONS;
use serde_json::{Value, json};

const INVALID: &str = "InvalidParameterException";
const OUT_OF_BOUNDS: &str = "ValidationException";
const PUNCTUATION: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

fn password(aws: &mut Aws, input: Value) -> String {
    text(&aws.ok("GetRandomPassword", input)["RandomPassword"])
}

#[test]
fn a_password_has_every_type_of_character_unless_it_is_told_otherwise() {
    let mut aws = Aws::new();
    let types: [fn(char) -> bool; 4] =
        [|c| c.is_ascii_lowercase(), |c| c.is_ascii_uppercase(), |c| c.is_ascii_digit(), |c| PUNCTUATION.contains(c)];
    for _ in 0..50 {
        let default = password(&mut aws, json!({}));
        assert_eq!(default.len(), 32);
        assert!(types.iter().all(|of| default.contains(*of)), "{default}");
        let shortest = password(&mut aws, json!({ "PasswordLength": 4 }));
        assert!(shortest.len() == 4 && types.iter().all(|of| shortest.contains(*of)), "{shortest}");
    }
    assert_ne!(password(&mut aws, json!({})), password(&mut aws, json!({})));
    for (switch, excluded) in
        ["ExcludeLowercase", "ExcludeUppercase", "ExcludeNumbers", "ExcludePunctuation"].iter().zip(types)
    {
        let without = password(&mut aws, json!({ "PasswordLength": 4096, *switch: true }));
        assert!(without.len() == 4096 && !without.contains(excluded), "{switch}");
    }
    let without = password(&mut aws, json!({ "PasswordLength": 4096, "ExcludeCharacters": "/@\"'\\xyz" }));
    assert!(!without.contains(|c| "/@\"'\\xyz".contains(c)));
    assert!(!password(&mut aws, json!({ "PasswordLength": 4096 })).contains(' '));
    let with_space = json!({ "PasswordLength": 4096, "IncludeSpace": true });
    assert!(password(&mut aws, with_space).contains(' '));
    let one = password(&mut aws, json!({ "PasswordLength": 1, "RequireEachIncludedType": false }));
    assert_eq!(one.len(), 1);
}

#[test]
fn a_password_that_cannot_be_made_is_refused() {
    let mut aws = Aws::new();
    let none = json!({
        "ExcludeLowercase": true, "ExcludeUppercase": true, "ExcludeNumbers": true, "ExcludePunctuation": true,
    });
    for (input, kind) in [
        (json!({ "PasswordLength": 0 }), OUT_OF_BOUNDS),
        (json!({ "PasswordLength": -1 }), OUT_OF_BOUNDS),
        (json!({ "PasswordLength": 4097 }), OUT_OF_BOUNDS),
        (json!({ "PasswordLength": 3 }), INVALID),
        (json!({ "ExcludeCharacters": "x".repeat(4097) }), OUT_OF_BOUNDS),
        (none, INVALID),
    ] {
        assert_eq!(aws.refused("GetRandomPassword", input.clone()).0, kind, "{input}");
    }
    assert_eq!(
        aws.refused("GetRandomPassword", json!({ "PasswordLength": 3 })).1,
        "Password length is too short based on the required types."
    );
}

/// Three secrets `a/1`, `a/2`, `b`, a fourth without a value, and a fifth that is scheduled for deletion.
fn with_secrets() -> Aws {
    let mut aws = Aws::new();
    for name in ["a/1", "a/2", "b", "a/deleted"] {
        aws.ok("CreateSecret", json!({ "Name": name, "SecretString": format!("value of {name}") }));
    }
    aws.ok("CreateSecret", json!({ "Name": "empty" }));
    aws.ok("DeleteSecret", json!({ "SecretId": "a/deleted" }));
    aws
}

fn names(answer: &Value) -> Vec<String> {
    answer["SecretValues"].as_array().unwrap().iter().map(|entry| text(&entry["Name"])).collect()
}

#[test]
fn a_batch_has_the_values_and_the_errors_beside_them() {
    let mut aws = with_secrets();
    let ids = ["b", "nowhere", "a/1", "a/deleted", "empty"];
    let answer = aws.ok("BatchGetSecretValue", json!({ "SecretIdList": ids }));
    assert_eq!(names(&answer), ["b", "a/1"]);
    assert_eq!(answer["SecretValues"][0], aws.ok("GetSecretValue", json!({ "SecretId": "b" })));
    let errors: Vec<_> = answer["Errors"].as_array().unwrap().iter().collect();
    assert_eq!(
        *errors[0],
        json!({
            "SecretId": "nowhere",
            "ErrorCode": "ResourceNotFoundException",
            "Message": "Secrets Manager can't find the specified secret.",
        })
    );
    let kinds: Vec<_> = errors.iter().map(|error| (text(&error["SecretId"]), text(&error["ErrorCode"]))).collect();
    let expected = [
        ("nowhere", "ResourceNotFoundException"),
        ("a/deleted", "InvalidRequestException"),
        ("empty", "ResourceNotFoundException"),
    ];
    assert_eq!(kinds, expected.map(|(id, kind)| (id.to_owned(), kind.to_owned())));
}

#[test]
fn filters_choose_and_a_batch_comes_in_pages() {
    let mut aws = with_secrets();
    let filters = json!([{ "Key": "name", "Values": ["a/"] }]);
    let all = aws.ok("BatchGetSecretValue", json!({ "Filters": filters }));
    assert_eq!((names(&all), all["Errors"].clone()), (vec!["a/1".to_owned(), "a/2".to_owned()], json!([])));
    let first = aws.ok("BatchGetSecretValue", json!({ "Filters": filters, "MaxResults": 1 }));
    let next = json!({ "Filters": filters, "MaxResults": 1, "NextToken": first["NextToken"] });
    let second = aws.ok("BatchGetSecretValue", next);
    assert_eq!((names(&first), names(&second)), (vec!["a/1".to_owned()], vec!["a/2".to_owned()]));
    assert!(second.get("NextToken").is_none());
}

#[test]
fn a_batch_that_is_refused() {
    let mut aws = with_secrets();
    let filters = json!([{ "Key": "name", "Values": ["a/"] }]);
    for (input, kind) in [
        (json!({}), INVALID),
        (json!({ "SecretIdList": ["b"], "Filters": filters }), INVALID),
        (json!({ "SecretIdList": ["b"], "MaxResults": 1 }), INVALID),
        (json!({ "SecretIdList": [] }), OUT_OF_BOUNDS),
        (json!({ "SecretIdList": vec!["b"; 21] }), OUT_OF_BOUNDS),
        (json!({ "Filters": filters, "MaxResults": 21 }), OUT_OF_BOUNDS),
        (json!({ "Filters": filters, "NextToken": "no number" }), "InvalidNextTokenException"),
    ] {
        assert_eq!(aws.refused("BatchGetSecretValue", input.clone()).0, kind, "{input}");
    }
}

#[test]
fn a_resource_policy_is_kept_and_shown() {
    let mut aws = with_secrets();
    let of = json!({ "SecretId": "b" });
    let policy = |principal: Value| {
        let statement =
            json!({ "Effect": "Allow", "Principal": principal, "Action": "secretsmanager:*", "Resource": "*" });
        json!({ "Version": "2012-10-17", "Statement": [statement] }).to_string()
    };
    let closed = policy(json!({ "AWS": "arn:aws:iam::123456789012:root" }));
    assert!(aws.ok("GetResourcePolicy", of.clone()).get("ResourcePolicy").is_none());
    let put = aws.ok("PutResourcePolicy", json!({ "SecretId": "b", "ResourcePolicy": closed }));
    assert_eq!(text(&put["Name"]), "b");
    assert_eq!(text(&aws.ok("GetResourcePolicy", of.clone())["ResourcePolicy"]), closed);
    for open in [policy(json!("*")), policy(json!({ "AWS": ["*"] }))] {
        let input = json!({ "SecretId": "b", "ResourcePolicy": open, "BlockPublicPolicy": true });
        assert_eq!(aws.refused("PutResourcePolicy", input).0, "PublicPolicyException");
    }
    for (text, kind) in [
        ("no JSON", "MalformedPolicyDocumentException"),
        ("{}", "MalformedPolicyDocumentException"),
        ("", OUT_OF_BOUNDS),
    ] {
        let input = json!({ "SecretId": "b", "ResourcePolicy": text });
        assert_eq!(aws.refused("PutResourcePolicy", input).0, kind, "{text}");
    }
    assert_eq!(text(&aws.ok("GetResourcePolicy", of.clone())["ResourcePolicy"]), closed, "a refusal changes nothing");
    aws.ok("DeleteResourcePolicy", of.clone());
    assert!(aws.ok("GetResourcePolicy", of).get("ResourcePolicy").is_none());
    assert_eq!(aws.refused("GetResourcePolicy", json!({ "SecretId": "a/deleted" })).0, "InvalidRequestException");
    assert_eq!(aws.refused("GetResourcePolicy", json!({ "SecretId": token(9) })).0, "ResourceNotFoundException");
}

#[test]
fn the_readme_names_every_operation() {
    let readme = include_str!("../README.md");
    let of_aws: Vec<_> = OPERATIONS.iter().filter(|name| name.starts_with(char::is_uppercase)).collect();
    assert!(of_aws.len() > 15);
    for operation in of_aws {
        assert!(readme.contains(&format!("`{operation}`")), "{operation}");
        // And the service does know it.
        let answer = Aws::new().call(operation, json!({}));
        assert_ne!(answer.err().map(|(kind, _)| kind).as_deref(), Some("UnknownOperationException"), "{operation}");
    }
}
