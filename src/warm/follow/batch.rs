//! Makes jobs of changed rows. Pure.
//!
//! Promises that a job's `as_of` is the position of each of its rows, so that it replaces nothing newer, and that the same rows make the same job
//! in one run, however often they are read: its id follows from its body.

use crate::warm::{
    gather::pieces::write_content,
    schedule::{Keep, Schedule},
    source::{ChangedRow, PositionKind},
};
use kiln_contract::{
    job::{JobWriter, OnError},
    order::{AsOf, Moment},
};
use kiln_model::Model;
use sha2::{Digest, Sha256};

/// Assumed cost of an input before the model has run, in seconds.
const UNKNOWN_COST: f64 = 0.001;
/// Bytes of a body's hash in its job's id.
const ID_BYTES: usize = 16;

/// A row that is to be posted, and what it is remembered by.
pub(super) struct New {
    pub row: ChangedRow,
    pub mark: u128,
}

/// A job of changed rows.
pub(super) struct Batch {
    pub id: String,
    pub body: Vec<u8>,
    pub position: i64,
    /// What its rows are remembered by.
    pub marks: Vec<u128>,
    /// When they changed, in microseconds since 1970, where that is known.
    pub changed_us: Vec<Option<i64>>,
    /// Inputs that a model scores.
    pub inputs: usize,
    /// Model time that they cost if none is cached, in seconds.
    pub cost: f64,
}

/// What jobs are made for.
pub(super) struct Maker<'a> {
    pub schedule: &'a Schedule,
    pub model: &'a Model,
    pub kind: PositionKind,
    pub ttl_seconds: u64,
    /// Rows of one job.
    pub size: usize,
    pub run: i64,
}

impl Maker<'_> {
    /// The jobs of these rows, which are in the order of their positions.
    pub(super) fn batches(&self, rows: &[New]) -> Vec<Batch> {
        let same = |a: &New, b: &New| a.row.position == b.row.position;
        let parts = rows.chunk_by(same);
        let parts = parts.flat_map(|part| part.chunks(self.size.max(1)));
        parts.filter_map(|part| self.batch(part)).collect()
    }

    fn batch(&self, rows: &[New]) -> Option<Batch> {
        let position = rows.first()?.row.position;
        let as_of = self.as_of(position)?;
        let mut job = JobWriter::new();
        job.model(&self.schedule.model)
            .namespace(self.schedule.namespace());
        job.inputs(rows, |input, new| {
            if let Some(key) = &new.row.key {
                input.key(key);
            }
            match &new.row.content {
                Some(content) => write_content(input, content),
                None => {
                    input.remove();
                }
            }
        });
        if self.schedule.keep == Keep::Named {
            job.named(true);
        }
        job.ttl_seconds(self.ttl_seconds)
            .on_error(OnError::Skip)
            .as_of(&as_of);
        let body = job.finish();
        let digest = Sha256::digest(&body);
        let digest = hex::encode(digest.get(..ID_BYTES)?);
        let scored = || rows.iter().filter_map(|new| new.row.content.as_ref());
        Some(Batch {
            id: format!("warm-{}-{digest}", self.run),
            body,
            position,
            marks: rows.iter().map(|new| new.mark).collect(),
            changed_us: rows.iter().map(|new| new.row.changed_us).collect(),
            inputs: scored().count(),
            cost: scored()
                .map(|content| {
                    let text = content.text();
                    self.model.expected_seconds(text).unwrap_or(UNKNOWN_COST)
                })
                .sum(),
        })
    }

    fn as_of(&self, position: i64) -> Option<AsOf<'static>> {
        match self.kind {
            PositionKind::Sequence => AsOf::sequence(u64::try_from(position).ok()?),
            PositionKind::Moment => AsOf::moment(Moment::from_micros(position).rfc3339()),
        }
    }
}

/// What a row is remembered by at its position: its key, or else all that it holds.
pub(super) fn mark(key: &str, row: Option<&ChangedRow>) -> u128 {
    let digest = match (key, row) {
        ("", Some(row)) => Sha256::digest(format!("{row:?}")),
        (key, _) => Sha256::digest(key),
    };
    let first = digest.iter().take(16);
    first.fold(0, |all, byte| all << 8 | u128::from(*byte))
}
