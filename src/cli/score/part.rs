//! Owns a file that isn't complete yet: written beside its own path, under another name.
//!
//! Promises that it has its own name only once it is complete, and that no other process writes it meanwhile. What isn't completed stays only where
//! its output has a manifest, by which a later run goes on.

use crate::cli::file::{Packer, Packing};
use anyhow::{Context, bail};
use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Seek, SeekFrom, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

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

    /// Bytes that it has by now, of what is packed as far as the packer has let them go.
    pub fn bytes(&self) -> anyhow::Result<u64> {
        let bytes = self.packer.as_ref().map_or(Ok(0), Packer::bytes);
        bytes.with_context(|| format!("{} can't be written", self.path.display()))
    }

    /// Ends it without giving it its name.
    pub fn close(mut self) -> anyhow::Result<()> {
        let closed = self.packer.take().map(Packer::finish).transpose();
        closed.with_context(|| format!("{} can't be written", self.path.display()))?;
        self.partial = None;
        Ok(())
    }

    /// Leaves nothing of it.
    pub fn discard(mut self) -> anyhow::Result<()> {
        let removed = self.partial.take().map(fs::remove_file).transpose();
        removed.with_context(|| format!("{} can't be written", self.path.display()))?;
        Ok(())
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
