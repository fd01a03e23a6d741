//! Owns rows that wait to be written: packed, counted in bytes, and found by their inputs meanwhile.
//!
//! Pure: no I/O, no clock.

use crate::store::{JobRow, ScoreRow};
use ahash::RandomState;
use kiln_contract::{key::InputHash, result::Finished};
use std::{collections::HashMap, sync::Arc};

/// The part of an input's hash that it is looked up by.
pub(super) type ShortHash = [u8; 16];

/// What a score's row takes beside its values, in bytes: its columns of fixed length, and its part of the index.
const SCORE_BYTES: usize = size_of::<StagedScore>() + 40;
/// What a job's row takes beside its results.
const JOB_BYTES: usize = 512;

/// The part of a hash that it is looked up by.
pub(super) fn short(input: &InputHash) -> ShortHash {
    let mut short = ShortHash::default();
    short.copy_from_slice(input.split_at(size_of::<ShortHash>()).0);
    short
}

/// Rows that wait to be written together.
#[derive(Debug, Default)]
pub(super) struct Staged {
    pub jobs: Vec<StagedJob>,
    pub scores: Vec<StagedScore>,
    /// The values of the scores' rows, one after the other.
    values: Vec<u8>,
    by_input: HashMap<(ShortHash, i64), usize, RandomState>,
    job_bytes: usize,
}

/// A finished job.
#[derive(Debug, Clone)]
pub(super) struct StagedJob {
    pub job_id: Arc<str>,
    pub body_sha256: [u8; 32],
    pub done: Arc<Finished>,
}

/// A scored input, with its model and namespace by number.
#[derive(Debug, Clone, Copy)]
pub(super) struct StagedScore {
    pub input: InputHash,
    pub model: i64,
    pub namespace: i64,
    /// Milliseconds since 1970.
    pub scored_at: i64,
    pub score: Option<f32>,
    at: usize,
    /// Lengths of outputs, key, label, text, second text and features; the largest number stands for none.
    lengths: [u32; 6],
}

/// Stands for a value that isn't there.
const NONE: u32 = u32::MAX;

/// The values of a score's row, texts as the bytes of their UTF-8.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Values<'a> {
    pub outputs: &'a [u8],
    pub key: Option<&'a [u8]>,
    pub label: Option<&'a [u8]>,
    pub text: Option<&'a [u8]>,
    pub text_pair: Option<&'a [u8]>,
    pub features: Option<&'a [u8]>,
}

impl Staged {
    /// Bytes in memory, about.
    pub fn bytes(&self) -> usize {
        self.values.len() + SCORE_BYTES * self.scores.len() + self.job_bytes
    }

    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.scores.is_empty()
    }

    /// Adds a finished job.
    pub fn add_job(&mut self, job: &JobRow<'_>) {
        self.job_bytes += JOB_BYTES + job.done.results.len();
        self.jobs.push(StagedJob {
            job_id: job.job_id.into(),
            body_sha256: job.body_sha256,
            done: Arc::new(job.done.clone()),
        });
    }

    /// Adds a scored input, unless its row is there.
    pub fn add_score(&mut self, row: &ScoreRow<'_>, model: i64, namespace: i64, scored_at: i64) {
        let key = (short(&row.input), model);
        if self.by_input.contains_key(&key) {
            return;
        }
        self.by_input.insert(key, self.scores.len());
        let at = self.values.len();
        let outputs = Some(self.push_floats(row.outputs));
        let texts = [row.key, row.label, row.text, row.text_pair];
        let [key, label, text, pair] =
            texts.map(|text| text.map(|text| self.push(text.as_bytes())));
        let features = row.features.map(|features| self.push_floats(features));
        self.scores.push(StagedScore {
            input: row.input,
            model,
            namespace,
            scored_at,
            score: row.score,
            at,
            lengths: [outputs, key, label, text, pair, features]
                .map(|length| length.unwrap_or(NONE)),
        });
    }

    fn push(&mut self, bytes: &[u8]) -> u32 {
        self.values.extend_from_slice(bytes);
        // A job's body is far smaller than that.
        u32::try_from(bytes.len()).unwrap_or(NONE)
    }

    fn push_floats(&mut self, values: &[f32]) -> u32 {
        let before = self.values.len();
        for value in values {
            self.values.extend_from_slice(&value.to_le_bytes());
        }
        u32::try_from(self.values.len() - before).unwrap_or(NONE)
    }

    /// The values of a row.
    pub fn values(&self, score: &StagedScore) -> Values<'_> {
        let mut at = score.at;
        let parts = score.lengths.map(|length| {
            (length != NONE).then(|| {
                let range = at..at + length as usize;
                at = range.end;
                self.values.get(range).unwrap_or_default()
            })
        });
        let [outputs, key, label, text, text_pair, features] = parts;
        Values {
            outputs: outputs.unwrap_or_default(),
            key,
            label,
            text,
            text_pair,
            features,
        }
    }

    /// The outputs of an input, as bytes.
    pub fn find(&self, input: ShortHash, model: i64) -> Option<&[u8]> {
        let number = self.by_input.get(&(input, model))?;
        Some(self.values(self.scores.get(*number)?).outputs)
    }

    /// A job by its id.
    pub fn job(&self, id: &str) -> Option<&StagedJob> {
        self.jobs.iter().rev().find(|job| *job.job_id == *id)
    }

    /// The scores' numbers in the order of the look-up table's keys.
    pub fn in_key_order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.scores.len()).collect();
        order.sort_unstable_by_key(|number| {
            let score = self.scores.get(*number);
            score.map(|score| (short(&score.input), score.model))
        });
        order
    }
}
