//! `RotateSecret`, `CancelRotateSecret`, and what the service does when a rotation has ended.
//!
//! Calling the function is not done here: `RotateSecret` leaves a [`RotationRequest`], and its taker calls the steps and reports
//! with [`SecretsManager::end_rotation`].

use std::time::SystemTime;

use serde_json::json;

use super::answer::{Answer, Error, uuid};
use super::model::{AWSCURRENT, AWSPENDING, RotationOutcome, RotationRequest, Secret};
use super::operations::named;
use super::wire::{OfSecret, RotateSecret, check_token};
use super::{PendingLabel, SecretsManager, TestedVersion};

impl SecretsManager {
    pub(super) fn rotate_secret(&mut self, input: RotateSecret) -> Answer {
        // Only here the missing token is an invalid *parameter* (recorded in LocalStack's `test_no_client_request_token`).
        let token = input.client_request_token.ok_or_else(|| {
            Error::invalid_parameter("You must provide a ClientRequestToken value. We recommend a UUID-type value.")
        })?;
        check_token(&token)?;
        let secret = self.find_live(&input.secret_id)?;
        let arn = input.rotation_lambda_arn.filter(|arn| !arn.is_empty()).or(secret.rotation.function_arn.clone());
        let function_arn = arn
            .ok_or_else(|| Error::invalid_request("No Lambda rotation function ARN is associated with this secret."))?;
        self.check_invocable(&function_arn)?;
        if let Some(rules) = &input.rotation_rules {
            rules.check()?;
        }
        self.refuse_if_unfinished(&input.secret_id, &token)?;

        let switches = self.switches.clone();
        let test_only = input.rotate_immediately == Some(false);
        let (begins, secret) = self.change(&input.secret_id, |secret, now| {
            let repeated = is_pending_or_current(secret, &token);
            let rotation = &mut secret.rotation;
            rotation.function_arn = Some(function_arn);
            rotation.rules = input.rotation_rules.or(rotation.rules.take());
            rotation.enabled = if test_only && switches.enabled_after_test {
                rotation.enabled.filter(|enabled| *enabled)
            } else {
                Some(true)
            };
            rotation.schedule_next(now);
            secret.changed = now;
            if repeated {
                return Ok(false);
            }
            if secret.versions.get(&token).is_some() {
                return Err(Error::token_in_use(&token, &secret.arn));
            }
            reserve_pending(secret, &token, test_only && switches.tested_version == TestedVersion::CopyOfCurrent, now);
            secret.versions.check_label_quota()?;
            Ok(true)
        })?;
        let answer = named(secret, json!({ "VersionId": token }));
        if begins {
            self.begin(&input.secret_id, &token, test_only);
        }
        Ok(answer)
    }

    /// Turns rotation off. The function and the schedule are kept, and so is `AWSPENDING`, wherever it is: AWS leaves it to
    /// the caller to take it off.
    pub(super) fn cancel_rotate_secret(&mut self, input: &OfSecret) -> Answer {
        let ((), secret) = self.change(&input.secret_id, |secret, now| {
            if secret.rotation.function_arn.is_none() {
                return Err(Error::invalid_request("Rotation has never been configured for this secret."));
            }
            secret.rotation.enabled = Some(false);
            secret.rotation.next = None;
            secret.rotation.running = None;
            secret.changed = now;
            Ok(())
        })?;
        let pending = secret.versions.labelled(AWSPENDING).map(|version| version.id.clone());
        Ok(named(secret, json!({ "VersionId": pending })))
    }

    /// The rotations that have begun since the last call. Each must be ended with [`SecretsManager::end_rotation`].
    pub fn take_rotations(&mut self) -> Vec<RotationRequest> {
        std::mem::take(&mut self.begun)
    }

    /// Whether it still makes sense to call the function for this rotation.
    ///
    /// False once a person has stored a new current value meanwhile, has taken `AWSPENDING` off, has cancelled rotation or
    /// has deleted the secret.
    pub fn is_rotation_wanted(&self, rotation: &RotationRequest) -> bool {
        self.secret(&rotation.arn).is_some_and(|secret| {
            secret.deletion.is_none()
                && secret.rotation.enabled != Some(false)
                && is_pending_or_current(secret, &rotation.token)
        })
    }

    /// Does what the service does when a rotation has ended.
    ///
    /// - Success, with the new version current: the dates move on, and `AWSPENDING` is cleaned up as
    ///   [`Switches::pending_label`](super::Switches::pending_label) says.
    /// - A test (`test_only`), however it ended: the pending version is taken away.
    /// - Failure, or "success" without the new version being current: `AWSPENDING` stays where it is. The next
    ///   `RotateSecret` is refused, and the rotation is attempted again.
    pub fn end_rotation(&mut self, rotation: &RotationRequest, outcome: RotationOutcome) {
        let now = self.clock.now();
        let pending_label = self.switches.pending_label;
        let Some(secret) = self.secret_mut(&rotation.arn) else { return };
        if secret.rotation.running.as_ref() == Some(&rotation.token) {
            secret.rotation.running = None;
        }
        let carries = |label: &str| secret.versions.labelled(label).is_some_and(|version| version.id == rotation.token);
        let (pending, current) = (carries(AWSPENDING), carries(AWSCURRENT));
        if rotation.test_only {
            if secret.rotation.enabled.is_none() {
                secret.rotation.enabled = Some(true);
                secret.rotation.schedule_next(now);
            }
            if pending && !current {
                secret.versions.remove(&rotation.token);
            }
        } else if outcome == RotationOutcome::Succeeded && current {
            if pending && pending_label == PendingLabel::Removed {
                secret.versions.detach(AWSPENDING);
            }
            secret.rotation.last = Some(now);
            secret.rotation.schedule_next(now);
            secret.changed = now;
        }
    }

    /// AWS refuses to begin a rotation while `AWSPENDING` is on a version that is not current, with or without a value, and
    /// attempts the old one again, with its own token. What becomes of the request's settings is not documented; here they
    /// are dropped.
    fn refuse_if_unfinished(&mut self, id: &str, token: &str) -> Result<(), Error> {
        let secret = self.find_live(id)?;
        let Some(pending) = secret.versions.labelled(AWSPENDING).filter(|version| !version.stages.contains(AWSCURRENT))
        else {
            return Ok(());
        };
        let pending = pending.id.clone();
        if secret.rotation.enabled == Some(true) && secret.rotation.running.as_ref() != Some(&pending) {
            self.begin(id, &pending, false);
        }
        // The same token again is the same request again, sent by a client that has missed the answer.
        if pending == token {
            return Ok(());
        }
        Err(Error::invalid_request("A previous rotation isn't complete. That rotation will be reattempted."))
    }

    /// Hands a rotation out, with a fresh rotation token.
    fn begin(&mut self, id: &str, token: &str, test_only: bool) {
        let rotation_token = uuid(self.random.u128(..));
        let Some(secret) = self.secret_mut(id) else { return };
        let Some(function_arn) = secret.rotation.function_arn.clone() else { return };
        let (arn, token) = (secret.arn.clone(), token.to_owned());
        secret.rotation.running = Some(token.clone());
        self.begun.push(RotationRequest { arn, token, function_arn, test_only, rotation_token });
    }

    fn check_invocable(&self, function_arn: &str) -> Result<(), Error> {
        if self.switches.functions.as_ref().is_some_and(|functions| !functions.contains(function_arn)) {
            return Err(Error::access_denied(
                "Secrets Manager cannot invoke the specified Lambda function. Ensure that the function policy grants \
                 access to the principal secretsmanager.amazonaws.com.",
            ));
        }
        Ok(())
    }
}

/// Makes the pending version: without a value, or as a copy of the current one.
fn reserve_pending(secret: &mut Secret, token: &str, copy: bool, now: SystemTime) {
    let value = secret.versions.labelled(AWSCURRENT).and_then(|version| version.value.clone()).filter(|_| copy);
    secret.versions.reserve(token, now);
    secret.versions.attach(AWSPENDING, token);
    if let Some(value) = value {
        secret.versions.store(token, value, None, now);
    }
}

fn is_pending_or_current(secret: &Secret, token: &str) -> bool {
    secret
        .versions
        .get(token)
        .is_some_and(|version| version.stages.contains(AWSPENDING) || version.stages.contains(AWSCURRENT))
}
