//! Owns where results go: standard output, or a file that appears whole.
//!
//! Promises that a file is written under another name beside it, `FILE.partial`, and has its own only once it is complete; and that who reads
//! standard output may stop doing so at any time. What isn't completed stays only where the output has a manifest, by which a later run
//! goes on.

use super::{
    render::{Layout, Piece},
    table::Encoder,
};
use crate::cli::file::{Packer, Packing};
use anyhow::{Context, bail};
use kiln_contract::model::ModelInfo;
use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, BufWriter, IsTerminal, Seek, SeekFrom, Write},
    os::unix::fs::MetadataExt,
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

enum Target {
    Stdout {
        writer: BufWriter<io::Stdout>,
        /// Whether every line is to be seen at once.
        is_live: bool,
    },
    File(Box<Part>),
}

/// A file that isn't complete yet.
pub(super) struct Part {
    path: PathBuf,
    /// Where it is written: beside its own path, or there at once where that is a device or a pipe.
    partial: Option<PathBuf>,
    packing: Packing,
    packer: Option<Packer>,
    /// The output's manifest, which says how far this has come where there is one.
    manifest: Option<PathBuf>,
}

/// The path of what belongs to a file, beside it.
pub(super) fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

impl Part {
    /// Opens it with the first `keep` bytes that an earlier run has written of it. `output` is that whose manifest says so.
    pub fn open(path: &Path, keep: u64, output: Option<&Path>) -> anyhow::Result<Self> {
        // Who names a link means what it leads to.
        let shown = path.display();
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let about = fs::metadata(&path).ok();
        if about.as_ref().is_some_and(fs::Metadata::is_dir) {
            bail!("{shown} is a folder, not a file");
        }
        let unwritable = || format!("{shown} can't be written");
        let is_special = about.as_ref().is_some_and(|about| !about.is_file());
        if about.is_some() && !is_special {
            // Who may not write a file may not replace it.
            let there = OpenOptions::new().write(true).open(&path);
            there.with_context(unwritable)?;
        }
        let partial = (!is_special).then(|| beside(&path, ".partial"));
        let target = partial.as_ref().unwrap_or(&path);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(target)
            .with_context(unwritable)?;
        if partial.is_some() {
            if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
                bail!("{shown} is being written by another process");
            }
            // Who had the lock before may have given the file its own name meanwhile: that one isn't this run's.
            let there = fs::metadata(target).ok().map(|about| about.ino());
            let own = file.metadata().with_context(unwritable)?;
            if there != Some(own.ino()) || own.len() < keep {
                bail!("{shown} was written by another process meanwhile: try again");
            }
            file.set_len(keep).with_context(unwritable)?;
        }
        let mut file = file;
        if partial.is_some() {
            file.seek(SeekFrom::End(0)).with_context(unwritable)?;
        }
        let packing = Packing::of_name(&path);
        Ok(Self {
            packer: Some(Packer::new(file, packing).with_context(unwritable)?),
            path,
            partial,
            packing,
            manifest: output.map(|output| beside(output, ".manifest")),
        })
    }

    /// Whether a run that is killed can go on where it stopped: not in the middle of what is packed as one, nor in a pipe.
    pub fn may_resume(&self) -> bool {
        self.partial.is_some() && self.packing != Packing::Zstd
    }

    /// Hands what was written so far to the file, so that it can be gone on from here; gives its length, and the file to sync.
    pub fn mark(&mut self) -> anyhow::Result<(u64, File)> {
        let shown = self.path.display().to_string();
        self.cut()
            .with_context(|| format!("{shown} can't be written"))
    }

    fn cut(&mut self) -> io::Result<(u64, File)> {
        let packer = self.packer.take().ok_or(io::ErrorKind::NotConnected)?;
        let mut file = packer.finish()?;
        let length = file.stream_position()?;
        let same = file.try_clone()?;
        self.packer = Some(Packer::new(file, self.packing)?);
        Ok((length, same))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it is while it isn't complete, if that is beside its own path.
    pub fn partial(&self) -> Option<PathBuf> {
        self.partial.clone()
    }

    /// Completes it: its name is its own from now on.
    pub fn finish(mut self) -> anyhow::Result<()> {
        let shown = self.path.display().to_string();
        let Some(packer) = self.packer.take() else {
            bail!("{shown} is closed");
        };
        let file = packer.finish();
        let completed = file.and_then(|file| complete(&file, self.partial.as_deref(), &self.path));
        completed.with_context(|| format!("{shown} can't be written"))?;
        self.partial = None;
        Ok(())
    }

    /// Adds to it.
    pub fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        if let Some(packer) = &mut self.packer {
            let shown = self.path.display();
            packer
                .write_all(bytes)
                .with_context(|| format!("{shown} can't be written"))?;
        }
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let Some(partial) = &self.partial else {
            return;
        };
        let manifest = self.manifest.as_deref();
        if !manifest.is_some_and(Path::exists) {
            // It is in nobody's way where it stays.
            let _ = fs::remove_file(partial);
        }
    }
}

/// Gives what was written its own name; what has it already needs none.
fn complete(file: &File, partial: Option<&Path>, path: &Path) -> io::Result<()> {
    let Some(partial) = partial else {
        return Ok(());
    };
    if let Ok(about) = fs::metadata(path) {
        // What replaces a file may be read by whom that could be.
        file.set_permissions(about.permissions())?;
    }
    file.sync_all()?;
    fs::rename(partial, path)
}

impl Output {
    /// A file, with the first `keep` bytes of an earlier run's, or standard output.
    pub fn open(path: Option<&Path>, keep: u64, layout: &Layout) -> anyhow::Result<Self> {
        let shape = layout.shape.clone();
        // What is packed, or piped, can't be read from its end.
        let is_stream = path.is_none_or(|path| {
            let is_named = path.extension().is_some_and(|name| name == "arrows");
            is_named || Packing::of_name(path) != Packing::Plain
        });
        Ok(Self {
            encoder: shape.map(|shape| Encoder::new(layout.format, shape, is_stream)),
            target: match path {
                Some(path) => Target::File(Box::new(Part::open(path, keep, Some(path))?)),
                None => Target::Stdout {
                    writer: BufWriter::with_capacity(1 << 16, io::stdout()),
                    is_live: io::stdout().is_terminal(),
                },
            },
        })
    }

    /// Whether a run that is killed can go on where it stopped: a table's end says where all of it is.
    pub fn may_resume(&self) -> bool {
        self.encoder.is_none() && matches!(&self.target, Target::File(part) if part.may_resume())
    }

    /// The file.
    pub fn part(&mut self) -> Option<&mut Part> {
        match &mut self.target {
            Target::Stdout { .. } => None,
            Target::File(part) => Some(part),
        }
    }

    /// Where the file is while it isn't complete, if that is beside its own path.
    pub fn partial(&self) -> Option<PathBuf> {
        match &self.target {
            Target::Stdout { .. } => None,
            Target::File(part) => part.partial(),
        }
    }

    /// Adds results.
    pub fn add(&mut self, results: &Piece) -> anyhow::Result<()> {
        match (results, &mut self.encoder) {
            (Piece::Text(lines), _) => self.write(lines),
            (Piece::Table(rows), Some(encoder)) => {
                let bytes = encoder.add(rows)?;
                self.write(&bytes)
            }
            (Piece::Table(_), None) => Ok(()),
        }
    }

    /// Adds to it.
    pub fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        match &mut self.target {
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

    /// Completes it, of results of a model.
    pub fn finish(mut self, model: Option<&ModelInfo>) -> anyhow::Result<()> {
        if let Some(encoder) = self.encoder.take() {
            self.write(&encoder.finish(model)?)?;
        }
        match self.target {
            Target::File(part) => part.finish(),
            Target::Stdout { mut writer, .. } => writer.flush().map_err(closed),
        }
    }
}

fn closed(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Closed.into(),
        _ => anyhow::Error::new(error).context("standard output can't be written"),
    }
}
