//! All that the tests forgive, in one place: what no function could make good, and what the design says it costs.
//!
//! `docs/failures.md` lists the same under "Known limits", word by word.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use emulator::kosli::{
    CapFrom, CarriedOver, ExpiresAt, Key, ListInGrace, ListShape, MintedBy, RotateInGrace, SuccessorId, Switches,
};
use emulator::runtime_api::Outcome;
use emulator::secrets_manager::{Staleness, Version};
use emulator::{Call, Emulator, Fault};
use kosli_key_rotation::marker::Mark;
use serde_json::Value;
use testbed::{ACCOUNT, Probe, World, key_in, say, version_id};

use crate::course::{Course, expiry};
use crate::turns::Turns;

/// Something that is forgiven.
pub struct Excuse {
    /// What it is called, here and in `docs/failures.md`.
    pub name: &'static str,
    /// Why it is forgiven.
    pub reason: &'static str,
    times: AtomicUsize,
}

impl Excuse {
    const fn new(name: &'static str, reason: &'static str) -> Self {
        Self { name, reason, times: AtomicUsize::new(0) }
    }

    fn count(&self) {
        self.times.fetch_add(1, Ordering::SeqCst);
    }
}

static LABEL_MOVED: Excuse = Excuse::new(
    "A label that a person moves onto a key between the last look at the labels and that key's revocation.",
    "Kosli and Secrets Manager know nothing of each other: no call does both; and what Secrets Manager shows of the labels may be a \
     moment old. The next rotation makes another key.",
);
static DEAD_KEY_CURRENT: Excuse = Excuse::new(
    "`AWSCURRENT` that a person moves to a key that is dead.",
    "Readers get the dead key until the next rotation makes another.",
);
static REVOKED_BY_HAND: Excuse = Excuse::new(
    "The current key that a person revokes.",
    "It is dead until the next step: nothing can be done before, and the next rotation makes another key.",
);
static REPLACED_BY_HAND: Excuse = Excuse::new(
    "The living key that a person replaces with another, made by hand.",
    "It is for that person to revoke: it was current and in use, and the function ends no such key.",
);
static LOSER_KILLED: Excuse = Excuse::new(
    "An execution that loses a race, and is killed.",
    "What is killed says nothing, and the winner may be past its sweep: the key that it has minted is held, named, or ended by the \
     next rotation.",
);
static ONE_ID: Excuse = Excuse::new(
    "Successors that keep their key's id.",
    "Where Kosli gives a rotated key's successor the same id, nothing on the account tells the two apart: a key that a second mint \
     has put in its grace period may be promoted, and a key that was lost or abandoned cannot be named: it ends with the configured \
     grace period instead of the shortest, or with its expiry. The next rotation makes it good: rotate again within the grace period.",
);
static LOST_KEY_HIDDEN: Excuse = Excuse::new(
    "A list of keys that is not whole, or that shows another expiry than was asked for.",
    "A lost key that the list does not show, or shows without its mark, is not found, and may stay. A warning says so: compare the \
     account's never-used keys with the secret. One that was tested and then abandoned looks like anybody's.",
);
static OWN_KEY_MAY_NOT: Excuse = Excuse::new(
    "Self-rotation with a key that may do less in its grace period, or may not create.",
    "A lost answer cannot be looked for with it. The rotation stops, and says which right is missing; with an admin secret it would \
     go on.",
);
static SAME_ATTEMPT: Excuse = Excuse::new(
    "Two executions that choose the same attempt bits.",
    "Once in 32 times, where both mint for one version within two minutes, they cannot tell their marks apart: see the odds of the mark.",
);
static ENDED_AT_ONCE: Excuse = Excuse::new(
    "A current key that is rotated twice, where Kosli ends a key at once when it is rotated again.",
    "Nothing on the account tells that Kosli would do so. After a rotation that a person has abandoned, or between two executions at \
     once, readers are without a key from the second mint until the promotion.",
);
static NOTHING_TELLS: Excuse = Excuse::new(
    "An error that does not name the instant at which the current key dies, where nothing that its step has read tells of the mint.",
    "The secret or the list cannot be read, was read before the mint, or shows what was before it; there is no key or no account to list \
     with; or neither the list nor a version shows a successor. `checkSecret` and the next step that can see it say so.",
);
static BESIDE_ANOTHER_ID: Excuse = Excuse::new(
    "A key that a person puts in beside another key's id.",
    "Nothing tells which id a value has, so the id is taken at its word. Once no version holds that key, it lives on unnamed.",
);
static REPLACES_HIDDEN: Excuse = Excuse::new(
    "A key that a person puts in, or goes back to, between a mint and its promotion, where nothing tells which version the pending key \
     replaces.",
    "The list cannot be had, is another account's, or shows another expiry than was asked for; or that version has lost its last label, \
     for two rotations have completed meanwhile. The promotion comes first, for the current key may be dying: \
     fields that differ and a version that is younger than the pending one are named. AWSPREVIOUS has the key; with `immediately` it is \
     revoked as the old one.",
);
static KILLED_AFTER_MOVE: Excuse = Excuse::new(
    "What was overwritten by an execution that is killed right after it has moved the label, if `finishSecret` does not come again.",
    "What is killed says nothing. Secrets Manager calls the step again, which then says it; a person who writes meanwhile ends the rotation.",
);
static MARK_GONE: Excuse = Excuse::new(
    "A key of an abandoned rotation, once the version that it was to replace has lost its last label.",
    "Secrets Manager does not show such a version, so no mark tells whose the key is. Until then a sweep ends it, or the answer and \
     `checkSecret` name it.",
);

/// Everything that is forgiven.
pub static EXCUSED: [&Excuse; 15] = [
    &LABEL_MOVED,
    &DEAD_KEY_CURRENT,
    &REVOKED_BY_HAND,
    &REPLACED_BY_HAND,
    &LOSER_KILLED,
    &ONE_ID,
    &LOST_KEY_HIDDEN,
    &OWN_KEY_MAY_NOT,
    &SAME_ATTEMPT,
    &ENDED_AT_ONCE,
    &NOTHING_TELLS,
    &BESIDE_ANOTHER_ID,
    &REPLACES_HIDDEN,
    &KILLED_AFTER_MOVE,
    &MARK_GONE,
];

/// Says how often a case came upon something that is forgiven: so often, at most, something was.
pub fn say_what_was_excused() {
    for excuse in EXCUSED {
        match excuse.times.load(Ordering::SeqCst) {
            0 => {}
            times => say!("forgiven up to {times} times: {}", excuse.name),
        }
    }
}

/// A person makes a key current: it may be dead, or be revoked by somebody who has looked at the labels before.
pub fn going_back(course: &Course, turns: &Turns, key: &Key) {
    let accepted = course.world.emulator.with_kosli(|kosli| kosli.accepts(&key.value));
    if !accepted {
        DEAD_KEY_CURRENT.count();
        course.world.probe.ended_by_hand(key.value.clone());
    } else if course.world.setting.staleness != Staleness::None {
        // Whoever looks afterwards may not see it either.
        label_moved_unseen(&course.world.probe, key.value.clone());
    } else {
        turns.label_moved_onto(key);
    }
}

/// A key is revoked that a label was moved onto after the last look.
pub(crate) fn label_moved_unseen(probe: &Probe, value: String) {
    LABEL_MOVED.count();
    probe.ended_by_hand(value);
}

/// Whether a key that was current is dead: nothing is lost with it.
pub fn is_dead(course: &Course, value: &str) -> bool {
    let is_dead = !course.world.emulator.with_kosli(|kosli| kosli.accepts(value));
    if is_dead {
        DEAD_KEY_CURRENT.count();
    }
    is_dead
}

/// A person revokes a key, and with it all that have its id.
pub fn revoked_by_hand(course: &Course, id: &str) {
    REVOKED_BY_HAND.count();
    course.world.emulator.with_kosli(|kosli| {
        kosli.keys().filter(|key| key.id == id).for_each(|key| course.world.probe.ended_by_hand(key.value.clone()));
    });
}

/// A person is about to replace the current key by hand.
pub fn replaced_by_hand(course: &Course) {
    if let Some(replaced) = course.key_value("AWSCURRENT") {
        REPLACED_BY_HAND.count();
        course.ledger.not_ours(replaced);
    }
}

/// A person has put a key in beside the id of the one before.
pub fn put_in_beside_another_id(course: &Course) {
    if let Some(value) = course.key_value("AWSCURRENT") {
        BESIDE_ANOTHER_ID.count();
        course.ledger.not_ours(value);
    }
}

/// What an error says of a promotion whose list was not to be had.
const NO_LIST: [[&str; 2]; 2] = [
    ["The clean-up after the promotion failed", "listing the keys"],
    ["The clean-up after the promotion failed", "InvalidAdminSecret"],
];

/// Whether a key that was undone could not be told from the one that was to be replaced: the list of a promotion since was not to be had, or
/// hides whose successor a key is.
pub fn what_it_replaces_is_hidden(course: &Course, since: usize) -> bool {
    let is_hidden = hides_lost_keys(&course.world.setting.switches)
        || NO_LIST.iter().any(|words| course.ledger.was_said(since, words));
    if is_hidden {
        REPLACES_HIDDEN.count();
    }
    is_hidden
}

/// A step has ended. If it has promoted a key of which nothing told what it was to replace, the key that it has replaced may be one that a
/// person put in. `in_sight` are the marks of the labelled versions as they were before.
pub fn promoted(course: &Course, in_sight: &[Mark], outcome: &Outcome) {
    let has_promoted = outcome.as_ref().is_ok_and(|answer| answer["outcome"] == "promoted");
    let said = outcome.as_ref().map_or_else(|error| error.error_message.clone(), Value::to_string);
    let no_list = NO_LIST.iter().any(|words| words.iter().all(|word| said.contains(word)));
    let elsewhere = said.contains("does not find the new key");
    let unmarked = || course.world.key("AWSCURRENT").is_some_and(|new| !is_marked(&new, in_sight));
    let is_hidden = || elsewhere || unmarked() || one_id(&course.world.setting.switches);
    let may_be_a_persons = no_list || (has_promoted && is_hidden());
    let replaced = course.world.key("AWSPREVIOUS").filter(|replaced| may_be_a_persons && replaced.rotated_at.is_none());
    if let Some(replaced) = replaced {
        REPLACES_HIDDEN.count();
        course.ledger.not_ours(replaced.value);
    }
}

/// Whether no `finishSecret` has come to an answer since.
pub fn killed_after_the_move(course: &Course, since: usize) -> bool {
    let answers = ["\"step\":\"finishSecret\"", "CleanUpIncomplete"];
    let is_killed = !answers.into_iter().any(|answer| course.ledger.was_said(since, &[answer]));
    if is_killed {
        KILLED_AFTER_MOVE.count();
    }
    is_killed
}

/// Whether nobody could have named a key, since the version that it was to replace has lost its last label before anybody came to look.
pub(crate) fn mark_is_gone(lost_before_a_look: bool) -> bool {
    if lost_before_a_look {
        MARK_GONE.count();
    }
    lost_before_a_look
}

/// Whether the next rotation may end what was left. Where Kosli gives two keys one id, nobody can tell which of them was left, killed or
/// not.
pub fn next_rotation_ends_it(course: &Course, somebody_was_killed: bool) -> bool {
    if somebody_was_killed {
        LOSER_KILLED.count();
    }
    somebody_was_killed || one_id(&course.world.setting.switches)
}

/// Whether nobody can tell a dying key from its successor.
pub fn one_id(switches: &Switches) -> bool {
    let is_one = switches.successor_id == SuccessorId::Same;
    if is_one {
        ONE_ID.count();
    }
    is_one
}

/// Whether a key that shares its id with others ends by itself, or looks like the one that it was to replace.
pub fn shares_its_id(course: &Course, key: &Key) -> bool {
    let has_kept_it = matches!(&key.minted_by, MintedBy::Rotate { of } if *of == key.id);
    (key.grace_ends_at.is_some() || has_kept_it) && one_id(&course.world.setting.switches)
}

/// A call was a rotation, and may have ended a key at once.
pub fn rotated_again(emulator: &Emulator, probe: &Probe, call: &Call) {
    if call.operation != "rotate" {
        return;
    }
    let now = emulator.clock().now();
    emulator.with_kosli(|kosli| {
        if kosli.switches.rotate_in_grace != RotateInGrace::EndsGrace {
            return;
        }
        for key in kosli.keys().filter(|key| key.rotated_at.is_some() && key.grace_ends_at == Some(now)) {
            ENDED_AT_ONCE.count();
            probe.ended_by_hand(key.value.clone());
        }
    });
}

/// Whether a step with these calls could not see that the current key is dying of a mint.
pub fn nothing_tells_of_the_mint(course: &Course, dying: &Key, event: &Value, calls: &[Call]) -> bool {
    let arn = event["SecretId"].as_str().unwrap_or_default();
    // A step that comes again for the version that is current only authenticates: it is none of the rotation that has minted.
    let is_current = course.world.emulator.with_secrets_manager(|service| {
        Some(service.secret(arn)?.versions.labelled("AWSCURRENT")?.id == event["ClientRequestToken"].as_str()?)
    });
    if is_current == Some(true) && !calls.iter().any(|call| call.operation == "list") {
        NOTHING_TELLS.count();
        return true;
    }
    let mints = |call: &Call| call.operation == "rotate" && call.effect.is_some_and(|status| status < 300);
    let nothing = !calls.iter().any(mints)
        && (!calls.iter().any(|call| call.operation == "DescribeSecret" && call.status == Some(200))
            || !is_readable(calls, &["DescribeSecret", "GetSecretValue"])
            || !labels_are_as_read(course, calls)
            || !(version_tells(course, dying, event, calls) || list_tells(course, arn, dying, calls)));
    if nothing {
        NOTHING_TELLS.count();
    }
    nothing
}

/// Whether everything that these operations were to read came in the end.
fn is_readable(calls: &[Call], operations: &[&str]) -> bool {
    let disturbed = |call: &Call| call.fault.as_ref().is_some_and(|fault| !matches!(fault, Fault::Delay(_)));
    let failed = |call: &Call| disturbed(call) || matches!(call.status, None | Some(401 | 403));
    let reads = calls.iter().filter(|call| operations.contains(&call.operation.as_str()));
    let last: BTreeMap<(&str, &str), bool> =
        reads.map(|call| ((call.operation.as_str(), call.detail.as_str()), failed(call))).collect();
    !last.into_values().any(|failed| failed)
}

/// Whether the versions that the step has read by their labels, of the secret and of the admin secret, still carry them.
fn labels_are_as_read(course: &Course, calls: &[Call]) -> bool {
    let by_label = |call: &Call| {
        let (name, label) = call.detail.strip_prefix("SecretId=")?.split_once(" VersionStage=")?;
        Some(((name.to_owned(), label.to_owned()), call.outcome.strip_prefix("VersionId=")?.to_owned()))
    };
    let reads = calls.iter().filter(|call| call.operation == "GetSecretValue");
    let last: BTreeMap<(String, String), String> = reads.filter_map(by_label).collect();
    course.world.emulator.with_secrets_manager(|service| {
        last.iter().all(|((name, label), version)| {
            // A call names the end of an ARN, or a name.
            let mut secrets = service.secrets().filter(|secret| secret.arn.ends_with(name) || secret.name == *name);
            let holder = secrets.next().expect("it was read").versions.labelled(label);
            holder.is_some_and(|holder| holder.id == *version)
        })
    })
}

/// Whether the step has listed before the dying key was rotated.
fn has_listed_before(course: &Course, dying: &Key, calls: &[Call]) -> bool {
    let rotated = |call: &Call| {
        call.operation == "rotate" && call.effect.is_some_and(|status| status < 300) && call.detail.contains(&dying.id)
    };
    let minted = course.world.emulator.calls().iter().rfind(|call| rotated(call)).map(|call| call.number);
    let listed = calls.iter().rfind(|call| call.operation == "list").map(|call| call.number);
    listed.is_some_and(|listed| Some(listed) < minted)
}

/// Whether the step has seen the event's version hold a key that was minted to replace a version with the dying one: then its age tells.
fn version_tells(course: &Course, dying: &Key, event: &Value, calls: &[Call]) -> bool {
    let (world, arn) = (&course.world, event["SecretId"].as_str().unwrap_or_default());
    let token = event["ClientRequestToken"].as_str().unwrap_or_default();
    let of_version =
        |call: &&Call| call.operation == "GetSecretValue" && call.detail.ends_with(&format!("VersionId={token}"));
    if calls.iter().rfind(of_version).is_some_and(|call| call.status == Some(400)) {
        return false;
    }
    // A list that lags behind shows the key that had the id before, and one that hides marks whichever has it.
    let switches = &world.setting.switches;
    let hides = hides_lost_keys(switches) || !switches.list_lag.is_zero();
    if switches.successor_id == SuccessorId::Same && hides {
        return false;
    }
    let stored = world.emulator.with_secrets_manager(|service| {
        let versions = &service.secret(arn)?.versions;
        let version = versions.get(token)?;
        // Its age tells where it is the younger one, or a field was edited once since.
        let is_younger = versions.labelled("AWSCURRENT")?.created < version.created;
        let previous = versions.labelled("AWSPREVIOUS").and_then(|version| key_in(version.text()?));
        let tells = is_younger || previous.as_ref() == Some(&dying.value);
        key_in(version.text()?).filter(|_| tells)
    });
    let (rotated, marks) = (MintedBy::Rotate { of: dying.id.clone() }, marks_of(course, arn, |_| true, dying));
    let replaces_it = |key: &Key| is_marked(key, &marks) || hides_lost_keys(&world.setting.switches);
    stored.is_some_and(|value| {
        let is_it = |key: &Key| key.value == value && key.minted_by == rotated && replaces_it(key);
        world.emulator.with_kosli(|kosli| kosli.keys().any(is_it))
    })
}

/// The marks of the versions that hold a key, of those that count.
fn marks_of(course: &Course, arn: &str, counts: impl Fn(&Version) -> bool, key: &Key) -> Vec<Mark> {
    let holds = |version: &&Version| version.text().and_then(key_in).as_ref() == Some(&key.value);
    course.world.emulator.with_secrets_manager(|service| {
        let versions = service.secret(arn).into_iter().flat_map(|secret| secret.versions.iter());
        let counting = versions.filter(holds).filter(|version| counts(version));
        counting.map(|version| Mark::of(arn, &version_id(&version.id))).collect()
    })
}

fn is_marked(key: &Key, marks: &[Mark]) -> bool {
    expiry(key).is_some_and(|end| marks.iter().any(|mark| mark.attempt_in(end).is_some()))
}

/// Whether there is a key and an account to list with, and the list shows a key with the mark of a version that holds the dying one.
fn list_tells(course: &Course, arn: &str, dying: &Key, calls: &[Call]) -> bool {
    let world = &course.world;
    let switches = &world.setting.switches;
    let now = world.emulator.clock().now().checked_sub(switches.list_lag).unwrap_or(SystemTime::UNIX_EPOCH);
    // A successor that has kept the id and the date looks like the key that it has replaced.
    let keeps_the_date = matches!(switches.carried_over, CarriedOver::CreatedAt | CarriedOver::CreatedAndLastUsedAt);
    let looks_the_same = switches.successor_id == SuccessorId::Same && keeps_the_date;
    if looks_the_same || hides_lost_keys(switches) || !is_readable(calls, &["list"]) || !course.can_list(arn) {
        return false;
    }
    if has_listed_before(course, dying, calls) {
        return false;
    }
    let is_read = |version: &Version| ["AWSCURRENT", "AWSPREVIOUS"].iter().any(|label| version.stages.contains(*label));
    let marks = marks_of(course, arn, is_read, dying);
    let since = world
        .emulator
        .with_secrets_manager(|service| Some(service.secret(arn)?.versions.labelled("AWSCURRENT")?.created));
    let is_hidden = |key: &Key| switches.list_in_grace == ListInGrace::Hidden && key.rotated_at.is_some();
    world.emulator.with_kosli(|kosli| {
        let live = kosli.keys().filter(|key| key.account == ACCOUNT && key.is_live_at(now) && !is_hidden(key));
        // Of those that share an id, the newest.
        let listed: BTreeMap<&str, &Key> = live.map(|key| (key.id.as_str(), key)).collect();
        // One that has kept the id is told by its date alone.
        let is_later = |key: &Key| key.id != dying.id || since.is_some_and(|since| key.created_at > since);
        let tells = |key: &&Key| {
            key.minted_by != MintedBy::SetUp && key.value != dying.value && is_marked(key, &marks) && is_later(key)
        };
        listed.into_values().any(|key| tells(&key))
    })
}

/// Where ids are handed on, two executions that mint put each other's pending key into its grace period.
pub fn pending_key_may_be_rotated(world: &World) {
    let is_safe = !one_id(&world.setting.switches);
    world.probe.pending_is_safe.store(is_safe, Ordering::SeqCst);
}

/// Whether the list hides from everybody which keys were lost.
pub fn hides_lost_keys(switches: &Switches) -> bool {
    changes_ends(switches) || switches.list_shape != ListShape::Array
}

fn changes_ends(switches: &Switches) -> bool {
    switches.expires_at != ExpiresAt::AsSent || switches.cap_from == CapFrom::RotatedKey
}

/// Two executions have chosen the same bits: what their case came to proves nothing.
pub fn same_attempt_bits() {
    SAME_ATTEMPT.count();
}

/// Whether this only says that a lost key stays, which a warning has named, or the list for not being whole.
pub fn lost_key_is_hidden(world: &World, broken: &str) -> bool {
    let history = world.history.borrow().join("\n");
    let named = |key: &Key| broken.contains(&key.id) && history.contains(&format!("The key {} was never used", key.id));
    let is_hidden = broken.starts_with("I3")
        && hides_lost_keys(&world.setting.switches)
        && (history.contains("the list is not whole")
            || broken.contains("(was never current, used)")
            || world.minted().iter().any(named));
    if is_hidden {
        LOST_KEY_HIDDEN.count();
    }
    is_hidden
}

/// Whether this only says that a key stays, of one of several rotations, where Kosli changes the ends that carry marks: that is logged and
/// counted, and only what is younger than the current version is named.
pub fn mark_is_hidden(course: &Course, broken: &str) -> bool {
    let is_hidden = broken.starts_with("I3") && changes_ends(&course.world.setting.switches);
    if is_hidden {
        LOST_KEY_HIDDEN.count();
    }
    is_hidden
}

/// Whether a rotation has stopped for want of a right, and says which.
pub fn own_key_may_not(world: &World) -> bool {
    let history = world.history.borrow().join("\n");
    let is_said = ["KosliForbidden", "CleanUpIncomplete"].iter().any(|kind| history.contains(kind));
    if is_said {
        OWN_KEY_MAY_NOT.count();
    }
    is_said
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The list items of a part of a page, each in one line.
    fn items(page: &str, heading: &str) -> Vec<String> {
        let part = page.split(&format!("\n{heading}\n")).nth(1).unwrap();
        let part = part.split("\n#").next().unwrap();
        let items = part.split("\n- ").skip(1);
        items.map(|item| item.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn all_that_is_forgiven_is_a_known_limit() {
        let page = include_str!("../../../docs/failures.md");
        let forgiven = EXCUSED.map(|excuse| format!("**{}** {}", excuse.name, excuse.reason));
        assert_eq!(items(page, "### What the tests forgive"), forgiven);
    }
}
