//! Owns having models score again what is in Redis: in small calls, one after the other.

use super::{finding::Unchecked, judge::Recomputed, pace::Pace};
use crate::store::ScoredInput;
use kiln_contract::key::{self, InputHash};
use kiln_model::{Model, Registry, Rows, TextRow};
use std::sync::Arc;

/// An input that is to be scored again.
pub(super) struct Again<'a> {
    pub input: &'a InputHash,
    pub model: &'a str,
    pub version: &'a str,
    pub row: Option<&'a ScoredInput>,
}

/// Rows of one call at the utmost.
const CALL_ROWS: usize = 32;

/// Scores these inputs again, each by the version that it names; says of each what came of it, and gives the version where it is
/// installed.
pub(super) async fn all(
    registry: &Registry,
    pace: &mut Pace,
    inputs: &[Again<'_>],
) -> Vec<(Recomputed, Option<Arc<Model>>)> {
    let mut done = Vec::with_capacity(inputs.len());
    let mut waiting: Vec<(usize, Arc<Model>, Rows)> = Vec::new();
    for (index, again) in inputs.iter().enumerate() {
        let reference = format!("{}@{}", again.model, again.version);
        let Ok(model) = registry.resolve(&reference) else {
            done.push((Recomputed::Not(Unchecked::VersionNotHere), None));
            continue;
        };
        // Beside jobs no version is loaded, or held in memory, for an audit's sake.
        let is_active = |model: &Arc<Model>| {
            let serving = registry.serving(again.model);
            serving.is_ok_and(|serving| serving.versions().any(|one| Arc::ptr_eq(one, model)))
        };
        if pace.is_beside_jobs() && !is_active(&model) {
            done.push((Recomputed::Not(Unchecked::NoTurn), Some(model)));
            continue;
        }
        if let Some(rows) = rows(again) {
            waiting.push((index, model.clone(), rows));
        }
        done.push((Recomputed::Not(Unchecked::InputNotStored), Some(model)));
    }
    waiting.sort_by_key(|(_, model, _)| Arc::as_ptr(model) as usize);
    let mut waiting = waiting.into_iter().peekable();
    while let Some((index, model, rows)) = waiting.next() {
        let (mut indexes, mut together, mut seconds) = (vec![index], rows, 0.0);
        let cost = |rows: &Rows| expected_seconds(&model, rows);
        seconds += cost(&together);
        while let Some((index, _, rows)) = waiting.next_if(|(_, other, rows)| {
            Arc::ptr_eq(other, &model)
                && indexes.len() < CALL_ROWS
                && seconds + cost(rows) <= pace.call_seconds()
        }) {
            seconds += cost(&rows);
            indexes.push(index);
            join(&mut together, rows);
        }
        let outputs = score(&model, pace, together).await;
        for (number, index) in indexes.into_iter().enumerate() {
            if let Some((recomputed, _)) = done.get_mut(index) {
                *recomputed = one(&model, outputs.as_deref(), number);
            }
        }
    }
    done
}

/// What one call gave for one of its rows.
fn one(model: &Model, outputs: Option<&[f32]>, number: usize) -> Recomputed {
    let width = model.info().output_width;
    let row = outputs.and_then(|all| all.get(number * width..(number + 1) * width));
    match row {
        Some(row) => Recomputed::Row(row.to_vec()),
        None => Recomputed::Not(Unchecked::NoTurn),
    }
}

/// One call; nothing where jobs went first for too long, or it failed.
async fn score(model: &Model, pace: &mut Pace, rows: Rows) -> Option<Vec<f32>> {
    if !pace.model_is_free().await {
        return None;
    }
    match pace.call(model.score(rows)).await {
        Ok(scored) => Some(scored.outputs),
        Err(error) => {
            let info = model.info();
            tracing::debug!(model = info.name, version = info.version, %error, "an audit's model call failed");
            None
        }
    }
}

fn expected_seconds(model: &Model, rows: &Rows) -> f64 {
    let seconds = match rows {
        Rows::Features { .. } => model.expected_seconds(None),
        Rows::Texts(texts) => texts.first().and_then(|row| {
            model.expected_seconds(Some((row.text.as_str(), row.text_pair.as_deref())))
        }),
    };
    seconds.unwrap_or_default()
}

/// The input as its row has it: nothing where it isn't stored, or is another's.
fn rows(again: &Again<'_>) -> Option<Rows> {
    let row = again.row?;
    match (&row.text, &row.features) {
        (Some(text), _) => {
            let pair = row.text_pair.as_deref();
            let is_it = key::hash_text(text, pair) == *again.input;
            is_it.then(|| {
                Rows::Texts(vec![TextRow {
                    text: text.clone(),
                    text_pair: row.text_pair.clone(),
                }])
            })
        }
        (None, Some(features)) => {
            let is_it = key::hash_features(features) == *again.input;
            is_it.then(|| Rows::Features {
                width: features.len(),
                data: features.clone(),
            })
        }
        (None, None) => None,
    }
}

/// Adds a row of the same kind to others.
fn join(all: &mut Rows, one: Rows) {
    match (all, one) {
        (Rows::Texts(all), Rows::Texts(one)) => all.extend(one),
        (Rows::Features { data: all, .. }, Rows::Features { data: one, .. }) => all.extend(one),
        // One model takes one kind.
        _ => {}
    }
}
