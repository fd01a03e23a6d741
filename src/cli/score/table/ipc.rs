//! Owns reading Arrow: files by their footers, streams as they come, from a pipe as well and packed.

use super::{
    Wanted,
    arrow_file::{self, ArrowFile},
    arrow_stream::ArrowStream,
    plan::Plan,
    rows::{Cut, Taker},
};
use crate::{
    cli::{
        file::{Blob, unpack},
        score::item::Position,
    },
    telemetry::logs::caught,
};
use anyhow::{Context, anyhow};
use arrow_array::RecordBatch;
use indicatif::ProgressBar;
use std::{
    io::{self, Read},
    sync::Arc,
};

/// A file or stream that was opened.
pub(in super::super) struct Arrow {
    batches: Batches,
    plan: Arc<Plan>,
}

enum Batches {
    File(ArrowFile),
    Stream(ArrowStream),
}

impl Arrow {
    /// Opens a file, or standard input, and reads which columns it has.
    pub fn open(
        shown: &str,
        file: Option<&Blob>,
        bar: &ProgressBar,
        wanted: &Wanted<'_>,
    ) -> anyhow::Result<Self> {
        let unreadable = || format!("{shown} can't be read");
        let raw: Box<dyn Read + Send> = match file {
            Some(file) if arrow_file::is_one(file) => {
                let opened = ArrowFile::open(file.clone()).with_context(|| shown.to_owned())?;
                let plan = Plan::new(opened.schema(), wanted).with_context(|| shown.to_owned())?;
                return Ok(Self {
                    batches: Batches::File(opened.reading(&plan.read)),
                    plan: Arc::new(plan),
                });
            }
            Some(file) => Box::new(bar.wrap_read(file.reader(0).with_context(unreadable)?)),
            None => Box::new(bar.wrap_read(io::stdin())),
        };
        let (reader, _) = unpack(raw).with_context(unreadable)?;
        let opened = ArrowStream::open(reader).with_context(|| shown.to_owned())?;
        let (stream, schema) = opened;
        let plan = Plan::new(&schema, wanted).with_context(|| shown.to_owned())?;
        Ok(Self {
            batches: Batches::Stream(stream),
            plan: Arc::new(plan),
        })
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Reads the rows after a position.
    pub fn read(mut self, from: Position, flow: &impl Taker, shown: &str) -> anyhow::Result<()> {
        let mut before = 0;
        loop {
            let at = |error: anyhow::Error| error.context(format!("{shown}: after row {before}"));
            let damaged = || anyhow!("it is damaged");
            let batch = caught(|| self.next_batch(flow)).unwrap_or_else(|| Err(damaged()));
            let Some(columns) = batch.map_err(at)? else {
                return Ok(());
            };
            let rows = columns.num_rows();
            let mut cut = Cut {
                plan: &self.plan,
                columns: &columns,
                first: before + 1,
                at: usize::try_from(from.lines.saturating_sub(before))
                    .map_or(rows, |n| n.min(rows)),
            };
            loop {
                let piece = caught(|| cut.next(flow.max_rows())).unwrap_or_else(|| Err(damaged()));
                let Some(piece) = piece.map_err(at)? else {
                    break;
                };
                if !piece.send(flow) {
                    return Ok(());
                }
            }
            before += rows as u64;
        }
    }

    fn next_batch(&mut self, flow: &impl Taker) -> anyhow::Result<Option<RecordBatch>> {
        match &mut self.batches {
            Batches::File(file) => {
                flow.note(file.position());
                file.next_batch()
            }
            Batches::Stream(stream) => {
                let Some(batch) = stream.next_batch()? else {
                    return Ok(None);
                };
                let columns = batch.project(&self.plan.read);
                columns.ok().context("a batch is damaged").map(Some)
            }
        }
    }
}
