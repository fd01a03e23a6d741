//! Owns how far a run has come that writes a file, kept beside that file as `FILE.manifest` while it isn't complete.
//!
//! Promises that whatever comes before a manifest's position is in the output once, and in the store; and that a manifest of another
//! file, other options or another model is no manifest.

use super::{item::Position, output::beside, tally::Tally};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// The form of manifests.
const FORM: u32 = 1;

/// How far a run has come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Manifest {
    form: u32,
    /// What is scored, and how: the file, its size and last change, and every option that changes the output.
    pub run: Value,
    /// The model of inputs, once it is known.
    pub model: Option<String>,
    pub end: Position,
    pub output_bytes: u64,
    pub quarantine_bytes: u64,
    pub tally: Tally,
    /// Seconds that were worked on it.
    pub seconds: f64,
}

impl Manifest {
    /// The beginning of a run.
    pub fn new(run: Value) -> Self {
        Self {
            form: FORM,
            run,
            model: None,
            end: Position::default(),
            output_bytes: 0,
            quarantine_bytes: 0,
            tally: Tally::default(),
            seconds: 0.0,
        }
    }

    /// The manifest of an output, where it is one of this run.
    pub fn read(output: &Path, run: &Value, quarantine: Option<&Path>) -> Option<Self> {
        let bytes = fs::read(path(output)).ok()?;
        let manifest: Self = serde_json::from_slice(&bytes).ok()?;
        let has = |path: &Path, bytes: u64| {
            let about = fs::metadata(beside(path, ".partial"));
            about.is_ok_and(|about| about.len() >= bytes)
        };
        let is_whole = manifest.form == FORM
            && manifest.run == *run
            && has(output, manifest.output_bytes)
            && quarantine.is_none_or(|path| has(path, manifest.quarantine_bytes));
        is_whole.then_some(manifest)
    }

    /// Keeps it, in place of the one before.
    pub fn keep(&self, output: &Path) -> io::Result<()> {
        let new = beside(output, ".manifest.new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(new, path(output))
    }
}

/// Where an output's manifest is.
pub(super) fn path(output: &Path) -> PathBuf {
    beside(output, ".manifest")
}

/// Removes it.
pub(super) fn remove(output: &Path) {
    // What stays is no manifest of a later run: its output isn't partial.
    let _ = fs::remove_file(path(output));
}
