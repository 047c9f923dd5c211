//! The operations on secrets, their values, labels and tags. One function each.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::SecretsManager;
use super::answer::{Answer, Error, seconds, without_nulls};
use super::model::{AWSCURRENT, NewVersion, Rotation, Secret, SecretValue, Versions};
use super::wire::{
    CreateSecret, DeleteSecret, GetSecretValue, NewValue, OfSecret, PutSecretValue, TagResource, UntagResource,
    UpdateSecret, UpdateSecretVersionStage, check_length, check_name, check_secret_id, check_token,
};

/// The longest value, text or binary (service model, `SecretStringType`).
const VALUE_BYTES: usize = 65_536;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl SecretsManager {
    pub(super) fn create_secret(&mut self, input: CreateSecret) -> Answer {
        check_name(&input.name)?;
        let value = new_value(input.value)?;
        let token = match &value {
            Some(_) => Some(required_token(input.client_request_token)?),
            None => None,
        };
        if let Some(existing) = self.secrets.iter().find(|secret| secret.name == input.name) {
            return repeated_create(existing, token.as_deref(), value.as_ref());
        }
        let now = self.clock.now();
        let suffix: String = std::iter::repeat_with(|| self.random.alphanumeric()).take(6).collect();
        let mut secret = Secret {
            arn: format!("{}{}-{suffix}", self.arn_prefix(), input.name),
            name: input.name,
            description: input.description.filter(|text| !text.is_empty()),
            kms_key_id: input.kms_key_id,
            tags: input.tags.filter(|tags| !tags.is_empty()),
            resource_policy: None,
            versions: Versions::default(),
            rotation: Rotation::default(),
            created: now,
            changed: now,
            accessed: None,
            deletion: None,
            past: VecDeque::new(),
        };
        if let (Some(token), Some(value)) = (&token, value) {
            let stages = BTreeSet::from([AWSCURRENT.to_owned()]);
            secret.store(token, NewVersion { value, stages, rotation_token: None }, now)?;
        }
        let answer = named(&secret, json!({ "VersionId": token }));
        self.secrets.push(secret);
        Ok(answer)
    }

    pub(super) fn describe_secret(&mut self, input: &OfSecret) -> Answer {
        let now = self.clock.now();
        let secret = self.find(&input.secret_id)?;
        let versions = secret.read_versions(now);
        let mut answer = description(secret);
        if let Some(stages) = stages_by_version(&versions) {
            answer["VersionIdsToStages"] = stages;
        }
        Ok(answer)
    }

    /// Without an id and a label, the value under `AWSCURRENT`.
    pub(super) fn get_secret_value(&mut self, input: &GetSecretValue) -> Answer {
        let now = self.clock.now();
        let secret = self.find_live(&input.secret_id)?;
        let versions = secret.read_versions(now);
        let missing = |what: &str, which: &str| {
            Error::not_found(format!("Secrets Manager can't find the specified secret value for {what}: {which}"))
        };
        let version = match (&input.version_id, &input.version_stage) {
            (Some(id), stage) => {
                let version = versions.get(id).ok_or_else(|| missing("VersionId", id))?;
                if stage.as_ref().is_some_and(|stage| !version.stages.contains(stage)) {
                    return Err(Error::invalid_request(
                        "You provided a VersionStage that is not associated to the provided VersionId.",
                    ));
                }
                version
            }
            (None, stage) => {
                let stage = stage.as_deref().unwrap_or(AWSCURRENT);
                versions.labelled(stage).ok_or_else(|| missing("staging label", stage))?
            }
        };
        let Some(value) = &version.value else {
            // A version id that a rotation has only reserved. The type is what a function's call in `createSecret`, with
            // id and label, got on AWS (moto's `test_rotate_secret_using_lambda`); that the label is named then is inferred.
            return Err(match (&input.version_id, &input.version_stage) {
                (Some(id), None) => missing("VersionId", id),
                (_, stage) => missing("staging label", stage.as_deref().unwrap_or(AWSCURRENT)),
            });
        };
        let (text, binary) = match value {
            SecretValue::Text(text) => (Some(text), None),
            SecretValue::Binary(bytes) => (None, Some(STANDARD.encode(bytes))),
        };
        let answer = json!({
            "VersionId": version.id,
            "SecretString": text,
            "SecretBinary": binary,
            "VersionStages": labels(&version.stages),
            "CreatedDate": seconds(version.created),
        });
        // AWS keeps the day, not the time, of the last access.
        let today = midnight(now);
        secret.accessed = Some(today);
        if let Some(version) = secret.versions.get_mut(&version.id) {
            version.accessed = Some(today);
        }
        Ok(named(secret, answer))
    }

    pub(super) fn put_secret_value(&mut self, input: PutSecretValue) -> Answer {
        let token = required_token(input.client_request_token)?;
        let value = new_value(input.value)?
            .ok_or_else(|| Error::invalid_request("You must provide either SecretString or SecretBinary."))?;
        let stages = match input.version_stages {
            Some(stages) if !(1..=20).contains(&stages.len()) => {
                return Err(Error::constraint("versionStages", "have length between 1 and 20"));
            }
            Some(stages) => stages.into_iter().collect(),
            None => BTreeSet::from([AWSCURRENT.to_owned()]),
        };
        stages.iter().try_for_each(|stage| check_length("versionStages", stage, 1, 256))?;
        if let Some(token) = &input.rotation_token {
            check_length("rotationToken", token, 36, 256)?;
            if !token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
                return Err(Error::constraint(
                    "rotationToken",
                    "satisfy regular expression pattern: ^[a-zA-Z0-9\\-]+$",
                ));
            }
        }
        let version = NewVersion { value, stages, rotation_token: input.rotation_token };
        let ((), secret) = self.change_versions(&input.secret_id, |secret, now| secret.store(&token, version, now))?;
        let stages = secret.versions.get(&token).map(|version| labels(&version.stages));
        Ok(named(secret, json!({ "VersionId": token, "VersionStages": stages })))
    }

    /// A new value becomes current; without one, only the description or the key changes.
    pub(super) fn update_secret(&mut self, input: UpdateSecret) -> Answer {
        let value = new_value(input.value)?;
        let token = match &value {
            Some(_) => Some(required_token(input.client_request_token)?),
            None => None,
        };
        let ((), secret) = self.change_versions(&input.secret_id, |secret, now| {
            if let (Some(token), Some(value)) = (&token, value) {
                let stages = BTreeSet::from([AWSCURRENT.to_owned()]);
                secret.store(token, NewVersion { value, stages, rotation_token: None }, now)?;
            }
            if let Some(description) = input.description {
                secret.description = Some(description).filter(|text| !text.is_empty());
            }
            secret.kms_key_id = input.kms_key_id.or(secret.kms_key_id.take());
            secret.changed = now;
            Ok(())
        })?;
        Ok(named(secret, json!({ "VersionId": token })))
    }

    /// Moves a label, or takes it off. Where it is attached must be said: that makes the move a compare-and-swap.
    pub(super) fn update_secret_version_stage(&mut self, input: &UpdateSecretVersionStage) -> Answer {
        let label = &input.version_stage;
        let ((), secret) = self.change_versions(&input.secret_id, |secret, now| {
            check_length("versionStage", label, 1, 256)?;
            let holder = secret.versions.labelled(label).map(|version| version.id.clone());
            match (&input.move_to_version_id, &input.remove_from_version_id) {
                (None, None) => {
                    return Err(Error::invalid_parameter(
                        "You must specify MoveToVersionId, RemoveFromVersionId, or both.",
                    ));
                }
                (None, Some(from)) => {
                    if label == AWSCURRENT {
                        // The text is quoted by the Terraform provider; the apostrophe is AWS's.
                        return Err(Error::invalid_parameter(
                            "You can only move staging label AWSCURRENT to a different secret version. \
                             It can’t be completely removed.",
                        ));
                    }
                    if holder.as_ref() != Some(from) {
                        return Err(Error::invalid_parameter(format!(
                            "Staging label {label} is not attached to version {from}."
                        )));
                    }
                    secret.versions.detach(label);
                }
                (Some(to), from) => {
                    if secret.versions.get(to).is_none() {
                        return Err(Error::not_found(format!(
                            "Secrets Manager can't find the specified secret value for VersionId: {to}"
                        )));
                    }
                    check_holder(label, to, from.as_deref(), holder.as_deref())?;
                    secret.versions.attach(label, to);
                }
            }
            secret.versions.check_label_quota()?;
            secret.changed = now;
            Ok(())
        })?;
        Ok(named(secret, json!({})))
    }

    pub(super) fn tag_resource(&mut self, input: TagResource) -> Answer {
        self.change(&input.secret_id, |secret, now| {
            let tags = secret.tags.get_or_insert_default();
            for tag in input.tags {
                match tags.iter_mut().find(|existing| existing.key == tag.key) {
                    Some(existing) => existing.value = tag.value,
                    None => tags.push(tag),
                }
            }
            secret.changed = now;
            Ok(())
        })?;
        Ok(Value::Null)
    }

    pub(super) fn untag_resource(&mut self, input: &UntagResource) -> Answer {
        self.change(&input.secret_id, |secret, now| {
            if let Some(tags) = &mut secret.tags {
                tags.retain(|tag| !input.tag_keys.contains(&tag.key));
            }
            secret.changed = now;
            Ok(())
        })?;
        Ok(Value::Null)
    }

    /// With `ForceDeleteWithoutRecovery` the secret is gone at once, and one that never existed is "deleted" as well.
    pub(super) fn delete_secret(&mut self, input: &DeleteSecret) -> Answer {
        check_secret_id(&input.secret_id)?;
        let now = self.clock.now();
        if input.force_delete_without_recovery {
            if input.recovery_window_in_days.is_some() {
                return Err(Error::invalid_parameter(
                    "You can't use ForceDeleteWithoutRecovery in conjunction with RecoveryWindowInDays.",
                ));
            }
            return Ok(match self.index(&input.secret_id) {
                Some(index) => named(&self.secrets.remove(index), json!({ "DeletionDate": seconds(now) })),
                None => json!({
                    "ARN": format!("{}{}", self.arn_prefix(), input.secret_id),
                    "Name": input.secret_id,
                    "DeletionDate": seconds(now),
                }),
            });
        }
        let days = input.recovery_window_in_days.unwrap_or(30);
        if !(7..=30).contains(&days) {
            return Err(Error::invalid_parameter(
                "The RecoveryWindowInDays value must be between 7 and 30 days (inclusive).",
            ));
        }
        let deletion = now + days * DAY;
        let ((), secret) = self.change(&input.secret_id, |secret, _| {
            secret.deletion = Some(deletion);
            Ok(())
        })?;
        Ok(named(secret, json!({ "DeletionDate": seconds(deletion) })))
    }

    pub(super) fn restore_secret(&mut self, input: &OfSecret) -> Answer {
        let secret = self.find(&input.secret_id)?;
        secret.deletion = None;
        Ok(named(secret, json!({})))
    }
}

/// `CreateSecret` for a name that is taken: success if it is the same request again.
fn repeated_create(existing: &Secret, token: Option<&str>, value: Option<&SecretValue>) -> Answer {
    if existing.deletion.is_some() {
        return Err(Error::invalid_request(
            "You can't create this secret because a secret with this name is already scheduled for deletion.",
        ));
    }
    match token.and_then(|token| existing.versions.get(token)) {
        Some(version) if version.value.as_ref() == value => Ok(named(existing, json!({ "VersionId": version.id }))),
        Some(version) => Err(Error::token_in_use(&version.id, &existing.arn)),
        None => {
            Err(Error::exists(format!("The operation failed because the secret {} already exists.", existing.name)))
        }
    }
}

/// Whether `label` may be moved to version `to`, given what the caller believes and which version holds it.
///
/// The first text is recorded from AWS (moto's `test_update_secret_version_stage_dont_specify_current_stage`), the second
/// is ours.
fn check_holder(label: &str, to: &str, from: Option<&str>, holder: Option<&str>) -> Result<(), Error> {
    match (from, holder) {
        (None, Some(holder)) if holder != to => Err(Error::invalid_parameter(format!(
            "The parameter RemoveFromVersionId can't be empty. Staging label {label} is currently attached to version \
             {holder}, so you must explicitly reference that version in RemoveFromVersionId."
        ))),
        (Some(from), holder) if holder != Some(from) => Err(Error::invalid_parameter(format!(
            "RemoveFromVersionId must be the version that staging label {label} is currently attached to."
        ))),
        _ => Ok(()),
    }
}

/// What `DescribeSecret` and `ListSecrets` say about a secret, but for its versions.
pub(super) fn description(secret: &Secret) -> Value {
    let rotation = &secret.rotation;
    without_nulls(json!({
        "ARN": secret.arn,
        "Name": secret.name,
        "Description": secret.description,
        "KmsKeyId": secret.kms_key_id,
        "RotationEnabled": rotation.enabled,
        "RotationLambdaARN": rotation.function_arn,
        "RotationRules": rotation.rules,
        "LastRotatedDate": rotation.last.map(seconds),
        "LastChangedDate": seconds(secret.changed),
        "LastAccessedDate": secret.accessed.map(seconds),
        "DeletedDate": secret.deletion.map(seconds),
        "NextRotationDate": rotation.next.filter(|_| rotation.enabled == Some(true)).map(seconds),
        "Tags": secret.tags,
        "CreatedDate": seconds(secret.created),
    }))
}

/// Labels by version id, of the versions that have any; `None` if none has.
pub(super) fn stages_by_version(versions: &Versions) -> Option<Value> {
    let labelled = versions.iter().filter(|version| !version.stages.is_empty());
    let map: serde_json::Map<_, _> = labelled.map(|version| (version.id.clone(), json!(version.stages))).collect();
    (!map.is_empty()).then_some(Value::Object(map))
}

/// Labels in an answer: a version that has none has no such field.
pub(super) fn labels(stages: &BTreeSet<String>) -> Option<&BTreeSet<String>> {
    Some(stages).filter(|stages| !stages.is_empty())
}

/// An answer that begins, as most do, with the secret's ARN and name.
pub(super) fn named(secret: &Secret, rest: Value) -> Value {
    let mut answer = json!({ "ARN": secret.arn, "Name": secret.name });
    if let (Some(answer), Value::Object(rest)) = (answer.as_object_mut(), rest) {
        answer.extend(rest);
    }
    without_nulls(answer)
}

fn midnight(time: SystemTime) -> SystemTime {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    UNIX_EPOCH + Duration::from_secs(seconds - seconds % DAY.as_secs())
}

fn new_value(input: NewValue) -> Result<Option<SecretValue>, Error> {
    let (member, value) = match (input.secret_string, input.secret_binary) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(Error::invalid_parameter(
                "You can't specify both a binary secret value and a string secret value in the same secret.",
            ));
        }
        (Some(text), None) => ("secretString", SecretValue::Text(text)),
        (None, Some(encoded)) => {
            let bytes = STANDARD.decode(encoded).map_err(|_| Error::constraint("secretBinary", "be valid base64"))?;
            ("secretBinary", SecretValue::Binary(bytes))
        }
    };
    let length = match &value {
        SecretValue::Text(text) => text.len(),
        SecretValue::Binary(bytes) => bytes.len(),
    };
    match length {
        0 => Err(Error::constraint(member, "have length greater than or equal to 1")),
        1..=VALUE_BYTES => Ok(Some(value)),
        _ => Err(Error::constraint(member, &format!("have length less than or equal to {VALUE_BYTES}"))),
    }
}

/// The SDKs and the command line always send a token; a bare HTTP request may not.
fn required_token(token: Option<String>) -> Result<String, Error> {
    let token = token.ok_or_else(|| {
        Error::invalid_request("You must provide a ClientRequestToken value. We recommend a UUID-type value.")
    })?;
    check_token(&token)?;
    Ok(token)
}
