//! The true request rates of a generated trace, which the oracle policy knows.

/// The true request rate of each key of a generated trace.
#[derive(Debug, Clone, Default)]
pub struct TrueRates {
    /// Share of each key in the steady part.
    pub(super) steady: Vec<f64>,
    /// Keys that are requested more for a while.
    pub(super) bursts: Vec<Burst>,
    /// Requests per second of the steady part, and how far that swings over the trace.
    pub(super) base: f64,
    pub(super) swing: f64,
    pub(super) length: f64,
}

/// A key that is requested more for a while.
#[derive(Debug, Clone)]
pub(super) struct Burst {
    pub key: u32,
    pub from: f64,
    pub to: f64,
    /// Requests per second at the peak.
    pub top: f64,
    /// Whether it rises and falls gradually, or starts and stops at once.
    pub gradual: bool,
}

impl Burst {
    /// Requests per second at `at`.
    pub fn rate(&self, at: f64) -> f64 {
        if at < self.from || at >= self.to {
            return 0.0;
        }
        if !self.gradual {
            return self.top;
        }
        let share = (at - self.from) / (self.to - self.from);
        self.top * (1.0 - (2.0 * share - 1.0).abs())
    }
}

impl TrueRates {
    /// Requests per second of the steady part at `at`.
    pub(super) fn level(&self, at: f64) -> f64 {
        self.base * (1.0 + self.swing * (std::f64::consts::TAU * at / self.length).sin())
    }

    /// Requests per second for every key at `at`.
    pub fn rates(&self, at: f64) -> Vec<f64> {
        let level = self.level(at);
        let mut rates: Vec<f64> = self.steady.iter().map(|share| share * level).collect();
        for burst in &self.bursts {
            if let Some(rate) = rates.get_mut(burst.key as usize) {
                *rate += burst.rate(at);
            }
        }
        rates
    }
}
