//! Owns a part that is whole, until it has its name.

use super::names::Names;
use anyhow::{Context, anyhow};
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// A part that is whole and hasn't its name yet.
pub(in crate::cli::score) struct Unnamed {
    pub(super) number: u32,
    partial: PathBuf,
    path: PathBuf,
}

impl Unnamed {
    pub(super) fn new(names: &Names, number: u32) -> Self {
        Self {
            number,
            partial: names.partial(number),
            path: names.path(number),
        }
    }

    /// Whether it is there, and its name is free.
    pub(super) fn waits(&self) -> bool {
        self.partial.exists() && !self.path.exists()
    }

    pub(super) fn remove(&self) {
        // It is in nobody's way where it stays.
        let _ = fs::remove_file(&self.partial);
    }

    /// Waits until its bytes are on the disk.
    pub fn sync(&self) -> io::Result<()> {
        File::open(&self.partial)?.sync_all()
    }

    /// Gives it its name.
    pub fn name(&self) -> anyhow::Result<()> {
        if fs::symlink_metadata(&self.path).is_ok() {
            return Err(taken(&self.path));
        }
        let named = fs::rename(&self.partial, &self.path);
        named.with_context(|| format!("{} can't be written", self.path.display()))
    }
}

/// Why a part can't have its name.
pub(super) fn taken(path: &Path) -> anyhow::Error {
    anyhow!(
        "{} is there already, and is no part of this run: move it, or name another --output",
        path.display()
    )
}
