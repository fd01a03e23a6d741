//! Owns the way in: jobs of every caller are looked up together.
//!
//! Promises that a lone job goes at once; that jobs which come while others are looked up go together; and that whatever becomes of a
//! batch, another goes on in its place. Refuses to bound what waits: that is done by what may be in hand.

use super::{
    admit::{self, Admission},
    coalesce,
    completion::Completions,
    context::Context,
    ending::{End, Ending},
    index::{IndexVec, SourceIndex, bug},
    input_counts::InputCounts,
    lane::Lanes,
    look_up, note_heat,
    owned::OwnedJob,
    parting::{Onward, Parting},
    render::LabelCounts,
    retention::Retention,
    source::JobSource,
    split, worth,
};
use crate::clock;
use crate::telemetry::{
    metrics::{CloseReason, Stage},
    trace::Stages,
};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Bytes of a body that count as one token.
const BYTES_PER_TOKEN: usize = 4;

/// Where jobs come in.
pub(super) struct Front {
    context: Arc<Context>,
    lanes: Arc<Lanes>,
    completions: Arc<Completions>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<JobSource>,
    tokens: usize,
    running: usize,
    has_timer: bool,
}

impl Queue {
    /// Takes a batch out, and says why it holds no more.
    fn take(&mut self, max_jobs: usize, max_tokens: usize) -> (Vec<JobSource>, CloseReason) {
        let mut batch = Vec::new();
        let mut tokens = 0;
        let mut reason = CloseReason::Wait;
        while let Some(next) = self.waiting.front() {
            let more = next.body().len() / BYTES_PER_TOKEN;
            if batch.len() >= max_jobs {
                reason = CloseReason::Size;
                break;
            }
            if !batch.is_empty() && tokens + more > max_tokens {
                reason = CloseReason::Tokens;
                break;
            }
            tokens += more;
            batch.extend(self.waiting.pop_front());
        }
        if batch.len() >= max_jobs {
            reason = CloseReason::Size;
        }
        self.tokens = self.tokens.saturating_sub(tokens);
        (batch, reason)
    }
}

/// A batch under way; another one goes on in its place when it is dropped, however it ended.
struct Running(Arc<Front>);

impl Drop for Running {
    fn drop(&mut self) {
        let due = {
            let mut queue = self.0.queue();
            queue.running = queue.running.saturating_sub(1);
            // What came meanwhile has waited for long enough.
            let is_idle = queue.waiting.is_empty();
            (!is_idle).then(|| self.0.take_one(&mut queue))
        };
        self.0.begin(due);
    }
}

/// What is to begin, once the queue is free again: where the runtime has ended, it is dropped at once, and looks at the queue then.
enum Due {
    Batch(Vec<JobSource>),
    Timer,
}

impl Front {
    /// Nothing has come yet.
    pub fn new(
        context: Arc<Context>,
        lanes: Arc<Lanes>,
        completions: Arc<Completions>,
    ) -> Arc<Self> {
        Arc::new(Self {
            context,
            lanes,
            completions,
            queue: Mutex::default(),
        })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // The queue is sound after a panic elsewhere: none of its changes runs outside code.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes jobs in.
    pub fn submit(self: &Arc<Self>, sources: impl IntoIterator<Item = JobSource>) {
        let due = {
            let mut queue = self.queue();
            for source in sources {
                queue.tokens += source.body().len() / BYTES_PER_TOKEN;
                queue.waiting.push_back(source);
            }
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
        let mut due = Vec::new();
        while !queue.waiting.is_empty() {
            let is_full = queue.waiting.len() >= settings.batch_jobs
                || queue.tokens >= settings.max_batch_body_tokens;
            if queue.running == 0 || (is_full && queue.running < settings.batches_in_flight) {
                due.push(self.take_one(queue));
                continue;
            }
            if !is_full && !queue.has_timer && queue.running < settings.batches_in_flight {
                queue.has_timer = true;
                due.push(Due::Timer);
            }
            break;
        }
        due
    }

    fn take_one(&self, queue: &mut Queue) -> Due {
        let settings = &self.context.settings;
        let (batch, reason) = queue.take(settings.batch_jobs, settings.max_batch_body_tokens);
        queue.running += 1;
        self.context.metrics.batch(reason, batch.len());
        Due::Batch(batch)
    }

    fn begin(self: &Arc<Self>, due: impl IntoIterator<Item = Due>) {
        for due in due {
            match due {
                Due::Timer => self.look_later(),
                Due::Batch(batch) => {
                    let running = Running(self.clone());
                    self.context.tasks.spawn(async move {
                        running.0.run(IndexVec::from_vec(batch)).await;
                        drop(running);
                    });
                }
            }
        }
    }

    /// Sends what waits on its way after the longest time that it may wait for company.
    fn look_later(self: &Arc<Self>) {
        let front = self.clone();
        self.context.tasks.spawn(async move {
            tokio::time::sleep(front.context.settings.batch_wait).await;
            let due = {
                let mut queue = front.queue();
                queue.has_timer = false;
                let max = front.context.settings.batches_in_flight;
                let may_begin = !queue.waiting.is_empty() && queue.running < max;
                let mut due: Vec<Due> = may_begin
                    .then(|| front.take_one(&mut queue))
                    .into_iter()
                    .collect();
                due.extend(front.due(&mut queue));
                due
            };
            front.begin(due);
        });
    }

    /// Carries one batch to where its jobs part.
    async fn run(self: &Arc<Self>, sources: IndexVec<SourceIndex, JobSource>) {
        let context = &*self.context;
        let begun = clock::instant();
        let admission = admit::batch(context, &self.lanes, &sources);
        let mut labels = LabelCounts::default();
        let (nexts, looked_up) = {
            let keeps = Retention::always(context.settings.store.scores);
            let mut plan = coalesce::plan(&admission.admitted, keeps);
            worth::judge(context, &mut plan);
            note_heat::batch(context, &plan);
            context.metrics.stage(Stage::Parse, clock::since(begun));
            look_up::slots(context, &mut plan).await;
            let looked_up = clock::since(begun);
            (split::jobs(context, &plan, &mut labels), looked_up)
        };
        labels.count(&context.metrics);
        let Admission {
            admitted,
            refused,
            repeats,
            large,
        } = admission;
        let mut parting = Parting::new(admitted, nexts, begun, looked_up);
        for (index, outcome) in refused {
            parting.set(index, Onward::Refused(outcome));
        }
        for (index, bytes) in large {
            parting.set(index, Onward::Large(bytes));
        }
        self.part(parting, repeats, sources);
    }

    /// Sends every job where it goes on.
    fn part(
        self: &Arc<Self>,
        parting: Parting,
        repeats: Vec<(SourceIndex, SourceIndex)>,
        sources: IndexVec<SourceIndex, JobSource>,
    ) {
        let mut sources = sources.map_into(Some);
        let mut take = |index: SourceIndex| sources.get_mut(index).and_then(Option::take);
        let mut again: std::collections::BTreeMap<SourceIndex, Vec<JobSource>> =
            std::collections::BTreeMap::new();
        for (index, first) in repeats {
            again.entry(first).or_default().extend(take(index));
        }
        let Parting {
            ways,
            begun,
            looked_up,
        } = parting;
        let (mut endings, mut waiting) = (Vec::new(), Vec::new());
        for (index, way) in ways {
            let repeats = again.remove(&index).unwrap_or_default();
            let Some(source) = take(index) else {
                bug("a job of a batch goes two ways");
                continue;
            };
            match way {
                Onward::Ends(end, mut counts) => {
                    counts.stages = Stages {
                        looked_up,
                        scored: looked_up,
                        stored: looked_up,
                    };
                    endings.push(Ending {
                        source,
                        repeats,
                        end,
                        counts,
                        begun,
                    });
                }
                Onward::Refused(outcome) => endings.push(Ending {
                    source,
                    repeats,
                    end: End::Failed {
                        outcome,
                        model: None,
                        namespace: None,
                    },
                    counts: InputCounts::default(),
                    begun,
                }),
                Onward::Waits(rows) => waiting.push(OwnedJob {
                    source,
                    repeats,
                    rows,
                    begun,
                    looked_up,
                }),
                Onward::Large(bytes) => self.make_room(source, bytes),
            }
        }
        if !endings.is_empty() {
            self.completions.submit(endings);
        }
        self.enter(waiting);
    }

    /// Sends jobs to their lanes. What needs no scores is finished: its entries are written again.
    fn enter(self: &Arc<Self>, waiting: Vec<OwnedJob>) {
        let is_open = |job: &OwnedJob| job.rows.open().next().is_some();
        let (open, complete): (Vec<_>, Vec<_>) = waiting.into_iter().partition(is_open);
        if !complete.is_empty() {
            let mut labels = LabelCounts::default();
            let finished = complete
                .into_iter()
                .map(|job| super::finish::owned(&self.context, job, &mut labels));
            let finished: Vec<Ending> = finished.collect();
            labels.count(&self.context.metrics);
            self.completions.submit(finished);
        }
        let is_large = |job: &OwnedJob| {
            let reserved = job.source.reserved.as_ref();
            reserved.is_some_and(|reserved| reserved.is_for_look_up)
        };
        let (large, open): (Vec<_>, Vec<_>) = open.into_iter().partition(is_large);
        for job in large {
            self.make_room_in_lane(job);
        }
        if !open.is_empty() {
            self.lanes.enter(open);
        }
    }

    /// Lets a job with large outputs, some of which are to be scored, wait for room in its lane, and be looked up again then.
    fn make_room_in_lane(self: &Arc<Self>, job: OwnedJob) {
        let front = self.clone();
        self.context.tasks.spawn(async move {
            match front.lanes.reserve(job).await {
                Ok(source) => front.run(IndexVec::from_vec(vec![source])).await,
                Err(Some(ending)) => front.completions.submit([ending]),
                Err(None) => {}
            }
        });
    }

    /// Lets a job with large outputs wait for room to look them up, and go on by itself.
    fn make_room(self: &Arc<Self>, mut source: JobSource, bytes: usize) {
        let front = self.clone();
        self.context.tasks.spawn(async move {
            source.reserved = Some(front.context.budget.reserve(bytes).await);
            front.run(IndexVec::from_vec(vec![source])).await;
        });
    }
}
