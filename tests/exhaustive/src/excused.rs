//! What no function could make good, and what the design says it costs: all that the tests forgive, in one place.

use emulator::kosli::Key;

use crate::course::Course;
use crate::turns::Turns;

/// What is forgiven, and why. README's known limits say the same.
pub const EXCUSED: [(&str, &str); 3] = [
    (
        "A person moves a label onto a key between the last look at the labels and that key's revocation.",
        "Kosli and Secrets Manager know nothing of each other: no call does both.",
    ),
    (
        "The current key is revoked by hand: it is dead until the next step.",
        "Whoever revokes it ends it. The next rotation makes another; nothing can be done before.",
    ),
    (
        "An execution that loses is killed: the key that it has minted is held, named, or ended by the next rotation.",
        "What is killed says nothing, and the winner may be past its sweep.",
    ),
];

/// A person makes a key current that is dead, or that is about to be revoked: the first of the list.
pub fn going_back(course: &Course, turns: &Turns, key: &Key) {
    let accepted = course.world.emulator.with_kosli(|kosli| kosli.accepts(&key.value));
    if !accepted || turns.is_about_to_revoke(&key.id) {
        course.world.probe.ended_by_hand(key.value.clone());
    }
}

/// A person revokes a key: the second of the list.
pub fn revoked_by_hand(course: &Course, value: String) {
    course.world.probe.ended_by_hand(value);
}

/// Whether the next rotation may end what was left: the third of the list. Where Kosli gives two keys one id, nobody can tell which of
/// them was left, killed or not.
pub fn next_rotation_ends_it(course: &Course, somebody_was_killed: bool) -> bool {
    somebody_was_killed || course.is_blind
}
