//! What follows from the broker's answers, from channels that it closes, and from connections that are lost.

use super::{KNOWN, Outbox, STUCK_TRIES};
use crate::amqp::{
    confirm::PublishOutcome,
    publisher::{
        entry::{End, Entry},
        flights::{Flight, Route},
        line::Line,
        notices::Change,
        verdict::{self, Closing, Failure, Next, Standing, Why},
    },
};
use lapin::types::ShortString;
use std::time::{Duration, Instant};

/// How often a message may be in flight on a channel that is closed before it counts as the reason.
const SUSPECTED: u32 = 4;
/// How long after a loss a refusal may be the channel's fault: where a cluster's node was lost, RabbitMQ 3.10 refuses whatever is published
/// to a queue that the node led, on each channel that was opened before the others knew its new leader, for as long as the node is away.
const UNSETTLED: Duration = Duration::from_secs(90);
/// First rest of a message until it is tried on another channel, and how many it may have, each twice as long: some four seconds in all.
const RENEW: Duration = Duration::from_millis(250);
const RENEWALS: u32 = 4;
/// So long after a connection was given up, a queue is blamed sooner.
const GIVEN_UP: Duration = Duration::from_secs(60);

fn rest(before: u32) -> Duration {
    RENEW.saturating_mul(1 << before.min(16))
}

/// The main channels of one connection that are given up because they refused messages: with each one that is, the next has longer, so
/// that full queues cost the messages of others a few channels at most.
#[derive(Debug, Default)]
pub(super) struct Renewals {
    is_wanted: bool,
    count: u32,
    next_at: Option<Instant>,
}

impl Renewals {
    fn want(&mut self, now: Instant) {
        if self.next_at.is_none_or(|at| at <= now) {
            (self.is_wanted, self.next_at) = (true, Some(now + rest(self.count)));
            self.count += 1;
        }
    }
}

impl Outbox {
    /// The broker's answer to a message.
    pub(in super::super) fn answered(
        &mut self,
        number: u64,
        outcome: PublishOutcome,
        now: Instant,
    ) {
        self.last_answer = Some(now);
        if outcome == PublishOutcome::Confirmed {
            self.denied = None;
        }
        if self
            .trial
            .as_ref()
            .is_some_and(|(tried, _)| *tried == number)
        {
            self.cleared(now);
        }
        if let Some((queue, _)) = self.abandoned.remove(&number) {
            if let Some(line) = self.lines.get_mut(&queue) {
                line.abandoned -= 1;
            }
            if outcome == PublishOutcome::Confirmed {
                self.takes(&queue);
            }
            return self.requeue(&queue);
        }
        let Some(Flight { entry, route, .. }) = self.land(number) else {
            return;
        };
        if route == Route::Main {
            self.answered_to = self.answered_to.max(number);
        }
        let queue = entry.queue.clone();
        match outcome {
            PublishOutcome::Confirmed => {
                self.takes(&queue);
                let end = entry.confirmed();
                self.finish(entry, end);
                self.requeue(&queue);
            }
            PublishOutcome::Unroutable => self.failed(entry, Failure::Returned, now),
            PublishOutcome::Refused => self.failed(entry, Failure::Refused, now),
        }
    }

    /// A message has no answer and is no reason for that: its channel was closing already.
    pub(in super::super) fn unsent(&mut self, number: u64) {
        if let Some((queue, _)) = self.abandoned.remove(&number) {
            if let Some(line) = self.lines.get_mut(&queue) {
                line.abandoned -= 1;
            }
            self.requeue(&queue);
        } else if let Some(flight) = self.land(number) {
            self.back(flight.entry);
        }
    }

    /// The broker closed the main channel, and said why. It works through messages in their order: those before one that it has
    /// answered were no reason.
    pub(in super::super) fn main_closed(&mut self, closing: &Closing, now: Instant) {
        let flown = self.flights.on(Route::Main);
        let (innocent, mut suspects): (Vec<u64>, Vec<u64>) = flown
            .into_iter()
            .partition(|number| *number < self.answered_to);
        if let [only] = suspects[..] {
            suspects.clear();
            if let Some(flight) = self.land(only) {
                self.blame(flight.entry, closing, now);
            }
        }
        for number in suspects {
            let Some(Flight { mut entry, .. }) = self.land(number) else {
                continue;
            };
            entry.suspected += 1;
            if entry.suspected == SUSPECTED {
                self.failed(entry, Failure::Closed, now);
                continue;
            }
            if let Some(line) = self.lines.get_mut(&entry.queue) {
                line.alone += 1;
            }
            self.suspects.push_back(entry);
        }
        innocent
            .into_iter()
            .rev()
            .for_each(|number| self.unsent(number));
        self.main_gone();
    }

    /// Another channel takes the main one's stead.
    pub(in super::super) fn main_gone(&mut self) {
        self.forget_abandoned(|route| route == Route::Main);
        self.answered_to = 0;
    }

    /// A message on the channel for trials has no answer: the broker closed that channel, where it is known why. Of all on it, only
    /// the one that is tried can be the reason.
    pub(in super::super) fn alone_failed(
        &mut self,
        number: u64,
        closing: Option<&Closing>,
        now: Instant,
    ) {
        let is_tried = self
            .trial
            .as_ref()
            .is_some_and(|(tried, _)| *tried == number);
        match closing {
            Some(closing) if is_tried => self.guilty(closing, now),
            None if is_tried => self.unproven(),
            _ => self.unsent(number),
        }
    }

    /// Another channel takes the one for trials' stead: what was cleared on that, and isn't confirmed, is published again.
    pub(in super::super) fn alone_gone(&mut self) {
        self.forget_abandoned(|route| route == Route::Alone);
        for number in self.flights.on(Route::Alone).into_iter().rev() {
            self.unsent(number);
        }
    }

    /// The message that is tried alone was no reason to close a channel: it waits for its confirm like any other.
    pub(in super::super) fn cleared(&mut self, now: Instant) {
        if let Some((number, entry)) = self.trial.take() {
            let queue = entry.queue.clone();
            self.fly(number, entry, Route::Alone, now);
            self.left_alone(&queue);
        }
    }

    /// The broker closed the channel on which a message was tried alone.
    fn guilty(&mut self, closing: &Closing, now: Instant) {
        if let Some((_, entry)) = self.trial.take() {
            let queue = entry.queue.clone();
            self.blame(entry, closing, now);
            self.left_alone(&queue);
        }
    }

    /// The trial ended without a verdict: it is held again.
    fn unproven(&mut self) {
        if let Some((_, entry)) = self.trial.take() {
            self.suspects.push_front(entry);
        }
    }

    /// Gives queues a turn again whose wait is over. One that goes on refusing is tried on another channel now and then, where nothing is
    /// unconfirmed on this one, which would be doubled: a channel that a quorum queue has told that it is full isn't told that its limit is gone.
    pub(super) fn retry_due(&mut self, now: Instant) {
        let due = |line: &Line| line.retry_at.is_some_and(|at| at <= now);
        let mut is_stuck = false;
        let due = self.lines.iter_mut().filter(|(_, line)| due(line));
        let due: Vec<ShortString> = due
            .map(|(queue, line)| {
                line.retry_at = None;
                let tries = line.backoff.attempts();
                is_stuck |= line.standing == Standing::Refusing(Why::Full)
                    && tries >= STUCK_TRIES
                    && tries.is_multiple_of(STUCK_TRIES);
                queue.clone()
            })
            .collect();
        due.iter().for_each(|queue| self.requeue(queue));
        self.renewals.is_wanted |= is_stuck && self.main_is_empty();
    }

    /// Whether the main channel is to be given up because it may be what refuses messages: whatever isn't confirmed is published again on
    /// the next one.
    pub(in super::super) fn take_stale(&mut self) -> bool {
        let is_stale = std::mem::take(&mut self.renewals.is_wanted);
        if is_stale {
            for number in self.flights.on(Route::Main).into_iter().rev() {
                self.unsent(number);
            }
            self.main_gone();
        }
        is_stale
    }

    /// The connection is lost: whatever isn't confirmed is published again on the next one.
    pub(in super::super) fn lost(&mut self, now: Instant) {
        (self.lost_at, self.renewals) = (Some(now), Renewals::default());
        self.unproven();
        self.alone_gone();
        for number in self.flights.on(Route::Main).into_iter().rev() {
            self.unsent(number);
        }
        self.main_gone();
        (self.last_answer, self.max_bytes) = (None, None);
    }

    /// A message is unconfirmed for long. Returns whether the connection is to be given up: nothing that was written later has been
    /// answered either. An answer right after it was written says nothing of a broker that froze then: a reply's queue isn't blamed for that.
    pub(super) fn overdue(&mut self, number: u64, now: Instant) -> bool {
        let must_arrive = self.policy.must_arrive;
        let Some(flight) = self.flights.get_mut(number) else {
            return false;
        };
        let blames = must_arrive || self.given_up.is_some_and(|at| now < at + GIVEN_UP);
        let mut since = flight.written;
        if !blames {
            since += now.saturating_duration_since(since) / 2;
        }
        let others = self.last_answer.is_some_and(|at| at > since);
        if !others && (must_arrive || !flight.entry.was_overdue) {
            flight.entry.was_overdue = true;
            self.given_up = Some(now);
            return true;
        }
        if must_arrive {
            // To publish it again would double it: its queue may have it.
            let queue = flight.entry.queue.clone();
            self.refuses(&queue, Why::Silent);
        } else if let Some(Flight { entry, route, .. }) = self.land(number) {
            let queue = entry.queue.clone();
            if let Some(line) = self.lines.get_mut(&queue) {
                line.abandoned += 1;
            }
            self.abandoned.insert(number, (queue, route));
            self.failed(entry, Failure::Unconfirmed, now);
        }
        false
    }

    /// A message made the broker close its channel.
    fn blame(&mut self, mut entry: Entry, closing: &Closing, now: Instant) {
        if closing.is_denial() {
            self.denied = Some((closing.text.clone(), now));
        }
        let Some(max) = closing.max_bytes(entry.bytes()) else {
            return self.failed(entry, Failure::Closed, now);
        };
        let max = self.max_bytes.map_or(max, |known| known.min(max));
        self.max_bytes = Some(max);
        if self.said_max_bytes.replace(max) != Some(max) {
            self.changes.push(Change::Limit(max));
        }
        let queue = entry.queue.clone();
        if entry.shorten() {
            self.back(entry);
        } else {
            self.finish(entry, End::TooLarge);
            self.requeue(&queue);
        }
    }

    fn failed(&mut self, mut entry: Entry, failure: Failure, now: Instant) {
        let queue = entry.queue.clone();
        let standing = self.lines.get(&queue).map(|line| line.standing);
        let standing = standing.unwrap_or(Standing::Taking);
        let must_arrive = self.policy.must_arrive;
        let unsettled = self.lost_at.is_some_and(|at| now < at + UNSETTLED);
        if failure == Failure::Refused
            && unsettled
            && standing == Standing::Taking
            && entry.renewals < RENEWALS
        {
            self.renewals.want(now);
            let until = now + rest(entry.renewals);
            entry.renewals += 1;
            self.rest(entry, until);
            return self.requeue(&queue);
        }
        let (next, why) = verdict::after(must_arrive, standing, entry.tries, failure);
        if let Some(why) = why {
            self.refuses(&queue, why);
        }
        match next {
            Next::End(end) => self.finish(entry, end),
            Next::Rest(time) => {
                entry.tries += 1;
                self.rest(entry, now + time);
            }
            Next::First => {
                let line = self.lines.entry(queue.clone()).or_default();
                // Of those that were refused together, the first one counts.
                if line.retry_at.is_none() {
                    line.retry_at = Some(now + line.backoff.next_wait());
                }
                line.waiting.push_front(entry);
            }
        }
        self.requeue(&queue);
    }

    /// A message is tried again then.
    fn rest(&mut self, entry: Entry, until: Instant) {
        self.rested += 1;
        if let Some(line) = self.lines.get_mut(&entry.queue) {
            line.resting += 1;
        }
        self.resting.insert((until, self.rested), entry);
    }

    /// Notes that a queue refuses messages.
    fn refuses(&mut self, queue: &ShortString, why: Why) {
        let line = self.lines.entry(queue.clone()).or_default();
        let before = std::mem::replace(&mut line.standing, Standing::Refusing(why));
        if before == Standing::Refusing(why) {
            return;
        }
        self.changes.push(Change::Refuses(queue.clone(), why));
        if before == Standing::Taking {
            self.refusing.push_back(queue.clone());
        }
        if self.refusing.len() <= KNOWN {
            return;
        }
        // Those that have messages under way stay known: their number is bounded by the messages.
        let idle = |queue: &ShortString| self.lines.get(queue).is_none_or(Line::is_idle);
        let oldest = self.refusing.iter().position(idle);
        if let Some(oldest) = oldest.and_then(|at| self.refusing.remove(at)) {
            self.lines.remove(&oldest);
        }
    }

    /// Notes that a queue took a message.
    fn takes(&mut self, queue: &ShortString) {
        let Some(line) = self.lines.get_mut(queue) else {
            return;
        };
        if line.standing == Standing::Taking {
            return;
        }
        line.standing = Standing::Taking;
        line.backoff.reset();
        line.retry_at = None;
        self.refusing.retain(|other| other != queue);
        self.changes.push(Change::Takes(queue.clone()));
    }

    /// The channel on which replies were given up is gone: they won't be confirmed any more.
    fn forget_abandoned(&mut self, is_gone: impl Fn(Route) -> bool) {
        let mut gone = self.abandoned.extract_if(|_, (_, route)| is_gone(*route));
        let queues: Vec<ShortString> = gone.by_ref().map(|(_, (queue, _))| queue).collect();
        drop(gone);
        for queue in queues {
            if let Some(line) = self.lines.get_mut(&queue) {
                line.abandoned -= 1;
            }
            self.requeue(&queue);
        }
    }
}
