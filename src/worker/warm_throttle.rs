//! Decides how much warming may go on beside producers' jobs. Pure: the caller says what happened and what time it is.
//!
//! While jobs come, one small warming batch is in flight at a time, and rests follow it so that warming has no more than its
//! share of the time: a job that comes meanwhile finds the servers and the model all but idle. Once no job has come for a
//! while, warming may use whatever there is.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// What may be sent on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowance {
    /// Nothing before this moment; or, with none, before a batch has ended.
    Nothing(Option<Instant>),
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
    running: usize,
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
            running: 0,
            rest_until: None,
        }
    }

    /// Notes a producer's job.
    pub fn job(&mut self, now: Instant) {
        self.last_job = Some(now);
    }

    /// Notes that a batch of warming goes on its way.
    pub fn start(&mut self) {
        self.running += 1;
    }

    /// Notes that one has ended, and how long it took.
    pub fn end(&mut self, now: Instant, took: Duration) {
        self.running = self.running.saturating_sub(1);
        self.rest_until = Some(now + took.mul_f64(1.0 / self.share - 1.0));
    }

    /// What may be sent on its way now.
    pub fn allowance(&self, now: Instant) -> Allowance {
        let idle_from = self.last_job.map(|at| at + self.idle);
        if idle_from.is_none_or(|from| from <= now) {
            return if self.running < self.max {
                Allowance::Many
            } else {
                Allowance::Nothing(None)
            };
        }
        if self.running > 0 {
            return Allowance::Nothing(None);
        }
        match self.rest_until {
            Some(until) if until > now => {
                Allowance::Nothing(Some(idle_from.map_or(until, |from| from.min(until))))
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
        throttle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .start();
        Self(throttle, Instant::now())
    }
}

impl Drop for WarmBatch {
    fn drop(&mut self) {
        let mut throttle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        throttle.end(Instant::now(), self.1.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warming_has_its_share_while_jobs_come_and_everything_once_they_do_not() {
        let ms = Duration::from_millis;
        let start = Instant::now();
        let mut throttle = WarmThrottle::new(ms(1_000), 0.1, 2);
        assert_eq!(throttle.allowance(start), Allowance::Many);
        throttle.start();
        assert_eq!(throttle.allowance(start), Allowance::Many);
        throttle.start();
        assert_eq!(throttle.allowance(start), Allowance::Nothing(None));

        // A job comes: the two that are in flight are let go on, and no third starts.
        throttle.job(start + ms(5));
        throttle.end(start + ms(10), ms(10));
        assert_eq!(throttle.allowance(start + ms(10)), Allowance::Nothing(None));
        throttle.end(start + ms(12), ms(10));
        let rest = start + ms(102);
        assert_eq!(
            throttle.allowance(start + ms(12)),
            Allowance::Nothing(Some(rest))
        );
        assert_eq!(throttle.allowance(rest), Allowance::One);
        throttle.start();
        assert_eq!(throttle.allowance(rest), Allowance::Nothing(None));
        // It took so long that jobs have stopped before its rest is over.
        throttle.end(start + ms(900), ms(798));
        assert_eq!(
            throttle.allowance(start + ms(900)),
            Allowance::Nothing(Some(start + ms(1_005)))
        );
        assert_eq!(throttle.allowance(start + ms(1_005)), Allowance::Many);
    }
}
