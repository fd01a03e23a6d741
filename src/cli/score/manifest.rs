//! Owns how far a run has come that writes a file, kept beside that file as `FILE.manifest` while it isn't complete.
//!
//! Promises that whatever comes before a manifest's position is in the output once, and in the store; and that a manifest of another
//! file, other options or another model is no manifest.

use super::{
    fleet::RunMark,
    item::Position,
    part::beside,
    split::{Names, SplitMark},
    tally::Tally,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// The form of manifests.
const FORM: u32 = 2;
/// Bytes of a quarantine's end by which it is known again.
const END_BYTES: u64 = 64 << 10;

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
    /// What the quarantine's bytes end with: another output's run may have written there meanwhile.
    pub quarantine_end: Option<String>,
    pub tally: Tally,
    /// Seconds that were worked on it.
    pub seconds: f64,
    /// The run over the fleet, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<RunMark>,
    /// How far its parts have come, where the output is split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<SplitMark>,
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
            quarantine_end: None,
            tally: Tally::default(),
            seconds: 0.0,
            fleet: None,
            split: None,
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
            && (manifest.is_between_parts()
                || has(&manifest.written(output), manifest.output_bytes))
            && quarantine.is_none_or(|path| {
                let length = manifest.quarantine_bytes;
                has(path, length) && end(path, length).ok() == manifest.quarantine_end
            });
        is_whole.then_some(manifest)
    }

    /// Whether it was kept after a whole part, and the next one may not be begun.
    fn is_between_parts(&self) -> bool {
        self.split.is_some() && self.output_bytes == 0
    }

    /// The file that isn't complete: a part, where the output is split.
    fn written(&self, output: &Path) -> PathBuf {
        match self.split {
            Some(mark) => Names::of(output).path(mark.whole.saturating_add(1)),
            None => output.to_owned(),
        }
    }

    /// Keeps it, in place of the one before.
    pub fn keep(&mut self, output: &Path, quarantine: Option<&Path>) -> io::Result<()> {
        self.quarantine_end = quarantine
            .map(|path| end(path, self.quarantine_bytes))
            .transpose()?;
        let new = beside(output, ".manifest.new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(new, path(output))
    }
}

/// What the first bytes of a file that isn't complete end with.
fn end(path: &Path, length: u64) -> io::Result<String> {
    let mut file = File::open(beside(path, ".partial"))?;
    file.seek(SeekFrom::Start(length.saturating_sub(END_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(length.min(END_BYTES)).read_to_end(&mut bytes)?;
    Ok(hex::encode(Sha256::digest(&bytes)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarantine_that_another_run_has_written_is_none_to_go_on_from() {
        let folder = tempfile::tempdir().expect("a folder");
        let (output, bad) = (
            folder.path().join("out.jsonl"),
            folder.path().join("bad.jsonl"),
        );
        let partial = |path: &Path, text: &str| {
            fs::write(beside(path, ".partial"), text).expect("a file");
        };
        partial(&output, "rows");
        partial(&bad, "bad row of this run\nand more");
        let run = serde_json::json!({"input": 1});
        let mut manifest = Manifest::new(run.clone());
        (manifest.output_bytes, manifest.quarantine_bytes) = (4, 20);
        manifest.keep(&output, Some(&bad)).expect("a manifest");
        let read = || Manifest::read(&output, &run, Some(&bad)).is_some();
        assert!(read());
        partial(&bad, "bad row of that run\nand more");
        assert!(!read());
        partial(&bad, "bad");
        assert!(!read());
    }
}
