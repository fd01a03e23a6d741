//! Decides whether what is in Redis is right, given its rows and what the model says now. Pure.

use super::finding::{Unchecked, Verdict};
use crate::store::{ScoredInput, ServedPast};
use kiln_contract::result::Reading;
use kiln_model::ModelInfo;
use serde_json::{Map, Value};

/// How far a score may be off: absolute below 1, relative above. Devices sum in orders of their own.
const TOLERANCE: f32 = 1e-4;

/// What an entry says of one input.
#[derive(Debug, Default)]
pub(super) struct Said<'a> {
    pub label: Option<&'a str>,
    pub score: Option<f32>,
    /// The whole row, where the entry has it.
    pub row: Option<&'a [f32]>,
}

/// What the model said of an input now, or why it wasn't asked.
#[derive(Debug)]
pub(super) enum Recomputed {
    Row(Vec<f32>),
    Not(Unchecked),
}

/// Whether two scores are the same.
fn is_close(one: f32, other: f32) -> bool {
    (one - other).abs() <= TOLERANCE * one.abs().max(other.abs()).max(1.0)
}

fn are_close(one: &[f32], other: &[f32]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| is_close(*a, *b))
}

/// What an entry of one input is worth. `info` is of the version that it names, where that is installed.
pub(super) fn input(
    said: &Said<'_>,
    row: Option<&ScoredInput>,
    recomputed: &Recomputed,
    info: Option<&ModelInfo>,
    stores_scores: bool,
) -> Verdict {
    if let (Recomputed::Row(outputs), Some(info)) = (recomputed, info)
        && !agrees(said, outputs, info)
    {
        return Verdict::Wrong("the model says otherwise");
    }
    let Some(row) = row else {
        return if stores_scores {
            Verdict::WithoutRow("no row in scores")
        } else {
            Verdict::Unchecked(Unchecked::RowsOff)
        };
    };
    if !agrees_with_row(said, row) {
        return Verdict::Wrong("its row in scores says otherwise");
    }
    match recomputed {
        Recomputed::Row(_) => Verdict::Right,
        Recomputed::Not(why) => Verdict::ByRows(*why),
    }
}

fn agrees(said: &Said<'_>, outputs: &[f32], info: &ModelInfo) -> bool {
    if let Some(row) = said.row {
        return are_close(row, outputs);
    }
    let reading = Reading::of(info, outputs);
    let same_score = match (said.score, reading.score()) {
        (Some(said), Some(score)) => is_close(said, score),
        (None, None) => true,
        _ => false,
    };
    // A ranking has no labels.
    same_score && (said.label.is_none() || said.label == reading.label())
}

fn agrees_with_row(said: &Said<'_>, row: &ScoredInput) -> bool {
    if let Some(said) = said.row {
        return match (&row.outputs, row.score) {
            (Some(outputs), _) => are_close(said, outputs),
            (None, Some(score)) => are_close(said, &[score]),
            (None, None) => true,
        };
    }
    let same_score = match (said.score, row.score) {
        (Some(said), Some(score)) => is_close(said, score),
        (None, None) => true,
        _ => false,
    };
    same_score && (said.label.is_none() || said.label == row.label.as_deref())
}

/// What is wrong with a name at first sight: that it is no JSON of Kiln's, or that its history says otherwise. Otherwise what was served under
/// it last.
pub(super) fn name<'r>(
    value: Option<&Map<String, Value>>,
    latest: Option<&'r ServedPast>,
    stores_served: bool,
) -> Result<&'r ServedPast, Verdict> {
    let Some(value) = value else {
        return Err(Verdict::Wrong("it isn't what Kiln writes"));
    };
    match latest {
        None if stores_served => Err(Verdict::WithoutRow("no row in served")),
        None => Err(Verdict::Unchecked(Unchecked::RowsOff)),
        Some(latest) if crate::explain::says(latest, value) => Ok(latest),
        Some(_) => Err(Verdict::Wrong("its latest row in served says otherwise")),
    }
}

/// The JSON object of a named entry or a ranking.
pub(super) fn read(bytes: &[u8]) -> Option<Map<String, Value>> {
    let Ok(Value::Object(value)) = serde_json::from_slice(bytes) else {
        return None;
    };
    let has = |name: &str| value.get(name).is_some_and(Value::is_string);
    (has("model") && has("version") && has("scored_at")).then_some(value)
}

/// The scores of a ranking's items, in order, where they are sorted.
pub(super) fn ranked(value: &Map<String, Value>) -> Option<Vec<f32>> {
    let items = value.get("items")?.as_array()?;
    let score = |item: &Value| Some(item.get("score")?.as_f64()? as f32);
    let scores: Option<Vec<f32>> = items.iter().map(score).collect();
    scores.filter(|scores| scores.is_sorted_by(|a, b| a >= b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(score: f32) -> ScoredInput {
        ScoredInput {
            score: Some(score),
            ..ScoredInput::default()
        }
    }

    fn said(score: f32) -> Said<'static> {
        Said {
            score: Some(score),
            ..Said::default()
        }
    }

    #[test]
    fn what_cannot_be_recomputed_is_compared_with_its_row() {
        let not = Recomputed::Not(Unchecked::VersionNotHere);
        let judge =
            |score, row: Option<&ScoredInput>, stores| input(&said(score), row, &not, None, stores);
        let by_rows = Verdict::ByRows(Unchecked::VersionNotHere);
        assert_eq!(judge(0.5, Some(&row(0.5)), true), by_rows);
        assert!(matches!(
            judge(0.5, Some(&row(0.6)), true),
            Verdict::Wrong(_)
        ));
        assert!(matches!(judge(0.5, None, true), Verdict::WithoutRow(_)));
        assert_eq!(
            judge(0.5, None, false),
            Verdict::Unchecked(Unchecked::RowsOff)
        );
    }

    #[test]
    fn a_ranking_out_of_order_is_none() {
        let read = |items: &str| {
            let text = format!(r#"{{"items":{items},"model":"m","version":"1","scored_at":"x"}}"#);
            ranked(&super::read(text.as_bytes()).expect("an object"))
        };
        assert_eq!(
            read(r#"[{"key":"a","score":2},{"key":"b","score":1}]"#),
            Some(vec![2.0, 1.0])
        );
        assert_eq!(
            read(r#"[{"key":"a","score":1},{"key":"b","score":2}]"#),
            None
        );
        assert_eq!(read(r#"[{"key":"a"}]"#), None);
        assert_eq!(super::read(b"{}"), None);
    }
}
