//! Owns jobs at their end: they are stored together with whatever else has ended, and then their owners are told.
//!
//! Promises that a job is called done or rejected only after its row is committed, that one which is done is never rejected later, that
//! no two jobs of one id are in one transaction, and that a lone job is stored at once. Refuses to bound what waits: that is done by what may be in hand.

use super::{
    context::Context,
    count,
    ending::{End, Ending, FinishedJob},
    input_counts::InputCounts,
    outcome::Outcome,
    rejections,
    shadow::ShadowInputs,
    store::{self, Kept, ToStore},
    verdict,
};
use crate::{
    clock,
    simulated::{Mutation, is_mutated},
    store::Inserted,
    telemetry::metrics::Stage,
};
use ahash::RandomState;
use kiln_contract::failure::Failure;
use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Batches of look-ups whose jobs may be stored together.
const BATCHES: usize = 4;
/// Bytes of results and rows that are stored together; a job of more is stored by itself.
const MAX_BYTES: usize = 4 << 20;

/// Jobs that have ended.
pub(super) struct Completions {
    context: Arc<Context>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Ending>,
    running: usize,
    has_timer: bool,
}

impl Queue {
    /// Takes a batch out, in order. A job whose id is in it already waits for the next one, and so does one that must soon go back to
    /// its queue behind one that needn't: they don't share its time.
    fn take(&mut self, max_jobs: usize, is_old: impl Fn(&Ending) -> bool) -> Vec<Ending> {
        let are_old = self.waiting.front().is_some_and(&is_old);
        let mut ids: HashSet<Arc<str>, RandomState> = HashSet::default();
        let (mut batch, mut later, mut bytes) = (Vec::new(), Vec::new(), 0);
        while batch.len() < max_jobs {
            let Some(next) = self.waiting.front() else {
                break;
            };
            let size = next.bytes();
            if !batch.is_empty() && bytes + size > MAX_BYTES || is_old(next) != are_old {
                break;
            }
            let Some(next) = self.waiting.pop_front() else {
                break;
            };
            let is_new = match &next.end {
                End::Finished(job) => ids.insert(job.job_id.clone()),
                End::Failed { .. } => true,
            };
            if is_new {
                bytes += size;
                batch.push(next);
            } else {
                later.push(next);
            }
        }
        for ending in later.into_iter().rev() {
            self.waiting.push_front(ending);
        }
        batch
    }
}

/// A batch under way; another one may go on in its place when it is dropped, however it ended.
struct Running(Arc<Completions>);

impl Drop for Running {
    fn drop(&mut self) {
        let due = {
            let mut queue = self.0.queue();
            queue.running = queue.running.saturating_sub(1);
            self.0.due(&mut queue)
        };
        self.0.begin(due);
    }
}

/// What is to begin, once the queue is free again: where the runtime has ended, it is dropped at once, and looks at the queue then.
enum Due {
    Batch(Vec<Ending>),
    Timer,
}

impl Completions {
    /// Nothing has ended yet.
    pub fn new(context: Arc<Context>) -> Arc<Self> {
        Arc::new(Self {
            context,
            queue: Mutex::default(),
        })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // The queue is sound after a panic elsewhere: none of its changes runs outside code.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes jobs that have ended.
    pub fn submit(self: &Arc<Self>, endings: impl IntoIterator<Item = Ending>) {
        let due = {
            let mut queue = self.queue();
            queue.waiting.extend(endings);
            self.due(&mut queue)
        };
        self.begin(due);
    }

    /// Forgets what waits: its jobs go back to their owners.
    pub fn clear(&self) {
        let waiting = std::mem::take(&mut self.queue().waiting);
        drop(waiting);
    }

    /// As many batches as there should be.
    fn due(&self, queue: &mut Queue) -> Vec<Due> {
        let settings = &self.context.settings;
        let (jobs, max_running) = (settings.batch_jobs, settings.batches_in_flight);
        let mut due = Vec::new();
        while !queue.waiting.is_empty()
            && (queue.running == 0 || (queue.running < max_running && queue.waiting.len() >= jobs))
        {
            due.push(self.take_one(queue));
        }
        if !queue.waiting.is_empty() && queue.running < max_running && !queue.has_timer {
            queue.has_timer = true;
            due.push(Due::Timer);
        }
        due
    }

    fn take_one(&self, queue: &mut Queue) -> Due {
        let jobs = self.context.settings.batch_jobs;
        let half = self.context.settings.max_hold / 2;
        let is_old = |ending: &Ending| clock::since(ending.source.received) > half;
        let batch = queue.take(jobs * BATCHES, is_old);
        queue.running += 1;
        Due::Batch(batch)
    }

    fn begin(self: &Arc<Self>, due: Vec<Due>) {
        for due in due {
            match due {
                Due::Timer => self.look_later(),
                Due::Batch(batch) => self.begin_one(batch),
            }
        }
    }

    fn begin_one(self: &Arc<Self>, batch: Vec<Ending>) {
        let running = Running(self.clone());
        let left = self.time_left(&batch);
        self.context.tasks.spawn(async move {
            // What a database that is away for so long would hold goes back to its owners: the broker has a limit of its own.
            if tokio::time::timeout(left, running.0.run(batch))
                .await
                .is_err()
            {
                tracing::warn!("jobs were in hand for too long; they go back to their queue");
            }
            drop(running);
        });
    }

    /// Begins a batch with what waits after the longest time that it may wait for company: the one under way may be slow.
    fn look_later(self: &Arc<Self>) {
        let completions = self.clone();
        self.context.tasks.spawn(async move {
            tokio::time::sleep(completions.context.settings.batch_wait).await;
            let due = {
                let mut queue = completions.queue();
                queue.has_timer = false;
                let max = completions.context.settings.batches_in_flight;
                let may_begin = !queue.waiting.is_empty() && queue.running < max;
                let mut due: Vec<Due> = may_begin
                    .then(|| completions.take_one(&mut queue))
                    .into_iter()
                    .collect();
                due.extend(completions.due(&mut queue));
                due
            };
            completions.begin(due);
        });
    }

    /// How long the oldest of these jobs may still be in hand.
    fn time_left(&self, endings: &[Ending]) -> Duration {
        let held = endings
            .iter()
            .map(|ending| clock::since(ending.source.received));
        let max = self.context.settings.max_hold;
        max.saturating_sub(held.max().unwrap_or_default())
    }

    async fn run(&self, mut endings: Vec<Ending>) {
        let context = &*self.context;
        let begun = clock::instant();
        // One moment for all: it is sent once, and every reply says what its row says.
        let now = clock::now();
        for ending in &mut endings {
            if let End::Finished(job) = &mut ending.end
                && let Some(result) = Arc::get_mut(&mut job.result)
            {
                result.finished_at = now;
            }
        }
        let finished = endings.iter().filter_map(|ending| match &ending.end {
            End::Finished(job) => Some(ToStore {
                job,
                refreshes_ttl: ending.source.refreshes_ttl(),
                model_nanos: ending.counts.model_nanos,
                posters: ending.posters().collect(),
                callback: ending.source.callback(),
            }),
            End::Failed { .. } => None,
        });
        let finished: Vec<ToStore<'_>> = finished.collect();
        let mut kept = store::jobs(context, &finished).await.into_iter();
        let mut outcomes = Vec::with_capacity(endings.len());
        for ending in &endings {
            outcomes.push(match &ending.end {
                End::Finished(job) => {
                    let kept = kept.next();
                    let kept = kept.unwrap_or_else(|| Kept::Refused("no row came back".into()));
                    outcome(context, ending, job, kept)
                }
                End::Failed { outcome, .. } => outcome.clone(),
            });
        }
        let mut ended: Vec<_> = endings.into_iter().zip(outcomes).collect();
        let rejected: Vec<_> = ended.extract_if(.., is_rejected).collect();
        context.metrics.stage(Stage::Store, clock::since(begun));
        self.notify(ended);
        // Nobody waits for the rows of others' rejections.
        let mut rejected = rejected.into_iter();
        loop {
            let mut together: Vec<_> = rejected.by_ref().take(rejections::TOGETHER).collect();
            if together.is_empty() {
                return;
            }
            rejections::batch(context, &mut together).await;
            self.notify(together);
        }
    }

    fn notify(&self, ended: Vec<(Ending, Outcome)>) {
        count::batch(&self.context, &ended);
        for (mut ending, outcome) in ended {
            let shadow = shadow(&mut ending, &outcome);
            notify(ending, outcome);
            if let Some(inputs) = shadow {
                inputs.hand_over();
            }
        }
    }
}

fn is_rejected(ended: &mut (Ending, Outcome)) -> bool {
    matches!(ended.1, Outcome::Rejected { .. })
}

/// What became of a finished job.
fn outcome(context: &Context, ending: &Ending, job: &FinishedJob, kept: Kept) -> Outcome {
    let fail = |failure: Failure| verdict::outcome(context, failure, &ending.source, &job.job_id);
    match kept {
        Kept::Row(Inserted::Same(_)) if is_mutated(Mutation::AnswersAnew) => Outcome::Done {
            job_id: job.job_id.clone(),
            result: job.result.clone(),
            repeated: true,
        },
        Kept::Row(Inserted::New) => Outcome::Done {
            job_id: job.job_id.clone(),
            result: job.result.clone(),
            repeated: false,
        },
        Kept::Row(Inserted::Same(first)) => Outcome::Done {
            job_id: job.job_id.clone(),
            result: Arc::from(first),
            repeated: true,
        },
        Kept::Row(Inserted::Conflict) => fail(verdict::conflict().into()),
        Kept::Refused(reason) => fail(Failure::Unstorable(reason)),
        // Who deletes something must not hear that it is gone while readers find it, however often that was tried.
        Kept::Unremoved => Outcome::Retry {
            job_id: Some(job.job_id.to_string()),
            reason: "redis doesn't take the removal of a key; ask again".to_owned(),
        },
    }
}

/// What another version is to score of a job that has ended well, and for the first time.
fn shadow(ending: &mut Ending, outcome: &Outcome) -> Option<ShadowInputs> {
    let End::Finished(job) = &mut ending.end else {
        return None;
    };
    let is_new = matches!(
        outcome,
        Outcome::Done {
            repeated: false,
            ..
        }
    );
    job.shadow.take().filter(|_| is_new)
}

/// Tells a job's owners how it ended.
fn notify(ending: Ending, outcome: Outcome) {
    let Ending {
        source,
        repeats,
        begun,
        mut counts,
        ..
    } = ending;
    counts.stages.stored = clock::since(begun);
    let none = InputCounts {
        stages: counts.stages,
        ..InputCounts::default()
    };
    for repeat in repeats {
        repeat.end(outcome.repeated(), none, begun);
    }
    source.end(outcome, counts, begun);
}
