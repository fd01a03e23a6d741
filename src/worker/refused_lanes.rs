//! Remembers which lanes' queues can't be used, and lets them rest.
//!
//! Promises that each reason is said once, and that workers which are refused together don't try again together.

use crate::health::Health;
use rand::Rng;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Rest of a lane whose queues couldn't be used, or were lost as soon as they were open.
const REST: Duration = Duration::from_secs(5);
/// Tries in a row that may fail before health says so.
pub(super) const SILENT_TRIES: u32 = 2;

/// Why a lane's queues can't be used, how often in a row that was tried, and when it is tried again.
struct Refused {
    reason: String,
    tries: u32,
    rests_until: Instant,
}

/// Lanes whose queues couldn't be used: a connection may end for that.
#[derive(Default)]
pub(super) struct RefusedLanes(BTreeMap<String, Refused>);

impl RefusedLanes {
    /// Whether a lane isn't to be tried yet.
    pub fn rests(&self, lane: &str) -> bool {
        let refused = self.0.get(lane);
        refused.is_some_and(|one| one.rests_until > Instant::now())
    }

    /// Forgets a lane; says whether it was refused.
    pub fn forget(&mut self, lane: &str) -> bool {
        self.0.remove(lane).is_some()
    }

    /// Says once why a lane's queues can't be used, and lets it rest. A first time is nothing: of workers that declare a queue at the same
    /// time, the broker refuses some.
    pub fn refuse(&mut self, lane: &str, reason: String, health: &Health) {
        let before = self.0.get(lane);
        let tries = before.map_or(1, |before| before.tries + 1);
        let is_said =
            before.is_some_and(|before| before.tries >= SILENT_TRIES && before.reason == reason);
        if tries >= SILENT_TRIES {
            health.lane_queues(lane, Err(&reason));
            if !is_said {
                tracing::warn!(lane, reason, "a lane's queues can't be used; trying again");
            }
        } else {
            tracing::info!(lane, reason, "a lane's queues are tried again");
        }
        // None at the same time as another worker.
        let rest = REST.mul_f64(rand::rng().random_range(0.1..=1.0));
        let refused = Refused {
            reason,
            tries,
            rests_until: Instant::now() + rest,
        };
        self.0.insert(lane.to_owned(), refused);
    }
}
