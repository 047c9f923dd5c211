//! What has happened in a world, told: every step with the calls that it made.

use std::fmt::Write as _;
use std::time::UNIX_EPOCH;

use emulator::Call;
use emulator::kosli::{Key, MintedBy};

use crate::clock::start;
use crate::values::{SECRET, token};
use crate::world::World;

/// A line of the story, in its place.
pub(crate) enum Told {
    /// Something was said: a step began or ended, a person did something.
    Said(String),
    /// The call with this number was handled.
    Called(usize),
}

impl World {
    /// Puts a line into the story.
    pub fn say(&self, line: impl Into<String>) {
        let line = line.into();
        self.history.borrow_mut().push(line.clone());
        self.probe.told.lock().unwrap().push(Told::Said(line));
    }

    /// All that a person needs to see what went wrong: steps and calls as they happened, and then all keys.
    pub fn story(&self) -> String {
        let mut story = String::new();
        let calls = self.emulator.calls();
        let told = self.probe.told.lock().unwrap();
        let mut untold: Vec<&Call> = calls.iter().collect();
        for line in told.iter() {
            match line {
                Told::Said(line) => writeln!(story, "  {line}").unwrap(),
                Told::Called(number) => {
                    untold.retain(|call| call.number != *number);
                    let call = &calls[number - 1];
                    writeln!(story, "    {} {call}", call.tag).unwrap();
                }
            }
        }
        for call in untold {
            writeln!(story, "    {} {call} (it was never answered)", call.tag).unwrap();
        }
        for key in self.emulator.with_kosli(|kosli| kosli.keys().cloned().collect::<Vec<_>>()) {
            writeln!(story, "  {key:?}").unwrap();
        }
        story
    }

    /// The same for a reader, and the same in every run: names for ids, and calls that are made side by side in alphabetical order.
    pub fn trace(&self) -> String {
        let calls = self.emulator.calls();
        let names = self.names();
        let named = |text: &str| names.iter().fold(text.to_owned(), |text, (id, name)| text.replace(id, name));
        let mut lines: Vec<(Option<(bool, String)>, String)> = Vec::new();
        for line in self.probe.told.lock().unwrap().iter() {
            match line {
                Told::Said(line) => lines.push((None, named(&readable(line)))),
                Told::Called(number) => {
                    let call = &calls[number - 1];
                    let reads = call.operation.starts_with("Get")
                        || ["DescribeSecret", "list", "get", "verify"].contains(&call.operation.as_str());
                    let beside = reads.then(|| (call.service == emulator::Service::Kosli, call.tag.clone()));
                    lines.push((beside, format!("    {}", named(&told(call)))));
                }
            }
        }
        // Reads of one service in one go are made side by side.
        let mut begin = 0;
        for end in 1..=lines.len() {
            if end == lines.len() || lines[end].0.is_none() || lines[end].0 != lines[begin].0 {
                if lines[begin].0.is_some() {
                    lines[begin..end].sort();
                }
                begin = end;
            }
        }
        let mut trace: String = lines.into_iter().map(|(_, line)| line + "\n").collect();
        trace += "\nIn the end:\n";
        for label in ["AWSCURRENT", "AWSPENDING", "AWSPREVIOUS"] {
            if let Some(key) = self.key(label) {
                writeln!(trace, "{label} holds {}", named(&key.id)).unwrap();
            }
        }
        let now = self.emulator.clock().now();
        for key in self.emulator.with_kosli(|kosli| kosli.keys().cloned().collect::<Vec<_>>()) {
            if !names.iter().any(|(id, name)| *id == key.id && name.starts_with("stranger")) {
                writeln!(trace, "{} {}", named(&key.id), named(&fate(&key, now))).unwrap();
            }
        }
        trace
    }

    /// What to call the ids that are made up anew in every world.
    fn names(&self) -> Vec<(String, String)> {
        let end = |arn: &str| arn.split_once(":secret:").map(|(_, end)| end.to_owned());
        let mut names = vec![(self.arn.clone(), "SECRET-ARN".to_owned())];
        names.extend(end(&self.arn).map(|end| (end, SECRET.to_owned())));
        let (mut minted, mut strangers) = (0, 0);
        for key in self.emulator.with_kosli(|kosli| kosli.keys().cloned().collect::<Vec<_>>()) {
            let name = if key.id == self.first_key {
                "first-key".to_owned()
            } else if key.minted_by != MintedBy::SetUp {
                minted += 1;
                format!("new-key-{minted}")
            } else if key.account == "platform" {
                "admin-key".to_owned()
            } else {
                strangers += 1;
                format!("stranger-{strangers}")
            };
            names.push((key.id, name));
        }
        let versions = ["first", "second", "third", "admin"];
        names.extend(versions.map(|version| (token(version, 0), format!("version-{version}"))));
        names
    }
}

/// One call as a line.
fn told(call: &Call) -> String {
    let by = if call.tag == "a" { String::new() } else { format!("[{}] ", call.tag) };
    // The expiry carries bits that are drawn, and those of the mark.
    let mut words: Vec<String> = call.detail.split(' ').map(str::to_owned).collect();
    for word in &mut words {
        if word.starts_with("expires_at=") {
            *word = "expires_at=(marked)".to_owned();
        }
    }
    let mut line = format!("{by}{} {}", call.operation, words.join(" "));
    if let Some(key) = &call.key_id {
        write!(line, " with {key}").unwrap();
    }
    match (call.status, call.effect) {
        (Some(status), _) => write!(line, " -> {status}").unwrap(),
        (None, Some(_)) => line += " -> done, and no answer",
        (None, None) => line += " -> no answer",
    }
    if !call.outcome.is_empty() {
        write!(line, " {}", call.outcome).unwrap();
    }
    if let Some(fault) = &call.fault {
        write!(line, " [{fault}]").unwrap();
    }
    line
}

/// A step's answer or error, without what a refusal echoes: a signature is another in every run.
fn readable(line: &str) -> String {
    match line.split_once(" AWS4-HMAC-SHA256") {
        Some((head, _)) => format!("{head} …"),
        None => line.to_owned(),
    }
}

/// What has become of a key.
fn fate(key: &Key, now: std::time::SystemTime) -> String {
    let since = |time: std::time::SystemTime| {
        let seconds =
            time.duration_since(start()).or_else(|_| time.duration_since(UNIX_EPOCH)).unwrap_or_default().as_secs();
        format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60)
    };
    if key.revoked_at.is_some() {
        return "is revoked".to_owned();
    }
    let dies = match key.grace_ends_at {
        Some(end) => format!(", in its grace period, which ends at {}", since(end)),
        None => String::new(),
    };
    format!("{}{dies}", if key.is_live_at(now) { "lives" } else { "is dead" })
}
