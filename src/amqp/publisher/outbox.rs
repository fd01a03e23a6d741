//! Owns which message is published next, and what follows from each answer. No I/O: its caller writes what it is given, and reports
//! what came of it.
//!
//! Promises that queues take turns; that nothing which happens to one queue's messages holds up another's; that where the broker
//! closes a channel, exactly the message which made it do so is blamed; and that every message ends, or is tried again until it does.

mod fate;
#[cfg(test)]
mod tests;

use super::{
    entry::{End, Entry},
    flights::{Flight, Flights, Route},
    line::{Line, Step},
    notices::Change,
    verdict::{Standing, Why},
};
use crate::telemetry::metrics::{Metrics, ReplyOutcome};
use fate::Renewals;
use lapin::{BasicProperties, types::ShortString};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

/// Queues that are known to refuse messages.
const KNOWN: usize = 256;
/// Failed tries of a queue's first message after which the publisher counts as stuck.
const STUCK_TRIES: u32 = 3;
/// How long the publisher counts as one that may not publish after the broker has said so: nobody says when it is granted.
const DENIED: Duration = Duration::from_secs(30);
/// Messages of one queue among which those are looked for that nobody waits for any more.
const WITHDRAWN: usize = 16;

/// How messages are treated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    /// Whether they are tried until they have arrived.
    pub must_arrive: bool,
    /// How long a message may be unconfirmed before that means something.
    pub patience: Duration,
}

/// A message to write.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub number: u64,
    pub queue: ShortString,
    pub body: Arc<Vec<u8>>,
    pub properties: BasicProperties,
}

/// The messages of one publisher.
#[derive(Debug)]
pub(super) struct Outbox {
    policy: Policy,
    metrics: Metrics,
    /// The number of the last message that was written.
    last: u64,
    lines: HashMap<ShortString, Line>,
    /// Lines that may have a turn.
    turns: VecDeque<ShortString>,
    flights: Flights,
    /// Replies that were given up unconfirmed.
    abandoned: HashMap<u64, (ShortString, Route)>,
    resting: BTreeMap<(Instant, u64), Entry>,
    rested: u64,
    /// Messages to be tried alone.
    suspects: VecDeque<Entry>,
    /// The one that is.
    trial: Option<(u64, Entry)>,
    /// The highest number that the broker has answered on the main channel: those below were no reason to close it.
    answered_to: u64,
    /// When the broker last answered on this connection.
    last_answer: Option<Instant>,
    /// When a connection was last lost.
    lost_at: Option<Instant>,
    /// When one was last given up because nothing was confirmed.
    given_up: Option<Instant>,
    /// Whether a refusal may be the main channel's fault.
    renewals: Renewals,
    /// The largest message that the broker takes, as far as it has said so on this connection.
    max_bytes: Option<usize>,
    /// What was last logged of that.
    said_max_bytes: Option<usize>,
    /// What the broker said when it last refused the right to publish, and when.
    denied: Option<(String, Instant)>,
    /// Queues that refuse messages, the longest known first.
    refusing: VecDeque<ShortString>,
    changes: Vec<Change>,
}

impl Outbox {
    pub(super) fn new(policy: Policy, metrics: Metrics) -> Self {
        Self {
            policy,
            metrics,
            last: 0,
            lines: HashMap::new(),
            turns: VecDeque::new(),
            flights: Flights::default(),
            abandoned: HashMap::new(),
            resting: BTreeMap::new(),
            rested: 0,
            suspects: VecDeque::new(),
            trial: None,
            answered_to: 0,
            last_answer: None,
            lost_at: None,
            given_up: None,
            renewals: Renewals::default(),
            max_bytes: None,
            said_max_bytes: None,
            denied: None,
            refusing: VecDeque::new(),
            changes: Vec::new(),
        }
    }

    /// Takes a message that was handed over.
    pub(super) fn push(&mut self, entry: Entry) {
        let queue = entry.queue.clone();
        let line = self.lines.entry(queue.clone()).or_default();
        if line.waiting.len() % WITHDRAWN == WITHDRAWN - 1 {
            line.waiting.retain(|entry| !entry.is_withdrawn());
        }
        line.waiting.push_back(entry);
        self.requeue(&queue);
    }

    /// The next message to publish beside others, which counts as written from now on.
    pub(super) fn next(&mut self, now: Instant) -> Option<Outgoing> {
        while let Some(queue) = self.turns.pop_front() {
            let Some(line) = self.lines.get_mut(&queue) else {
                continue;
            };
            line.is_queued = false;
            while line.waiting.front().is_some_and(Entry::is_withdrawn) {
                line.waiting.pop_front();
            }
            let Some(first) = line.waiting.front_mut() else {
                self.tidy(&queue);
                continue;
            };
            if self.max_bytes.is_some_and(|max| first.bytes() > max) && !first.shorten() {
                let large = line.waiting.pop_front();
                self.end_all(large, End::TooLarge);
                self.requeue(&queue);
                continue;
            }
            let bytes = first.bytes();
            match line.step(self.policy.must_arrive, bytes, now) {
                Step::Main if !self.flights.have_room(bytes) => {
                    line.is_queued = true;
                    self.turns.push_front(queue);
                    return None;
                }
                Step::Main => {
                    let entry = line.waiting.pop_front()?;
                    let outgoing = self.take_off(entry, now);
                    self.requeue(&queue);
                    return Some(outgoing);
                }
                Step::Alone => {
                    let entry = line.waiting.pop_front();
                    line.alone += 1;
                    self.suspects.extend(entry);
                    self.requeue(&queue);
                }
                Step::End(end) => {
                    let all = std::mem::take(&mut line.waiting);
                    self.end_all(all, end);
                    self.tidy(&queue);
                }
                // Whatever it waits for gives it a turn.
                Step::Wait => {}
            }
        }
        None
    }

    /// The next message to publish alone; one at a time, until its trial has ended.
    pub(super) fn next_suspect(&mut self) -> Option<Outgoing> {
        while self.trial.is_none() {
            let entry = self.suspects.pop_front()?;
            if entry.is_withdrawn() {
                self.left_alone(&entry.queue.clone());
                continue;
            }
            self.last += 1;
            let outgoing = Outgoing::of(self.last, &entry);
            self.trial = Some((self.last, entry));
            return Some(outgoing);
        }
        None
    }

    /// Notes the time. Returns whether the connection is to be given up: something is unconfirmed for long, and so is all that was
    /// written since. While the broker `blocks`, time doesn't count.
    pub(super) fn tick(&mut self, now: Instant, blocks: bool) -> bool {
        while let Some(first) = self.resting.first_entry() {
            if first.key().0 > now {
                break;
            }
            let entry = first.remove();
            if let Some(line) = self.lines.get_mut(&entry.queue) {
                line.resting -= 1;
            }
            self.back(entry);
        }
        if self.policy.must_arrive {
            self.retry_due(now);
        }
        self.denied.take_if(|(_, at)| *at + DENIED <= now);
        if blocks {
            return false;
        }
        for number in self.flights.newly_late(now) {
            let flight = self.flights.get_mut(number);
            let line = flight.and_then(|flight| self.lines.get_mut(&flight.entry.queue));
            if let Some(line) = line {
                line.late += 1;
            }
        }
        let overdue = self.flights.newly_overdue(now, self.policy.patience);
        let mut give_up = false;
        for number in overdue {
            give_up |= self.overdue(number, now);
        }
        give_up
    }

    /// When [`Outbox::tick`] has something to do next.
    pub(super) fn wake_at(&self, blocks: bool) -> Option<Instant> {
        let rest = self.resting.keys().next().map(|(at, _)| *at);
        let retry = if self.policy.must_arrive {
            self.lines.values().filter_map(|line| line.retry_at).min()
        } else {
            None
        };
        let flight = if blocks {
            None
        } else {
            self.flights.deadline(self.policy.patience)
        };
        rest.into_iter().chain(retry).chain(flight).min()
    }

    /// The broker takes messages again.
    pub(super) fn unblocked(&mut self, now: Instant) {
        self.flights.start_anew(now);
    }

    /// Why what is published doesn't arrive although the connection works; nothing where it does.
    pub(super) fn trouble(&self) -> Option<String> {
        if let Some((denied, _)) = &self.denied {
            return Some(denied.clone());
        }
        let stuck = |line: &Line| match line.standing {
            _ if line.is_idle() => false,
            Standing::Refusing(Why::Silent) => true,
            Standing::Refusing(_) => line.backoff.attempts() >= STUCK_TRIES,
            Standing::Taking => false,
        };
        if !self.policy.must_arrive || self.refusing.is_empty() {
            return None;
        }
        let stuck = self.lines.iter().filter(|(_, line)| stuck(line));
        let (queue, line) = stuck.min_by_key(|(queue, _)| queue.as_str())?;
        match line.standing {
            Standing::Refusing(why) => Some(format!("queue `{queue}`: {}", why.as_str())),
            Standing::Taking => None,
        }
    }

    /// What is to be logged.
    pub(super) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Whether nothing that was written on the main channel is unanswered.
    pub(super) fn main_is_empty(&self) -> bool {
        self.flights.len() == 0 || self.flights.on(Route::Main).is_empty()
    }

    /// Forgets what nobody waits for any more: while the broker is away, nothing else would.
    pub(super) fn forget_withdrawn(&mut self) {
        for line in self.lines.values_mut() {
            line.waiting.retain(|entry| !entry.is_withdrawn());
        }
    }

    /// Counts a message as written.
    fn take_off(&mut self, entry: Entry, now: Instant) -> Outgoing {
        self.last += 1;
        let outgoing = Outgoing::of(self.last, &entry);
        self.fly(self.last, entry, Route::Main, now);
        outgoing
    }

    fn fly(&mut self, number: u64, entry: Entry, route: Route, now: Instant) {
        if let Some(line) = self.lines.get_mut(&entry.queue) {
            line.in_flight += 1;
            line.bytes += entry.bytes();
        }
        self.flights.add(number, entry, route, now);
    }

    /// Takes a message out of those in flight.
    fn land(&mut self, number: u64) -> Option<Flight> {
        let flight = self.flights.remove(number)?;
        if let Some(line) = self.lines.get_mut(&flight.entry.queue) {
            line.in_flight -= 1;
            line.bytes -= flight.entry.bytes();
            line.late -= usize::from(flight.is_late);
        }
        Some(flight)
    }

    /// Puts a message back, as the first of its line.
    fn back(&mut self, entry: Entry) {
        let queue = entry.queue.clone();
        let line = self.lines.entry(queue.clone()).or_default();
        line.waiting.push_front(entry);
        self.requeue(&queue);
    }

    /// Gives a line a turn if something of it waits, and forgets it if nothing is left to know.
    fn requeue(&mut self, queue: &ShortString) {
        let Some(line) = self.lines.get_mut(queue) else {
            return;
        };
        if line.waiting.is_empty() {
            self.tidy(queue);
        } else if !line.is_queued {
            line.is_queued = true;
            self.turns.push_back(queue.clone());
        }
    }

    fn tidy(&mut self, queue: &ShortString) {
        let taking = |line: &Line| line.standing == Standing::Taking && line.is_idle();
        if self.lines.get(queue).is_some_and(taking) {
            self.lines.remove(queue);
        }
    }

    /// A message of the line isn't tried alone any more.
    fn left_alone(&mut self, queue: &ShortString) {
        if let Some(line) = self.lines.get_mut(queue) {
            line.alone -= 1;
        }
        self.requeue(queue);
    }

    fn end_all(&self, entries: impl IntoIterator<Item = Entry>, end: End) {
        entries
            .into_iter()
            .for_each(|entry| self.finish(entry, end));
    }

    fn finish(&self, entry: Entry, end: End) {
        if !self.policy.must_arrive {
            self.metrics.reply(ReplyOutcome::from(end));
        }
        entry.end(end);
    }
}

impl Outgoing {
    fn of(number: u64, entry: &Entry) -> Self {
        Self {
            number,
            queue: entry.queue.clone(),
            body: entry.body.clone(),
            properties: entry.properties.clone(),
        }
    }
}

impl From<End> for ReplyOutcome {
    fn from(end: End) -> Self {
        match end {
            End::Sent => Self::Sent,
            End::SentBrief => Self::SentWithoutResults,
            End::Unroutable => Self::Unroutable,
            End::Refused => Self::Refused,
            End::Unconfirmed => Self::Unconfirmed,
            End::TooLarge => Self::TooLarge,
        }
    }
}
