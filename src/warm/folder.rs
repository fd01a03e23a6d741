//! Owns the folder of schedules: what is in it, and what is wrong there.
//!
//! Promises that an invalid file affects no other one, and that its last valid version stays in use until the file is fixed or
//! removed.

use super::schedule::{self, BadSchedule, Known, Schedule};
use crate::redact::Redact;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Largest schedule file, in bytes.
const MAX_FILE_BYTES: u64 = 4 << 20;

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
    is_missing: bool,
}

impl Folder {
    /// A folder before its first scan. One that doesn't exist is empty.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            files: BTreeMap::new(),
            problems: Vec::new(),
            is_missing: false,
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
        let before = self.schedules();
        let mut known = std::mem::take(&mut self.files);
        let mut found = Found::default();
        match list(&self.dir) {
            Err(error) => found.problems.push(whole(
                &self.dir,
                format!("can't be read: {}", error.redacted()),
            )),
            Ok(paths) => {
                self.is_missing = paths.is_none();
                for path in paths.unwrap_or_default() {
                    let known = known.remove(&path);
                    found.read_file(path, known);
                }
            }
        }
        let new_problems = found
            .problems
            .iter()
            .filter(|p| !self.problems.contains(p))
            .cloned()
            .collect();
        self.files = found.files;
        self.problems = found.problems;
        let after = self.schedules();
        let (read, gone) = compare(&before, &after);
        Changes {
            read,
            retimed: retimed(&before, &after),
            gone,
            problems: new_problems,
        }
    }
}

/// What a scan has found so far.
#[derive(Default)]
struct Found {
    files: BTreeMap<PathBuf, Held>,
    /// The file of each schedule.
    names: BTreeMap<String, PathBuf>,
    problems: Vec<BadSchedule>,
}

impl Found {
    /// Reads a file; `known` is what it last held.
    fn read_file(&mut self, path: PathBuf, known: Option<Held>) {
        let held = match read(&path) {
            Err(error) => {
                self.problems
                    .push(whole(&path, format!("can't be read: {}", error.redacted())));
                known
            }
            Ok(text) if known.as_ref().is_some_and(|(was, _)| *was == text) => known,
            Ok(text) => match schedule::parse(&path, &text) {
                Ok(schedule) => Some((text, Arc::new(schedule))),
                Err(mut bad) => {
                    self.problems.append(&mut bad);
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

/// Names of schedules that are new, on again, or due at other times.
fn retimed(before: &[Arc<Schedule>], after: &[Arc<Schedule>]) -> Vec<String> {
    let is_as_before = |new: &Schedule| {
        before.iter().any(|old| {
            old.name == new.name
                && old.cron.as_str() == new.cron.as_str()
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

fn read(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_FILE_BYTES {
        return Err(io::Error::other(format!(
            "it has more than {MAX_FILE_BYTES} bytes"
        )));
    }
    fs::read_to_string(path)
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
mod tests {
    use super::*;

    fn text(name: &str, cron: &str) -> String {
        format!(
            "name = \"{name}\"\ncron = \"{cron}\"\nmodel = \"m\"\n[source]\nkind = \"static\"\ninputs = [{{ key = \"k\", text = \"t\" }}]\n"
        )
    }

    #[test]
    fn a_bad_file_takes_no_good_one_down() {
        let dir = tempfile::tempdir().expect("a folder");
        let put =
            |file: &str, text: String| fs::write(dir.path().join(file), text).expect("written");
        let mut folder = Folder::new(&dir.path().join("none"));
        assert_eq!(folder.scan(), Changes::default());
        folder = Folder::new(dir.path());
        put("a.toml", text("one", "* * * * *"));
        put("b.toml", text("two", "* * * *"));
        put("c.toml", text("one", "* * * * *"));
        put("notes.md", "not a schedule".into());
        let changes = folder.scan();
        assert_eq!(changes.read, ["one"]);
        let found: Vec<String> = changes.problems.iter().map(ToString::to_string).collect();
        assert!(
            found[0].contains("b.toml:2:8: `cron`: expected 5 fields"),
            "{found:?}"
        );
        assert!(
            found[1].contains("c.toml:1:8: `name`: `one` is taken by") && found.len() == 2,
            "{found:?}"
        );

        put("b.toml", text("two", "0 * * * *"));
        put("c.toml", text("three", "0 * * * *"));
        let changes = folder.scan();
        assert_eq!(
            (changes.read.clone(), folder.problems().len()),
            (vec!["three".into(), "two".into()], 0)
        );
        assert_eq!(changes.retimed, ["three", "two"]);
        // Two mistakes of one file are two problems of one refused file.
        put("d.toml", text("Four", "* * * *"));
        let changes = folder.scan();
        assert_eq!((changes.problems.len(), folder.refused()), (2, 1));
        fs::remove_file(dir.path().join("d.toml")).expect("removed");
        // The last valid version stays in use.
        put("b.toml", "name = ".into());
        let changes = folder.scan();
        assert_eq!(
            (
                changes.read.len(),
                changes.gone.len(),
                changes.problems.len()
            ),
            (0, 0, 1)
        );
        assert_eq!(
            folder
                .get("two")
                .map(|s| s.cron.as_str().to_owned())
                .as_deref(),
            Some("0 * * * *")
        );
        assert_eq!(
            folder.scan(),
            Changes::default(),
            "the same is reported once"
        );
        fs::remove_file(dir.path().join("b.toml")).expect("removed");
        assert_eq!(folder.scan().gone, ["two"]);
    }
}
