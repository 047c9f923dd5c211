//! Who puts calls into an order: a test that holds them, and somebody else who is faster.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use emulator::{BoxFuture, Call, Emulator};

/// Decides when a call may go on.
pub trait Gate: Send + Sync {
    /// Waits until it may.
    fn pass<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, ()>;
}

/// What somebody else does.
pub(crate) type Act = Box<dyn FnOnce(&Emulator) + Send>;

/// Somebody else is faster: something happens once, right before a call of this operation: the first, or a later one.
pub(crate) struct Meanwhile {
    pub(crate) operation: &'static str,
    /// How many calls of it still pass before.
    pub(crate) passing: AtomicUsize,
    pub(crate) emulator: Emulator,
    pub(crate) act: Mutex<Option<Act>>,
}

impl Gate for Meanwhile {
    fn pass<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if call.operation != self.operation {
                return;
            }
            let passes = |left: usize| left.checked_sub(1);
            if self.passing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, passes).is_ok() {
                return;
            }
            let act = self.act.lock().unwrap().take();
            if let Some(act) = act {
                act(&self.emulator);
            }
        })
    }
}
