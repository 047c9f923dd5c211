//! Requests per second, as services limit them.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

const SECOND: Duration = Duration::from_secs(1);

/// The requests that were admitted within the last second.
#[derive(Clone, Debug, Default)]
pub(crate) struct LastSecond(VecDeque<SystemTime>);

impl LastSecond {
    /// Whether one more is admitted now, where at most so many are in any one second. Who is refused does not count.
    pub(crate) fn admits(&mut self, most: usize, now: SystemTime) -> bool {
        while self.0.front().is_some_and(|&time| time + SECOND <= now) {
            self.0.pop_front();
        }
        let admitted = self.0.len() < most;
        if admitted {
            self.0.push_back(now);
        }
        admitted
    }
}
