//! Owns the list of jobs that the broker has confirmed and whose rows aren't durable yet, kept beside the output as `FILE.posted`: what a run
//! that goes on finds there waits at the broker, and isn't posted again.
//!
//! Promises a bounded file. A machine that loses its power may lose the end of the list: a job that isn't found there is posted again, and a
//! worker answers it from its row.

use super::super::part::beside;
use sha2::{Digest, Sha256};
use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

/// Bytes of a job's name in the list.
const NAME_BYTES: usize = 16;
/// Bytes of the list after which it is written anew.
const MAX_BYTES: u64 = 1 << 20;

/// Bytes of its end that are read: no more jobs than that are posted and not durable.
const KNOWN_BYTES: u64 = 64 << 10;

type Name = [u8; NAME_BYTES];

/// The list of one run.
pub(in crate::cli::score) struct Journal {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// What an earlier process has posted.
    known: HashSet<Name>,
}

/// Names in the list tell its run as well: another run's mean nothing.
fn name(key: &str) -> Name {
    let hash = Sha256::digest(key.as_bytes());
    let mut name = [0; NAME_BYTES];
    for (to, from) in name.iter_mut().zip(hash) {
        *to = from;
    }
    name
}

fn path(output: &Path) -> PathBuf {
    beside(output, ".posted")
}

impl Journal {
    /// Opens the list of an output's run.
    pub fn open(output: &Path) -> io::Result<Self> {
        let path = path(output);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)?;
        let length = file.metadata()?.len();
        // The latest ones, from where a name begins.
        let skipped = length.saturating_sub(KNOWN_BYTES);
        let skipped = skipped.next_multiple_of(NAME_BYTES as u64);
        file.seek(SeekFrom::Start(skipped))?;
        let mut bytes = Vec::new();
        (&mut file).take(KNOWN_BYTES).read_to_end(&mut bytes)?;
        let (names, _cut_short) = bytes.as_chunks::<NAME_BYTES>();
        let known = names.iter().copied().collect();
        let whole = length - length % NAME_BYTES as u64;
        file.seek(SeekFrom::Start(whole))?;
        Ok(Self {
            path,
            file,
            bytes: whole,
            known,
        })
    }

    /// Whether an earlier process has posted it.
    pub fn knows(&self, key: &str) -> bool {
        self.known.contains(&name(key))
    }

    /// Adds a job that is confirmed.
    pub fn add(&mut self, key: &str) -> io::Result<()> {
        self.file.write_all(&name(key))?;
        self.bytes += NAME_BYTES as u64;
        Ok(())
    }

    /// Writes the list anew, once it is long, with those that still count.
    pub fn cut<'k>(&mut self, keys: impl Iterator<Item = &'k String>) -> io::Result<()> {
        if self.bytes < MAX_BYTES {
            return Ok(());
        }
        // What an earlier process had posted is long durable.
        self.known = HashSet::new();
        let bytes: Vec<u8> = keys.flat_map(|key| name(key)).collect();
        let new = beside(&self.path, ".new");
        fs::write(&new, &bytes)?;
        fs::rename(&new, &self.path)?;
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        self.bytes = bytes.len() as u64;
        Ok(())
    }
}

/// Removes the list of an output.
pub(in crate::cli::score) fn remove(output: &Path) {
    // What stays is found by no run: names tell theirs.
    let _ = fs::remove_file(path(output));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_posted_is_known_again_and_the_list_stays_short() {
        let folder = tempfile::tempdir().expect("a folder");
        let output = folder.path().join("out.jsonl");
        let mut first = Journal::open(&output).expect("a list");
        assert!(!first.knows("a"));
        first.add("a").expect("written");
        first.add("b").expect("written");
        assert!(!first.knows("a"), "it is this process's own");
        drop(first);
        // A process that was killed in the middle of a name.
        let mut file = OpenOptions::new()
            .append(true)
            .open(path(&output))
            .expect("a list");
        file.write_all(b"half").expect("written");
        drop(file);
        let mut second = Journal::open(&output).expect("a list");
        assert!(second.knows("a") && second.knows("b") && !second.knows("c"));
        let keys: Vec<String> = (0..70_000).map(|n| n.to_string()).collect();
        for key in &keys {
            second.add(key).expect("written");
        }
        second.cut(keys[..3].iter()).expect("written");
        second.add("last").expect("written");
        let third = Journal::open(&output).expect("a list");
        assert_eq!(third.bytes, 4 * NAME_BYTES as u64);
        assert!(third.knows("2") && third.knows("last") && !third.knows("a"));
        remove(&output);
        assert!(!Journal::open(&output).expect("a list").knows("2"));
    }
}
