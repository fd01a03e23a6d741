//! Owns making rows of a row group, on a thread of its own.
//!
//! Promises that whatever the library makes of damaged pages, a panic as well, is an error of its row group alone; and that rows which are
//! read together are as few as their columns are wide.

use super::{
    pages::{BoundedGroup, Bounds},
    plan::Plan,
    rows::{Cut, Piece},
    values::width,
};
use crate::{cli::file::Blob, telemetry::logs::caught};
use ::parquet::{
    arrow::{FieldLevels, arrow_reader::ParquetRecordBatchReader},
    basic::Type as Physical,
    file::metadata::ParquetMetaData,
};
use anyhow::{anyhow, bail};
use kiln_contract::job::MAX_INPUTS;
use std::sync::{Arc, mpsc::SyncSender};

/// Bytes of rows that are read together, by what their row group has on average.
const BATCH_BYTES: usize = 8 << 20;
/// Bytes of one row's values of fixed lengths.
const MAX_FIXED_BYTES: usize = 16 << 20;

/// What of a file makes rows.
pub(super) struct Decoding<'a> {
    pub file: &'a Blob,
    pub metadata: &'a Arc<ParquetMetaData>,
    pub levels: &'a FieldLevels,
    /// The leaves of the columns that are read.
    pub leaves: &'a [usize],
    pub plan: &'a Arc<Plan>,
    pub bounds: &'a Arc<Bounds>,
    /// Rows of a piece, which may become fewer once a model is known.
    pub max_rows: &'a (dyn Fn() -> usize + Sync),
}

/// A row group, and which of its rows are wanted.
#[derive(Clone, Copy)]
pub(super) struct Group {
    pub number: usize,
    /// The rows before it.
    pub first: u64,
    pub rows: u64,
    /// The rows of the file that are left out.
    pub skipped: u64,
}

impl Decoding<'_> {
    /// Sends the rows of a row group, as long as anybody takes them; what is wrong with it comes last.
    pub fn run(&self, group: Group, sender: &SyncSender<anyhow::Result<Piece>>) {
        let mut at = group.first;
        let ended = caught(|| self.decode(group, &mut at, sender));
        let problem = match ended {
            Some(Ok(())) => return,
            Some(Err(error)) => error,
            None => anyhow!("it is damaged"),
        };
        let what = self.bounds.problem().unwrap_or_else(|| problem.to_string());
        let _ = sender.send(Err(anyhow!(
            "row group {}, after row {at}: {what}",
            group.number + 1
        )));
    }

    fn decode(
        &self,
        group: Group,
        at: &mut u64,
        sender: &SyncSender<anyhow::Result<Piece>>,
    ) -> anyhow::Result<()> {
        let bounded = BoundedGroup {
            file: self.file.clone(),
            metadata: self.metadata.clone(),
            group: group.number,
            bounds: self.bounds.clone(),
            brought: Arc::default(),
        };
        let damaged = || anyhow!("it is damaged, or cut");
        let rows = self.rows_at_once(group.number)?;
        let reader =
            ParquetRecordBatchReader::try_new_with_row_groups(self.levels, &bounded, rows, None);
        for batch in reader.map_err(|_| damaged())? {
            // What the library says of it may quote a row.
            let batch = batch.map_err(|_| damaged())?;
            let end = *at + batch.num_rows() as u64;
            if end > group.first + group.rows {
                bail!("it claims {} rows, and holds more", group.rows);
            }
            let skipped = group.skipped.saturating_sub(*at);
            let mut cut = Cut {
                plan: self.plan,
                columns: &batch,
                first: *at + 1,
                at: usize::try_from(skipped).map_or(batch.num_rows(), |n| n.min(batch.num_rows())),
            };
            while let Some(piece) = cut.next((self.max_rows)())? {
                if sender.send(Ok(piece)).is_err() {
                    // Nobody takes what comes once the run has ended.
                    return Ok(());
                }
            }
            *at = end;
            drop(batch);
            bounded.rows_came();
        }
        let held = *at - group.first;
        match held == group.rows {
            true => Ok(()),
            false => bail!("it claims {} rows, and holds {held}", group.rows),
        }
    }

    /// Rows that are read together: few where they are long, or of many columns.
    fn rows_at_once(&self, group: usize) -> anyhow::Result<usize> {
        let about = self.metadata.row_group(group);
        let (mut bytes, mut fixed) = (0_usize, 0_usize);
        for chunk in self
            .leaves
            .iter()
            .filter_map(|leaf| about.columns().get(*leaf))
        {
            let column = chunk.column_descr();
            let packed = usize::try_from(chunk.uncompressed_size()).unwrap_or_default();
            let values = usize::try_from(chunk.num_values()).unwrap_or_default();
            bytes = bytes.saturating_add(packed.max(values.saturating_mul(width(column))));
            if column.physical_type() == Physical::FIXED_LEN_BYTE_ARRAY {
                fixed = fixed.saturating_add(width(column));
            }
        }
        if fixed > MAX_FIXED_BYTES {
            bail!(
                "its columns of fixed lengths take {fixed} bytes a row, and may take {MAX_FIXED_BYTES}"
            );
        }
        let rows = usize::try_from(about.num_rows()).unwrap_or(1).max(1);
        Ok((BATCH_BYTES / (bytes / rows).max(1)).clamp(1, MAX_INPUTS))
    }
}
