//! What Secrets Manager does once `RotateSecret` has been called: it invokes the function step by step.
//!
//! AWS user guide, "Rotation by Lambda function": the four steps, one after the other; "If any rotation step fails, Secrets
//! Manager retries the entire rotation process multiple times". It retries with the same `ClientRequestToken`. AWS
//! documents neither how often nor how soon: see [`Retries`].

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::emulator::Emulator;
use crate::runtime_api::{FunctionError, Outcome};
use crate::secrets_manager::{AWSCURRENT, RotationOutcome, RotationRequest};

/// The steps of a rotation, in their order.
pub const STEPS: [&str; 4] = ["createSecret", "setSecret", "testSecret", "finishSecret"];

/// How often the whole process is tried, and how long the service waits in between, on the emulator's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// How often it is tried altogether.
    pub attempts: usize,
    /// The time from the end of a failed attempt to the next one.
    pub spacing: Duration,
}

impl Default for Retries {
    /// Five attempts, ten seconds apart: our choice, short enough for a person to watch.
    fn default() -> Self {
        Self { attempts: 5, spacing: Duration::from_secs(10) }
    }
}

/// What happens in a rotation, as it happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The process begins: for the first time (1), or again.
    AttemptBegan(usize),
    /// The function is invoked.
    StepBegan(&'static str),
    /// The function has done the step and answered this.
    StepSucceeded(&'static str, Value),
    /// The step has failed, and with it the attempt.
    StepFailed(&'static str, FunctionError),
    /// All steps have succeeded.
    Succeeded,
    /// The last attempt has failed: `AWSPENDING` stays where it is until a person asks for a rotation again.
    GivenUp,
    /// The rotation is no longer wanted: a new value was stored by hand, rotation was cancelled, `AWSPENDING` was taken
    /// off, or the secret was deleted.
    Abandoned,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AttemptBegan(1) => f.write_str("the rotation begins"),
            Self::AttemptBegan(attempt) => write!(f, "the rotation is tried again (attempt {attempt})"),
            Self::StepBegan(step) => write!(f, "{step} …"),
            Self::StepSucceeded(step, answer) => write!(f, "{step} succeeded: {answer}"),
            Self::StepFailed(step, error) => write!(f, "{step} failed: {error}"),
            Self::Succeeded => f.write_str("the rotation succeeded"),
            Self::GivenUp => f.write_str("the rotation failed; RotateSecret tries it again"),
            Self::Abandoned => f.write_str("the rotation is abandoned: it is not wanted any more"),
        }
    }
}

/// The event with which the function is invoked for a step.
pub fn step_event(rotation: &RotationRequest, step: &str) -> Value {
    json!({
        "Step": step,
        "SecretId": rotation.arn,
        "ClientRequestToken": rotation.token,
        "RotationToken": rotation.rotation_token,
    })
}

/// Drives one rotation to its end, which is the last event that `observe` is told and the value that is returned.
///
/// `invoke` is given the event of a step; it may run a process, or call a handler in this one.
pub async fn rotate<I, F>(
    emulator: &Emulator,
    rotation: &RotationRequest,
    retries: Retries,
    invoke: I,
    observe: impl Fn(&RotationRequest, &Event),
) -> Event
where
    I: Fn(Value) -> F,
    F: Future<Output = Outcome>,
{
    let mut attempt = 1;
    let end = loop {
        observe(rotation, &Event::AttemptBegan(attempt));
        match try_once(emulator, rotation, &invoke, &observe).await {
            Attempt::Succeeded => break Event::Succeeded,
            Attempt::Unwanted => break Event::Abandoned,
            Attempt::Failed if attempt >= retries.attempts => break Event::GivenUp,
            Attempt::Failed => emulator.sleep(retries.spacing).await,
        }
        attempt += 1;
        if !is_wanted(emulator, rotation) {
            break Event::Abandoned;
        }
    };
    let outcome = if end == Event::Succeeded { RotationOutcome::Succeeded } else { RotationOutcome::Failed };
    emulator.with_secrets_manager(|service| service.end_rotation(rotation, outcome));
    observe(rotation, &end);
    end
}

/// Drives every rotation that begins from now on, several at once. It never returns: spawn it.
pub async fn drive<I, F, O>(emulator: Emulator, retries: Retries, invoke: I, observe: O)
where
    I: Fn(Value) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Outcome> + Send + 'static,
    O: Fn(&RotationRequest, &Event) + Clone + Send + Sync + 'static,
{
    loop {
        for rotation in emulator.with_secrets_manager(|service| service.take_rotations()) {
            let (emulator, invoke, observe) = (emulator.clone(), invoke.clone(), observe.clone());
            tokio::spawn(async move { rotate(&emulator, &rotation, retries, invoke, observe).await });
        }
        emulator.rotation_began().await;
    }
}

enum Attempt {
    Succeeded,
    Failed,
    Unwanted,
}

async fn try_once<I, F>(
    emulator: &Emulator,
    rotation: &RotationRequest,
    invoke: &I,
    observe: &impl Fn(&RotationRequest, &Event),
) -> Attempt
where
    I: Fn(Value) -> F,
    F: Future<Output = Outcome>,
{
    let steps: &[&'static str] = if rotation.test_only { &["testSecret"] } else { &STEPS };
    for step in steps {
        if !is_wanted(emulator, rotation) {
            return Attempt::Unwanted;
        }
        observe(rotation, &Event::StepBegan(step));
        match invoke(step_event(rotation, step)).await {
            Ok(answer) => observe(rotation, &Event::StepSucceeded(step, answer)),
            Err(error) => {
                observe(rotation, &Event::StepFailed(step, error));
                return Attempt::Failed;
            }
        }
    }
    // AWS documents no error for this; but a rotation after which nothing has changed did not succeed.
    if rotation.test_only || is_current(emulator, rotation) { Attempt::Succeeded } else { Attempt::Failed }
}

fn is_wanted(emulator: &Emulator, rotation: &RotationRequest) -> bool {
    emulator.with_secrets_manager(|service| service.is_rotation_wanted(rotation))
}

fn is_current(emulator: &Emulator, rotation: &RotationRequest) -> bool {
    emulator.with_secrets_manager(|service| {
        let current = service.secret(&rotation.arn).and_then(|secret| secret.versions.labelled(AWSCURRENT));
        current.is_some_and(|version| version.id == rotation.token)
    })
}
