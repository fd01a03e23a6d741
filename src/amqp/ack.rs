//! Owns acknowledgements: which tags of a channel are settled, and the fewest frames that say so.
//!
//! Promises that a delivery is settled once, that an acknowledgement of many never covers one that isn't
//! settled, and that a guard which is dropped returns its message. [`Window`] is pure.

#[cfg(all(test, feature = "faults"))]
use super::simulated::SimulatedChannel;
use crate::{
    redact::Redact,
    simulated::{Mutation, is_mutated},
};
use lapin::{
    Channel,
    options::{BasicAckOptions, BasicRejectOptions},
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex as BlockingMutex, MutexGuard, PoisonError},
};
use tokio::sync::{Mutex, MutexGuard as Held};
use tokio_util::task::TaskTracker;

/// How a delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// Everything that follows from it is durable.
    Acknowledge,
    /// It goes back to its queue.
    Return,
}

/// A frame to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// Acknowledges this tag and every open one below it.
    AckUpTo(u64),
    Ack(u64),
    Return(u64),
}

/// The tags of one channel, from the lowest open one on. Bounded by the open deliveries, whatever was settled behind them.
#[derive(Debug)]
pub struct Window {
    /// The lowest tag that isn't settled.
    lowest: u64,
    /// The highest tag that was delivered.
    highest: u64,
    /// Settled tags from `lowest` on that the broker doesn't know of.
    settled: BTreeMap<u64, Settlement>,
    /// Runs of tags beyond `lowest` that the broker knows of: the first of each, with the last.
    sent: BTreeMap<u64, u64>,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            lowest: 1,
            highest: 0,
            settled: BTreeMap::new(),
            sent: BTreeMap::new(),
        }
    }
}

impl Window {
    /// Notes a delivery.
    pub fn open(&mut self, tag: u64) {
        self.highest = self.highest.max(tag);
    }

    /// Deliveries whose end the broker doesn't know.
    pub fn at_broker(&self) -> u64 {
        let sent = self.sent.iter().map(|(first, last)| last - first + 1);
        (self.highest + 1)
            .saturating_sub(self.lowest)
            .saturating_sub(sent.sum())
    }

    /// Notes a tag's end. A second end of the same tag changes nothing.
    pub fn settle(&mut self, tag: u64, how: Settlement) {
        if tag >= self.lowest && !self.is_sent(tag) {
            self.settled.entry(tag).or_insert(how);
        }
    }

    fn is_sent(&self, tag: u64) -> bool {
        let run = self.sent.range(..=tag).next_back();
        run.is_some_and(|(_, last)| *last >= tag)
    }

    /// The frames for everything settled without a gap; with `stragglers`, also for what lies beyond an open
    /// tag, one by one.
    pub fn frames(&mut self, stragglers: bool) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut up_to = None;
        loop {
            if let Some(run) = self.sent.first_entry()
                && *run.key() == self.lowest
            {
                self.lowest = run.remove() + 1;
                continue;
            }
            let Some(entry) = self.settled.first_entry() else {
                break;
            };
            if *entry.key() != self.lowest {
                break;
            }
            match entry.remove() {
                Settlement::Acknowledge => up_to = Some(self.lowest),
                Settlement::Return => {
                    frames.extend(up_to.take().map(Frame::AckUpTo));
                    frames.push(Frame::Return(self.lowest));
                }
            }
            self.lowest += 1;
        }
        frames.extend(up_to.map(Frame::AckUpTo));
        if stragglers {
            for (tag, how) in std::mem::take(&mut self.settled) {
                frames.push(match how {
                    Settlement::Acknowledge => Frame::Ack(tag),
                    Settlement::Return => Frame::Return(tag),
                });
                self.note_sent(tag);
            }
        }
        frames
    }

    /// Notes that the broker knows of a tag, as part of the run that it continues.
    fn note_sent(&mut self, tag: u64) {
        let after = self.sent.remove(&(tag + 1)).unwrap_or(tag);
        let before = self.sent.range_mut(..tag).next_back();
        match before {
            Some((_, last)) if *last + 1 == tag => *last = after,
            _ => {
                self.sent.insert(tag, after);
            }
        }
    }

    /// Whether a settled tag waits behind an open one.
    pub fn has_stragglers(&self) -> bool {
        !self.settled.is_empty()
    }
}

/// What the broker is to hear of a channel's deliveries.
#[derive(Debug, Default)]
struct State {
    window: Window,
    /// Frames that the window has given and that aren't sent yet: whoever sent them may have been dropped. Later ones go behind them, so that
    /// an acknowledgement of many never covers a return that the broker hasn't heard of.
    unsent: VecDeque<Frame>,
}

impl State {
    fn at_broker(&self) -> u64 {
        self.window.at_broker() + self.unsent.len() as u64
    }

    fn has_stragglers(&self) -> bool {
        self.window.has_stragglers() || !self.unsent.is_empty()
    }
}

/// Where frames go.
#[derive(Debug)]
#[cfg_attr(
    test,
    allow(clippy::large_enum_variant, reason = "the other one is for tests")
)]
enum Line {
    Channel(Channel),
    #[cfg(all(test, feature = "faults"))]
    Simulated(SimulatedChannel),
}

/// The settlements of one channel.
#[derive(Debug)]
pub struct Acks {
    line: Line,
    state: BlockingMutex<State>,
    /// One flush at a time: an acknowledgement of many must not overtake another.
    sending: Mutex<()>,
    tasks: TaskTracker,
}

impl Acks {
    /// For the deliveries of this channel.
    pub fn new(channel: Channel) -> Arc<Self> {
        Self::over(Line::Channel(channel))
    }

    /// For those of a simulation's channel.
    #[cfg(all(test, feature = "faults"))]
    pub fn simulated(channel: SimulatedChannel) -> Arc<Self> {
        Self::over(Line::Simulated(channel))
    }

    fn over(line: Line) -> Arc<Self> {
        Arc::new(Self {
            line,
            state: BlockingMutex::default(),
            sending: Mutex::default(),
            tasks: TaskTracker::new(),
        })
    }

    /// The right to settle one delivery.
    pub fn guard(self: &Arc<Self>, tag: u64) -> AckGuard {
        locked(&self.state).window.open(tag);
        AckGuard {
            acks: self.clone(),
            tag,
            how: Settlement::Return,
        }
    }

    /// Tells the broker what is settled. On a channel that is gone the broker has returned everything, and
    /// the next delivery finds the job's row: there is nothing to repair here. Where this is dropped midway, the next one goes on.
    pub async fn flush(&self, stragglers: bool) {
        let _one_at_a_time = self.sending.lock().await;
        let sent = send_all(&self.state, stragglers, |frame| self.send(frame));
        if let Err(error) = sent.await {
            let error = error.redacted();
            tracing::debug!(error, "an acknowledgement found its channel gone");
        }
    }

    async fn send(&self, frame: Frame) -> Result<(), lapin::Error> {
        #[allow(
            clippy::infallible_destructuring_match,
            reason = "tests have another line"
        )]
        let channel = match &self.line {
            Line::Channel(channel) => channel,
            #[cfg(all(test, feature = "faults"))]
            Line::Simulated(channel) => return channel.send(frame),
        };
        match frame {
            Frame::AckUpTo(tag) => {
                let many = BasicAckOptions { multiple: true };
                channel.basic_ack(tag, many).await
            }
            Frame::Ack(tag) => channel.basic_ack(tag, BasicAckOptions::default()).await,
            Frame::Return(tag) => {
                let requeue = BasicRejectOptions { requeue: true };
                channel.basic_reject(tag, requeue).await
            }
        }
    }

    /// Tells the broker of what waits behind an open delivery, beside the caller; nothing is done where that is under way.
    pub fn flush_stragglers(self: &Arc<Self>) {
        if self.has_stragglers() && self.sending.try_lock().is_ok() {
            let acks = self.clone();
            self.tasks.spawn(async move { acks.flush(true).await });
        }
    }

    /// Whether the channel is still there: nothing can be settled on one that is gone.
    pub fn is_open(&self) -> bool {
        match &self.line {
            Line::Channel(channel) => channel.status().connected(),
            #[cfg(all(test, feature = "faults"))]
            Line::Simulated(channel) => channel.is_open(),
        }
    }

    /// Keeps acknowledgements back for as long as the guard lives.
    pub async fn hold(&self) -> Held<'_, ()> {
        self.sending.lock().await
    }

    /// Deliveries whose end the broker doesn't know.
    pub fn at_broker(&self) -> u64 {
        locked(&self.state).at_broker()
    }

    /// Whether a settled delivery waits behind an open one.
    pub fn has_stragglers(&self) -> bool {
        locked(&self.state).has_stragglers()
    }
}

/// Sends every frame that is due, in order. A frame counts as sent from the moment on at which its sending begins: the client library
/// has it then, whether or not somebody waits. After an error nothing is left to send.
async fn send_all<E, S: Future<Output = Result<(), E>>>(
    state: &BlockingMutex<State>,
    stragglers: bool,
    send: impl Fn(Frame) -> S,
) -> Result<(), E> {
    {
        let mut state = locked(state);
        let due = state.window.frames(stragglers);
        state.unsent.extend(due);
    }
    loop {
        let next = locked(state).unsent.pop_front();
        let Some(frame) = next else { return Ok(()) };
        if is_mutated(Mutation::SettlesTwice) {
            send(frame).await?;
        }
        if let Err(error) = send(frame).await {
            locked(state).unsent.clear();
            return Err(error);
        }
    }
}

fn locked(state: &BlockingMutex<State>) -> MutexGuard<'_, State> {
    // It is sound after a panic elsewhere: every change to it is one call.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The right to settle one delivery, once: dropped as it is, the message returns to its queue.
#[derive(Debug)]
pub struct AckGuard {
    acks: Arc<Acks>,
    tag: u64,
    how: Settlement,
}

impl AckGuard {
    /// Those of its channel.
    pub fn acks(&self) -> &Arc<Acks> {
        &self.acks
    }
}

impl Drop for AckGuard {
    fn drop(&mut self) {
        let mut state = locked(&self.acks.state);
        state.window.settle(self.tag, self.how);
    }
}

/// Acknowledges deliveries, whichever channels they came by.
pub async fn acknowledge(guards: Vec<AckGuard>) {
    let mut channels: Vec<Arc<Acks>> = Vec::new();
    for mut guard in guards {
        guard.how = Settlement::Acknowledge;
        if !channels.iter().any(|acks| Arc::ptr_eq(acks, &guard.acks)) {
            channels.push(guard.acks.clone());
        }
    }
    for acks in channels {
        acks.flush(false).await;
    }
}

#[cfg(test)]
mod tests;
