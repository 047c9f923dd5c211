//! The invocation's time: every call has a time-out, every retry a bound, and all of it ends before the deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use crate::clock::Clock;

/// The function's time-out in the template; also for an invocation whose deadline makes no sense.
pub const TEMPLATE_TIMEOUT: Duration = Duration::from_secs(90);

/// What is kept back at the end of an invocation, to answer before Lambda kills the process.
const ANSWER_RESERVE: Duration = Duration::from_millis(1_500);

/// The pauses between two attempts of a call that may be repeated; a seventh attempt is the last.
const BACKOFF: [Duration; 6] = [
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];

/// The longest `Retry-After` that is waited for inside a step; after a longer one the step fails, to be retried.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(20);

/// No new attempt begins later than this after the first: time-outs in a row must not use up the invocation.
const RETRY_WINDOW: Duration = Duration::from_secs(25);

/// Less time than this is not worth another attempt.
const SHORTEST_ATTEMPT: Duration = Duration::from_secs(1);

/// What is left for the last attempt of a call that is repeated to the end.
const LAST_ATTEMPT: Duration = Duration::from_secs(2);

/// A pause, a little shortened by chance. Full pauses keep many secrets of one account in step with each other, and so does a
/// `Retry-After` that all of them are given: the jitter on top of it spreads them.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// What of an invocation's time is left.
#[derive(Clone)]
pub struct Budget {
    clock: Arc<dyn Clock>,
    started: SystemTime,
    deadline: SystemTime,
    /// Shared by all clones: the calls of one invocation.
    calls: Arc<AtomicUsize>,
}

/// The time-out passed before the call had ended.
#[derive(Debug)]
pub struct TimedOut(
    /// The time-out.
    pub Duration,
);

/// An error that can say whether the call may simply be made again.
pub trait Repeatable {
    /// `None`: a repetition is wrong or pointless. Otherwise how long the service asked to be left alone, often zero.
    fn repeat_after(&self) -> Option<Duration>;
}

impl Budget {
    /// The budget of an invocation that starts now and that Lambda ends at `deadline`.
    pub fn new(clock: Arc<dyn Clock>, deadline: SystemTime) -> Self {
        let started = clock.now();
        // No Lambda begins an invocation after its end; `cargo lambda watch` does (it counts from 1970).
        let deadline = if deadline <= started { started + TEMPLATE_TIMEOUT } else { deadline };
        Self { clock, started, deadline, calls: Arc::default() }
    }

    /// The same, but for its last moments: for what has something to come after it.
    #[must_use]
    pub fn less(&self, kept: Duration) -> Self {
        Self { deadline: self.deadline - kept, ..self.clone() }
    }

    /// The time now, on the clock that everything here goes by.
    pub fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// How long this invocation may last in all. This is the function's time-out, less the little that passed before the
    /// handler was called.
    pub fn function_timeout(&self) -> Duration {
        self.deadline.duration_since(self.started).unwrap_or_default()
    }

    /// How long this invocation has lasted.
    pub fn elapsed(&self) -> Duration {
        self.now().duration_since(self.started).unwrap_or_default()
    }

    /// How many calls have been made, repeated ones included.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// What is left, less the reserve for the answer.
    pub fn remaining(&self) -> Duration {
        self.deadline.duration_since(self.now()).unwrap_or_default().saturating_sub(ANSWER_RESERVE)
    }

    /// Makes one call, for `limit` at the most and never past the deadline.
    ///
    /// # Errors
    /// [`TimedOut`], when the call has been given up. Its effect may still come.
    pub async fn call<T>(&self, limit: Duration, call: impl Future<Output = T>) -> Result<T, TimedOut> {
        let limit = limit.min(self.remaining());
        self.calls.fetch_add(1, Ordering::Relaxed);
        tokio::select! {
            biased;
            result = call => Ok(result),
            () = self.clock.timer(limit) => Err(TimedOut(limit)),
        }
    }

    /// Waits, if there is room for the wait and for something after it. False: there is not, and no time has passed.
    #[must_use]
    pub async fn pause(&self, duration: Duration) -> bool {
        if self.remaining() < duration + SHORTEST_ATTEMPT {
            return false;
        }
        self.clock.pause(duration).await;
        true
    }

    /// Repeats a call that may be repeated, with growing, jittered pauses, until it succeeds, fails for good, or the
    /// attempts or the time are used up.
    ///
    /// # Errors
    /// The last attempt's error.
    pub async fn retry<T, E: Repeatable>(&self, mut call: impl AsyncFnMut() -> Result<T, E>) -> Result<T, E> {
        let first = self.now();
        let mut pauses = BACKOFF.iter();
        loop {
            let error = match call().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let (Some(asked), Some(&backoff)) = (error.repeat_after(), pauses.next()) else { return Err(error) };
            let elapsed = self.now().duration_since(first).unwrap_or_default();
            if asked > LONGEST_RETRY_AFTER || elapsed > RETRY_WINDOW || !self.pause(asked + jittered(backoff)).await {
                return Err(error);
            }
        }
    }

    /// Repeats a call as [`Budget::retry`] does, and goes on for as long as there is time: for what is worth more than all that could
    /// be done after it.
    ///
    /// # Errors
    /// The last attempt's error.
    pub async fn retry_to_the_end<T, E: Repeatable>(
        &self,
        mut call: impl AsyncFnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        let mut backoffs = BACKOFF.iter().chain(BACKOFF.last().into_iter().cycle());
        loop {
            let error = match call().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let (Some(asked), Some(&backoff)) = (error.repeat_after(), backoffs.next()) else { return Err(error) };
            // The last attempt uses what is left, however long the pause before it should be.
            let longest = self.remaining().saturating_sub(LAST_ATTEMPT);
            if longest.is_zero() || !self.pause((asked + jittered(backoff)).min(longest)).await {
                return Err(error);
            }
        }
    }
}
