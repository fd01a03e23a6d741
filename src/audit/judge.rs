//! Decides whether what is in Redis is right, given its rows and what the model says now. Pure.

use super::finding::{Unchecked, Verdict};
use crate::store::{ScoredInput, ServedPast};
use chrono::{DateTime, TimeDelta, Utc};
use kiln_contract::{
    model::{Precision, Task},
    result::{Reading, best},
};
use kiln_model::ModelInfo;
use serde_json::{Map, Value};

/// How far a score may be off: absolute below 1, relative above. Devices sum in orders of their own.
const TOLERANCE: f32 = 1e-4;
/// What comes to that for outputs of half precision, relative: two sums that hardly differ may be rounded to neighbours.
const HALF_STEP: f32 = 1.0 / 1024.0;

/// How much later than its latest row a value is of another job: more than clocks of workers are apart.
const WELL_AFTER: TimeDelta = TimeDelta::minutes(1);

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

/// How many of an embedding's bits may differ: numbers next to zero are rounded to either side.
const BITS_SHARE: usize = 64;

/// How far two scores of one version may be apart.
#[derive(Clone, Copy)]
struct Near {
    /// Relative.
    step: f32,
    /// Whole numbers may be neighbours.
    whole: f32,
    /// Whether numbers are bytes of bits.
    is_bits: bool,
}

impl Near {
    /// A version that isn't installed may be of half precision.
    fn of(info: Option<&ModelInfo>) -> Self {
        let precision = info.map(|info| info.precision);
        Self {
            step: match precision {
                Some(Precision::Single) => 0.0,
                _ => HALF_STEP,
            },
            whole: match precision {
                Some(Precision::Int8) => 1.0,
                _ => 0.0,
            },
            is_bits: precision == Some(Precision::Binary),
        }
    }

    fn is_close(self, one: f32, other: f32) -> bool {
        let size = one.abs().max(other.abs());
        (one - other).abs() <= TOLERANCE * size.max(1.0) + self.step * size + self.whole
    }

    fn are_close(self, one: &[f32], other: &[f32]) -> bool {
        if self.is_bits {
            let differ = |(a, b): (&f32, &f32)| (*a as u8 ^ *b as u8).count_ones() as usize;
            let differing: usize = one.iter().zip(other).map(differ).sum();
            return one.len() == other.len() && differing <= (8 * one.len()).div_ceil(BITS_SHARE);
        }
        let mut pairs = one.iter().zip(other);
        one.len() == other.len() && pairs.all(|(a, b)| self.is_close(*a, *b))
    }

    /// Whether a label may stand for these outputs: its own is as large as the largest.
    fn fits(self, label: &str, outputs: &[f32], info: &ModelInfo) -> bool {
        let Task::Classification { labels } = &info.task else {
            return false;
        };
        let index = labels.iter().position(|one| one == label);
        let own = index.and_then(|index| outputs.get(index));
        let largest = outputs.get(best(outputs));
        own.zip(largest)
            .is_some_and(|(own, largest)| self.is_close(*own, *largest))
    }
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
    if !agrees_with_row(said, row, info) {
        return Verdict::Wrong("its row in scores says otherwise");
    }
    match recomputed {
        Recomputed::Row(_) => Verdict::Right,
        Recomputed::Not(why) => Verdict::ByRows(*why),
    }
}

fn agrees(said: &Said<'_>, outputs: &[f32], info: &ModelInfo) -> bool {
    let near = Near::of(Some(info));
    if let Some(row) = said.row {
        return near.are_close(row, outputs);
    }
    let reading = Reading::of(info, outputs);
    let same_score = match (said.score, reading.score()) {
        (Some(said), Some(score)) => near.is_close(said, score),
        (None, None) => true,
        _ => false,
    };
    // A ranking has no labels.
    let same_label = said
        .label
        .is_none_or(|label| reading.label() == Some(label) || near.fits(label, outputs, info));
    same_score && same_label
}

fn agrees_with_row(said: &Said<'_>, row: &ScoredInput, info: Option<&ModelInfo>) -> bool {
    let near = Near::of(info);
    if let Some(said) = said.row {
        return match (&row.outputs, row.score) {
            (Some(outputs), _) => near.are_close(said, outputs),
            (None, Some(score)) => near.are_close(said, &[score]),
            (None, None) => true,
        };
    }
    let same_score = match (said.score, row.score) {
        (Some(said), Some(score)) => near.is_close(said, score),
        (None, None) => true,
        _ => false,
    };
    let same_label = said.label.is_none_or(|label| {
        let outputs = row.outputs.as_deref().zip(info);
        row.label.as_deref() == Some(label)
            || outputs.is_some_and(|(outputs, info)| near.fits(label, outputs, info))
    });
    same_score && same_label
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
        Some(_) if !stores_served => Err(Verdict::Unchecked(Unchecked::RowsOff)),
        Some(latest) if is_newer(value, latest) => {
            Err(Verdict::WithoutRow("it is newer than its history"))
        }
        Some(_) => Err(Verdict::Wrong("its latest row in served says otherwise")),
    }
}

/// Whether a value was scored well after its latest row: a worker without `store.served` wrote it.
fn is_newer(value: &Map<String, Value>, latest: &ServedPast) -> bool {
    let at = value.get("scored_at").and_then(Value::as_str);
    let at: Option<DateTime<Utc>> = at.and_then(|at| at.parse().ok());
    at.is_some_and(|at| at - latest.from > WELL_AFTER)
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
    use crate::store::WordOrder;
    use kiln_contract::model::{InputKind, PairRule};

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
    fn without_rows_of_its_own_a_name_is_not_called_wrong() {
        let served = |from: &str, score| ServedPast {
            from: from.parse().expect("an instant"),
            job_id: "j".into(),
            model: "m".into(),
            version: "1".into(),
            input: None,
            label: None,
            score: Some(score),
            items: None,
            inputs: None,
            is_removed: false,
            order: WordOrder {
                kind: 't',
                value: 1,
                accepted_us: 1,
            },
        };
        let text = r#"{"score":0.5,"model":"m","version":"1","scored_at":"2026-11-21T08:10:00Z"}"#;
        let value = super::read(text.as_bytes());
        let judge = |row: &ServedPast, stores| name(value.as_ref(), Some(row), stores).err();
        let (same, other) = ("2026-11-21T08:10:00Z", served("2026-11-21T08:10:00Z", 0.6));
        assert_eq!(judge(&served(same, 0.5), true), None);
        assert!(matches!(judge(&other, true), Some(Verdict::Wrong(_))));
        let off = Verdict::Unchecked(Unchecked::RowsOff);
        assert_eq!(judge(&other, false), Some(off));
        let older = served("2026-11-21T08:00:00Z", 0.6);
        assert!(matches!(judge(&older, true), Some(Verdict::WithoutRow(_))));
    }

    #[test]
    fn halves_may_be_rounded_to_neighbours_and_ties_go_either_way() {
        let info = |precision| ModelInfo {
            name: "m".into(),
            version: "1".into(),
            architecture: "a".into(),
            task: Task::Classification {
                labels: vec!["bad".into(), "good".into()],
            },
            input: InputKind::Text {
                pair: PairRule::None,
            },
            feature_names: Vec::new(),
            takes_missing: false,
            output_width: 2,
            precision,
            max_text_bytes: 1_000,
            ttl_seconds: None,
            parameters: 1,
            weights: Default::default(),
            golden: 0,
            training: None,
        };
        let (single, half) = (info(Precision::Single), info(Precision::Half));
        let said = |label, score| Said {
            label: Some(label),
            score: Some(score),
            row: None,
        };
        // Neighbours as half floats.
        let (one, next) = (0.75, 0.750_488_3);
        assert!(agrees(&said("good", one), &[0.25, next], &half));
        assert!(!agrees(&said("good", one), &[0.25, next], &single));
        assert!(!agrees(&said("good", one), &[0.25, 0.76], &half));
        let tie = [0.500_01, 0.499_99];
        assert!(agrees(&said("good", 0.5), &tie, &single));
        assert!(!agrees(&said("good", 0.6), &[0.6, 0.4], &single));
        let row = ScoredInput {
            label: Some("bad".into()),
            score: Some(0.500_01),
            outputs: Some(tie.to_vec()),
            ..ScoredInput::default()
        };
        assert!(agrees_with_row(&said("good", 0.5), &row, Some(&single)));
        let near = |precision| Near::of(Some(&info(precision)));
        assert!(near(Precision::Int8).are_close(&[-3.0, 127.0], &[-4.0, 126.0]));
        assert!(!near(Precision::Int8).are_close(&[-3.0, 127.0], &[-3.0, 125.0]));
        assert!(near(Precision::Binary).are_close(&[128.0, 3.0], &[0.0, 3.0]));
        assert!(!near(Precision::Binary).are_close(&[128.0, 3.0], &[0.0, 2.0]));
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
