//! Decides what a name or a score entry is worth, of what its inputs are. Pure.

use super::{
    finding::{Unchecked, Verdict},
    judge::{self, Recomputed, Said},
};
use crate::{
    cache::{Sample, Space},
    store::{ScoredInput, ServedPast},
};
use kiln_contract::key::InputHash;
use kiln_model::Model;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Items of a ranking that are recomputed.
const ITEMS: usize = 8;

/// An input's row, and what its model says of it now.
pub(super) struct Scored {
    pub row: Option<ScoredInput>,
    pub outputs: Recomputed,
    /// Where it is installed.
    pub model: Option<Arc<Model>>,
}

/// The inputs that a name is made of; of a ranking, the first ones.
pub(super) fn hashes(latest: &ServedPast) -> Vec<InputHash> {
    if latest.items.is_none() {
        let input = latest.input.as_deref();
        return input
            .and_then(|input| input.try_into().ok())
            .into_iter()
            .collect();
    }
    let inputs = latest.inputs.as_deref().unwrap_or_default();
    let (hashes, _) = inputs.as_chunks::<32>();
    hashes.iter().take(ITEMS).copied().collect()
}

/// What a name is worth; `scored` are its inputs.
pub(super) fn name_verdict(
    value: &Map<String, Value>,
    scored: &[Scored],
    stores_scores: bool,
) -> Verdict {
    let judge = |said: &Said<'_>, scored: &Scored| {
        let info = scored.model.as_deref().map(Model::info);
        judge::input(
            said,
            scored.row.as_ref(),
            &scored.outputs,
            info,
            stores_scores,
        )
    };
    if value.contains_key("items") {
        let Some(scores) = judge::ranked(value) else {
            return Verdict::Wrong("its items aren't sorted");
        };
        let wanted = scores.len().min(ITEMS);
        let begin = if wanted > 0 && scored.len() == wanted {
            Verdict::Right
        } else {
            Verdict::Unchecked(Unchecked::NoInputs)
        };
        let said = scores.into_iter().map(|score| Said {
            score: Some(score),
            ..Said::default()
        });
        let verdicts = said.zip(scored).map(|(said, scored)| judge(&said, scored));
        return verdicts.fold(begin, Verdict::worse);
    }
    let Some(scored) = scored.first() else {
        return Verdict::WithoutRow("its row in served names no input");
    };
    let embedding: Option<Vec<f32>> = value.get("embedding").and_then(floats);
    let said = Said {
        label: value.get("label").and_then(Value::as_str),
        score: value.get("score").and_then(Value::as_f64).map(|s| s as f32),
        row: embedding.as_deref(),
    };
    judge(&said, scored)
}

fn floats(values: &Value) -> Option<Vec<f32>> {
    let values = values.as_array()?.iter();
    values.map(|value| Some(value.as_f64()? as f32)).collect()
}

/// What a score entry is worth.
pub(super) fn entry_verdict(
    sample: &Sample,
    input: &InputHash,
    scored: &Scored,
    stores_scores: bool,
) -> Verdict {
    let Some(model) = &scored.model else {
        // Only the version itself knows how its entries are laid out.
        return match scored.row {
            None if stores_scores => Verdict::WithoutRow("no row in scores"),
            _ => Verdict::Unchecked(Unchecked::VersionNotHere),
        };
    };
    let Some(row) = Space::new(model.info()).row(input, &sample.value) else {
        return Verdict::Wrong("it isn't an entry of its key");
    };
    let said = Said {
        row: Some(&row),
        ..Said::default()
    };
    let info = Some(model.info());
    judge::input(
        &said,
        scored.row.as_ref(),
        &scored.outputs,
        info,
        stores_scores,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranking(items: &str) -> Map<String, Value> {
        let text = format!(r#"{{"items":{items},"model":"m","version":"1","scored_at":"x"}}"#);
        judge::read(text.as_bytes()).expect("an object")
    }

    fn scored() -> Scored {
        Scored {
            row: Some(ScoredInput {
                score: Some(0.5),
                ..ScoredInput::default()
            }),
            outputs: Recomputed::Not(Unchecked::VersionNotHere),
            model: None,
        }
    }

    #[test]
    fn a_ranking_of_which_nothing_was_compared_is_not_right() {
        let unchecked = Verdict::Unchecked(Unchecked::NoInputs);
        assert_eq!(name_verdict(&ranking("[]"), &[], true), unchecked);
        let two = ranking(r#"[{"key":"a","score":0.5},{"key":"b","score":0.5}]"#);
        assert_eq!(name_verdict(&two, &[], true), unchecked);
        assert_eq!(name_verdict(&two, &[scored()], true), unchecked);
        let by_rows = Verdict::ByRows(Unchecked::VersionNotHere);
        assert_eq!(name_verdict(&two, &[scored(), scored()], true), by_rows);
        let wrong = ranking(r#"[{"key":"a","score":0.7},{"key":"b","score":0.5}]"#);
        let verdict = name_verdict(&wrong, &[scored()], true);
        assert!(matches!(verdict, Verdict::Wrong(_)));
    }
}
