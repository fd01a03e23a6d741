//! Owns what policies get to see: requests as they come, and entries when a run is due.

use super::{entries::Entries, world::World};
use crate::warm::plan;
use rand::{Rng, rngs::StdRng};
use std::cell::RefCell;

/// A request as a policy gets to see it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub key: u32,
    /// Seconds since the trace began.
    pub at: f64,
    /// Whether its entry wasn't there.
    pub waited: bool,
    pub session: Option<u32>,
}

/// What a policy sees when a run is due.
pub(super) struct View<'a> {
    pub now: f64,
    pub world: &'a World,
    pub entries: &'a Entries,
    pub draws: &'a RefCell<StdRng>,
}

impl View<'_> {
    /// Whether a key's entry expires before the next run.
    pub fn is_due(&self, key: u32) -> bool {
        let left = self.entries.left(key, self.now);
        let draw = self.draws.borrow_mut().random();
        !plan::is_fresh(left, self.world.every, self.world.run_seconds, draw)
    }

    /// Whether a key can be refreshed without the model.
    pub fn is_known(&self, key: u32) -> bool {
        self.entries.is_known(key, self.now, self.world)
    }

    /// Entries that may be kept beside so many.
    pub fn room(&self, kept: usize) -> usize {
        let max = self.world.max_entries.unwrap_or(usize::MAX);
        max.saturating_sub(kept)
    }
}
