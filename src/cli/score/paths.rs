//! Owns looking at a run's files before any is opened.
//!
//! Promises that a file which is named as an input is never written by the run that reads it, and that no two things that a run writes
//! are one file. What a pattern or a folder brings is left out instead, where the run writes it.

use super::{FileArguments, part::beside};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// What stands beside an output while it isn't complete, beside a quarantine, and beside the file of scores.
const OUTPUT: &[&str] = &[
    "",
    ".partial",
    ".manifest",
    ".manifest.new",
    ".posted",
    ".posted.new",
];
const QUARANTINE: &[&str] = &["", ".partial"];
const REPORT: &[&str] = &[""];
const DATABASE: &[&str] = &["", "-wal", "-shm"];

/// Where a file is, or would be.
struct Site {
    path: PathBuf,
    inode: Option<(u64, u64)>,
}

impl Site {
    /// Nothing where a folder, a device or a pipe is: nothing is replaced there.
    fn of(path: &Path) -> Option<Self> {
        let about = fs::metadata(path).ok();
        let is_other = about.as_ref().is_some_and(|about| !about.is_file());
        (!is_other).then(|| Self {
            path: resolved(path),
            inode: about.map(|about| (about.dev(), about.ino())),
        })
    }

    fn is(&self, other: &Self) -> bool {
        self.path == other.path || (self.inode.is_some() && self.inode == other.inode)
    }
}

/// A path without links, though there is no file yet.
fn resolved(path: &Path) -> PathBuf {
    if let Ok(real) = fs::canonicalize(path) {
        return real;
    }
    let parent = path.parent().filter(|one| !one.as_os_str().is_empty());
    let parent = fs::canonicalize(parent.unwrap_or(Path::new(".")));
    match (parent, path.file_name()) {
        (Ok(parent), Some(name)) => parent.join(name),
        _ => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
    }
}

/// What the run writes for one option.
struct Written<'a> {
    option: &'static str,
    path: &'a Path,
    /// Its sites, and what stands after the path there.
    sites: Vec<(Site, &'static str)>,
}

impl<'a> Written<'a> {
    fn of(option: &'static str, path: &'a Path, ends: &[&'static str]) -> Option<Self> {
        let own = Site::of(path)?;
        let sites = ends
            .iter()
            .filter_map(|end| Some((Site::of(&beside(&own.path, end))?, *end)));
        Some(Self {
            option,
            path,
            sites: sites.collect(),
        })
    }

    /// What it calls a file that it has at a site.
    fn called(&self, end: &str) -> String {
        match end {
            "" => self.option.to_owned(),
            end => format!("the {end} of {}", self.option),
        }
    }

    /// What both call the file that they have in common.
    fn common(&self, other: &Self) -> Option<(String, String)> {
        let mut sites = self.sites.iter();
        sites.find_map(|(own, end)| {
            let (_, its) = other.sites.iter().find(|(site, _)| site.is(own))?;
            Some((self.called(end), other.called(its)))
        })
    }
}

/// Looks whether each file that is written is another, and none that is named to be read. `database` is the file of scores.
pub(super) fn check(arguments: &FileArguments, database: &Path) -> Result<(), String> {
    let wanted = [
        ("--output", arguments.output.as_deref(), OUTPUT),
        ("--quarantine", arguments.quarantine.as_deref(), QUARANTINE),
        ("--report", arguments.report.as_deref(), REPORT),
        (
            "the file of scores (embedded.path)",
            Some(database),
            DATABASE,
        ),
    ];
    let mut all: Vec<Written<'_>> = Vec::new();
    for (option, path, ends) in wanted {
        let Some(path) = path else { continue };
        if path.as_os_str() == "-" {
            return Err(format!(
                "{option} needs a file, and - is standard output, where results go: ./- is a file of that name"
            ));
        }
        let Some(new) = Written::of(option, path, ends) else {
            continue;
        };
        if let Some((old, own)) = all.iter().find_map(|old| old.common(&new)) {
            return Err(format!(
                "{old} and {own} are one file, {}: name another",
                path.display()
            ));
        }
        all.push(new);
    }
    for input in &arguments.files {
        let Some(site) = fs::metadata(input).ok().and_then(|_| Site::of(input)) else {
            continue;
        };
        for one in &all {
            let found = one.sites.iter().find(|(own, _)| own.is(&site));
            if let Some((_, end)) = found {
                return Err(format!(
                    "{} is read and is {} as well, {}: name another file. A pattern in quotes leaves out what the run writes",
                    input.display(),
                    one.called(end),
                    one.path.display()
                ));
            }
        }
    }
    Ok(())
}
