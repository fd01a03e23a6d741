//! A running mean of what a model's inputs cost, by which warming weighs its work.

use super::rows::Rows;
use std::sync::atomic::{AtomicU64, Ordering};

/// Share of the newest call in the running mean.
const NEWEST: f64 = 0.05;

/// Seconds of model time a unit, a running mean. A unit is a row of features, or a byte of text.
#[derive(Debug, Default)]
pub(super) struct Cost {
    mean: AtomicU64,
    /// What stands for it before the first call.
    guess: Option<f64>,
}

impl Cost {
    /// No call was recorded yet; `guess` stands for the mean until then.
    pub fn guessed(guess: Option<f64>) -> Self {
        Self {
            mean: AtomicU64::new(0),
            guess,
        }
    }

    /// The units that rows have.
    pub fn units(rows: &Rows) -> f64 {
        match rows {
            Rows::Features { .. } => rows.len() as f64,
            Rows::Texts(texts) => texts
                .iter()
                .map(|t| text_units(&t.text, t.text_pair.as_deref()))
                .sum(),
        }
    }

    /// Records a call.
    pub fn record(&self, units: f64, seconds: f64) {
        if units <= 0.0 || !seconds.is_finite() {
            return;
        }
        let newest = seconds / units;
        let mean = match self.measured() {
            Some(mean) => mean + NEWEST * (newest - mean),
            None => newest,
        };
        // Two calls at once may lose one of their records: the mean is as good.
        self.mean.store(mean.to_bits(), Ordering::Relaxed);
    }

    fn measured(&self) -> Option<f64> {
        let mean = f64::from_bits(self.mean.load(Ordering::Relaxed));
        (mean > 0.0).then_some(mean)
    }

    /// The mean, once there was a call; before, what was guessed.
    pub fn seconds_per_unit(&self) -> Option<f64> {
        self.measured().or(self.guess)
    }
}

/// Units of one text. A short one costs its special tokens and its share of the call, too.
pub(super) fn text_units(text: &str, pair: Option<&str>) -> f64 {
    (8 + text.len() + pair.map_or(0, str::len)) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_follows_what_calls_cost() {
        let cost = Cost::default();
        assert_eq!(cost.seconds_per_unit(), None);
        cost.record(10.0, 1.0);
        assert_eq!(cost.seconds_per_unit(), Some(0.1));
        for _ in 0..200 {
            cost.record(10.0, 2.0);
        }
        let mean = cost.seconds_per_unit().expect("known");
        assert!((mean - 0.2).abs() < 1e-3, "{mean}");
        cost.record(0.0, 1.0);
        assert_eq!(cost.seconds_per_unit(), Some(mean));
    }
}
