//! The model threads: one set for all models, a bounded queue before them.
//!
//! Promises that rows come back in order, that a panic or a number that is not finite costs its request and nothing
//! else, that work whose caller has gone is skipped, and that dropping the runner joins its threads. Each thread
//! keeps its arithmetic to itself: the threads are the only parallelism.

use std::any::Any;
use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::network::{Batch, Network};
use super::{ModelCall, ModelError, Rows, Scored};

/// How long a pass may be overtaken by shorter ones.
const MOST_OVERTAKEN: Duration = Duration::from_millis(100);
/// How long a thread that has just worked looks for more before it sleeps: waking one up takes as long.
const LOOK_OUT: Duration = Duration::from_micros(30);

/// What bounds the queue and its passes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The most rows of one pass.
    pub batch_rows: usize,
    /// The most tokens of one pass, for networks that read tokens.
    pub batch_tokens: usize,
    /// The most rows that wait or run.
    pub queued_rows: usize,
}

/// The threads. Dropping it lets each finish the pass it is in, then joins it.
pub(crate) struct Runner {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

impl Runner {
    pub fn start(threads: usize, limits: Limits) -> std::io::Result<Self> {
        let queue = Arc::new(Queue {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                stopped: false,
            }),
            pushed: AtomicU64::new(0),
            wake: Condvar::new(),
            room: Arc::new(Semaphore::new(limits.queued_rows)),
            threads,
            max_batch_rows: limits.batch_rows,
            max_batch_tokens: limits.batch_tokens,
        });
        let mut runner = Self {
            queue,
            threads: Vec::with_capacity(threads),
        };
        for i in 0..threads {
            let queue = Arc::clone(&runner.queue);
            let thread = thread::Builder::new()
                .name(format!("kiln-model-{i}"))
                .spawn(move || serve(&queue))?;
            runner.threads.push(thread);
        }
        Ok(runner)
    }

    /// Where models put their work.
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.queue.room.close();
        self.queue.lock().stopped = true;
        self.queue.wake.notify_all();
        for thread in self.threads.drain(..) {
            // A model thread catches what it runs; nothing is left to report here.
            let _ = thread.join();
        }
        self.queue.lock().waiting.clear();
    }
}

/// The bounded queue before the threads.
pub(crate) struct Queue {
    state: Mutex<State>,
    /// How often work was put in, for threads that look out for it.
    pushed: AtomicU64,
    wake: Condvar,
    /// A permit per row that may wait or run.
    room: Arc<Semaphore>,
    threads: usize,
    max_batch_rows: usize,
    max_batch_tokens: usize,
}

struct State {
    waiting: VecDeque<Work>,
    stopped: bool,
}

impl State {
    /// The pass with the fewest tokens, so that a long text doesn't hold short ones up; the oldest one where it has
    /// been overtaken for long enough. Passes without tokens are all short, and go in their order.
    fn take(&mut self) -> Option<Work> {
        let oldest = self.waiting.front()?;
        if oldest.tokens() == 0 || oldest.since.elapsed() >= MOST_OVERTAKEN {
            return self.waiting.pop_front();
        }
        let (at, _) = self
            .waiting
            .iter()
            .enumerate()
            .min_by_key(|(_, work)| work.tokens())?;
        self.waiting.remove(at)
    }
}

/// One forward pass to make.
struct Work {
    network: Arc<dyn Network>,
    rows: Arc<Rows>,
    range: Range<usize>,
    /// When it came, for how long it has been overtaken.
    since: Instant,
    reply: Reply,
    room: Option<OwnedSemaphorePermit>,
}

impl Work {
    fn tokens(&self) -> usize {
        tokens_of(&self.rows, &self.range)
    }
}

type Answer = Result<(Vec<f32>, ModelCall), ModelError>;

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
    /// Scores rows, waiting for room first. Dropping the future abandons what has not begun.
    pub async fn score(
        &self,
        network: &Arc<dyn Network>,
        rows: Rows,
    ) -> Result<Scored, ModelError> {
        let truncated = match &rows {
            Rows::Tokens(tokens) => tokens.truncated,
            Rows::Features { .. } | Rows::Texts(_) => 0,
        };
        let mut passes = self.passes(&rows, network.smallest_share());
        // One of the passes runs here, where it is short, while the threads wake up for the others.
        let mine = passes.pop_if(|range| range.len() <= network.quick_rows());
        let rows = Arc::new(rows);
        let mut answers = Vec::with_capacity(passes.len());
        for range in passes {
            let permits = u32::try_from(range.len()).unwrap_or(u32::MAX);
            let room = Arc::clone(&self.room)
                .acquire_many_owned(permits)
                .await
                .map_err(|_| ModelError::Stopped)?;
            let (sender, answer) = oneshot::channel();
            self.push(Work {
                network: Arc::clone(network),
                rows: Arc::clone(&rows),
                range,
                since: Instant::now(),
                reply: Reply::Awaited(sender),
                room: Some(room),
            })?;
            answers.push(answer);
        }
        let mine = match mine {
            Some(_) if self.lock().stopped => return Err(ModelError::Stopped),
            Some(range) => Some(pass(network.as_ref(), &rows, range)?),
            None => None,
        };
        let mut parts = Vec::with_capacity(answers.len() + 1);
        if mine.is_some() {
            // The threads have as much to do as this one had, and are through in a moment.
            look_out(|| answers.iter().all(|answer| !answer.is_empty()));
        }
        for answer in answers {
            parts.push(answer.await.map_err(|_| ModelError::Stopped)??);
        }
        parts.extend(mine);
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
        Ok(Scored {
            outputs,
            calls,
            truncated,
        })
    }

    /// The forward passes that rows are cut into: even shares for the threads, and no more rows or tokens in one than
    /// the settings allow. A text by itself is always a pass, however long.
    fn passes(&self, rows: &Rows, smallest_share: usize) -> Vec<Range<usize>> {
        let count = rows.len();
        let share = count
            .div_ceil(self.threads)
            .max(smallest_share)
            .clamp(1, self.max_batch_rows);
        let mut passes = Vec::with_capacity(count.div_ceil(share));
        let Rows::Tokens(tokens) = rows else {
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
        rows: Rows,
    ) -> Result<Vec<f32>, ModelError> {
        let (sender, answer) = mpsc::sync_channel(1);
        let range = 0..rows.len();
        self.push(Work {
            network: Arc::clone(network),
            rows: Arc::new(rows),
            range,
            since: Instant::now(),
            reply: Reply::Blocking(sender),
            room: None,
        })?;
        let (outputs, _) = answer.recv().map_err(|_| ModelError::Stopped)??;
        Ok(outputs)
    }

    fn push(&self, work: Work) -> Result<(), ModelError> {
        {
            let mut state = self.lock();
            if state.stopped {
                return Err(ModelError::Stopped);
            }
            state.waiting.push_back(work);
        }
        self.pushed.fetch_add(1, Ordering::Relaxed);
        self.wake.notify_one();
        Ok(())
    }

    /// The next work, or none when the runner stops.
    fn next(&self) -> Option<Work> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            if let Some(work) = state.take() {
                return Some(work);
            }
            state = self
                .wake
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Nothing panics under this lock, so that a poisoned one would hold whole state all the same.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A model thread's life.
fn serve(queue: &Queue) {
    let _alone = compute_alone();
    while let Some(work) = queue.next() {
        let pushed = queue.pushed.load(Ordering::Relaxed);
        if work.reply.is_abandoned() {
            continue;
        }
        let answer = run(&work);
        let Work { reply, room, .. } = work;
        // Whoever has the answer finds the room free.
        drop(room);
        reply.send(answer);
        look_out(|| queue.pushed.load(Ordering::Relaxed) != pushed);
    }
}

/// Spins until there is something, or for [`LOOK_OUT`].
fn look_out(mut found: impl FnMut() -> bool) {
    let began = Instant::now();
    while !found() && began.elapsed() < LOOK_OUT {
        std::hint::spin_loop();
    }
}

/// Makes this thread a pool of one for the kernels that would otherwise spread over rayon's global pool: with every
/// model thread busy that only adds hand-overs. Without it results are the same, so that a refusal is no error.
fn compute_alone() -> Option<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .use_current_thread()
        .build()
        .ok()
}

fn run(work: &Work) -> Answer {
    pass(work.network.as_ref(), &work.rows, work.range.clone())
}

/// One forward pass over the rows of that range.
fn pass(network: &dyn Network, rows: &Rows, range: Range<usize>) -> Answer {
    let count = range.len();
    let began = Instant::now();
    let outputs = catch_unwind(AssertUnwindSafe(|| forward(network, rows, range.clone())))
        .map_err(|panic| ModelError::Panicked {
            message: panic_message(panic.as_ref()),
        })?;
    let seconds = began.elapsed().as_secs_f64();
    let width = (outputs.len() / count.max(1)).max(1);
    if let Some(at) = outputs.iter().position(|x| !x.is_finite()) {
        return Err(ModelError::NotFinite {
            row: range.start + at / width,
        });
    }
    let call = ModelCall {
        rows: count,
        tokens: tokens_of(rows, &range),
        seconds,
    };
    Ok((outputs, call))
}

fn forward(network: &dyn Network, rows: &Rows, range: Range<usize>) -> Vec<f32> {
    match rows {
        Rows::Features { width, data } => {
            let numbers = range.start * width..range.end * width;
            network.forward(Batch::Features(&data[numbers]))
        }
        Rows::Texts(texts) => network.forward(Batch::Texts(&texts[range])),
        Rows::Tokens(tokens) => {
            let span = tokens.span(&range);
            network.forward(Batch::Tokens {
                ids: &tokens.ids[span.clone()],
                types: &tokens.types[span],
                lengths: &tokens.lengths(range),
            })
        }
    }
}

/// Tokens of the rows of that range; 0 where rows aren't tokens.
fn tokens_of(rows: &Rows, range: &Range<usize>) -> usize {
    match rows {
        Rows::Tokens(tokens) => tokens.span(range).len(),
        Rows::Features { .. } | Rows::Texts(_) => 0,
    }
}

pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests;
