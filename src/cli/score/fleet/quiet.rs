//! Owns for how long nothing has come of a run's jobs.

use std::time::{Duration, Instant};

/// How long no reply may come before the broker is asked what waits.
pub(super) const FIRST: Duration = Duration::from_secs(5);

/// How long nothing has happened.
pub(super) struct Quiet {
    pub since: Instant,
    pub last_look: Instant,
    pub wait: Duration,
    pub has_replied: bool,
    pub has_said: bool,
}

impl Quiet {
    pub fn new() -> Self {
        Self {
            since: Instant::now(),
            last_look: Instant::now(),
            wait: FIRST,
            has_replied: false,
            has_said: false,
        }
    }

    /// A job was posted where none was open before, or so.
    pub fn something_happened(&mut self) {
        self.since = Instant::now();
    }

    /// A reply came.
    pub fn replied(&mut self) {
        *self = Self {
            has_replied: true,
            ..Self::new()
        };
    }
}
