//! Carries a batch from its bodies to its acknowledgements, and traces those of its jobs that are to have one.

use super::settle::Settler;
use crate::{
    amqp::delivery::Delivery,
    amqp::topology::Origin,
    config::Settings,
    pipeline::{Engine, JobSource, Outcome},
    store::PostgresStore,
    telemetry::{
        metrics::Metrics,
        trace::{Kind, Stages, Trace, Tracer, Value},
    },
};
use kiln_contract::failure::Rejection;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};
use tokio_util::task::TaskTracker;

/// What a session works with; outlives it.
#[derive(Clone)]
pub struct BatchProcessor {
    pub engine: Arc<Engine>,
    pub settler: Settler,
    pub store: PostgresStore,
    pub metrics: Metrics,
    pub settings: Arc<Settings>,
    pub tracer: Tracer,
    /// Batches in flight, whichever session took them: a session whose connection is lost leaves its own behind.
    pub batches: TaskTracker,
    in_hand: Arc<AtomicUsize>,
}

impl BatchProcessor {
    /// The tools of a worker.
    pub fn new(
        engine: Arc<Engine>,
        settler: Settler,
        store: PostgresStore,
        metrics: Metrics,
        settings: Arc<Settings>,
        tracer: Tracer,
    ) -> Self {
        Self {
            engine,
            settler,
            store,
            metrics,
            settings,
            tracer,
            batches: TaskTracker::new(),
            in_hand: Arc::default(),
        }
    }

    pub(super) fn note_in_hand(&self, change: isize) {
        let jobs = self
            .in_hand
            .fetch_add(change as usize, Ordering::Relaxed)
            .wrapping_add(change as usize);
        self.metrics.in_hand(jobs);
    }

    /// Carries one batch from its bodies to its acknowledgements.
    async fn work(
        &self,
        deliveries: Vec<Delivery>,
        given_up: Option<Rejection>,
        permit: impl Send,
    ) {
        let sources: Vec<JobSource<'_>> = deliveries
            .iter()
            .map(|d| {
                JobSource::new(&d.body)
                    .with_message_id(d.message_id())
                    .received_at(d.received)
                    .with_tries(d.tries())
                    .with_ttl_refresh(d.origin == Origin::Warm)
                    .given_up(given_up.clone().or_else(|| d.verdict()))
            })
            .collect();
        let begun = Instant::now();
        let (outcomes, counts) = self.engine.run(&sources).await;
        let traces = self.traces(&deliveries, &outcomes, begun, &counts.stages);
        let stored = Instant::now();
        self.settler.settle(deliveries, outcomes, permit).await;
        for mut trace in traces {
            trace.span("reply", stored, Instant::now(), Vec::new());
            self.tracer.end(trace);
        }
    }

    /// The traces of those jobs that are to have one, up to their rows.
    fn traces(
        &self,
        deliveries: &[Delivery],
        outcomes: &[Outcome],
        begun: Instant,
        stages: &Stages,
    ) -> Vec<Trace> {
        if !self.tracer.is_on() {
            return Vec::new();
        }
        let trace = |(delivery, outcome): (&Delivery, &Outcome)| {
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
            outcome.record(&mut trace);
            trace.span("intake", received, begun, Vec::new());
            if let Outcome::Done { result, .. } = outcome {
                trace.stages(begun, stages, result.hits, result.misses);
            }
            Some(trace)
        };
        deliveries.iter().zip(outcomes).filter_map(trace).collect()
    }
}

/// A batch in flight; its permit is free when it is settled, or when that takes long.
pub(super) async fn in_flight(
    processor: BatchProcessor,
    deliveries: Vec<Delivery>,
    given_up: Option<Rejection>,
    permit: impl Send + 'static,
) {
    let jobs = InHand(processor.clone(), deliveries.len() as isize);
    processor.work(deliveries, given_up, permit).await;
    drop(jobs);
}

/// Counts jobs out of hand however their batch ends.
struct InHand(BatchProcessor, isize);

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.note_in_hand(-self.1);
    }
}

/// Reports a batch that panicked.
pub(super) fn note_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a batch panicked; its jobs go back to their queue");
    }
}
