//! Owns the queue on which readers' services tell what they read.
//!
//! Promises that hints never get in the way of jobs: their queue is declared and consumed on a connection of its own, whatever the broker
//! says of it, and the broker drops the oldest where workers can't follow. A bad one is counted and told, and dropped.

use crate::{
    amqp::{
        ack::{self, Acks},
        connection::Broker,
        topology::{Topology, TopologyError},
    },
    backoff::Backoff,
    health::{Health, Part},
    heat::{Heat, Hint},
    redact::Redact,
    telemetry::metrics::{HintOutcome, Metrics},
    worker::optional::Missing,
};
use futures_util::{FutureExt, StreamExt};
use lapin::{
    Connection, Consumer, ErrorKind,
    options::{BasicConsumeOptions, BasicQosOptions},
    protocol::{AMQPErrorKind, AMQPHardError},
    types::FieldTable,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Hints that the broker may hand over at once.
const PREFETCH: u16 = 256;
/// How often a bad hint is told of.
const REPORT: Duration = Duration::from_secs(60);

/// How long a consumer that was lost had to live for the next one to follow at once.
const LASTED: Duration = Duration::from_secs(10);

/// Declares the queue. One that is there with other arguments, such as the classic one of earlier releases, serves as well while its node
/// lives.
async fn declare(
    broker: &Broker,
    connection: &Connection,
    topology: &Topology,
    missing: &Missing,
) -> Result<(), String> {
    match topology.hints().declare(connection, broker.timeout()).await {
        Ok(()) => {}
        Err(TopologyError::Mismatch { queue, detail }) => {
            if missing.is_news(&format!("{queue}, as it is"), &detail) {
                tracing::warn!(
                    queue,
                    detail,
                    "the queue of hints isn't the quorum queue that Kiln declares, and serves only while its node lives: \
                     `kiln doctor` says how to replace it"
                );
            }
        }
        Err(error @ TopologyError::Unavailable { .. }) => return Err(error.to_string()),
    }
    Ok(())
}

/// Why no hints are taken any more.
#[derive(Debug, thiserror::Error)]
enum Lost {
    /// It says nothing of the queue: of its connection, others say more.
    #[error("{0}")]
    Connection(String),
    #[error("{0}")]
    Consumer(String),
}

impl Lost {
    fn of(error: &lapin::Error, text: String) -> Self {
        let forced = AMQPErrorKind::Hard(AMQPHardError::CONNECTIONFORCED);
        match error.kind() {
            ErrorKind::IOError(_) | ErrorKind::InvalidConnectionState(_) => Self::Connection(text),
            ErrorKind::ProtocolError(error) if *error.kind() == forced => Self::Connection(text),
            _ => Self::Consumer(text),
        }
    }
}

impl From<String> for Lost {
    fn from(reason: String) -> Self {
        Self::Consumer(reason)
    }
}

/// Takes hints until the connection is lost. An error says why.
async fn take(
    broker: &Broker,
    topology: &Topology,
    heat: &Heat,
    metrics: &Metrics,
    missing: &Missing,
) -> Result<(), Lost> {
    let connection = broker.connect("hits").await.map_err(|e| e.to_string())?;
    declare(broker, &connection, topology, missing).await?;
    let open = async {
        let channel = connection.create_channel().await?;
        channel
            .basic_qos(PREFETCH, BasicQosOptions::default())
            .await?;
        let tag = format!("kiln-hits-{}", std::process::id());
        let options = BasicConsumeOptions::default();
        let consumer = channel
            .basic_consume(
                topology.hits.as_str().into(),
                tag.into(),
                options,
                FieldTable::default(),
            )
            .await?;
        Ok::<_, lapin::Error>((channel, consumer))
    };
    let (channel, mut consumer) = match tokio::time::timeout(broker.timeout(), open).await {
        Ok(open) => open.map_err(|e| Lost::of(&e, broker.scrub(&e)))?,
        Err(_) => return Err("no answer to starting a consumer".to_owned().into()),
    };
    missing.found(&topology.hits);
    let acks = Acks::new(channel);
    let mut reported: Option<Instant> = None;
    loop {
        let Some(first) = next(&mut consumer).await? else {
            return Err("the broker cancelled the consumer of the hints"
                .to_owned()
                .into());
        };
        let mut deliveries = vec![first];
        while deliveries.len() < usize::from(PREFETCH)
            && let Some(Ok(Some(more))) = next(&mut consumer).now_or_never()
        {
            deliveries.push(more);
        }
        let mut guards = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            guards.push(acks.guard(delivery.delivery_tag));
            match Hint::parse(&delivery.data) {
                Ok(hint) => {
                    heat.hinted(&hint);
                    metrics.hint(HintOutcome::Ok);
                }
                Err(reason) => {
                    metrics.hint(HintOutcome::Bad);
                    if reported.is_none_or(|at| at.elapsed() > REPORT) {
                        reported = Some(Instant::now());
                        tracing::warn!(queue = topology.hits, reason, "a hint is dropped");
                    }
                }
            }
        }
        ack::acknowledge(guards).await;
    }
}

async fn next(consumer: &mut Consumer) -> Result<Option<lapin::message::Delivery>, Lost> {
    let next = consumer.next().await.transpose();
    next.map_err(|e| Lost::of(&e, e.redacted()))
}

/// Takes readers' hints, on a connection that is made again when it is lost.
pub(in crate::worker) async fn follow(
    heat: Arc<Heat>,
    broker: Broker,
    topology: Arc<Topology>,
    metrics: Metrics,
    health: Health,
) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
    let missing = Missing::default();
    loop {
        tick.tick().await;
        // Without a broker there is nothing to say of one of its queues.
        if !health.is_up(Part::Broker) {
            backoff.reset();
            continue;
        }
        let begun = Instant::now();
        if let Err(lost) = take(&broker, &topology, &heat, &metrics, &missing).await {
            if begun.elapsed() > LASTED {
                backoff.reset();
            }
            // The first failure may be the connection's all the same.
            if let Lost::Consumer(reason) = lost
                && backoff.attempts() > 0
                && health.is_up(Part::Broker)
            {
                missing.note(&topology.hits, &reason);
            }
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}
