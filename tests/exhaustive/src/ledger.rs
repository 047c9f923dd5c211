//! Who holds which key, since when nobody does, and what was said since.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::SystemTime;

use emulator::Emulator;
use emulator::kosli::{Key, MintedBy};
use emulator::runtime_api::Outcome;
use emulator::secrets_manager::{Secret, Version};
use kosli_key_rotation::marker::Mark;
use serde_json::Value;
use testbed::{ACCOUNT, HOUR, key_in, version_id};

use crate::course::expiry;
use crate::excused;

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
    /// Versions without a label, by secret and id, and how much had been said before they lost the last.
    unlabelled_since: BTreeMap<(String, String), usize>,
    /// What answers and errors have said to the operator, in words.
    said: Vec<String>,
    /// When.
    said_at: Vec<SystemTime>,
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
        let (held, current) = (self.held(), self.current());
        let now = self.emulator.clock().now();
        let live: Vec<String> = self
            .emulator
            .with_kosli(|kosli| kosli.keys().filter(|key| key.is_live_at(now)).map(|key| key.value.clone()).collect());
        let mut books = self.books.lock().unwrap();
        books.current_once.extend(current);
        let said = books.said.len();
        for (version, is_labelled) in self.versions() {
            if is_labelled {
                books.unlabelled_since.remove(&version);
            } else {
                books.unlabelled_since.entry(version).or_insert(said);
            }
        }
        for value in live {
            if held.contains(&value) {
                books.unheld_since.remove(&value);
            } else {
                books.unheld_since.entry(value).or_insert(said);
            }
        }
    }

    /// The values that labelled versions hold, of any secret.
    pub fn held(&self) -> BTreeSet<String> {
        self.emulator.with_secrets_manager(|service| {
            let versions = service.secrets().flat_map(|secret| secret.versions.iter());
            versions.filter(|version| is_labelled(version)).filter_map(|version| key_in(version.text()?)).collect()
        })
    }

    /// Every version by secret and id, and whether it is labelled.
    fn versions(&self) -> Vec<((String, String), bool)> {
        self.emulator.with_secrets_manager(|service| {
            let of_secret = |secret: &Secret| -> Vec<_> {
                let versions = secret.versions.iter();
                versions.map(|version| ((secret.arn.clone(), version.id.clone()), is_labelled(version))).collect()
            };
            service.secrets().flat_map(of_secret).collect()
        })
    }

    /// Every version that holds a key, by secret and id.
    fn holders(&self, key: &Key) -> Vec<(String, String)> {
        self.emulator.with_secrets_manager(|service| {
            let of_secret = |secret: &Secret| -> Vec<_> {
                let holds = |version: &&Version| version.text().and_then(key_in).as_ref() == Some(&key.value);
                secret.versions.iter().filter(holds).map(|version| (secret.arn.clone(), version.id.clone())).collect()
            };
            service.secrets().flat_map(of_secret).collect()
        })
    }

    fn current(&self) -> Vec<String> {
        self.emulator.with_secrets_manager(|service| {
            service.secrets().filter_map(|secret| key_in(secret.versions.labelled("AWSCURRENT")?.text()?)).collect()
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
        let mut books = self.books.lock().unwrap();
        books.said.push(words);
        books.said_at.push(self.emulator.clock().now());
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
        let elsewhere: Vec<String> =
            keys.iter().filter(|key| key.account != ACCOUNT).map(|key| format!("\"key_id\":\"{}\"", key.id)).collect();
        let live = keys.iter().filter(|key| key.account == ACCOUNT && key.is_live_at(now));
        live.filter_map(|key| {
            let since = *books.unheld_since.get(&key.value)?;
            let ours = key.minted_by != MintedBy::SetUp || books.current_once.contains(&key.value);
            let was_current = books.current_once.contains(&key.value);
            // An old key ends with its grace period; one that nobody has ever used, within the shortest.
            let ends = key.rotated_at.is_some() && (was_current || key.dies_at().is_some_and(|at| at <= now + HOUR));
            let named = books.said[since..].iter().any(|said| said.contains(&key.id))
                || self.holders(key).iter().any(|holder| books.has_named(key, holder));
            let fault = ours && !ends && !named && !books.not_ours.contains(&key.value) && !is_forgiven(key);
            let fault = fault && !excused::mark_is_gone(books.lost_its_mark(key, since, &elsewhere));
            let past = if was_current { "was current" } else { "was never current" };
            let used = if key.used_at.is_empty() { "never used" } else { "used" };
            fault.then(|| {
                format!("I3: the key {} lives, and nobody holds it or was told ({past}, {used}): {key:?}", key.id)
            })
        })
        .collect()
    }
}

impl Books {
    /// Whether it was said before of a version's key that nothing ends it: when a new one was created beside it; or when it was replaced,
    /// by its version, for nothing tells its id.
    fn has_named(&self, key: &Key, (arn, version): &(String, String)) -> bool {
        self.said.iter().filter(|said| said.contains(arn)).any(|said| {
            let lives_on = ["Nothing ends the old one", "Kosli still accepts the old key"];
            (lives_on.into_iter().any(|words| said.contains(words)) && said.contains(&key.id))
                || (["put another key in", "was not revoked"].iter().any(|words| said.contains(words))
                    && said.contains(version))
                || said.contains("nothing says which id it has")
        })
    }

    /// Whether the version that this key was to replace has lost its last label before there was a sweep or a report, since nobody holds
    /// the key.
    fn lost_its_mark(&self, key: &Key, unheld: usize, elsewhere: &[String]) -> bool {
        let is_of = |(arn, version): &(String, String)| {
            expiry(key).is_some_and(|end| Mark::of(arn, &version_id(version)).attempt_in(end).is_some())
        };
        let gone = self.unlabelled_since.iter().find(|(version, _)| is_of(version));
        gone.is_some_and(|((arn, _), gone)| {
            // A sweep of another account, which a person has named meanwhile, has the new key there, or says that it has not found it.
            let is_elsewhere = |said: &String| {
                said.contains("does not find the new key") || elsewhere.iter().any(|other| said.contains(other))
            };
            let looks = |said: &String, what: &str| said.contains(arn) && said.contains(what) && !is_elsewhere(said);
            // A report passes over what is younger than an hour: a rotation may be at work.
            let is_old = |number: usize| self.said_at[number] > key.created_at + HOUR;
            let was_looked_for = (unheld..*gone).any(|number| {
                let said = &self.said[number];
                looks(said, "\"promoted\"") || (looks(said, "\"checks\"") && is_old(number))
            });
            // The promotion that takes the label off sees it before, and says so afterwards.
            let by_promotion = unheld <= *gone && self.said.get(*gone).is_some_and(|said| looks(said, "\"promoted\""));
            !was_looked_for && !by_promotion
        })
    }
}

/// A label that only says which id a key has is none.
pub(crate) fn is_labelled(version: &Version) -> bool {
    version.stages.iter().any(|label| !label.starts_with("kosli-key-id:"))
}
