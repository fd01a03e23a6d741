//! Which models serve, by name: loads what the models folder holds, and keeps what served serving while the folder changes.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::directory::{self, Fingerprint, Found, compare_versions, is_model_name, is_version};
use super::error::LoadError;
use super::hardware::Hardware;
use super::load::load;
use super::residence::Origin;
use super::runner::{Limits, Runner};
use super::{Backend, Model, ModelInfo, ModelSettings, OpenError, Problem, UnknownModel};
use kiln_kernels::Team;

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
    /// The versions that the settings name.
    pinned: BTreeMap<String, String>,
    /// What each backend in use runs on, or why it doesn't.
    hardware: BTreeMap<Backend, Result<Arc<Hardware>, String>>,
    backends: BTreeMap<String, Backend>,
    default_backend: Backend,
    /// What serves, for readers.
    shelf: ArcSwap<Shelf>,
    /// What serves, for the one scan that runs at a time.
    state: Mutex<State>,
    runner: Runner,
}

#[derive(Default)]
struct State {
    entries: Entries,
    /// What the last scan found wrong.
    problems: Vec<Problem>,
    /// Versions that were refused, as they were then: they aren't read again before they change.
    refused: BTreeMap<(String, String), (Fingerprint, Problem)>,
    /// The versions that all workers are to serve under the bare names; stronger than the settings.
    chosen: BTreeMap<String, String>,
}

type Entries = BTreeMap<(String, String), Entry>;

#[derive(Clone)]
struct Entry {
    model: Arc<Model>,
    fingerprint: Fingerprint,
    identity: [u8; 32],
    /// Whether it could be loaded again.
    on_disk: bool,
}

/// What [`Registry::choose`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChoiceReport {
    /// Models whose bare name means another version now, as `name@version`.
    pub switched: Vec<String>,
    /// Choices that can't be followed yet, because the version isn't loaded here, as `name@version`.
    pub pending: Vec<String>,
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
        // Respects affinity and the quotas of control groups.
        let granted = thread::available_parallelism().map_or(1, |n| n.get());
        let threads = match settings.threads {
            0 => granted,
            n => n.min(granted),
        };
        if settings.threads > granted {
            tracing::warn!(
                asked = settings.threads,
                granted,
                "models.threads is more than the processors that the process is granted"
            );
        }
        if settings.max_batch_tokens == 0 || settings.max_batch_tokens > 1 << 20 {
            return setting("max_batch_tokens", "must be between 1 and 1048576");
        }
        let limits = Limits {
            batch_rows: settings.max_batch_rows,
            batch_tokens: settings.max_batch_tokens,
            queued_rows: settings.max_queued_rows,
        };
        let team = Arc::new(Team::start("kiln-kernel", threads).map_err(OpenError::Thread)?);
        let mut hardware = BTreeMap::new();
        for backend in settings.backends.values().chain([&settings.backend]) {
            let open = |backend| Hardware::open(backend, Arc::clone(&team)).map(Arc::new);
            let opened = match open(*backend) {
                Err(reason) if settings.fall_back => {
                    tracing::warn!(reason, "a backend is replaced by flex");
                    open(Backend::Flex)
                }
                opened => opened,
            };
            hardware.insert(*backend, opened);
        }
        if let Some(Err(reason)) = hardware.get(&settings.backend) {
            return setting("backend", reason);
        }
        let runner = Runner::start(threads, limits).map_err(OpenError::Thread)?;
        let registry = Arc::new(Registry {
            dir: settings.dir.clone(),
            pinned: settings.active.clone(),
            hardware,
            backends: settings.backends.clone(),
            default_backend: settings.backend,
            shelf: ArcSwap::default(),
            state: Mutex::default(),
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
        let mut state = self.lock();
        let survey = directory::survey(&self.dir);
        let mut problems = survey.problems;
        let mut report = RescanReport::default();
        let before = std::mem::take(&mut state.entries);
        let mut next = Entries::new();
        for found in &survey.found {
            let key = (found.name.clone(), found.version.clone());
            let entry = self.visit(found, before.get(&key), &mut state, &mut report);
            if let Some((_, problem)) = state.refused.get(&key) {
                problems.push(problem.clone());
            }
            if let Some(entry) = entry {
                next.insert(key, entry);
            }
        }
        let there = |(name, version): &(String, String)| {
            let found = |found: &Found| found.name == *name && found.version == *version;
            survey.found.iter().any(found)
        };
        state.refused.retain(|key, _| there(key));
        let on_disk: Vec<String> = next.keys().map(|(name, _)| name.clone()).collect();
        for (key, mut entry) in before {
            if next.contains_key(&key) {
                continue;
            }
            let (name, version) = &key;
            let wanted = [state.chosen.get(name), self.pinned.get(name)].contains(&Some(version));
            if survey.readable && !wanted && on_disk.contains(name) {
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
            entry.on_disk = false;
            next.insert(key, entry);
        }
        state.entries = next;
        state.problems = problems;
        report.new_problems = self.publish(&state);
        report
    }

    /// Sets the versions that bare names mean on every worker, and takes back what was set before. A version that isn't
    /// loaded here leaves its model as it is, until a scan finds it.
    pub fn choose(&self, chosen: BTreeMap<String, String>) -> ChoiceReport {
        let mut state = self.lock();
        let active = |shelf: &Shelf| -> Vec<(String, String)> {
            let active = shelf.listed.iter().filter(|listed| listed.active);
            active
                .map(|listed| (listed.info.name.clone(), listed.info.version.clone()))
                .collect()
        };
        let before = active(&self.shelf.load());
        if state.chosen != chosen {
            state.chosen = chosen;
            self.publish(&state);
        }
        let after = active(&self.shelf.load());
        let reference = |(name, version): &(String, String)| format!("{name}@{version}");
        let switched = after.iter().filter(|now| !before.contains(now));
        let pending = state.chosen.iter().filter(|(name, version)| {
            let key = ((*name).clone(), (*version).clone());
            !state.entries.contains_key(&key)
        });
        ChoiceReport {
            switched: switched.map(reference).collect(),
            pending: pending
                .map(|(name, version)| format!("{name}@{version}"))
                .collect(),
        }
    }

    /// Gives back the memory of versions that no bare name means and nobody has asked for in so long; returns them as
    /// `name@version`. They are loaded again when a job asks.
    pub fn give_back(&self, unused_for: Duration) -> Vec<String> {
        let state = self.lock();
        let shelf = self.shelf.load();
        let idle = shelf.listed.iter().filter(|listed| !listed.active);
        idle.filter_map(|listed| {
            let info = &listed.info;
            let entry = state
                .entries
                .get(&(info.name.clone(), info.version.clone()))?;
            let given_back = entry.on_disk && entry.model.residence.give_back(unused_for);
            given_back.then(|| format!("{}@{}", info.name, info.version))
        })
        .collect()
    }

    fn hardware_of(&self, model: &str) -> Result<Arc<Hardware>, LoadError> {
        let backend = self.backends.get(model).unwrap_or(&self.default_backend);
        match self.hardware.get(backend) {
            Some(Ok(hardware)) => Ok(Arc::clone(hardware)),
            Some(Err(reason)) => Err(LoadError::field("settings models.backends", reason)),
            None => Err(LoadError::field(
                "settings models.backends",
                "names no backend",
            )),
        }
    }

    /// A scan that panicked leaves the state that the one before it published.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a folder that was found serves from now on.
    fn visit(
        &self,
        found: &Found,
        before: Option<&Entry>,
        state: &mut State,
        report: &mut RescanReport,
    ) -> Option<Entry> {
        let key = (found.name.clone(), found.version.clone());
        if let Some(entry) = before
            && found.fingerprint.unchanged_since(&entry.fingerprint)
        {
            state.refused.remove(&key);
            return Some(Entry {
                on_disk: true,
                ..entry.clone()
            });
        }
        if let Some((fingerprint, _)) = state.refused.get(&key)
            && found.fingerprint.unchanged_since(fingerprint)
        {
            return before.cloned();
        }
        let loaded = self.hardware_of(&found.name).and_then(|hardware| {
            load(&Origin {
                name: found.name.clone(),
                version: found.version.clone(),
                folder: found.path.clone(),
                hardware,
                queue: Arc::clone(self.runner.queue()),
            })
        });
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                let problem = Problem {
                    model: Some(found.name.clone()),
                    version: Some(found.version.clone()),
                    path: found.path.clone(),
                    file: Some(error.file),
                    message: error.message,
                    still_serving: before.is_some(),
                };
                let refused = (found.fingerprint.clone(), problem);
                state.refused.insert(key, refused);
                // What serves can't be loaded again from there.
                return before.map(|entry| Entry {
                    on_disk: false,
                    ..entry.clone()
                });
            }
        };
        state.refused.remove(&key);
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
            on_disk: true,
        })
    }

    /// Shows readers the state; returns the problems that they haven't seen yet.
    fn publish(&self, state: &State) -> Vec<Problem> {
        let mut models: Vec<&Arc<Model>> =
            state.entries.values().map(|entry| &entry.model).collect();
        models.sort_by(|a, b| {
            let (a, b) = (a.info(), b.info());
            a.name
                .cmp(&b.name)
                .then_with(|| compare_versions(&a.version, &b.version))
        });
        let known = self.shelf.load();
        let mut problems = state.problems.clone();
        let mut shelf = Shelf::default();
        let is_loaded = |name: &str, version: &str| {
            let key = (name.to_owned(), version.to_owned());
            state.entries.contains_key(&key)
        };
        for model in &models {
            let info = model.info();
            let chosen = state.chosen.get(&info.name);
            let serving = known.by_reference.get(&info.name);
            let active = match (chosen, self.pinned.get(&info.name)) {
                (Some(chosen), _) if is_loaded(&info.name, chosen) => *chosen == info.version,
                // What can't be followed yet changes nothing here.
                (Some(_), _)
                    if serving
                        .is_some_and(|serving| is_loaded(&info.name, &serving.info().version)) =>
                {
                    serving.is_some_and(|serving| serving.info().version == info.version)
                }
                (_, Some(pinned)) => *pinned == info.version,
                (_, None) => !models
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
        let unseen = |problem: &&Problem| !known.problems.contains(problem);
        let new_problems = shelf.problems.iter().filter(unseen).cloned().collect();
        self.shelf.store(Arc::new(shelf));
        new_problems
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
