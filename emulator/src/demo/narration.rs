//! What happens, in words for a person who has never seen a rotation. Key values are shown by their last four characters.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::options::{Options, RotatedBy};
use super::promises::{self, Promise, Seen};
use super::words::{
    consequence, field, key_in_path, labels, life, purpose, redacted, short, shown_label, stages, what_was_done,
};
use super::world::{ACCOUNT, ADMIN_SECRET, ORG, SECRET, World, holder};
use crate::call::Call;
use crate::hook::Hook;
use crate::kosli::Key;
use crate::process::FunctionProcess;
use crate::rotation::{Event, STEPS};
use crate::runtime_api::{OnLine, Outcome};
use crate::secrets_manager::{AWSCURRENT, Version};

/// By how much the clock is moved before another attempt, while the person waits for nothing. A key that another
/// execution may be about to store is left alone until it is older than the function's time-out (90 s) and 15 s more: after
/// a kill, an attempt that came at once would have to wait for that.
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(120);

/// Tells what happens, and looks at the services after every call.
pub(super) struct Narrator {
    world: World,
    process: FunctionProcess,
    out: OnLine,
    seen: Mutex<Seen>,
    progress: Mutex<Progress>,
}

/// What the next line depends on.
struct Progress {
    step: &'static str,
    step_began: Instant,
    pending: String,
    labels: String,
}

impl Narrator {
    pub(super) fn new(world: &World, process: &FunctionProcess, out: OnLine) -> Self {
        Self {
            world: world.clone(),
            process: process.clone(),
            out,
            seen: Mutex::default(),
            progress: Mutex::new(Progress {
                step: "",
                step_began: Instant::now(),
                pending: String::new(),
                labels: labels(&world.versions()),
            }),
        }
    }

    pub(super) fn introduce(&self, options: &Options) {
        self.say("A Kosli API key is rotated, on this machine alone: made-up keys, no cloud, no account.");
        match options.rotated_by {
            RotatedBy::AdminKey => self.say(&format!(
                "The secret {SECRET} holds a key of the Kosli service account {ORG}/{ACCOUNT}. An admin key, in the secret \
                 {ADMIN_SECRET}, rotates it."
            )),
            RotatedBy::ItsOwnKey => self.say(&format!(
                "The secret {SECRET} holds a key of the Kosli service account {ORG}/{ACCOUNT}, which rotates itself. That account \
                 is an Admin here: Kosli probably asks for the role Admin, or for a key of the account's creator, and no \
                 account creates itself. A key of any other role needs an admin key to rotate it."
            )),
        }
        for rule in &options.faults {
            self.say(&format!("Something will go wrong: {rule}"));
        }
        self.heading("Before");
        self.show_world();
    }

    pub(super) fn tell_rotate_secret(&self, function_arn: &str) {
        self.heading("A person asks for a rotation");
        self.say(&format!(
            "  $ aws secretsmanager rotate-secret --secret-id {SECRET} --rotation-lambda-arn {function_arn}"
        ));
    }

    pub(super) fn tell_begin(&self, token: &str) {
        token.clone_into(&mut self.progress().pending);
        self.say(&format!(
            "Secrets Manager makes an empty version {}, puts the label AWSPENDING on it, and calls the function for each of \
             four steps.",
            short(token)
        ));
        self.tell_labels();
    }

    /// One event of the rotation.
    pub(super) fn tell_event(&self, event: &Event) {
        match event {
            Event::AttemptBegan(attempt) => {
                if *attempt > 1 {
                    self.world.emulator.clock().advance(BETWEEN_ATTEMPTS);
                    self.say(&format!(
                        "\nSecrets Manager tries the whole rotation again (attempt {attempt}). On AWS that is minutes later; here \
                         the clock of both services is moved by {} minutes instead.",
                        BETWEEN_ATTEMPTS.as_secs() / 60
                    ));
                }
                let calls = self.world.emulator.calls().len();
                self.seen().attempts_began_after.push(calls);
            }
            Event::StepBegan(step) => {
                {
                    let mut progress = self.progress();
                    (progress.step, progress.step_began) = (step, Instant::now());
                }
                let number = STEPS.iter().position(|known| known == step).map_or(0, |index| index + 1);
                self.heading(&format!("{number}/{} {step}: {}", STEPS.len(), purpose(step)));
            }
            Event::StepSucceeded(_, answer) => {
                self.seen().answers.push(answer.to_string());
                self.say(&format!("  Done in {}: {}.", self.step_time(), what_was_done(answer)));
                for warning in answer["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                    self.say(&format!("  Warning: {warning}"));
                }
                self.tell_labels();
            }
            Event::StepFailed(_, error) => {
                self.seen().answers.push(error.to_string());
                self.say(&format!("  Failed after {}: {error}", self.step_time()));
            }
            Event::Succeeded => {
                self.say("\nAll four steps have succeeded: Secrets Manager takes AWSPENDING off.");
                self.tell_labels();
            }
            Event::GivenUp => self.say("\nThe rotation has failed for good. The next rotate-secret tries it again."),
            Event::Abandoned => self.say("\nThe rotation is not wanted any more."),
        }
        self.look(None);
    }

    pub(super) fn tell_check(&self, event: &Value) {
        self.heading("Is the secret healthy? The function reports, and changes nothing");
        self.say(&format!("  The event is {event}. It answers:"));
    }

    /// The report, or the error that came instead of it.
    pub(super) fn tell_report(&self, report: &Outcome) {
        let report = match report {
            Ok(report) => report,
            Err(error) => {
                self.seen().answers.push(error.to_string());
                return self.say(&format!("  Failed: {error}"));
            }
        };
        self.seen().answers.push(report.to_string());
        for check in report["checks"].as_array().into_iter().flatten() {
            let verdict = if check["ok"] == true { "ok    " } else { "NOT OK" };
            let text = |name: &str| check[name].as_str().unwrap_or_default();
            self.say(&format!("  {verdict}  {:<12}  {}", text("name"), text("detail")));
        }
        let verdict = if report["healthy"] == true { "healthy" } else { "NOT healthy" };
        self.say(&format!("  The secret is {verdict}."));
    }

    /// Shows what has become of everything, and whether the promises held.
    pub(super) fn conclude(&self, output: &[String], succeeded: bool) -> Vec<Promise> {
        self.heading("After");
        self.show_world();
        let promises = promises::check(&self.world, &self.seen(), output, succeeded);
        self.heading("The promises");
        for promise in &promises {
            let verdict = if promise.held { "held  " } else { "BROKEN" };
            self.say(&format!("  {verdict}  {}: {}", promise.name, promise.evidence));
        }
        promises
    }

    fn say(&self, line: &str) {
        (self.out)(line);
        self.seen().told.push(line.to_owned());
    }

    fn heading(&self, text: &str) {
        self.say(&format!("\n{text}"));
    }

    fn step_time(&self) -> String {
        let time = self.progress().step_began.elapsed();
        if time < Duration::from_secs(1) {
            format!("{} ms", time.as_millis())
        } else {
            format!("{:.1} s", time.as_secs_f64())
        }
    }

    /// Promise I1, at this instant.
    fn look(&self, call: Option<&Call>) {
        let works = self.world.readers_get_a_working_key();
        let mut seen = self.seen();
        seen.looks += 1;
        if !works {
            seen.outages.push(
                call.map_or_else(|| "between two calls".to_owned(), |call| format!("after call #{}", call.number)),
            );
        }
    }

    fn tell_labels(&self) {
        let now = labels(&self.world.versions());
        let changed = now != self.progress().labels;
        if changed {
            self.say(&format!("  Labels now: {now}"));
            self.progress().labels = now;
        }
    }

    fn show_world(&self) {
        let versions = self.world.versions();
        let keys = self.world.keys();
        self.say(&format!("  Secrets Manager, secret {SECRET}:"));
        for version in versions.iter().filter(|version| !version.stages.is_empty()) {
            let value = version.text().map_or_else(|| "no value".to_owned(), |value| redacted(value, &keys));
            self.say(&format!("    version {}  {:<28}  {value}", short(&version.id), stages(version)));
        }
        let now = self.world.emulator.clock().now();
        self.say("  Kosli:");
        for key in &keys {
            let account = format!("{}/{}", key.org, key.account);
            self.say(&format!(
                "    key {}  {account:<17}  {}; {}",
                short(&key.id),
                self.whose(key, &versions),
                life(key, now)
            ));
        }
    }

    fn whose(&self, key: &Key, versions: &[Version]) -> String {
        match holder(key, versions) {
            _ if key.id == self.world.strangers_key => "a stranger's, with the same description".to_owned(),
            _ if Some(&key.id) == self.world.admin_key.as_ref() => "the admin key".to_owned(),
            Some(version) => format!("in version {}", short(&version.id)),
            None => "its value was lost".to_owned(),
        }
    }

    /// What a key is to the rotation.
    fn named(&self, id: &str) -> &'static str {
        let world = &self.world;
        let versions = world.versions();
        let keys = world.keys();
        let held_by = keys.iter().find(|key| key.id == id).and_then(|key| holder(key, &versions));
        match held_by {
            _ if id == world.strangers_key => "the stranger's key",
            _ if Some(id) == world.admin_key.as_deref() => "the admin key",
            Some(version) if id == world.own_key && version.stages.contains(AWSCURRENT) => "the current key",
            Some(_) if id == world.own_key => "the old key",
            Some(_) => "the new key",
            None => "the lost key",
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hook for Narrator {
    fn after(&self, call: &Call) {
        if call.tag == "function" {
            let service = call.service.to_string();
            let object = self.object(call);
            let request = format!("{} {object}", call.operation);
            let purpose = self.purpose_of(call, &object);
            self.say(&format!("  {service:<15}  {request:<35}  {purpose:<43}  {}", self.answered(call)));
            if let Some(fault) = &call.fault {
                self.say(&format!("  {:<15}  {fault}: {}", "  ** fault **", consequence(fault, call)));
            }
        }
        self.look(Some(call));
    }

    fn kill(&self, call: &Call) {
        if call.tag == "function" {
            self.process.kill();
        }
    }
}

/// Calls in words.
impl Narrator {
    /// What a call is about: a label, a version, a key, an account.
    fn object(&self, call: &Call) -> String {
        match call.operation.as_str() {
            "GetSecretValue" if field(call, "SecretId").starts_with(ADMIN_SECRET) => "admin secret".to_owned(),
            "GetSecretValue" if field(call, "VersionId") == self.progress().pending => "pending version".to_owned(),
            "GetSecretValue" if field(call, "VersionStage").is_empty() => {
                format!("version {}", short(field(call, "VersionId")))
            }
            "GetSecretValue" | "UpdateSecretVersionStage" => shown_label(field(call, "VersionStage")),
            "PutSecretValue" => field(call, "VersionStages").split(',').map(shown_label).collect::<Vec<_>>().join("+"),
            "verify" => call.key_id.as_deref().map(short).unwrap_or_default(),
            "list" | "create" => format!("{ORG}/{ACCOUNT}"),
            "get" | "rotate" | "revoke" => short(key_in_path(call)),
            _ => String::new(),
        }
    }

    /// What the function wants to know or to do.
    fn purpose_of(&self, call: &Call, object: &str) -> String {
        let looks_for_new_key = self.progress().step == STEPS[0];
        let named = |id: &str| self.named(id);
        match (call.operation.as_str(), object) {
            ("DescribeSecret", _) => "which labels and tags are there?".to_owned(),
            ("GetSecretValue", "admin secret") => "what is the admin key?".to_owned(),
            ("GetSecretValue", "pending version") if looks_for_new_key => "is there a new key already?".to_owned(),
            ("GetSecretValue", "pending version") => "what is the new key?".to_owned(),
            ("GetSecretValue", "AWSCURRENT") => "which key is in use?".to_owned(),
            ("GetSecretValue", "AWSPREVIOUS") => "which key was in use before?".to_owned(),
            ("GetSecretValue", _) => "which key does it hold?".to_owned(),
            ("PutSecretValue", _) => "keep the new key".to_owned(),
            ("UpdateSecretVersionStage", "AWSCURRENT") => "readers get the new key from now on".to_owned(),
            ("UpdateSecretVersionStage", _) => "this label is not needed any more".to_owned(),
            ("verify", _) => format!("does {} work?", call.key_id.as_deref().map_or("this key", named)),
            ("list", _) => "which keys does the account have?".to_owned(),
            ("get", _) => "is this key on the account?".to_owned(),
            ("create", _) => "a NEW KEY".to_owned(),
            ("rotate", _) => {
                let hours = field(call, "grace_period_hours");
                format!("a NEW KEY; {} lives {hours} h more", named(key_in_path(call)))
            }
            ("revoke", _) => format!("end {}, now", named(key_in_path(call))),
            _ => String::new(),
        }
    }

    fn answered(&self, call: &Call) -> String {
        let Some(status) = call.status else { return "no answer".to_owned() };
        match (call.operation.as_str(), status) {
            ("GetSecretValue", 400) if call.outcome == "ResourceNotFoundException" => "there is none".to_owned(),
            ("verify", 200..300) => "yes".to_owned(),
            ("verify", 401) => "no".to_owned(),
            ("rotate" | "create", 200..300) => {
                format!("{status}: key {}", short(call.outcome.trim_start_matches("id=")))
            }
            (_, 200..300) => "done".to_owned(),
            _ => format!("{status} {}", call.outcome).trim_end().to_owned(),
        }
    }
}
