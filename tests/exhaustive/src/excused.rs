//! All that the tests forgive, in one place: what no function could make good, and what the design says it costs.
//!
//! `docs/failures.md` lists the same under "Known limits", word by word.

use std::sync::atomic::{AtomicUsize, Ordering};

use emulator::kosli::{Key, SuccessorId, Switches};
use testbed::{World, say};

use crate::course::Course;
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
    "Kosli and Secrets Manager know nothing of each other: no call does both. The next rotation makes another key.",
);
static DEAD_KEY_CURRENT: Excuse = Excuse::new(
    "`AWSCURRENT` that a person moves to a key that is dead.",
    "Readers get what he gives them, until the next rotation makes another key.",
);
static REVOKED_BY_HAND: Excuse = Excuse::new(
    "The current key that a person revokes.",
    "It is dead until the next step: nothing can be done before, and the next rotation makes another key.",
);
static REPLACED_BY_HAND: Excuse = Excuse::new(
    "The living key that a person replaces with another, made by hand.",
    "It is his to revoke: it was current and in use, and the function ends no such key.",
);
static LOSER_KILLED: Excuse = Excuse::new(
    "An execution that loses a race, and is killed.",
    "What is killed says nothing, and the winner may be past its sweep: the key that it has minted is held, named, or ended by the \
     next rotation.",
);
static ONE_ID: Excuse = Excuse::new(
    "Successors that keep their key's id.",
    "Where Kosli gives a rotated key's successor the same id, nothing on the account tells the two apart: a key that a second mint \
     has put in its grace period may be promoted, and a key that was lost cannot be named, and ends with the configured grace period \
     instead of the shortest. The next rotation makes it good: rotate again within the grace period.",
);
static CANNOT_LOOK: Excuse = Excuse::new(
    "What a person takes away after a mint whose answer was lost, though the function needs it to look at the account's keys.",
    "Without the admin key, or the tag that names the account, the list cannot be read, so the error names what is missing, and not \
     the instant at which the current key dies. Once it is put right, the next attempt goes on.",
);
static LOST_KEY_HIDDEN: Excuse = Excuse::new(
    "A list of keys that is not whole, or that shows another expiry than was asked for.",
    "A lost key that the list does not show, or shows without its mark, is not found, and may stay. A warning says so: compare the \
     account's never-used keys with the secret.",
);
static OWN_KEY_MAY_NOT: Excuse = Excuse::new(
    "Self-rotation with a key that may do less in its grace period, or may not create.",
    "A lost answer cannot be looked for with it. The rotation stops, and says which right is missing; with an admin secret it would \
     go on.",
);

/// Everything that is forgiven.
pub static EXCUSED: [&Excuse; 9] = [
    &LABEL_MOVED,
    &DEAD_KEY_CURRENT,
    &REVOKED_BY_HAND,
    &REPLACED_BY_HAND,
    &LOSER_KILLED,
    &ONE_ID,
    &CANNOT_LOOK,
    &LOST_KEY_HIDDEN,
    &OWN_KEY_MAY_NOT,
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

/// A person makes a key current that is dead, or that is about to be revoked.
pub fn going_back(course: &Course, turns: &Turns, key: &Key) {
    let accepted = course.world.emulator.with_kosli(|kosli| kosli.accepts(&key.value));
    let excuse = match (accepted, turns.is_about_to_revoke(&key.id)) {
        (false, _) => &DEAD_KEY_CURRENT,
        (true, true) => &LABEL_MOVED,
        (true, false) => return,
    };
    excuse.count();
    course.world.probe.ended_by_hand(key.value.clone());
}

/// A person revokes a key.
pub fn revoked_by_hand(course: &Course, value: String) {
    REVOKED_BY_HAND.count();
    course.world.probe.ended_by_hand(value);
}

/// A person is about to replace the current key by hand.
pub fn replaced_by_hand(course: &Course) {
    if let Some(replaced) = course.key_value("AWSCURRENT") {
        REPLACED_BY_HAND.count();
        course.ledger.not_ours(replaced);
    }
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

/// Whether a key that was rotated ends soon enough by itself, though nobody has used it.
pub fn ends_later(course: &Course, key: &Key) -> bool {
    key.grace_ends_at.is_some() && one_id(&course.world.setting.switches)
}

/// A person takes away what the function looks at the account's keys with, until it is put right.
pub fn take_away(course: &Course) {
    course.cannot_look.set(true);
}

/// Whether an error need not say until when the current key works: nothing but the list could tell.
pub fn cannot_look(course: &Course) -> bool {
    let cannot = course.cannot_look.get() && course.world.value("AWSPENDING").is_none();
    if cannot {
        CANNOT_LOOK.count();
    }
    cannot
}

/// Where ids are handed on, two executions that mint put each other's pending key into its grace period.
pub fn pending_key_may_be_rotated(world: &World) {
    let is_safe = !one_id(&world.setting.switches);
    world.probe.pending_is_safe.store(is_safe, Ordering::SeqCst);
}

/// Whether this only says that a lost key stays, which a warning has named, or the list for not being whole.
pub fn lost_key_is_hidden(world: &World, broken: &str) -> bool {
    let history = world.history.borrow().join("\n");
    let named = |key: &Key| broken.contains(&key.id) && history.contains(&format!("The key {} was never used", key.id));
    let is_hidden =
        broken.starts_with("I3") && (history.contains("the list is not whole") || world.minted().iter().any(named));
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
