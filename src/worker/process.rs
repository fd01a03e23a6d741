//! Owns a queue's job on its way through the worker: handed to the engine, and settled at its end, with its trace.
//!
//! Promises that a job whose end isn't heard of goes back to its queue, and that jobs which end together are settled together.

use super::{
    cancelled::CancelledRuns,
    in_hand::{InHand, JobsInHand, Together},
    settle::Settler,
    warm_throttle::WarmBatch,
};
use crate::{
    amqp::{delivery::Delivery, topology::Origin},
    clock,
    config::Settings,
    pipeline::{Ended, Engine, InputCounts, JobOwner, JobSource, LaneQueue, Outcome, Urgency},
    store::PostgresStore,
    telemetry::{
        metrics::Metrics,
        trace::{Kind, Trace, Tracer, Value},
    },
};
use kiln_contract::failure::Rejection;
use std::{
    ops::Deref,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

/// Lowest priority of a message that goes before others of its namespace.
const FIRST_PRIORITY: u8 = 5;

/// What a session works with; outlives it. A clone is the same one.
#[derive(Clone)]
pub struct JobProcessor(Arc<Tools>);

impl Deref for JobProcessor {
    type Target = Tools;

    fn deref(&self) -> &Tools {
        &self.0
    }
}

/// The tools of a worker.
pub struct Tools {
    pub engine: Arc<Engine>,
    pub settler: Settler,
    pub store: PostgresStore,
    pub metrics: Metrics,
    pub settings: Arc<Settings>,
    pub tracer: Tracer,
    pub(super) cancelled: CancelledRuns,
    in_hand: JobsInHand,
    ended: Together<EndedJob>,
    /// What is being settled.
    settling: TaskTracker,
}

impl JobProcessor {
    /// The tools of a worker.
    pub fn new(
        engine: Arc<Engine>,
        settler: Settler,
        store: PostgresStore,
        metrics: Metrics,
        settings: Arc<Settings>,
        tracer: Tracer,
        cancelled: CancelledRuns,
    ) -> Self {
        Self(Arc::new(Tools {
            engine,
            settler,
            store,
            in_hand: JobsInHand::new(metrics.clone()),
            metrics,
            settings,
            tracer,
            cancelled,
            ended: Together::default(),
            settling: TaskTracker::new(),
        }))
    }

    /// Counts a job in hand.
    pub(super) fn in_hand(&self) -> InHand {
        self.in_hand.add()
    }

    /// Waits until no job is in hand.
    pub(super) async fn idle(&self) {
        self.in_hand.idle().await;
    }

    /// A delivery as a job for the engine. `warming` is the batch of warming that it belongs to.
    pub(super) fn source(
        &self,
        delivery: Delivery,
        warming: Option<Arc<WarmBatch>>,
        given_up: Option<Rejection>,
        settled: Option<oneshot::Sender<()>>,
    ) -> JobSource {
        let urgency = match (delivery.origin, delivery.priority()) {
            (Origin::Warm, _) => Urgency::Warming,
            (_, priority) if priority >= FIRST_PRIORITY => Urgency::First,
            _ => Urgency::Normal,
        };
        let may_move = self.may_move(&delivery);
        let is_warming = urgency == Urgency::Warming;
        let held = self.engine.hold(delivery.body.len());
        let (received, tries) = (delivery.received, self.settler.tries(&delivery));
        let expires = delivery.expires();
        let accepted = delivery.accepted_before();
        let posted_by = delivery.posted_by();
        let given_up = given_up
            .or_else(|| delivery.verdict())
            .or_else(|| self.cancelled.verdict(&delivery));
        let job = QueuedJob {
            in_hand: self.in_hand(),
            processor: self.clone(),
            delivery,
            settled,
            _warming: warming,
        };
        JobSource::new(job)
            .received_at(received)
            .accepted_by(accepted)
            .with_tries(tries)
            .with_urgency(urgency)
            .movable(may_move)
            .postponable(is_warming)
            .expires_at(expires)
            .given_up(given_up)
            .posted_by(posted_by)
            .holding(held)
    }

    /// Whether a job may be moved to its lane's queue.
    pub(super) fn may_move(&self, delivery: &Delivery) -> bool {
        delivery.origin == Origin::Jobs && delivery.moves() < self.settings.lane.max_moves
    }

    /// Runs a job to its settlement; `given_up` is why it is rejected unseen.
    pub(super) async fn work(&self, delivery: Delivery, given_up: Option<Rejection>) {
        let (settled, end) = oneshot::channel();
        let job = self.source(delivery, None, given_up, Some(settled));
        self.engine.submit([job]);
        // Nothing is ever sent: it is dropped with the job.
        let _dropped = end.await;
    }

    /// Does what ends a job, beside the caller: it may wait for servers.
    pub(super) fn beside(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.settling.spawn(work);
    }

    /// Settles a job that another process ran, and that the caller counts as in hand.
    pub(super) async fn conclude(
        &self,
        mut delivery: Delivery,
        outcome: Outcome,
        (begun, counts): (Instant, InputCounts),
    ) {
        if let Outcome::Rejected { job_id, .. } | Outcome::Retry { job_id, .. } = &outcome
            && let Some(job_id) = job_id
        {
            delivery.accepted = self.engine.first_accepted(job_id).await;
        }
        let ended = Ended {
            outcome,
            counts,
            begun,
            accepted: None,
            held: None,
        };
        self.settle(vec![EndedJob {
            delivery,
            in_hand: None,
            ended,
            settled: None,
        }])
        .await;
    }

    /// Sends a delivery to a lane's queue, unseen.
    pub(super) fn move_to(&self, delivery: Delivery, queue: LaneQueue) {
        self.settle_later(EndedJob {
            in_hand: Some(self.in_hand()),
            ended: Ended {
                outcome: Outcome::Moved(queue),
                counts: InputCounts::default(),
                begun: delivery.received,
                accepted: None,
                held: None,
            },
            delivery,
            settled: None,
        });
    }

    /// Settles jobs that have ended: those that end together, together.
    fn settle_later(&self, job: EndedJob) {
        if let Some(turn) = self.ended.add(job) {
            let processor = self.clone();
            self.settling.spawn(async move {
                let ended = turn.take();
                processor.settle(ended).await;
            });
        }
    }

    async fn settle(&self, ended: Vec<EndedJob>) {
        let traces = self.traces(&ended);
        let stored = clock::instant();
        let jobs = ended.into_iter().map(|job| {
            let holds = (job.in_hand, job.ended.held, job.settled);
            (job.delivery, job.ended.outcome, holds)
        });
        let settled = self.settler.settle(jobs.collect());
        let max = Duration::from_secs(self.settings.intake.max_hold_seconds);
        if tokio::time::timeout(max, settled).await.is_err() {
            tracing::warn!(
                "the broker took no messages for too long; their jobs go back to their queue"
            );
        }
        for mut trace in traces {
            trace.span("reply", stored, clock::instant(), Vec::new());
            self.tracer.end(trace);
        }
    }

    /// The traces of those jobs that are to have one, up to their rows.
    fn traces(&self, ended: &[EndedJob]) -> Vec<Trace> {
        if !self.tracer.is_on() {
            return Vec::new();
        }
        let trace = |job: &EndedJob| {
            let (delivery, ended) = (&job.delivery, &job.ended);
            let (header, received) = (delivery.traceparent(), delivery.received);
            let name = "process job";
            let begin = self
                .tracer
                .begin(name, Kind::Consumer, received, header.as_deref());
            let mut trace = begin?;
            let text = |text: &str| Value::Text(text.to_owned());
            trace.record("messaging.system", text("rabbitmq"));
            trace.record("messaging.operation.type", text("process"));
            trace.record("kiln.queue", text(delivery.origin.as_str()));
            if let Some(id) = delivery.correlation_id() {
                trace.record("messaging.message.conversation_id", text(id));
            }
            ended.outcome.record(&mut trace);
            trace.span("intake", received, ended.begun, Vec::new());
            if let Outcome::Done { result, .. } = &ended.outcome {
                let stages = &ended.counts.stages;
                trace.stages(ended.begun, stages, result.hits, result.misses);
            }
            Some(trace)
        };
        ended.iter().filter_map(trace).collect()
    }
}

/// A queue's job that the engine has.
struct QueuedJob {
    processor: JobProcessor,
    delivery: Delivery,
    in_hand: InHand,
    /// Dropped when the job is settled, or goes back to its queue.
    settled: Option<oneshot::Sender<()>>,
    _warming: Option<Arc<WarmBatch>>,
}

/// One that has ended, and is to be settled.
struct EndedJob {
    delivery: Delivery,
    in_hand: Option<InHand>,
    ended: Ended,
    settled: Option<oneshot::Sender<()>>,
}

impl JobOwner for QueuedJob {
    fn body(&self) -> &[u8] {
        &self.delivery.body
    }

    fn message_id(&self) -> Option<&str> {
        self.delivery.message_id()
    }

    fn ended(self: Box<Self>, ended: Ended) {
        let Self {
            processor,
            mut delivery,
            in_hand,
            settled,
            ..
        } = *self;
        delivery.accepted = ended.accepted;
        processor.settle_later(EndedJob {
            delivery,
            in_hand: Some(in_hand),
            ended,
            settled,
        });
    }
}
