//! Owns what stands for `table` in a build without the feature `parquet`: nothing can be opened, so that there is nothing to read or write.

use super::{
    item::{Input, Item, Keep, Position},
    result::{EmbeddingType, ResultRow},
};
use crate::cli::file::{Blob, Columns, Format};
use anyhow::bail;
use indicatif::ProgressBar;
use kiln_contract::model::ModelInfo;
use std::path::Path;

/// There is none.
#[derive(Debug, Clone, PartialEq)]
enum Never {}

fn missing<T>() -> anyhow::Result<T> {
    bail!(
        "this build of kiln reads and writes no Parquet and no Arrow: that of the image does, and one by `cargo install --features parquet`"
    )
}

pub(super) trait Taker: Sync {
    fn max_rows(&self) -> usize;
    #[expect(dead_code, reason = "nothing reads a table")]
    fn take(&self, batch: Batch, rows: usize, bytes: usize, end: Position) -> bool;
    fn note(&self, bytes: u64);
}

#[expect(dead_code, reason = "nothing is asked of a table")]
pub(super) struct Wanted<'a> {
    pub columns: &'a Columns,
    pub keep: &'a Keep,
    pub to_table: bool,
    pub rows: bool,
}

pub(super) struct Table(Never);

impl Table {
    pub fn open(
        format: Format,
        _path: &Path,
        _file: Option<&Blob>,
        _bar: &ProgressBar,
        _wanted: &Wanted<'_>,
    ) -> anyhow::Result<Option<Self>> {
        match format.is_table() {
            true => missing(),
            false => Ok(None),
        }
    }

    pub fn kept(&self) -> Vec<String> {
        match self.0 {}
    }

    pub fn read(self, _from: Position, _flow: &impl Taker, _shown: &str) -> anyhow::Result<()> {
        match self.0 {}
    }
}

pub(super) struct Batch(Never);

impl Batch {
    pub fn items(&self) -> Vec<Item> {
        match self.0 {}
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shape(Never);

impl Shape {
    pub fn new(
        _kept: &[String],
        _table: Option<&Table>,
        _detail: bool,
        _errors: bool,
        _embedding: EmbeddingType,
    ) -> anyhow::Result<Self> {
        missing()
    }

    pub fn fits(&self, _table: &Table) -> bool {
        match self.0 {}
    }
}

pub(super) struct Builder(Never);

impl Builder {
    pub fn new(shape: &Shape, _model: Option<&ModelInfo>) -> Self {
        match shape.0 {}
    }

    pub fn push(&mut self, _row: &ResultRow<'_>, _input: &Input, _from: Option<&Batch>) {
        match self.0 {}
    }

    pub fn finish(self, _from: Option<&Batch>) -> anyhow::Result<Ready> {
        match self.0 {}
    }
}

pub(super) struct Ready(Never);

impl Ready {
    pub fn rows(&self) -> usize {
        match self.0 {}
    }

    pub fn slice(&self, _at: usize, _count: usize) -> Self {
        match self.0 {}
    }
}

pub(super) struct Encoder(Never);

impl Encoder {
    pub fn new(_format: Format, shape: Shape, _is_stream: bool) -> Self {
        match shape.0 {}
    }

    pub fn waiting(&self) -> usize {
        match self.0 {}
    }

    pub fn add(&mut self, rows: &Ready) -> anyhow::Result<Vec<u8>> {
        match rows.0 {}
    }

    pub fn finish(self, _model: Option<&ModelInfo>) -> anyhow::Result<Vec<u8>> {
        match self.0 {}
    }
}
