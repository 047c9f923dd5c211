//! Time as the function sees it.

use std::pin::Pin;
use std::time::{Duration, SystemTime};

/// A wait that can be stored and sent.
pub type Wait = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The clock is passed in, so that the tests can let hours of waiting pass in no time, in an order that they choose.
pub trait Clock: Send + Sync {
    /// The time now.
    fn now(&self) -> SystemTime;

    /// Waits while nothing else goes on in this execution: between two attempts, between two looks.
    fn pause(&self, duration: Duration) -> Wait;

    /// Ends after `duration`; raced against a call whose answer may never come.
    fn timer(&self, duration: Duration) -> Wait;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn pause(&self, duration: Duration) -> Wait {
        Box::pin(tokio::time::sleep(duration))
    }

    fn timer(&self, duration: Duration) -> Wait {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// Whole seconds since 1970, as Kosli and the marker count time. Times before 1970 count as 0.
pub(crate) fn epoch_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A point in time from seconds since 1970.
pub(crate) fn from_epoch_seconds(seconds: u64) -> SystemTime {
    // The year 9999: nothing that a service says about a key's end may overflow the arithmetic.
    const LATEST: u64 = 253_402_300_799;
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(LATEST))
}

/// RFC 3339 in UTC, to the second: how every instant is shown to a person.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    use aws_smithy_types::date_time::{DateTime, Format};
    let seconds = i64::try_from(epoch_seconds(time)).unwrap_or(i64::MAX);
    DateTime::from_secs(seconds).fmt(Format::DateTime).unwrap_or_else(|_| format!("{seconds} s after 1970"))
}
