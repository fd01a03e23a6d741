//! Owns what the broker last said of the lanes' queues: a lane's messages and consumers, all of its queues together.

use super::topology::Seen;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The depths of the lanes' queues, for whoever shows them.
#[derive(Debug, Clone, Default)]
pub struct LaneDepths(Arc<Mutex<BTreeMap<String, Seen>>>);

impl LaneDepths {
    /// Notes what the queues of a lane came to.
    pub fn set(&self, lane: &str, seen: Seen) {
        self.known().insert(lane.to_owned(), seen);
    }

    /// What is known of a lane's queues; nothing where they were never looked at.
    pub fn get(&self, lane: &str) -> Option<Seen> {
        self.known().get(lane).copied()
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// This queue and another one together.
    pub fn and(self, other: Self) -> Self {
        Self {
            messages: self.messages.saturating_add(other.messages),
            consumers: self.consumers.saturating_add(other.consumers),
        }
    }

    /// Whether jobs wait that nobody takes.
    pub fn is_stranded(self) -> bool {
        self.messages > 0 && self.consumers == 0
    }
}
