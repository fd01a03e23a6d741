//! Counts the jobs in hand, each from its delivery to its settlement, and has those settled together that end together.
//!
//! Promises that whoever waits for none to be left is woken, however each of them ends; and that nothing of what has ended is left lying,
//! whatever becomes of the task that was to settle it.

use crate::telemetry::metrics::Metrics;
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};
use tokio::sync::Notify;

/// Jobs in hand, whichever session took them: a session whose connection is lost leaves its own behind. A clone counts the same ones.
#[derive(Clone)]
pub(super) struct JobsInHand(Arc<Count>);

struct Count {
    jobs: AtomicUsize,
    none: Notify,
    metrics: Metrics,
}

impl JobsInHand {
    /// None yet.
    pub(super) fn new(metrics: Metrics) -> Self {
        Self(Arc::new(Count {
            jobs: AtomicUsize::new(0),
            none: Notify::new(),
            metrics,
        }))
    }

    /// Counts one.
    pub(super) fn add(&self) -> InHand {
        let before = self.0.jobs.fetch_add(1, Ordering::Relaxed);
        self.0.metrics.in_hand(before + 1);
        InHand(self.0.clone())
    }

    /// Waits until none is left.
    pub(super) async fn idle(&self) {
        loop {
            let none = self.0.none.notified();
            if self.0.jobs.load(Ordering::Relaxed) == 0 {
                return;
            }
            none.await;
        }
    }
}

/// A job in hand; it counts for as long as this lives.
pub(super) struct InHand(Arc<Count>);

impl Drop for InHand {
    fn drop(&mut self) {
        let before = self.0.jobs.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.in_hand(before - 1);
        if before == 1 {
            self.0.none.notify_waiters();
        }
    }
}

/// What has ended, and waits for the task that settles it. A clone is the same.
pub(super) struct Together<T>(Arc<Mutex<Vec<T>>>);

impl<T> Clone for Together<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Together<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Together<T> {
    /// Adds one. Whoever adds the first settles all that have come when that begins.
    pub(super) fn add(&self, one: T) -> Option<Turn<T>> {
        // The list is sound after a panic elsewhere: every change to it is one call.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(one);
        (all.len() == 1).then(|| Turn(self.clone()))
    }

    fn take(&self) -> Vec<T> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The right to take all that has ended, and the duty: it is dropped with this.
pub(super) struct Turn<T>(Together<T>);

impl<T> Turn<T> {
    /// All that has ended.
    pub(super) fn take(self) -> Vec<T> {
        self.0.take()
    }
}

impl<T> Drop for Turn<T> {
    fn drop(&mut self) {
        drop(self.0.take());
    }
}

#[cfg(test)]
mod orders;
