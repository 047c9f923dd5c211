//! CloudWatch metrics in the embedded metric format: one line on standard output for each invocation.
//!
//! Namespace [`NAMESPACE`]; every set of dimensions has `FunctionName`, so that two stacks do not mix. No dimension names a
//! secret, a key or a request: those are in the log.
//!
//! | metric | unit | further dimensions | counts |
//! |---|---|---|---|
//! | `StepSucceeded` | Count | `Step` | steps that succeeded |
//! | `StepFailed` | Count | none; `Step` and `ErrorType` | steps that failed |
//! | `StepDuration` | Milliseconds | `Step` | how long a step took |
//! | `Calls` | Count | `Step` | calls to Secrets Manager and Kosli, repeated ones included |
//! | `KeysMinted` | Count | none | keys whose value was stored |
//! | `KeysRecovered` | Count | none | of those, the ones that replace a lost key |
//! | `KeysRevoked` | Count | none | keys that this function revoked |
//! | `SuspectedOrphans` | Count | none | keys that may be lost ones and were left alone |
//! | `MarkerChanged` | Count | none | new keys whose expiry Kosli changed |
//! | `OldKeyAlive` | Count | none | old keys that are not proven dead after their revocation |
//! | `EditOverwritten` | Count | none | promotions over a field that a person edited meanwhile |
//! | `SecretsChecked` | Count | none | secrets in a `checkSecret` report on all of them: if this metric stays away, no check is made |
//! | `CheckUnhealthy` | Count | none | of those, the unhealthy ones, and those for which no time was left |
//! | `DaysToCurrentKeyExpiry` | None | none | until the first of their current keys dies, of its expiry or of a rotation |
//! | `DaysToAdminKeyExpiry` | None | none | the same for the admin key |
//!
//! Source: <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::clock::rfc3339;

/// The namespace in CloudWatch.
pub const NAMESPACE: &str = "KosliKeyRotation";

/// Where the lines go, and what is on all of them.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// The function's name, the dimension of every metric.
    pub function_name: String,
    /// Lambda drops JSON lines below the configured log level, and takes those without a level for INFO. Metrics must survive
    /// that, so their lines carry the level that is configured.
    /// Source: <https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs-log-level.html>
    pub level: String,
    /// Writes one line.
    pub write: fn(&str),
}

/// What one invocation has done, counted where it is done.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) minted: Cell<u32>,
    pub(crate) recovered: Cell<u32>,
    pub(crate) revoked: Cell<u32>,
    pub(crate) suspected_orphans: Cell<u32>,
    pub(crate) marker_changed: Cell<u32>,
    pub(crate) old_key_alive: Cell<u32>,
    pub(crate) edit_overwritten: Cell<u32>,
}

/// Counts one more.
pub(crate) fn count(counter: &Cell<u32>) {
    counter.set(counter.get() + 1);
}

impl Metrics {
    /// Writes the metrics of a step. `error_type`: it failed.
    pub(crate) fn step(
        &self,
        now: SystemTime,
        step: &'static str,
        error_type: Option<&'static str>,
        took: Duration,
        calls: usize,
        tally: &Tally,
    ) {
        let mut line = Line::new(self);
        line.property("Step", step);
        line.metric("StepDuration", "Milliseconds", u64::try_from(took.as_millis()).unwrap_or(u64::MAX).into());
        line.metric("Calls", "Count", calls.into());
        match error_type {
            None => line.metric("StepSucceeded", "Count", 1.into()),
            Some(error_type) => {
                line.property("ErrorType", error_type);
                line.metric("StepFailed", "Count", 1.into());
            }
        }
        line.directive(
            &[&["Step"]],
            if error_type.is_none() { &["StepSucceeded", "StepDuration", "Calls"] } else { &["StepDuration", "Calls"] },
        );
        if error_type.is_some() {
            line.directive(&[&[], &["Step", "ErrorType"]], &["StepFailed"]);
        }
        let counters = [
            ("KeysMinted", &tally.minted),
            ("KeysRecovered", &tally.recovered),
            ("KeysRevoked", &tally.revoked),
            ("SuspectedOrphans", &tally.suspected_orphans),
            ("MarkerChanged", &tally.marker_changed),
            ("OldKeyAlive", &tally.old_key_alive),
            ("EditOverwritten", &tally.edit_overwritten),
        ];
        for (name, counter) in counters {
            line.metric(name, "Count", counter.get().into());
        }
        line.directive(&[&[]], &counters.map(|(name, _)| name));
        (self.write)(&line.finish(now));
    }

    /// Writes the metrics of a `checkSecret` report on all secrets.
    pub(crate) fn check(
        &self,
        now: SystemTime,
        checked: usize,
        unhealthy: usize,
        days: Option<f64>,
        admin_days: Option<f64>,
    ) {
        let mut line = Line::new(self);
        let mut names = vec!["SecretsChecked", "CheckUnhealthy"];
        line.metric("SecretsChecked", "Count", checked.into());
        line.metric("CheckUnhealthy", "Count", unhealthy.into());
        for (name, days) in [("DaysToCurrentKeyExpiry", days), ("DaysToAdminKeyExpiry", admin_days)] {
            if let Some(days) = days {
                line.metric(name, "None", days.into());
                names.push(name);
            }
        }
        line.directive(&[&[]], &names);
        (self.write)(&line.finish(now));
    }
}

/// One line in the making.
struct Line {
    members: Map<String, Value>,
    units: Map<String, Value>,
    directives: Vec<Value>,
}

impl Line {
    fn new(metrics: &Metrics) -> Self {
        let mut line = Self { members: Map::new(), units: Map::new(), directives: Vec::new() };
        line.property("level", &metrics.level);
        line.property("FunctionName", &metrics.function_name);
        line
    }

    fn property(&mut self, name: &str, value: &str) {
        self.members.insert(name.to_owned(), value.into());
    }

    fn metric(&mut self, name: &'static str, unit: &'static str, value: Value) {
        self.units.insert(name.to_owned(), unit.into());
        self.members.insert(name.to_owned(), value);
    }

    /// Publishes metrics under each set of dimensions, `FunctionName` being in all of them.
    fn directive(&mut self, dimensions: &[&[&str]], metrics: &[&str]) {
        let dimensions: Vec<Vec<&str>> =
            dimensions.iter().map(|set| std::iter::once("FunctionName").chain(set.iter().copied()).collect()).collect();
        let metrics: Vec<Value> =
            metrics.iter().map(|name| json!({"Name": name, "Unit": self.units.get(*name)})).collect();
        self.directives.push(json!({"Namespace": NAMESPACE, "Dimensions": dimensions, "Metrics": metrics}));
    }

    fn finish(mut self, now: SystemTime) -> String {
        let milliseconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        self.members.insert("timestamp".to_owned(), rfc3339(now).into());
        let milliseconds = u64::try_from(milliseconds).unwrap_or(u64::MAX);
        self.members
            .insert("_aws".to_owned(), json!({"Timestamp": milliseconds, "CloudWatchMetrics": self.directives}));
        Value::Object(self.members).to_string()
    }
}
