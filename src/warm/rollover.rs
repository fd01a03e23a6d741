//! Compares a model version's scores with another's, to judge a change of versions. Pure.

use crate::store::ScorePair;

/// How far new scores differ from old ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shift {
    /// Inputs compared.
    pub inputs: usize,
    /// Mean of new minus old.
    pub mean: f64,
    /// Mean of the absolute difference.
    pub mean_absolute: f64,
    /// Largest absolute difference.
    pub max_absolute: f64,
    /// Spearman's rank correlation, within -1 to 1; none if either side is constant.
    pub rank_correlation: Option<f64>,
    /// Share of inputs whose label changed; none if there are no labels.
    pub flips: Option<f64>,
}

/// Compares; none without pairs.
pub fn compare(pairs: &[ScorePair]) -> Option<Shift> {
    if pairs.is_empty() {
        return None;
    }
    let count = pairs.len() as f64;
    let differences = || pairs.iter().map(|p| f64::from(p.new) - f64::from(p.old));
    let old: Vec<f32> = pairs.iter().map(|p| p.old).collect();
    let new: Vec<f32> = pairs.iter().map(|p| p.new).collect();
    let labelled = pairs
        .iter()
        .filter(|p| p.old_label.is_some() && p.new_label.is_some());
    let (all, flipped) = labelled.fold((0u32, 0u32), |(all, flipped), pair| {
        (
            all + 1,
            flipped + u32::from(pair.old_label != pair.new_label),
        )
    });
    Some(Shift {
        inputs: pairs.len(),
        mean: differences().sum::<f64>() / count,
        mean_absolute: differences().map(f64::abs).sum::<f64>() / count,
        max_absolute: differences().map(f64::abs).fold(0.0, f64::max),
        rank_correlation: correlation(&ranks(&old), &ranks(&new)),
        flips: (all > 0).then(|| f64::from(flipped) / f64::from(all)),
    })
}

/// Ranks from 1; equal values share the mean of theirs.
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

/// Pearson's correlation.
fn correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    let count = a.len() as f64;
    let mean = |values: &[f64]| values.iter().sum::<f64>() / count;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let (mut both, mut of_a, mut of_b) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        both += (a - mean_a) * (b - mean_b);
        of_a += (a - mean_a).powi(2);
        of_b += (b - mean_b).powi(2);
    }
    (of_a > 0.0 && of_b > 0.0).then(|| both / (of_a * of_b).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(old: f32, new: f32, labels: Option<(&str, &str)>) -> ScorePair {
        ScorePair {
            old,
            new,
            old_label: labels.map(|(old, _)| old.to_owned()),
            new_label: labels.map(|(_, new)| new.to_owned()),
        }
    }

    #[test]
    fn shift_order_and_labels_are_compared() {
        assert_eq!(compare(&[]), None);
        let pairs = [
            pair(0.1, 0.2, Some(("a", "a"))),
            pair(0.2, 0.3, Some(("a", "b"))),
            pair(0.4, 0.3, Some(("b", "b"))),
            pair(0.8, 0.9, Some(("b", "b"))),
        ];
        let shift = compare(&pairs).expect("pairs");
        assert!((shift.mean - 0.05).abs() < 1e-6 && (shift.mean_absolute - 0.1).abs() < 1e-6);
        assert!((shift.max_absolute - 0.1).abs() < 1e-6);
        assert_eq!(shift.flips, Some(0.25));
        // Ranks 1 2 3 4 against 1 2.5 2.5 4.
        assert!((shift.rank_correlation.expect("some") - 0.948_683).abs() < 1e-5);
        let turned: Vec<ScorePair> = (0..9u8)
            .map(|n| pair(f32::from(n), -f32::from(n), None))
            .collect();
        let shift = compare(&turned).expect("pairs");
        assert_eq!((shift.rank_correlation, shift.flips), (Some(-1.0), None));
        let constant = compare(&[pair(0.5, 0.1, None), pair(0.5, 0.2, None)]).expect("pairs");
        assert_eq!(constant.rank_correlation, None);
    }
}
