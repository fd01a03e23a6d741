//! Divides the drain limit: what may still end when the worker is asked to stop, and until when. Pure.

use crate::config::Drain;
use std::time::Duration;

/// Until when what must have ended, from the signal on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DrainLimits {
    /// Jobs in hand.
    pub jobs: Duration,
    /// Those who took them, their last acknowledgements included, and HTTP requests.
    pub in_hand: Duration,
    /// Spans and the publishing connection.
    pub output: Duration,
    /// Everything.
    pub all: Duration,
}

impl DrainLimits {
    /// All but a second and a half belongs to the jobs; of a short limit, five eighths.
    pub(super) fn new(drain: &Drain) -> Self {
        let all = Duration::from_secs(drain.limit_seconds);
        let rest = (all / 4).min(Duration::from_secs(1));
        Self {
            jobs: all.saturating_sub(rest + rest / 2),
            in_hand: all.saturating_sub(rest),
            output: all.saturating_sub(rest / 4),
            all,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_of_the_limit_belongs_to_the_jobs() {
        let limits = |limit_seconds| DrainLimits::new(&Drain { limit_seconds });
        let ms = Duration::from_millis;
        let long = limits(25);
        assert_eq!((long.jobs, long.in_hand), (ms(23_500), ms(24_000)));
        assert_eq!((long.output, long.all), (ms(24_750), ms(25_000)));
        let short = limits(1);
        assert_eq!((short.jobs, short.in_hand), (ms(625), ms(750)));
        assert!(short.output < short.all);
    }
}
