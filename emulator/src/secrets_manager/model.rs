//! A secret, its versions, the rules by which staging labels move, and what is known of a rotation that has begun.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::answer::Error;

/// The label of the version that applications read.
pub const AWSCURRENT: &str = "AWSCURRENT";
/// The label of the version that a rotation prepares.
pub const AWSPENDING: &str = "AWSPENDING";
/// The label of the version that was current before.
pub const AWSPREVIOUS: &str = "AWSPREVIOUS";

/// How many staging labels the versions of one secret may carry together (AWS user guide, quotas).
const LABELS_PER_SECRET: usize = 20;
/// How many versions without a label are kept (AWS user guide: "removes deprecated versions when there are more than 100").
const DEPRECATED_VERSIONS: usize = 100;
/// A version younger than this is never dropped (AWS user guide, on `PutSecretValue`).
const YOUNGEST_DROPPED: Duration = Duration::from_secs(24 * 60 * 60);

/// A secret as the service keeps it.
#[derive(Clone, Debug)]
pub struct Secret {
    /// With the six random characters at its end.
    pub arn: String,
    /// The name that the secret was created with.
    pub name: String,
    /// `None` where it was never given, or given as empty: AWS then leaves the field out.
    pub description: Option<String>,
    /// The customer managed key, where one was given. Nothing is encrypted here.
    pub kms_key_id: Option<String>,
    /// `None` until the first tag; an empty list once the last one is removed, as recorded from AWS.
    pub tags: Option<Vec<Tag>>,
    /// What `PutResourcePolicy` has stored. It is shown, and permits and refuses nothing here.
    pub resource_policy: Option<String>,
    /// All versions, labelled or not.
    pub versions: Versions,
    /// What `RotateSecret` configured.
    pub rotation: Rotation,
    /// When the secret was created.
    pub created: SystemTime,
    /// When anything about the secret last changed.
    pub changed: SystemTime,
    /// When a value was last read.
    pub accessed: Option<SystemTime>,
    /// When the secret will be gone, once `DeleteSecret` has been called.
    pub deletion: Option<SystemTime>,
    /// What readers may still see, oldest first; see [`super::Staleness`].
    pub(super) past: VecDeque<Past>,
}

impl Secret {
    /// Stores a value under the id `token` and gives its version the labels in `stages`.
    ///
    /// The rules of `PutSecretValue` (API reference): repeating a request changes nothing; a version that has a value
    /// never gets another one; a secret's first version becomes current whatever labels were asked for.
    pub(super) fn store(&mut self, token: &str, value: NewVersion, now: SystemTime) -> Result<(), Error> {
        match self.versions.get(token).and_then(|version| version.value.as_ref()) {
            Some(stored) if *stored == value.value => return Ok(()),
            Some(_) => return Err(Error::token_in_use(token, &self.arn)),
            None => {}
        }
        let mut stages = value.stages;
        // A new current value by hand ends a rotation that is under way, and the label goes with it: seen on AWS
        // (LocalStack's recording `test_update_secret_version_stages_current_pending`), `RotationAbandoned` in CloudTrail.
        let abandons_rotation = stages.contains(AWSCURRENT) && !stages.contains(AWSPENDING);
        if self.versions.iter().all(|version| version.value.is_none()) {
            stages.insert(AWSCURRENT.to_owned());
        }
        self.versions.store(token, value.value, value.rotation_token, now);
        for stage in &stages {
            self.versions.attach(stage, token);
        }
        if abandons_rotation {
            self.versions.detach(AWSPENDING);
            self.rotation.running = None;
            self.rotation.schedule_next(now);
        }
        self.versions.drop_deprecated(now)?;
        self.versions.check_label_quota()?;
        self.changed = now;
        Ok(())
    }

    /// The versions as a reader sees them now, which may be an earlier state.
    pub(super) fn read_versions(&mut self, now: SystemTime) -> Versions {
        self.past.retain(|past| match past.until {
            Until::Reads(reads) => reads > 0,
            Until::Time(until) => now < until,
        });
        let seen = self.past.front().map_or_else(|| self.versions.clone(), |past| past.before.clone());
        for past in &mut self.past {
            if let Until::Reads(reads) = &mut past.until {
                *reads -= 1;
            }
        }
        seen
    }
}

/// A version that a request wants to have stored.
pub(super) struct NewVersion {
    pub(super) value: SecretValue,
    pub(super) stages: BTreeSet<String>,
    pub(super) rotation_token: Option<String>,
}

/// A state that a write has replaced, and how long readers still see it.
#[derive(Clone, Debug)]
pub(super) struct Past {
    pub(super) until: Until,
    pub(super) before: Versions,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    Reads(usize),
    Time(SystemTime),
}

/// A tag on a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Tag {
    /// Unique on the secret.
    pub key: String,
    /// May be empty.
    pub value: String,
}

/// A secret's versions, in the order in which they were created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions(Vec<Version>);

impl Versions {
    /// All of them, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Version> {
        self.0.iter()
    }

    /// The version with this id, with or without a value.
    pub fn get(&self, id: &str) -> Option<&Version> {
        self.0.iter().find(|version| version.id == id)
    }

    /// The version that carries this label. There is never more than one.
    pub fn labelled(&self, label: &str) -> Option<&Version> {
        self.0.iter().find(|version| version.stages.contains(label))
    }

    pub(super) fn get_mut(&mut self, id: &str) -> Option<&mut Version> {
        self.0.iter_mut().find(|version| version.id == id)
    }

    /// Adds a version id without a value, as `RotateSecret` does before its function is called.
    pub(super) fn reserve(&mut self, id: &str, now: SystemTime) {
        self.0.push(Version {
            id: id.to_owned(),
            value: None,
            stages: BTreeSet::new(),
            created: now,
            accessed: None,
            rotation_token: None,
        });
    }

    /// Gives a version its value; the labels it already carries stay.
    pub(super) fn store(&mut self, id: &str, value: SecretValue, rotation_token: Option<String>, now: SystemTime) {
        if self.get(id).is_none() {
            self.reserve(id, now);
        }
        if let Some(version) = self.get_mut(id) {
            version.value = Some(value);
            version.rotation_token = rotation_token;
            version.created = now;
        }
    }

    /// Puts a label on one version and takes it off the version that had it.
    ///
    /// Moving `AWSCURRENT` also moves `AWSPREVIOUS`, to the version that it left (API reference,
    /// `UpdateSecretVersionStage`). No other label is touched.
    pub(super) fn attach(&mut self, label: &str, id: &str) {
        let left = self.labelled(label).map(|version| version.id.clone()).filter(|left| left != id);
        for version in &mut self.0 {
            if version.id == id {
                version.stages.insert(label.to_owned());
            } else {
                version.stages.remove(label);
            }
        }
        self.drop_empty();
        if let Some(left) = left.filter(|_| label == AWSCURRENT) {
            self.attach(AWSPREVIOUS, &left);
        }
    }

    /// Takes a label off the version that has it.
    pub(super) fn detach(&mut self, label: &str) {
        for version in &mut self.0 {
            version.stages.remove(label);
        }
        self.drop_empty();
    }

    /// Takes a version away altogether.
    pub(super) fn remove(&mut self, id: &str) {
        self.0.retain(|version| version.id != id);
    }

    pub(super) fn check_label_quota(&self) -> Result<(), Error> {
        if self.0.iter().map(|version| version.stages.len()).sum::<usize>() > LABELS_PER_SECRET {
            return Err(Error::limit_exceeded(format!(
                "The request would leave more than {LABELS_PER_SECRET} staging labels on the secret."
            )));
        }
        Ok(())
    }

    /// An id that has neither a label nor a value is not a version.
    fn drop_empty(&mut self) {
        self.0.retain(|version| version.value.is_some() || !version.stages.is_empty());
    }

    /// Drops the oldest versions without a label; if too many of them are too young for that, the write fails.
    fn drop_deprecated(&mut self, now: SystemTime) -> Result<(), Error> {
        let mut excess = self.0.iter().filter(|version| version.stages.is_empty()).count();
        excess = excess.saturating_sub(DEPRECATED_VERSIONS);
        self.0.retain(|version| {
            let age = now.duration_since(version.created).unwrap_or_default();
            let droppable = excess > 0 && version.stages.is_empty() && age >= YOUNGEST_DROPPED;
            excess -= usize::from(droppable);
            !droppable
        });
        if excess > 0 {
            return Err(Error::limit_exceeded("The secret has too many versions that are younger than 24 hours."));
        }
        Ok(())
    }
}

/// One version of a secret: a value that never changes, and the labels that it carries at the moment.
#[derive(Clone, PartialEq, Eq)]
pub struct Version {
    /// The `ClientRequestToken` of the request that made it.
    pub id: String,
    /// `None` while a rotation has only reserved the id.
    pub value: Option<SecretValue>,
    /// Its staging labels.
    pub stages: BTreeSet<String>,
    /// When the value was stored; until then, when the id was reserved.
    pub created: SystemTime,
    /// When the value was last read.
    pub accessed: Option<SystemTime>,
    /// The `RotationToken` that came with the value, as it was received.
    pub rotation_token: Option<String>,
}

impl Version {
    /// The value as text; `None` without a value, or with a binary one.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Some(SecretValue::Text(text)) => Some(text),
            Some(SecretValue::Binary(_)) | None => None,
        }
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the value nor the rotation token.
        f.debug_struct("Version").field("id", &self.id).field("stages", &self.stages).finish_non_exhaustive()
    }
}

/// What a version holds.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretValue {
    /// `SecretString`
    Text(String),
    /// `SecretBinary`, decoded
    Binary(Vec<u8>),
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(..)")
    }
}

/// What a secret's rotation is configured to be, and where it stands.
#[derive(Clone, Debug, Default)]
pub struct Rotation {
    /// `None` until rotation is asked for: AWS then leaves `RotationEnabled` out.
    pub enabled: Option<bool>,
    /// The rotation function. It is kept when rotation is cancelled.
    pub function_arn: Option<String>,
    /// The schedule, as it was given.
    pub rules: Option<RotationRules>,
    /// When a rotation last succeeded.
    pub last: Option<SystemTime>,
    /// When the next one is due; in the past if it has failed, because only a success moves it.
    pub next: Option<SystemTime>,
    /// The version id of the rotation that has begun and that has not been reported as ended.
    pub(super) running: Option<String>,
}

impl Rotation {
    /// Plans the next rotation by the schedule, to the hour. Cron expressions are kept but not evaluated.
    pub(super) fn schedule_next(&mut self, now: SystemTime) {
        if self.enabled != Some(true) {
            return;
        }
        if let Some(interval) = self.rules.as_ref().and_then(RotationRules::interval) {
            let due = (now + interval).duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            self.next = Some(UNIX_EPOCH + Duration::from_secs_f64((due / 3600.0).round() * 3600.0));
        }
    }
}

/// `RotationRules`, as they were given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RotationRules {
    /// 1 to 1000; excludes a schedule expression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub automatically_after_days: Option<u32>,
    /// The length of the window in which the rotation may begin, like `3h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
    /// `rate(…)` or `cron(…)`, in UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule_expression: Option<String>,
}

impl RotationRules {
    /// The bounds of the API reference (`RotationRulesType`) and of the user guide's page on schedule expressions. The
    /// messages are ours: no recording of them was found.
    pub(super) fn check(&self) -> Result<(), Error> {
        let refuse = |message: &str| Err(Error::invalid_parameter(message));
        if self.automatically_after_days.is_some() && self.schedule_expression.is_some() {
            return refuse("You can't specify both AutomaticallyAfterDays and ScheduleExpression.");
        }
        if self.automatically_after_days.is_some_and(|days| !(1..=1000).contains(&days)) {
            return refuse("RotationRules.AutomaticallyAfterDays must be within 1-1000.");
        }
        if let Some(duration) = &self.duration
            && duration.strip_suffix('h').and_then(|hours| hours.parse::<u8>().ok()).is_none_or(|hours| hours > 99)
        {
            return refuse("RotationRules.Duration must be a number of hours, like 3h.");
        }
        let Some(expression) = &self.schedule_expression else { return Ok(()) };
        if let Some(fields) = expression.strip_prefix("cron(").and_then(|rest| rest.strip_suffix(')')) {
            let fields: Vec<_> = fields.split_whitespace().collect();
            if fields.len() != 6 || fields.first() != Some(&"0") || fields.last() != Some(&"*") {
                return refuse("A cron expression has six fields, of which the first is 0 and the last is *.");
            }
        } else if self.interval().is_none_or(|interval| interval < Duration::from_secs(4 * 3600)) {
            return refuse("A rate expression is rate(N hours) or rate(N days), at least four hours.");
        }
        Ok(())
    }

    /// The time between two rotations, where the rules are not a cron expression.
    fn interval(&self) -> Option<Duration> {
        const HOUR: u64 = 3600;
        if let Some(days) = self.automatically_after_days {
            return Some(Duration::from_secs(u64::from(days) * 24 * HOUR));
        }
        let rate = self.schedule_expression.as_deref()?.strip_prefix("rate(")?.strip_suffix(')')?;
        let (number, unit) = rate.split_once(' ')?;
        let seconds = match unit {
            "hour" | "hours" => HOUR,
            "day" | "days" => 24 * HOUR,
            _ => return None,
        };
        Some(Duration::from_secs(u64::from(number.parse::<u16>().ok()?) * seconds))
    }
}

/// A rotation that has begun: the function is to be called for it.
#[derive(Clone, PartialEq, Eq)]
pub struct RotationRequest {
    /// The secret's ARN, the event's `SecretId`.
    pub arn: String,
    /// The pending version's id, the event's `ClientRequestToken`.
    pub token: String,
    /// The function to call.
    pub function_arn: String,
    /// `RotateImmediately` was false: only `testSecret` is called.
    pub test_only: bool,
    /// The event's `RotationToken`.
    pub rotation_token: String,
}

impl fmt::Debug for RotationRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the rotation token: AWS marks it as sensitive.
        f.debug_struct("RotationRequest")
            .field("arn", &self.arn)
            .field("token", &self.token)
            .field("function_arn", &self.function_arn)
            .field("test_only", &self.test_only)
            .finish_non_exhaustive()
    }
}

/// How a rotation ended, all attempts included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotationOutcome {
    /// Every step that was called has succeeded.
    Succeeded,
    /// A step has failed, and it is not tried again.
    Failed,
}
