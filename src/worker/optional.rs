//! Owns the queues that a worker can do without for a while: what couldn't be declared, and the consumers of what isn't producers' jobs.
//!
//! Promises that none of them ends a session or holds up a job, whatever the broker says of it; that each is tried again, with rests that
//! grow; and that each reason is said once.

use crate::{
    amqp::{
        consumer::QueueConsumer,
        delivery::Delivery,
        topology::{Origin, QueueSpec, Topology},
    },
    backoff::Backoff,
    health::Health,
};
use futures_util::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use lapin::Connection;
use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Rests between two tries.
const FIRST_REST: Duration = Duration::from_millis(500);
const MAX_REST: Duration = Duration::from_secs(30);
/// A consumer that lasted so long is a good one: where the broker cancels it each time sooner, the rests grow, and that is said.
const LASTED: Duration = Duration::from_secs(3);
/// Tries in a row that may fail before that is said: of workers that declare a queue at the same time, the broker refuses some.
const SILENT_TRIES: u32 = 1;

fn rests() -> Backoff {
    Backoff::new(FIRST_REST, MAX_REST)
}

/// What is said of queues that the worker does without.
#[derive(Clone, Default)]
pub(super) struct Missing {
    said: Arc<Mutex<BTreeMap<String, String>>>,
    health: Option<Health>,
}

impl Missing {
    /// One that health hears of as well.
    pub(super) fn of(health: &Health) -> Self {
        Self {
            health: Some(health.clone()),
            ..Self::default()
        }
    }

    /// Says why a queue can't be used, where that is news.
    pub(super) fn note(&self, queue: &str, reason: &str) {
        if self.is_news(queue, reason) {
            if let Some(health) = &self.health {
                health.queue(queue, Err(reason));
            }
            tracing::warn!(
                queue,
                reason,
                "a queue can't be used; jobs go on without it, and it is tried again"
            );
        }
    }

    /// Says that a queue is used again, where the contrary was said.
    pub(super) fn found(&self, queue: &str) {
        if self.said().remove(queue).is_some() {
            if let Some(health) = &self.health {
                health.queue(queue, Ok(()));
            }
            tracing::info!(queue, "a queue is used again");
        }
    }

    /// Whether that wasn't said of it last.
    pub(super) fn is_news(&self, queue: &str, reason: &str) -> bool {
        let before = self.said().insert(queue.to_owned(), reason.to_owned());
        before.is_none_or(|before| before != reason)
    }

    fn said(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Declares what couldn't be declared at first, until it is; never ends. What becomes of the queues that have a consumer is said by that.
pub(super) async fn declare(
    connection: &Connection,
    left: Vec<(QueueSpec, String)>,
    timeout: Duration,
    missing: &Missing,
    consumed: [&str; 2],
) -> Infallible {
    let each = left.into_iter().map(|(queue, _)| async move {
        let mut rests = rests();
        let is_said = !consumed.contains(&queue.name.as_str());
        loop {
            tokio::time::sleep(rests.next_wait()).await;
            match queue.declare(connection, timeout).await {
                Ok(()) if is_said => return missing.found(&queue.name),
                Ok(()) => return,
                // The try that was cut short at the start may be in its way.
                Err(_) if rests.attempts() <= SILENT_TRIES => {}
                Err(error) if is_said && connection.status().connected() => {
                    missing.note(&queue.name, &error.to_string());
                }
                Err(_) => {}
            }
        }
    });
    join_all(each).await;
    std::future::pending().await
}

/// The consumer of a queue that jobs don't need.
pub(super) struct OptionalConsumer {
    connection: Arc<Connection>,
    topology: Arc<Topology>,
    queue: String,
    origin: Origin,
    prefetch: u16,
    timeout: Duration,
    missing: Missing,
    state: State,
    /// Those that the broker cancelled, with deliveries that aren't all acknowledged.
    former: Vec<QueueConsumer>,
    rests: Backoff,
}

enum State {
    Opening(BoxFuture<'static, Result<QueueConsumer, String>>),
    /// The second is when it will have lasted; none once that is noted.
    Open(Box<QueueConsumer>, Option<Instant>),
}

impl OptionalConsumer {
    /// One that is opened while it is asked for deliveries.
    pub(super) fn new(
        connection: &Arc<Connection>,
        topology: &Arc<Topology>,
        queue: &str,
        origin: Origin,
        prefetch: u16,
        timeout: Duration,
        missing: &Missing,
    ) -> Self {
        let mut consumer = Self {
            connection: connection.clone(),
            topology: topology.clone(),
            queue: queue.to_owned(),
            origin,
            prefetch,
            timeout,
            missing: missing.clone(),
            state: State::Opening(std::future::pending().boxed()),
            former: Vec::new(),
            rests: rests(),
        };
        consumer.state = consumer.opening(Duration::ZERO);
        consumer
    }

    fn opening(&self, rest: Duration) -> State {
        let (connection, queue) = (self.connection.clone(), self.queue.clone());
        let topology = self.topology.clone();
        let (origin, prefetch, timeout) = (self.origin, self.prefetch, self.timeout);
        let opening = async move {
            if !rest.is_zero() {
                tokio::time::sleep(rest).await;
                // It may have been deleted.
                let specs = topology.queues().into_iter();
                for spec in specs.filter(|spec| spec.name == queue) {
                    let declared = spec.declare(&connection, timeout).await;
                    declared.map_err(|error| error.to_string())?;
                }
            }
            let open = QueueConsumer::open(&connection, &queue, origin, prefetch);
            match tokio::time::timeout(timeout, open).await {
                Ok(opened) => opened.map_err(|error| error.to_string()),
                Err(_) => Err("no answer to starting a consumer".to_owned()),
            }
        };
        State::Opening(opening.boxed())
    }

    /// The next delivery, however long it takes to open a consumer.
    pub(super) async fn next(&mut self) -> Delivery {
        loop {
            let lost = match &mut self.state {
                State::Open(consumer, lasts) => tokio::select! {
                    biased;
                    () = reached(*lasts) => {
                        *lasts = None;
                        self.missing.found(&self.queue);
                        self.rests.reset();
                        continue;
                    }
                    next = consumer.next() => match next {
                        Ok(Some(delivery)) => return delivery,
                        Ok(None) => "the broker cancelled its consumer".to_owned(),
                        Err(reason) => reason,
                    },
                },
                State::Opening(opening) => match opening.await {
                    Ok(consumer) => {
                        let lasts = Some(Instant::now() + LASTED);
                        self.state = State::Open(Box::new(consumer), lasts);
                        continue;
                    }
                    Err(reason) => reason,
                },
            };
            // Without a connection the session ends by itself.
            if self.rests.attempts() >= SILENT_TRIES && self.connection.status().connected() {
                self.missing.note(&self.queue, &lost);
            }
            let rest = self.rests.next_wait();
            let opening = self.opening(rest);
            if let State::Open(former, _) = std::mem::replace(&mut self.state, opening) {
                self.former.push(*former);
                self.former.retain(is_awaited);
            }
        }
    }

    /// A delivery that is here already.
    pub(super) fn ready(&mut self) -> Option<Delivery> {
        match &mut self.state {
            // Why there is none is learnt by whoever waits for the next one.
            State::Open(consumer, _) => consumer.ready().ok().flatten(),
            State::Opening(_) => None,
        }
    }

    /// Cancels the consumer and returns what it was given and hasn't taken.
    pub(super) async fn end(&mut self) -> Vec<Delivery> {
        match &mut self.state {
            State::Open(consumer, _) => consumer.end().await,
            State::Opening(_) => Vec::new(),
        }
    }

    /// Every consumer there is.
    pub(super) fn consumers(&self) -> impl Iterator<Item = &QueueConsumer> {
        let open = match &self.state {
            State::Open(consumer, _) => Some(&**consumer),
            State::Opening(_) => None,
        };
        open.into_iter().chain(&self.former)
    }
}

async fn reached(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// Whether the broker waits to hear of deliveries.
fn is_awaited(consumer: &QueueConsumer) -> bool {
    consumer.acks.is_open() && consumer.acks.at_broker() > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{health::Part, telemetry::metrics::Metrics};

    #[test]
    fn a_reason_is_news_once_and_another_one_is_news_again() {
        let missing = Missing::default();
        let said = ["away", "away", "refused", "refused", "away"];
        let news = said.map(|reason| missing.is_news("kiln.hits", reason));
        assert_eq!(news, [true, false, true, false, true]);
        assert!(missing.is_news("kiln.warm", "away"), "a queue of its own");
        missing.found("kiln.hits");
        assert!(missing.is_news("kiln.hits", "away"));
    }

    #[test]
    fn health_hears_of_each_outage() {
        let health = Health::new(Metrics::new());
        let missing = Missing::of(&health);
        for _ in 0..2 {
            missing.note("kiln.warm", "away");
            assert!(!health.is_up(Part::Queues));
            missing.found("kiln.warm");
            assert!(health.is_up(Part::Queues));
        }
    }
}
