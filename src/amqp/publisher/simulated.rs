//! Owns the publishers of a simulation: the same outbox, over connections to the stand-in of RabbitMQ that break by a seed.
//!
//! Promises that each connection takes messages in their order, as a broker does, and may break before it takes one, or after that and
//! before its confirm is heard.

use super::{
    Outlet, Publisher, Replies,
    entry::Entry,
    outbox::{Outbox, Outgoing, Policy},
    status,
};
use crate::{
    amqp::{confirm::PublishOutcome, connection::Broker, simulated::SimulatedBroker},
    clock,
    config::Amqp,
    secret::Secret,
    simulated::{Chance, log},
    telemetry::metrics::Metrics,
};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How long a message may be unconfirmed.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest wait for anything to happen.
const TICK: Duration = Duration::from_secs(1);

/// What publishers publish over.
#[derive(Clone)]
pub struct Line {
    pub broker: SimulatedBroker,
    pub chance: Chance,
    /// Ends them.
    pub gone: CancellationToken,
}

/// The two publishers of a worker.
pub fn publishers(line: &Line, metrics: &Metrics) -> (Publisher, Replies) {
    (
        Publisher(outlet(line, true, metrics)),
        Replies(outlet(line, false, metrics)),
    )
}

fn outlet(line: &Line, must_arrive: bool, metrics: &Metrics) -> Outlet {
    let (sender, inbox) = mpsc::unbounded_channel();
    let policy = Policy {
        must_arrive,
        patience: PATIENCE,
    };
    let outbox = Outbox::new(policy, metrics.clone());
    let line = Line {
        chance: line.chance.apart(),
        ..line.clone()
    };
    tokio::spawn(run(line, inbox, outbox));
    Outlet {
        broker: Broker::new(&Secret::new("amqp://nowhere"), &Amqp::default()),
        inbox: sender,
        status: status::channel().1,
    }
}

async fn run(line: Line, mut inbox: mpsc::UnboundedReceiver<Entry>, mut outbox: Outbox) {
    loop {
        let mut wire = Wire::open(&line);
        loop {
            let now = clock::instant();
            while let Ok(entry) = inbox.try_recv() {
                outbox.push(entry);
            }
            if wire.cut.is_cancelled() || outbox.tick(now, false) {
                break;
            }
            if outbox.take_stale() {
                wire = Wire::open(&line);
            }
            while let Some(message) = outbox.next(now) {
                wire.write(message);
            }
            if let Some(message) = outbox.next_suspect() {
                wire.write(message);
                outbox.cleared(now);
            }
            outbox.take_changes();
            let wake_at = outbox
                .wake_at(false)
                .map_or(now + TICK, |at| at.min(now + TICK));
            tokio::select! {
                biased;
                () = line.gone.cancelled() => return,
                Some((number, outcome)) = wire.answers.recv() => {
                    outbox.answered(number, outcome, clock::instant());
                }
                entry = inbox.recv() => match entry {
                    Some(entry) => outbox.push(entry),
                    None => return,
                },
                () = wire.cut.cancelled() => {}
                () = tokio::time::sleep_until(wake_at.into()) => {}
            }
        }
        log(|| "a publisher loses its connection".to_owned());
        wire.cut.cancel();
        outbox.lost(clock::instant());
        outbox.forget_withdrawn();
        tokio::time::sleep(line.chance.millis(50..500)).await;
    }
}

/// One connection.
struct Wire {
    written: mpsc::UnboundedSender<Outgoing>,
    answers: mpsc::UnboundedReceiver<(u64, PublishOutcome)>,
    cut: CancellationToken,
}

impl Wire {
    fn open(line: &Line) -> Self {
        let (written, messages) = mpsc::unbounded_channel();
        let (answer, answers) = mpsc::unbounded_channel();
        let cut = line.broker.cut().child_token();
        if line.chance.fails(400) {
            let (cut, life) = (cut.clone(), line.chance.millis(1..3_000));
            tokio::spawn(async move {
                tokio::time::sleep(life).await;
                cut.cancel();
            });
        }
        tokio::spawn(take(line.clone(), messages, answer, cut.clone()));
        Self {
            written,
            answers,
            cut,
        }
    }

    fn write(&self, message: Outgoing) {
        // Whoever takes them has gone with the connection.
        let _unsent = self.written.send(message);
    }
}

/// The broker's side of one connection.
async fn take(
    line: Line,
    mut messages: mpsc::UnboundedReceiver<Outgoing>,
    answer: mpsc::UnboundedSender<(u64, PublishOutcome)>,
    cut: CancellationToken,
) {
    while let Some(message) = messages.recv().await {
        tokio::time::sleep(line.chance.delay()).await;
        if cut.is_cancelled() || line.gone.is_cancelled() {
            return;
        }
        let (number, queue) = (message.number, message.queue.as_str());
        let body = message.body.as_ref().clone();
        let outcome = line.broker.publish(queue, body, message.properties);
        log(|| format!("rabbitmq takes a message for {queue}: {outcome:?}"));
        let (answer, cut, time) = (answer.clone(), cut.clone(), line.chance.delay());
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            if !cut.is_cancelled() {
                // Nobody listens to a connection that was given up.
                let _unheard = answer.send((number, outcome));
            }
        });
    }
}
