//! The bounded queue before the model threads: cuts requests into passes, hands them out, gathers what comes back.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use kiln_contract::model::ModelError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::pass::{Answer, pass};
use crate::inputs::Inputs;
use crate::network::Network;
use crate::rows::{ModelCall, Scored};

/// How long a pass may be overtaken by shorter ones.
const MAX_OVERTAKEN: Duration = Duration::from_millis(100);
/// How long a thread that has just worked looks for more before it sleeps: waking one up takes as long.
const SPIN_TIME: Duration = Duration::from_micros(30);

/// Seconds from which a pass is a long one.
const LONG_PASS: f64 = 2e-3;

/// How long a pass takes, and so which threads make it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// It is over in a moment.
    Short,
    /// Others would wait for it, or nothing is known of it yet.
    Long,
    /// Nobody waits for it: whatever else there is to do comes first.
    Unawaited,
}

/// What bounds the queue and its passes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Maximum of rows in one pass.
    pub batch_rows: usize,
    /// Maximum of tokens in one pass, for networks that read tokens.
    pub batch_tokens: usize,
    /// Maximum of rows that wait or run.
    pub queued_rows: usize,
}

/// The bounded queue before the threads.
pub(crate) struct Queue {
    state: Mutex<State>,
    /// How often work was put in, for threads that look out for it.
    pushed: AtomicU64,
    /// Wakes the threads of each length up.
    wake: [Condvar; 3],
    /// A permit per row that may wait or run.
    capacity: Arc<Semaphore>,
    threads: usize,
    max_batch_rows: usize,
    max_batch_tokens: usize,
}

struct State {
    /// By length.
    waiting: [Waiting; 3],
    stopped: bool,
}

impl State {
    fn of(&mut self, length: Length) -> &mut Waiting {
        let [short, long, unawaited] = &mut self.waiting;
        match length {
            Length::Short => short,
            Length::Long => long,
            Length::Unawaited => unawaited,
        }
    }
}

#[derive(Default)]
struct Waiting(VecDeque<Work>);

impl Waiting {
    /// The pass with the fewest tokens, so that a long text doesn't hold short ones up; the oldest one if it has
    /// been overtaken for long enough. Passes without tokens are all short, and go in their order.
    fn take(&mut self) -> Option<Work> {
        let oldest = self.0.front()?;
        if oldest.tokens() == 0 || oldest.since.elapsed() >= MAX_OVERTAKEN {
            return self.0.pop_front();
        }
        let (at, _) = self
            .0
            .iter()
            .enumerate()
            .min_by_key(|(_, work)| work.tokens())?;
        self.0.remove(at)
    }
}

/// One forward pass to make.
pub(super) struct Work {
    network: Arc<dyn Network>,
    inputs: Arc<Inputs>,
    range: Range<usize>,
    /// When it came, for how long it has been overtaken.
    since: Instant,
    reply: Reply,
    permit: Option<OwnedSemaphorePermit>,
}

impl Work {
    fn tokens(&self) -> usize {
        self.inputs.tokens(&self.range)
    }

    /// Whether nobody waits for it any more.
    pub fn is_abandoned(&self) -> bool {
        self.reply.is_abandoned()
    }

    /// Makes the pass and answers.
    pub fn run(self) {
        let answer = pass(self.network.as_ref(), &self.inputs, self.range);
        // A caller that has its answer finds the capacity free.
        drop(self.permit);
        self.reply.send(answer);
    }
}

enum Reply {
    Awaited(oneshot::Sender<Answer>),
    Blocking(mpsc::SyncSender<Answer>),
}

impl Reply {
    fn is_abandoned(&self) -> bool {
        match self {
            Reply::Awaited(sender) => sender.is_closed(),
            Reply::Blocking(_) => false,
        }
    }

    /// A caller that has gone meanwhile doesn't want the answer.
    fn send(self, answer: Answer) {
        match self {
            Reply::Awaited(sender) => drop(sender.send(answer)),
            Reply::Blocking(sender) => drop(sender.send(answer)),
        }
    }
}

impl Queue {
    pub fn new(threads: usize, limits: Limits) -> Self {
        Self {
            state: Mutex::new(State {
                waiting: Default::default(),
                stopped: false,
            }),
            pushed: AtomicU64::new(0),
            wake: Default::default(),
            capacity: Arc::new(Semaphore::new(limits.queued_rows)),
            threads,
            max_batch_rows: limits.batch_rows,
            max_batch_tokens: limits.batch_tokens,
        }
    }

    /// How often work was put in.
    pub fn pushed(&self) -> u64 {
        self.pushed.load(Ordering::Relaxed)
    }

    /// Refuses what comes, and wakes the threads up to see it.
    pub fn stop(&self) {
        self.capacity.close();
        self.lock().stopped = true;
        self.wake.iter().for_each(Condvar::notify_all);
    }

    /// Drops what nobody is left to run.
    pub fn clear(&self) {
        self.lock().waiting = Default::default();
    }

    /// Scores rows, which are expected to take so many seconds if that is known, waiting for capacity first. Dropping the future
    /// abandons what has not begun.
    pub async fn score(
        &self,
        network: &Arc<dyn Network>,
        inputs: Inputs,
        expected_seconds: Option<f64>,
    ) -> Result<Scored, ModelError> {
        let truncated = inputs.truncated();
        let mut passes = self.passes(&inputs, network.smallest_share());
        let of_one = expected_seconds.map(|seconds| seconds / passes.len().max(1) as f64);
        let length = match of_one {
            Some(seconds) if seconds < LONG_PASS => Length::Short,
            _ => Length::Long,
        };
        // One of the passes runs here, if it is short, while the threads wake up for the others.
        let mine = passes.pop_if(|range| range.len() <= network.quick_rows());
        let inputs = Arc::new(inputs);
        let mut answers = Vec::with_capacity(passes.len());
        for range in passes {
            let permits = u32::try_from(range.len()).unwrap_or(u32::MAX);
            let permit = Arc::clone(&self.capacity)
                .acquire_many_owned(permits)
                .await
                .map_err(|_| ModelError::Stopped)?;
            let (sender, answer) = oneshot::channel();
            self.push(
                Work {
                    network: Arc::clone(network),
                    inputs: Arc::clone(&inputs),
                    range,
                    since: Instant::now(),
                    reply: Reply::Awaited(sender),
                    permit: Some(permit),
                },
                length,
            )?;
            answers.push(answer);
        }
        let mine = match mine {
            Some(_) if self.lock().stopped => return Err(ModelError::Stopped),
            Some(range) => Some(pass(network.as_ref(), &inputs, range)?),
            None => None,
        };
        let mut parts = Vec::with_capacity(answers.len() + 1);
        if mine.is_some() {
            // The threads have as much to do as this one had, and are through in a moment.
            spin_until(|| answers.iter().all(|answer| !answer.is_empty()));
        }
        for answer in answers {
            parts.push(answer.await.map_err(|_| ModelError::Stopped)??);
        }
        parts.extend(mine);
        Ok(joined(parts, truncated))
    }

    /// Scores rows in one pass on the thread whose work nobody waits for, beside the bound: the caller asks for one pass at a time. Dropping
    /// the future abandons what has not begun.
    pub async fn score_unawaited(
        &self,
        network: &Arc<dyn Network>,
        inputs: Inputs,
    ) -> Result<Scored, ModelError> {
        let (truncated, range) = (inputs.truncated(), 0..inputs.len());
        let (sender, answer) = oneshot::channel();
        self.push(
            Work {
                network: Arc::clone(network),
                inputs: Arc::new(inputs),
                range,
                since: Instant::now(),
                reply: Reply::Awaited(sender),
                permit: None,
            },
            Length::Unawaited,
        )?;
        let part = answer.await.map_err(|_| ModelError::Stopped)??;
        Ok(joined(vec![part], truncated))
    }

    /// The forward passes that rows are cut into: even shares for the threads, and no more rows or tokens in one than
    /// the settings allow. A text by itself is always a pass, however long.
    fn passes(&self, inputs: &Inputs, smallest_share: usize) -> Vec<Range<usize>> {
        let count = inputs.len();
        let share = count
            .div_ceil(self.threads)
            .max(smallest_share)
            .clamp(1, self.max_batch_rows);
        let mut passes = Vec::with_capacity(count.div_ceil(share));
        let Inputs::Tokens(tokens) = inputs else {
            for start in (0..count).step_by(share) {
                passes.push(start..count.min(start + share));
            }
            return passes;
        };
        let (mut start, mut budget) = (0, 0);
        for (row, length) in tokens.lengths(0..count).into_iter().enumerate() {
            if row > start && (row - start == share || budget + length > self.max_batch_tokens) {
                passes.push(start..row);
                (start, budget) = (row, 0);
            }
            budget += length;
        }
        if start < count {
            passes.push(start..count);
        }
        passes
    }

    /// Scores rows from a thread that may block, in one pass, past the bound: only one load runs at a time.
    pub fn score_blocking(
        &self,
        network: &Arc<dyn Network>,
        inputs: Inputs,
    ) -> Result<Vec<f32>, ModelError> {
        let (sender, answer) = mpsc::sync_channel(1);
        let range = 0..inputs.len();
        self.push(
            Work {
                network: Arc::clone(network),
                inputs: Arc::new(inputs),
                range,
                since: Instant::now(),
                reply: Reply::Blocking(sender),
                permit: None,
            },
            Length::Long,
        )?;
        let (outputs, _) = answer.recv().map_err(|_| ModelError::Stopped)??;
        Ok(outputs)
    }

    fn push(&self, work: Work, length: Length) -> Result<(), ModelError> {
        {
            let mut state = self.lock();
            if state.stopped {
                return Err(ModelError::Stopped);
            }
            state.of(length).0.push_back(work);
        }
        self.pushed.fetch_add(1, Ordering::Relaxed);
        self.wakes(length).notify_one();
        Ok(())
    }

    fn wakes(&self, length: Length) -> &Condvar {
        let [short, long, unawaited] = &self.wake;
        match length {
            Length::Short => short,
            Length::Long => long,
            Length::Unawaited => unawaited,
        }
    }

    /// The next work of a length, or none when the runner stops.
    pub(super) fn next(&self, length: Length) -> Option<Work> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            if let Some(work) = state.of(length).take() {
                return Some(work);
            }
            state = self
                .wakes(length)
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Nothing panics under this lock, so that a poisoned one would hold whole state all the same.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The passes' outputs in the rows' order.
fn joined(parts: Vec<(Vec<f32>, ModelCall)>, truncated: usize) -> Scored {
    let mut outputs = Vec::new();
    let mut calls = Vec::with_capacity(parts.len());
    for (part, call) in parts {
        if outputs.is_empty() {
            outputs = part;
        } else {
            outputs.extend(part);
        }
        calls.push(call);
    }
    Scored {
        outputs,
        calls,
        truncated,
    }
}

/// Spins until `found`, for [`SPIN_TIME`] at most.
pub(super) fn spin_until(mut found: impl FnMut() -> bool) {
    let began = Instant::now();
    while !found() && began.elapsed() < SPIN_TIME {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests;
