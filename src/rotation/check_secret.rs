//! `checkSecret`: a read-only report on a secret, for a machine to alarm on and for a person to act on.
//!
//! It authenticates with the current key and with the admin key, and never with a key in its grace period: that would move
//! `last_used_at`, the very figure that tells whether it is still used.

mod fleet;
mod keys;
mod schedule;

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::credential::{self, Credential};
use super::failures::{Role, estimated_death};
use super::marks::CLOCK_TOLERANCE;
use super::requirements::authorized;
use super::session::{AdminKey, Authority, Session};
use crate::by_hand;
use crate::clock::rfc3339;
use crate::config::{Policy, unknown_tags};
use crate::error::{ErrorKind, RotationError};
use crate::event::SecretId;
use crate::secrets_manager::{CURRENT, Description, PENDING, PREVIOUS, Version, Which};
use crate::words::words;
use fleet::Held;
pub(super) use fleet::{compare_keys, sort_by_urgency};

/// A rotation that has been pending for longer than this is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(3_600);

const DAY: Duration = Duration::from_secs(86_400);

/// The report on one secret.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The secret's ARN.
    pub secret_id: String,
    /// Whether every check is ok.
    pub healthy: bool,
    /// The checks, in a fixed order; one that cannot be made for want of another is left out.
    pub checks: Vec<Check>,
    /// Days until the current key dies, of its expiry or of a rotation, for the metrics and the order of reports.
    #[serde(skip)]
    pub days_to_expiry: Option<f64>,
    /// The same for the admin key.
    #[serde(skip)]
    pub days_to_admin_expiry: Option<f64>,
    /// Whether there was time to check it.
    #[serde(skip)]
    pub(super) is_checked: bool,
    /// The current key, for the comparison with those of other secrets.
    #[serde(skip)]
    held: Option<Held>,
}

words! {
    /// What is asked about a secret.
    pub enum CheckName {
        /// Whether it can be described; the only check where it cannot, or where no time was left.
        Secret = "secret",
        /// Whether rotation is switched on.
        Rotation = "rotation",
        /// Whether all settings are known that look like settings of this function.
        Settings = "settings",
        /// Whether a rotation is stuck.
        Stuck = "stuck",
        /// Whether the value can be read, and is permitted.
        Value = "value",
        /// Whether the admin key works and may list.
        AdminKey = "admin-key",
        /// In self-rotation: whether the secret's own key may list.
        List = "list",
        /// Whether Kosli accepts the current key.
        CurrentKey = "current-key",
        /// Whether the current key's id is on the account.
        KeyId = "key-id",
        /// What has become of the key before it.
        OldKey = "old-key",
        /// Whether keys were minted for this secret that no version holds.
        Orphans = "orphans",
        /// Whether grace period, schedule and expiry fit together.
        Schedule = "schedule",
        /// When the admin key expires.
        AdminExpiry = "admin-expiry",
        /// In the report on all secrets: whether others hold the same key.
        SharedKey = "shared-key",
    }
}

/// One question and its answer.
#[derive(Debug, Serialize)]
pub struct Check {
    /// The question.
    pub name: CheckName,
    /// Whether all is well.
    pub ok: bool,
    /// What was seen, and what to do where it is not ok.
    pub detail: String,
}

/// What a report is made from.
struct Checkup<'a> {
    session: &'a Session<'a>,
    now: SystemTime,
    description: Description,
    policy: Policy,
    checks: Vec<Check>,
    held: Option<Held>,
}

/// Checks one secret. Whatever goes wrong is part of the report.
pub(super) async fn check_secret(session: &Session<'_>) -> Report {
    let description = match session.function.secrets_manager.describe(&session.budget, session.secret).await {
        Ok(description) => description,
        Err(error) => {
            let detail = session.aws_failed(&error).to_string();
            return report(session.secret.to_string(), vec![Check { name: CheckName::Secret, ok: false, detail }]);
        }
    };
    let secret_id = description.arn.clone();
    let (policy, _) = session.function.config.policy.with_readable_tags(&description.tags);
    let mut checkup =
        Checkup { session, now: session.budget.now(), description, policy, checks: Vec::new(), held: None };
    let expiries = checkup.run().await;
    let mut report = report(secret_id, std::mem::take(&mut checkup.checks));
    let days = |at: Option<SystemTime>| {
        let left = at?.duration_since(checkup.now).unwrap_or_default();
        Some(left.as_secs_f64() / DAY.as_secs_f64())
    };
    report.held = checkup.held.take();
    (report.days_to_expiry, report.days_to_admin_expiry) = (days(expiries[0]), days(expiries[1]));
    report
}

/// A secret for which no time was left.
pub(super) fn not_checked(secret_id: String) -> Report {
    let detail =
        "No time was left to check this secret: raise the function's time-out, or ask for a report on this secret alone.".to_owned();
    Report { is_checked: false, ..report(secret_id, vec![Check { name: CheckName::Secret, ok: false, detail }]) }
}

fn report(secret_id: String, checks: Vec<Check>) -> Report {
    let healthy = checks.iter().all(|check| check.ok);
    Report {
        secret_id,
        healthy,
        checks,
        days_to_expiry: None,
        days_to_admin_expiry: None,
        is_checked: true,
        held: None,
    }
}

impl Checkup<'_> {
    /// Makes all checks. When the current key and the admin key expire comes back.
    async fn run(&mut self) -> [Option<SystemTime>; 2] {
        let session = self.session;
        let pending_id =
            self.description.holder(PENDING).filter(|id| Some(*id) != self.description.holder(CURRENT)).cloned();
        let (current, previous, pending, admin) = tokio::join!(
            session.read(Which::Label(CURRENT)),
            session.read(Which::Label(PREVIOUS)),
            async {
                match &pending_id {
                    Some(id) => session.read(Which::Id(id)).await,
                    None => Ok(None),
                }
            },
            session.admin_version(),
        );
        self.check_rotation();
        self.check_settings();
        let is_stuck = self.check_stuck(pending_id.is_some(), pending.as_ref().ok().and_then(Option::as_ref));
        let current = match current.and_then(|version| {
            let version = version.ok_or_else(|| no_current_value(&self.secret()))?;
            let credential = Credential::parse_replaced(&version, &self.description, &version.id, CURRENT)?;
            session.permit(&credential.account)?;
            self.session.function.config.policy.with_tags(&self.description.tags)?;
            Ok(credential)
        }) {
            Ok(current) => current,
            Err(error) => {
                self.failed(CheckName::Value, &error);
                return [None, None];
            }
        };
        self.passed(CheckName::Value, format!("A {} for {}.", current.document.shape(), current.account));

        let parse = |version: Version, role| Credential::parse(&version, &self.description, role).ok();
        let pending = pending.ok().flatten().and_then(|version| parse(version, PENDING));
        let previous = previous.ok().flatten().and_then(|version| parse(version, PREVIOUS));
        let mut current = current;
        previous.iter().for_each(|previous| current.learn_key_id(previous));
        // A version that cannot be read tells no id.
        let _ = session.learn_key_id(&self.description, &mut current).await;
        self.held =
            Some(Held { key: current.key().clone(), id: current.key_id.clone(), account: current.account.clone() });
        let (authority, admin_version) = match admin {
            Ok(Some(version)) => match credential::admin_key(&version) {
                Ok(key) => (Authority { key, role: Role::Admin }, Some(version)),
                Err(what) => {
                    self.not_ok(CheckName::AdminKey, format!("The admin secret {what}."));
                    return [None, None];
                }
            },
            // While a rotation is pending, the current key may be in its grace period, and the pending one is the new one.
            Ok(None) => match &pending {
                Some(pending) => (Authority { key: pending.key().clone(), role: Role::New }, None),
                None => (Authority { key: current.key().clone(), role: Role::Current }, None),
            },
            Err(error) => {
                self.failed(CheckName::AdminKey, &error);
                return [None, None];
            }
        };
        let admin_is_current = match &admin_version {
            Some(version) => self.check_whose_admin_key(version, &authority, &current),
            None => false,
        };
        let listing = match session.list(&current.account, &authority).await {
            Ok(listing) => {
                if authority.role == Role::Admin && !admin_is_current {
                    self.passed(CheckName::AdminKey, "The admin key works and may list the account's keys.".to_owned());
                }
                listing
            }
            Err(error) => {
                self.failed(if authority.role == Role::Admin { CheckName::AdminKey } else { CheckName::List }, &error);
                return [None, self.check_admin_expiry(admin_version.as_ref(), &authority).await];
            }
        };
        let death = self.death(&current, previous.as_ref(), pending.as_ref(), &listing);
        let put_back = match death {
            None => self.put_back(&current, previous.as_ref(), &authority, &listing).await,
            Some(_) => None,
        };
        let dies = match put_back {
            Some(dies) => self.not_tried_for_it_was_put_back(dies),
            None => self.check_current_key(&current, death, pending_id.is_some()).await,
        };
        let expiry = self.check_key_id(&current, &authority, &listing).await;
        self.check_old_key(&current, previous.as_ref(), &authority, &listing).await;
        self.check_orphans(&current, previous.as_ref(), pending.as_ref(), &listing).await;
        // A rotation that is under way gives it a successor in time, also where Kosli shows the end of its grace period for its expiry.
        let is_under_way = pending_id.is_some() && !is_stuck;
        let is_of_its_own = |expiry: &SystemTime| dies.is_none_or(|dies| *expiry > dies + CLOCK_TOLERANCE);
        let expiry = expiry.filter(|expiry| !is_under_way || is_of_its_own(expiry));
        let dies = dies.filter(|_| !is_under_way);
        self.check_schedule(expiry);
        let ends = [expiry, dies].into_iter().flatten().min();
        [ends, self.check_admin_expiry(admin_version.as_ref(), &authority).await]
    }

    /// The secret by its ARN, whatever the report was asked for by: for command lines.
    fn secret(&self) -> SecretId {
        SecretId::trusted(&self.description.arn)
    }

    fn check_rotation(&mut self) {
        if self.description.rotation_enabled {
            self.passed(CheckName::Rotation, "Rotation is switched on.".to_owned());
        } else {
            self.not_ok(
                CheckName::Rotation,
                format!(
                    "Rotation is not switched on: call {}.",
                    by_hand::switch_on(&self.secret(), self.session.function_arn)
                ),
            );
        }
    }

    /// Names under our prefix that have no effect: a person believes in them.
    fn check_settings(&mut self) {
        let variables = self.session.function.config.unknown_variables.clone();
        let tags = unknown_tags(self.description.tags.keys());
        if variables.is_empty() && tags.is_empty() {
            return self.passed(CheckName::Settings, "All variables and tags under our prefix are known.".to_owned());
        }
        let told = |what: &str, names: &[String]| match names {
            [] => String::new(),
            names => format!(" The {what} {} means nothing to this function.", names.join(", ")),
        };
        self.not_ok(
            CheckName::Settings,
            format!(
                "A setting has no effect, for no setting has that name: is it misspelt?{}{} The README lists all settings.",
                told("variable", &variables),
                told("tag", &tags)
            ),
        );
    }

    /// Whether the admin secret, another one, holds the very key that this secret holds: a rotation would end it.
    fn check_whose_admin_key(&mut self, admin: &Version, authority: &Authority, current: &Credential) -> bool {
        let admin = AdminKey { secret_arn: admin.arn.clone(), key: authority.key.clone() };
        match authorized(self.session, &self.description, current, Some(admin)) {
            Ok(_) => false,
            Err(error) => {
                self.failed(CheckName::AdminKey, &error);
                true
            }
        }
    }

    /// `pending` is the version under `AWSPENDING`, if it has a value. One without has no date of its own: the secret's last
    /// change is the best that is known.
    fn check_stuck(&mut self, is_pending: bool, pending: Option<&Version>) -> bool {
        let since = pending.map(|version| version.created).or(self.description.last_changed);
        let age = since.and_then(|since| self.now.duration_since(since).ok()).unwrap_or_default();
        if !is_pending {
            self.passed(CheckName::Stuck, "No rotation is pending.".to_owned());
        } else if age <= STUCK_AFTER {
            self.passed(CheckName::Stuck, format!("A rotation has been pending for {} min.", age.as_secs() / 60));
        } else {
            let dies = pending.map(|version| rfc3339(estimated_death(version.created, self.policy)));
            self.not_ok(
                CheckName::Stuck,
                format!(
                    "A rotation has been pending for {} h{}. Call {} to try it again; this function's log has its error. \
                     docs/runbook.md says how to unstick it.",
                    age.as_secs() / 3_600,
                    dies.map(|at| format!(", and the current key may die at {at}")).unwrap_or_default(),
                    by_hand::rotate(&self.secret())
                ),
            );
        }
        is_pending && age > STUCK_AFTER
    }

    fn passed(&mut self, name: CheckName, detail: String) {
        self.checks.push(Check { name, ok: true, detail });
    }

    fn not_ok(&mut self, name: CheckName, detail: String) {
        self.checks.push(Check { name, ok: false, detail });
    }

    fn failed(&mut self, name: CheckName, error: &RotationError) {
        self.not_ok(name, format!("{} ({})", error.what_to_do(), error.kind().word()));
    }
}

fn no_current_value(secret: &SecretId) -> RotationError {
    RotationError::before_any_change(
        ErrorKind::NoCurrentValue,
        "The secret has no value under AWSCURRENT yet.",
        format!("Put the first key in ({}).", by_hand::put_value(secret)),
    )
}
