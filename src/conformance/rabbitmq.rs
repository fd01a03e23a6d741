//! The cases of RabbitMQ: what comes again, how often it says that it came, and what a retry queue gives back.

use crate::{
    amqp::{
        ack,
        connection::Broker,
        consumer::QueueConsumer,
        delivery::Delivery,
        message,
        publisher::{self, Publisher},
        topology::{Origin, Topology},
    },
    config::{Amqp, Queues, Retry},
    secret::Secret,
    telemetry::metrics::Metrics,
};
#[cfg(test)]
use crate::{
    amqp::{
        ack::Acks,
        delivery::Parts,
        simulated::{SimulatedBroker, SimulatedChannel},
    },
    clock,
};
use std::{fmt::Write, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Messages that a consumer may have unsettled.
const PREFETCH: u16 = 3;
/// Longest wait for a delivery.
const PATIENCE: Duration = Duration::from_secs(30);

/// A broker, and the consumer that it has now.
enum Side {
    Real {
        connection: Box<lapin::Connection>,
        publisher: Box<Publisher>,
        consumer: Option<Box<QueueConsumer>>,
    },
    #[cfg(test)]
    Simulated {
        broker: SimulatedBroker,
        consumer: Option<(SimulatedChannel, Arc<Acks>)>,
    },
}

/// What is written down.
struct Cases {
    side: Side,
    topology: Topology,
    lines: String,
}

impl Cases {
    async fn publish(&mut self, queue: &str, body: &str) {
        let message = message::job(queue, body, body.as_bytes().to_vec());
        match &self.side {
            Side::Real { publisher, .. } => {
                let sent = publisher.send(message).await;
                self.note(&format!("publish {body}: {sent:?}"));
            }
            #[cfg(test)]
            Side::Simulated { broker, .. } => {
                broker.publish(queue, message.body, message.properties);
                self.note(&format!("publish {body}: Ok(())"));
            }
        }
    }

    async fn open(&mut self) {
        let queue = self.topology.jobs.clone();
        match &mut self.side {
            Side::Real {
                connection,
                consumer,
                ..
            } => {
                let opened = QueueConsumer::open(connection, &queue, Origin::Jobs, PREFETCH);
                *consumer = opened.await.ok().map(Box::new);
            }
            #[cfg(test)]
            Side::Simulated { broker, consumer } => {
                let channel = broker.open(&queue, PREFETCH.into());
                *consumer = Some((channel.clone(), Acks::simulated(channel)));
            }
        }
        self.note("open");
    }

    async fn close(&mut self) {
        match &mut self.side {
            Side::Real { consumer, .. } => {
                if let Some(consumer) = consumer.take() {
                    let _gone_counts_too = consumer.channel.close(200, "bye".into()).await;
                }
            }
            #[cfg(test)]
            Side::Simulated { consumer, .. } => {
                if let Some((channel, _)) = consumer.take() {
                    channel.end().await;
                }
            }
        }
        self.note("close");
    }

    /// The next delivery, with the number of those that it has behind it.
    async fn next(&mut self) -> Option<Delivery> {
        let next = async {
            match &mut self.side {
                Side::Real { consumer, .. } => consumer.as_mut()?.next().await.ok()?,
                #[cfg(test)]
                Side::Simulated { consumer, .. } => {
                    let (channel, acks) = consumer.as_ref()?;
                    let (tag, message) = channel.next().await;
                    Some(Delivery::from(Parts {
                        body: message.body,
                        properties: message.properties,
                        origin: Origin::Jobs,
                        received: clock::received(),
                        accepted: None,
                        guard: acks.guard(tag),
                    }))
                }
            }
        };
        let next = tokio::time::timeout(PATIENCE, next).await.ok().flatten();
        let shown = next.as_ref().map(|next| {
            let body = String::from_utf8_lossy(&next.body).into_owned();
            (body, next.redeliveries())
        });
        self.note(&format!("next {shown:?}"));
        next
    }

    /// Settles deliveries: those that aren't acknowledged come again.
    async fn settle(
        &mut self,
        acknowledged: Vec<Option<Delivery>>,
        returned: Vec<Option<Delivery>>,
    ) {
        drop(returned);
        let guards = acknowledged.into_iter().flatten().map(Delivery::into_guard);
        ack::acknowledge(guards.collect()).await;
        let acks = match &self.side {
            Side::Real { consumer, .. } => consumer.as_ref().map(|consumer| consumer.acks.clone()),
            #[cfg(test)]
            Side::Simulated { consumer, .. } => consumer.as_ref().map(|(_, acks)| acks.clone()),
        };
        if let Some(acks) = acks {
            acks.flush(true).await;
        }
    }

    fn note(&mut self, line: &str) {
        // Writing to a text doesn't fail.
        let _written = writeln!(self.lines, "{line}");
    }

    async fn run(mut self) -> String {
        let (jobs, retry) = (
            self.topology.jobs.clone(),
            self.topology.retry(Origin::Jobs, 1),
        );
        for body in ["a", "b", "c", "d"] {
            self.publish(&jobs, body).await;
        }
        self.open().await;
        let (a, b, c) = (self.next().await, self.next().await, self.next().await);
        // Behind one that is open: each by itself. There is room for another then.
        self.settle(vec![b, c], Vec::new()).await;
        let d = self.next().await;
        self.settle(Vec::new(), vec![a]).await;
        let a = self.next().await;
        self.settle(Vec::new(), vec![a]).await;
        let a = self.next().await;
        self.settle(vec![a], Vec::new()).await;
        // What isn't settled comes again when its channel is gone.
        self.close().await;
        drop(d);
        self.open().await;
        let d = self.next().await;
        self.settle(vec![d], Vec::new()).await;
        self.publish(&retry, "e").await;
        let e = self.next().await;
        self.publish(&jobs, "f").await;
        let f = self.next().await;
        self.settle(vec![e, f], Vec::new()).await;
        self.close().await;
        self.publish(&jobs, "g").await;
        self.open().await;
        let g = self.next().await;
        self.settle(vec![g], Vec::new()).await;
        self.lines
    }
}

fn topology() -> Topology {
    let retry = Retry {
        delays_ms: vec![200],
        ..Retry::default()
    };
    Topology::new(&Queues::default(), &retry)
}

/// Runs every case on a broker without queues, and gives what came of it.
pub async fn rabbitmq(url: &str) -> String {
    let settings = Amqp::default();
    let broker = Broker::new(&Secret::new(url), &settings);
    let limit = broker.timeout();
    let Ok(connection) = broker.connect("consume").await else {
        return "no connection".to_owned();
    };
    let topology = topology();
    if topology.declare(&connection, limit, limit).await.is_err() {
        return "no queues".to_owned();
    }
    let stop = CancellationToken::new();
    let (publisher, task) = publisher::must_arrive(broker, limit, Metrics::new());
    let cases = Cases {
        side: Side::Real {
            connection: Box::new(connection),
            publisher: Box::new(publisher),
            consumer: None,
        },
        topology,
        lines: String::new(),
    };
    let publishing = Arc::new(task).run(stop.clone());
    let running = async {
        let lines = cases.run().await;
        stop.cancel();
        lines
    };
    tokio::join!(running, publishing).0
}

/// The same on the stand-in.
#[cfg(test)]
pub async fn simulated(broker: SimulatedBroker) -> String {
    let cases = Cases {
        side: Side::Simulated {
            broker,
            consumer: None,
        },
        topology: topology(),
        lines: String::new(),
    };
    cases.run().await
}
