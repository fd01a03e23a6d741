//! Owns writing a job's results out of the rows that were found for it.
//!
//! Promises a result for each input, in order. Pure but for what it counts.

use super::owned::How;
use crate::telemetry::{
    metrics::Metrics,
    window::{Causes, prefix},
};
use kiln_contract::failure::Rejection;
use kiln_contract::job::{self, Content, Job};
use kiln_contract::key::InputHash;
use kiln_contract::result::{Reading, ResultsWriter};
use kiln_model::{Model, ModelInfo, Task};
use std::sync::Arc;

/// A row that was found for an input.
#[derive(Debug, Clone, Copy)]
pub(super) struct InputRow<'r> {
    pub input: &'r InputHash,
    /// The version that it was scored by.
    pub model: &'r Arc<Model>,
    pub row: &'r [f32],
    pub how: How,
    /// Whether its score is kept in the cache.
    pub is_kept: bool,
    /// Why it missed, where it did and is watched.
    pub causes: Causes,
}

/// The results of one job.
pub(super) struct Rendered {
    pub results: String,
    pub hits: u32,
    pub misses: u32,
    pub skipped: u64,
    pub note: JobNote,
}

/// What statistics say of a job's inputs: all together, and by the kind of their keys.
#[derive(Debug, Default)]
pub(super) struct JobNote {
    pub all: InputNote,
    pub kinds: Vec<(String, InputNote)>,
}

/// The same of some inputs.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct InputNote {
    pub hits: u64,
    pub misses: u64,
    pub causes: Causes,
}

impl InputNote {
    fn add(&mut self, other: &Self) {
        self.hits += other.hits;
        self.misses += other.misses;
        self.causes.add(&other.causes);
    }
}

/// How often each label was the best, by model version.
#[derive(Default)]
pub(super) struct LabelCounts(Vec<(Arc<Model>, Vec<u64>)>);

impl LabelCounts {
    fn of(&mut self, model: &Arc<Model>) -> Option<&mut Vec<u64>> {
        let Task::Classification { labels } = &model.info().task else {
            return None;
        };
        let known = self.0.iter().position(|(one, _)| Arc::ptr_eq(one, model));
        let index = known.unwrap_or_else(|| {
            self.0.push((model.clone(), vec![0; labels.len()]));
            self.0.len() - 1
        });
        self.0.get_mut(index).map(|(_, counts)| counts)
    }

    /// Counts them.
    pub fn count(self, metrics: &Metrics) {
        for (model, counts) in self.0 {
            let info = model.info();
            let Task::Classification { labels } = &info.task else {
                continue;
            };
            for (label, count) in labels.iter().zip(counts).filter(|(_, count)| *count > 0) {
                metrics.predictions(info, label, count);
            }
        }
    }
}

/// Writes the results of one job, `model` being its version. `rows` gives the row of each input that is scored by its number; the job has no result where one is
/// missing.
pub(super) fn render<'r>(
    job: &Job<'_>,
    model: &Arc<Model>,
    rows: &impl Fn(usize) -> Option<InputRow<'r>>,
    labels: &mut LabelCounts,
) -> Option<Rendered> {
    let mut writer = ResultsWriter::new(job.inputs.len()).of_version(&model.info().version);
    let (mut hits, mut misses, mut skipped) = (0u32, 0u32, 0u64);
    let mut kinds: Vec<(&str, InputNote)> = Vec::new();
    let mut all = InputNote::default();
    for (number, input) in job.inputs.iter().enumerate() {
        let key = input.key.as_deref();
        if let Content::Bad(bad) = &input.content {
            skipped += 1;
            let field = job::input_path(number, &bad.field);
            writer.skipped(key, &Rejection::invalid(field, bad.message.as_str()));
            continue;
        }
        if input.content == Content::Removal {
            writer.removed(key);
            continue;
        }
        let InputRow {
            model,
            row,
            how,
            is_kept,
            causes,
            ..
        } = rows(number)?;
        let info = model.info();
        let cached = how == How::Cached;
        if cached {
            hits += 1
        } else {
            misses += 1
        }
        writer.scored(key, info, row, cached, job.detail);
        if let Some(labels) = labels.of(model) {
            count_label(info, row, labels);
        }
        let one = InputNote {
            hits: u64::from(cached),
            misses: u64::from(!cached && is_kept),
            causes,
        };
        all.add(&one);
        if let Some(kind) = key.and_then(prefix) {
            // The keys of one job mostly share a prefix: there are few kinds, and a linear search finds them.
            match kinds.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, sum)) => sum.add(&one),
                None => kinds.push((kind, one)),
            }
        }
    }
    let kinds = kinds.into_iter();
    Some(Rendered {
        results: writer.finish(),
        hits,
        misses,
        skipped,
        note: JobNote {
            all,
            kinds: kinds.map(|(kind, sum)| (kind.to_owned(), sum)).collect(),
        },
    })
}

fn count_label(info: &ModelInfo, row: &[f32], counts: &mut [u64]) {
    if let Reading::Label { index, .. } = Reading::of(info, row)
        && let Some(count) = counts.get_mut(index)
    {
        *count += 1;
    }
}
