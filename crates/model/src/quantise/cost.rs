//! How far a version in int8 is from the one in floats, over texts.

use std::collections::VecDeque;

use kiln_contract::model::{Precision, Task};
use serde::{Deserialize, Serialize};

use crate::rounding::unpacked;

/// Texts before it that an embedding is compared with.
const NEIGHBOURS: usize = 8;
/// A label that leads by more than this is a clear one.
const CLEAR_MARGIN: f32 = 0.05;

/// What int8 costs on some texts: `[quantised]` in a manifest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantisationCost {
    /// How many texts it was measured on.
    pub texts: usize,
    /// The largest difference of any output.
    pub largest_difference: f32,
    /// The mean difference of an output.
    pub mean_difference: f32,
    /// Spearman's rank correlation: of a classifier's probabilities of each text's label, of numbers, or of how similar texts'
    /// embeddings are. Missing where there are too few texts or all are the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank_correlation: Option<f32>,
    /// The mean cosine of the two embeddings of a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_cosine: Option<f32>,
    /// The lowest of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lowest_cosine: Option<f32>,
    /// The share of texts that get another label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flips: Option<f32>,
    /// The same of texts whose label in floats leads the next one by more than 0.05.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clear_flips: Option<f32>,
}

impl QuantisationCost {
    /// The field that is no such number, if one is.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let within = |field, value: Option<f32>, low: f32, high: f32| match value {
            Some(value) if !(low..=high).contains(&value) => Err(field),
            _ => Ok(()),
        };
        // A cosine of rounded floats may lie beyond 1 in its last digit.
        let high = 1.0 + 1e-3;
        let max = f32::MAX;
        within(
            "largest_difference",
            Some(self.largest_difference),
            0.0,
            max,
        )?;
        within("mean_difference", Some(self.mean_difference), 0.0, max)?;
        within("rank_correlation", self.rank_correlation, -high, high)?;
        within("mean_cosine", self.mean_cosine, -high, high)?;
        within("lowest_cosine", self.lowest_cosine, -high, high)?;
        within("flips", self.flips, 0.0, 1.0)?;
        within("clear_flips", self.clear_flips, 0.0, 1.0)
    }
}

/// Adds up what texts cost, one after the other. Of embeddings it keeps the last few alone.
#[derive(Debug)]
pub struct CostMeter {
    task: Task,
    precision: Precision,
    texts: usize,
    largest: f32,
    sum: f64,
    values: usize,
    /// Numbers whose order is compared, before and after.
    ranked: (Vec<f32>, Vec<f32>),
    cosines: (f64, f32),
    flips: usize,
    clear: (usize, usize),
    recent: VecDeque<(Vec<f32>, Vec<f32>)>,
}

impl CostMeter {
    /// For a model that does this, with outputs of that precision.
    pub fn new(task: Task, precision: Precision) -> Self {
        Self {
            task,
            precision,
            texts: 0,
            largest: 0.0,
            sum: 0.0,
            values: 0,
            ranked: (Vec::new(), Vec::new()),
            cosines: (0.0, 1.0),
            flips: 0,
            clear: (0, 0),
            recent: VecDeque::new(),
        }
    }

    /// A text's outputs in floats and in int8, as many of each.
    pub fn add(&mut self, before: &[f32], after: &[f32]) {
        self.texts += 1;
        for (a, b) in before.iter().zip(after) {
            self.largest = self.largest.max((a - b).abs());
            self.sum += f64::from((a - b).abs());
            self.values += 1;
        }
        match self.task {
            Task::Scalar => self.rank(before.first(), after.first()),
            Task::Classification { .. } => {
                let (label, margin) = lead(before);
                if label != lead(after).0 {
                    self.flips += 1;
                    self.clear.0 += usize::from(margin > CLEAR_MARGIN);
                }
                self.clear.1 += usize::from(margin > CLEAR_MARGIN);
                self.rank(before.get(label), after.get(label));
            }
            Task::Embedding if self.precision == Precision::Binary => {
                self.embedding(&unpacked(before), &unpacked(after));
            }
            Task::Embedding => self.embedding(before, after),
        }
    }

    fn rank(&mut self, before: Option<&f32>, after: Option<&f32>) {
        if let (Some(&before), Some(&after)) = (before, after) {
            self.ranked.0.push(before);
            self.ranked.1.push(after);
        }
    }

    fn embedding(&mut self, before: &[f32], after: &[f32]) {
        let own = cosine(before, after);
        self.cosines.0 += f64::from(own);
        self.cosines.1 = self.cosines.1.min(own);
        for (other_before, other_after) in &self.recent {
            self.ranked.0.push(cosine(before, other_before));
            self.ranked.1.push(cosine(after, other_after));
        }
        if self.recent.len() == NEIGHBOURS {
            self.recent.pop_front();
        }
        self.recent.push_back((before.to_vec(), after.to_vec()));
    }

    /// What the texts cost, if there were any.
    pub fn cost(&self) -> Option<QuantisationCost> {
        if self.texts == 0 {
            return None;
        }
        let share = |part: usize, of: usize| part as f32 / of.max(1) as f32;
        let is_embedding = self.task == Task::Embedding;
        let is_labels = matches!(self.task, Task::Classification { .. });
        let mean = (self.cosines.0 / self.texts as f64) as f32;
        Some(QuantisationCost {
            texts: self.texts,
            largest_difference: self.largest,
            mean_difference: (self.sum / self.values.max(1) as f64) as f32,
            rank_correlation: rank_correlation(&self.ranked.0, &self.ranked.1),
            mean_cosine: is_embedding.then_some(mean),
            lowest_cosine: is_embedding.then_some(self.cosines.1),
            flips: is_labels.then(|| share(self.flips, self.texts)),
            clear_flips: is_labels.then(|| share(self.clear.0, self.clear.1)),
        })
    }
}

/// The label with the highest probability, and by how much it leads the next.
fn lead(outputs: &[f32]) -> (usize, f32) {
    let mut order: Vec<(f32, usize)> = outputs.iter().copied().zip(0..).collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    match order.as_slice() {
        [first, second, ..] => (first.1, first.0 - second.0),
        [first] => (first.1, first.0),
        [] => (0, 0.0),
    }
}

/// 1 for two vectors of zeros, and 0 if only one is.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b);
        products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let (of_a, of_b) = (dot(a, a), dot(b, b));
    if of_a == 0.0 || of_b == 0.0 {
        return if of_a == of_b { 1.0 } else { 0.0 };
    }
    (dot(a, b) / (of_a * of_b).sqrt()) as f32
}

/// Spearman's: Pearson's correlation of ranks, equal numbers sharing theirs.
fn rank_correlation(a: &[f32], b: &[f32]) -> Option<f32> {
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 + 1.0) / 2.0;
    let (mut both, mut of_a, mut of_b) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(&b) {
        both += (a - mean) * (b - mean);
        of_a += (a - mean).powi(2);
        of_b += (b - mean).powi(2);
    }
    (of_a > 0.0 && of_b > 0.0).then(|| (both / (of_a * of_b).sqrt()) as f32)
}

fn ranks(values: &[f32]) -> Vec<f64> {
    let mut order: Vec<(f32, usize)> = values.iter().copied().zip(0..).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 1.0;
    for equal in order.chunk_by(|a, b| a.0 == b.0) {
        let last = first + equal.len() as f64 - 1.0;
        for (_, index) in equal {
            if let Some(rank) = ranks.get_mut(*index) {
                *rank = (first + last) / 2.0;
            }
        }
        first = last + 1.0;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: Option<f32>, expected: f32) {
        let found = found.unwrap();
        assert!((found - expected).abs() < 1e-6, "{found}, not {expected}");
    }

    #[test]
    fn a_classifiers_cost() {
        let labels = ["a", "b"].map(str::to_owned).to_vec();
        let mut meter = CostMeter::new(Task::Classification { labels }, Precision::Single);
        assert_eq!(meter.cost(), None);
        meter.add(&[0.9, 0.1], &[0.8, 0.2]);
        meter.add(&[0.51, 0.49], &[0.49, 0.51]);
        meter.add(&[0.3, 0.7], &[0.6, 0.4]);
        meter.add(&[0.2, 0.8], &[0.2, 0.8]);
        let cost = meter.cost().unwrap();
        assert_eq!((cost.texts, cost.mean_cosine), (4, None));
        near(Some(cost.largest_difference), 0.3);
        near(Some(cost.mean_difference), 0.105);
        near(cost.flips, 0.5);
        near(cost.clear_flips, 1.0 / 3.0);
        assert_eq!(cost.check(), Ok(()));
    }

    #[test]
    fn an_embeddings_cost() {
        let mut meter = CostMeter::new(Task::Embedding, Precision::Single);
        meter.add(&[1.0, 0.0], &[1.0, 0.0]);
        meter.add(&[0.0, 2.0], &[0.0, 3.0]);
        meter.add(&[1.0, 1.0], &[1.0, 0.0]);
        let cost = meter.cost().unwrap();
        near(
            cost.mean_cosine,
            (2.0 + std::f32::consts::FRAC_1_SQRT_2) / 3.0,
        );
        near(cost.lowest_cosine, std::f32::consts::FRAC_1_SQRT_2);
        // 0, and twice the same; of the others 0, 1 and 0.
        near(cost.rank_correlation, 0.5);
        assert_eq!(cost.flips, None);
    }

    #[test]
    fn ranks_say_nothing_of_numbers_that_are_all_the_same() {
        assert_eq!(rank_correlation(&[1.0, 1.0], &[1.0, 2.0]), None);
        assert_eq!(rank_correlation(&[], &[]), None);
        near(rank_correlation(&[1.0, 2.0, 3.0], &[10.0, 20.0, 21.0]), 1.0);
        near(rank_correlation(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), -1.0);
    }

    #[test]
    fn a_cost_that_cant_be_is_refused_by_its_field() {
        let cost = QuantisationCost {
            flips: Some(1.5),
            ..QuantisationCost::default()
        };
        assert_eq!(cost.check(), Err("flips"));
        let cost = QuantisationCost {
            mean_difference: f32::NAN,
            ..QuantisationCost::default()
        };
        assert_eq!(cost.check(), Err("mean_difference"));
    }
}
