//! Owns what is known of statements that may still run: their connection was lost, or closed before the server had answered.
//!
//! Promises that one is forgotten only when its backend is known to be gone or, where nobody can say which backend it has, when its limit
//! on the server has passed. Refuses to end them: that takes a connection.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// A statement that may still run.
#[derive(Debug, Clone)]
struct LostStatement {
    /// The name under which the server knows its connection, where it does.
    name: Option<String>,
    /// When the server itself must have ended it.
    over_at: Instant,
}

/// All statements of one process that may still run. Bounded by the connections: no other is lent before these have ended.
#[derive(Debug, Default)]
pub(super) struct Lost {
    statements: Mutex<Vec<LostStatement>>,
    /// Held by who ends them.
    pub ending: tokio::sync::Mutex<()>,
    /// Whether the server's last word on them is that one still runs.
    seen_running: AtomicBool,
}

impl Lost {
    fn statements(&self) -> MutexGuard<'_, Vec<LostStatement>> {
        // The list is sound after a panic elsewhere: every change to it is one call.
        self.statements
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes one that was sent and not answered.
    pub fn add(&self, name: Option<String>, over_at: Instant) {
        self.statements().push(LostStatement { name, over_at });
    }

    /// How long until all are over that have no name; nothing where none may still run. Named ones last until they are ended.
    pub fn remaining(&self, now: Instant) -> Option<Duration> {
        let mut statements = self.statements();
        statements.retain(|one| one.name.is_some() || one.over_at > now);
        let left = |one: &LostStatement| one.over_at.saturating_duration_since(now);
        statements.iter().map(left).max()
    }

    /// The names of connections whose backends are to be ended.
    pub fn names(&self) -> Vec<String> {
        let statements = self.statements();
        statements
            .iter()
            .filter_map(|one| one.name.clone())
            .collect()
    }

    /// Notes what the server said: whether one of them still runs; or that it is asked anew, and hasn't said anything.
    pub fn seen_running(&self, running: bool) {
        self.seen_running.store(running, Ordering::Relaxed);
    }

    /// Whether the server's last word is that one still runs. Where it is not, who waits for their end waits for the server.
    pub fn is_seen_running(&self) -> bool {
        self.seen_running.load(Ordering::Relaxed)
    }

    /// Forgets those whose backends are gone.
    pub fn ended(&self, names: &[String]) {
        let is_ended = |one: &LostStatement| one.name.as_ref().is_some_and(|n| names.contains(n));
        self.statements().retain(|one| !is_ended(one));
    }

    /// Notes that the server refuses to end these: their limit must.
    pub fn left_to_their_limit(&self, names: &[String]) {
        for one in self.statements().iter_mut() {
            one.name = one.name.take().filter(|name| !names.contains(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(12);

    #[test]
    fn a_named_one_lasts_until_it_is_ended_whatever_the_time() {
        let (lost, now) = (Lost::default(), Instant::now());
        assert_eq!(lost.remaining(now), None);
        lost.add(Some("kiln 1".into()), now + LIMIT);
        assert_eq!(lost.remaining(now + 9 * LIMIT), Some(Duration::ZERO));
        lost.add(Some("kiln 2".into()), now + LIMIT);
        assert_eq!(lost.names(), ["kiln 1", "kiln 2"]);
        lost.ended(&["kiln 1".into()]);
        assert_eq!(lost.names(), ["kiln 2"]);
        lost.ended(&["kiln 2".into()]);
        assert_eq!(lost.remaining(now), None);
    }

    #[test]
    fn one_that_nobody_can_end_is_over_with_its_limit() {
        let (lost, now) = (Lost::default(), Instant::now());
        lost.add(None, now + LIMIT);
        lost.add(Some("kiln 1".into()), now + 2 * LIMIT);
        lost.left_to_their_limit(&["kiln 1".into()]);
        assert!(lost.names().is_empty());
        assert_eq!(lost.remaining(now + LIMIT), Some(LIMIT));
        assert_eq!(lost.remaining(now + 2 * LIMIT), None);
    }
}
