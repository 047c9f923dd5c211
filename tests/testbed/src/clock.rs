//! Time: when every case begins, and the emulator's clock as the function's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use emulator::Emulator;
use kosli_key_rotation::clock::{Clock, Wait};

/// An hour.
pub const HOUR: Duration = Duration::from_secs(3_600);
/// A day.
pub const DAY: Duration = Duration::from_secs(86_400);

/// When every case begins.
pub fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// The emulator's clock as the function's: a pause lets time pass, a timer only waits for it.
pub(crate) struct EmulatorClock(pub(crate) Emulator);

impl Clock for EmulatorClock {
    fn now(&self) -> SystemTime {
        self.0.clock().now()
    }

    fn pause(&self, duration: Duration) -> Wait {
        let emulator = self.0.clone();
        Box::pin(async move { emulator.sleep(duration).await })
    }

    fn timer(&self, duration: Duration) -> Wait {
        let clock = self.0.clock().clone();
        Box::pin(async move { clock.timer(duration).await })
    }
}

/// An instant as the function shows it.
pub fn rfc3339(time: SystemTime) -> String {
    use aws_smithy_types::date_time::{DateTime, Format};
    let seconds = time.duration_since(UNIX_EPOCH).unwrap().as_secs();
    DateTime::from_secs(seconds.try_into().unwrap()).fmt(Format::DateTime).unwrap()
}
