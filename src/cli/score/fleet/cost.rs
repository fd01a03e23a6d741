//! Owns where a block's inputs are cut into jobs: by the model time that they are expected to take, or by their number where nothing is known
//! of that.
//!
//! Pure but for asking what others know. The same rows with the same costs make the same jobs.

use crate::store::PostgresStore;
use kiln_contract::job::MAX_INPUTS;
use kiln_model::Model;
use std::collections::BTreeMap;

/// Model time of a job, in seconds.
const JOB_SECONDS: f64 = 1.0;
/// Inputs of a job where nothing is known of what they cost.
const UNKNOWN_INPUTS: usize = 512;
/// Bytes of a job's inputs after which it is cut, whatever their number.
const JOB_BYTES: usize = 1 << 20;
/// Jobs that one block is cut into by cost at the most.
const BLOCK_JOBS: f64 = 128.0;

/// What inputs cost, by the binary logarithm of their units.
pub(super) struct Costs {
    by_class: BTreeMap<u8, f64>,
}

/// What is known of a model's costs: what the fleet has measured, else what this machine knows.
pub(in crate::cli::score) async fn known(
    store: Option<&PostgresStore>,
    model: &Model,
) -> Vec<(u8, f64)> {
    let info = model.info();
    let version = (info.name.as_str(), info.version.as_str());
    let mut costs = BTreeMap::new();
    if let Some(store) = store {
        // A database that is away costs no more than jobs of another size.
        let shared = store.known_costs(version, "").await.unwrap_or_default();
        let shared = shared.iter().map(|one| one.cost);
        costs.extend(shared.map(|cost| (cost.class, cost.seconds_per_unit)));
    }
    if costs.is_empty() {
        let own = model.costs();
        costs.extend(own.iter().map(|one| (one.class, one.seconds_per_unit)));
    }
    costs.into_iter().collect()
}

impl Costs {
    /// Costs as a manifest keeps them.
    pub fn new(known: &[(u8, f64)]) -> Self {
        let sound = known
            .iter()
            .filter(|(_, seconds)| seconds.is_finite() && *seconds > 0.0);
        Self {
            by_class: sound.copied().collect(),
        }
    }

    /// What an input of so many bytes is expected to take, in seconds: by inputs of its length, or else by those whose length is nearest.
    fn seconds(&self, bytes: usize) -> Option<f64> {
        // A row of features is one unit, and a text at least eight.
        let units = match self.by_class.keys().all(|class| *class == 0) {
            true => 1,
            false => 8 + bytes,
        };
        let class = u8::try_from(units.ilog2()).unwrap_or(u8::MAX);
        let above = self.by_class.range(class..).next();
        let below = self.by_class.range(..class).next_back();
        let nearest = match (above, below) {
            (Some((one, a)), Some((other, b))) => {
                if one - class <= class - other {
                    a
                } else {
                    b
                }
            }
            (Some((_, one)), None) | (None, Some((_, one))) => one,
            (None, None) => return None,
        };
        Some(nearest * units as f64)
    }

    /// The numbers of inputs of the jobs that inputs of so many bytes each are cut into.
    pub fn cut(&self, sizes: &[usize], max_inputs: Option<usize>) -> Vec<usize> {
        let seconds: Vec<f64> = sizes
            .iter()
            .map(|bytes| self.seconds(*bytes).unwrap_or_default())
            .collect();
        let all: f64 = seconds.iter().sum();
        let max_seconds = JOB_SECONDS.max(all / BLOCK_JOBS);
        let usual = match self.by_class.is_empty() {
            true => UNKNOWN_INPUTS,
            false => MAX_INPUTS,
        };
        let max_inputs = max_inputs.unwrap_or(usual);
        let mut jobs = Vec::new();
        let (mut inputs, mut bytes, mut cost) = (0, 0, 0.0);
        for (size, seconds) in sizes.iter().zip(seconds) {
            let is_full =
                inputs >= max_inputs || bytes + size > JOB_BYTES || cost + seconds > max_seconds;
            if is_full && inputs > 0 {
                jobs.push(inputs);
                (inputs, bytes, cost) = (0, 0, 0.0);
            }
            inputs += 1;
            bytes += size;
            cost += seconds;
        }
        if inputs > 0 {
            jobs.push(inputs);
        }
        jobs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_cut_by_seconds_by_bytes_and_by_number() {
        let nothing = Costs::new(&[]);
        assert_eq!(nothing.cut(&[10; 1_100], None), [512, 512, 76]);
        assert_eq!(nothing.cut(&[10; 5], Some(2)), [2, 2, 1]);
        assert_eq!(nothing.cut(&[700_000; 3], None), [1, 1, 1]);
        assert!(nothing.cut(&[], None).is_empty());
        // 128 units at 1 ms each: 0.128 s an input.
        let dear = Costs::new(&[(7, 1e-3)]);
        assert_eq!(dear.cut(&[120; 20], None), [7, 7, 6]);
        let jobs = dear.cut(&[120; 4_096], None).len();
        assert!((100..200).contains(&jobs), "{jobs}");
        let cheap = Costs::new(&[(7, 1e-9)]);
        assert_eq!(cheap.cut(&[120; 4_096], None), [4_096]);
    }

    #[test]
    fn the_nearest_length_tells_and_nonsense_does_not() {
        let costs = Costs::new(&[(3, 1.0), (9, 2.0), (5, f64::NAN), (6, -1.0)]);
        assert_eq!(costs.seconds(2), Some(10.0));
        assert_eq!(costs.seconds(500), Some(1_016.0));
        assert_eq!(costs.seconds(24), Some(32.0));
        assert_eq!(Costs::new(&[(0, 0.0)]).seconds(5), None);
        assert_eq!(Costs::new(&[(0, 0.5)]).seconds(900), Some(0.5));
    }
}
