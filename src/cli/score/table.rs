//! Owns tables whose columns have types: Parquet files, and Arrow files and streams, as they are read and written.
//!
//! Promises bounded memory whatever a file claims: what claims more than its bound ends the run with one line that says so. Refuses to show
//! what the libraries say of a file: their texts may quote its rows.

mod arrow_file;
mod arrow_stream;
mod build;
mod cells;
mod compact;
mod decode;
mod delta;
mod footer;
#[cfg(test)]
mod fuzz;
mod header;
mod ipc;
mod ipc_schema;
mod kept;
mod message;
mod pages;
mod parquet;
mod plan;
mod rows;
mod schema;
mod thrift;
mod values;
mod write;

pub(super) use build::{Builder, Ready};
pub(super) use rows::{Batch, Taker};
pub(super) use schema::Shape;
pub(super) use write::Encoder;

use super::item::{Keep, Position};
use crate::{
    cli::file::{Blob, Columns, Format},
    telemetry::logs::caught,
};
use anyhow::bail;
use indicatif::ProgressBar;
use std::path::Path;

/// Bytes of one page of Parquet, or of one batch of Arrow, unpacked: what may be in memory at once of it.
const MAX_PAGE_BYTES: usize = 128 << 20;
/// Bytes of all that is unpacked at once of a file.
const MAX_UNPACKED_BYTES: usize = 192 << 20;
/// Levels of lists and structs within each other.
const MAX_DEPTH: usize = 64;
/// Characters of a column's name that messages show.
const SHOWN: usize = 80;

/// A column's name as messages show it: in one line, and not all of a long one.
fn clipped(name: &str) -> String {
    let shown = name.chars().take(SHOWN).flat_map(char::escape_debug);
    let end = if name.chars().nth(SHOWN).is_some() {
        "…"
    } else {
        ""
    };
    shown.chain(end.chars()).collect()
}

/// What is asked of a table.
pub(super) struct Wanted<'a> {
    pub columns: &'a Columns,
    pub keep: &'a Keep,
    /// Whether the output has columns with types as well: what is kept needs no text.
    pub to_table: bool,
    /// Whether rows are wanted as they stand.
    pub rows: bool,
}

/// A table to read.
pub(super) enum Table {
    Parquet(parquet::Parquet),
    Arrow(ipc::Arrow),
}

impl Table {
    /// Opens a table: `file` is none for standard input. Nothing where the format isn't one of a table.
    pub fn open(
        format: Format,
        path: &Path,
        file: Option<&Blob>,
        bar: &ProgressBar,
        wanted: &Wanted<'_>,
    ) -> anyhow::Result<Option<Self>> {
        let shown = path.display();
        let opened = caught(|| Self::opened(format, path, file, bar, wanted));
        opened.unwrap_or_else(|| bail!("{shown}: its columns can't be read: it is damaged"))
    }

    fn opened(
        format: Format,
        path: &Path,
        file: Option<&Blob>,
        bar: &ProgressBar,
        wanted: &Wanted<'_>,
    ) -> anyhow::Result<Option<Self>> {
        let shown = path.display();
        Ok(match (format, file) {
            (Format::Jsonl | Format::Csv | Format::Tsv, _) => None,
            (Format::Parquet, Some(file)) if file.size().is_some() => {
                let table = parquet::Parquet::open(&shown.to_string(), file, wanted)?;
                Some(Self::Parquet(table))
            }
            (Format::Parquet, _) => bail!(
                "{shown}: Parquet is read from a file alone, since its columns are listed at its end: give the file, or a stream with --input-format arrow"
            ),
            (Format::Arrow, file) => {
                let table = ipc::Arrow::open(&shown.to_string(), file, bar, wanted)?;
                Some(Self::Arrow(table))
            }
        })
    }

    /// The columns that go to the output, in its order.
    pub fn kept(&self) -> Vec<String> {
        self.plan().kept_names()
    }

    fn plan(&self) -> &plan::Plan {
        match self {
            Self::Parquet(table) => table.plan(),
            Self::Arrow(table) => table.plan(),
        }
    }

    /// Reads what comes after a position, to the end or until nobody takes it any more.
    pub fn read(self, from: Position, flow: &impl Taker, shown: &str) -> anyhow::Result<()> {
        match self {
            Self::Parquet(table) => table.read(from, flow, shown),
            Self::Arrow(table) => table.read(from, flow, shown),
        }
    }
}
