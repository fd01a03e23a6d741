//! Figures of an evaluation.

/// Area under the curve: how often a positive scores above a negative; a tie counts half.
pub fn area(labels: &[f32], scores: &[f32]) -> f64 {
    let of = |wanted: f32| {
        let rows = labels.iter().zip(scores);
        let mut scores: Vec<f32> = rows
            .filter(|(label, _)| **label == wanted)
            .map(|(_, score)| *score)
            .collect();
        scores.sort_by(f32::total_cmp);
        scores
    };
    let (positive, negative) = (of(1.0), of(0.0));
    let above = positive.iter().map(|score| {
        let below = negative.partition_point(|other| other < score);
        let up_to = negative.partition_point(|other| other <= score);
        (below + up_to) as f64 / 2.0
    });
    above.sum::<f64>() / (positive.len() as f64 * negative.len() as f64)
}

/// Mean of the negative logarithm of what the labels' probabilities are.
pub fn log_loss(labels: &[f32], scores: &[f32]) -> f64 {
    let losses = labels.iter().zip(scores).map(|(label, score)| {
        let right = if *label == 1.0 { *score } else { 1.0 - score };
        -f64::from(right.max(1e-7)).ln()
    });
    losses.sum::<f64>() / labels.len() as f64
}
