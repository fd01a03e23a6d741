//! Running means of what a model's inputs cost, by their length, by which warming weighs its work.

use super::rows::Rows;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Share of the newest call in a running mean.
const NEWEST: f64 = 0.05;
/// Classes of length: class `n` is of inputs with `2^n` units and more, and fewer than twice as many; the last one has no end.
const CLASSES: usize = 17;

/// What inputs of about one length cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LengthCost {
    /// The binary logarithm of their units, rounded down. A unit is a row of features, or a byte of text.
    pub class: u8,
    /// Model time, in seconds.
    pub seconds_per_unit: f64,
    /// Whether calls have measured it, or golden inputs.
    pub is_measured: bool,
}

/// Seconds of model time a unit.
#[derive(Debug, Default)]
pub(super) struct Cost([Class; CLASSES]);

#[derive(Debug, Default)]
struct Class {
    /// The bits of a running mean; 0 before the first call.
    mean: AtomicU64,
    /// The bits of what others say, 0 where they don't; and whether calls of theirs on the same kind of machine have measured it.
    said: AtomicU64,
    is_said_measured: AtomicBool,
    /// The bits of what golden inputs took; 0 where there are none.
    golden: AtomicU64,
}

impl Class {
    fn seconds_per_unit(&self) -> Option<f64> {
        let all = [&self.mean, &self.said, &self.golden];
        all.into_iter().find_map(known)
    }
}

fn known(bits: &AtomicU64) -> Option<f64> {
    let seconds = f64::from_bits(bits.load(Ordering::Relaxed));
    (seconds > 0.0).then_some(seconds)
}

/// The class of inputs with so many units.
fn class_of(units: f64) -> usize {
    let class = (units as u64).max(1).ilog2();
    (class as usize).min(CLASSES - 1)
}

impl Cost {
    /// No call was recorded yet, and inputs of so many units took so many seconds each.
    pub fn of_goldens(goldens: &[(f64, f64)]) -> Self {
        let cost = Self::default();
        for (units, seconds) in goldens {
            let Some(class) = cost.0.get(class_of(*units)) else {
                continue;
            };
            // The first pass over new weights is slow: the quickest one tells.
            let seconds = seconds / units.max(1.0);
            let quickest = known(&class.golden).map_or(seconds, |known| known.min(seconds));
            class.golden.store(quickest.to_bits(), Ordering::Relaxed);
        }
        cost
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

    /// Records a call for so many rows, which have so many units together.
    pub fn record(&self, rows: usize, units: f64, seconds: f64) {
        if units <= 0.0 || !seconds.is_finite() {
            return;
        }
        let newest = seconds / units;
        let Some(class) = self.0.get(class_of(units / rows.max(1) as f64)) else {
            return;
        };
        let mean = match known(&class.mean) {
            Some(mean) => mean + NEWEST * (newest - mean),
            None => newest,
        };
        // Two calls at once may lose one of their records: the mean is as good.
        class.mean.store(mean.to_bits(), Ordering::Relaxed);
    }

    /// What an input of so many units is expected to cost, in seconds: by inputs of its length, or else by those whose length is nearest. Nothing
    /// where nothing is known.
    pub fn expected_seconds(&self, units: f64) -> Option<f64> {
        let own = class_of(units);
        let of = |class: usize| self.0.get(class)?.seconds_per_unit();
        let nearest = || {
            let both = (1..CLASSES).flat_map(|away| [own.checked_add(away), own.checked_sub(away)]);
            both.flatten().find_map(of)
        };
        Some(of(own).or_else(nearest)? * units)
    }

    /// Whether calls have measured any of it, its own or others' on the same kind of machine.
    pub fn is_measured(&self) -> bool {
        self.0.iter().any(|class| {
            known(&class.mean).is_some() || class.is_said_measured.load(Ordering::Relaxed)
        })
    }

    /// What its own calls and golden inputs say.
    pub fn own(&self) -> Vec<LengthCost> {
        let own = (0u8..).zip(&self.0).filter_map(|(number, class)| {
            let mean = known(&class.mean);
            Some(LengthCost {
                class: number,
                seconds_per_unit: mean.or_else(|| known(&class.golden))?,
                is_measured: mean.is_some(),
            })
        });
        own.collect()
    }

    /// Takes what others know for what it doesn't know from calls of its own. Theirs is measured if calls on the same kind of machine have measured it.
    pub fn adopt(&self, costs: &[LengthCost]) {
        for one in costs {
            let is_sound = one.seconds_per_unit.is_finite() && one.seconds_per_unit > 0.0;
            if let Some(class) = self.0.get(usize::from(one.class)).filter(|_| is_sound) {
                let bits = one.seconds_per_unit.to_bits();
                class.said.store(bits, Ordering::Relaxed);
                let is_measured = one.is_measured;
                class.is_said_measured.store(is_measured, Ordering::Relaxed);
            }
        }
    }
}

/// Units of one text. A short one costs its special tokens and its share of the call, too.
pub(super) fn text_units(text: &str, pair: Option<&str>) -> f64 {
    (8 + text.len() + pair.map_or(0, str::len)) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_near(found: Option<f64>, expected: f64) {
        let found = found.expect("known");
        assert!((found / expected - 1.0).abs() < 0.01, "{found}: {expected}");
    }

    #[test]
    fn the_mean_follows_what_calls_cost() {
        let cost = Cost::default();
        assert_eq!(cost.expected_seconds(10.0), None);
        assert!(!cost.is_measured() && cost.own().is_empty());
        cost.record(1, 10.0, 1.0);
        is_near(cost.expected_seconds(10.0), 1.0);
        for _ in 0..200 {
            cost.record(1, 10.0, 2.0);
        }
        is_near(cost.expected_seconds(10.0), 2.0);
        let before = cost.own();
        cost.record(1, 0.0, 1.0);
        assert_eq!(cost.own(), before);
    }

    #[test]
    fn long_inputs_have_a_cost_of_their_own() {
        let cost = Cost::default();
        cost.record(4, 4.0 * 20.0, 4.0 * 0.02);
        cost.record(1, 2_000.0, 60.0);
        is_near(cost.expected_seconds(20.0), 0.02);
        is_near(cost.expected_seconds(2_000.0), 60.0);
        // Of lengths that weren't seen the nearest one tells, of two the longer.
        is_near(cost.expected_seconds(10.0), 0.01);
        is_near(cost.expected_seconds(8_000.0), 240.0);
        is_near(cost.expected_seconds(300.0), 9.0);
        assert!(cost.expected_seconds(1e12).is_some());
    }

    #[test]
    fn what_calls_measured_is_stronger_than_what_others_say_and_that_than_golden_inputs() {
        let cost = Cost::of_goldens(&[(20.0, 0.4), (20.0, 0.2), (500.0, 5.0)]);
        is_near(cost.expected_seconds(20.0), 0.2);
        is_near(cost.expected_seconds(500.0), 5.0);
        assert!(!cost.is_measured());
        let said = |seconds_per_unit| LengthCost {
            class: 4,
            seconds_per_unit,
            is_measured: false,
        };
        cost.adopt(&[said(0.02), said(f64::NAN), said(0.0)]);
        is_near(cost.expected_seconds(20.0), 0.4);
        assert!(!cost.is_measured(), "nobody has measured it");
        cost.record(1, 20.0, 0.6);
        cost.adopt(&[said(0.02)]);
        is_near(cost.expected_seconds(20.0), 0.6);
        let own = cost.own();
        assert_eq!((own.len(), own[0].is_measured), (2, true));
        assert!(!own[1].is_measured && (own[1].seconds_per_unit - 0.01).abs() < 1e-9);
    }

    #[test]
    fn what_calls_of_others_have_measured_counts_as_measured_and_is_not_told_as_its_own() {
        let cost = Cost::of_goldens(&[(20.0, 0.2)]);
        let said = |is_measured| LengthCost {
            class: 4,
            seconds_per_unit: 0.02,
            is_measured,
        };
        cost.adopt(&[said(true)]);
        assert!(cost.is_measured());
        assert!(cost.own().iter().all(|one| !one.is_measured));
        // What another kind of machine takes is no measurement.
        cost.adopt(&[said(false)]);
        assert!(!cost.is_measured());
    }
}
