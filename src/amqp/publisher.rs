//! Owns the worker's publishing, on a connection of its own: while the broker blocks publishers, consuming
//! and acknowledging go on.
//!
//! Promises to return only when every message has ended, through reconnects and blocks; the
//! messages of one call are in flight together. Refuses to hold messages beyond those calls.

use super::{
    confirm::{ConfirmChannel, PublishOutcome},
    connection::Broker,
    message::Message,
};
use crate::{backoff::Backoff, telemetry::metrics::Metrics};
use futures_util::{StreamExt, future::join_all};
use lapin::{Connection, Event};
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

/// The channel of the connection that is up.
#[derive(Debug, Clone)]
struct Link {
    channel: ConfirmChannel,
    /// Set while the broker blocks the connection.
    blocked: Arc<AtomicBool>,
}

/// A handle to the publishing connection.
#[derive(Debug, Clone)]
pub struct Publisher {
    links: watch::Receiver<Option<Link>>,
    trouble: watch::Receiver<Option<String>>,
    broken: mpsc::Sender<()>,
    timeout: Duration,
}

/// Keeps the publishing connection up.
#[derive(Debug)]
pub struct PublisherTask {
    broker: Broker,
    links: watch::Sender<Option<Link>>,
    /// Why nothing is published at the moment.
    trouble: watch::Sender<Option<String>>,
    broken: Mutex<mpsc::Receiver<()>>,
    backoff_most: Duration,
    metrics: Metrics,
}

/// A publisher and the task that keeps its connection.
pub fn new(broker: Broker, backoff_most: Duration, metrics: Metrics) -> (Publisher, PublisherTask) {
    let (sender, receiver) = watch::channel(None);
    let (broken, reports) = mpsc::channel(1);
    let (trouble, troubles) = watch::channel(None);
    let publisher = Publisher {
        links: receiver,
        trouble: troubles,
        broken,
        timeout: broker.timeout(),
    };
    (
        publisher,
        PublisherTask {
            broker,
            links: sender,
            trouble,
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
                    self.trouble.send_replace(None);
                    let watching = self.watch(&connection, &link, &mut broken);
                    if stop.run_until_cancelled(watching).await.is_some() {
                        self.metrics.reconnect();
                    }
                    self.links.send_replace(None);
                    self.trouble
                        .send_replace(Some("the connection was lost".to_owned()));
                    // The broker may hang: closing must not hold the next connection up.
                    let _closed = tokio::time::timeout(
                        Duration::from_secs(1),
                        connection.close(200, "bye".into()),
                    )
                    .await;
                }
                Some(Err(reason)) => {
                    tracing::debug!(reason, "no publishing connection yet");
                    self.trouble
                        .send_replace(Some(format!("no connection: {reason}")));
                }
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
        let channel = ConfirmChannel::open(&self.broker, &connection)
            .await
            .map_err(|e| format!("opening a channel: {e}"))?;
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
                        let blocked = format!("the broker blocks publishers: {reason}");
                        self.trouble.send_replace(Some(blocked));
                    }
                    Some(Event::ConnectionUnblocked) => {
                        tracing::info!("the broker takes messages again");
                        link.blocked.store(false, Ordering::Relaxed);
                        self.trouble.send_replace(None);
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
    /// Why nothing is published at the moment, as it changes.
    pub fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.trouble.clone()
    }

    /// Publishes every message and waits until each has ended, whatever it takes. The outcomes stand in the
    /// order of the messages.
    pub async fn publish(&self, messages: &[Message]) -> Vec<PublishOutcome> {
        let mut ended: Vec<Option<PublishOutcome>> = vec![None; messages.len()];
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let mut links = self.links.clone();
        while ended.contains(&None) {
            let link = links
                .wait_for(Option::is_some)
                .await
                .ok()
                .and_then(|link| link.clone());
            let Some(link) = link else {
                // The task is gone, and the worker with it: the caller is about to be dropped.
                return std::future::pending().await;
            };
            let mut open: Vec<_> = messages
                .iter()
                .zip(&mut ended)
                .filter(|(_, end)| end.is_none())
                .collect();
            for window in open.chunks_mut(WINDOW) {
                let publishes = window.iter().map(|(message, _)| self.one(&link, message));
                let outcomes = join_all(publishes).await;
                for ((_, end), outcome) in window.iter_mut().zip(outcomes) {
                    **end = outcome;
                }
            }
            if ended.contains(&None) {
                // A full channel means that the report is there already.
                let _reported = self.broken.try_send(());
                tokio::time::sleep(backoff.next_wait()).await;
            }
        }
        ended.into_iter().flatten().collect()
    }

    /// Publishes one message; nothing where it is to be tried again.
    async fn one(&self, link: &Link, message: &Message) -> Option<PublishOutcome> {
        let work = async { link.channel.write(message).await?.outcome().await };
        tokio::pin!(work);
        let outcome = loop {
            match tokio::time::timeout(self.timeout, &mut work).await {
                Ok(result) => break result,
                Err(_) if link.blocked.load(Ordering::Relaxed) => {}
                Err(_) => return None,
            }
        };
        match outcome {
            Ok(outcome) if is_final(outcome, message) => Some(outcome),
            Ok(outcome) => {
                tracing::warn!(
                    queue = message.queue.as_str(),
                    unroutable = outcome == PublishOutcome::Unroutable,
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

/// Whether a message has ended: anything else is tried again.
fn is_final(outcome: PublishOutcome, message: &Message) -> bool {
    match outcome {
        PublishOutcome::Confirmed => true,
        // Whoever asked for the reply is gone, and its queue with it. Any other queue is declared again.
        PublishOutcome::Unroutable => message.is_reply,
        // A full queue may be emptied; that holds for a reply's, too, and its job waits as long.
        PublishOutcome::Refused => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::BasicProperties;

    #[test]
    fn only_a_reply_may_end_without_a_queue_and_none_ends_refused() {
        let message = |is_reply| Message {
            queue: "q".into(),
            body: Vec::new(),
            properties: BasicProperties::default(),
            is_reply,
        };
        let (reply, other) = (message(true), message(false));
        assert!(is_final(PublishOutcome::Confirmed, &reply));
        assert!(is_final(PublishOutcome::Confirmed, &other));
        assert!(is_final(PublishOutcome::Unroutable, &reply));
        assert!(!is_final(PublishOutcome::Unroutable, &other));
        assert!(!is_final(PublishOutcome::Refused, &reply));
        assert!(!is_final(PublishOutcome::Refused, &other));
    }
}
