//! Owns the names of an output's parts: `out-00001.jsonl.gz` and so on of `out.jsonl.gz`.
//!
//! Pure but for looking which of them are there.

use crate::cli::{file::Packing, score::part::beside};
use std::{
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// Digits of a part's number: parts are in the order of their names.
const DIGITS: usize = 5;
/// Parts of one output.
pub(super) const MAX_PARTS: u32 = 99_999;

/// The names of an output's parts.
#[derive(Debug, Clone)]
pub(in crate::cli::score) struct Names {
    folder: PathBuf,
    /// What stands before the number, and after it.
    stem: Vec<u8>,
    end: Vec<u8>,
}

impl Names {
    /// Those of an output.
    pub fn of(output: &Path) -> Self {
        let name = output.file_name().unwrap_or_default();
        let inner = match Packing::of_name(output) {
            Packing::Plain => name,
            Packing::Gzip | Packing::Zstd => output.file_stem().unwrap_or_default(),
        };
        let stem = Path::new(inner).file_stem().unwrap_or_default().as_bytes();
        let end = name.as_bytes().get(stem.len()..).unwrap_or_default();
        Self {
            folder: output.parent().unwrap_or(Path::new("")).to_owned(),
            stem: stem.to_owned(),
            end: end.to_owned(),
        }
    }

    /// A part's path.
    pub fn path(&self, number: u32) -> PathBuf {
        let mut name = self.stem.clone();
        name.extend(format!("-{number:0DIGITS$}").bytes());
        name.extend(&self.end);
        self.folder.join(OsStr::from_bytes(&name))
    }

    /// Where a part is while it isn't whole.
    pub fn partial(&self, number: u32) -> PathBuf {
        beside(&self.path(number), ".partial")
    }

    /// The number of the part that has a name.
    fn number(&self, name: &OsStr) -> Option<u32> {
        let name = name.as_bytes().strip_prefix(self.stem.as_slice())?;
        let digits = name.strip_prefix(b"-")?.strip_suffix(self.end.as_slice())?;
        let is_number = digits.len() == DIGITS && digits.iter().all(u8::is_ascii_digit);
        let text = std::str::from_utf8(digits).ok().filter(|_| is_number)?;
        text.parse().ok().filter(|number| *number > 0)
    }

    /// Whether a path is one of a part, or of one that isn't whole.
    pub fn is_one(&self, path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default();
        let whole = name.as_bytes().strip_suffix(b".partial");
        let whole = whole.unwrap_or(name.as_bytes());
        let folder = |path: &Path| {
            let path = if path.as_os_str().is_empty() {
                Path::new(".")
            } else {
                path
            };
            fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
        };
        self.number(OsStr::from_bytes(whole)).is_some()
            && folder(path.parent().unwrap_or(Path::new(""))) == folder(&self.folder)
    }

    /// The numbers of the parts that are there, in order.
    pub fn there(&self) -> io::Result<Vec<u32>> {
        let folder = match self.folder.as_os_str().is_empty() {
            true => Path::new("."),
            false => self.folder.as_path(),
        };
        let mut numbers = Vec::new();
        for entry in fs::read_dir(folder)? {
            numbers.extend(self.number(&entry?.file_name()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_named_by_its_output_and_its_number() {
        for (output, part) in [
            ("out.jsonl", "out-00007.jsonl"),
            ("a/b.c/out.v2.jsonl.gz", "a/b.c/out.v2-00007.jsonl.gz"),
            ("/x/out", "/x/out-00007"),
            ("out.gz", "out-00007.gz"),
            (".out", ".out-00007"),
        ] {
            let names = Names::of(Path::new(output));
            assert_eq!(names.path(7), Path::new(part));
            let name = Path::new(part).file_name().expect("a name");
            assert_eq!(names.number(name), Some(7), "{output}");
        }
        let names = Names::of(Path::new("out.jsonl"));
        for other in [
            "out.jsonl",
            "out-1.jsonl",
            "out-000001.jsonl",
            "out-00000.jsonl",
            "out-+0001.jsonl",
            "out-00001.csv",
            "out-00001.jsonl.partial",
            "in-00001.jsonl",
        ] {
            assert_eq!(names.number(OsStr::new(other)), None, "{other}");
        }
        assert!(names.is_one(Path::new("./out-00001.jsonl.partial")));
        assert!(!names.is_one(Path::new("deep/out-00001.jsonl")));
    }

    #[test]
    fn parts_that_are_there_are_found_in_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let names = Names::of(&folder.path().join("out.csv"));
        for name in [
            "out-00012.csv",
            "out-00002.csv",
            "out-00003.csv.partial",
            "out.csv",
        ] {
            fs::write(folder.path().join(name), "").expect("a file");
        }
        assert_eq!(names.there().expect("a folder"), [2, 12]);
    }
}
