//! `checkSecret`: a read-only report on a secret, for a machine to alarm on and for a person to act on.
//!
//! It authenticates with the current key and with the admin key, and never with a key in its grace period: that would move
//! `last_used_at`, the very figure that tells whether somebody still uses it.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::credential::{self, Credential, KEY_ID_LABEL};
use super::failures::{Role, estimated_death};
use super::marks::Marks;
use super::session::{Authority, DEATH_PAUSES, Session};
use crate::by_hand;
use crate::clock::{from_epoch_seconds, rfc3339};
use crate::config::Policy;
use crate::error::{ErrorKind, RotationError};
use crate::event::SecretId;
use crate::identity::{ClaimedKeyId, KeyId};
use crate::kosli::{Acceptance, KeyEntry, Listing};
use crate::secrets_manager::{CURRENT, Description, PENDING, PREVIOUS, Version, Which};
use crate::words::words;

/// A rotation that has been pending for longer than this is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(3_600);

/// A marked key that no version holds counts as orphaned once it is older than this; before, a rotation may be at work.
const ORPHANED_AFTER: Duration = Duration::from_secs(3_600);

/// How long before its expiry a key is worth an alarm, where no rotation is scheduled before that.
const EXPIRY_WARNING: Duration = Duration::from_secs(14 * 86_400);

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
    /// Days until the current key expires, for the metrics.
    #[serde(skip)]
    pub days_to_expiry: Option<f64>,
    /// The same for the admin key.
    #[serde(skip)]
    pub days_to_admin_expiry: Option<f64>,
}

words! {
    /// What is asked about a secret.
    pub enum CheckName {
        /// Whether it can be described; the only check where it cannot, or where no time was left.
        Secret = "secret",
        /// Whether rotation is switched on.
        Rotation = "rotation",
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
    let mut checkup = Checkup { session, now: session.budget.now(), description, policy, checks: Vec::new() };
    let expiries = checkup.run().await;
    let mut report = report(secret_id, checkup.checks);
    let days = |at: Option<SystemTime>| {
        let left = at?.duration_since(checkup.now).unwrap_or_default();
        Some(left.as_secs_f64() / DAY.as_secs_f64())
    };
    (report.days_to_expiry, report.days_to_admin_expiry) = (days(expiries[0]), days(expiries[1]));
    report
}

/// A secret for which no time was left.
pub(super) fn not_checked(secret_id: String) -> Report {
    let detail =
        "No time was left to check this secret: raise the function's time-out, or check it by itself.".to_owned();
    report(secret_id, vec![Check { name: CheckName::Secret, ok: false, detail }])
}

fn report(secret_id: String, checks: Vec<Check>) -> Report {
    let healthy = checks.iter().all(|check| check.ok);
    Report { secret_id, healthy, checks, days_to_expiry: None, days_to_admin_expiry: None }
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
        self.check_stuck(pending_id.is_some(), pending.as_ref().ok().and_then(Option::as_ref));
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
        let listing = match session.list(&current.account, &authority).await {
            Ok(listing) => {
                if authority.role == Role::Admin {
                    self.passed(CheckName::AdminKey, "The admin key works and may list the account's keys.".to_owned());
                }
                listing
            }
            Err(error) => {
                self.failed(if authority.role == Role::Admin { CheckName::AdminKey } else { CheckName::List }, &error);
                return [None, self.check_admin_expiry(admin_version.as_ref(), &authority).await];
            }
        };
        let rotating = pending.is_some() || self.has_marked_keys(&current, previous.as_ref(), &listing);
        match self.abandoned(pending_id.is_some(), &current, previous.as_ref(), &listing) {
            Some((successor, dies)) => self.not_ok(
                CheckName::CurrentKey,
                format!(
                    "A rotation that was abandoned has minted the successor {successor} of the current key, which works until about \
                     {}. Rotate now: {}.",
                    rfc3339(dies),
                    by_hand::rotate(session.secret)
                ),
            ),
            None => self.check_current_key(&current, rotating).await,
        }
        let expiry = self.check_key_id(&current, &authority, &listing).await;
        self.check_old_key(&current, previous.as_ref(), &authority, &listing).await;
        self.check_orphans(&current, previous.as_ref(), pending.as_ref(), &listing).await;
        self.check_schedule(expiry);
        [expiry, self.check_admin_expiry(admin_version.as_ref(), &authority).await]
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

    /// `pending` is the version under `AWSPENDING`, if it has a value. One without has no date of its own: the secret's last
    /// change is the best that is known.
    fn check_stuck(&mut self, is_pending: bool, pending: Option<&Version>) {
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
                    "A rotation has been pending for {} h{}. Call {} to have it tried again; its error is in this function's log. \
                     The README's runbook says how to unstick it.",
                    age.as_secs() / 3_600,
                    dies.map(|at| format!(", and the current key may die at {at}")).unwrap_or_default(),
                    by_hand::rotate(&self.secret())
                ),
            );
        }
    }

    fn has_marked_keys(&self, current: &Credential, previous: Option<&Credential>, listing: &Listing) -> bool {
        let marks = Marks::of(&self.description.arn, current, previous);
        listing.keys.iter().any(|key| !key.is(current.key_id.as_ref()) && marks.attempt_of(key).is_some())
    }

    /// The successor of the current key that a rotation has minted, though none is pending any more, and when the current key dies
    /// of that.
    fn abandoned(
        &self,
        is_pending: bool,
        current: &Credential,
        previous: Option<&Credential>,
        listing: &Listing,
    ) -> Option<(KeyId, SystemTime)> {
        let marks = Marks::of(&self.description.arn, current, previous);
        let successors = listing.keys.iter().filter(|key| !key.is(current.key_id.as_ref()));
        let first = successors.filter(|key| marks.carried_by(key).is_some()).min_by_key(|key| key.created_at)?;
        let dies = first.created_at + self.policy.grace();
        (!is_pending && dies > self.now).then(|| (first.id.clone(), dies))
    }

    async fn check_current_key(&mut self, current: &Credential, rotating: bool) {
        if rotating {
            return self.passed(
                CheckName::CurrentKey,
                "Not tried: a rotation is under way, so the key may be in its grace period.".to_owned(),
            );
        }
        match self.session.accepts(&current.account, current.key(), "the current key", &DEATH_PAUSES).await {
            Ok(Acceptance::Accepted) => self.passed(CheckName::CurrentKey, "Kosli accepts the current key.".to_owned()),
            Ok(Acceptance::Dead) => self.not_ok(
                CheckName::CurrentKey,
                format!(
                    "Kosli does not accept the current key: it was revoked or has expired. With an admin key, rotate now ({}); \
                     without, put a working key in ({}).",
                    by_hand::rotate(&self.secret()),
                    by_hand::put_value(&self.secret())
                ),
            ),
            Err(error) => self.failed(CheckName::CurrentKey, &error),
        }
    }

    /// Whether the current key's id is on the account; when it expires comes back.
    async fn check_key_id(
        &mut self,
        current: &Credential,
        authority: &Authority,
        listing: &Listing,
    ) -> Option<SystemTime> {
        let Some(id) = &current.key_id.as_ref().map(ClaimedKeyId::believed) else {
            self.not_ok(
                CheckName::KeyId,
                format!(
                    "Nothing says which key the secret holds. The first rotation finds it, if it is the account's only key; \
                     otherwise put its id into the value, or onto the version, in the place of KEY_ID: {}.",
                    by_hand::attach_label(&self.secret(), &format!("{KEY_ID_LABEL}KEY_ID"), &current.version)
                ),
            );
            return None;
        };
        match self.entry(current, id, authority, listing).await {
            Ok(Some(entry)) => {
                let expiry = entry.expires_at.map(from_epoch_seconds);
                let until =
                    expiry.map_or_else(|| "never expires".to_owned(), |at| format!("expires at {}", rfc3339(at)));
                self.passed(CheckName::KeyId, format!("The key {id} is on the account and {until}."));
                expiry
            }
            Ok(None) => {
                self.not_ok(
                    CheckName::KeyId,
                    format!(
                        "The key {id} is not on the service account {}: it was revoked, its id is mistyped, or it is in its \
                         grace period after a rotation that was abandoned. Compare it with the account's keys ({}).",
                        current.account,
                        by_hand::list_keys(&current.account, self.session.host())
                    ),
                );
                None
            }
            Err(error) => {
                self.failed(CheckName::KeyId, &error);
                None
            }
        }
    }

    async fn entry(
        &self,
        credential: &Credential,
        id: &KeyId,
        authority: &Authority,
        listing: &Listing,
    ) -> Result<Option<KeyEntry>, RotationError> {
        if let Some(entry) = listing.keys.iter().find(|key| key.id == *id) {
            return Ok(Some(entry.clone()));
        }
        let got = self.session.kosli(&authority.key).get(&credential.account, id).await;
        got.map_err(|error| self.session.kosli_failed(&error, authority.role, &format!("looking up the key {id}")))
    }

    /// Whether the key before the current one is dead, in its grace period, or alive too long; and whether it is still used.
    async fn check_old_key(
        &mut self,
        current: &Credential,
        previous: Option<&Credential>,
        authority: &Authority,
        listing: &Listing,
    ) {
        let Some(previous) = previous.filter(|previous| !previous.key().same(current.key())) else {
            return self.passed(CheckName::OldKey, "There is no old key.".to_owned());
        };
        let Some(id) = &previous.key_id.as_ref().map(ClaimedKeyId::believed) else {
            // So it is after the first rotation of a value without a field for the id.
            return self.passed(
                CheckName::OldKey,
                "Nothing says which id the old key has: it ends with its grace period.".to_owned(),
            );
        };
        if id.is_among(&current.key_id) {
            return self.passed(
                CheckName::OldKey,
                format!("The old key shares the id {id} with the new one: it ends with its grace period."),
            );
        }
        let entry = match self.entry(current, id, authority, listing).await {
            Ok(Some(entry)) => entry,
            Ok(None) => {
                return self.passed(CheckName::OldKey, format!("The old key {id} is not on the account any more."));
            }
            Err(error) => return self.failed(CheckName::OldKey, &error),
        };
        // The current version was made right after its key was minted, which began the old key's grace period.
        let ends = estimated_death(current.created, self.policy);
        let used =
            entry.last_used_at.map_or_else(|| "never used".to_owned(), |at| format!("last used {}", rfc3339(at)));
        if self.now > ends + STUCK_AFTER {
            return self.not_ok(
                CheckName::OldKey,
                format!(
                    "The old key {id} is alive, though a grace period would have ended at {}: nobody ends it ({used}). Revoke it: \
                     {}.",
                    rfc3339(ends),
                    by_hand::revoke_keys([id], &current.account, self.session.host())
                ),
            );
        }
        let detail = format!("The old key {id} is in its grace period until about {} ({used}).", rfc3339(ends));
        let half_time = current.created + ends.duration_since(current.created).unwrap_or_default() / 2;
        if entry.last_used_at.is_some_and(|at| at > half_time) {
            return self.not_ok(
                CheckName::OldKey,
                format!("{detail} Somebody still uses it: find out who did not notice the rotation."),
            );
        }
        self.passed(CheckName::OldKey, detail);
    }

    async fn check_orphans(
        &mut self,
        current: &Credential,
        previous: Option<&Credential>,
        pending: Option<&Credential>,
        listing: &Listing,
    ) {
        let arn = &self.description.arn;
        let coming = Marks::of(arn, current, previous);
        let last = previous.map(|previous| Marks::of(arn, previous, None));
        let old_enough =
            |key: &&KeyEntry| listing.at.duration_since(key.created_at).unwrap_or_default() > ORPHANED_AFTER;
        let replaces = |marks: &Marks, key: &KeyEntry| marks.attempt_of(key).is_some();
        let marked: Vec<&KeyEntry> = listing
            .keys
            .iter()
            .filter(|key| replaces(&coming, key) || last.as_ref().is_some_and(|last| replaces(last, key)))
            .filter(old_enough)
            .collect();
        let known: Vec<&Credential> = [Some(current), previous, pending].into_iter().flatten().collect();
        let held = match marked.is_empty() {
            true => Ok(Vec::new()),
            false => self.session.held_key_ids(&self.description, &known).await,
        };
        let held = match held {
            Ok(held) => held,
            Err(error) => return self.failed(CheckName::Orphans, &error),
        };
        let (healing, left): (Vec<&KeyEntry>, Vec<&KeyEntry>) =
            marked.into_iter().filter(|key| !key.id.is_among(&held)).partition(|key| replaces(&coming, key));
        let ids = |keys: &[&KeyEntry]| keys.iter().map(|key| key.id.to_string()).collect::<Vec<_>>().join(", ");
        if healing.is_empty() && left.is_empty() {
            return self
                .passed(CheckName::Orphans, "No key that was minted for this secret is without a version.".to_owned());
        }
        let mut detail = "Keys were minted for this secret, and no version holds them.".to_owned();
        if !healing.is_empty() {
            detail += &format!(" {}: the next rotation replaces or revokes them.", ids(&healing));
        }
        if !left.is_empty() {
            detail += &format!(
                " {}: left behind by the clean-up of the last rotation. The next one does not touch them: invoke finishSecret once \
                 more for the version {}, or revoke them: {}.",
                ids(&left),
                current.version,
                by_hand::revoke_keys(left.iter().map(|key| &key.id), &current.account, self.session.host())
            );
        }
        self.not_ok(CheckName::Orphans, detail);
    }

    /// Whether grace period, schedule and expiry fit together.
    fn check_schedule(&mut self, expiry: Option<SystemTime>) {
        let next = self.description.next_rotation;
        if let Some(next) = next
            && self.now > next + DAY
        {
            return self.not_ok(
                CheckName::Schedule,
                format!(
                    "The rotation that was due at {} has not happened: its error is in this function's log.",
                    rfc3339(next)
                ),
            );
        }
        if let Some(expiry) = expiry
            && expiry < next.unwrap_or(self.now + EXPIRY_WARNING)
        {
            let due = next.map_or_else(
                || "no rotation is scheduled".to_owned(),
                |at| format!("the next rotation is due at {}", rfc3339(at)),
            );
            return self.not_ok(
                CheckName::Schedule,
                format!("The current key expires at {}, and {due}: rotate before.", rfc3339(expiry)),
            );
        }
        let Some(interval) = self.description.rotation_interval else {
            return self.passed(
                CheckName::Schedule,
                "The next rotation comes before the key's expiry, as far as the schedule tells.".to_owned(),
            );
        };
        let grace = self.policy.grace();
        // The marker takes up to three days of a key's life.
        let life = DAY * self.policy.key_ttl_days.saturating_sub(4);
        if grace >= interval {
            return self.not_ok(
                CheckName::Schedule,
                format!(
                    "The grace period ({} h) is not shorter than the time between two rotations ({} h): several old keys live at \
                     once, and only the last can be read from the secret.",
                    grace.as_secs() / 3_600,
                    interval.as_secs() / 3_600
                ),
            );
        }
        if interval + grace > life {
            return self.not_ok(
                CheckName::Schedule,
                format!(
                    "A key lives {} days (less up to three), and it is replaced only every {} days: a rotation that is late means an \
                     outage. Rotate more often, or raise KOSLI_KEY_TTL_DAYS.",
                    self.policy.key_ttl_days,
                    interval.as_secs() / DAY.as_secs()
                ),
            );
        }
        self.passed(CheckName::Schedule, "Grace period, schedule and expiry fit together.".to_owned());
    }

    /// When the admin key expires, which only its secret can tell: by naming its id and account.
    async fn check_admin_expiry(&mut self, admin: Option<&Version>, authority: &Authority) -> Option<SystemTime> {
        let description = Description { tags: std::collections::BTreeMap::new(), ..self.description.clone() };
        let admin = Credential::parse(admin?, &description, "the admin secret").ok()?;
        let id = &admin.key_id?.believed();
        let entry = match self.session.kosli(&authority.key).get(&admin.account, id).await {
            Ok(entry) => entry?,
            Err(error) => {
                let error =
                    self.session.kosli_failed(&error, authority.role, &format!("looking up the admin key {id}"));
                self.failed(CheckName::AdminExpiry, &error);
                return None;
            }
        };
        let expiry = from_epoch_seconds(entry.expires_at?);
        if expiry < self.now + EXPIRY_WARNING {
            self.not_ok(
                CheckName::AdminExpiry,
                format!("The admin key {id} expires at {}: rotate the admin secret before.", rfc3339(expiry)),
            );
        } else {
            self.passed(CheckName::AdminExpiry, format!("The admin key {id} expires at {}.", rfc3339(expiry)));
        }
        Some(expiry)
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
