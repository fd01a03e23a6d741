//! Owns what a job is at its end: a result that has no row yet, or an outcome without a result.

use super::{
    input_counts::InputCounts, names::NameWord, outcome::Outcome, owned::JobRows, render::JobNote,
    shadow::ShadowInputs, source::JobSource,
};
use crate::cache::Word;
use kiln_contract::{order::Order, result::Finished};
use std::{sync::Arc, time::Instant};

/// A job that has come to its end, and whose end isn't stored yet.
#[derive(Debug)]
pub(super) struct Ending {
    pub source: JobSource,
    /// The same job again, of the same batch: they share its outcome.
    pub repeats: Vec<JobSource>,
    pub end: End,
    pub counts: InputCounts,
    pub begun: Instant,
}

/// How it ends.
#[derive(Debug)]
pub(super) enum End {
    Finished(Box<FinishedJob>),
    /// It has no result. Model and namespace are there where they could be read.
    Failed {
        outcome: Outcome,
        model: Option<String>,
        namespace: Option<String>,
    },
}

/// A job with its results, which have no row yet.
#[derive(Debug)]
pub(super) struct FinishedJob {
    pub job_id: Arc<str>,
    pub body_sha256: [u8; 32],
    pub result: Arc<Finished>,
    /// What readers find of it, in the result's namespace.
    pub shown: Vec<Word>,
    /// What the history of names is to know of it.
    pub names: Vec<NameWord>,
    /// How new its word is.
    pub order: Order,
    /// The latest invalidation of all when its entries were looked up.
    pub stamp: u64,
    /// What statistics say of it.
    pub note: JobNote,
    /// Its rows, if any of them are to be stored.
    pub rows: Option<Box<JobRows>>,
    /// What another version is to score of it, once it has ended well.
    pub shadow: Option<ShadowInputs>,
}

impl Ending {
    /// The API keys that posted it.
    pub fn posters(&self) -> impl Iterator<Item = &str> {
        let all = std::iter::once(&self.source).chain(&self.repeats);
        all.filter_map(|source| source.posted_by.as_deref())
    }

    /// Bytes that storing it takes, about.
    pub fn bytes(&self) -> usize {
        match &self.end {
            End::Finished(job) => {
                let rows = job.rows.as_ref().map_or(0, |rows| rows.bytes());
                job.result.results.len() + rows
            }
            End::Failed { .. } => 0,
        }
    }
}
