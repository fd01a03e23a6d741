//! What serves, as readers see it: one state, never changed, replaced whole.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use kiln_contract::model::ModelInfo;
use kiln_contract::split::Share;

use super::state::State;
use crate::choices::{Split, SplitChoice, unfit_for_split};
use crate::error::Problem;
use crate::model::Model;
use crate::naming::{compare_versions, is_model_name, is_version};

/// One line of [`Registry::list`](crate::Registry::list).
#[derive(Debug, Clone, PartialEq)]
pub struct ListedModel {
    /// What the version is and takes.
    pub info: ModelInfo,
    /// Whether the bare name means this version.
    pub active: bool,
    /// The share of its model's inputs that it has beside the active version, if it has one.
    pub share: Option<Share>,
}

/// Names that an error message lists before it says how many more there are.
const MAX_NAMES_SHOWN: usize = 20;

#[derive(Default)]
pub(super) struct Snapshot {
    /// By `name` and by `name@version`.
    pub by_reference: HashMap<String, Arc<Model>, ahash::RandomState>,
    /// By name, the versions that have a share of their model's inputs.
    pub splits: HashMap<String, Split, ahash::RandomState>,
    /// By `name@version`, why one that is here can't have the share that was chosen for it.
    pub unfit: BTreeMap<String, &'static str>,
    /// By name, then version.
    pub listed: Vec<ListedModel>,
    pub problems: Vec<Problem>,
}

impl Snapshot {
    /// The state for readers, who have seen `known`; `pinned` are the versions that the settings name.
    pub fn of(
        state: &State,
        known: &Snapshot,
        pinned: &BTreeMap<String, String>,
        dir: &Path,
    ) -> Self {
        let mut models: Vec<&Arc<Model>> =
            state.entries.values().map(|entry| &entry.model).collect();
        models.sort_by(|a, b| {
            let (a, b) = (a.info(), b.info());
            a.name
                .cmp(&b.name)
                .then_with(|| compare_versions(&a.version, &b.version))
        });
        let mut snapshot = Snapshot {
            problems: state.problems.clone(),
            ..Snapshot::default()
        };
        for versions in models.chunk_by(|a, b| a.info().name == b.info().name) {
            let active = active_version(versions, state, known, pinned);
            for model in versions {
                snapshot.insert(model, active == Some(model.info().version.as_str()));
            }
        }
        for (name, split) in &state.chosen.splits {
            snapshot.split(name, split);
        }
        for (name, version) in pinned {
            if !snapshot.by_reference.contains_key(name) {
                snapshot.problems.push(Problem {
                    model: Some(name.clone()),
                    version: Some(version.clone()),
                    path: dir.join(name),
                    file: None,
                    message: format!(
                        "models.active names version {version}, which is not loaded, so that \"{name}\" alone means nothing"
                    ),
                    still_serving: false,
                    may_pass: false,
                });
            }
        }
        snapshot
    }

    fn insert(&mut self, model: &Arc<Model>, active: bool) {
        let info = model.info();
        if active {
            self.by_reference
                .insert(info.name.clone(), Arc::clone(model));
        }
        self.by_reference
            .insert(format!("{}@{}", info.name, info.version), Arc::clone(model));
        self.listed.push(ListedModel {
            info: info.clone(),
            active,
            share: None,
        });
    }

    /// Gives a version its share, if it is here and can have one.
    fn split(&mut self, name: &str, choice: &SplitChoice) {
        let reference = format!("{name}@{}", choice.version);
        let pair = self.by_reference.get(name).cloned();
        let pair = pair.zip(self.by_reference.get(&reference).cloned());
        let Some((active, model)) = pair.filter(|_| choice.share > Share::NONE) else {
            return;
        };
        if let Some(why) = unfit_for_split(active.info(), model.info()) {
            self.unfit.insert(reference, why);
            return;
        }
        let its = |listed: &&mut ListedModel| listed.info == *model.info();
        if let Some(listed) = self.listed.iter_mut().find(its) {
            listed.share = Some(choice.share);
        }
        let share = choice.share;
        self.splits.insert(name.to_owned(), Split { model, share });
    }

    /// The active versions, as `(name, version)`.
    pub fn active(&self) -> Vec<(String, String)> {
        let active = self.listed.iter().filter(|listed| listed.active);
        active
            .map(|listed| (listed.info.name.clone(), listed.info.version.clone()))
            .collect()
    }

    /// Problems that readers of `known` haven't seen.
    pub fn problems_new_since(&self, known: &Snapshot) -> Vec<Problem> {
        let unseen = |problem: &&Problem| !known.problems.iter().any(|seen| seen.says(problem));
        self.problems.iter().filter(unseen).cloned().collect()
    }

    /// Why nothing answers to a reference, in words that a producer can act on.
    pub fn explain(&self, reference: &str, pinned: &BTreeMap<String, String>) -> String {
        let (name, version) = match reference.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (reference, None),
        };
        if !is_model_name(name) || !version.is_none_or(is_version) {
            return "not a model reference: expected a name of 1 to 64 of a-z, 0-9, _ and -, \
                    or name@version"
                .to_owned();
        }
        let wanted = version.or(pinned.get(name).map(String::as_str));
        let why = self.problems.iter().find(|problem| {
            problem.model.as_deref() == Some(name)
                && problem.file.is_some()
                && (wanted.is_none() || problem.version.as_deref() == wanted)
        });
        let versions: Vec<&str> = self
            .listed
            .iter()
            .filter(|listed| listed.info.name == name)
            .map(|listed| listed.info.version.as_str())
            .collect();
        let known = if versions.is_empty() {
            let mut names: Vec<&str> = self.listed.iter().map(|l| l.info.name.as_str()).collect();
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

/// The version that the bare name of these versions of one model means: what all workers are to serve, if it is loaded; if it
/// isn't, what served before; else what the settings name, else the highest.
fn active_version<'a>(
    versions: &'a [&Arc<Model>],
    state: &'a State,
    known: &'a Snapshot,
    pinned: &'a BTreeMap<String, String>,
) -> Option<&'a str> {
    let highest = versions.last()?.info();
    let name = highest.name.as_str();
    if let Some(chosen) = state.chosen.active.get(name) {
        let serving = known.by_reference.get(name);
        let serving = serving.map(|model| model.info().version.as_str());
        let loaded = |version: &&str| state.is_loaded(name, version);
        // What can't be followed yet changes nothing here.
        let active = Some(chosen.as_str())
            .filter(loaded)
            .or(serving.filter(loaded));
        if active.is_some() {
            return active;
        }
    }
    match pinned.get(name) {
        Some(pinned) => Some(pinned),
        None => Some(&highest.version),
    }
}

fn shown(names: &[&str]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    let some: Vec<&str> = names.iter().copied().take(MAX_NAMES_SHOWN).collect();
    match names.len() - some.len() {
        0 => some.join(", "),
        more => format!("{} and {more} more", some.join(", ")),
    }
}
