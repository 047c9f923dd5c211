//! Who puts calls into an order: a test that holds them, and somebody else who is faster.

use std::sync::Mutex;

use emulator::{BoxFuture, Call, Emulator};

/// Decides when a call may go on.
pub trait Gate: Send + Sync {
    /// Waits until it may.
    fn pass<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, ()>;
}

/// What somebody else does.
pub(crate) type Act = Box<dyn FnOnce(&Emulator) + Send>;

/// Somebody else is faster: something happens once, right before a call of this operation.
pub(crate) struct Meanwhile {
    pub(crate) operation: &'static str,
    pub(crate) emulator: Emulator,
    pub(crate) act: Mutex<Option<Act>>,
}

impl Gate for Meanwhile {
    fn pass<'a>(&'a self, call: &'a Call) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if call.operation != self.operation {
                return;
            }
            let act = self.act.lock().unwrap().take();
            if let Some(act) = act {
                act(&self.emulator);
            }
        })
    }
}
