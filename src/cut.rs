//! Owns cutting a list into runs that are bounded in number and in weight, for what a server is asked at once.

use std::ops::Range;

/// Cuts a list of these weights into runs of at most `max_count` that weigh at most `max_weight` together, or are one alone.
pub fn cut(
    weights: impl IntoIterator<Item = usize>,
    max_count: usize,
    max_weight: usize,
) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let (mut start, mut end, mut sum) = (0, 0, 0usize);
    for weight in weights {
        let heavier = sum.saturating_add(weight);
        if end > start && (end - start >= max_count || heavier > max_weight) {
            runs.push(start..end);
            (start, sum) = (end, weight);
        } else {
            sum = heavier;
        }
        end += 1;
    }
    if end > start {
        runs.push(start..end);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn runs_end_by_count_by_weight_and_with_the_list() {
        assert_eq!(cut([1; 5], 2, 100), [0..2, 2..4, 4..5]);
        assert_eq!(cut([4, 6, 1, 9, 50, 1], 9, 10), [0..2, 2..4, 4..5, 5..6]);
        assert!(cut([], 2, 10).is_empty());
    }

    proptest! {
        #[test]
        fn every_item_is_in_one_run_and_none_is_too_heavy(
            weights in prop::collection::vec(0usize..40, 0..60), count in 1usize..10, max in 1usize..80
        ) {
            let runs = cut(weights.iter().copied(), count, max);
            let all: Vec<usize> = runs.iter().flat_map(Clone::clone).collect();
            prop_assert_eq!(all, (0..weights.len()).collect::<Vec<_>>());
            for run in runs {
                let weight: usize = weights[run.clone()].iter().sum();
                prop_assert!(run.len() <= count && (weight <= max || run.len() == 1));
            }
        }
    }
}
