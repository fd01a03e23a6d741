//! What serves, and how a scan of the models folder changes it.
//!
//! Promises that what served goes on serving until a whole, checked replacement is there, and that what was refused isn't read
//! again before it changes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::choices::Choices;
use crate::directory::{Fingerprint, Found, Survey};
use crate::error::{LoadError, Problem};
use crate::load::Loaded;
use crate::model::Model;

/// What [`Registry::rescan`](crate::Registry::rescan) found. Versions are written `name@version`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RescanReport {
    /// Versions that serve now and did not before.
    pub added: Vec<String>,
    /// Versions whose files changed and that were loaded again.
    pub replaced: Vec<String>,
    /// Versions that no longer serve because their folder is gone and another version of the model is there.
    pub removed: Vec<String>,
    /// Problems that were not there at the scan before: worth a log line each.
    pub new_problems: Vec<Problem>,
}

/// What serves.
#[derive(Default)]
pub(super) struct State {
    pub entries: Entries,
    /// What the last scan found wrong.
    pub problems: Vec<Problem>,
    /// Versions that were refused, as they were then: they aren't read again before they change.
    refused: BTreeMap<Key, (Fingerprint, Problem)>,
    /// What all workers are to serve under the bare names; stronger than the settings.
    pub chosen: Choices,
}

/// A model's name and version.
type Key = (String, String);

pub(super) type Entries = BTreeMap<Key, Entry>;

#[derive(Clone)]
pub(super) struct Entry {
    pub model: Arc<Model>,
    fingerprint: Fingerprint,
    identity: [u8; 32],
    /// Whether it could be loaded again.
    pub on_disk: bool,
}

impl State {
    /// Whether that version serves.
    pub fn is_loaded(&self, name: &str, version: &str) -> bool {
        self.entries
            .contains_key(&(name.to_owned(), version.to_owned()))
    }

    /// Takes over what the models folder `dir` holds; `pinned` are the versions that the settings name.
    pub fn scan(
        &mut self,
        dir: &Path,
        survey: Survey,
        pinned: &BTreeMap<String, String>,
        load: impl Fn(&Found) -> Result<Loaded, LoadError>,
    ) -> RescanReport {
        let mut report = RescanReport::default();
        let before = std::mem::take(&mut self.entries);
        let mut problems = survey.problems;
        for found in &survey.found {
            let key = (found.name.clone(), found.version.clone());
            let entry = self.visit(found, before.get(&key), &load, &mut report);
            if let Some((_, problem)) = self.refused.get(&key) {
                problems.push(problem.clone());
            }
            if let Some(entry) = entry {
                self.entries.insert(key, entry);
            }
        }
        let there = |(name, version): &Key| {
            let found = |found: &Found| found.name == *name && found.version == *version;
            survey.found.iter().any(found)
        };
        self.refused.retain(|key, _| there(key));
        let on_disk: Vec<String> = self.entries.keys().map(|(name, _)| name.clone()).collect();
        for (key, mut entry) in before {
            if self.entries.contains_key(&key) {
                continue;
            }
            let (name, version) = &key;
            let wanted = pinned.get(name) == Some(version) || self.chosen.names(name, version);
            if survey.readable && !wanted && on_disk.contains(name) {
                report.removed.push(format!("{name}@{version}"));
                continue;
            }
            problems.push(Problem {
                model: Some(name.clone()),
                version: Some(version.clone()),
                path: dir.join(name).join(version),
                file: None,
                message: "the folder is gone".to_owned(),
                still_serving: true,
            });
            entry.on_disk = false;
            self.entries.insert(key, entry);
        }
        self.problems = problems;
        report
    }

    /// What a folder that was found serves from now on.
    fn visit(
        &mut self,
        found: &Found,
        before: Option<&Entry>,
        load: impl Fn(&Found) -> Result<Loaded, LoadError>,
        report: &mut RescanReport,
    ) -> Option<Entry> {
        let key = (found.name.clone(), found.version.clone());
        if let Some(entry) = before
            && found.fingerprint.unchanged_since(&entry.fingerprint)
        {
            self.refused.remove(&key);
            return Some(Entry {
                on_disk: true,
                ..entry.clone()
            });
        }
        if let Some((fingerprint, _)) = self.refused.get(&key)
            && found.fingerprint.unchanged_since(fingerprint)
        {
            return before.cloned();
        }
        let loaded = match load(found) {
            Ok(loaded) => loaded,
            Err(error) => {
                let problem = refusal(found, error, before.is_some());
                self.refused
                    .insert(key, (found.fingerprint.clone(), problem));
                // What serves can't be loaded again from there.
                return before.map(|entry| Entry {
                    on_disk: false,
                    ..entry.clone()
                });
            }
        };
        self.refused.remove(&key);
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
}

fn refusal(found: &Found, error: LoadError, still_serving: bool) -> Problem {
    Problem {
        model: Some(found.name.clone()),
        version: Some(found.version.clone()),
        path: found.path.clone(),
        file: Some(error.file),
        message: error.message,
        still_serving,
    }
}
