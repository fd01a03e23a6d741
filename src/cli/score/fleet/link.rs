//! Owns a run's jobs on their way out and its replies on their way in, over as many sessions as it takes.
//!
//! Promises that a job is posted anew only where the broker hasn't confirmed it, or where its reply is lost; and that a reply is acknowledged
//! once, when nothing needs it any more.

use super::{
    Journal, Place, State,
    answer::Reply,
    quiet::Quiet,
    session::{self, Event, Session},
};
use crate::{
    amqp::{
        confirm::PublishOutcome,
        connection::Broker,
        message::Message,
        topology::{QueueSpec, Topology, TopologyError},
    },
    backoff::Backoff,
    cli::{score::item::Position, submit::Queue},
    config::{self, Settings},
    parts,
    store::PostgresStore,
};
use anyhow::{anyhow, bail};
use indicatif::ProgressBar;
use lapin::{Acker, message::Delivery, types::ShortString};
use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

/// Longest wait for the end of what is open when a run ends.
pub(super) const GOODBYE: Duration = Duration::from_secs(15);
/// Longest wait for the replies of a run that was cancelled.
const DRAIN: Duration = Duration::from_secs(8);
/// How often is looked at what waits.
const LOOK: Duration = Duration::from_secs(1);
/// Shortest wait before the broker is connected to again.
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// A job to post.
pub(super) struct Ask {
    pub key: String,
    pub id: String,
    pub body: Vec<u8>,
    /// Its part of the replies that are kept until their rows are durable; without one, its reply is let go at once.
    pub window: Option<OwnedSemaphorePermit>,
    /// Its part of what may be in flight.
    pub held: (Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>),
    pub answer: oneshot::Sender<Reply>,
}

/// What is said to a link beside jobs.
pub(super) enum Control {
    /// Rows up to here are durable.
    Kept(Position),
    /// The run ends; `is_over` where nothing of it is wanted any more.
    End {
        is_over: bool,
        done: oneshot::Sender<()>,
    },
}

/// How far a job's message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Posting {
    /// To be posted.
    No,
    /// Its confirm is missing.
    Sent,
    /// The broker has it, or has had it.
    Yes,
}

/// A job without an answer.
pub(super) struct Open {
    pub message: Message,
    pub id: String,
    pub posting: Posting,
    pub window: Option<OwnedSemaphorePermit>,
    _held: (Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>),
    pub answer: oneshot::Sender<Reply>,
}

/// A job that is answered, and whose rows aren't durable.
pub(super) struct Held {
    /// None where its reply is at the broker again, since the session was lost on which it came.
    pub acker: Option<Acker>,
    pub _window: OwnedSemaphorePermit,
}

/// A run's jobs and replies.
pub(super) struct Link {
    pub(super) broker: Broker,
    topology: Topology,
    pub(super) run: String,
    pub(super) jobs: ShortString,
    replies: QueueSpec,
    reply_to: ShortString,
    pub(super) store: Option<PostgresStore>,
    pub(super) journal: Option<Journal>,
    pub(super) kept: Position,
    /// By their keys' places, so that the earliest is posted first.
    pub(super) open: BTreeMap<(Option<Place>, String), Open>,
    pub(super) held: HashMap<String, Held>,
    pub(super) early: HashMap<String, Delivery>,
    pub(super) early_bytes: usize,
    bar: ProgressBar,
    max_backoff: Duration,
    pub(super) quiet: Quiet,
}

impl Link {
    /// A link of a run, not connected yet.
    pub fn new(
        settings: &Settings,
        run: &str,
        queue: Queue,
        store: Option<PostgresStore>,
        (journal, kept): (Option<Journal>, Position),
        bar: ProgressBar,
    ) -> anyhow::Result<Self> {
        let topology = Topology::new(&settings.queues, &settings.retry);
        let jobs = match queue {
            Queue::Jobs => topology.jobs.as_str(),
            Queue::Warm => topology.warm.as_str(),
        };
        let replies = topology.run(run);
        Ok(Self {
            broker: parts::broker(settings)?,
            jobs: ShortString::try_new(jobs)?,
            reply_to: ShortString::try_new(replies.name.as_str())?,
            replies,
            topology,
            run: run.to_owned(),
            store,
            journal,
            kept,
            open: BTreeMap::new(),
            held: HashMap::new(),
            early: HashMap::new(),
            early_bytes: 0,
            bar,
            max_backoff: config::ms(settings.amqp.max_backoff_ms),
            quiet: Quiet::new(),
        })
    }

    /// Connects.
    pub async fn open_session(&self) -> anyhow::Result<Session> {
        let jobs = self.jobs.as_str();
        Session::open(&self.broker, &self.topology, jobs, &self.replies).await
    }

    /// Posts and collects until the end is said.
    pub async fn run(
        mut self,
        mut session: Session,
        mut asks: mpsc::Receiver<Ask>,
        mut control: mpsc::Receiver<Control>,
        state: watch::Sender<State>,
    ) {
        loop {
            let served = self
                .serve(&mut session, &mut asks, &mut control, &state)
                .await;
            let lost = match served {
                Ok((is_over, done)) => {
                    if is_over {
                        session.delete(&self.replies.name).await;
                    }
                    session.close().await;
                    // Who has asked may have given up.
                    let _unheard = done.send(());
                    return;
                }
                Err(lost) => lost,
            };
            self.lose();
            match self.open_again(lost).await {
                Ok(new) => session = new,
                Err(hopeless) => {
                    state.send_replace(State::Failed(format!("{hopeless:#}")));
                    return;
                }
            }
        }
    }

    /// What a session took with it.
    fn lose(&mut self) {
        for open in self.open.values_mut() {
            if open.posting == Posting::Sent {
                open.posting = Posting::No;
            }
        }
        for held in self.held.values_mut() {
            held.acker = None;
        }
        self.early.clear();
        self.early_bytes = 0;
    }

    /// Connects again, however long that takes.
    async fn open_again(&self, lost: anyhow::Error) -> anyhow::Result<Session> {
        let mut backoff = Backoff::new(FIRST_WAIT, self.max_backoff);
        self.say(&format!(
            "the connection to the broker was lost and is made again: {lost:#}"
        ));
        loop {
            tokio::time::sleep(backoff.next_wait()).await;
            match self.open_session().await {
                Ok(session) => return Ok(session),
                Err(error) => {
                    if let Some(TopologyError::Mismatch { .. }) = error.downcast_ref() {
                        return Err(error);
                    }
                }
            }
        }
    }

    pub(super) fn say(&self, what: &str) {
        self.bar.suspend(|| eprintln!("kiln: {what}"));
    }

    /// Works on one session. An error means that it is lost.
    async fn serve(
        &mut self,
        session: &mut Session,
        asks: &mut mpsc::Receiver<Ask>,
        control: &mut mpsc::Receiver<Control>,
        state: &watch::Sender<State>,
    ) -> anyhow::Result<(bool, oneshot::Sender<()>)> {
        let mut tick = tokio::time::interval(LOOK);
        let mut ending: Option<(Instant, bool, oneshot::Sender<()>)> = None;
        self.post_all(session).await?;
        loop {
            if let Some((end, ..)) = &ending
                && (self.open.is_empty() || *end <= Instant::now())
                && let Some((_, is_over, done)) = ending.take()
            {
                return Ok((is_over, done));
            }
            tokio::select! {
                said = control.recv() => match said {
                    Some(Control::Kept(end)) => self.let_go(end).await?,
                    Some(Control::End { is_over, done }) => {
                        let drains = *state.borrow() == State::Cancelled;
                        self.open.retain(|_, open| open.posting != Posting::No);
                        let wait = if drains { DRAIN } else { Duration::ZERO };
                        ending = Some((Instant::now() + wait, is_over, done));
                    }
                    None => bail!("nobody collects any more"),
                },
                Some(ask) = asks.recv(), if ending.is_none() => self.take(session, ask).await?,
                event = session.next() => match event? {
                    Event::Confirmed(key, outcome) => self.confirmed(&key, outcome)?,
                    Event::Reply(delivery) => self.reply(*delivery, state).await?,
                },
                _ = tick.tick() => {
                    if ending.is_none() {
                        self.post_all(session).await?;
                    }
                    self.look(session).await?;
                }
            }
        }
    }

    pub(super) fn spot(&self, key: String) -> (Option<Place>, String) {
        (Place::of_key(&key, &self.run), key)
    }

    /// Takes a job: answers it from what is here already, waits where an earlier process has posted it, or else posts it.
    async fn take(&mut self, session: &mut Session, ask: Ask) -> anyhow::Result<()> {
        let queues = (&self.jobs, &self.reply_to);
        let message = session::job(&self.run, queues, (&ask.key, &ask.id), ask.body);
        let is_posted = self
            .journal
            .as_ref()
            .is_some_and(|journal| ask.window.is_some() && journal.knows(&ask.key));
        let posting = if is_posted { Posting::Yes } else { Posting::No };
        let open = Open {
            message,
            id: ask.id,
            posting,
            window: ask.window,
            _held: ask.held,
            answer: ask.answer,
        };
        if let Some(delivery) = self.early.remove(&ask.key) {
            self.early_bytes = self.early_bytes.saturating_sub(delivery.data.len());
            return self.answer(ask.key, open, delivery).await;
        }
        let spot = self.spot(ask.key);
        self.open.insert(spot.clone(), open);
        if !is_posted {
            self.quiet.something_happened();
            self.send(session, &spot).await?;
        }
        Ok(())
    }

    async fn send(
        &mut self,
        session: &mut Session,
        spot: &(Option<Place>, String),
    ) -> anyhow::Result<()> {
        let Some(open) = self.open.get_mut(spot) else {
            return Ok(());
        };
        open.posting = Posting::Sent;
        session.send(&spot.1, &open.message).await
    }

    /// Posts what is to be posted.
    async fn post_all(&mut self, session: &mut Session) -> anyhow::Result<()> {
        let unposted = self.open.iter();
        let unposted = unposted.filter(|(_, open)| open.posting == Posting::No);
        let unposted: Vec<_> = unposted.map(|(spot, _)| spot.clone()).collect();
        for spot in unposted {
            self.send(session, &spot).await?;
        }
        Ok(())
    }

    fn confirmed(&mut self, key: &str, outcome: PublishOutcome) -> anyhow::Result<()> {
        let spot = self.spot(key.to_owned());
        let Some(open) = self.open.get_mut(&spot) else {
            // It was answered before its confirm came.
            return Ok(());
        };
        match outcome {
            PublishOutcome::Confirmed => {
                open.posting = Posting::Yes;
                if open.window.is_some() {
                    self.list(key);
                }
                Ok(())
            }
            PublishOutcome::Unroutable => Err(anyhow!("queue `{}` is gone", self.jobs)),
            // It is full: the next look tries again.
            PublishOutcome::Refused => {
                open.posting = Posting::No;
                Ok(())
            }
        }
    }
}
