//! Owns publishing with confirms, on a connection of its own: while the broker blocks publishers, consuming
//! and acknowledging go on.
//!
//! Promises to return only when the broker has confirmed every message, through reconnects and blocks; the
//! messages of one call are in flight together. Refuses to hold messages beyond those calls.

use super::message::Message;
use crate::{amqp::connection::Broker, backoff::Backoff, telemetry::metrics::Metrics};
use futures_util::{StreamExt, future::join_all};
use lapin::{
    Channel, Confirmation, Connection, Event,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Messages of one call that wait for their confirms together.
const WINDOW: usize = 256;

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    Confirmed,
    /// No queue of that name: only replies may end so.
    Unroutable,
}

/// A channel in confirm mode.
#[derive(Debug, Clone)]
struct Link {
    channel: Channel,
    /// Set while the broker blocks the connection.
    blocked: Arc<AtomicBool>,
}

/// A handle to the publishing connection.
#[derive(Debug, Clone)]
pub struct Publisher {
    links: watch::Receiver<Option<Link>>,
    broken: mpsc::Sender<()>,
    timeout: Duration,
}

/// Keeps the publishing connection up.
#[derive(Debug)]
pub struct PublisherTask {
    broker: Broker,
    links: watch::Sender<Option<Link>>,
    broken: Mutex<mpsc::Receiver<()>>,
    backoff_most: Duration,
    metrics: Metrics,
}

/// A publisher and the task that keeps its connection.
pub fn new(broker: Broker, backoff_most: Duration, metrics: Metrics) -> (Publisher, PublisherTask) {
    let (sender, receiver) = watch::channel(None);
    let (broken, reports) = mpsc::channel(1);
    let publisher = Publisher {
        links: receiver,
        broken,
        timeout: broker.timeout(),
    };
    (
        publisher,
        PublisherTask {
            broker,
            links: sender,
            broken: Mutex::new(reports),
            backoff_most,
            metrics,
        },
    )
}

impl PublisherTask {
    /// Connects, and connects again whenever the connection is lost or reported broken, until it is asked to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        let mut broken = self.broken.lock().await;
        let mut backoff = Backoff::new(Duration::from_millis(100), self.backoff_most);
        while !stop.is_cancelled() {
            match stop.run_until_cancelled(self.link()).await {
                None => break,
                Some(Ok((connection, link))) => {
                    backoff.reset();
                    while broken.try_recv().is_ok() {}
                    self.links.send_replace(Some(link.clone()));
                    let watching = self.watch(&connection, &link, &mut broken);
                    if stop.run_until_cancelled(watching).await.is_some() {
                        self.metrics.reconnect();
                    }
                    self.links.send_replace(None);
                    // The broker may hang: closing must not hold the next connection up.
                    let _closed = tokio::time::timeout(
                        Duration::from_secs(1),
                        connection.close(200, "bye".into()),
                    )
                    .await;
                }
                Some(Err(reason)) => tracing::debug!(reason, "no publishing connection yet"),
            }
            let rest = tokio::time::sleep(backoff.next_wait());
            stop.run_until_cancelled(rest).await;
        }
        Ok(())
    }

    async fn link(&self) -> Result<(Connection, Link), String> {
        let connection = self
            .broker
            .connect("publish")
            .await
            .map_err(|e| e.to_string())?;
        let open = async {
            let channel = connection.create_channel().await?;
            channel
                .confirm_select(ConfirmSelectOptions::default())
                .await?;
            Ok::<_, lapin::Error>(channel)
        };
        let channel = tokio::time::timeout(self.broker.timeout(), open)
            .await
            .map_err(|_| "no answer to opening a channel".to_owned())?
            .map_err(|e| self.broker.scrub(&e))?;
        Ok((
            connection,
            Link {
                channel,
                blocked: Arc::default(),
            },
        ))
    }

    /// Returns when the connection is lost, or reported broken while it isn't blocked.
    async fn watch(&self, connection: &Connection, link: &Link, broken: &mut mpsc::Receiver<()>) {
        let mut events = connection.events_listener();
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(reason)) => {
                        tracing::warn!(reason, "the broker blocks publishers; replies and dead letters wait");
                        link.blocked.store(true, Ordering::Relaxed);
                    }
                    Some(Event::ConnectionUnblocked) => {
                        tracing::info!("the broker takes messages again");
                        link.blocked.store(false, Ordering::Relaxed);
                    }
                    Some(Event::Error(error)) => {
                        tracing::debug!(error = self.broker.scrub(&error), "the publishing connection was lost");
                        return;
                    }
                    Some(_) => {}
                    None => return,
                },
                report = broken.recv() => if report.is_none() || !link.blocked.load(Ordering::Relaxed) {
                    return;
                },
            }
        }
    }
}

impl Publisher {
    /// Publishes every message and waits until each is confirmed, whatever it takes. The answers stand in the
    /// order of the messages.
    pub async fn publish(&self, messages: &[Message]) -> Vec<Sent> {
        let mut sent: Vec<Option<Sent>> = vec![None; messages.len()];
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let mut links = self.links.clone();
        while sent.contains(&None) {
            let link = links
                .wait_for(Option::is_some)
                .await
                .ok()
                .and_then(|link| link.clone());
            let Some(link) = link else {
                // The task is gone, and the worker with it: the caller is about to be dropped.
                return std::future::pending().await;
            };
            let open: Vec<usize> = (0..messages.len())
                .filter(|i| matches!(sent.get(*i), Some(None)))
                .collect();
            for window in open.chunks(WINDOW) {
                let mut publishes = Vec::with_capacity(window.len());
                for message in window.iter().filter_map(|i| messages.get(*i)) {
                    publishes.push(self.one(&link, message));
                }
                let results = join_all(publishes).await;
                for (index, result) in window.iter().zip(results) {
                    if let Some(slot) = sent.get_mut(*index) {
                        *slot = result;
                    }
                }
            }
            if sent.contains(&None) {
                // A full channel means that the report is there already.
                let _reported = self.broken.try_send(());
                tokio::time::sleep(backoff.next_wait()).await;
            }
        }
        sent.into_iter()
            .map(|s| s.unwrap_or(Sent::Unroutable))
            .collect()
    }

    async fn one(&self, link: &Link, message: &Message) -> Option<Sent> {
        let work = async {
            let options = BasicPublishOptions {
                mandatory: true,
                ..BasicPublishOptions::default()
            };
            let publish = link.channel.basic_publish(
                "".into(),
                message.queue.clone(),
                options,
                &message.body,
                message.properties.clone(),
            );
            publish.await?.await
        };
        tokio::pin!(work);
        let confirmation = loop {
            match tokio::time::timeout(self.timeout, &mut work).await {
                Ok(result) => break result,
                Err(_) if link.blocked.load(Ordering::Relaxed) => {}
                Err(_) => return None,
            }
        };
        match confirmation {
            Ok(Confirmation::Ack(None)) => Some(Sent::Confirmed),
            Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_))) if message.is_reply => {
                Some(Sent::Unroutable)
            }
            Ok(other) => {
                let unroutable = other.take_message().is_some();
                tracing::warn!(
                    queue = message.queue.as_str(),
                    unroutable,
                    "the broker didn't take a message; trying again"
                );
                None
            }
            Err(error) => {
                tracing::debug!(%error, "a publish was lost with its connection");
                None
            }
        }
    }
}
