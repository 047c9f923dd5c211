//! What a test or a program that watches the emulator is asked and told.

use std::pin::Pin;

use crate::call::Call;
use crate::faults::Fault;

/// A future whose type is not named.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a test or a program wants to know of every call, and to decide about it.
///
/// It is told about calls to Secrets Manager and Kosli only, never about the Runtime API or the control pages.
pub trait Hook: Send + Sync {
    /// Before anything happens. It may wait (so that a test can put the calls of two executions into any order), and it
    /// may name a fault that the call shall meet. While it waits the call counts as being handled, and a frozen clock
    /// stands, unless it is [set aside](crate::Emulator::set_aside).
    fn before<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, Option<Fault>> {
        let _ = call;
        Box::pin(std::future::ready(None))
    }

    /// After the effect, or instead of it, and before the answer leaves: the moment to look at the services.
    fn after(&self, call: &Call) {
        let _ = call;
    }

    /// The call met [`Fault::KillBefore`] or [`Fault::KillAfter`]: end the process that made it, now.
    fn kill(&self, call: &Call) {
        let _ = call;
    }
}
