//! Owns the queues that a worker can do without for a while: what couldn't be declared, and the consumers of what isn't producers' jobs.
//!
//! Promises that none of them ends a session or holds up a job, whatever the broker says of it; that each is tried again, with rests that
//! grow; and that each reason is said once.

use super::{share::Share, sized_consumer::SizedConsumer};
use crate::{
    amqp::{
        connection::Broker,
        consumer::QueueConsumer,
        delivery::Delivery,
        topology::{Origin, QueueSpec, Topology, inspect},
    },
    backoff::Backoff,
    health::Health,
    redact::Redact,
};
use futures_util::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use lapin::{Channel, Connection};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Rests between two tries. The first gives a declaration that was cut short time to end: RabbitMQ may end the connection where two of
/// the same queue meet.
const FIRST_REST: Duration = Duration::from_secs(1);
const MAX_REST: Duration = Duration::from_secs(30);
/// A consumer that lasted so long is a good one: where the broker cancels it each time sooner, the rests grow, and that is said.
const LASTED: Duration = Duration::from_secs(3);
/// Tries in a row that may fail before that is said: of workers that declare a queue at the same time, the broker refuses some.
const SILENT_TRIES: u32 = 1;
/// How long a stop waits for the broker to end a consumer.
const CANCELLED: Duration = Duration::from_secs(2);

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

    /// Says why the exchange can't be used, where that is news.
    pub(super) fn note_exchange(&self, exchange: &str, reason: &str) {
        let name = of_exchange(exchange);
        if self.is_news(&name, reason) {
            if let Some(health) = &self.health {
                health.queue(&name, Err(reason));
            }
            tracing::warn!(
                exchange,
                reason,
                "an exchange can't be used; jobs that don't go through it go on, and it is tried again"
            );
        }
    }

    /// Says that the exchange is used again, where the contrary was said.
    pub(super) fn found_exchange(&self, exchange: &str) {
        self.found(&of_exchange(exchange));
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

fn of_exchange(exchange: &str) -> String {
    format!("exchange {exchange}")
}

/// Declares what couldn't be declared at first, until it is; never ends.
pub(super) async fn declare(
    connection: &Connection,
    left: Vec<(QueueSpec, String)>,
    timeout: Duration,
    missing: &Missing,
) -> Infallible {
    let each = left.into_iter().map(|(queue, _)| async move {
        let mut rests = rests();
        loop {
            tokio::time::sleep(rests.next_wait()).await;
            match queue.declare(connection, timeout).await {
                Ok(()) => return missing.found(&queue.name),
                // The try that was cut short at the start may be in its way.
                Err(_) if rests.attempts() <= SILENT_TRIES => {}
                Err(error) if connection.status().connected() => {
                    missing.note(&queue.name, &error.to_string());
                }
                Err(_) => {}
            }
        }
    });
    join_all(each).await;
    std::future::pending().await
}

/// A queue that jobs can do without, and how it is taken from.
pub(super) struct OptionalQueue {
    pub name: String,
    pub origin: Origin,
    pub share: Share,
    /// Where its consumer has a connection of its own: of a queue without a leader, the broker ends the connection that asks for one.
    pub own: Option<Broker>,
    /// Hears that it isn't there any more: whether it is to be is for others to say. Without one it is declared again.
    pub gone: Option<Arc<dyn Fn() + Send + Sync>>,
}

/// The consumer of a queue that jobs don't need.
pub(super) struct OptionalConsumer {
    connection: Arc<Connection>,
    topology: Arc<Topology>,
    queue: OptionalQueue,
    timeout: Duration,
    missing: Missing,
    state: State,
    /// Those that the broker cancelled, with deliveries that aren't all acknowledged.
    former: Vec<QueueConsumer>,
    rests: Backoff,
}

enum State {
    Opening(BoxFuture<'static, Result<SizedConsumer, Unopened>>),
    /// The second is when it will have lasted; none once that is noted.
    Open(Box<SizedConsumer>, Option<Instant>),
    /// There is no such queue, and it isn't this consumer's to declare it.
    Gone,
}

/// Why a consumer couldn't be opened.
enum Unopened {
    Gone,
    Refused(String),
}

impl OptionalConsumer {
    /// One that is opened while it is asked for deliveries.
    pub(super) fn new(
        connection: &Arc<Connection>,
        topology: &Arc<Topology>,
        queue: OptionalQueue,
        timeout: Duration,
        missing: &Missing,
    ) -> Self {
        let mut consumer = Self {
            connection: connection.clone(),
            topology: topology.clone(),
            queue,
            timeout,
            missing: missing.clone(),
            state: State::Opening(std::future::pending().boxed()),
            former: Vec::new(),
            rests: rests(),
        };
        consumer.state = consumer.opening(Duration::ZERO, Vec::new());
        consumer
    }

    /// Opens it after a rest, once the channels by which nothing is taken any more are closed.
    fn opening(&self, rest: Duration, over: Vec<Channel>) -> State {
        let (connection, queue) = (self.connection.clone(), self.queue.name.clone());
        let (topology, own) = (self.topology.clone(), self.queue.own.clone());
        let (origin, share, timeout) = (self.queue.origin, self.queue.share, self.timeout);
        let is_declared = self.queue.gone.is_none();
        let opening = async move {
            for channel in over {
                let closing = channel.close(200, "over".into());
                let _gone_counts_too = tokio::time::timeout(timeout, closing).await;
            }
            if !rest.is_zero() {
                tokio::time::sleep(rest).await;
                // It may have been deleted.
                if is_declared {
                    let specs = topology.queues().into_iter();
                    for spec in specs.filter(|spec| spec.name == queue) {
                        let declared = spec.declare(&connection, timeout).await;
                        declared.map_err(|error| Unopened::Refused(error.to_string()))?;
                    }
                } else if matches!(inspect(&connection, &queue, timeout).await, Ok(None)) {
                    return Err(Unopened::Gone);
                }
            }
            let connection = match own {
                None => connection,
                Some(broker) => {
                    let own = broker.connect("shard").await;
                    Arc::new(own.map_err(|error| Unopened::Refused(error.to_string()))?)
                }
            };
            let open = SizedConsumer::open(connection, &queue, origin, share);
            match tokio::time::timeout(timeout, open).await {
                Ok(opened) => opened.map_err(|error| Unopened::Refused(error.redacted())),
                Err(_) => {
                    let reason = "no answer to starting a consumer".to_owned();
                    Err(Unopened::Refused(reason))
                }
            }
        };
        State::Opening(opening.boxed())
    }

    /// Opens it again where its queue wasn't there any more, and is now.
    pub(super) fn revive(&mut self) {
        if matches!(self.state, State::Gone) {
            self.rests.reset();
            self.state = self.opening(Duration::ZERO, Vec::new());
        }
    }

    /// The next delivery, however long it takes to open a consumer.
    pub(super) async fn next(&mut self) -> Delivery {
        loop {
            let lost = match &mut self.state {
                State::Open(consumer, lasts) => tokio::select! {
                    biased;
                    () = reached(*lasts) => {
                        *lasts = None;
                        self.missing.found(&self.queue.name);
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
                    Err(Unopened::Refused(reason)) => reason,
                    Err(Unopened::Gone) => {
                        self.state = State::Gone;
                        self.missing.found(&self.queue.name);
                        self.queue.gone.iter().for_each(|gone| gone());
                        continue;
                    }
                },
                State::Gone => std::future::pending().await,
            };
            // Without a connection the session ends by itself.
            if self.rests.attempts() >= SILENT_TRIES && self.connection.status().connected() {
                self.missing.note(&self.queue.name, &lost);
            }
            self.reopen();
        }
    }

    /// Opens another consumer after a rest.
    fn reopen(&mut self) {
        let former = std::mem::replace(&mut self.state, State::Gone);
        let former: Vec<QueueConsumer> = match former {
            State::Open(former, _) => former.into_consumers().collect(),
            State::Opening(_) | State::Gone => Vec::new(),
        };
        // What still came by one of them would wait for nobody.
        let is_over = |one: &&QueueConsumer| !one.has_ended();
        let over = former.iter().filter(is_over).map(|one| one.channel.clone());
        let over = over.collect();
        let rest = self.rests.next_wait();
        self.state = self.opening(rest, over);
        self.former.extend(former);
        self.former.retain(is_awaited);
    }

    /// A delivery that is here already.
    pub(super) fn ready(&mut self) -> Option<Delivery> {
        match &mut self.state {
            // Why there is none is learnt by whoever waits for the next one.
            State::Open(consumer, _) => consumer.ready().ok().flatten(),
            State::Opening(_) | State::Gone => None,
        }
    }

    /// Cancels the consumer and returns what it was given and hasn't taken.
    pub(super) async fn end(&mut self) -> Vec<Delivery> {
        match &mut self.state {
            State::Open(consumer, _) => consumer.end(CANCELLED).await,
            State::Opening(_) => {
                // What came by one that is opened after that would wait for nobody.
                self.state = State::Gone;
                Vec::new()
            }
            State::Gone => Vec::new(),
        }
    }

    /// Every consumer there is.
    pub(super) fn consumers(&self) -> impl Iterator<Item = &QueueConsumer> {
        let open = match &self.state {
            State::Open(consumer, _) => Some(consumer.consumers()),
            State::Opening(_) | State::Gone => None,
        };
        open.into_iter().flatten().chain(&self.former)
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
