//! Keeps one publisher's connection up, and carries its messages over it.
//!
//! Promises to connect again whenever the connection is lost, and to lose no message by that. Refuses to decide what follows from an
//! answer: that is the [`Outbox`]'s.

use super::{
    answers,
    entry::Entry,
    notices::Notices,
    outbox::{Outbox, Outgoing, Policy},
    status::{self, PublisherState, PublisherStatus},
    wire::{self, Wire},
};
use crate::{
    amqp::{confirms::Ended, connection::Broker},
    backoff::Backoff,
    telemetry::metrics::{Metrics, PublisherKind},
};
use futures_util::{FutureExt, Stream, StreamExt, future::BoxFuture};
use lapin::{Connection, Event};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Longest goodbye to the broker.
const GOODBYE: Duration = Duration::from_secs(1);
/// Longest wait for anything to happen: the clock is looked at then.
const TICK: Duration = Duration::from_secs(1);

/// Keeps a publisher's connection up.
#[derive(Debug)]
pub struct PublisherTask {
    broker: Broker,
    kind: PublisherKind,
    max_backoff: Duration,
    metrics: Metrics,
    status: watch::Sender<PublisherStatus>,
    mail: Mutex<Mail>,
}

/// The messages: those that were just handed over, and all others.
#[derive(Debug)]
struct Mail {
    inbox: mpsc::UnboundedReceiver<Entry>,
    outbox: Outbox,
    notices: Notices,
}

/// What a connection consists of.
struct Link<'a> {
    connection: &'a Connection,
    /// For messages beside each other; none while it is to be opened.
    main: Option<Wire>,
    /// For messages that are tried alone.
    alone: Option<Wire>,
    trial: Option<Trial>,
    /// Why the broker takes no messages now.
    blocked: Option<String>,
}

/// A message that is tried alone.
struct Trial {
    /// Ends well when it was no reason to close the channel. If it was, its confirm says so.
    cleared: BoxFuture<'static, Result<(), lapin::Error>>,
    /// When the broker is to have answered.
    until: Instant,
}

/// What a connection waits for.
enum Happened {
    Handed,
    Broker(Option<Event>),
    Main(Ended<lapin::Error>),
    Alone(Ended<lapin::Error>),
    Tried(Result<(), lapin::Error>),
    Time,
}

impl PublisherTask {
    pub(super) fn new(
        broker: Broker,
        kind: PublisherKind,
        policy: Policy,
        max_backoff: Duration,
        metrics: Metrics,
        inbox: mpsc::UnboundedReceiver<Entry>,
        status: watch::Sender<PublisherStatus>,
    ) -> Self {
        let mail = Mail {
            inbox,
            outbox: Outbox::new(policy, metrics.clone()),
            notices: Notices::default(),
        };
        Self {
            broker,
            kind,
            max_backoff,
            metrics,
            status,
            mail: Mutex::new(mail),
        }
    }

    /// Connects, and connects again whenever the connection is lost, until it is asked to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        let mut mail = self.mail.lock().await;
        let mut backoff = Backoff::new(Duration::from_millis(100), self.max_backoff);
        while !stop.is_cancelled() {
            let connecting = self.broker.connect(self.kind.as_str());
            match stop.run_until_cancelled(connecting).await {
                None => break,
                Some(Ok(connection)) => {
                    let begun = Instant::now();
                    let carrying = self.carry(&mut mail, &connection);
                    if let Some(reason) = stop.run_until_cancelled(carrying).await {
                        tracing::debug!(
                            publisher = self.kind.as_str(),
                            reason,
                            "a publishing connection was lost"
                        );
                        self.metrics.reconnect();
                        self.note(PublisherState::Down(reason));
                    }
                    mail.outbox.lost(Instant::now());
                    if begun.elapsed() > self.max_backoff {
                        backoff.reset();
                    }
                    // The broker may hang: closing must not hold the next connection up.
                    let goodbye = connection.close(200, "bye".into());
                    let _closed = tokio::time::timeout(GOODBYE, goodbye).await;
                }
                Some(Err(error)) => self.note(PublisherState::Down(error.to_string())),
            }
            mail.take_in();
            mail.outbox.forget_withdrawn();
            let rest = tokio::time::sleep(backoff.next_wait());
            stop.run_until_cancelled(rest).await;
        }
        Ok(())
    }

    /// Carries messages for as long as the connection lasts. Returns why it doesn't any more.
    async fn carry(&self, mail: &mut Mail, connection: &Connection) -> String {
        let mut events = Box::pin(connection.events_listener());
        let mut link = Link {
            connection,
            main: None,
            alone: None,
            trial: None,
            blocked: None,
        };
        let reason = loop {
            mail.take_in();
            if let Err(reason) = self.write(mail, &mut link).await {
                break reason;
            }
            self.report(mail, &link);
            let happened = link.wait(mail, &mut events).await;
            if let Err(reason) = self.take(mail, &mut link, happened) {
                break reason;
            }
        };
        link.hear_last(&mut mail.outbox);
        reason
    }

    /// Writes what may be written.
    async fn write(&self, mail: &mut Mail, link: &mut Link<'_>) -> Result<(), String> {
        let (outbox, now) = (&mut mail.outbox, Instant::now());
        let is_blocked = link.blocked.is_some();
        if !link.connection.status().connected() {
            return Err("the connection was lost".to_owned());
        }
        let overdue = link.trial.as_ref().is_some_and(|trial| trial.until <= now);
        if outbox.tick(now, is_blocked) || (overdue && !is_blocked) {
            return Err("the broker doesn't confirm what is published".to_owned());
        }
        if is_blocked {
            return Ok(());
        }
        if outbox.take_stale() {
            link.main = None;
        }
        let is_closed = |wire: &Wire| !wire.is_open();
        if link.main.as_ref().is_none_or(is_closed) && outbox.main_is_empty() {
            outbox.main_gone();
            link.main = Some(self.open(link.connection).await?);
        }
        if let Some(main) = link.main.as_mut().filter(|main| main.is_open()) {
            while let Some(message) = outbox.next(now) {
                main.publish(message);
            }
        }
        if link.trial.is_none()
            && let Some(message) = outbox.next_suspect()
        {
            link.trial = Some(self.try_alone(outbox, link, message).await?);
        }
        Ok(())
    }

    async fn try_alone(
        &self,
        outbox: &mut Outbox,
        link: &mut Link<'_>,
        message: Outgoing,
    ) -> Result<Trial, String> {
        let wire = match link.alone.take().filter(Wire::is_open) {
            Some(wire) => link.alone.insert(wire),
            None => {
                // What the one before still had to say isn't heard any more.
                outbox.alone_gone();
                link.alone.insert(self.open(link.connection).await?)
            }
        };
        Ok(Trial {
            cleared: wire.try_alone(message),
            until: Instant::now() + self.broker.timeout(),
        })
    }

    async fn open(&self, connection: &Connection) -> Result<Wire, String> {
        let wire = Wire::open(&self.broker, connection).await;
        wire.map_err(|error| format!("opening a channel: {error}"))
    }

    /// Draws the conclusions from what happened. An error is why the connection can't go on.
    fn take(&self, mail: &mut Mail, link: &mut Link<'_>, happened: Happened) -> Result<(), String> {
        let (outbox, now) = (&mut mail.outbox, Instant::now());
        match happened {
            Happened::Handed | Happened::Time => {}
            Happened::Broker(event) => return self.event(outbox, link, event, now),
            Happened::Main(ended) => match answers::beside_each_other(outbox, ended, now) {
                Ok(true) => link.main = None,
                Ok(false) => {}
                Err(error) => return Err(self.broker.scrub(&error)),
            },
            Happened::Alone(ended) => {
                let taken = answers::alone(outbox, ended, now);
                taken.map_err(|error| self.broker.scrub(&error))?;
            }
            Happened::Tried(cleared) => {
                link.trial = None;
                if cleared.is_ok() {
                    outbox.cleared(now);
                }
            }
        }
        Ok(())
    }

    fn event(
        &self,
        outbox: &mut Outbox,
        link: &mut Link<'_>,
        event: Option<Event>,
        now: Instant,
    ) -> Result<(), String> {
        match event {
            Some(Event::ConnectionBlocked(reason)) => {
                tracing::warn!(
                    publisher = self.kind.as_str(),
                    reason,
                    "the broker blocks publishers; what is published waits"
                );
                link.blocked = Some(reason);
            }
            Some(Event::ConnectionUnblocked) => {
                tracing::info!(
                    publisher = self.kind.as_str(),
                    "the broker takes messages again"
                );
                link.blocked = None;
                outbox.unblocked(now);
                if let Some(trial) = &mut link.trial {
                    trial.until = now + self.broker.timeout();
                }
            }
            // A channel's error is one as well.
            Some(Event::Error(error)) if !link.connection.status().connected() => {
                return Err(self.broker.scrub(&error));
            }
            Some(_) => {}
            None => return Err("the connection was lost".to_owned()),
        }
        Ok(())
    }

    /// Says what has changed.
    fn report(&self, mail: &mut Mail, link: &Link<'_>) {
        let must_arrive = self.kind == PublisherKind::MustArrive;
        for change in mail.outbox.take_changes() {
            mail.notices.log(&change, must_arrive, Instant::now());
        }
        self.note(match (&link.blocked, mail.outbox.trouble()) {
            (Some(reason), _) => PublisherState::Blocked(reason.clone()),
            (None, Some(trouble)) => PublisherState::Down(trouble),
            (None, None) => PublisherState::Up,
        });
    }

    fn note(&self, state: PublisherState) {
        let up = state == PublisherState::Up;
        if status::note(&self.status, state) {
            self.metrics.publisher(self.kind, up);
        }
    }
}

impl Mail {
    /// Takes what was handed over.
    fn take_in(&mut self) {
        while let Ok(entry) = self.inbox.try_recv() {
            self.outbox.push(entry);
        }
    }
}

impl Link<'_> {
    /// Takes what the broker had answered before the connection was lost: of what happens at the same time, the loss may be seen first. What
    /// was never written can't be any more.
    fn hear_last(&mut self, outbox: &mut Outbox) {
        if self.connection.status().connected() {
            return;
        }
        let now = Instant::now();
        if let Some(ended) = wire::ended(&mut self.main).now_or_never() {
            let _it_is_lost = answers::beside_each_other(outbox, ended, now);
        }
        if let Some(ended) = wire::ended(&mut self.alone).now_or_never() {
            let _it_is_lost = answers::alone(outbox, ended, now);
        }
    }

    /// Waits until something happens.
    async fn wait(
        &mut self,
        mail: &mut Mail,
        events: &mut (impl Stream<Item = Event> + Unpin),
    ) -> Happened {
        let tick = Instant::now() + TICK;
        let wake_at = mail.outbox.wake_at(self.blocked.is_some());
        let wake_at = wake_at.map_or(tick, |at| at.min(tick));
        tokio::select! {
            Some(entry) = mail.inbox.recv() => {
                mail.outbox.push(entry);
                Happened::Handed
            }
            event = events.next() => Happened::Broker(event),
            ended = wire::ended(&mut self.main) => Happened::Main(ended),
            ended = wire::ended(&mut self.alone) => Happened::Alone(ended),
            cleared = cleared(&mut self.trial) => Happened::Tried(cleared),
            () = tokio::time::sleep_until(wake_at.into()) => Happened::Time,
        }
    }
}

async fn cleared(trial: &mut Option<Trial>) -> Result<(), lapin::Error> {
    match trial {
        Some(trial) => (&mut trial.cleared).await,
        None => std::future::pending().await,
    }
}
