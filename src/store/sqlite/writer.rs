//! Owns the thread that writes the file, and what waits for it.
//!
//! Promises that rows are written in large transactions, soon; that whoever asks for what waits finds it; and that a
//! write which the file refuses is heard of by everybody who stores after it. Bounded in bytes: those who store wait for room.

use super::{
    staged::{Staged, StagedJob},
    statements,
};
use crate::{
    redact::Redact,
    store::{Batch, StoreError},
};
use rusqlite::{Connection, ErrorCode};
use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{Notify, oneshot};

/// Bytes of rows from which a transaction is begun. The larger it is, the more keys fall on one page of the look-up table.
const WRITE_FROM: usize = 4 << 20;
/// Bytes of rows that wait at most beside those that are being written.
const MAX_STAGED: usize = 8 << 20;
/// Longest time that a row waits for others. A process that is killed loses no more than that, which is scored again.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// Wait before a write is repeated that another process holds up.
const RETRY: Duration = Duration::from_millis(200);

/// Work for the thread beside what is staged: it finds all written that was staged before.
pub(super) type Task = Box<dyn FnOnce(&mut Connection) + Send>;

/// What waits for the thread.
#[derive(Default)]
struct State {
    staged: Staged,
    /// When the first row of what is staged came.
    since: Option<Instant>,
    writing: Option<Arc<Staged>>,
    tasks: VecDeque<Task>,
    /// Batches that were staged, and how many of them are written.
    added: u64,
    written: u64,
    /// Whether somebody waits for what is staged.
    is_urgent: bool,
    is_closed: bool,
    failed: Option<String>,
}

impl State {
    fn is_due(&self) -> bool {
        let is_old = || self.since.is_some_and(|since| since.elapsed() >= MAX_WAIT);
        !self.staged.is_empty()
            && (self.staged.bytes() >= WRITE_FROM
                || self.is_urgent
                || self.is_closed
                || !self.tasks.is_empty()
                || is_old())
    }
}

/// What the thread and its users share.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    /// Whenever something was written, or failed.
    written: Notify,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        // The state is sound after a panic elsewhere: none of its changes runs outside code.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stages a batch, its scores with the numbers of their models and namespaces, once there is room.
    pub async fn stage(&self, batch: &Batch<'_>, names: &[(i64, i64)]) -> Result<(), StoreError> {
        loop {
            let written = self.written.notified();
            {
                let mut state = self.state();
                check(&state)?;
                if state.staged.bytes() < MAX_STAGED {
                    add(&mut state, batch, names);
                    self.wake.notify_one();
                    return Ok(());
                }
            }
            written.await;
        }
    }

    /// Whether the file still takes what it is given; why not, otherwise.
    pub fn check(&self) -> Result<(), StoreError> {
        check(&self.state())
    }

    /// Has everything written that is staged, and waits for it.
    pub async fn flush(&self) -> Result<(), StoreError> {
        let batches = self.state().added;
        loop {
            let written = self.written.notified();
            {
                let mut state = self.state();
                // A file that took no more once is done with, whether or not this caller's rows were before that.
                check(&state)?;
                if state.written >= batches {
                    return Ok(());
                }
                state.is_urgent = true;
                self.wake.notify_one();
            }
            written.await;
        }
    }

    /// Has the thread do something, and waits for it.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (sender, done) = oneshot::channel();
        {
            let mut state = self.state();
            check(&state)?;
            // Nobody listens where the caller was dropped.
            let task = move |connection: &mut Connection| drop(sender.send(work(connection)));
            state.tasks.push_back(Box::new(task));
            self.wake.notify_one();
        }
        match done.await {
            Ok(result) => result.map_err(|error| {
                // A file that refuses one write, as where the disk is full, is done with: nobody goes on without what it was to hold.
                if !is_busy(&error) {
                    self.state().failed.get_or_insert(error.redacted());
                    self.written.notify_waiters();
                }
                classify(error)
            }),
            Err(_) => Err(StoreError::Refused("the file is closed".to_owned())),
        }
    }

    /// Reads what isn't written yet, the newest first.
    pub fn pending<T>(&self, read: impl FnOnce([&Staged; 2]) -> T) -> T {
        let state = self.state();
        let none = Staged::default();
        read([&state.staged, state.writing.as_deref().unwrap_or(&none)])
    }

    /// A job that isn't written yet.
    pub fn job(&self, id: &str) -> Option<StagedJob> {
        self.pending(|waiting| {
            waiting
                .into_iter()
                .find_map(|staged| staged.job(id).cloned())
        })
    }

    /// Has the thread write what it has, and end.
    pub fn close(&self) {
        self.state().is_closed = true;
        self.wake.notify_one();
    }

    /// The thread's life.
    pub fn serve(&self, mut connection: Connection) {
        while let Some(work) = self.next() {
            match work {
                Work::Task(task) => task(&mut connection),
                Work::Write(staged, batches) => {
                    let failed = self.write(&mut connection, &staged);
                    let mut state = self.state();
                    match failed {
                        None => {
                            state.writing = None;
                            state.written = batches;
                        }
                        Some(reason) => state.failed = Some(reason),
                    }
                    drop(state);
                    self.written.notify_waiters();
                }
            }
        }
        // Whoever still waits hears that there is nobody any more.
        let mut state = self.state();
        state.tasks.clear();
        let closed = || "the file is closed".to_owned();
        state.failed.get_or_insert_with(closed);
        drop(state);
        self.written.notify_waiters();
    }

    /// What is to be done next; nothing when it is closed.
    fn next(&self) -> Option<Work> {
        let mut state = self.state();
        loop {
            if state.failed.is_some() {
                return None;
            }
            if state.is_due() {
                let staged = Arc::new(std::mem::take(&mut state.staged));
                state.writing = Some(staged.clone());
                state.since = None;
                state.is_urgent = false;
                return Some(Work::Write(staged, state.added));
            }
            if let Some(task) = state.tasks.pop_front() {
                return Some(Work::Task(task));
            }
            if state.is_closed {
                return None;
            }
            let waited = match state.since {
                None => self.wake.wait(state),
                Some(since) => {
                    let left = MAX_WAIT.saturating_sub(since.elapsed());
                    let waited = self.wake.wait_timeout(state, left);
                    waited
                        .map(|(state, _)| state)
                        .map_err(|poisoned| PoisonError::new(poisoned.into_inner().0))
                }
            };
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Writes until the file takes it; gives why it never will.
    fn write(&self, connection: &mut Connection, staged: &Staged) -> Option<String> {
        let mut has_said = false;
        loop {
            let error = match statements::write(connection, staged) {
                Ok(()) => return None,
                Err(error) => error,
            };
            if !is_busy(&error) || self.state().is_closed {
                return Some(error.redacted());
            }
            if !has_said {
                tracing::warn!(
                    error = error.redacted(),
                    "another process writes the file of scores; waiting for it"
                );
                has_said = true;
            }
            std::thread::sleep(RETRY);
        }
    }
}

enum Work {
    Task(Task),
    Write(Arc<Staged>, u64),
}

fn add(state: &mut State, batch: &Batch<'_>, names: &[(i64, i64)]) {
    for job in &batch.jobs {
        state.staged.add_job(job);
    }
    let at = batch.finished_at.timestamp_millis();
    for (score, (model, namespace)) in batch.scores.iter().zip(names) {
        state.staged.add_score(score, *model, *namespace, at);
    }
    state.added += 1;
    state.since.get_or_insert_with(Instant::now);
}

fn check(state: &State) -> Result<(), StoreError> {
    match &state.failed {
        Some(reason) => Err(StoreError::Refused(reason.clone())),
        None => Ok(()),
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(
        code,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

/// Whether the same call may succeed later.
pub(super) fn classify(error: rusqlite::Error) -> StoreError {
    if is_busy(&error) {
        StoreError::Unavailable(error.redacted())
    } else {
        StoreError::Refused(error.redacted())
    }
}
