//! Owns the suspects in hand: those that wait, and whether one runs.
//!
//! Promises that each counts as in hand until it is settled or returned, that none waits for longer than a job may be in hand, and that a
//! session which ends can wait for its own.

use super::{
    child::Program,
    queue::{History, Queue},
};
use crate::{
    amqp::{delivery::Delivery, topology::Origin},
    worker::{in_hand::InHand, process::JobProcessor},
};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// The suspects in hand. Belongs to the worker: sessions come and go.
#[derive(Clone)]
pub(in crate::worker) struct Suspects(Arc<Shared>);

struct Shared {
    processor: JobProcessor,
    program: Program,
    state: Mutex<State>,
    /// One came, or one ended.
    changed: Notify,
    /// Those that waited are returned.
    emptied: Notify,
}

#[derive(Default)]
struct State {
    /// Bounded by the prefetch.
    waiting: Queue<Suspect>,
    /// Whether one is taken and hasn't ended.
    busy: bool,
}

/// A suspect.
pub(super) struct Suspect {
    pub delivery: Delivery,
    in_hand: InHand,
}

impl Suspect {
    /// Its delivery, which counts as in hand while the other part lives.
    pub fn into_parts(self) -> (Delivery, InHand) {
        (self.delivery, self.in_hand)
    }

    /// Whether it can still be settled: a connection that was lost took the right to it along.
    pub fn is_open(&self) -> bool {
        self.delivery.guard.acks().is_open()
    }
}

impl Suspects {
    /// None yet.
    pub fn new(processor: JobProcessor, program: Program) -> Self {
        Self(Arc::new(Shared {
            processor,
            program,
            state: Mutex::default(),
            changed: Notify::new(),
            emptied: Notify::new(),
        }))
    }

    /// Sets a delivery aside that was redelivered too often; gives back any other.
    pub fn set_aside(&self, delivery: Delivery) -> Option<Delivery> {
        let after = self.0.processor.settings.intake.suspect_after;
        if delivery.origin == Origin::Expired || delivery.redeliveries() < after {
            return Some(delivery);
        }
        self.push(delivery);
        None
    }

    /// Sets a delivery aside.
    pub fn push(&self, delivery: Delivery) {
        let in_hand = self.0.processor.in_hand();
        let suspect = Suspect { delivery, in_hand };
        let mut state = self.state();
        // Only those of connections that were lost can be more than the prefetch.
        if state.waiting.len() >= usize::from(self.0.processor.settings.intake.prefetch) {
            state.waiting.retain(Suspect::is_open);
        }
        state.waiting.push(History::default(), suspect);
        drop(state);
        self.0.changed.notify_waiters();
    }

    /// Returns those to their queue that wait for too long.
    pub fn sweep(&self) {
        let max = Duration::from_secs(self.0.processor.settings.intake.max_hold_seconds);
        let in_time = |one: &Suspect| one.delivery.received.elapsed() < max;
        let jobs = self.state().waiting.retain(in_time);
        if jobs > 0 {
            tracing::warn!(
                jobs,
                "suspected jobs were in hand for too long; they go back to their queue"
            );
        }
    }

    /// Returns those that wait to their queue.
    pub fn give_back(&self) {
        self.clear();
    }

    /// Returns those that wait to their queue, and waits until the one that runs is settled or returned.
    pub async fn finish(&self) {
        loop {
            let changed = self.0.changed.notified();
            if !self.clear() {
                return;
            }
            changed.await;
        }
    }

    /// Returns those that wait; says whether one runs.
    fn clear(&self) -> bool {
        let busy = {
            let mut state = self.state();
            state.waiting.clear();
            state.busy
        };
        self.0.emptied.notify_waiters();
        busy
    }

    pub(super) fn processor(&self) -> &JobProcessor {
        &self.0.processor
    }

    pub(super) fn program(&self) -> &Program {
        &self.0.program
    }

    /// Waits until another one comes.
    pub(super) async fn arrival(&self) {
        self.0.changed.notified().await;
    }

    /// Waits until those that wait are returned.
    pub(super) async fn emptied(&self) {
        self.0.emptied.notified().await;
    }

    /// Waits for the next one. It is busy until the last part is dropped.
    pub(super) async fn next(&self) -> (Suspect, History, Busy) {
        loop {
            let changed = self.0.changed.notified();
            if let Some((history, suspect)) = self.take() {
                return (suspect, history, Busy(self.clone()));
            }
            changed.await;
        }
    }

    fn take(&self) -> Option<(History, Suspect)> {
        let mut state = self.state();
        state.waiting.retain(Suspect::is_open);
        let taken = state.waiting.take();
        state.busy = taken.is_some();
        taken
    }

    /// Has one wait again that was taken.
    pub(super) fn put_back(&self, suspect: Suspect, history: History) {
        if suspect.is_open() {
            self.state().waiting.push(history, suspect);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change to it is one call: it is sound after a panic elsewhere.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A suspect is taken.
pub(super) struct Busy(Suspects);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.state().busy = false;
        self.0.0.changed.notify_waiters();
    }
}
