//! Counts the jobs of a lane's queues that are on their way to the lane: what they cost is known once they are there.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::sync::Notify;

/// The jobs on their way to one lane, and who waits for room there.
#[derive(Debug, Default)]
pub struct Arrivals {
    under_way: AtomicUsize,
    pub(super) freed: Notify,
}

impl Arrivals {
    /// Counts one.
    pub(super) fn add(self: &Arc<Self>) -> Arriving {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Arriving(self.clone())
    }

    /// How many there are.
    pub(super) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }
}

/// A job on its way to its lane; it has arrived, or gone another way, when this is dropped.
#[derive(Debug)]
pub struct Arriving(Arc<Arrivals>);

impl Drop for Arriving {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
        self.0.freed.notify_waiters();
    }
}
