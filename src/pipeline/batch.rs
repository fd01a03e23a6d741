//! Owns the decision when a batch of jobs is complete.
//!
//! Pure: the caller says what arrived and what time it is.

use crate::{config::Intake, telemetry::metrics::CloseReason};
use std::time::{Duration, Instant};

/// Bytes of a body that count as one token.
const BYTES_PER_TOKEN: usize = 4;

/// What limits a batch.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub jobs: usize,
    pub tokens: usize,
    pub wait: Duration,
}

impl From<&Intake> for Limits {
    fn from(settings: &Intake) -> Self {
        Self {
            jobs: settings.batch_jobs,
            tokens: settings.batch_tokens,
            wait: Duration::from_millis(settings.batch_wait_ms),
        }
    }
}

/// A batch that is being filled.
#[derive(Debug)]
pub struct Filling<T> {
    limits: Limits,
    jobs: Vec<T>,
    tokens: usize,
    since: Option<Instant>,
}

impl<T> Filling<T> {
    /// An empty batch.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            jobs: Vec::new(),
            tokens: 0,
            since: None,
        }
    }

    /// Adds a job with a body of `bytes`; says why the batch is to be closed now, if it is.
    pub fn push(&mut self, job: T, bytes: usize, now: Instant) -> Option<CloseReason> {
        self.jobs.push(job);
        self.tokens = self.tokens.saturating_add(bytes / BYTES_PER_TOKEN);
        self.since.get_or_insert(now);
        if self.jobs.len() >= self.limits.jobs {
            Some(CloseReason::Size)
        } else if self.tokens >= self.limits.tokens {
            Some(CloseReason::Tokens)
        } else {
            None
        }
    }

    /// When the batch is to be closed although it isn't full. With nothing else in flight that is at once:
    /// waiting would only make a lone job late.
    pub fn deadline(&self, others_in_flight: bool) -> Option<Instant> {
        self.since.map(|since| {
            if others_in_flight {
                since + self.limits.wait
            } else {
                since
            }
        })
    }

    /// Jobs so far.
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Takes the jobs out, and starts a new batch.
    pub fn take(&mut self) -> Vec<T> {
        self.tokens = 0;
        self.since = None;
        std::mem::take(&mut self.jobs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filling() -> Filling<u32> {
        Filling::new(Limits {
            jobs: 3,
            tokens: 100,
            wait: Duration::from_millis(5),
        })
    }

    #[test]
    fn closes_by_size_and_starts_a_new_batch() {
        let (mut batch, now) = (filling(), Instant::now());
        assert_eq!([batch.push(1, 0, now), batch.push(2, 0, now)], [None, None]);
        assert_eq!(batch.push(3, 0, now), Some(CloseReason::Size));
        assert_eq!(batch.take(), [1, 2, 3]);
        assert!(batch.is_empty());
        assert_eq!(batch.push(4, 0, now), None);
    }

    #[test]
    fn closes_by_tokens() {
        let mut batch = filling();
        assert_eq!(batch.push(1, 396, Instant::now()), None);
        assert_eq!(batch.push(2, 4, Instant::now()), Some(CloseReason::Tokens));
    }

    #[test]
    fn waits_only_while_others_are_in_flight() {
        let (mut batch, now) = (filling(), Instant::now());
        assert_eq!(batch.deadline(false), None);
        batch.push(1, 0, now);
        batch.push(2, 0, now + Duration::from_millis(2));
        assert_eq!(batch.deadline(false), Some(now));
        assert_eq!(batch.deadline(true), Some(now + Duration::from_millis(5)));
    }
}
