//! The folders: seeds that stand in the repository, and what long runs keep.

use crate::random::hash;
use std::{
    fs::{self, File},
    io::{Seek, Write},
    path::{Path, PathBuf},
};

/// Seeds in the repository, a folder for each target.
pub(crate) fn seeds(target: &str) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz");
    files(&root.join(target))
}

/// The files of a folder, in the order of their names; none where there is no folder.
pub(crate) fn files(folder: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    paths.sort();
    paths
        .iter()
        .filter_map(|path| fs::read(path).ok())
        .collect()
}

/// Keeps an input under a name of its own; gives its path.
pub(crate) fn keep(folder: &Path, input: &[u8]) -> PathBuf {
    let path = folder.join(format!("{:016x}", hash(0, input)));
    let kept = fs::create_dir_all(folder).and_then(|()| fs::write(&path, input));
    kept.expect("the corpus can be written");
    path
}

/// What is running, for those who find that the process ended, or doesn't: the input's length in eight bytes, the lowest first, and the
/// input.
#[derive(Debug)]
pub(crate) struct Running(File);

impl Running {
    pub fn begin(target: &str) -> Self {
        let folder = findings(target);
        let file = fs::create_dir_all(&folder).and_then(|()| File::create(folder.join("running")));
        Self(file.expect("what is running can be written"))
    }

    /// Notes the next input over the one before, since a new file for each costs more than most cases.
    pub fn note(&mut self, input: &[u8]) {
        let length = (input.len() as u64).to_le_bytes();
        let noted = self.0.rewind();
        let noted = noted.and_then(|()| self.0.write_all(&[&length, input].concat()));
        noted.expect("what is running is written");
    }
}

/// Where what failed is kept: beside the build.
pub(crate) fn findings(target: &str) -> PathBuf {
    let built = std::env::current_exe().expect("a test has a path");
    let folder = built.ancestors().nth(2).unwrap_or(Path::new("."));
    folder.join("fuzz").join(target)
}
