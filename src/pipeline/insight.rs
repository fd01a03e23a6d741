//! Owns the statistics of namespaces and kinds of keys that operators see.
//!
//! Promises bounded memory whatever is asked for. Refuses to decide anything by it.

use super::render::{InputNote, JobNote};
use crate::clock;
use crate::telemetry::{
    causes::Watched,
    window::{Causes, Noted, Pattern, Window},
};
use kiln_contract::key::InputHash;
use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// A day of figures, and why inputs missed.
#[derive(Debug)]
pub struct Insight {
    pub window: Window,
    watched: Mutex<Watched>,
    began: Instant,
}

impl Default for Insight {
    fn default() -> Self {
        Self {
            window: Window::default(),
            watched: Mutex::default(),
            began: clock::instant(),
        }
    }
}

impl Insight {
    /// Adds jobs at their end, each with its namespace and the time that it took.
    pub(super) fn note<'n>(&self, jobs: impl Iterator<Item = (&'n str, &'n JobNote, Duration)>) {
        let noted = jobs.flat_map(|(namespace, note, latency)| {
            let noted = move |inputs: &InputNote| Noted {
                hits: inputs.hits,
                misses: inputs.misses,
                causes: inputs.causes,
                latency: Some(latency),
            };
            let kinds = note.kinds.iter().map(move |(kind, inputs)| {
                let pattern = Pattern::Prefix(namespace.to_owned(), kind.clone());
                (pattern, noted(inputs))
            });
            let whole = (Pattern::Namespace(namespace.to_owned()), noted(&note.all));
            kinds.chain(std::iter::once(whole))
        });
        self.window.note(noted);
    }

    /// Why inputs missed that were scored for a job, each with the TTL of its entry; nothing of those that aren't watched.
    pub(super) fn causes<'i>(
        &self,
        scored: impl Iterator<Item = Option<(&'i InputHash, u64)>>,
    ) -> Vec<Causes> {
        let now = clock::since(self.began).as_secs();
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let causes = scored.map(|scored| {
            let (input, ttl_seconds) = scored?;
            watched.missed(input, now, ttl_seconds)
        });
        causes.map(Option::unwrap_or_default).collect()
    }
}
