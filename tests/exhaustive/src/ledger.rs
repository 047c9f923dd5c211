//! Who holds which key, since when nobody does, and what was said since.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use emulator::Emulator;
use emulator::kosli::{Key, MintedBy};
use emulator::runtime_api::Outcome;
use serde_json::Value;
use testbed::{ACCOUNT, HOUR, key_in};

/// Keeps the books of a case.
pub struct Ledger {
    emulator: Emulator,
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    /// Values of keys that were under `AWSCURRENT` of a secret.
    current_once: BTreeSet<String>,
    /// Values of live keys that no labelled version holds, and how much had been said before.
    unheld_since: BTreeMap<String, usize>,
    /// What answers and errors have said to the operator, in words.
    said: Vec<String>,
    /// Keys that are somebody else's, or that a person has replaced by hand: values.
    not_ours: BTreeSet<String>,
}

impl Ledger {
    /// Empty books.
    pub fn new(emulator: &Emulator) -> Self {
        Self { emulator: emulator.clone(), books: Mutex::default() }
    }

    /// Looks who holds what.
    pub fn observe(&self) {
        let (held, current) = self.held();
        let now = self.emulator.clock().now();
        let live: Vec<String> = self
            .emulator
            .with_kosli(|kosli| kosli.keys().filter(|key| key.is_live_at(now)).map(|key| key.value.clone()).collect());
        let mut books = self.books.lock().unwrap();
        books.current_once.extend(current);
        let said = books.said.len();
        for value in live {
            if held.contains(&value) {
                books.unheld_since.remove(&value);
            } else {
                books.unheld_since.entry(value).or_insert(said);
            }
        }
    }

    /// The values that labelled versions hold, of any secret, and those under `AWSCURRENT`. A label that only says which id a key has is
    /// none of these labels.
    fn held(&self) -> (BTreeSet<String>, Vec<String>) {
        self.emulator.with_secrets_manager(|service| {
            let held = service
                .secrets()
                .flat_map(|secret| secret.versions.iter())
                .filter(|version| version.stages.iter().any(|label| !label.starts_with("kosli-key-id:")))
                .filter_map(|version| key_in(version.text()?))
                .collect();
            let current =
                service.secrets().filter_map(|secret| key_in(secret.versions.labelled("AWSCURRENT")?.text()?));
            (held, current.collect())
        })
    }

    /// Notes what an invocation came to. What only names the keys that a step was about says nothing of what stays behind.
    pub fn note(&self, outcome: &Outcome) {
        let words = match outcome {
            Ok(Value::Object(answer)) => {
                let mut answer = answer.clone();
                answer.remove("key_id");
                answer.remove("replaced_key_id");
                Value::Object(answer).to_string()
            }
            Ok(other) => other.to_string(),
            Err(error) if error.error_type.starts_with("Runtime.") => String::new(),
            Err(error) => error.to_string(),
        };
        self.books.lock().unwrap().said.push(words);
    }

    /// How much has been said.
    pub fn said(&self) -> usize {
        self.books.lock().unwrap().said.len()
    }

    /// Whether something was said since that has all of these words in it.
    pub fn was_said(&self, since: usize, words: &[&str]) -> bool {
        let books = self.books.lock().unwrap();
        books.said[since..].iter().any(|said| words.iter().all(|word| said.contains(word)))
    }

    /// This key is none that a rotation has to account for.
    pub fn not_ours(&self, value: String) {
        self.books.lock().unwrap().not_ours.insert(value);
    }

    /// Keys that live although no version holds them, that nobody ends, and that nobody was told of (promise I3), but for those that
    /// are forgiven.
    pub fn unaccounted(&self, is_forgiven: impl Fn(&Key) -> bool) -> Vec<String> {
        self.observe();
        let now = self.emulator.clock().now();
        let keys: Vec<Key> = self.emulator.with_kosli(|kosli| kosli.keys().cloned().collect());
        let books = self.books.lock().unwrap();
        let live = keys.iter().filter(|key| key.account == ACCOUNT && key.is_live_at(now));
        live.filter_map(|key| {
            let since = *books.unheld_since.get(&key.value)?;
            let ours = key.minted_by != MintedBy::SetUp || books.current_once.contains(&key.value);
            let was_current = books.current_once.contains(&key.value);
            // An old key ends with its grace period; one that nobody has ever used, within the shortest.
            let ends = key.rotated_at.is_some() && (was_current || key.dies_at().is_some_and(|at| at <= now + HOUR));
            let named = books.said[since..].iter().any(|said| said.contains(&key.id));
            let fault = ours && !ends && !named && !books.not_ours.contains(&key.value) && !is_forgiven(key);
            let past = if was_current { "was current" } else { "was never current" };
            let used = if key.used_at.is_empty() { "never used" } else { "used" };
            fault.then(|| {
                format!("I3: the key {} lives, and nobody holds it or was told ({past}, {used}): {key:?}", key.id)
            })
        })
        .collect()
    }
}
