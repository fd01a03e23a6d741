//! Owns the folder of schedules: what is in it, and what is wrong there.
//!
//! Promises that an invalid file affects no other one, and that its last valid version stays in use until the file is fixed or
//! removed; and that all stay in use while the folder itself can't be listed.

use super::schedule::{self, BadSchedule, Known, Schedule};
use crate::redact::Redact;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Largest schedule file, in bytes.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// All of a folder's together: what comes after them isn't read.
const MAX_FOLDER_BYTES: usize = 64 << 20;

/// Schedules that were removed whose times are remembered.
const MAX_GONE: usize = 10_000;

/// What a scan found new.
#[derive(Debug, Default, PartialEq)]
pub struct Changes {
    /// Names of new and changed schedules.
    pub read: Vec<String>,
    /// Names of those of them that are new, or due at other times than before: what they would have been due before now, they never
    /// were.
    pub retimed: Vec<String>,
    /// Names of removed schedules.
    pub gone: Vec<String>,
    /// Problems that the last scan didn't find.
    pub problems: Vec<BadSchedule>,
}

/// The schedule that a file last held, with the file's text.
type Held = (String, Arc<Schedule>);

/// The schedules of a folder.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
    files: BTreeMap<PathBuf, Held>,
    problems: Vec<BadSchedule>,
    /// What can be read of files that are refused.
    refused: Vec<Held>,
    is_missing: bool,
    /// Removed schedules: one that comes back as it was is due as if it had been there.
    gone: BTreeMap<String, Arc<Schedule>>,
}

impl Folder {
    /// A folder before its first scan. One that doesn't exist is empty.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            files: BTreeMap::new(),
            problems: Vec::new(),
            refused: Vec::new(),
            is_missing: false,
            gone: BTreeMap::new(),
        }
    }

    /// Whether the last scan found no such folder.
    pub fn is_missing(&self) -> bool {
        self.is_missing
    }

    /// Files that the last scan refused.
    pub fn refused(&self) -> usize {
        let files: BTreeSet<&Path> = self.problems.iter().map(|bad| bad.file.as_path()).collect();
        files.len()
    }

    /// What of valid schedules doesn't fit what is known, by file; of those whose names `of` takes.
    pub fn misfits(&self, known: &Known<'_>, of: impl Fn(&str) -> bool) -> Vec<BadSchedule> {
        let wanted = self.files.values().filter(|(_, s)| of(&s.name));
        wanted
            .flat_map(|(text, schedule)| schedule::misfits(schedule, text, known))
            .collect()
    }

    /// The same of files that are refused, as far as they can be read: of their times nothing is known.
    pub fn refused_misfits(&self, known: &Known<'_>) -> Vec<BadSchedule> {
        let all = self.refused.iter();
        let found = all.flat_map(|(text, schedule)| schedule::misfits(schedule, text, known));
        found.filter(|bad| bad.field != "cron").collect()
    }

    /// Every valid schedule, by name.
    pub fn schedules(&self) -> Vec<Arc<Schedule>> {
        let mut all: Vec<Arc<Schedule>> = self.files.values().map(|(_, s)| s.clone()).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The schedule of that name.
    pub fn get(&self, name: &str) -> Option<Arc<Schedule>> {
        self.files
            .values()
            .find(|(_, s)| s.name == name)
            .map(|(_, s)| s.clone())
    }

    /// What the last scan found wrong.
    pub fn problems(&self) -> &[BadSchedule] {
        &self.problems
    }

    /// Reads the folder again.
    pub fn scan(&mut self) -> Changes {
        let read = ReadFiles::of(&self.dir);
        self.take(read)
    }

    /// Takes what was read of the folder by now.
    pub fn take(&mut self, read: ReadFiles) -> Changes {
        let before = self.schedules();
        let ReadFiles(listed) = read;
        self.is_missing = matches!(listed, Ok(None)) && self.files.is_empty();
        let found = match listed {
            Err(error) => self.unlisted(&error.redacted()),
            // A folder that is replaced, or mounted again, is away for a moment.
            Ok(None) if !self.files.is_empty() => self.unlisted("there is no such folder"),
            Ok(files) => {
                let mut known = std::mem::take(&mut self.files);
                let mut found = Found::default();
                for (path, text) in files.unwrap_or_default() {
                    let known = known.remove(&path);
                    found.take_file(path, text, known);
                }
                found
            }
        };
        let new_problems = found
            .problems
            .iter()
            .filter(|p| !self.problems.contains(p))
            .cloned()
            .collect();
        self.files = found.files;
        self.problems = found.problems;
        self.refused = found.refused;
        let after = self.schedules();
        let (read, gone) = compare(&before, &after);
        let retimed = retimed(&before, &self.gone, &after);
        self.remember(&before, &after);
        Changes {
            read,
            retimed,
            gone,
            problems: new_problems,
        }
    }

    /// What is found where the folder can't be listed: what was there, and why nothing new.
    fn unlisted(&mut self, reason: &str) -> Found {
        let mut problems = std::mem::take(&mut self.problems);
        let said = problems.clone();
        problems.retain(|problem| problem.file != self.dir);
        let kept = match self.files.is_empty() {
            true => "",
            false => "; its schedules stay in use",
        };
        let message = format!("can't be read: {reason}{kept}");
        problems.push(whole(&self.dir, message));
        self.problems = said;
        Found {
            files: std::mem::take(&mut self.files),
            names: BTreeMap::new(),
            problems,
            refused: Vec::new(),
        }
    }

    /// Remembers the schedules that were removed, and forgets those that are back.
    fn remember(&mut self, before: &[Arc<Schedule>], after: &[Arc<Schedule>]) {
        for schedule in before {
            self.gone.insert(schedule.name.clone(), schedule.clone());
        }
        for schedule in after {
            self.gone.remove(&schedule.name);
        }
        while self.gone.len() > MAX_GONE {
            self.gone.pop_first();
        }
    }
}

/// A file and what stands in it.
type ReadFile = (PathBuf, io::Result<String>);

/// What stands in the files of a folder: nothing where there is no folder.
#[derive(Debug)]
pub struct ReadFiles(io::Result<Option<Vec<ReadFile>>>);

impl ReadFiles {
    /// Whether the folder could be listed, or isn't there.
    pub fn is_listed(&self) -> bool {
        self.0.is_ok()
    }

    /// Reads the files. That takes as long as the folder's file system does.
    pub fn of(dir: &Path) -> Self {
        let listed = list(dir);
        Self(listed.map(|paths| paths.map(|paths| read_all(paths, MAX_FOLDER_BYTES))))
    }
}

/// What a scan has found so far.
#[derive(Default)]
struct Found {
    files: BTreeMap<PathBuf, Held>,
    /// The file of each schedule.
    names: BTreeMap<String, PathBuf>,
    problems: Vec<BadSchedule>,
    refused: Vec<Held>,
}

impl Found {
    /// Takes what was read of a file; `known` is what it last held.
    fn take_file(&mut self, path: PathBuf, text: io::Result<String>, known: Option<Held>) {
        let held = match text {
            Err(error) => {
                self.problems
                    .push(whole(&path, format!("can't be read: {}", error.redacted())));
                known
            }
            Ok(text) if known.as_ref().is_some_and(|(was, _)| *was == text) => known,
            Ok(text) => match schedule::parse_some(&path, &text) {
                (Some(schedule), bad) if bad.is_empty() => Some((text, Arc::new(schedule))),
                (some, mut bad) => {
                    self.problems.append(&mut bad);
                    self.refused.extend(some.map(|some| (text, Arc::new(some))));
                    known
                }
            },
        };
        let Some((text, schedule)) = held else {
            return;
        };
        if let Some(first) = self.names.get(&schedule.name) {
            self.problems.push(BadSchedule {
                at: schedule::locate(&text, &["name"]),
                file: path,
                field: "name".into(),
                message: format!("`{}` is taken by {}", schedule.name, first.display()),
            });
            return;
        }
        self.names.insert(schedule.name.clone(), path.clone());
        self.files.insert(path, (text, schedule));
    }
}

/// Names of new and changed schedules, and of removed ones.
fn compare(before: &[Arc<Schedule>], after: &[Arc<Schedule>]) -> (Vec<String>, Vec<String>) {
    let is_as_before = |new: &Arc<Schedule>| before.iter().any(|old| Arc::ptr_eq(old, new));
    let held: BTreeSet<&str> = after.iter().map(|s| s.name.as_str()).collect();
    let read = after.iter().filter(|s| !is_as_before(s));
    let gone = before.iter().filter(|s| !held.contains(s.name.as_str()));
    (
        read.map(|s| s.name.clone()).collect(),
        gone.map(|s| s.name.clone()).collect(),
    )
}

/// Names of schedules that are new, on again, or due at other times than before or, back after a removal, than then.
fn retimed(
    before: &[Arc<Schedule>],
    gone: &BTreeMap<String, Arc<Schedule>>,
    after: &[Arc<Schedule>],
) -> Vec<String> {
    let was: BTreeMap<&str, &Arc<Schedule>> = gone
        .values()
        .chain(before)
        .map(|old| (old.name.as_str(), old))
        .collect();
    let is_as_before = |new: &Schedule| {
        was.get(new.name.as_str()).is_some_and(|old| {
            old.cron.as_str() == new.cron.as_str()
                && old.zone == new.zone
                && (old.enabled || !new.enabled)
        })
    };
    let other = after.iter().filter(|new| !is_as_before(new));
    other.map(|new| new.name.clone()).collect()
}

/// The schedule files of a folder, in order; nothing where there is no folder.
fn list(dir: &Path) -> io::Result<Option<Vec<PathBuf>>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_none_or(|n| n.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|e| e == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(Some(paths))
}

/// What stands in these files, as far as so many bytes go.
fn read_all(paths: Vec<PathBuf>, max_bytes: usize) -> Vec<ReadFile> {
    let mut left = max_bytes;
    let read = |path: PathBuf| {
        let text = read(&path).and_then(|text| {
            left = left.saturating_sub(text.len());
            match left {
                0 => Err(io::Error::other("the folder has more than is read of it")),
                _ => Ok(text),
            }
        });
        (path, text)
    };
    paths.into_iter().map(read).collect()
}

fn read(path: &Path) -> io::Result<String> {
    // What is no file may have no end, or nobody who writes it.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other(format!(
            "it has more than {MAX_FILE_BYTES} bytes"
        )));
    }
    let text = String::from_utf8(bytes);
    text.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no UTF-8"))
}

fn whole(file: &Path, message: String) -> BadSchedule {
    BadSchedule {
        file: file.to_owned(),
        at: None,
        field: String::new(),
        message,
    }
}

#[cfg(test)]
#[path = "folder/tests.rs"]
mod tests;
