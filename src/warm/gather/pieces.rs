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
    /// The jobs that a plan posts. What is too large for any is counted as bad.
    pub fn pieces(&self, schedule: &Schedule, plan: &mut RunPlan) -> Vec<NewPost> {
        let cut = Cut {
            inputs: self.settings.warm.piece_inputs,
            bytes: self.settings.intake.max_body_bytes,
            model_seconds: schedule.budget.model_seconds,
            costs_are_measured: plan.costs_are_measured,
        };
        let (posts, too_large) = pieces(schedule, &plan.chosen, cut);
        for _ in 0..too_large {
            let max = cut.bytes;
            plan.leave_out(format!(
                "larger than a job may be (`intake.max_body_bytes` = {max})"
            ));
        }
        posts
    }
}

/// How large a job may be.
#[derive(Clone, Copy)]
struct Cut {
    inputs: usize,
    /// Bytes of its body.
    bytes: usize,
    /// The budget of model time.
    model_seconds: Option<f64>,
    costs_are_measured: bool,
}

impl Cut {
    /// Whether model time is bounded by what nobody has measured.
    fn is_guessed(self) -> bool {
        self.model_seconds.is_some() && !self.costs_are_measured
    }

    /// How many of the rows that a ranking lacks the next job before it has.
    fn first(self, missing: &[&Row], before: usize) -> usize {
        self.inputs.min(before / GROWTH).max(1).min(missing.len())
    }

    /// How many of these entries the next job has, after so many inputs that were to be computed. What is only renewed and what is computed don't
    /// go together, and neither do entries of different lives. Where the model time is bounded a job takes a small part of it; and where what inputs
    /// cost is guessed, jobs begin small, so that a run which stops at its budget has spent little more.
    fn next(self, entries: &[PlannedEntry], before: usize) -> usize {
        let computes = |one: &PlannedEntry| one.candidate.computes > 0;
        let first = entries.first().is_some_and(computes);
        let life = entries.first().map(|one| one.ttl_seconds);
        let (mut inputs, mut seconds) = (self.inputs, f64::INFINITY);
        if let Some(budget) = self.model_seconds.filter(|_| first) {
            seconds = budget * PART;
            if self.is_guessed() {
                inputs = inputs.min(before / GROWTH);
            }
        }
        let (mut taken, mut bytes) = (0.0, 0);
        let fits = entries.iter().take(inputs.max(1)).take_while(|one| {
            taken += one.candidate.cost;
            bytes += one.rows.iter().map(size).sum::<usize>();
            let is_alike = computes(one) == first && Some(one.ttl_seconds) == life;
            is_alike && taken <= seconds && bytes <= self.bytes
        });
        fits.count().max(1)
    }
}

/// Writes the jobs of a schedule.
struct Pieces<'a> {
    schedule: &'a Schedule,
    cut: Cut,
    posts: Vec<NewPost>,
    /// Inputs so far that are to be computed.
    before: usize,
    /// Inputs that no job holds.
    too_large: usize,
}

impl Pieces<'_> {
    /// How many inputs a job of these rows has, and its body. The message carries the job's id.
    fn body<'r>(
        &self,
        rows: impl Iterator<Item = &'r Row>,
        rank: Option<(&str, Option<usize>)>,
        ttl_seconds: u64,
    ) -> (i32, Vec<u8>) {
        let mut job = JobWriter::new();
        job.model(&self.schedule.model)
            .namespace(self.schedule.namespace());
        let mut count = 0;
        job.inputs(rows, |input, row| {
            count += 1;
            write_input(input, row);
        });
        if self.schedule.keep == Keep::Named {
            job.named(true);
        }
        if let Some((key, top)) = rank {
            job.rank(key, top);
        }
        job.ttl_seconds(ttl_seconds).on_error(OnError::Skip);
        (count, job.finish())
    }

    /// One job of entries that have one life; in two parts where what JSON escapes makes it too large.
    fn entries(&mut self, of: &[PlannedEntry], rank: Option<(&str, Option<usize>)>) {
        let ttl_seconds = of.first().map_or(1, |first| first.ttl_seconds);
        let (inputs, body) = self.body(of.iter().flat_map(|p| &p.rows), rank, ttl_seconds);
        if body.len() > self.cut.bytes {
            drop(body);
            return match of {
                [] => {}
                [one] => self.too_large += one.rows.len(),
                many => {
                    let (one, other) = many.split_at(many.len() / 2);
                    self.entries(one, rank);
                    self.entries(other, rank);
                }
            };
        }
        self.before += of.iter().map(|p| p.candidate.computes).sum::<usize>();
        self.posts.push(NewPost {
            inputs,
            computes: of.iter().map(|p| p.candidate.computes as i32).sum(),
            model_seconds: of.iter().map(|p| p.candidate.cost).sum(),
            full_seconds: of.iter().map(|p| p.full_seconds).sum(),
            body,
        });
    }

    /// One job of a ranking. Where what inputs cost is guessed, and the model time is bounded, the scores that it lacks are computed by jobs of their
    /// own before it: it can't be divided, and may be more than the whole budget.
    fn ranking(&mut self, ranking: &PlannedEntry, top: Option<usize>) {
        debug_assert!(ranking.key.is_some(), "a ranking has its group's name");
        let Some(key) = ranking.key.as_deref() else {
            return;
        };
        if !self.cut.is_guessed() {
            return self.entries(std::slice::from_ref(ranking), Some((key, top)));
        }
        let (inputs, body) = self.body(ranking.rows.iter(), Some((key, top)), ranking.ttl_seconds);
        if body.len() > self.cut.bytes {
            self.too_large += ranking.rows.len();
            return;
        }
        let missing = ranking.missing.iter();
        let missing: Vec<&Row> = missing.filter_map(|n| ranking.rows.get(*n)).collect();
        let each = ranking.candidate.cost / missing.len().max(1) as f64;
        let mut rest = missing.as_slice();
        while let Some((some, after)) = rest.split_at_checked(self.cut.first(rest, self.before)) {
            if some.is_empty() {
                break;
            }
            // No larger than all of them with their rank.
            let (inputs, body) = self.body(some.iter().copied(), None, ranking.ttl_seconds);
            let seconds = each * some.len() as f64;
            self.posts.push(NewPost {
                inputs,
                computes: inputs,
                model_seconds: seconds,
                full_seconds: seconds,
                body,
            });
            self.before += some.len();
            rest = after;
        }
        self.posts.push(NewPost {
            inputs,
            full_seconds: ranking.full_seconds,
            body,
            ..NewPost::default()
        });
    }
}

/// Divides what was chosen into jobs, or one job per ranking; and how many inputs no job holds.
fn pieces(schedule: &Schedule, chosen: &[PlannedEntry], cut: Cut) -> (Vec<NewPost>, usize) {
    let mut pieces = Pieces {
        schedule,
        cut,
        posts: Vec::new(),
        before: 0,
        too_large: 0,
    };
    match &schedule.keep {
        Keep::Rank { top, .. } => {
            for ranking in chosen {
                pieces.ranking(ranking, *top);
            }
        }
        Keep::Named | Keep::Scores => {
            let mut rest = chosen;
            while let Some((piece, after)) = rest.split_at_checked(cut.next(rest, pieces.before)) {
                pieces.entries(piece, None);
                rest = after;
            }
        }
    }
    (pieces.posts, pieces.too_large)
}

/// Bytes that a row takes in a job at the least.
fn size(row: &Row) -> usize {
    let key = row.key.as_ref().map_or(0, String::len);
    key + match &row.content {
        RowContent::Features(features) => 2 * features.len(),
        text => text.bytes(),
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
