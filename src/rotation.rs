//! The dispatcher: an event goes to its step or to the report, and the answer to the log and the metrics, once. Each step has a
//! file of its own, and no step imports another.

mod check_secret;
mod clean_up;
mod create_secret;
pub mod credential;
mod failures;
mod finish_secret;
mod invocation;
mod late;
mod marks;
mod promotion;
mod replacement;
mod requirements;
mod session;
mod set_secret;
mod test_secret;

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tracing::{Instrument, error, error_span, info, warn};

use crate::budget::{Budget, Repeatable};
use crate::error::{ErrorKind, RotationError};
use crate::event::{Event, RotationEvent, SecretId, Step};
use crate::function::{Function, LambdaContext};
use crate::metrics::Tally;
use crate::secrets_manager::SecretsManagerError;
pub use check_secret::{Check, CheckName, Report};
pub use create_secret::check_room;
use invocation::{Invocation, StepAnswer};
pub use invocation::{OldKey, Outcome};
use session::Session;

/// With less time than this left, no further secret is checked.
const SHORTEST_CHECK: Duration = Duration::from_secs(10);

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
                version_id = %event.version_id
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
            Ok(Event::Rotation(event)) => self.step(&event, context, budget).await.and_then(|answer| json(&answer)),
            Ok(Event::Check { secret_id: Some(secret) }) => json(&self.check(&secret, context, budget).await),
            Ok(Event::Check { secret_id: None }) => self.check_all(context, budget).await.and_then(|reports| {
                // The stack's alarms read these metrics as those of all secrets, so they come from here alone.
                self.count_reports(&reports);
                json(&reports)
            }),
            Err(error) => Err(error),
        };
        // Errors are logged here, once.
        if let Err(failure) = &answer {
            error!(error_type = failure.kind().word(), "{failure}");
        }
        answer
    }

    async fn step(
        &self,
        event: &RotationEvent,
        context: LambdaContext<'_>,
        budget: Budget,
    ) -> Result<StepAnswer, RotationError> {
        let session = self.session(&event.secret_id, context, budget);
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
        info!(outcome = answer.outcome.word(), "step succeeded");
        Ok(answer)
    }
}

impl Function {
    fn session<'a>(&'a self, secret: &'a SecretId, context: LambdaContext<'a>, budget: Budget) -> Session<'a> {
        Session { function: self, budget, secret, function_arn: context.function_arn, tally: Tally::default() }
    }

    /// Reports on one secret.
    async fn check(&self, secret: &SecretId, context: LambdaContext<'_>, budget: Budget) -> Report {
        let session = self.session(secret, context, budget);
        let report = Box::pin(check_secret::check_secret(&session)).await;
        log(&report.secret_id, &report.checks);
        report
    }

    /// Reports on every secret whose rotation function this is, one after the other, as long as there is time.
    async fn check_all(&self, context: LambdaContext<'_>, budget: Budget) -> Result<Vec<Report>, RotationError> {
        let secrets = self.secrets_manager.rotated_by(&budget, context.function_arn).await;
        let secrets = secrets.map_err(|error| not_listed(&error, &budget))?;
        let mut reports = Vec::new();
        for secret in &secrets {
            reports.push(if budget.remaining() < SHORTEST_CHECK {
                check_secret::not_checked(secret.to_string())
            } else {
                self.check(secret, context, budget.clone()).await
            });
        }
        check_secret::compare_keys(&mut reports, &self.config.host);
        for report in &reports {
            if let Some(last) = report.checks.last().filter(|check| check.name == CheckName::SharedKey) {
                log(&report.secret_id, std::slice::from_ref(last));
            }
        }
        check_secret::sort_by_urgency(&mut reports);
        Ok(reports)
    }

    fn count_reports(&self, reports: &[Report]) {
        let unhealthy = reports.iter().filter(|report| !report.healthy).count();
        let least = |days: fn(&Report) -> Option<f64>| reports.iter().filter_map(days).min_by(f64::total_cmp);
        let (days, admin_days) = (least(|report| report.days_to_expiry), least(|report| report.days_to_admin_expiry));
        let checked = reports.iter().filter(|report| report.is_checked).count();
        self.metrics.check(self.clock.now(), checked, unhealthy, days, admin_days);
    }
}

/// One line for each check.
fn log(secret_id: &str, checks: &[Check]) {
    for check in checks {
        if check.ok {
            info!(secret_id, check = check.name.word(), "{}", check.detail);
        } else {
            warn!(secret_id, check = check.name.word(), unhealthy = 1, "{}", check.detail);
        }
    }
}

/// Why there is no report on all secrets.
fn not_listed(error: &SecretsManagerError, budget: &Budget) -> RotationError {
    if error.repeat_after().is_none() {
        return failures::aws_failed(error, &SecretId::trusted("*"));
    }
    let (kind, longer) = if budget.remaining().is_zero() {
        (ErrorKind::OutOfTime, failures::longer(budget.function_timeout()))
    } else {
        (ErrorKind::SecretsManagerUnavailable, "")
    };
    let what = format!("The secrets that this function rotates cannot be listed: {error}.");
    RotationError::before_any_change(kind, what, format!("{longer}Ask for the report again."))
}

fn json(answer: &impl Serialize) -> Result<Value, RotationError> {
    serde_json::to_value(answer).map_err(|_| {
        RotationError::before_any_change(
            ErrorKind::InvalidEvent,
            "The answer cannot be written as JSON.",
            "This is a bug: report it.",
        )
    })
}
