//! The models folder: `<name>/<version>/manifest.toml`. Says what lies there and whether it changed, and loads none of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::error::Problem;
use super::naming::{is_model_name, is_version};

/// A version's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub name: String,
    pub version: String,
    pub path: PathBuf,
    pub fingerprint: Fingerprint,
}

/// What the files of a folder look like from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    files: Vec<(String, u64, Option<SystemTime>)>,
    taken: SystemTime,
}

/// Times of change are coarse: a file written this shortly before may be written again with the same one.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// What lies under the models folder.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// By name, then version.
    pub found: Vec<Found>,
    pub problems: Vec<Problem>,
    /// Whether the models folder itself could be read.
    pub readable: bool,
}

/// Looks at the models folder. Plain files and names that begin with a dot are not models' business.
pub(crate) fn survey(dir: &Path) -> Survey {
    let mut survey = Survey {
        readable: true,
        ..Survey::default()
    };
    let names = match folders(dir) {
        Ok(names) => names,
        Err(error) => {
            survey.readable = false;
            survey.problems.push(problem(
                None,
                dir,
                format!("the models folder cannot be read: {error}"),
            ));
            return survey;
        }
    };
    for (name, path) in names {
        if !is_model_name(&name) {
            let message = "is not a model's name: 1 to 64 of a-z, 0-9, _ and -".to_owned();
            survey.problems.push(problem(None, &path, message));
            continue;
        }
        match folders(&path) {
            Ok(versions) => survey_versions(&name, versions, &mut survey),
            Err(error) => {
                survey.problems.push(problem(
                    Some(&name),
                    &path,
                    format!("cannot be read: {error}"),
                ));
            }
        }
    }
    survey
}

fn survey_versions(name: &str, versions: Vec<(String, PathBuf)>, survey: &mut Survey) {
    for (version, path) in versions {
        if !is_version(&version) {
            let message = "is not a version: 1 to 32 of A-Z, a-z, 0-9, ., _ and -".to_owned();
            survey.problems.push(problem(Some(name), &path, message));
            continue;
        }
        match Fingerprint::of(&path) {
            Ok(fingerprint) => survey.found.push(Found {
                name: name.to_owned(),
                version,
                path,
                fingerprint,
            }),
            Err(error) => {
                let mut problem = problem(Some(name), &path, format!("cannot be read: {error}"));
                problem.version = Some(version);
                survey.problems.push(problem);
            }
        }
    }
}

fn problem(model: Option<&str>, path: &Path, message: String) -> Problem {
    Problem {
        model: model.map(str::to_owned),
        version: None,
        path: path.to_owned(),
        file: None,
        message,
        still_serving: false,
        may_pass: false,
    }
}

impl Fingerprint {
    fn of(folder: &Path) -> io::Result<Self> {
        let taken = SystemTime::now();
        let mut files = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            // Follows links, as reading the file would; one that leads nowhere counts as an empty file.
            let (length, changed) = match fs::metadata(entry.path()) {
                Ok(metadata) => (metadata.len(), metadata.modified().ok()),
                Err(_) => (0, None),
            };
            let name = entry.file_name().to_string_lossy().into_owned();
            files.push((name, length, changed));
        }
        files.sort();
        Ok(Self { files, taken })
    }

    /// Whether nobody has written there since `earlier`, for certain.
    pub fn unchanged_since(&self, earlier: &Fingerprint) -> bool {
        let settled = |(_, _, changed): &(String, u64, Option<SystemTime>)| {
            changed.is_some_and(|at| at + SETTLED_AFTER < earlier.taken)
        };
        self.files == earlier.files && self.files.iter().all(settled)
    }
}

/// The folders in a folder, by name.
fn folders(path: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && entry.path().is_dir() {
            folders.push((name, entry.path()));
        }
    }
    folders.sort();
    Ok(folders)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_folder_is_a_problem() {
        let dir = tempfile::tempdir().unwrap();
        let survey = survey(&dir.path().join("none"));
        assert!(!survey.readable);
        assert!(survey.problems[0].to_string().contains("none"));
    }

    #[test]
    fn files_dots_and_odd_names() {
        let dir = tempfile::tempdir().unwrap();
        for folder in [
            "good/1.0",
            "good/not a version",
            "Bad Name/1.0",
            ".hidden/1.0",
            "empty",
        ] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        fs::write(dir.path().join("README.md"), "x").unwrap();
        fs::write(dir.path().join("good/README.md"), "x").unwrap();
        let survey = survey(dir.path());
        let found: Vec<_> = survey
            .found
            .iter()
            .map(|f| (&f.name[..], &f.version[..]))
            .collect();
        assert_eq!(found, [("good", "1.0")]);
        let problems: Vec<_> = survey.problems.iter().map(Problem::to_string).collect();
        assert_eq!(problems.len(), 2, "{problems:?}");
    }

    #[test]
    fn a_folder_counts_as_unchanged_once_it_has_settled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("manifest.toml");
        let write = |text: &str, age: Duration| {
            fs::write(&path, text).unwrap();
            let file = fs::File::options().append(true).open(&path).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
            Fingerprint::of(dir.path()).unwrap()
        };
        let hour = Duration::from_secs(3600);
        let fresh = write("a", Duration::ZERO);
        assert!(!Fingerprint::of(dir.path()).unwrap().unchanged_since(&fresh));
        let settled = write("a", hour);
        assert!(
            Fingerprint::of(dir.path())
                .unwrap()
                .unchanged_since(&settled)
        );
        assert!(!write("b", hour / 2).unchanged_since(&settled));
        assert!(!write("ab", hour).unchanged_since(&settled));
    }
}
