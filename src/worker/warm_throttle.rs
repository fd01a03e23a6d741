//! Decides how much warming may go on beside producers' jobs. Pure: the caller says what happened and what time it is.
//!
//! While jobs come, one small warming batch is in flight at a time, and rests follow it so that warming has no more than its
//! share of the time: a job that comes meanwhile finds the servers and the model all but idle. Once no job has come for a
//! while, warming may use whatever there is. A batch that takes long, because its lane has jobs that go first, holds up the warming of
//! other lanes for a bounded time.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Time for which a batch in flight holds back others, and of which its rest is reckoned.
const LONGEST: Duration = Duration::from_secs(5);

/// What may be sent on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowance {
    /// Nothing before this moment, unless a batch ends earlier.
    Nothing(Instant),
    /// One job by itself.
    One,
    /// As much as a batch takes.
    Many,
}

/// How far warming stands back.
#[derive(Debug)]
pub struct WarmThrottle {
    /// Time without jobs after which warming may use everything.
    idle: Duration,
    /// Share of the time that warming may have while jobs come, 0 to 1.
    share: f64,
    /// Batches of warming that may be in flight while no jobs come.
    max: usize,
    last_job: Option<Instant>,
    /// When those in flight were sent on their way.
    running: Vec<Instant>,
    rest_until: Option<Instant>,
}

impl WarmThrottle {
    /// Nothing has come yet.
    pub fn new(idle: Duration, share: f64, max: usize) -> Self {
        Self {
            idle,
            share: share.clamp(0.001, 1.0),
            max: max.max(1),
            last_job: None,
            running: Vec::new(),
            rest_until: None,
        }
    }

    /// Notes a producer's job.
    pub fn job(&mut self, now: Instant) {
        self.last_job = Some(now);
    }

    /// Notes that a batch of warming goes on its way.
    pub fn start(&mut self, now: Instant) {
        self.running.push(now);
    }

    /// Notes that the one has ended that went on its way at `began`.
    pub fn end(&mut self, now: Instant, began: Instant) {
        if let Some(at) = self.running.iter().position(|one| *one == began) {
            self.running.swap_remove(at);
        }
        let took = now.saturating_duration_since(began).min(LONGEST);
        self.rest_until = Some(now + took.mul_f64(1.0 / self.share - 1.0));
    }

    /// What may be sent on its way now.
    pub fn allowance(&self, now: Instant) -> Allowance {
        let idle_from = self.last_job.map(|at| at + self.idle);
        let is_idle = idle_from.is_none_or(|from| from <= now);
        let ends = self.running.iter().map(|began| *began + LONGEST);
        let mut ends: Vec<Instant> = ends.filter(|end| *end > now).collect();
        ends.sort_unstable();
        let max = if is_idle { self.max } else { 1 };
        // So many have to go before there is room for one more.
        let over = ends.len().checked_sub(max);
        if let Some(until) = over.and_then(|over| ends.get(over)) {
            return Allowance::Nothing(*until);
        }
        if is_idle {
            return Allowance::Many;
        }
        match self.rest_until {
            Some(until) if until > now => {
                Allowance::Nothing(idle_from.map_or(until, |from| from.min(until)))
            }
            _ => Allowance::One,
        }
    }
}

/// A batch of warming in flight.
pub(super) struct WarmBatch(Arc<Mutex<WarmThrottle>>, Instant);

impl WarmBatch {
    /// It goes on its way now, and has ended when this is dropped.
    pub(super) fn start(throttle: Arc<Mutex<WarmThrottle>>) -> Self {
        let now = Instant::now();
        throttle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .start(now);
        Self(throttle, now)
    }
}

impl Drop for WarmBatch {
    fn drop(&mut self) {
        let mut throttle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        throttle.end(Instant::now(), self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warming_has_its_share_while_jobs_come_and_everything_once_they_do_not() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut throttle = WarmThrottle::new(Duration::from_millis(1_000), 0.1, 2);
        assert_eq!(throttle.allowance(at(0)), Allowance::Many);
        throttle.start(at(0));
        assert_eq!(throttle.allowance(at(0)), Allowance::Many);
        throttle.start(at(2));
        assert_eq!(throttle.allowance(at(2)), Allowance::Nothing(at(5_000)));

        // A job comes: the two that are in flight are let go on, and no third starts.
        throttle.job(at(5));
        throttle.end(at(10), at(0));
        assert_eq!(throttle.allowance(at(10)), Allowance::Nothing(at(5_002)));
        throttle.end(at(12), at(2));
        assert_eq!(throttle.allowance(at(12)), Allowance::Nothing(at(102)));
        assert_eq!(throttle.allowance(at(102)), Allowance::One);
        throttle.start(at(102));
        assert_eq!(throttle.allowance(at(102)), Allowance::Nothing(at(5_102)));
        // It took so long that jobs have stopped before its rest is over.
        throttle.end(at(900), at(102));
        assert_eq!(throttle.allowance(at(900)), Allowance::Nothing(at(1_005)));
        assert_eq!(throttle.allowance(at(1_005)), Allowance::Many);
    }

    #[test]
    fn warming_of_a_lane_that_has_no_time_for_it_does_not_hold_up_all_warming() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut throttle = WarmThrottle::new(Duration::from_secs(10), 0.5, 2);
        throttle.job(at(0));
        throttle.start(at(0));
        assert_eq!(throttle.allowance(at(1)), Allowance::Nothing(at(5)));
        assert_eq!(throttle.allowance(at(5)), Allowance::One);
        throttle.start(at(5));
        assert_eq!(throttle.allowance(at(5)), Allowance::Nothing(at(10)));
        throttle.end(at(6), at(5));
        // Its rest is reckoned of no more than it held others back.
        throttle.end(at(600), at(0));
        throttle.job(at(600));
        assert_eq!(throttle.allowance(at(600)), Allowance::Nothing(at(605)));
    }
}
