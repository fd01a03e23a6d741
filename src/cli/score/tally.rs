//! Owns what is counted of the rows: how they got their scores, labels, the distribution of scores, the longest inputs.
//!
//! Pure. Tallies of parts add up to that of the whole, and are kept in a manifest.

use crate::pipeline::InputCounts;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path};

/// The longest inputs that are named.
const LONGEST: usize = 10;
/// Bits of a score that its bucket drops: what is left tells values apart that differ by 3 %.
const DROPPED_BITS: u32 = 18;

/// What is counted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Tally {
    pub hits: u64,
    /// Inputs that the model has scored.
    #[serde(rename = "misses")]
    pub scored: u64,
    /// Of these, those that weren't looked up before: their model is faster than that.
    #[serde(default)]
    pub uncached: u64,
    pub coalesced: u64,
    /// Rows without a result, in the output or not.
    pub bad_rows: u64,
    /// Rows of the output.
    pub rows: u64,
    /// Of the bad rows, those that are rows of the output, with an error.
    #[serde(default)]
    pub error_rows: u64,
    pub labels: BTreeMap<String, u64>,
    pub scores: Scores,
    pub longest: Vec<Long>,
}

/// A long input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Long {
    pub bytes: usize,
    /// Its file, where there are several.
    pub file: Option<String>,
    pub line: u64,
    /// Seconds that its model is expected to take for it.
    pub seconds: Option<f64>,
}

/// How scores are distributed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Scores {
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
    /// Scores by their first bits, in order.
    buckets: BTreeMap<i64, u64>,
}

impl Scores {
    pub fn add(&mut self, score: f64) {
        if !score.is_finite() {
            return;
        }
        (self.min, self.max) = match self.count {
            0 => (score, score),
            _ => (self.min.min(score), self.max.max(score)),
        };
        self.count += 1;
        self.sum += score;
        *self.buckets.entry(bucket(score as f32)).or_default() += 1;
    }

    fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            (self.min, self.max) = (other.min, other.max);
        }
        self.count += other.count;
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        for (bucket, count) in &other.buckets {
            *self.buckets.entry(*bucket).or_default() += count;
        }
    }

    /// The score below which a share of all lies, to 3 %.
    fn quantile(&self, share: f64) -> f64 {
        let wanted = (share * self.count as f64).ceil().max(1.0) as u64;
        let mut below = 0;
        for (bucket, count) in &self.buckets {
            below += count;
            if below >= wanted {
                return f64::from(middle(*bucket)).max(self.min).min(self.max);
            }
        }
        self.max
    }

    /// What a report says of them; nothing where there were none.
    pub fn report(&self) -> Option<serde_json::Value> {
        (self.count > 0).then(|| {
            let quantile = |share| round(self.quantile(share));
            serde_json::json!({
                "count": self.count,
                "mean": round(self.sum / self.count as f64),
                "min": round(self.min),
                "p05": quantile(0.05),
                "p25": quantile(0.25),
                "p50": quantile(0.5),
                "p75": quantile(0.75),
                "p95": quantile(0.95),
                "max": round(self.max),
            })
        })
    }
}

fn round(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

/// Floats of one sign are in the order of their bits.
fn bucket(score: f32) -> i64 {
    let bits = i64::from(score.abs().to_bits() >> DROPPED_BITS);
    if score.is_sign_negative() {
        -bits - 1
    } else {
        bits
    }
}

fn middle(bucket: i64) -> f32 {
    let (bits, sign) = if bucket < 0 {
        (-bucket - 1, -1.0)
    } else {
        (bucket, 1.0)
    };
    let bits = u32::try_from(bits).unwrap_or_default();
    sign * f32::from_bits((bits << DROPPED_BITS) | (1 << (DROPPED_BITS - 1)))
}

impl Tally {
    /// Adds the inputs of one job.
    pub fn count(&mut self, counts: &InputCounts) {
        self.hits += counts.hits;
        self.scored += counts.misses;
        self.uncached += counts.uncached;
        self.coalesced += counts.coalesced;
    }

    /// Inputs that were scored or found.
    pub fn inputs(&self) -> u64 {
        self.hits + self.scored + self.coalesced
    }

    /// Inputs that were looked up and not found.
    pub fn misses(&self) -> u64 {
        self.scored.saturating_sub(self.uncached)
    }

    /// Adds those of another part.
    pub fn merge(&mut self, other: &Self) {
        self.hits += other.hits;
        self.scored += other.scored;
        self.uncached += other.uncached;
        self.coalesced += other.coalesced;
        self.bad_rows += other.bad_rows;
        self.rows += other.rows;
        self.error_rows += other.error_rows;
        for (label, count) in &other.labels {
            *self.labels.entry(label.clone()).or_default() += count;
        }
        self.scores.merge(&other.scores);
        self.longest.extend(other.longest.iter().cloned());
        self.cut();
    }

    /// Says of which file its longest inputs are.
    pub fn of_file(&mut self, file: Option<&Path>) {
        for long in &mut self.longest {
            long.file = file.map(|file| file.display().to_string());
        }
    }

    /// Adds an input's length, where it may be among the longest.
    pub fn note_length(&mut self, bytes: usize, line: u64) {
        let shortest = self.longest.last().map_or(0, |long| long.bytes);
        if self.longest.len() < LONGEST || bytes > shortest {
            self.longest.push(Long {
                bytes,
                file: None,
                line,
                seconds: None,
            });
            self.cut();
        }
    }

    fn cut(&mut self) {
        self.longest
            .sort_by_key(|long| (std::cmp::Reverse(long.bytes), long.line));
        self.longest.truncate(LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_to_the_whole_and_quantiles_are_near() {
        let values: Vec<f64> = (-500..=1500).map(|n| f64::from(n) / 1000.0).collect();
        let (mut whole, mut parts) = (Tally::default(), Tally::default());
        for part in values.chunks(300) {
            let mut one = Tally::default();
            for (line, value) in part.iter().enumerate() {
                one.scores.add(*value);
                whole.scores.add(*value);
                one.note_length(line, line as u64);
            }
            parts.merge(&one);
        }
        assert_eq!(parts.scores.buckets, whole.scores.buckets);
        let said = parts.scores.report().expect("scores");
        assert_eq!(
            (said["min"].as_f64(), said["max"].as_f64()),
            (Some(-0.5), Some(1.5))
        );
        for (name, expected) in [("p05", -0.4), ("p50", 0.5), ("p95", 1.4)] {
            let found = said[name].as_f64().expect("a number");
            assert!((found - expected).abs() < 0.04 * 1.5, "{name}: {found}");
        }
        assert_eq!(parts.longest.len(), LONGEST);
        assert_eq!(parts.longest[0].bytes, 299);
        let kept = serde_json::to_string(&parts).expect("JSON");
        assert_eq!(
            serde_json::from_str::<Tally>(&kept)
                .expect("a tally")
                .longest,
            parts.longest
        );
    }
}
