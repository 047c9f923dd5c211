//! The promises, judged by what was seen so far. A person at the page revokes keys and moves the clock: what that brings about breaks no
//! promise of the function's, and is called open.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::words::key_in_path;
use crate::call::Call;
use crate::faults::Fault;
use crate::kosli::{Key, MintedBy};
use crate::rotation::Event;
use crate::secrets_manager::{AWSCURRENT, AWSPENDING, Version};

/// Kosli's shortest grace period: the longest that a left-over key may live.
const SHORTEST_GRACE: Duration = Duration::from_secs(60 * 60);

/// What was seen since the page began to look.
#[derive(Default)]
pub(super) struct Seen {
    /// The step that runs.
    pub(super) step: &'static str,
    /// The version that the rotation is about.
    pub(super) pending: String,
    /// The step, and the version, that a call belongs to.
    pub(super) steps: BTreeMap<usize, (&'static str, String)>,
    /// The version that a key was minted to replace.
    pub(super) replaces: BTreeMap<String, String>,
    /// What happened besides calls: how many calls had been made by then, and the words.
    pub(super) told: Vec<(usize, String)>,
    /// How often the key under `AWSCURRENT` was looked at, and what was wrong with it.
    pub(super) looks: usize,
    pub(super) outages: Vec<String>,
    /// How the last rotation stands: `None` while it runs.
    pub(super) ended: Option<Event>,
    /// How often a rotation was tried again.
    pub(super) repeated: usize,
    /// Labels that were out of order when a rotation had succeeded.
    pub(super) disorder: Vec<String>,
    /// The failures of steps: the `errorType`s.
    pub(super) failures: Vec<String>,
    /// Answers of the function that hold a key's value.
    pub(super) leaks: usize,
}

/// One promise, and what became of it.
pub(super) struct Promise {
    pub(super) name: &'static str,
    /// `held`, `broken`, or `open`: it cannot be said yet, or a person's doing.
    pub(super) verdict: &'static str,
    pub(super) evidence: String,
}

/// The two services as they are now.
pub(super) struct World {
    pub(super) now: SystemTime,
    pub(super) calls: Vec<Call>,
    pub(super) versions: Vec<Version>,
    pub(super) keys: Vec<Key>,
    /// Lines of the function's log that hold a key's value, and all lines.
    pub(super) leaked_lines: usize,
    pub(super) lines: usize,
}

impl World {
    /// The version, labelled or not, whose value this key is in.
    pub(super) fn holder(&self, key: &Key) -> Option<&Version> {
        let holds = |version: &&Version| version.text().is_some_and(|text| text.contains(&key.value));
        let labelled = self.versions.iter().filter(holds).find(|version| !version.stages.is_empty());
        labelled.or_else(|| self.versions.iter().find(holds))
    }

    /// The key under `AWSCURRENT`.
    pub(super) fn current(&self) -> Option<&Key> {
        let current = self.versions.iter().find(|version| version.stages.contains(AWSCURRENT))?;
        self.keys.iter().find(|key| current.text().is_some_and(|text| text.contains(&key.value)))
    }

    fn of_function(&self) -> impl Iterator<Item = &Call> {
        self.calls.iter().filter(|call| call.tag == "function")
    }

    /// Whether a call of the function's has had this effect on the key.
    fn function_did(&self, operation: &str, key: &str) -> bool {
        self.of_function().any(|call| call.operation == operation && key_in_path(call) == key && had_effect(call))
    }

    /// What is wrong at this instant with the key that readers get, if the function can have brought it about.
    pub(super) fn outage(&self, seen: &Seen) -> Option<String> {
        let key = self.current().filter(|key| !key.is_live_at(self.now))?;
        let at_fault = self.function_did("revoke", &key.id)
            || (key.grace_ends_at.is_some_and(|end| end <= self.now) && seen.ended == Some(Event::Succeeded));
        at_fault.then(|| format!("the key {} was dead", short(&key.id)))
    }
}

pub(super) fn judge(world: &World, seen: &Seen) -> Vec<Promise> {
    vec![
        no_outage(world, seen),
        mints_are_kept(world),
        no_orphan(world, seen),
        hands_off(world),
        no_leak(world, seen),
        any_time(seen),
        heal_or_shout(seen),
    ]
}

fn promise(name: &'static str, broken: bool, open: bool, evidence: String) -> Promise {
    let verdict = match (broken, open) {
        (true, _) => "broken",
        (false, true) => "open",
        (false, false) => "held",
    };
    Promise { name, verdict, evidence }
}

fn no_outage(world: &World, seen: &Seen) -> Promise {
    let dead = world.current().is_none_or(|key| !key.is_live_at(world.now));
    let evidence = match (seen.outages.first(), dead) {
        (Some(outage), _) => outage.clone(),
        (None, true) => "The current key is dead, and not by the function's doing. Rotate: that heals it.".to_owned(),
        (None, false) => format!("{} looks: readers always got a key that Kosli accepts.", seen.looks),
    };
    promise("I1 No outage", !seen.outages.is_empty(), dead, evidence)
}

fn mints_are_kept(world: &World) -> Promise {
    let calls: Vec<&Call> = world.of_function().collect();
    let mints: Vec<usize> = (0..calls.len()).filter(|at| calls.get(*at).is_some_and(|call| is_mint(call))).collect();
    let careless = mints.iter().find(|at| {
        let stored = calls.get(**at + 1).is_none_or(|next| next.operation == "PutSecretValue");
        calls.get(**at).is_some_and(|call| call.fault.is_none()) && !stored
    });
    let number = careless.and_then(|at| calls.get(*at)).map_or(0, |call| call.number);
    let evidence = match careless {
        Some(_) => format!("Call {number} minted a key, and the next one did not store it."),
        None => format!("{} minted. What arrived was stored with the next call.", mints.len()),
    };
    promise("I2 Nothing minted that cannot be kept", careless.is_some(), false, evidence)
}

fn no_orphan(world: &World, seen: &Seen) -> Promise {
    let orphans: Vec<String> = world
        .keys
        .iter()
        .filter(|key| key.minted_by != MintedBy::SetUp && key.is_live_at(world.now) && world.holder(key).is_none())
        .filter(|key| key.dies_at().is_none_or(|death| death > world.now + SHORTEST_GRACE))
        .map(|key| short(&key.id))
        .collect();
    let none = orphans.is_empty();
    let done = seen.ended == Some(Event::Succeeded);
    let evidence = match (none, done) {
        (true, _) => "Every key that was minted is held by a version, or ends.".to_owned(),
        (false, true) => format!("No version holds {}.", orphans.join(", ")),
        (false, false) => format!("No version holds {}: the rotation has still to replace it.", orphans.join(", ")),
    };
    promise("I3 No orphan", !none && done, !none, evidence)
}

/// Touched may be what a version has held, and what a rotation has minted.
fn hands_off(world: &World) -> Promise {
    let strangers = |id: &str| {
        let key = world.keys.iter().find(|key| key.id == id);
        key.is_some_and(|key| key.minted_by == MintedBy::SetUp && world.holder(key).is_none())
    };
    let touching = ["rotate", "revoke"];
    let touched = world
        .of_function()
        .find(|call| touching.contains(&&*call.operation) && had_effect(call) && strangers(key_in_path(call)));
    let evidence = match touched {
        Some(call) => format!("Call {} touched the key {}.", call.number, short(key_in_path(call))),
        None => "Keys of others were never rotated and never revoked.".to_owned(),
    };
    promise("I4 Hands off", touched.is_some(), false, evidence)
}

fn no_leak(world: &World, seen: &Seen) -> Promise {
    let leaks = seen.leaks + world.leaked_lines;
    let evidence = format!("{leaks} of {} lines of its log and no answer show a key.", world.lines);
    let evidence = if seen.leaks > 0 { "An answer of the function shows a key.".to_owned() } else { evidence };
    promise("I5 No leak", leaks > 0, false, evidence)
}

fn any_time(seen: &Seen) -> Promise {
    let evidence = match seen.disorder.first() {
        Some(disorder) => disorder.clone(),
        None => format!("Tried again {} times. The labels were in order after every success.", seen.repeated),
    };
    promise("I6 Any step, any time", !seen.disorder.is_empty(), false, evidence)
}

/// A failure has the function's own word. Lambda's words (`Runtime.ExitError`) are for a process that has died.
fn heal_or_shout(seen: &Seen) -> Promise {
    let silent = seen.failures.iter().find(|kind| kind.is_empty() || kind.contains('.'));
    let evidence = match (silent, seen.failures.last(), &seen.ended) {
        (Some(kind), _, _) => format!("A step ended with \"{kind}\", which names no cause."),
        (None, Some(kind), Some(Event::Succeeded)) => format!("It said {kind}, and has healed it since."),
        (None, Some(kind), _) => format!("It says {kind}, and what to do."),
        (None, None, _) => "Nothing that it could not repair.".to_owned(),
    };
    promise("I7 Heal or shout", silent.is_some(), false, evidence)
}

/// What is wrong with the labels of a secret whose rotation has succeeded.
pub(super) fn disorder(versions: &[Version], token: &str) -> Option<String> {
    let holder = |label: &str| versions.iter().find(|version| version.stages.contains(label));
    let current = holder(AWSCURRENT).is_some_and(|version| version.id == token);
    let pending = holder(AWSPENDING).is_none_or(|version| version.id == token);
    (!current || !pending).then(|| format!("A rotation succeeded, and {} is not the current version.", short(token)))
}

/// Whether the function's process was killed by a fault: then it says nothing, and it is not its fault.
pub(super) fn was_killed(calls: &[Call]) -> bool {
    let last = calls.iter().rev().find(|call| call.tag == "function");
    last.is_some_and(|call| matches!(call.fault, Some(Fault::KillBefore | Fault::KillAfter)))
}

pub(super) fn is_mint(call: &Call) -> bool {
    ["rotate", "create"].contains(&&*call.operation) && had_effect(call)
}

fn had_effect(call: &Call) -> bool {
    call.effect.is_some_and(|status| status < 300)
}

/// The beginning of an id, which is enough to tell a handful of them apart.
pub(super) fn short(id: &str) -> String {
    id.chars().take(8).collect()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::clock::Clock;
    use crate::kosli::Kosli;
    use crate::secrets_manager::SecretValue;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    /// One key under `AWSCURRENT`, which the function has minted, and a stranger's; no calls.
    fn world() -> World {
        let now = UNIX_EPOCH + 20_000 * DAY;
        let mut kosli = Kosli::new(Clock::frozen(now));
        for description in ["ours", "a stranger's"] {
            kosli.add_key("acme", "ci", description, now - DAY, Some(now + 300 * DAY));
        }
        let mut keys: Vec<Key> = kosli.keys().cloned().collect();
        keys[0].id = "ours".to_owned();
        keys[0].minted_by = MintedBy::Create;
        keys[1].id = "theirs".to_owned();
        let versions = vec![version("1", AWSCURRENT, &keys[0].value)];
        World { now, calls: Vec::new(), versions, keys, leaked_lines: 0, lines: 9 }
    }

    fn version(id: &str, label: &str, value: &str) -> Version {
        Version {
            id: id.to_owned(),
            value: Some(SecretValue::Text(value.to_owned())),
            stages: [label.to_owned()].into(),
            created: UNIX_EPOCH,
            accessed: None,
            rotation_token: None,
        }
    }

    fn succeeded() -> Seen {
        Seen { ended: Some(Event::Succeeded), ..Seen::default() }
    }

    /// The promises that are not held, such as `I3 open`.
    fn trouble(world: &World, seen: &Seen) -> Vec<String> {
        let judged = judge(world, seen);
        assert_eq!(judged.len(), 7);
        let others = judged.into_iter().filter(|promise| promise.verdict != "held");
        others.map(|promise| format!("{} {}", &promise.name[..2], promise.verdict)).collect()
    }

    #[test]
    fn every_broken_promise_is_seen_and_what_a_person_does_breaks_none() {
        type Change = fn(&mut World, &mut Seen);
        let cases: [(&str, Change, &[&str]); 14] = [
            ("nothing has happened", |_, _| {}, &[]),
            ("a person revokes the current key", |world, _| world.keys[0].revoked_at = Some(world.now), &["I1 open"]),
            ("readers got a dead key", |_, seen| seen.outages.push("dead".to_owned()), &["I1 broken"]),
            (
                "a key is minted and not stored",
                |world, _| {
                    world.calls =
                        vec![Call::seen(1, "rotate", "acme/ci/api-keys/ours/rotate"), Call::seen(2, "list", "")];
                },
                &["I2 broken"],
            ),
            (
                "a key is minted and stored",
                |world, _| {
                    world.calls =
                        vec![Call::seen(1, "create", "acme/ci/api-keys"), Call::seen(2, "PutSecretValue", "")];
                },
                &[],
            ),
            (
                "the answer of a mint is lost",
                |world, _| {
                    let mint = Call { fault: Some(Fault::DropAfter), ..Call::seen(1, "create", "acme/ci/api-keys") };
                    world.calls = vec![mint, Call::seen(2, "list", "")];
                },
                &[],
            ),
            ("no version has the label", |world, _| world.versions.clear(), &["I1 open", "I3 broken"]),
            ("an orphan is left", |world, _| world.keys[1].minted_by = MintedBy::Create, &["I3 broken"]),
            (
                "a lost key while the rotation goes on",
                |world, seen| {
                    world.keys[1].minted_by = MintedBy::Create;
                    seen.ended = None;
                },
                &["I3 open"],
            ),
            (
                "a stranger's key is revoked",
                |world, _| world.calls = vec![Call::seen(1, "revoke", "acme/ci/api-keys/theirs")],
                &["I4 broken"],
            ),
            ("a line of the log shows a key", |world, _| world.leaked_lines = 1, &["I5 broken"]),
            ("an answer shows a key", |_, seen| seen.leaks = 1, &["I5 broken"]),
            ("the labels are out of order", |_, seen| seen.disorder.push("so".to_owned()), &["I6 broken"]),
            (
                "the process dies by itself",
                |_, seen| seen.failures.push("Runtime.ExitError".to_owned()),
                &["I7 broken"],
            ),
        ];
        for (what, change, expected) in cases {
            let (mut world, mut seen) = (world(), succeeded());
            change(&mut world, &mut seen);
            assert_eq!(trouble(&world, &seen), expected, "{what}");
        }
        let named = Seen { failures: vec!["KosliForbidden".to_owned()], ..succeeded() };
        assert_eq!(trouble(&world(), &named), [""; 0]);
    }

    #[test]
    fn an_outage_is_what_the_function_has_brought_about() {
        let dead = |change: fn(&mut World)| {
            let mut world = world();
            change(&mut world);
            world.outage(&succeeded()).is_some()
        };
        assert!(!dead(|_| {}));
        assert!(!dead(|world| world.keys[0].revoked_at = Some(world.now)), "by a person");
        assert!(dead(|world| {
            world.keys[0].revoked_at = Some(world.now);
            world.calls = vec![Call::seen(1, "revoke", "acme/ci/api-keys/ours")];
        }));
        assert!(
            dead(|world| world.keys[0].grace_ends_at = Some(world.now)),
            "a rotation that left it current succeeded"
        );
        assert!(!dead(|world| world.now += 400 * DAY), "nobody has asked for a rotation in time");
    }

    #[test]
    fn labels_are_in_order_when_the_new_version_is_current_and_no_other_is_pending() {
        let labels = |current: &str, pending: &str| {
            disorder(&[version(current, AWSCURRENT, ""), version(pending, AWSPENDING, "")], "2").is_none()
        };
        assert!(labels("2", "2"));
        assert!(!labels("1", "2") && !labels("2", "3"));
        assert!(disorder(&[version("2", AWSCURRENT, "")], "2").is_none());
    }
}
