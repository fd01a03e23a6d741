//! Owns which files a run reads: those that are named, those that a pattern matches, those of a folder; here or in a store elsewhere.
//!
//! Promises each file once, in the order in which they are named and, of a pattern or folder, by name; and none that the run itself writes.

use super::{
    blob::{Blob, is_remote},
    format::Format,
    remote::Object,
};
use crate::redact::Redact;
use anyhow::{Context, anyhow, bail};
use sha2::{Digest, Sha256};
use std::{
    collections::HashSet,
    fs::{self, File, Metadata},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Files of one run.
const MAX_FILES: usize = 1 << 20;
/// Folders within folders.
const MAX_DEPTH: usize = 64;
/// Names that this program gives to what it writes beside an output.
const OWN: [&str; 5] = [
    ".partial",
    ".manifest",
    ".manifest.new",
    ".posted",
    ".posted.new",
];

/// Which files are asked for.
pub struct Asked<'a> {
    pub files: &'a [PathBuf],
    /// Whether folders are taken with all that is in them.
    pub recursive: bool,
    pub format: Option<Format>,
    /// What the run writes itself.
    pub written: Vec<&'a Path>,
}

/// One of the files.
#[derive(Clone)]
struct Entry {
    /// Its path, or its address without what may be secret.
    shown: PathBuf,
    object: Option<Arc<Object>>,
}

/// The files of a run, in order.
#[derive(Clone)]
pub struct Inputs(Arc<Vec<Entry>>);

impl Inputs {
    /// Finds them. Standard input stands alone.
    pub fn find(asked: &Asked<'_>) -> anyhow::Result<Self> {
        if let [one] = asked.files {
            let is_plain = fs::metadata(one).is_ok_and(|about| !about.is_dir());
            if is_plain || is_stdin(one) {
                return Ok(Self::of(vec![Entry::here(one.clone())]));
            }
        }
        let written = asked.written.iter();
        let mut finding = Finding {
            recursive: asked.recursive,
            format: asked.format,
            own: written.filter_map(|path| real(path)).collect(),
            seen: HashSet::new(),
            found: Vec::new(),
        };
        for path in asked.files {
            if is_stdin(path) {
                bail!("standard input is read alone, without other files");
            }
            match path.to_str().filter(|_| is_remote(path)) {
                Some(address) => finding.add_remote(address)?,
                None => finding.add(path)?,
            }
        }
        match finding.found.is_empty() {
            true => bail!(
                "there is no file to score: folders are looked through for names such as .jsonl, .csv.gz and .parquet"
            ),
            false => Ok(Self::of(finding.found)),
        }
    }

    fn of(entries: Vec<Entry>) -> Self {
        Self(Arc::new(entries))
    }

    /// The format that all of them have.
    pub fn format(&self, named: Option<Format>) -> anyhow::Result<Format> {
        let of = |path: &Path| {
            named
                .or_else(|| Format::of_name(path))
                .unwrap_or(Format::Jsonl)
        };
        let format = of(self.first());
        match self.0.iter().find(|entry| of(&entry.shown) != format) {
            None => Ok(format),
            Some(other) => bail!(
                "{} and {} are of two formats: score those of one at a time, or say which it is with --input-format",
                self.first().display(),
                other.shown.display()
            ),
        }
    }

    /// How many they are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// One of them, as it is shown.
    pub fn get(&self, at: usize) -> Option<&Path> {
        self.0.get(at).map(|entry| entry.shown.as_path())
    }

    pub fn first(&self) -> &Path {
        self.get(0).unwrap_or(Path::new("-"))
    }

    /// Opens one; nothing for standard input.
    pub fn open(&self, at: usize) -> anyhow::Result<Option<Blob>> {
        let Some(entry) = self.0.get(at) else {
            return Ok(None);
        };
        match &entry.object {
            Some(object) => Ok(Some(Blob::Object(object.clone()))),
            None if is_stdin(&entry.shown) => Ok(None),
            None => {
                let shown = entry.shown.display();
                let file = File::open(&entry.shown);
                let file = file.with_context(|| format!("{shown} can't be opened"))?;
                Ok(Some(Blob::File(Arc::new(file))))
            }
        }
    }

    /// Bytes of the files before each, and of all: nothing where one has no size.
    pub fn sizes(&self) -> Option<Vec<u64>> {
        let mut all = Vec::with_capacity(self.0.len() + 1);
        let mut before = 0_u64;
        for entry in self.0.iter() {
            all.push(before);
            before = before.saturating_add(entry.bytes()?);
        }
        all.push(before);
        Some(all)
    }

    /// How they are known again: by their paths, sizes and times of their last change. Nothing where one is no file.
    pub fn identity(&self) -> Option<serde_json::Value> {
        if let [one] = self.0.as_slice() {
            return one.identity();
        }
        let mut digest = Sha256::new();
        for entry in self.0.iter() {
            digest.update(entry.identity()?.to_string());
            digest.update([0]);
        }
        Some(serde_json::json!({"files": self.0.len(), "sha256": hex::encode(digest.finalize())}))
    }
}

impl Entry {
    fn here(path: PathBuf) -> Self {
        Self {
            shown: path,
            object: None,
        }
    }

    fn about(&self) -> Option<Metadata> {
        fs::metadata(&self.shown).ok().filter(Metadata::is_file)
    }

    fn bytes(&self) -> Option<u64> {
        match &self.object {
            Some(object) => Some(object.bytes()),
            None => self.about().map(|about| about.len()),
        }
    }

    fn identity(&self) -> Option<serde_json::Value> {
        match &self.object {
            Some(object) => Some(object.identity()),
            None => Some(identity(&self.shown, &self.about()?)),
        }
    }
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn real(path: &Path) -> Option<PathBuf> {
    fs::canonicalize(path).ok()
}

/// How a file is known again.
fn identity(path: &Path, about: &Metadata) -> serde_json::Value {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let changed = about.modified().ok();
    let changed = changed.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    serde_json::json!({
        "path": path.display().to_string(),
        "bytes": about.len(),
        "changed_ns": changed.map(|at| at.as_nanos().to_string()),
    })
}

struct Finding {
    recursive: bool,
    format: Option<Format>,
    /// What the run writes.
    own: Vec<PathBuf>,
    seen: HashSet<PathBuf>,
    found: Vec<Entry>,
}

impl Finding {
    fn add(&mut self, path: &Path) -> anyhow::Result<()> {
        let shown = path.display();
        let unreadable = |error: io::Error| anyhow!("{shown} can't be read: {}", error.redacted());
        match fs::metadata(path) {
            Ok(about) if about.is_dir() => {
                if !self.recursive {
                    bail!("{shown} is a folder, not a file: give --recursive for all files in it");
                }
                let mut files = Vec::new();
                self.walk(path, 0, &mut files).map_err(unreadable)?;
                files.sort_unstable();
                files.into_iter().try_for_each(|file| self.take(file))
            }
            Ok(_) => self.take(path.to_owned()),
            Err(error) => {
                let pattern = path.to_str().filter(|text| text.contains(['*', '?', '[']));
                let Some(pattern) = pattern else {
                    return Err(error).with_context(|| format!("{shown} can't be opened"));
                };
                self.matching(pattern)
            }
        }
    }

    /// Takes what a pattern matches but what is hidden and links that lead nowhere; folders' files where these are asked for.
    fn matching(&mut self, pattern: &str) -> anyhow::Result<()> {
        let options = glob::MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: true,
        };
        let matched = glob::glob_with(pattern, options);
        let matched = matched.map_err(|error| anyhow!("{pattern} is no pattern: {}", error.msg))?;
        let before = self.found.len();
        let mut files = Vec::new();
        for path in matched {
            let path = path.map_err(|error| {
                let shown = error.path().display();
                anyhow!("{shown} can't be read: {}", error.error().redacted())
            })?;
            let is_link = path
                .symlink_metadata()
                .is_ok_and(|about| about.is_symlink());
            // A folder that a link leads to may be one that it is in.
            if self.recursive && path.is_dir() && !is_link {
                let shown = path.display();
                let walked = self.walk(&path, 0, &mut files);
                walked.map_err(|error| anyhow!("{shown} can't be read: {}", error.redacted()))?;
            } else if !path.is_dir() && !is_own_name(&path) && (path.exists() || !is_link) {
                files.push(path);
            }
            check_count(files.len())?;
        }
        files.sort_unstable();
        files.into_iter().try_for_each(|file| self.take(file))?;
        match self.found.len() == before {
            true => bail!("{pattern} matches no file"),
            false => Ok(()),
        }
    }

    fn walk(&self, folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(io::Error::other("its folders are too deep"));
        }
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            if is_hidden || is_own_name(&path) {
                continue;
            }
            // A folder that a link leads to may be one that it is in.
            if kind.is_dir() {
                self.walk(&path, depth + 1, files)?;
            } else if path.is_file() && (self.format.is_some() || Format::of_name(&path).is_some())
            {
                files.push(path);
            }
            if files.len() > MAX_FILES {
                return Err(io::Error::other("it has too many files"));
            }
        }
        Ok(())
    }

    fn take(&mut self, file: PathBuf) -> anyhow::Result<()> {
        let known = real(&file).unwrap_or_else(|| file.clone());
        if !self.own.contains(&known) && self.seen.insert(known) {
            self.found.push(Entry::here(file));
        }
        check_count(self.found.len())
    }

    /// Takes a file of a store, those that a pattern matches or, recursively, those of a folder.
    fn add_remote(&mut self, address: &str) -> anyhow::Result<()> {
        let is_listed = address.contains(['*', '?', '[']) && !address.starts_with("http");
        let found = if is_listed {
            Object::matching(address)?
        } else if self.recursive {
            Object::under(address, |key| {
                !is_own_name(key) && (self.format.is_some() || Format::of_name(key).is_some())
            })?
        } else {
            vec![Object::open(address)?]
        };
        if found.is_empty() && is_listed {
            bail!("{address} matches no file");
        }
        for object in found {
            let shown = object.shown();
            if self.seen.insert(shown.clone()) {
                self.found.push(Entry {
                    shown,
                    object: Some(Arc::new(object)),
                });
            }
        }
        check_count(self.found.len())
    }
}

fn check_count(files: usize) -> anyhow::Result<()> {
    match files > MAX_FILES {
        true => bail!("more than {MAX_FILES} files: score them in several runs"),
        false => Ok(()),
    }
}

fn is_own_name(path: &Path) -> bool {
    let name = path.as_os_str().as_encoded_bytes();
    OWN.iter().any(|end| name.ends_with(end.as_bytes()))
}
