//! Which models serve, by name: loads what the models folder holds, and keeps what served serving while the folder changes.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use arc_swap::ArcSwap;

use super::directory::{self, Fingerprint, Found, compare_versions, is_model_name, is_version};
use super::hardware::Hardware;
use super::load::load;
use super::runner::{Limits, Runner};
use super::{Model, ModelInfo, ModelSettings, OpenError, Problem, UnknownModel};

/// One line of [`Registry::list`].
#[derive(Debug, Clone, PartialEq)]
pub struct ListedModel {
    /// What the version is and takes.
    pub info: ModelInfo,
    /// Whether the bare name means this version.
    pub active: bool,
}

/// What [`Registry::rescan`] found. Versions are written `name@version`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RescanReport {
    /// Versions that serve now and did not before.
    pub added: Vec<String>,
    /// Versions whose files changed and that were loaded anew.
    pub replaced: Vec<String>,
    /// Versions that no longer serve because their folder is gone and another version of the model is there.
    pub removed: Vec<String>,
    /// Problems that were not there at the scan before: worth a log line each.
    pub new_problems: Vec<Problem>,
}

/// Every model that serves. Dropping it stops and joins the model threads; a model still held answers
/// [`ModelError::Stopped`](super::ModelError::Stopped) from then on.
pub struct Registry {
    dir: PathBuf,
    pinned: BTreeMap<String, String>,
    hardware: Hardware,
    /// What serves, for readers.
    shelf: ArcSwap<Shelf>,
    /// What serves, for the one scan that runs at a time.
    entries: Mutex<Entries>,
    runner: Runner,
}

type Entries = BTreeMap<(String, String), Entry>;

#[derive(Clone)]
struct Entry {
    model: Arc<Model>,
    fingerprint: Fingerprint,
    identity: [u8; 32],
}

#[derive(Default)]
struct Shelf {
    /// By `name` and by `name@version`.
    by_reference: HashMap<String, Arc<Model>, ahash::RandomState>,
    listed: Vec<ListedModel>,
    problems: Vec<Problem>,
}

/// Names that an error message lists before it says how many more there are.
const MOST_NAMES_SHOWN: usize = 20;

impl Registry {
    /// Loads and checks everything under the settings' folder. Blocking. A broken version is a [`Problem`], not an error.
    ///
    /// # Errors
    /// Only where no model could ever serve: a backend that is not compiled in, settings out of range, no threads.
    pub fn open(settings: &ModelSettings) -> Result<Arc<Registry>, OpenError> {
        let setting = |field, message: &str| {
            Err(OpenError::Setting {
                field,
                message: message.to_owned(),
            })
        };
        if settings.max_batch_rows == 0 || settings.max_batch_rows > 1 << 20 {
            return setting("max_batch_rows", "must be between 1 and 1048576");
        }
        if settings.max_queued_rows < settings.max_batch_rows || settings.max_queued_rows > 1 << 28
        {
            return setting(
                "max_queued_rows",
                "must be between max_batch_rows and 268435456",
            );
        }
        if settings.threads > 1024 {
            return setting("threads", "must be at most 1024");
        }
        let threads = match settings.threads {
            0 => thread::available_parallelism().map_or(1, |n| n.get()),
            n => n,
        };
        if settings.max_batch_tokens == 0 || settings.max_batch_tokens > 1 << 20 {
            return setting("max_batch_tokens", "must be between 1 and 1048576");
        }
        let limits = Limits {
            batch_rows: settings.max_batch_rows,
            batch_tokens: settings.max_batch_tokens,
            queued_rows: settings.max_queued_rows,
        };
        let hardware = Hardware::open(settings.backend, threads)?;
        let runner = Runner::start(threads, limits).map_err(OpenError::Thread)?;
        let registry = Arc::new(Registry {
            dir: settings.dir.clone(),
            pinned: settings.active.clone(),
            hardware,
            shelf: ArcSwap::default(),
            entries: Mutex::default(),
            runner,
        });
        registry.rescan();
        Ok(registry)
    }

    /// The model that `name` (its active version) or `name@version` means. Lock-free.
    ///
    /// # Errors
    /// Says which names and versions are known, or why the version was refused.
    pub fn resolve(&self, reference: &str) -> Result<Arc<Model>, UnknownModel> {
        let shelf = self.shelf.load();
        match shelf.by_reference.get(reference) {
            Some(model) => Ok(Arc::clone(model)),
            None => Err(UnknownModel {
                reference: reference.to_owned(),
                message: self.explain(reference, &shelf),
            }),
        }
    }

    /// Every version that serves, by name and version.
    pub fn list(&self) -> Vec<ListedModel> {
        self.shelf.load().listed.clone()
    }

    /// What under the models folder does not serve as it should, and why.
    pub fn problems(&self) -> Vec<Problem> {
        self.shelf.load().problems.clone()
    }

    /// Looks at the models folder again and loads what is new, changed, or was broken. Blocking.
    ///
    /// What served goes on serving until a whole, checked replacement is there: a version whose files broke keeps
    /// its loaded self, and a version whose folder is gone stays while it is pinned or no other version is there.
    pub fn rescan(&self) -> RescanReport {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let survey = directory::survey(&self.dir);
        let mut problems = survey.problems;
        let mut report = RescanReport::default();
        let before = std::mem::take(&mut *entries);
        let mut next = Entries::new();
        for found in &survey.found {
            let key = (found.name.clone(), found.version.clone());
            if let Some(entry) = self.visit(found, before.get(&key), &mut report, &mut problems) {
                next.insert(key, entry);
            }
        }
        let on_disk: Vec<String> = next.keys().map(|(name, _)| name.clone()).collect();
        for (key, entry) in before {
            if next.contains_key(&key) {
                continue;
            }
            let (name, version) = &key;
            let pinned = self.pinned.get(name) == Some(version);
            if survey.readable && !pinned && on_disk.contains(name) {
                report.removed.push(format!("{name}@{version}"));
                continue;
            }
            problems.push(Problem {
                model: Some(name.clone()),
                version: Some(version.clone()),
                path: self.dir.join(name).join(version),
                file: None,
                message: "the folder is gone".to_owned(),
                still_serving: true,
            });
            next.insert(key, entry);
        }
        *entries = next;
        self.publish(&entries, problems, &mut report);
        report
    }

    /// What a folder that was found serves from now on.
    fn visit(
        &self,
        found: &Found,
        before: Option<&Entry>,
        report: &mut RescanReport,
        problems: &mut Vec<Problem>,
    ) -> Option<Entry> {
        if let Some(entry) = before
            && found.fingerprint.unchanged_since(&entry.fingerprint)
        {
            return Some(entry.clone());
        }
        let loaded = match load(
            (&found.name, &found.version),
            &found.path,
            &self.hardware,
            self.runner.queue(),
        ) {
            Ok(loaded) => loaded,
            Err(error) => {
                problems.push(Problem {
                    model: Some(found.name.clone()),
                    version: Some(found.version.clone()),
                    path: found.path.clone(),
                    file: Some(error.file),
                    message: error.message,
                    still_serving: before.is_some(),
                });
                // Its fingerprint stays the old one, so that the next scan tries again.
                return before.cloned();
            }
        };
        let reference = format!("{}@{}", found.name, found.version);
        let model = match before {
            Some(entry) if entry.identity == loaded.identity => Arc::clone(&entry.model),
            Some(_) => {
                report.replaced.push(reference);
                Arc::new(loaded.model)
            }
            None => {
                report.added.push(reference);
                Arc::new(loaded.model)
            }
        };
        Some(Entry {
            model,
            fingerprint: found.fingerprint.clone(),
            identity: loaded.identity,
        })
    }

    fn publish(&self, entries: &Entries, mut problems: Vec<Problem>, report: &mut RescanReport) {
        let mut models: Vec<&Arc<Model>> = entries.values().map(|entry| &entry.model).collect();
        models.sort_by(|a, b| {
            let (a, b) = (a.info(), b.info());
            a.name
                .cmp(&b.name)
                .then_with(|| compare_versions(&a.version, &b.version))
        });
        let mut shelf = Shelf::default();
        for model in &models {
            let info = model.info();
            let active = match self.pinned.get(&info.name) {
                Some(pinned) => *pinned == info.version,
                None => !models
                    .iter()
                    .rev()
                    .take_while(|other| !Arc::ptr_eq(other, model))
                    .any(|other| other.info().name == info.name),
            };
            if active {
                shelf
                    .by_reference
                    .insert(info.name.clone(), Arc::clone(model));
            }
            shelf
                .by_reference
                .insert(format!("{}@{}", info.name, info.version), Arc::clone(model));
            shelf.listed.push(ListedModel {
                info: info.clone(),
                active,
            });
        }
        for (name, version) in &self.pinned {
            if !shelf.by_reference.contains_key(name) {
                problems.push(Problem {
                    model: Some(name.clone()),
                    version: Some(version.clone()),
                    path: self.dir.join(name),
                    file: None,
                    message: format!(
                        "models.active names version {version}, which is not loaded, so that \"{name}\" alone means nothing"
                    ),
                    still_serving: false,
                });
            }
        }
        shelf.problems = problems;
        let known = self.shelf.load();
        report.new_problems = shelf
            .problems
            .iter()
            .filter(|problem| !known.problems.contains(problem))
            .cloned()
            .collect();
        self.shelf.store(Arc::new(shelf));
    }

    fn explain(&self, reference: &str, shelf: &Shelf) -> String {
        let (name, version) = match reference.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (reference, None),
        };
        if !is_model_name(name) || !version.is_none_or(is_version) {
            return "not a model reference: expected a name of 1 to 64 of a-z, 0-9, _ and -, \
                    or name@version"
                .to_owned();
        }
        let wanted = version.or(self.pinned.get(name).map(String::as_str));
        let why = shelf.problems.iter().find(|problem| {
            problem.model.as_deref() == Some(name)
                && problem.file.is_some()
                && (wanted.is_none() || problem.version.as_deref() == wanted)
        });
        let versions: Vec<&str> = shelf
            .listed
            .iter()
            .filter(|listed| listed.info.name == name)
            .map(|listed| listed.info.version.as_str())
            .collect();
        let known = if versions.is_empty() {
            let mut names: Vec<&str> = shelf.listed.iter().map(|l| l.info.name.as_str()).collect();
            names.dedup();
            format!("known models: {}", shown(&names))
        } else {
            format!("known versions of \"{name}\": {}", shown(&versions))
        };
        match why {
            Some(problem) => format!(
                "version \"{}\" of model \"{name}\" was refused: {}: {}; {known}",
                problem.version.as_deref().unwrap_or_default(),
                problem.file.as_deref().unwrap_or_default(),
                problem.message
            ),
            None => format!("model \"{reference}\" is not known; {known}"),
        }
    }
}

fn shown(names: &[&str]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    let some = &names[..names.len().min(MOST_NAMES_SHOWN)];
    match names.len() - some.len() {
        0 => some.join(", "),
        more => format!("{} and {more} more", some.join(", ")),
    }
}

#[cfg(test)]
mod tests;
