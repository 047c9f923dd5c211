//! Secrets Manager, as far as a rotation needs it: two reads and two writes, over the AWS SDK.
//!
//! The SDK's own retries and time-outs are off. Everything is repeated and bounded by the [`Budget`], as Kosli's calls are: one
//! rule for the whole function.

mod outcome;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::retry::RetryConfig;
use aws_sdk_secretsmanager::config::timeout::TimeoutConfig;
use aws_sdk_secretsmanager::config::{AppName, BehaviorVersion};
use aws_sdk_secretsmanager::types::RotationRulesType;
use aws_smithy_types::DateTime;
use secrecy::{ExposeSecret, SecretString};

use crate::api_key::{ApiKey, shows};
use crate::budget::Budget;
use crate::config::Aws;
use crate::event::{SecretId, VersionId};
use crate::http_client::SdkHttpClient;
use crate::schedule::Interval;
pub use outcome::SecretsManagerError;
use outcome::outcome;

/// The time-out of every call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// How much of the invocation is kept back, before a mint, for storing what it brings: two attempts that time out and one
/// that succeeds, with the pauses between them.
pub const STORE_RESERVE: Duration = Duration::from_secs(15);

/// What the requests say they come from, in the words that an AWS SDK has for it.
const APP_NAME: &str = concat!(env!("CARGO_PKG_NAME"), "-", env!("CARGO_PKG_VERSION"));

/// The most staging labels that a secret can have.
/// Source: <https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_limits.html>
pub const MOST_LABELS: usize = 20;

/// The label of the version that the secret's readers get.
pub const CURRENT: &str = "AWSCURRENT";

/// The label of the version that a rotation makes.
pub const PENDING: &str = "AWSPENDING";

/// The label of the version that was current before.
pub const PREVIOUS: &str = "AWSPREVIOUS";

/// Secrets Manager, over the wire.
#[derive(Clone, Debug)]
pub struct SecretsManager {
    client: Client,
}

/// A secret without its values: what `DescribeSecret` tells.
#[derive(Clone, Debug)]
pub struct Description {
    /// The ARN: what the marker is derived from, whatever the event calls the secret.
    pub arn: String,
    /// The name, for people.
    pub name: String,
    /// Whether rotation is switched on.
    pub rotation_enabled: bool,
    /// Whether a rotation has ever completed.
    pub rotated_before: bool,
    /// The last change to the secret.
    pub last_changed: Option<SystemTime>,
    /// When the next rotation is due.
    pub next_rotation: Option<SystemTime>,
    /// The time between two rotations, where the schedule can be read.
    pub rotation_interval: Option<Interval>,
    /// The tags; one that is empty is none.
    pub tags: BTreeMap<String, String>,
    /// The versions that carry labels, with their labels.
    pub versions: BTreeMap<VersionId, Vec<String>>,
}

/// One version with its value.
#[derive(Debug)]
pub struct Version {
    /// The secret's ARN.
    pub arn: String,
    /// The version's id.
    pub id: VersionId,
    /// Its labels at the time of reading.
    pub labels: Vec<String>,
    /// When the version was made.
    pub created: SystemTime,
    /// The value; `None`: it is binary.
    pub value: Option<SecretString>,
}

/// A value to be stored.
#[derive(Clone, Copy, Debug)]
pub struct NewValue<'a> {
    /// The text.
    pub text: &'a SecretString,
    /// The key in it: no word of an error that tells it is repeated.
    pub key: &'a ApiKey,
    /// A staging label that the version gets beside `AWSPENDING`.
    pub label: Option<&'a str>,
}

/// Which version to read.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    /// The one with this id: the only way to be sure whose rotation it belongs to.
    Id(&'a VersionId),
    /// The one that carries this label.
    Label(&'static str),
}

impl SecretsManager {
    /// A client that speaks through `http_client`. The SDK's retries and time-outs are replaced by the [`Budget`]'s.
    pub fn new(aws: &Aws, http_client: SdkHttpClient) -> Self {
        let mut config = aws_sdk_secretsmanager::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(aws.region.clone())
            .credentials_provider(aws.credentials.clone())
            .use_fips(aws.use_fips)
            .use_dual_stack(aws.use_dual_stack)
            .http_client(http_client)
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::disabled());
        config.set_endpoint_url(aws.endpoint.as_ref().map(ToString::to_string));
        config.set_app_name(AppName::new(APP_NAME).ok());
        Self { client: Client::from_conf(config.build()) }
    }

    /// Describes a secret.
    ///
    /// # Errors
    /// See [`SecretsManagerError`]; `ResourceNotFoundException` means that there is no such secret.
    pub async fn describe(&self, budget: &Budget, secret: &SecretId) -> Result<Description, SecretsManagerError> {
        let answer = budget
            .retry(async || {
                let call = self.client.describe_secret().secret_id(secret.as_str()).send();
                outcome("secretsmanager:DescribeSecret", budget.call(CALL_TIMEOUT, Box::pin(call)).await)
            })
            .await?;
        Ok(Description {
            arn: answer.arn.unwrap_or_default(),
            name: answer.name.unwrap_or_default(),
            rotation_enabled: answer.rotation_enabled.unwrap_or_default(),
            rotated_before: answer.last_rotated_date.is_some(),
            last_changed: answer.last_changed_date.and_then(time),
            next_rotation: answer.next_rotation_date.and_then(time),
            rotation_interval: answer.rotation_rules.as_ref().and_then(|rules| interval(rules, budget.now())),
            tags: answer
                .tags
                .unwrap_or_default()
                .into_iter()
                .filter_map(|tag| Some((tag.key?, tag.value?)))
                .filter(|(_, value)| !value.is_empty())
                .collect(),
            versions: answer
                .version_ids_to_stages
                .unwrap_or_default()
                .into_iter()
                .map(|(id, labels)| (VersionId::trusted(id), labels))
                .collect(),
        })
    }

    /// The ARNs of all secrets whose rotation function this is, in the order of their names.
    ///
    /// # Errors
    /// See [`SecretsManagerError`].
    pub async fn rotated_by(&self, budget: &Budget, function_arn: &str) -> Result<Vec<SecretId>, SecretsManagerError> {
        let (mut secrets, mut next) = (Vec::new(), None);
        loop {
            let answer = budget
                .retry(async || {
                    let call = self.client.list_secrets().max_results(100).set_next_token(next.clone()).send();
                    outcome("secretsmanager:ListSecrets", budget.call(CALL_TIMEOUT, Box::pin(call)).await)
                })
                .await?;
            for secret in answer.secret_list.unwrap_or_default() {
                let rotated_by = secret.rotation_lambda_arn.as_deref().map(unqualified);
                if rotated_by == Some(unqualified(function_arn))
                    && let Some(arn) = secret.arn
                {
                    secrets.push((secret.name.unwrap_or_default(), arn));
                }
            }
            next = answer.next_token.filter(|token| !token.is_empty());
            if next.is_none() {
                secrets.sort();
                return Ok(secrets.into_iter().map(|(_, arn)| SecretId::trusted(arn)).collect());
            }
        }
    }

    /// Reads a version; `None`: there is no such version, or it has no value yet. Both have the same error code, so the
    /// caller describes the secret too.
    ///
    /// # Errors
    /// See [`SecretsManagerError`].
    pub async fn read(
        &self,
        budget: &Budget,
        secret: &SecretId,
        which: Which<'_>,
    ) -> Result<Option<Version>, SecretsManagerError> {
        let answer = budget
            .retry(async || {
                let request = self.client.get_secret_value().secret_id(secret.as_str());
                let request = match which {
                    Which::Id(id) => request.version_id(id.as_str()),
                    Which::Label(label) => request.version_stage(label),
                };
                let operation = "secretsmanager:GetSecretValue";
                let answer = outcome(operation, budget.call(CALL_TIMEOUT, Box::pin(request.send())).await)?;
                let whole = answer.version_id.is_some()
                    && answer.arn.is_some()
                    && (answer.secret_string.is_some() || answer.secret_binary.is_some());
                if whole {
                    return Ok(answer);
                }
                Err(SecretsManagerError::Unclear { operation, why: "its answer is not whole".to_owned() })
            })
            .await;
        let answer = match answer {
            Err(error) if error.is_not_found() => return Ok(None),
            answer => answer?,
        };
        Ok(Some(Version {
            arn: answer.arn.unwrap_or_default(),
            id: VersionId::trusted(answer.version_id.unwrap_or_default()),
            labels: answer.version_stages.unwrap_or_default(),
            created: answer.created_date.and_then(time).unwrap_or(SystemTime::UNIX_EPOCH),
            value: answer.secret_string.map(SecretString::from),
        }))
    }

    /// Stores a value as the version that a rotation makes, under `AWSPENDING` and the value's own label. Same
    /// version and same value again is a success, so this may be repeated whatever came of it before.
    ///
    /// # Errors
    /// See [`SecretsManagerError`]; `ResourceExistsException` means that the version has another value already.
    pub async fn store(
        &self,
        budget: &Budget,
        secret: &SecretId,
        version_id: &VersionId,
        rotation_token: Option<&SecretString>,
        new: &NewValue<'_>,
    ) -> Result<(), SecretsManagerError> {
        let stored = budget
            .retry_to_the_end(async || {
                let call = self
                    .client
                    .put_secret_value()
                    .secret_id(secret.as_str())
                    .client_request_token(version_id.as_str())
                    .secret_string(new.text.expose_secret())
                    // Without labels Secrets Manager would move AWSCURRENT at once.
                    .version_stages(PENDING)
                    .set_rotation_token(rotation_token.map(|secret| secret.expose_secret().to_owned()));
                let call = match new.label {
                    Some(label) => call.version_stages(label),
                    None => call,
                };
                outcome("secretsmanager:PutSecretValue", budget.call(CALL_TIMEOUT, Box::pin(call.send())).await)
            })
            .await;
        let tells = |word: &str| new.key.shows_in(word) || rotation_token.is_some_and(|secret| shows(secret, word));
        stored.map(drop).map_err(|error| error.without_words(tells))
    }

    /// Moves `AWSCURRENT` from one version to another, if it is still where it is expected: a compare-and-swap. Not repeated
    /// here, because the answer to a repetition of a move that has happened is a refusal.
    ///
    /// # Errors
    /// See [`SecretsManagerError`].
    pub async fn promote(
        &self,
        budget: &Budget,
        secret: &SecretId,
        to: &VersionId,
        from: &VersionId,
    ) -> Result<(), SecretsManagerError> {
        self.move_label(budget, secret, CURRENT, Some(to), Some(from)).await
    }

    /// Attaches a label, which no version has, to a version.
    ///
    /// # Errors
    /// See [`SecretsManagerError`].
    pub async fn attach_label(
        &self,
        budget: &Budget,
        secret: &SecretId,
        label: &str,
        version: &VersionId,
    ) -> Result<(), SecretsManagerError> {
        budget.retry(async || self.move_label(budget, secret, label, Some(version), None).await).await
    }

    /// Takes a label off a version.
    ///
    /// # Errors
    /// See [`SecretsManagerError`]; a label that has gone meanwhile is a success.
    pub async fn remove_label(
        &self,
        budget: &Budget,
        secret: &SecretId,
        label: &str,
        version: &VersionId,
    ) -> Result<(), SecretsManagerError> {
        let removed = budget.retry(async || self.move_label(budget, secret, label, None, Some(version)).await).await;
        match removed {
            // The label (or the version with it) is not there: what was wanted.
            Err(error) if error.is("InvalidParameterException") || error.is_not_found() => Ok(()),
            // The label may be a person's, with a key where an id belongs.
            other => other.map_err(|error| error.without_words(|word| word.contains(label))),
        }
    }

    /// Moves a label to a version, from a version, or both, in one call.
    async fn move_label(
        &self,
        budget: &Budget,
        secret: &SecretId,
        label: &str,
        to: Option<&VersionId>,
        from: Option<&VersionId>,
    ) -> Result<(), SecretsManagerError> {
        let id = |version: &VersionId| version.as_str().to_owned();
        let call = self
            .client
            .update_secret_version_stage()
            .secret_id(secret.as_str())
            .version_stage(label)
            .set_move_to_version_id(to.map(id))
            .set_remove_from_version_id(from.map(id))
            .send();
        outcome("secretsmanager:UpdateSecretVersionStage", budget.call(CALL_TIMEOUT, Box::pin(call)).await).map(drop)
    }
}

impl Description {
    /// The version that carries a label.
    pub fn holder(&self, label: &str) -> Option<&VersionId> {
        self.versions.iter().find(|(_, labels)| labels.iter().any(|held| held == label)).map(|(version, _)| version)
    }
}

#[cfg(test)]
impl Description {
    /// A secret that is rotated and has these versions, for tables of tests.
    pub(crate) fn of(arn: &str, versions: impl IntoIterator<Item = (VersionId, Vec<String>)>) -> Self {
        Self {
            arn: arn.to_owned(),
            name: String::new(),
            rotation_enabled: true,
            rotated_before: true,
            last_changed: None,
            next_rotation: None,
            rotation_interval: None,
            tags: BTreeMap::new(),
            versions: versions.into_iter().collect(),
        }
    }
}

/// A function's ARN without version or alias: seven parts, and the qualifier is the eighth.
fn unqualified(arn: &str) -> &str {
    arn.match_indices(':').nth(6).map_or(arn, |(end, _)| arn.get(..end).unwrap_or(arn))
}

/// The time between two rotations, from now on; `None`: the rules cannot be read.
fn interval(rules: &RotationRulesType, now: SystemTime) -> Option<Interval> {
    match rules.automatically_after_days {
        Some(days) => Interval::days(u64::try_from(days).ok()?),
        None => Interval::of(rules.schedule_expression.as_deref()?, now),
    }
}

/// A point in time as the SDK gives it.
pub(crate) fn time(time: DateTime) -> Option<SystemTime> {
    SystemTime::try_from(time).ok()
}
