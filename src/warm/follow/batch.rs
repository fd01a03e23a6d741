//! Makes jobs of changed rows. Pure.
//!
//! Promises that a job's `as_of` is the position of each of its rows, so that it replaces nothing newer; that the same rows make the same job
//! in one run, however often they are read, since its id follows from its body; and that a job is no larger than workers take, and no dearer than a
//! small part of a run's budget, unless one row is.

use crate::warm::{
    gather::{pieces::write_content, versions::Versions},
    schedule::{Keep, Schedule},
    source::{ChangedRow, PositionKind, RowContent},
};
use kiln_contract::{
    job::{JobWriter, OnError},
    order::{AsOf, Moment},
};
use sha2::{Digest, Sha256};

/// Assumed cost of an input before the model has run, in seconds.
const UNKNOWN_COST: f64 = 0.001;
/// The part of a budget of model time that one job may take.
const PART: f64 = 1.0 / 16.0;
/// Bytes of a body's hash in its job's id.
const ID_BYTES: usize = 16;

/// What a value takes in a job besides its bytes, about.
const OVERHEAD_BYTES: usize = 32;

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
    pub versions: &'a Versions,
    pub kind: PositionKind,
    pub ttl_seconds: u64,
    /// Rows and bytes of one job.
    pub size: usize,
    pub max_bytes: usize,
    pub run: i64,
}

/// The jobs of some rows, and the rows that are too large for any.
#[derive(Default)]
pub(super) struct Made {
    pub batches: Vec<Batch>,
    pub too_large: Vec<(i64, u128)>,
}

impl Maker<'_> {
    /// The jobs of these rows, which are in the order of their positions.
    pub(super) fn batches(&self, rows: &[New]) -> Made {
        let mut made = Made::default();
        for part in rows.chunk_by(|a, b| a.row.position == b.row.position) {
            let mut rest = part;
            while let Some((some, after)) = rest.split_at_checked(self.fitting(rest))
                && !some.is_empty()
            {
                self.add(some, &mut made);
                rest = after;
            }
        }
        made
    }

    /// How many of these rows are one job; one at the least.
    fn fitting(&self, rows: &[New]) -> usize {
        let budget = &self.schedule.budget;
        let (mut inputs, mut cost, mut bytes) = (0, 0.0, 0);
        let fits = |new: &&New| {
            let content = new.row.content.as_ref();
            inputs += usize::from(content.is_some());
            cost += content.map_or(0.0, |content| self.cost(&new.row, content));
            bytes += size(&new.row);
            inputs <= budget.inputs
                && budget.model_seconds.is_none_or(|max| cost <= max * PART)
                && bytes <= self.max_bytes
        };
        // What nobody has measured may take any time.
        let is_guessed = budget.model_seconds.is_some() && !self.versions.have_measured();
        let max = if is_guessed { 1 } else { self.size.max(1) };
        let rows = rows.iter().take(max);
        rows.take_while(fits).count().max(1)
    }

    /// The job of these rows; in two parts where what JSON escapes makes it too large.
    fn add(&self, rows: &[New], made: &mut Made) {
        let Some(batch) = self.batch(rows) else {
            return;
        };
        match (batch.body.len() <= self.max_bytes, rows) {
            (true, _) => made.batches.push(batch),
            (false, [one]) => made.too_large.push((one.row.position, one.mark)),
            (false, many) => {
                drop(batch);
                let (one, other) = many.split_at(many.len() / 2);
                self.add(one, made);
                self.add(other, made);
            }
        }
    }

    /// Of the version that the row's job goes to.
    fn cost(&self, row: &ChangedRow, content: &RowContent) -> f64 {
        let expected = self.versions.expected_of(row.key.as_deref(), content);
        expected.unwrap_or(UNKNOWN_COST)
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
        let scored = || {
            let rows = rows.iter().map(|new| &new.row);
            rows.filter_map(|row| Some((row, row.content.as_ref()?)))
        };
        Some(Batch {
            id: format!("warm-{}-{digest}", self.run),
            body,
            position,
            marks: rows.iter().map(|new| new.mark).collect(),
            changed_us: rows.iter().map(|new| new.row.changed_us).collect(),
            inputs: scored().count(),
            cost: scored().map(|(row, content)| self.cost(row, content)).sum(),
        })
    }

    fn as_of(&self, position: i64) -> Option<AsOf<'static>> {
        match self.kind {
            PositionKind::Sequence => AsOf::sequence(u64::try_from(position).ok()?),
            PositionKind::Moment => AsOf::moment(Moment::from_micros(position).rfc3339()),
        }
    }
}

/// Bytes that a row takes in a job, about.
fn size(row: &ChangedRow) -> usize {
    let content = match &row.content {
        Some(RowContent::Text { text, pair }) => text.len() + pair.as_ref().map_or(0, String::len),
        Some(RowContent::Features(values)) => values.len() * 8,
        None => 0,
    };
    OVERHEAD_BYTES + row.key.as_ref().map_or(0, String::len) + content
}

/// What a row is remembered by at its position: its key and all that it holds, so that another change there is another one.
pub(super) fn mark(key: &str, row: Option<&ChangedRow>) -> u128 {
    let digest = Sha256::digest(format!("{key:?}{row:?}"));
    let first = digest.iter().take(16);
    first.fold(0, |all, byte| all << 8 | u128::from(*byte))
}
