//! The emulator's clock: real time that can be pushed forward, or frozen time that moves only when told to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

/// A clock that every part of an emulator shares; cloning it gives another handle to the same clock.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Mutex<Inner>>);

impl Clock {
    /// Follows the machine's clock, plus whatever [`Clock::advance`] adds.
    pub fn real() -> Self {
        Self(Arc::new(Mutex::new(Inner { frozen_at: None, offset: Duration::ZERO, timers: BTreeMap::new(), next: 0 })))
    }

    /// Stands still at `start`, until [`Clock::advance`] or [`Clock::fire_next_timer`] moves it.
    pub fn frozen(start: SystemTime) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            frozen_at: Some(start),
            offset: Duration::ZERO,
            timers: BTreeMap::new(),
            next: 0,
        })))
    }

    /// The time now.
    pub fn now(&self) -> SystemTime {
        self.lock().now()
    }

    /// Seconds since 1970, with a fraction: how both services write a point in time.
    pub fn epoch_seconds(&self) -> f64 {
        self.now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
    }

    /// Moves the clock forward. Timers that have become due on a frozen clock end.
    pub fn advance(&self, by: Duration) {
        let mut inner = self.lock();
        inner.offset += by;
        inner.end_due_timers();
    }

    /// Moves a frozen clock to the moment at which its next timer ends. False where no timer runs.
    ///
    /// This is how a test lets a client's time-out happen in no time at all.
    pub fn fire_next_timer(&self) -> bool {
        let mut inner = self.lock();
        inner.timers.retain(|_, done| !done.is_closed());
        let Some((&(due, _), _)) = inner.timers.first_key_value() else { return false };
        let now = inner.now();
        inner.offset += due.duration_since(now).unwrap_or_default();
        inner.end_due_timers();
        true
    }

    /// Whether the clock moves only when told to.
    pub fn is_frozen(&self) -> bool {
        self.lock().frozen_at.is_some()
    }

    /// Takes back every [`Clock::advance`], so that a next test case starts where this one did. Timers that still run never end: a
    /// task that waits for one belongs to a case that is over, and must not act in the next.
    pub fn rewind(&self) {
        let mut inner = self.lock();
        inner.offset = Duration::ZERO;
        inner.timers.clear();
    }

    /// Waits until `duration` has passed on this clock.
    pub async fn timer(&self, duration: Duration) {
        let ended = {
            let mut inner = self.lock();
            match inner.frozen_at {
                None => None,
                Some(_) if duration.is_zero() => return,
                Some(_) => {
                    let (done, ended) = oneshot::channel();
                    let key = (inner.now() + duration, inner.next);
                    inner.next += 1;
                    inner.timers.insert(key, done);
                    Some(ended)
                }
            }
        };
        match ended {
            None => tokio::time::sleep(duration).await,
            // The sender is dropped by `rewind` alone, or with the clock itself.
            Some(ended) => match ended.await {
                Ok(()) => {}
                Err(_) => std::future::pending().await,
            },
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Inner {
    /// `None`: follow the machine's clock.
    frozen_at: Option<SystemTime>,
    offset: Duration,
    /// Keyed by due time, then by the order of their start.
    timers: BTreeMap<(SystemTime, u64), oneshot::Sender<()>>,
    next: u64,
}

impl Inner {
    fn now(&self) -> SystemTime {
        self.frozen_at.unwrap_or_else(SystemTime::now) + self.offset
    }

    fn end_due_timers(&mut self) {
        let now = self.now();
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            // A waiter that is gone does not mind.
            let _ = entry.remove().send(());
        }
    }
}
