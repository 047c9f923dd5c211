//! The tests that leave nothing out: every fault at every call, every order of two executions' calls, thousands of random
//! schedules, every answer of a hostile Kosli, kills at every call, a fleet that is due at once.
//!
//! ```text
//! cargo exhaustive                      # all of them, optimized: see .cargo/config.toml
//! cargo exhaustive --test faults        # one
//! CASE='…' cargo exhaustive --test …    # one case, as a failure prints it
//! ```
//!
//! A case is a value that can be printed, and is read again from what was printed.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

pub mod course;
pub mod excused;
pub mod happening;
pub mod ledger;
pub mod turns;

use std::fmt::{Debug, Display};
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};

use testbed::Testbed;

/// The variable that names the one case to run.
pub const CASE: &str = "CASE";

/// The one case to run, where somebody asks for one.
///
/// # Panics
/// The variable holds something else.
pub fn asked_for<C: FromStr<Err: Debug>>() -> Option<C> {
    let text = std::env::var(CASE).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{CASE} is no case of this test: {error:?}")))
}

/// Whether all is to be run that there is, however long it takes: `.ci/run --all` says so.
pub fn everything() -> bool {
    std::env::var_os("EVERYTHING").is_some()
}

/// What a person types to run this case alone.
pub fn replay(test: &str, case: &impl Display) -> String {
    format!("{CASE}='{case}' cargo exhaustive --test {test}")
}

/// The kind of a failure: what was broken, without the ids and times in it.
pub fn kind(what: &str) -> String {
    let what = what.split(": Key {").next().unwrap_or_default().split(", after call").next().unwrap_or_default();
    let plain = |word: &&str| !word.chars().any(|c| c.is_ascii_digit()) || word.starts_with(['I', '(']);
    what.split(' ').filter(plain).collect::<Vec<_>>().join(" ")
}

/// Does every piece of work, one after the other on each core, on a testbed of that core's own.
pub fn on_every_core(pieces: usize, executions: usize, work: impl AsyncFn(&Testbed, usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let testbed = Testbed::new(executions).await;
                    loop {
                        let piece = next.fetch_add(1, Ordering::SeqCst);
                        if piece >= pieces {
                            break;
                        }
                        work(&testbed, piece).await;
                    }
                });
            });
        }
    });
}
