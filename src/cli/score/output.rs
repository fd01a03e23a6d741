//! Owns where results go: standard output, or a file that appears whole.
//!
//! Promises that who reads standard output may stop doing so at any time.

use super::{
    manifest::Manifest,
    part::Part,
    render::{Layout, Piece},
    split::{Limits, SplitMark, SplitOutput, Unnamed},
    table::Encoder,
};
use crate::cli::file::Packing;
use kiln_contract::model::ModelInfo;
use std::{
    fs::File,
    io::{self, BufWriter, IsTerminal, Write},
    path::{Path, PathBuf},
};

/// Nobody reads standard output any more.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
pub(super) struct Closed;

/// Where results go.
pub(super) struct Output {
    target: Target,
    /// What makes a table's bytes.
    encoder: Option<Encoder>,
}

/// Where a run that is killed can go on from.
#[derive(Default)]
pub(super) struct Mark {
    /// Bytes of the file that isn't complete, and the file, which is to be synced.
    pub bytes: u64,
    pub file: Option<File>,
    pub split: Option<SplitMark>,
    /// Parts that are whole, and get their names once that is kept.
    pub unnamed: Vec<Unnamed>,
    /// What is kept instead of what a manifest says now.
    pub instead: Option<Manifest>,
}

enum Target {
    Stdout {
        writer: BufWriter<io::Stdout>,
        /// Whether every line is to be seen at once.
        is_live: bool,
    },
    File(Box<Part>),
    Split(Box<SplitOutput>),
}

impl Output {
    /// A file, as far as an earlier run has come that `known` tells of, split into parts where these are asked for; or standard output.
    pub fn open(
        path: Option<&Path>,
        limits: Option<Limits>,
        known: &Manifest,
        layout: &Layout,
    ) -> anyhow::Result<Self> {
        let shape = layout.shape.clone();
        // What is packed, or piped, can't be read from its end.
        let is_stream = path.is_none_or(|path| {
            let is_named = path.extension().is_some_and(|name| name == "arrows");
            is_named || Packing::of_name(path) != Packing::Plain
        });
        if let Some((path, limits)) = path.zip(limits) {
            let split = SplitOutput::open(path, limits, layout, known, is_stream)?;
            return Ok(Self {
                encoder: None,
                target: Target::Split(Box::new(split)),
            });
        }
        Ok(Self {
            encoder: shape.map(|shape| Encoder::new(layout.format, shape, is_stream)),
            target: match path {
                Some(path) => {
                    let part = Part::open(path, known.output_bytes, Some(path))?;
                    Target::File(Box::new(part))
                }
                None => Target::Stdout {
                    writer: BufWriter::with_capacity(1 << 16, io::stdout()),
                    is_live: io::stdout().is_terminal(),
                },
            },
        })
    }

    /// Whether a run that is killed can go on where it stopped: a table's end says where all of it is.
    pub fn may_resume(&self) -> bool {
        match &self.target {
            Target::Stdout { .. } => false,
            Target::File(part) => self.encoder.is_none() && part.may_resume(),
            Target::Split(_) => true,
        }
    }

    /// Whether it can go on wherever that is, and not after a whole part alone.
    pub fn may_resume_within(&self) -> bool {
        match &self.target {
            Target::Split(split) => split.may_resume_within(),
            Target::Stdout { .. } | Target::File(_) => self.may_resume(),
        }
    }

    /// Whether a run can go on from elsewhere than it could at the last mark.
    pub fn has_moved(&self) -> bool {
        match &self.target {
            Target::Split(split) => split.has_moved(),
            Target::Stdout { .. } | Target::File(_) => true,
        }
    }

    /// Where a run can go on from; nothing where that is nowhere.
    pub fn mark(&mut self) -> anyhow::Result<Option<Mark>> {
        match &mut self.target {
            Target::Stdout { .. } => Ok(None),
            Target::File(part) => {
                let (bytes, file) = part.mark()?;
                Ok(Some(Mark {
                    bytes,
                    file: Some(file),
                    ..Mark::default()
                }))
            }
            Target::Split(split) => split.mark().map(Some),
        }
    }

    /// Its parts, where it is split.
    pub fn split(&mut self) -> Option<&mut SplitOutput> {
        match &mut self.target {
            Target::Split(split) => Some(split),
            Target::Stdout { .. } | Target::File(_) => None,
        }
    }

    /// Where the file is while it isn't complete, if that is beside its own path.
    pub fn partial(&self) -> Option<PathBuf> {
        match &self.target {
            Target::Stdout { .. } => None,
            Target::File(part) => part.partial(),
            Target::Split(split) => split.partial(),
        }
    }

    /// Adds results.
    pub fn add(&mut self, results: &Piece) -> anyhow::Result<()> {
        if let Target::Split(split) = &mut self.target {
            return split.add(results);
        }
        match (results, &mut self.encoder) {
            (Piece::Text(lines), _) => self.write(lines),
            (Piece::Table(rows), Some(encoder)) => {
                let bytes = encoder.add(rows)?;
                self.write(&bytes)
            }
            (Piece::Table(_), None) => Ok(()),
        }
    }

    /// Adds what the file begins with; each part has begun with it already.
    pub fn begin(&mut self, header: &[u8]) -> anyhow::Result<()> {
        self.write(header)
    }

    fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        match &mut self.target {
            Target::Split(_) => Ok(()),
            Target::File(part) => part.write(bytes),
            Target::Stdout { writer, is_live } => {
                let mut written = writer.write_all(bytes);
                if *is_live {
                    written = written.and_then(|()| writer.flush());
                }
                written.map_err(closed)
            }
        }
    }

    /// Completes it, of results of a model; says how many parts it has, where it is split.
    pub fn finish(mut self, model: Option<&ModelInfo>) -> anyhow::Result<Option<u32>> {
        if let Some(encoder) = self.encoder.take() {
            self.write(&encoder.finish(model)?)?;
        }
        match self.target {
            Target::File(part) => part.finish()?,
            Target::Split(split) => return split.finish(model).map(Some),
            Target::Stdout { mut writer, .. } => writer.flush().map_err(closed)?,
        }
        Ok(None)
    }
}

fn closed(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Closed.into(),
        _ => anyhow::Error::new(error).context("standard output can't be written"),
    }
}
