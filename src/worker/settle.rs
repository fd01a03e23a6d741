//! Owns the end of a job: replies and dead letters, confirmed by the broker, and then the acknowledgement.
//!
//! Promises that nothing is acknowledged before what follows from it is durable, and that a message is
//! settled once. The only caller of ack and reject.

use crate::{
    amqp::{
        ack,
        confirm::PublishOutcome,
        delivery::Delivery,
        message::{self, Message},
        publisher::Publisher,
        topology::Topology,
    },
    clock,
    pipeline::Outcome,
    telemetry::{
        metrics::{Metrics, ReplyOutcome, Stage},
        recent::{Recent, Rejected},
    },
};
use kiln_contract::failure::Rejection;
use kiln_contract::result::Finished;
use std::{sync::Arc, time::Instant};

/// Settles batches.
#[derive(Debug, Clone)]
pub struct Settler {
    publisher: Publisher,
    topology: Arc<Topology>,
    metrics: Metrics,
    rejected: Arc<Recent<Rejected>>,
}

impl Settler {
    /// A settler that publishes through `publisher`.
    pub fn new(publisher: Publisher, topology: Arc<Topology>, metrics: Metrics) -> Self {
        Self {
            publisher,
            topology,
            metrics,
            rejected: Arc::default(),
        }
    }

    /// What was rejected last.
    pub fn rejected(&self) -> Arc<Recent<Rejected>> {
        self.rejected.clone()
    }

    /// Publishes what follows from each outcome, waits for the broker's confirms, and acknowledges. Waits for
    /// the broker as long as it takes; what is dropped before returns to its queue.
    pub async fn settle(&self, deliveries: Vec<Delivery>, outcomes: Vec<Outcome>) {
        let begun = Instant::now();
        let mut at_once = Vec::with_capacity(deliveries.len());
        let mut after = Vec::new();
        let mut messages = Vec::new();
        for (delivery, outcome) in deliveries.into_iter().zip(outcomes) {
            let before = messages.len();
            match &outcome {
                Outcome::Done { job_id, result, .. } => {
                    record_done(&delivery, job_id, result);
                    messages.extend(message::reply(&delivery, || {
                        kiln_contract::result::ok_reply(job_id, result)
                    }));
                }
                Outcome::Rejected { job_id, rejection } => {
                    messages.extend(self.reject(&delivery, job_id.as_deref(), rejection));
                }
                Outcome::Retry { job_id, reason } => {
                    tracing::info!(
                        job_id,
                        correlation_id = delivery.correlation_id(),
                        trace_id = delivery.trace_id(),
                        reason,
                        tries = delivery.tries() + 1,
                        "a job waits for its next try"
                    );
                    messages.push(message::retry(&delivery, &self.topology));
                }
                Outcome::Moved(to) => {
                    let queue = self.topology.lane(&to.lane, to.number);
                    let now = clock::rfc3339(clock::now());
                    messages.push(message::moved(&delivery, &queue, &now));
                }
                Outcome::Abandoned => continue,
            }
            let guards = if messages.len() > before {
                &mut after
            } else {
                &mut at_once
            };
            guards.push(delivery.guard);
        }
        ack::acknowledge(at_once).await;
        if !messages.is_empty() {
            for (message, sent) in messages.iter().zip(self.publisher.publish(&messages).await) {
                if message.is_reply {
                    self.metrics.reply(match sent {
                        PublishOutcome::Confirmed => ReplyOutcome::Sent,
                        PublishOutcome::Unroutable | PublishOutcome::Refused => {
                            ReplyOutcome::Unroutable
                        }
                    });
                }
            }
            ack::acknowledge(after).await;
        }
        self.metrics.stage(Stage::Settle, begun.elapsed());
    }

    /// Records a rejection, and gives its dead letter and its reply.
    fn reject(
        &self,
        delivery: &Delivery,
        job_id: Option<&str>,
        rejection: &Rejection,
    ) -> impl Iterator<Item = Message> {
        let job_id = job_id.or(delivery.message_id()).unwrap_or_default();
        tracing::info!(
            job_id,
            correlation_id = delivery.correlation_id(),
            trace_id = delivery.trace_id(),
            code = rejection.code.as_str(),
            field = rejection.field,
            origin = delivery.origin.as_str(),
            "a job was rejected"
        );
        let now = clock::now();
        self.rejected.push(Rejected {
            at: now,
            job_id: job_id.to_owned(),
            queue: delivery.origin.as_str(),
            rejection: rejection.clone(),
        });
        let letter = message::dead_letter(
            delivery,
            job_id,
            rejection,
            &clock::rfc3339(now),
            &self.topology,
        );
        let reply = message::reply(delivery, || {
            kiln_contract::result::rejected_reply(job_id, rejection)
        });
        std::iter::once(letter).chain(reply)
    }
}

/// A line for each job that went well, for those who look for one.
fn record_done(delivery: &Delivery, job_id: &str, result: &Finished) {
    tracing::debug!(
        job_id,
        correlation_id = delivery.correlation_id(),
        trace_id = delivery.trace_id(),
        model = result.model,
        version = result.version,
        hits = result.hits,
        misses = result.misses,
        elapsed_ms = result.elapsed_ms,
        "a job is done"
    );
}
