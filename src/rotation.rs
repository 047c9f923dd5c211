//! The four steps: observe, decide, act. This module is what they share; each step has a file of its own.

mod check_secret;
mod create_secret;
pub mod credential;
mod finish_secret;
mod marks;
mod replacement;
mod set_secret;
mod test_secret;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use serde::Serialize;
use serde_json::Value;
use tracing::{Instrument, error, error_span, info, warn};

use crate::api_key::ApiKey;
use crate::budget::Budget;
use crate::clock::Clock;
use crate::config::{Config, Policy};
use crate::error::{ErrorKind, RotationError};
use crate::event::{Event, RotationEvent, SecretId, Step, VersionId};
use crate::identity::{Account, KeyId};
use crate::kosli::{Acceptance, Caller, Kosli, KosliError, Listing};
use crate::metrics::{Metrics, Tally, count};
use crate::secrets_manager::{CURRENT, Description, PREVIOUS, SecretsManager, SecretsManagerError, Version, Which};
use crate::staging::Standing;
pub use check_secret::{Check, Report};
pub use create_secret::check_room;
use credential::{Credential, KEY_ID_LABEL};

/// The pauses between looks at Secrets Manager where something should be visible and is not: what was written a moment ago
/// may not be readable yet.
const STALE_VIEW_PAUSES: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];

/// A key that answers 401 is asked once more, this much later, before it counts as dead.
const DEATH_PAUSES: [Duration; 1] = [Duration::from_secs(2)];

/// A new key may take some seconds to be accepted everywhere.
const ACCEPTANCE_PAUSES: [Duration; 4] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];

/// With less time than this left, no further secret is checked.
const SHORTEST_CHECK: Duration = Duration::from_secs(10);

/// The function: its configuration and its clients. It keeps nothing else between invocations.
pub struct Function {
    /// What the environment says.
    pub config: Config,
    /// Secrets Manager.
    pub secrets_manager: SecretsManager,
    /// Kosli.
    pub kosli: Kosli,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The metrics.
    pub metrics: Metrics,
}

/// What Lambda says of an invocation.
#[derive(Clone, Copy, Debug)]
pub struct LambdaContext<'a> {
    /// Its id: on every line of the log.
    pub request_id: &'a str,
    /// When Lambda ends it.
    pub deadline: SystemTime,
    /// The ARN by which the function was invoked: with it, it finds the secrets that it rotates.
    pub function_arn: &'a str,
}

impl Function {
    /// Handles one invocation. The answer is a small JSON object without key material.
    ///
    /// # Errors
    /// A [`RotationError`]. Secrets Manager then tries the whole rotation again, with the same version id.
    pub async fn handle(&self, event: &Value, context: LambdaContext<'_>) -> Result<Value, RotationError> {
        let event = Event::parse(event);
        let span = match &event {
            // An error's level: at every level that is configured, its lines say which invocation they belong to.
            Ok(Event::Rotation(event)) => error_span!(
                "invocation",
                request_id = context.request_id,
                step = event.step.name(),
                secret_id = %event.secret_id,
                version_id = %event.token
            ),
            Ok(Event::Check { .. }) => error_span!("invocation", request_id = context.request_id, step = "checkSecret"),
            Err(_) => error_span!("invocation", request_id = context.request_id),
        };
        self.dispatch(event, context).instrument(span).await
    }

    async fn dispatch(
        &self,
        event: Result<Event, RotationError>,
        context: LambdaContext<'_>,
    ) -> Result<Value, RotationError> {
        let budget = Budget::new(Arc::clone(&self.clock), context.deadline);
        let answer = match event {
            Ok(Event::Rotation(event)) => self.step(&event, budget).await.and_then(|answer| json(&answer)),
            Ok(Event::Check { secret_id: Some(secret) }) => {
                let report = self.check(&secret, budget).await;
                self.count_reports(std::slice::from_ref(&report));
                json(&report)
            }
            Ok(Event::Check { secret_id: None }) => {
                self.check_all(context.function_arn, budget).await.and_then(|reports| {
                    self.count_reports(&reports);
                    json(&reports)
                })
            }
            Err(error) => Err(error),
        };
        // Errors are logged here, once.
        if let Err(failure) = &answer {
            error!(error_type = failure.kind().word(), "{failure}");
        }
        answer
    }

    async fn step(&self, event: &RotationEvent, budget: Budget) -> Result<StepAnswer, RotationError> {
        let session = Session { function: self, budget, secret: &event.secret_id, tally: Tally::default() };
        let invocation = Invocation { session, event };
        info!("step begins");
        // Boxed: the four steps side by side in one future are more than the compiler's layout depth.
        let answer = match event.step {
            Step::CreateSecret => Box::pin(create_secret::create_secret(&invocation)).await,
            Step::SetSecret => Box::pin(set_secret::set_secret(&invocation)).await,
            Step::TestSecret => Box::pin(test_secret::test_secret(&invocation)).await,
            Step::FinishSecret => Box::pin(finish_secret::finish_secret(&invocation)).await,
        };
        let Session { budget, tally, .. } = &invocation.session;
        let error_type = answer.as_ref().err().map(|error| error.kind().word());
        self.metrics.step(budget.now(), event.step.name(), error_type, budget.elapsed(), budget.calls(), tally);
        let answer = answer?;
        for warning in &answer.warnings {
            warn!("{warning}");
        }
        info!(outcome = answer.outcome, "step succeeded");
        Ok(answer)
    }
}

impl Function {
    /// Reports on one secret.
    async fn check(&self, secret: &SecretId, budget: Budget) -> Report {
        let session = Session { function: self, budget, secret, tally: Tally::default() };
        let report = Box::pin(check_secret::check_secret(&session)).await;
        for check in &report.checks {
            if check.ok {
                info!(secret_id = %secret, check = check.name, "{}", check.detail);
            } else {
                warn!(secret_id = %secret, check = check.name, unhealthy = 1, "{}", check.detail);
            }
        }
        report
    }

    /// Reports on every secret whose rotation function this is, one after the other, as long as there is time.
    async fn check_all(&self, function_arn: &str, budget: Budget) -> Result<Vec<Report>, RotationError> {
        let secrets = self.secrets_manager.rotated_by(&budget, function_arn).await.map_err(|error| {
            RotationError::new(
                ErrorKind::SecretsManagerRefused,
                format!("The secrets that this function rotates cannot be listed: {error}."),
                "Allow the function's role secretsmanager:ListSecrets on *, or name a secret in SecretId.",
            )
        })?;
        let mut reports = Vec::new();
        for secret in &secrets {
            reports.push(if budget.remaining() < SHORTEST_CHECK {
                check_secret::not_checked(secret.to_string())
            } else {
                self.check(secret, budget.clone()).await
            });
        }
        Ok(reports)
    }

    fn count_reports(&self, reports: &[Report]) {
        let unhealthy = reports.iter().filter(|report| !report.healthy).count();
        let least = |days: fn(&Report) -> Option<f64>| reports.iter().filter_map(days).min_by(f64::total_cmp);
        let (days, admin_days) = (least(|report| report.days_to_expiry), least(|report| report.days_to_admin_expiry));
        self.metrics.check(self.clock.now(), unhealthy, days, admin_days);
    }
}

fn json(answer: &impl Serialize) -> Result<Value, RotationError> {
    serde_json::to_value(answer).map_err(|_| {
        RotationError::new(
            ErrorKind::InvalidEvent,
            "The answer cannot be written as JSON.",
            "This is a bug: report it.",
        )
    })
}

/// What a step did.
#[derive(Debug, Serialize)]
pub struct StepAnswer {
    step: &'static str,
    secret_id: String,
    version_id: String,
    /// What was done, in one word.
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced_key_id: Option<String>,
    /// Until when the key under `AWSCURRENT` goes on working.
    #[serde(skip_serializing_if = "Option::is_none")]
    current_key_dies_at: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    revoked_key_ids: Vec<String>,
    /// With immediate revocation: `dead`, `alive` or `cannot tell`.
    #[serde(skip_serializing_if = "Option::is_none")]
    old_key: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// What a secret is looked at and rotated with, in one invocation.
struct Session<'a> {
    function: &'a Function,
    budget: Budget,
    secret: &'a SecretId,
    tally: Tally,
}

/// One invocation for one step.
struct Invocation<'a> {
    session: Session<'a>,
    event: &'a RotationEvent,
}

/// What a step looks at before it decides, read side by side.
struct View {
    description: Description,
    standing: Standing,
    /// The event's version; `None`: it has no value (yet).
    token: Option<Version>,
    /// The version under `AWSCURRENT`, where it was asked for and is another one than the event's.
    current: Option<Version>,
    /// The version under `AWSPREVIOUS`, where it was asked for.
    previous: Option<Version>,
    /// The admin key, where it was asked for and one is configured. That it cannot be had is an error only where it is needed:
    /// a broken admin secret must not block a promotion.
    admin: Result<Option<AdminKey>, RotationError>,
}

/// What a step needs to see beyond labels and the event's version.
#[derive(Clone, Copy, Default)]
struct Needs {
    current: bool,
    previous: bool,
    admin: bool,
    /// The step comes after `createSecret`: the event's version should have a value.
    token_value: bool,
}

/// The admin key and the secret that it comes from.
struct AdminKey {
    secret_arn: String,
    key: ApiKey,
}

/// A key that may list, rotate, create and revoke.
struct Authority {
    key: ApiKey,
    role: Role,
}

/// Which key a call was made with: the first thing to know when Kosli refuses it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Role {
    Admin,
    Current,
    New,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Admin => "the admin key",
            Self::Current => "the secret's own key (self-rotation)",
            Self::New => "the new key (self-rotation)",
        }
    }
}

impl Invocation<'_> {
    fn token(&self) -> &VersionId {
        &self.event.token
    }

    /// What a failure after the mint also says: when the current key dies, worked out from the age of the pending value.
    fn with_death(&self, view: &View) -> impl Fn(RotationError) -> RotationError + use<> {
        let (policy, _) = self.session.function.config.policy.with_readable_tags(&view.description.tags);
        let pending = view.token.as_ref().filter(|_| matches!(view.standing, Standing::Pending { .. }));
        let dies = pending.map(|version| estimated_death(version.created, policy));
        move |error| match dies {
            Some(at) => error.current_key_dies_about(at),
            None => error,
        }
    }

    fn answer(&self, outcome: &'static str) -> StepAnswer {
        StepAnswer {
            step: self.event.step.name(),
            secret_id: self.event.secret_id.to_string(),
            version_id: self.event.token.to_string(),
            outcome,
            key_id: None,
            replaced_key_id: None,
            current_key_dies_at: None,
            revoked_key_ids: Vec::new(),
            old_key: None,
            warnings: Vec::new(),
        }
    }

    /// Reads what the step needs, side by side, and again while what should be visible is not.
    async fn observe(&self, needs: Needs) -> Result<View, RotationError> {
        let session = &self.session;
        let mut pauses = STALE_VIEW_PAUSES.iter();
        loop {
            let (description, token, current, previous, admin) = tokio::join!(
                session.function.secrets_manager.describe(&session.budget, session.secret),
                session.read(Which::Id(self.token())),
                read_if(needs.current, session.read(Which::Label(CURRENT))),
                read_if(needs.previous, session.read(Which::Label(PREVIOUS))),
                session.admin_key(needs.admin),
            );
            let description = description.map_err(|error| session.aws_failed(&error))?;
            let (token, current, previous) = (token?, current?, previous?);
            let standing = Standing::of(&description, self.token());
            let settled = match &standing {
                Err(_) => false,
                Ok(Standing::Current { .. }) => true,
                Ok(Standing::Pending { current: holder }) => {
                    let seen = current.as_ref().map(|version| &version.id);
                    (!needs.current || seen == Some(holder)) && (token.is_some() || !needs.token_value)
                }
            };
            if !settled
                && let Some(&pause) = pauses.next()
                && session.budget.pause(pause).await
            {
                continue;
            }
            let standing = standing?;
            let current = current.filter(|version| version.id != *self.token());
            if let Standing::Pending { current: holder } = &standing
                && needs.current
                && current.as_ref().is_none_or(|version| version.id != *holder)
            {
                return Err(current_unreadable(current.as_ref(), holder));
            }
            return Ok(View { description, standing, token, current, previous, admin });
        }
    }
}

impl Session<'_> {
    fn kosli<'a>(&'a self, key: &'a ApiKey) -> Caller<'a> {
        self.function.kosli.with(&self.budget, key)
    }

    async fn read(&self, which: Which<'_>) -> Result<Option<Version>, RotationError> {
        self.function
            .secrets_manager
            .read(&self.budget, self.secret, which)
            .await
            .map_err(|error| self.aws_failed(&error))
    }

    async fn admin_key(&self, needed: bool) -> Result<Option<AdminKey>, RotationError> {
        let Some(secret) = self.function.config.admin_secret.as_ref().filter(|_| needed) else { return Ok(None) };
        let Some(version) = self.admin_version().await? else { return Ok(None) };
        let key = credential::admin_key(&version).map_err(|what| {
            RotationError::new(
                ErrorKind::InvalidAdminSecret,
                format!("The admin secret {secret} {what}."),
                "It holds the admin key: a plain string, or JSON with `api_key` or `KOSLI_API_TOKEN`.",
            )
        })?;
        Ok(Some(AdminKey { secret_arn: version.arn, key }))
    }

    /// The current version of the admin secret; `None`: none is configured. It is read in every invocation that needs it, so
    /// that a rotation of the admin key is noticed at once.
    async fn admin_version(&self) -> Result<Option<Version>, RotationError> {
        let Some(secret) = &self.function.config.admin_secret else { return Ok(None) };
        let invalid = |what: String, action: &str| {
            RotationError::new(ErrorKind::InvalidAdminSecret, format!("The admin secret {secret} {what}."), action)
        };
        let version = self
            .function
            .secrets_manager
            .read(&self.budget, secret, Which::Label(CURRENT))
            .await
            .map_err(|error| match error {
                SecretsManagerError::Refused { .. } => invalid(
                    format!("cannot be read ({error})"),
                    "Allow the function's role secretsmanager:GetSecretValue on it (and kms:Decrypt on its key).",
                ),
                SecretsManagerError::Unclear { .. } => self.aws_failed(&error),
            })?
            .ok_or_else(|| {
                invalid(
                    "does not exist or has no value".to_owned(),
                    "Correct KOSLI_ADMIN_SECRET_ID, or put the admin key into the secret.",
                )
            })?;
        Ok(Some(version))
    }

    /// The admin key, or the secret's own where there is none.
    fn authority(&self, admin: Option<AdminKey>, own: &ApiKey, own_role: Role) -> Authority {
        match admin {
            Some(admin) => Authority { key: admin.key, role: Role::Admin },
            None => Authority { key: own.clone(), role: own_role },
        }
    }

    /// Refuses accounts that `KOSLI_SERVICE_ACCOUNTS` does not permit. Nothing has been sent to Kosli before this.
    fn permit(&self, account: &Account) -> Result<(), RotationError> {
        if self.function.config.permitted.allows(account) {
            return Ok(());
        }
        Err(RotationError::new(
            ErrorKind::NotPermitted,
            format!("The secret names the service account {account}, which this function may not touch."),
            "Permit it in the function's KOSLI_SERVICE_ACCOUNTS, or correct the secret.",
        ))
    }

    /// Lists the account's keys. A key that answers 401 is asked once more before it counts as dead.
    async fn list(&self, account: &Account, authority: &Authority) -> Result<Listing, RotationError> {
        let kosli = self.kosli(&authority.key);
        let mut listing = kosli.list(account).await;
        if matches!(listing, Err(KosliError::Refused { status: StatusCode::UNAUTHORIZED, .. }))
            && self.budget.pause(DEATH_PAUSES[0]).await
        {
            listing = kosli.list(account).await;
        }
        listing.map_err(|error| kosli_failed(&error, authority.role, &format!("listing the keys of {account}")))
    }

    /// Revokes a key of the account, and counts it. False: it was not there any more.
    async fn revoke(&self, account: &Account, id: &KeyId, authority: &Authority) -> Result<bool, KosliError> {
        let revoked = self.kosli(&authority.key).revoke(account, id).await?;
        count(&self.tally.revoked);
        Ok(revoked)
    }

    /// The ids of the keys that labelled versions hold; those of `known` versions need no read. A version that does not
    /// parse is ignored.
    async fn held_key_ids(
        &self,
        description: &Description,
        known: &[&Credential],
    ) -> Result<Vec<KeyId>, RotationError> {
        let mut held: Vec<KeyId> = known.iter().filter_map(|credential| credential.key_id.clone()).collect();
        for (version, labels) in &description.versions {
            // A version with nothing but our own label is an abandoned one: the label goes before the next mint.
            let abandoned = labels.iter().all(|label| label.starts_with(KEY_ID_LABEL));
            if abandoned || known.iter().any(|credential| credential.version == *version) {
                continue;
            }
            held.extend(labels.iter().filter_map(|label| label.strip_prefix(KEY_ID_LABEL)).filter_map(KeyId::parse));
            if let Some(version) = self.read(Which::Id(version)).await? {
                held.extend(Credential::parse(&version, description, "a label").ok().and_then(|held| held.key_id));
            }
        }
        Ok(held)
    }

    /// Authenticates with a key.
    async fn accepts(
        &self,
        account: &Account,
        key: &ApiKey,
        whose: &str,
        pauses: &[Duration],
    ) -> Result<Acceptance, RotationError> {
        self.kosli(key).accepts(&account.org, pauses).await.map_err(|error| {
            let what = format!(
                "Whether Kosli accepts {whose} cannot be told: reading the environments of {}, {error}.",
                account.org
            );
            match error {
                KosliError::Refused { status, .. } if !matches!(status.as_u16(), 409 | 429) => RotationError::new(
                    if status == StatusCode::FORBIDDEN { ErrorKind::KosliForbidden } else { ErrorKind::KosliRefused },
                    what,
                    "Check that the organization is right and that the service account may read its environments.",
                ),
                _ => RotationError::new(ErrorKind::KosliUnavailable, what, TRY_AGAIN),
            }
        })
    }

    /// An error of Secrets Manager in words for the operator.
    fn aws_failed(&self, error: &SecretsManagerError) -> RotationError {
        let operation = error.operation();
        let secret = self.secret;
        match error {
            SecretsManagerError::Unclear { .. } => RotationError::new(
                ErrorKind::SecretsManagerUnavailable,
                format!("Secrets Manager failed: {error}."),
                TRY_AGAIN,
            ),
            _ if error.is_not_found() => RotationError::new(
                ErrorKind::SecretNotFound,
                format!("There is no secret {secret} ({error})."),
                "Check SecretId, account and region.",
            ),
            _ if error.is("AccessDeniedException") && error.to_string().contains("KMS") => RotationError::new(
                ErrorKind::SecretsManagerRefused,
                format!("The secret's KMS key may not be used: {error}."),
                format!("Allow the function's role kms:Decrypt and kms:GenerateDataKey on the key of {secret}."),
            ),
            _ if error.is("AccessDeniedException") => RotationError::new(
                ErrorKind::SecretsManagerRefused,
                format!("The function's role lacks a permission: {error}."),
                format!("Allow the function's role {operation} on {secret}."),
            ),
            _ => RotationError::new(
                ErrorKind::SecretsManagerRefused,
                format!("Secrets Manager refused a call: {error}."),
                "What it says has to be corrected; the rotation can then be tried again.",
            ),
        }
    }
}

/// What to do about something that may pass.
const TRY_AGAIN: &str =
    "Secrets Manager tries the rotation again within its window; or call `aws secretsmanager rotate-secret`.";

/// When the old key dies, seen from after the mint: the new version was made right after it.
fn estimated_death(new_version_created: SystemTime, policy: Policy) -> SystemTime {
    new_version_created + Duration::from_secs(u64::from(policy.grace_period_hours) * 3_600)
}

async fn read_if<T>(
    wanted: bool,
    read: impl Future<Output = Result<Option<T>, RotationError>>,
) -> Result<Option<T>, RotationError> {
    if wanted { read.await } else { Ok(None) }
}

fn current_unreadable(seen: Option<&Version>, holder: &VersionId) -> RotationError {
    match seen {
        Some(_) => RotationError::new(
            ErrorKind::CurrentMoved,
            format!("AWSCURRENT was on the version {holder} and then on another one."),
            TRY_AGAIN,
        ),
        None => RotationError::new(
            ErrorKind::NoCurrentValue,
            "The version under AWSCURRENT has no value.",
            "Put a key in (`aws secretsmanager put-secret-value`), then rotate again.",
        ),
    }
}

/// An error of Kosli in words for the operator: which key, which call.
fn kosli_failed(error: &KosliError, role: Role, call: &str) -> RotationError {
    let what = format!("Kosli did not do what was asked ({call}, with {}): {error}.", role.name());
    match error {
        KosliError::Refused { status: StatusCode::UNAUTHORIZED, .. } if role == Role::Admin => RotationError::new(
            ErrorKind::AdminKeyDead,
            format!(
                "{what} The admin key is not accepted: it was revoked, or it expired (every Kosli key does within a year)."
            ),
            "Put a working admin key into the secret that KOSLI_ADMIN_SECRET_ID names, then rotate again. The secret's own \
             key is not used in its place.",
        ),
        KosliError::Refused { status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, .. } => RotationError::new(
            ErrorKind::KosliForbidden,
            what,
            match role {
                Role::Admin => {
                    "Give the admin key's service account a role that may manage the keys of other accounts (Admin)."
                }
                _ => {
                    "A key that may not rotate itself (or not any more, in its grace period) needs an admin key: set \
                      KOSLI_ADMIN_SECRET_ID."
                }
            },
        ),
        KosliError::Refused { status: StatusCode::CONFLICT | StatusCode::TOO_MANY_REQUESTS, .. }
        | KosliError::NotSent(_)
        | KosliError::Unclear(_) => RotationError::new(ErrorKind::KosliUnavailable, what, TRY_AGAIN),
        KosliError::Refused { status: StatusCode::NOT_FOUND, .. } => RotationError::new(
            ErrorKind::KosliRefused,
            what,
            "Check organization, service account and KOSLI_HOST: on this host there may be no such account.",
        ),
        KosliError::Refused { .. } => {
            RotationError::new(ErrorKind::KosliRefused, what, "What Kosli says has to be corrected; then rotate again.")
        }
    }
}
