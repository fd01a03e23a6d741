//! Which models serve, by name: loads what the models folder holds, and keeps what served serving while the folder changes.

mod backends;
mod snapshot;
mod state;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::priority;
use arc_swap::ArcSwap;
use kiln_contract::split::Share;
use kiln_kernels::ThreadPool;

use super::choices::{Choices, Serving, SplitChoice};
use super::directory::{self, Found};
use super::error::{LoadError, OpenError, Problem, UnknownModel};
use super::load::{Loaded, ModelSource, load};
use super::model::Model;
use super::runner::{Limits, Runner, panic_message};
use super::settings::{Backend, ModelSettings};
use backends::Backends;
pub use snapshot::ListedModel;
use snapshot::Snapshot;
pub use state::RescanReport;
use state::State;

/// What [`Registry::choose`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChoiceReport {
    /// Models whose bare name means another version now, as `name@version`.
    pub switched: Vec<String>,
    /// Choices that can't be followed yet, because the version isn't loaded here, as `name@version`.
    pub pending: Vec<String>,
    /// Versions that have a share of their model's inputs now, as `name@version`.
    pub splits: BTreeMap<String, Share>,
    /// Versions that are here and can't have the share that was chosen for them, as `name@version`, and why.
    pub unfit: BTreeMap<String, &'static str>,
}

/// Every model that serves. Dropping it stops and joins the model threads; a model still held answers
/// [`ModelError::Stopped`](super::ModelError::Stopped) from then on.
pub struct Registry {
    dir: PathBuf,
    /// The versions that the settings name.
    pinned: BTreeMap<String, String>,
    backends: Backends,
    /// What serves, for readers.
    snapshot: ArcSwap<Snapshot>,
    /// What serves, for the one scan that runs at a time.
    state: Mutex<State>,
    runner: Runner,
}

impl Registry {
    /// Loads and checks everything under the settings' folder. Blocking. A broken version is a [`Problem`], not an error.
    ///
    /// # Errors
    /// Only if no model could ever serve: a backend that is not compiled in, settings out of range, no threads.
    pub fn open(settings: &ModelSettings) -> Result<Arc<Registry>, OpenError> {
        let registry = Self::open_empty(settings)?;
        registry.rescan();
        Ok(registry)
    }

    /// Starts the threads and opens the backends, and loads nothing: see [`Registry::serve_only`].
    ///
    /// # Errors
    /// Those of [`Registry::open`].
    pub fn open_empty(settings: &ModelSettings) -> Result<Arc<Registry>, OpenError> {
        let limits = limits(settings)?;
        let threads = threads(settings);
        let pool = Arc::new(
            ThreadPool::start("kiln-kernel", threads, priority::stand_back)
                .map_err(OpenError::Thread)?,
        );
        let backends = Backends::open(settings, &pool)?;
        let runner = Runner::start(threads, limits).map_err(OpenError::Thread)?;
        Ok(Arc::new(Registry {
            dir: settings.dir.clone(),
            pinned: settings.active.clone(),
            backends,
            snapshot: ArcSwap::default(),
            state: Mutex::default(),
            runner,
        }))
    }

    /// The model that `name` (its active version) or `name@version` means. Lock-free.
    ///
    /// # Errors
    /// Says which names and versions are known, or why the version was refused.
    pub fn resolve(&self, reference: &str) -> Result<Arc<Model>, UnknownModel> {
        let snapshot = self.snapshot.load();
        match snapshot.by_reference.get(reference) {
            Some(model) => Ok(Arc::clone(model)),
            None => Err(UnknownModel {
                reference: reference.to_owned(),
                message: snapshot.explain(reference, &self.pinned),
            }),
        }
    }

    /// The same, with the version that a share of a bare name's inputs goes to instead. Lock-free.
    ///
    /// # Errors
    /// Those of [`Registry::resolve`].
    pub fn serving(&self, reference: &str) -> Result<Serving, UnknownModel> {
        let snapshot = self.snapshot.load();
        if let Some(model) = snapshot.by_reference.get(reference) {
            return Ok(Serving {
                model: Arc::clone(model),
                split: snapshot.splits.get(reference).cloned(),
            });
        }
        self.resolve(reference)
            .map(|model| Serving { model, split: None })
    }

    /// Every version that serves, by name and version.
    pub fn list(&self) -> Vec<ListedModel> {
        self.snapshot.load().listed.clone()
    }

    /// What under the models folder does not serve as it should, and why.
    pub fn problems(&self) -> Vec<Problem> {
        self.snapshot.load().problems.clone()
    }

    /// Which backends of the settings have no device that works, so that `cpu` stands in for them, and why: a sentence for each.
    pub fn replaced_backends(&self) -> &[String] {
        self.backends.replaced()
    }

    /// What does the arithmetic of a model, if that works.
    pub fn backend_of(&self, model: &str) -> Option<Backend> {
        let hardware = self.backends.of(model).ok()?;
        Some(hardware.backend())
    }

    /// Why nothing works any more on a device that models run on, if so: no pass on it will, in this process.
    pub fn lost_device(&self) -> Option<String> {
        self.backends.lost()
    }

    /// Looks at the models folder again and loads what is new, changed, or was broken. Blocking.
    ///
    /// What served goes on serving until a whole, checked replacement is there: a version whose files broke keeps
    /// its loaded self, and a version whose folder is gone stays while it is pinned or no other version is there.
    /// A version that was refused is read again once its files have changed; for a reason that may pass, after a while as well.
    pub fn rescan(&self) -> RescanReport {
        self.rescan_at(Instant::now())
    }

    fn rescan_at(&self, now: Instant) -> RescanReport {
        let mut state = self.lock();
        let survey = directory::survey(&self.dir);
        let dir = self.dir.as_path();
        let mut report = state.scan((dir, now), survey, &self.pinned, |found| self.load(found));
        report.new_problems = self.publish(&state);
        report
    }

    /// Serves this one version, which its model's bare name means then, with the one that has a share of its inputs, and no other: what served
    /// before releases its memory first. Blocking. Whether it serves now, and why not, [`Registry::resolve`] says.
    pub fn serve_only(&self, name: &str, version: &str, split: Option<&SplitChoice>) {
        let mut state = self.lock();
        let is_it = |n: &str, v: &str| {
            n == name && (v == version || split.is_some_and(|split| split.version == v))
        };
        state.entries.retain(|(n, v), _| is_it(n, v));
        let split = split.map(|split| (name.to_owned(), split.clone()));
        state.chosen = Choices {
            active: BTreeMap::from([(name.to_owned(), version.to_owned())]),
            splits: split.into_iter().collect(),
        };
        self.publish(&state);
        let mut survey = directory::survey(&self.dir);
        survey
            .found
            .retain(|found| is_it(&found.name, &found.version));
        let when = (self.dir.as_path(), Instant::now());
        state.scan(when, survey, &self.pinned, |found| self.load(found));
        self.publish(&state);
    }

    /// Sets what bare names mean on every worker, and takes back what was set before. A version that isn't loaded here leaves its model as
    /// it is, until a scan finds it.
    pub fn choose(&self, chosen: impl Into<Choices>) -> ChoiceReport {
        let chosen = chosen.into();
        let mut state = self.lock();
        let before = self.snapshot.load().active();
        if state.chosen != chosen {
            state.chosen = chosen;
            self.publish(&state);
        }
        let snapshot = self.snapshot.load();
        let after = snapshot.active();
        let switched = after.iter().filter(|now| !before.contains(now));
        let wanted = state.chosen.versions();
        let pending = wanted.filter(|(name, version)| !state.is_loaded(name, version));
        let reference = |name: &str, version: &str| format!("{name}@{version}");
        let splits = snapshot.splits.iter();
        ChoiceReport {
            switched: switched
                .map(|(name, version)| reference(name, version))
                .collect(),
            pending: pending
                .map(|(name, version)| reference(name, version))
                .collect(),
            splits: splits
                .map(|(name, split)| (reference(name, &split.model.info().version), split.share))
                .collect(),
            unfit: snapshot.unfit.clone(),
        }
    }

    /// Releases the memory of versions that weren't requested for that long, are not active and have no share; returns them as `name@version`.
    /// They are loaded again when a job requests them.
    pub fn unload_unused(&self, unused_for: Duration) -> Vec<String> {
        let state = self.lock();
        let snapshot = self.snapshot.load();
        let idle = snapshot.listed.iter();
        let idle = idle.filter(|listed| !listed.active && listed.share.is_none());
        idle.filter_map(|listed| {
            let info = &listed.info;
            let key = (info.name.clone(), info.version.clone());
            let entry = state.entries.get(&key)?;
            let unloaded = entry.on_disk && entry.model.network().unload_unused(unused_for);
            unloaded.then(|| format!("{}@{}", info.name, info.version))
        })
        .collect()
    }

    /// Loads a version. Where a library panics over its files, that is its own problem: the others of the scan are loaded.
    fn load(&self, found: &Found) -> Result<Loaded, LoadError> {
        let source = ModelSource {
            name: found.name.clone(),
            version: found.version.clone(),
            folder: found.path.clone(),
            hardware: self.backends.of(&found.name)?,
            queue: Arc::clone(self.runner.queue()),
        };
        let loaded = catch_unwind(AssertUnwindSafe(|| load(&source)));
        loaded.unwrap_or_else(|panic| {
            let reason = panic_message(panic.as_ref());
            Err(LoadError::manifest(&format!(
                "its files make a library panic: {reason}"
            )))
        })
    }

    /// Shows readers the state; returns the problems that they haven't seen yet.
    fn publish(&self, state: &State) -> Vec<Problem> {
        let known = self.snapshot.load();
        let snapshot = Snapshot::of(state, &known, &self.pinned, &self.dir);
        let new_problems = snapshot.problems_new_since(&known);
        self.snapshot.store(Arc::new(snapshot));
        new_problems
    }

    /// A scan that panicked leaves the state that the one before it published.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn limits(settings: &ModelSettings) -> Result<Limits, OpenError> {
    let setting = |field, message: &str| {
        Err(OpenError::Setting {
            field,
            message: message.to_owned(),
        })
    };
    if settings.max_batch_rows == 0 || settings.max_batch_rows > 1 << 20 {
        return setting("max_batch_rows", "must be between 1 and 1048576");
    }
    if settings.max_queued_rows < settings.max_batch_rows || settings.max_queued_rows > 1 << 28 {
        return setting(
            "max_queued_rows",
            "must be between max_batch_rows and 268435456",
        );
    }
    if settings.threads > 1024 {
        return setting("threads", "must be at most 1024");
    }
    if settings.max_batch_tokens == 0 || settings.max_batch_tokens > 1 << 20 {
        return setting("max_batch_tokens", "must be between 1 and 1048576");
    }
    Ok(Limits {
        batch_rows: settings.max_batch_rows,
        batch_tokens: settings.max_batch_tokens,
        queued_rows: settings.max_queued_rows,
    })
}

/// As many threads as the settings ask for, and no more than the process is granted.
fn threads(settings: &ModelSettings) -> usize {
    // Respects affinity and the quotas of control groups.
    let granted = thread::available_parallelism().map_or(1, |n| n.get());
    if settings.threads > granted {
        tracing::warn!(
            asked = settings.threads,
            granted,
            "models.threads is more than the processors that the process is granted"
        );
    }
    match settings.threads {
        0 => granted,
        n => n.min(granted),
    }
}

#[cfg(test)]
mod tests;
