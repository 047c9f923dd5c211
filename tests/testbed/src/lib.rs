//! Worlds to rotate keys in: what the tests of the function share.
//!
//! The real handler with its real clients, and the emulator on a frozen clock, in one thread. The clock moves only where somebody
//! waits, so that minutes of time-outs and pauses take no time, and the same case takes the same course again and again.
//!
//! - [`values`]: what things are called, and what is in a secret's value
//! - [`mod@clock`], which stands still: time
//! - [`canary`], [`mod@emitted`]: the search for keys and rotation tokens in all that the function emits
//! - [`setting`]: what distinguishes one world from another
//! - [`faults`]: everything that can befall a call, in one table
//! - [`gate`], [`probe`], [`person`]: who orders, disturbs and watches calls
//! - [`testbed`]: sockets and clients, made once
//! - [`world`]: one case, and rotations in it; [`invocation`], [`looks`] and [`asserts`] say what can be done and seen there
//! - [`fleet`]: a thousand secrets that are due at once
//! - [`trace`]: what has happened, told
//! - [`executable`]: the function's real executable, with everything around it

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

pub mod asserts;
pub mod aws;
pub mod canary;
pub mod clock;
pub mod emitted;
pub mod executable;
pub mod faults;
pub mod fleet;
pub mod gate;
pub mod invocation;
pub mod looks;
pub mod person;
pub mod probe;
pub mod setting;
pub mod testbed;
pub mod trace;
pub mod values;
pub mod world;

pub use asserts::{done, refused};
pub use aws::aws;
pub use canary::Canaries;
pub use clock::{DAY, HOUR, rfc3339, start};
pub use emitted::{emit, emitted};
pub use executable::Executable;
pub use gate::Gate;
pub use invocation::TIMEOUT;
pub use person::rotate_by_hand;
pub use probe::Probe;
pub use setting::{Setting, Shape};
pub use testbed::{Execution, Testbed};
pub use values::{ACCOUNT, ADMIN_SECRET, DESCRIPTION, FUNCTION, ORG, SECRET, key_in, second, token, version_id};
pub use world::{ONCE, RETRIES, World};

/// Says how many cases were run and how long they took, past the test harness, which keeps to itself what a test that passes
/// prints.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), $($argument)*);
    }};
}
