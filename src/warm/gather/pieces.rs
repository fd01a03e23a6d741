//! Divides a plan into jobs.

use super::{Gatherer, PlannedEntry, RunPlan};
use crate::{
    store::NewPost,
    warm::{
        schedule::{Keep, Schedule},
        source::{Row, RowContent},
    },
};
use kiln_contract::job::{JobWriter, OnError, write::InputWriter};

/// The part of a budget of model time that one job may take.
const PART: f64 = 1.0 / 16.0;
/// The part of all inputs before it that a job may have, where nobody has measured what inputs cost.
const GROWTH: usize = 8;

impl Gatherer<'_> {
    /// The jobs that a plan posts.
    pub fn pieces(&self, schedule: &Schedule, plan: &RunPlan) -> Vec<NewPost> {
        let model = self.registry.resolve(&schedule.model).ok();
        let model_ttl = model.and_then(|model| model.info().ttl_seconds);
        let cut = Cut {
            inputs: self.settings.warm.piece_inputs,
            model_seconds: schedule.budget.model_seconds,
            costs_are_measured: plan.costs_are_measured,
        };
        let ttl_seconds = self.ttl_seconds(schedule, model_ttl);
        pieces(schedule, &plan.chosen, ttl_seconds, cut)
    }
}

/// How large a job may be.
#[derive(Clone, Copy)]
struct Cut {
    inputs: usize,
    /// The budget of model time.
    model_seconds: Option<f64>,
    costs_are_measured: bool,
}

impl Cut {
    /// How many of these entries the next job has, after so many inputs that were to be computed. What is only renewed and what is computed don't
    /// go together. Where the model time is bounded a job takes a small part of it; and where what inputs cost is guessed, jobs begin small, so
    /// that a run which stops at its budget has spent little more.
    fn next(self, entries: &[PlannedEntry], before: usize) -> usize {
        let computes = |one: &PlannedEntry| one.candidate.computes > 0;
        let first = entries.first().is_some_and(computes);
        let (mut inputs, mut seconds) = (self.inputs, f64::INFINITY);
        if let Some(budget) = self.model_seconds.filter(|_| first) {
            seconds = budget * PART;
            if !self.costs_are_measured {
                inputs = inputs.min(before / GROWTH);
            }
        }
        let mut taken = 0.0;
        let fits = entries.iter().take(inputs.max(1)).take_while(|one| {
            taken += one.candidate.cost;
            computes(one) == first && taken <= seconds
        });
        fits.count().max(1)
    }
}

/// Divides what was chosen into jobs, or one job per ranking.
fn pieces(
    schedule: &Schedule,
    chosen: &[PlannedEntry],
    ttl_seconds: u64,
    cut: Cut,
) -> Vec<NewPost> {
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
    let post = |of: &[PlannedEntry], (inputs, body)| NewPost {
        inputs,
        computes: of.iter().map(|p| p.candidate.computes as i32).sum(),
        model_seconds: of.iter().map(|p| p.candidate.cost).sum(),
        body,
    };
    match &schedule.keep {
        Keep::Rank { top, .. } => chosen
            .iter()
            .filter_map(|ranking| {
                let key = ranking.key.as_deref();
                debug_assert!(key.is_some(), "a ranking has its group's name");
                let body = body(&mut ranking.rows.iter(), Some((key?, *top)));
                Some(post(std::slice::from_ref(ranking), body))
            })
            .collect(),
        Keep::Named | Keep::Scores => {
            let (mut rest, mut before, mut posts) = (chosen, 0, Vec::new());
            while let Some((piece, after)) = rest.split_at_checked(cut.next(rest, before)) {
                before += piece.iter().map(|p| p.candidate.computes).sum::<usize>();
                let body = body(&mut piece.iter().flat_map(|p| &p.rows), None);
                posts.push(post(piece, body));
                rest = after;
            }
            posts
        }
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
