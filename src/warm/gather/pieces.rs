//! Divides a plan into jobs.

use super::{Gatherer, PlannedEntry, RunPlan};
use crate::warm::{
    schedule::{Keep, Schedule},
    source::{Row, RowContent},
};
use serde::Serialize;

/// A job without its id, which is the message's.
#[derive(Serialize)]
struct JobText<'a> {
    model: &'a str,
    namespace: &'a str,
    inputs: Vec<InputText<'a>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    named: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    rank: Option<RankText<'a>>,
    ttl_seconds: u64,
    on_error: &'static str,
}

#[derive(Serialize)]
struct RankText<'a> {
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    top: Option<usize>,
}

#[derive(Serialize)]
struct InputText<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text_pair: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    features: Option<&'a [f32]>,
}

impl Gatherer<'_> {
    /// The bodies of the jobs that a plan posts, each with how many inputs it has.
    pub fn pieces(&self, schedule: &Schedule, plan: &RunPlan) -> Vec<(i32, Vec<u8>)> {
        let model = self.registry.resolve(&schedule.model).ok();
        let model_ttl = model.and_then(|model| model.info().ttl_seconds);
        pieces(
            schedule,
            &plan.chosen,
            self.ttl_seconds(schedule, model_ttl),
            self.settings.warm.piece_inputs,
        )
    }
}

/// Divides what was chosen into jobs of `size` entries, or one job per ranking.
fn pieces(
    schedule: &Schedule,
    chosen: &[PlannedEntry],
    ttl_seconds: u64,
    size: usize,
) -> Vec<(i32, Vec<u8>)> {
    let body = |rows: &mut dyn Iterator<Item = &Row>, rank: Option<RankText<'_>>| {
        let inputs: Vec<InputText<'_>> = rows.map(input_text).collect();
        let count = inputs.len() as i32;
        let job = JobText {
            model: &schedule.model,
            namespace: schedule.namespace(),
            inputs,
            named: schedule.keep == Keep::Named,
            rank,
            ttl_seconds,
            on_error: "skip",
        };
        // Strings and finite numbers can always be written as JSON.
        (count, serde_json::to_vec(&job).unwrap_or_default())
    };
    match &schedule.keep {
        Keep::Rank { top, .. } => chosen
            .iter()
            .filter_map(|ranking| {
                let key = ranking.key.as_deref();
                debug_assert!(key.is_some(), "a ranking has its group's name");
                let rank = RankText {
                    key: key?,
                    top: *top,
                };
                Some(body(&mut ranking.rows.iter(), Some(rank)))
            })
            .collect(),
        Keep::Named | Keep::Scores => chosen
            .chunks(size)
            .map(|piece| body(&mut piece.iter().flat_map(|p| &p.rows), None))
            .collect(),
    }
}

fn input_text(row: &Row) -> InputText<'_> {
    let (text, text_pair, features) = match &row.content {
        RowContent::Text { text, pair } => (Some(text.as_str()), pair.as_deref(), None),
        RowContent::Features(features) => (None, None, Some(features.as_slice())),
    };
    InputText {
        key: row.key.as_deref(),
        text,
        text_pair,
        features,
    }
}
