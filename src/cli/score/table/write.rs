//! Owns writing batches: as a Parquet or Arrow file, or as an Arrow stream.
//!
//! Promises that what is in memory of a file is bounded: a row group ends by its rows or its bytes.

use super::{build::Ready, schema::Shape};
use crate::cli::file::Format;
use ::parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};
use anyhow::anyhow;
use arrow_ipc::writer::{FileWriter, StreamWriter};
use arrow_schema::Schema;
use kiln_contract::model::ModelInfo;
use std::{
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};

/// Rows and bytes of a row group.
const GROUP_ROWS: usize = 1 << 18;
const GROUP_BYTES: usize = 32 << 20;

/// Bytes that were written and not fetched yet.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        written.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes a file's bytes of batches.
pub(in super::super) struct Encoder {
    format: Format,
    /// Whether it goes to standard output: Arrow as a stream.
    is_stream: bool,
    shape: Shape,
    writer: Option<Writer>,
    written: Written,
}

enum Writer {
    Parquet(Box<ArrowWriter<Written>>),
    File(Box<FileWriter<Written>>),
    Stream(Box<StreamWriter<Written>>),
}

impl Encoder {
    pub fn new(format: Format, shape: Shape, is_stream: bool) -> Self {
        Self {
            format,
            is_stream,
            shape,
            writer: None,
            written: Written::default(),
        }
    }

    /// Bytes of rows that are added and not written yet, as they are expected to be.
    pub fn waiting(&self) -> usize {
        match &self.writer {
            Some(Writer::Parquet(writer)) => writer.in_progress_size(),
            Some(Writer::File(_) | Writer::Stream(_)) | None => 0,
        }
    }

    /// Adds rows; gives the bytes to write by now.
    pub fn add(&mut self, rows: &Ready) -> anyhow::Result<Vec<u8>> {
        let Ready(batch) = rows;
        if batch.num_rows() == 0 {
            return Ok(Vec::new());
        }
        let written = match self.open(&batch.schema())? {
            Writer::Parquet(writer) => writer.write(batch).ok(),
            Writer::File(writer) => writer.write(batch).ok(),
            Writer::Stream(writer) => writer.write(batch).ok(),
        };
        written.ok_or_else(unwritable)?;
        Ok(self.written.take())
    }

    /// The file's end. A file without rows has columns nevertheless: those for a model, where it is known.
    pub fn finish(mut self, model: Option<&ModelInfo>) -> anyhow::Result<Vec<u8>> {
        let schema = self.shape.columns(model).schema;
        let written = match self.open(&schema)? {
            Writer::Parquet(writer) => writer.finish().ok().map(drop),
            Writer::File(writer) => writer.finish().ok(),
            Writer::Stream(writer) => writer.finish().ok(),
        };
        written.ok_or_else(unwritable)?;
        Ok(self.written.take())
    }

    fn open(&mut self, schema: &Arc<Schema>) -> anyhow::Result<&mut Writer> {
        if self.writer.is_none() {
            self.writer = Some(self.writer(schema).ok_or_else(unwritable)?);
        }
        self.writer.as_mut().ok_or_else(unwritable)
    }

    fn writer(&self, schema: &Arc<Schema>) -> Option<Writer> {
        let to = self.written.clone();
        if self.format == Format::Parquet {
            let properties = WriterProperties::builder()
                .set_compression(Compression::ZSTD(ZstdLevel::default()))
                .set_max_row_group_row_count(Some(GROUP_ROWS))
                .set_max_row_group_bytes(Some(GROUP_BYTES))
                .build();
            let writer = ArrowWriter::try_new(to, schema.clone(), Some(properties));
            return writer.ok().map(|writer| Writer::Parquet(Box::new(writer)));
        }
        match self.is_stream {
            true => StreamWriter::try_new(to, schema)
                .ok()
                .map(|one| Writer::Stream(Box::new(one))),
            false => FileWriter::try_new(to, schema)
                .ok()
                .map(|one| Writer::File(Box::new(one))),
        }
    }
}

fn unwritable() -> anyhow::Error {
    anyhow!("a column has a type that the output's format has no form for")
}
