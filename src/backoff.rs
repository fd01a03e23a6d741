//! Owns the waits between attempts to reach a server: exponential, capped, with full jitter.
//!
//! The jitter follows "Exponential Backoff And Jitter" (Brooker, AWS Architecture Blog, 2015): a fleet that
//! lost its broker together must not come back together.

use crate::clock;
use rand::Rng;
use std::time::Duration;

/// Doubling waits from `first` to `max`, each drawn evenly from its upper half.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    attempts: u32,
}

impl Backoff {
    /// Waits start at `first` and never exceed `max`.
    pub fn new(first: Duration, max: Duration) -> Self {
        Self {
            first,
            max,
            attempts: 0,
        }
    }

    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        let doubled = self.first.saturating_mul(1u32 << self.attempts.min(16));
        self.attempts = self.attempts.saturating_add(1);
        let cap = doubled.min(self.max);
        cap.mul_f64(clock::rng().random_range(0.5..=1.0))
    }

    /// How many waits were handed out since the last [`Backoff::reset`].
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Starts over after a success.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_cap_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        for expected in [100, 200, 400, 800, 1600, 2000, 2000] {
            let wait = backoff.next_wait().as_millis();
            assert!(
                (expected / 2..=expected).contains(&wait),
                "{wait} ms for {expected} ms"
            );
        }
        backoff.reset();
        assert!(backoff.next_wait().as_millis() <= 100);
        for _ in 0..100 {
            assert!(backoff.next_wait() <= Duration::from_secs(2));
        }
    }
}
