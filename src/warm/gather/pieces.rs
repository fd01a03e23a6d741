//! Divides a plan into jobs.

use super::{Gatherer, PlannedEntry, RunPlan};
use crate::warm::{
    schedule::{Keep, Schedule},
    source::{Row, RowContent},
};
use kiln_contract::job::{JobWriter, OnError, write::InputWriter};

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
    // The message carries the job's id.
    let body = |rows: &mut dyn Iterator<Item = &Row>, rank: Option<(&str, Option<usize>)>| {
        let mut job = JobWriter::new();
        job.model(&schedule.model).namespace(schedule.namespace());
        let mut count = 0;
        job.inputs(rows, |input, row| {
            count += 1;
            write_input(input, row);
        });
        if schedule.keep == Keep::Named {
            job.named(true);
        }
        if let Some((key, top)) = rank {
            job.rank(key, top);
        }
        job.ttl_seconds(ttl_seconds).on_error(OnError::Skip);
        (count, job.finish())
    };
    match &schedule.keep {
        Keep::Rank { top, .. } => chosen
            .iter()
            .filter_map(|ranking| {
                let key = ranking.key.as_deref();
                debug_assert!(key.is_some(), "a ranking has its group's name");
                Some(body(&mut ranking.rows.iter(), Some((key?, *top))))
            })
            .collect(),
        Keep::Named | Keep::Scores => chosen
            .chunks(size)
            .map(|piece| body(&mut piece.iter().flat_map(|p| &p.rows), None))
            .collect(),
    }
}

/// Writes what a model is given of a row.
pub(in crate::warm) fn write_content(input: &mut InputWriter<'_>, content: &RowContent) {
    match content {
        RowContent::Text { text, pair } => {
            input.text(text);
            if let Some(pair) = pair {
                input.text_pair(pair);
            }
        }
        RowContent::Features(features) => {
            input.features(features);
        }
    }
}

fn write_input(input: &mut InputWriter<'_>, row: &Row) {
    if let Some(key) = &row.key {
        input.key(key);
    }
    write_content(input, &row.content);
}

#[cfg(test)]
mod tests;
