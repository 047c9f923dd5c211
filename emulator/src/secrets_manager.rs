//! AWS Secrets Manager as a state machine: requests in, answers out, no I/O.
//!
//! It follows AWS's documented and recorded behaviour, not another emulator's. Where AWS documents nothing, or has been
//! seen to do both of two things, [`Switches`] chooses.
//!
//! - `answer`: the JSON 1.1 protocol and its errors
//! - `model`: a secret, its versions, how staging labels move, and a rotation that has begun
//! - `wire`: the operations' input
//! - `operations`: one function for each operation on values, labels, tags and secrets
//! - `rotation`: `RotateSecret`, and what the service does when a rotation ends
//! - `list`: `ListSecrets` and `ListSecretVersionIds`
//! - `batch`: `BatchGetSecretValue`
//! - `password`: `GetRandomPassword`
//! - `policy`: resource policies, which are kept and shown

mod answer;
mod batch;
mod list;
mod model;
mod operations;
mod password;
mod policy;
mod rotation;
mod wire;

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response, StatusCode};

use crate::clock::Clock;
use crate::quota::LastSecond;
use answer::{Answer, Error};
use model::{Past, Until};
use wire::parse;

pub use answer::refusal;
pub use model::{
    AWSCURRENT, AWSPENDING, AWSPREVIOUS, Rotation, RotationOutcome, RotationRequest, RotationRules, Secret,
    SecretValue, Tag, Version, Versions,
};

/// The service, for one account in one region.
#[derive(Clone, Debug)]
pub struct SecretsManager {
    /// What AWS leaves open.
    pub switches: Switches,
    clock: Clock,
    account: String,
    region: String,
    /// In the order of their creation.
    secrets: Vec<Secret>,
    staleness: Staleness,
    /// Rotations that have begun since [`SecretsManager::take_rotations`] was last called.
    begun: Vec<RotationRequest>,
    random: fastrand::Rng,
    /// Writes that count towards [`Switches::writes_per_second`].
    written: LastSecond,
}

/// What AWS does not document, or has been seen to do both ways.
#[derive(Clone, Debug, Default)]
pub struct Switches {
    /// What becomes of `AWSPENDING` on the new current version when a rotation has succeeded.
    pub pending_label: PendingLabel,
    /// What the pending version holds when `RotateImmediately` is false.
    pub tested_version: TestedVersion,
    /// Whether `RotationEnabled` is still absent while the function is tested with `RotateImmediately` false, and
    /// becomes true when that test has ended. By default it is true at once.
    pub enabled_after_test: bool,
    /// The functions that Secrets Manager may invoke: `RotateSecret` refuses every other one, as AWS does when the
    /// function does not exist or its policy does not name the service. By default every function may be invoked.
    pub functions: Option<BTreeSet<String>>,
    /// How many values may be stored and labels moved in any one second, in the whole account: 50 on AWS ("AWS Secrets
    /// Manager quotas" in its user guide). `None`: no limit.
    pub writes_per_second: Option<usize>,
}

/// See [`Switches::pending_label`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PendingLabel {
    /// It is removed: "Our backend cleans up the pending label on rotation completion, outside the rotation lambda."
    /// (an AWS maintainer, aws-samples/aws-secrets-manager-rotation-lambdas#145).
    #[default]
    Removed,
    /// It stays: recorded by LocalStack's test `test_rotate_secret_with_lambda_success`.
    Kept,
}

/// See [`Switches::tested_version`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TestedVersion {
    /// A copy of the current value under a new version id, as moto's authors have seen on AWS
    /// (`test_rotate_secret_using_lambda_dont_rotate_immediately`).
    #[default]
    CopyOfCurrent,
    /// No value. AWS documents only that there is an `AWSPENDING` version.
    NoValue,
}

/// How long readers go on seeing the versions and labels as they were before a value was stored or a label was moved.
///
/// AWS makes no promise about this. Only `DescribeSecret` and `GetSecretValue` are stale.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Staleness {
    /// Every read sees the last write.
    #[default]
    None,
    /// This many reads of the secret see the state before the write.
    Reads(usize),
    /// All reads do, for this long on the clock.
    For(Duration),
}

impl SecretsManager {
    /// An empty service for account 123456789012 in eu-west-1.
    pub fn new(clock: Clock) -> Self {
        Self::in_account(clock, "123456789012", "eu-west-1")
    }

    /// An empty service for another account or region: both are part of every ARN.
    pub fn in_account(clock: Clock, account: &str, region: &str) -> Self {
        Self {
            switches: Switches::default(),
            clock,
            account: account.to_owned(),
            region: region.to_owned(),
            secrets: Vec::new(),
            staleness: Staleness::None,
            begun: Vec::new(),
            random: fastrand::Rng::new(),
            written: LastSecond::default(),
        }
    }

    /// Makes ARNs and rotation tokens the same in every run.
    pub fn seed(&mut self, seed: u64) {
        self.random.seed(seed);
    }

    /// Applies to every write from now on.
    pub fn set_staleness(&mut self, staleness: Staleness) {
        self.staleness = staleness;
    }

    /// The operation that a request asks for; `None` if it is not for Secrets Manager.
    pub fn operation(request: &Request<Bytes>) -> Option<&str> {
        request.headers().get("x-amz-target")?.to_str().ok()?.strip_prefix("secretsmanager.")
    }

    /// Answers one request: `POST /`, with the operation in `X-Amz-Target`.
    pub fn handle(&mut self, request: &Request<Bytes>) -> Response<Bytes> {
        let now = self.clock.now();
        self.secrets.retain(|secret| secret.deletion.is_none_or(|gone| now < gone));
        match self.dispatch(request) {
            Ok(answer) => answer::respond(StatusCode::OK, &answer),
            Err(error) => error.response(),
        }
    }

    fn dispatch(&mut self, request: &Request<Bytes>) -> Answer {
        // That there is a signature is checked, what it says is not: the emulator knows no credentials.
        let signature = request.headers().get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        if !signature.is_some_and(|value| value.starts_with("AWS4-HMAC-SHA256")) {
            let message = "Request is missing Authentication Token".to_owned();
            return Err(Error { kind: "MissingAuthenticationTokenException", message });
        }
        let operation = Self::operation(request).unwrap_or_default();
        self.limit_writes(operation)?;
        let body = request.body();
        match operation {
            "CreateSecret" => self.create_secret(parse(body)?),
            "DescribeSecret" => self.describe_secret(&parse(body)?),
            "GetSecretValue" => self.get_secret_value(&parse(body)?),
            "BatchGetSecretValue" => self.batch_get_secret_value(&parse(body)?),
            "GetRandomPassword" => self.get_random_password(&parse(body)?),
            "PutSecretValue" => self.put_secret_value(parse(body)?),
            "UpdateSecret" => self.update_secret(parse(body)?),
            "UpdateSecretVersionStage" => self.update_secret_version_stage(&parse(body)?),
            "ListSecretVersionIds" => self.list_secret_version_ids(&parse(body)?),
            "ListSecrets" => self.list_secrets(&parse(body)?),
            "PutResourcePolicy" => self.put_resource_policy(parse(body)?),
            "GetResourcePolicy" => self.get_resource_policy(&parse(body)?),
            "DeleteResourcePolicy" => self.delete_resource_policy(&parse(body)?),
            "TagResource" => self.tag_resource(parse(body)?),
            "UntagResource" => self.untag_resource(&parse(body)?),
            "RotateSecret" => self.rotate_secret(parse(body)?),
            "CancelRotateSecret" => self.cancel_rotate_secret(&parse(body)?),
            "DeleteSecret" => self.delete_secret(&parse(body)?),
            "RestoreSecret" => self.restore_secret(&parse(body)?),
            _ => Err(Error {
                kind: "UnknownOperationException",
                message: "The emulator does not know this operation".into(),
            }),
        }
    }

    fn limit_writes(&mut self, operation: &str) -> Result<(), Error> {
        let counts = ["PutSecretValue", "UpdateSecret", "UpdateSecretVersionStage"].contains(&operation);
        match self.switches.writes_per_second.filter(|_| counts) {
            Some(most) if !self.written.admits(most, self.clock.now()) => {
                Err(Error { kind: "ThrottlingException", message: "Rate exceeded".to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// A secret by name or ARN, also one that is scheduled for deletion.
    pub fn secret(&self, id: &str) -> Option<&Secret> {
        self.index(id).and_then(|index| self.secrets.get(index))
    }

    /// The same, to be changed by a test that needs a state which would take months to come about. Nothing is checked.
    pub fn secret_mut(&mut self, id: &str) -> Option<&mut Secret> {
        self.index(id).and_then(|index| self.secrets.get_mut(index))
    }

    /// All secrets, in the order of their creation.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.secrets.iter()
    }

    /// Finds a secret by its name, its ARN, or its ARN without the random suffix.
    ///
    /// As on AWS, an ARN that seems to end with a suffix is taken to be whole: a partial ARN of a secret whose own name
    /// ends with a hyphen and six characters finds nothing (recorded in LocalStack's `test_create_and_update_secret`).
    fn index(&self, id: &str) -> Option<usize> {
        let whole = id
            .rsplit_once('-')
            .is_some_and(|(_, end)| end.len() == 6 && end.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        let partial = id.strip_prefix(&self.arn_prefix()).filter(|_| !whole);
        self.secrets
            .iter()
            .position(|secret| secret.name == id || secret.arn == id || partial.is_some_and(|name| secret.name == name))
    }

    fn arn_prefix(&self) -> String {
        format!("arn:aws:secretsmanager:{}:{}:secret:", self.region, self.account)
    }

    /// The secret that a request names, or AWS's error.
    fn find(&mut self, id: &str) -> Result<&mut Secret, Error> {
        wire::check_secret_id(id)?;
        self.secret_mut(id).ok_or_else(Error::secret_not_found)
    }

    /// The same, and it must not be scheduled for deletion.
    fn find_live(&mut self, id: &str) -> Result<&mut Secret, Error> {
        let secret = self.find(id)?;
        if secret.deletion.is_some() {
            return Err(Error::invalid_request(
                "You can't perform this operation on the secret because it was marked for deletion.",
            ));
        }
        Ok(secret)
    }

    /// Changes a secret wholly or, if the change is refused, not at all.
    fn change<T>(
        &mut self,
        id: &str,
        change: impl FnOnce(&mut Secret, SystemTime) -> Result<T, Error>,
    ) -> Result<(T, &mut Secret), Error> {
        let now = self.clock.now();
        let secret = self.find_live(id)?;
        let mut changed = secret.clone();
        let outcome = change(&mut changed, now)?;
        *secret = changed;
        Ok((outcome, secret))
    }

    /// The same for the operations whose effect may become visible late.
    fn change_versions<T>(
        &mut self,
        id: &str,
        change: impl FnOnce(&mut Secret, SystemTime) -> Result<T, Error>,
    ) -> Result<(T, &mut Secret), Error> {
        let until = match self.staleness {
            Staleness::None => None,
            Staleness::Reads(reads) => Some(Until::Reads(reads)),
            Staleness::For(duration) => Some(Until::Time(self.clock.now() + duration)),
        };
        self.change(id, |secret, now| {
            let before = secret.versions.clone();
            let outcome = change(secret, now)?;
            if let Some(until) = until.filter(|_| secret.versions != before) {
                secret.past.push_back(Past { until, before });
            }
            Ok(outcome)
        })
    }
}
