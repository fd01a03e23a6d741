//! Owns the end of a job: replies and dead letters, confirmed by the broker, and then the acknowledgement.
//!
//! Promises that nothing is acknowledged before what follows from it is durable, that a message is settled once, that a job whose
//! reply takes long holds up neither the others of its batch nor another batch, and that no letter waits for a queue whose job is back in its own.
//! The only caller of ack and reject.

use crate::{
    amqp::{
        ack::{self, AckGuard},
        delivery::Delivery,
        message::{self, Message},
        publisher::{Publisher, Replies},
        topology::Topology,
    },
    clock,
    pipeline::Outcome,
    simulated::{Mutation, is_mutated},
    telemetry::{
        metrics::{Metrics, PublisherKind, Stage},
        recent::{Recent, Rejected},
    },
};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use kiln_contract::failure::{Code, Rejection};
use kiln_contract::result::Finished;
use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Jobs that are acknowledged together, if they end together.
const ACKNOWLEDGED: usize = 256;
/// Time after which a job returns to its queue whose next step the broker doesn't take: it comes again at once.
const NOT_TAKEN: Duration = Duration::from_secs(10);
/// How often it is looked whether a job that waits for the broker is still this worker's to acknowledge.
const LOOK: Duration = Duration::from_millis(500);

/// The size of the smallest job that the broker didn't take when it was to be moved on, as far as is known.
#[derive(Debug, Clone)]
struct Unmovable(Arc<AtomicUsize>);

impl Unmovable {
    fn note(&self, bytes: usize, is_taken: bool) {
        if !is_taken {
            self.0.fetch_min(bytes, Ordering::Relaxed);
        } else if self.is(bytes) {
            // The broker's limit is another one by now.
            self.0.store(usize::MAX, Ordering::Relaxed);
        }
    }

    fn is(&self, bytes: usize) -> bool {
        bytes >= self.0.load(Ordering::Relaxed)
    }
}

/// Settles batches.
#[derive(Debug, Clone)]
pub struct Settler {
    publisher: Publisher,
    replies: Replies,
    max_reply_bytes: usize,
    topology: Arc<Topology>,
    metrics: Metrics,
    rejected: Arc<Recent<Rejected>>,
    unmovable: Unmovable,
}

impl Settler {
    /// A settler that publishes through these.
    pub fn new(
        publisher: Publisher,
        replies: Replies,
        max_reply_bytes: usize,
        topology: Arc<Topology>,
        metrics: Metrics,
    ) -> Self {
        Self {
            publisher,
            replies,
            max_reply_bytes,
            topology,
            metrics,
            rejected: Arc::default(),
            unmovable: Unmovable(Arc::new(AtomicUsize::new(usize::MAX))),
        }
    }

    /// Tries made before this delivery. A job that is too large for the broker to be moved on can't say how many: it comes again from
    /// its own queue, where the broker counts.
    pub fn tries(&self, delivery: &Delivery) -> u32 {
        let here = if self.unmovable.is(delivery.body.len()) {
            delivery.redeliveries()
        } else {
            0
        };
        delivery.tries().saturating_add(here)
    }

    /// What was rejected last.
    pub fn rejected(&self) -> Arc<Recent<Rejected>> {
        self.rejected.clone()
    }

    /// Publishes what follows from each outcome, waits for the broker's confirms, and acknowledges each job as its own are there. Waits
    /// for the broker as long as it takes; what is dropped before returns to its queue.
    /// What each job holds is dropped as soon as the job is settled.
    pub async fn settle<H: Send>(&self, jobs: Vec<(Delivery, Outcome, H)>) {
        let begun = clock::instant();
        let (mut at_once, mut held) = (Vec::with_capacity(jobs.len()), Vec::new());
        let after = FuturesUnordered::new();
        for (delivery, outcome, holds) in jobs {
            let (letter, reply) = match &outcome {
                Outcome::Done { job_id, result, .. } => {
                    record_done(&delivery, job_id, result);
                    let max = self.max_reply_bytes;
                    (None, message::ok_reply(&delivery, job_id, result, max))
                }
                Outcome::Rejected { job_id, rejection } => {
                    self.reject(&delivery, job_id.as_deref(), rejection)
                }
                Outcome::Retry { job_id, reason } => {
                    tracing::info!(
                        job_id,
                        correlation_id = delivery.correlation_id(),
                        trace_id = delivery.trace_id(),
                        reason,
                        tries = self.tries(&delivery).saturating_add(1),
                        "a job waits for its next try"
                    );
                    (Some(message::retry(&delivery, &self.topology)), None)
                }
                Outcome::Postponed { reason } => {
                    tracing::debug!(reason, "a job waits for what it needs");
                    (Some(message::postponed(&delivery, &self.topology)), None)
                }
                Outcome::Moved(to) => {
                    let queue = self.topology.lane(&to.lane, to.number);
                    (Some(message::moved(&delivery, &queue)), None)
                }
                Outcome::Abandoned => continue,
            };
            let is_early = is_mutated(Mutation::AcknowledgesFirst);
            if (letter.is_none() && reply.is_none()) || is_early {
                at_once.push(delivery.into_guard());
                held.push(holds);
            } else {
                let is_moved_on = !matches!(outcome, Outcome::Rejected { .. });
                let followed = self.follow(delivery, letter, is_moved_on, reply);
                after.push(followed.map(|guard| (guard, holds)));
            }
        }
        ack::acknowledge(at_once).await;
        drop(held);
        let mut ended = after.ready_chunks(ACKNOWLEDGED);
        while let Some(settled) = ended.next().await {
            let (guards, held): (Vec<_>, Vec<_>) = settled.into_iter().unzip();
            ack::acknowledge(guards.into_iter().flatten().collect()).await;
            drop(held);
        }
        self.metrics.stage(Stage::Settle, clock::since(begun));
    }

    /// Publishes a job's messages, together, and gives back the right to acknowledge it once they have ended.
    fn follow(
        &self,
        delivery: Delivery,
        letter: Option<Message>,
        is_moved_on: bool,
        reply: Option<Message>,
    ) -> impl Future<Output = Option<AckGuard>> + Send + use<> {
        let (begun, metrics) = (clock::instant(), self.metrics.clone());
        // Behind a letter nobody looks at the reply in time.
        let is_timed = letter.is_none();
        let (bytes, redeliveries) = (delivery.body.len(), delivery.redeliveries());
        let (guard, unmovable) = (delivery.into_guard(), self.unmovable.clone());
        let letter = letter.map(|letter| self.publisher.send(letter));
        let reply = reply.map(|reply| self.replies.send(reply));
        async move {
            if let Some(letter) = letter {
                let sent = unless_returned(&guard, letter).await?;
                if is_moved_on {
                    unmovable.note(bytes, sent.is_ok());
                }
                if let Err(error) = sent {
                    if redeliveries == 0 {
                        tracing::error!(%error, "a job can't be moved on; it goes back to its queue");
                    }
                    tokio::time::sleep(NOT_TAKEN).await;
                    return None;
                }
                metrics.published_in(PublisherKind::MustArrive, clock::since(begun));
            }
            if let Some(reply) = reply {
                reply.await;
                if is_timed {
                    metrics.published_in(PublisherKind::Replies, clock::since(begun));
                }
            }
            Some(guard)
        }
    }

    /// Records a rejection, and gives its dead letter, where it has one, and its reply.
    fn reject(
        &self,
        delivery: &Delivery,
        job_id: Option<&str>,
        rejection: &Rejection,
    ) -> (Option<Message>, Option<Message>) {
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
        // What its owner has cancelled is to be gone.
        let letter = (rejection.code != Code::Cancelled).then(|| {
            let failed_at = clock::rfc3339(now);
            message::dead_letter(delivery, job_id, rejection, &failed_at, &self.topology)
        });
        let reply = message::rejected_reply(delivery, job_id, rejection);
        (letter, reply)
    }
}

/// What comes of sending what must arrive, for as long as its delivery can be acknowledged: one whose channel is gone is back in its queue, and what
/// follows from it is sent when it comes again. Nothing is sent any more then that wasn't.
async fn unless_returned<T>(guard: &AckGuard, sending: impl Future<Output = T>) -> Option<T> {
    let mut sending = pin!(sending);
    loop {
        tokio::select! {
            biased;
            sent = &mut sending => return Some(sent),
            () = tokio::time::sleep(LOOK) => {
                if !guard.acks().is_open() {
                    return None;
                }
            }
        }
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

#[cfg(all(test, feature = "faults"))]
mod tests;
