//! What serves, and how a scan of the models folder changes it.
//!
//! Promises that what served goes on serving until a whole, checked replacement is there, and that what was refused isn't read
//! again before it changes; or, where the reason may pass, before a while has passed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
    /// Versions that were refused.
    refused: BTreeMap<Key, Refused>,
    /// Whether this scan has read one again whose files didn't change. One a scan: whoever waits for the scan's end waits for one of them at most.
    has_tried_again: bool,
    /// What all workers are to serve under the bare names; stronger than the settings.
    pub chosen: Choices,
}

/// A model's name and version.
type Key = (String, String);

pub(super) type Entries = BTreeMap<Key, Entry>;

/// First wait before a version is tried again whose files didn't change and whose reason may have passed.
const TRY_AGAIN: Duration = Duration::from_secs(30);
/// Longest one: each is twice as long as the one before.
const TRY_AGAIN_AT_MOST: Duration = Duration::from_secs(480);

/// A version that was refused.
struct Refused {
    /// Its files as they were then: they aren't read again before they change.
    fingerprint: Fingerprint,
    problem: Problem,
    /// When it is tried again all the same, and how long after the last time that is.
    again: Option<(Instant, Duration)>,
}

impl Refused {
    /// Refused at a time, and `before` with the same files, if it was.
    fn new(found: &Found, problem: Problem, now: Instant, before: Option<Self>) -> Self {
        let wait = match before.as_ref().and_then(|before| before.again) {
            Some((_, waited)) => (waited * 2).min(TRY_AGAIN_AT_MOST),
            None => TRY_AGAIN,
        };
        let fingerprint = found.fingerprint.clone();
        let again = problem.may_pass.then(|| (now + wait, wait));
        Self {
            fingerprint,
            problem,
            again,
        }
    }

    fn stands(&self, found: &Found, now: Instant, has_tried_again: bool) -> bool {
        self.is_of(found) && (has_tried_again || self.again.is_none_or(|(at, _)| now < at))
    }

    fn is_of(&self, found: &Found) -> bool {
        found.fingerprint.unchanged_since(&self.fingerprint)
    }
}

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

    /// Takes over what the models folder `dir` holds `now`; `pinned` are the versions that the settings name.
    pub fn scan(
        &mut self,
        (dir, now): (&Path, Instant),
        survey: Survey,
        pinned: &BTreeMap<String, String>,
        load: impl Fn(&Found) -> Result<Loaded, LoadError>,
    ) -> RescanReport {
        let mut report = RescanReport::default();
        self.has_tried_again = false;
        let before = std::mem::take(&mut self.entries);
        let mut problems = survey.problems;
        for found in &survey.found {
            let key = (found.name.clone(), found.version.clone());
            let entry = self.visit(found, before.get(&key), now, &load, &mut report);
            if let Some(refused) = self.refused.get(&key) {
                problems.push(refused.problem.clone());
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
            // What can't be read isn't gone.
            let is_unread = |problem: &&mut Problem| {
                let of_version = problem.version.as_ref().is_none_or(|v| v == version);
                of_version && problem.model.as_ref() == Some(name)
            };
            if let Some(unread) = problems.iter_mut().find(is_unread) {
                unread.still_serving = true;
                entry.on_disk = false;
                self.entries.insert(key, entry);
                continue;
            }
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
                may_pass: false,
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
        now: Instant,
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
        if self
            .refused
            .get(&key)
            .is_some_and(|refused| refused.stands(found, now, self.has_tried_again))
        {
            return before.cloned();
        }
        let refused = self.refused.remove(&key);
        let refused = refused.filter(|refused| refused.is_of(found));
        self.has_tried_again |= refused.is_some();
        let loaded = match load(found) {
            Ok(loaded) => loaded,
            Err(error) => {
                let problem = refusal(found, error, before.is_some());
                let refused = Refused::new(found, problem, now, refused);
                self.refused.insert(key, refused);
                // What serves can't be loaded again from there.
                return before.map(|entry| Entry {
                    on_disk: false,
                    ..entry.clone()
                });
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
        may_pass: error.may_pass,
    }
}
