//! The input of each operation as it goes over the wire, and the bounds of what every request names.
//!
//! Field names and types are those of AWS's published service model (`secretsmanager/2017-10-17`).

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::answer::Error;
use super::model::{RotationRules, Tag};

/// Reads an operation's input. Unknown fields are ignored, as AWS ignores them.
///
/// The reason is not passed on: a parser's message quotes the value, and the value may be a secret's.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|_| Error {
        kind: "SerializationException",
        message: "The request body is not JSON of the expected shape".to_owned(),
    })
}

// An absent required field is read as empty; the operations refuse both with the same error.

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct CreateSecret {
    pub(super) name: String,
    pub(super) client_request_token: Option<String>,
    pub(super) description: Option<String>,
    pub(super) kms_key_id: Option<String>,
    #[serde(flatten)]
    pub(super) value: NewValue,
    pub(super) tags: Option<Vec<Tag>>,
}

/// The two fields of which a request for a new version has one.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct NewValue {
    pub(super) secret_string: Option<String>,
    pub(super) secret_binary: Option<String>,
}

/// The input of every operation that names a secret and nothing else.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct OfSecret {
    pub(super) secret_id: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct GetSecretValue {
    pub(super) secret_id: String,
    pub(super) version_id: Option<String>,
    pub(super) version_stage: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct BatchGetSecretValue {
    pub(super) secret_id_list: Option<Vec<String>>,
    pub(super) filters: Option<Vec<Filter>>,
    #[serde(flatten)]
    pub(super) page: Page,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct GetRandomPassword {
    pub(super) password_length: Option<i64>,
    pub(super) exclude_characters: String,
    pub(super) exclude_lowercase: bool,
    pub(super) exclude_uppercase: bool,
    pub(super) exclude_numbers: bool,
    pub(super) exclude_punctuation: bool,
    pub(super) include_space: bool,
    pub(super) require_each_included_type: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct PutResourcePolicy {
    pub(super) secret_id: String,
    pub(super) resource_policy: String,
    pub(super) block_public_policy: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct PutSecretValue {
    pub(super) secret_id: String,
    pub(super) client_request_token: Option<String>,
    #[serde(flatten)]
    pub(super) value: NewValue,
    pub(super) version_stages: Option<Vec<String>>,
    pub(super) rotation_token: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct UpdateSecret {
    pub(super) secret_id: String,
    pub(super) client_request_token: Option<String>,
    pub(super) description: Option<String>,
    pub(super) kms_key_id: Option<String>,
    #[serde(flatten)]
    pub(super) value: NewValue,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct UpdateSecretVersionStage {
    pub(super) secret_id: String,
    pub(super) version_stage: String,
    pub(super) remove_from_version_id: Option<String>,
    pub(super) move_to_version_id: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct ListSecretVersionIds {
    pub(super) secret_id: String,
    pub(super) include_deprecated: bool,
    #[serde(flatten)]
    pub(super) page: Page,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct ListSecrets {
    pub(super) include_planned_deletion: bool,
    pub(super) filters: Vec<Filter>,
    pub(super) sort_by: Option<String>,
    pub(super) sort_order: Option<String>,
    #[serde(flatten)]
    pub(super) page: Page,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Page {
    pub(super) max_results: Option<usize>,
    pub(super) next_token: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Filter {
    pub(super) key: String,
    pub(super) values: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct TagResource {
    pub(super) secret_id: String,
    pub(super) tags: Vec<Tag>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct UntagResource {
    pub(super) secret_id: String,
    pub(super) tag_keys: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct RotateSecret {
    pub(super) secret_id: String,
    pub(super) client_request_token: Option<String>,
    #[serde(rename = "RotationLambdaARN")]
    pub(super) rotation_lambda_arn: Option<String>,
    pub(super) rotation_rules: Option<RotationRules>,
    pub(super) rotate_immediately: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct DeleteSecret {
    pub(super) secret_id: String,
    pub(super) recovery_window_in_days: Option<u32>,
    pub(super) force_delete_without_recovery: bool,
}

pub(super) fn check_token(token: &str) -> Result<(), Error> {
    check_length("clientRequestToken", token, 32, 64)
}

pub(super) fn check_length(member: &str, value: &str, least: usize, most: usize) -> Result<(), Error> {
    match value.chars().count() {
        length if length < least => {
            Err(Error::constraint(member, &format!("have length greater than or equal to {least}")))
        }
        length if length > most => Err(Error::constraint(member, &format!("have length less than or equal to {most}"))),
        _ => Ok(()),
    }
}

pub(super) fn check_name(name: &str) -> Result<(), Error> {
    check_length("name", name, 1, 512)?;
    check_characters(name)
}

/// A name or an ARN.
pub(super) fn check_secret_id(id: &str) -> Result<(), Error> {
    check_length("secretId", id, 1, 2048)?;
    if id.starts_with("arn:") { Ok(()) } else { check_characters(id) }
}

fn check_characters(name: &str) -> Result<(), Error> {
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-/_+=.@!".contains(&byte)) {
        return Err(Error::validation(
            "Invalid name. Must be a valid name containing alphanumeric characters, or any of the following: -/_+=.@!",
        ));
    }
    Ok(())
}
