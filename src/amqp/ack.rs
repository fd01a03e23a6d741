//! Owns acknowledgements: which tags of a channel are settled, and the fewest frames that say so.
//!
//! Promises that a delivery is settled once, that an acknowledgement of many never covers one that isn't
//! settled, and that a guard which is dropped returns its message. [`Window`] is pure.

use lapin::{
    Channel,
    options::{BasicAckOptions, BasicRejectOptions},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex as BlockingMutex, PoisonError},
};
use tokio::sync::{Mutex, MutexGuard};
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

/// The settlements of one channel.
#[derive(Debug)]
pub struct Acks {
    channel: Channel,
    window: BlockingMutex<Window>,
    /// One flush at a time: an acknowledgement of many must not overtake another.
    sending: Mutex<()>,
    tasks: TaskTracker,
}

impl Acks {
    /// For the deliveries of this channel.
    pub fn new(channel: Channel) -> Arc<Self> {
        Arc::new(Self {
            channel,
            window: BlockingMutex::default(),
            sending: Mutex::default(),
            tasks: TaskTracker::new(),
        })
    }

    /// The right to settle one delivery.
    pub fn guard(self: &Arc<Self>, tag: u64) -> AckGuard {
        self.with_window(|w| w.open(tag));
        AckGuard {
            acks: self.clone(),
            tag,
            how: Settlement::Return,
        }
    }

    fn with_window<T>(&self, work: impl FnOnce(&mut Window) -> T) -> T {
        work(&mut self.window.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells the broker what is settled. On a channel that is gone the broker has returned everything, and
    /// the next delivery finds the job's row: there is nothing to repair here.
    pub async fn flush(&self, stragglers: bool) {
        let _one_at_a_time = self.sending.lock().await;
        for frame in self.with_window(|w| w.frames(stragglers)) {
            let sent = match frame {
                Frame::AckUpTo(tag) => {
                    self.channel
                        .basic_ack(tag, BasicAckOptions { multiple: true })
                        .await
                }
                Frame::Ack(tag) => {
                    self.channel
                        .basic_ack(tag, BasicAckOptions { multiple: false })
                        .await
                }
                Frame::Return(tag) => {
                    self.channel
                        .basic_reject(tag, BasicRejectOptions { requeue: true })
                        .await
                }
            };
            if let Err(error) = sent {
                tracing::debug!(%error, "an acknowledgement found its channel gone");
                return;
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
        self.channel.status().connected()
    }

    /// Keeps acknowledgements back for as long as the guard lives.
    pub async fn hold(&self) -> MutexGuard<'_, ()> {
        self.sending.lock().await
    }

    /// Deliveries whose end the broker doesn't know.
    pub fn at_broker(&self) -> u64 {
        self.with_window(|w| w.at_broker())
    }

    /// Whether a settled delivery waits behind an open one.
    pub fn has_stragglers(&self) -> bool {
        self.with_window(|w| w.has_stragglers())
    }
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
        self.acks.with_window(|w| w.settle(self.tag, self.how));
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
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn one_frame_acknowledges_what_has_no_gap() {
        let mut window = Window::default();
        for tag in [3, 1, 2, 5] {
            window.open(tag);
            window.settle(tag, Settlement::Acknowledge);
        }
        assert_eq!(window.at_broker(), 5);
        assert_eq!(window.frames(false), [Frame::AckUpTo(3)]);
        assert!(window.has_stragglers());
        assert_eq!(window.at_broker(), 2);
        assert_eq!(window.frames(true), [Frame::Ack(5)]);
        assert_eq!(window.at_broker(), 1);
        assert_eq!(window.frames(true), []);
        window.settle(4, Settlement::Return);
        assert_eq!(
            window.frames(false),
            [Frame::Return(4)],
            "5 is not acknowledged twice"
        );
        window.settle(6, Settlement::Acknowledge);
        assert_eq!(window.frames(false), [Frame::AckUpTo(6)]);
    }

    #[test]
    fn what_is_settled_behind_an_open_tag_takes_no_memory() {
        let mut window = Window::default();
        window.open(1);
        for tag in 2..=100_000 {
            window.open(tag);
            window.settle(tag, Settlement::Acknowledge);
            if tag % 10 == 0 {
                window.frames(true);
            }
        }
        assert_eq!((window.sent.len(), window.settled.len()), (1, 0));
        assert_eq!(window.at_broker(), 1);
        window.settle(1, Settlement::Acknowledge);
        assert_eq!(window.frames(false), [Frame::AckUpTo(1)]);
        assert_eq!((window.lowest, window.sent.len()), (100_001, 0));
    }

    /// A broker that refuses what RabbitMQ refuses: a tag that isn't open.
    fn apply(
        frames: &[Frame],
        open: &mut BTreeSet<u64>,
        ended: &mut BTreeMap<u64, Settlement>,
    ) -> Result<(), String> {
        for frame in frames {
            let (tag, how) = match frame {
                Frame::AckUpTo(tag) | Frame::Ack(tag) => (*tag, Settlement::Acknowledge),
                Frame::Return(tag) => (*tag, Settlement::Return),
            };
            if !open.contains(&tag) {
                return Err(format!("{frame:?} names a tag that isn't open"));
            }
            let below = if matches!(frame, Frame::AckUpTo(_)) {
                0
            } else {
                tag
            };
            let tags: Vec<u64> = open.range(below..=tag).copied().collect();
            for tag in tags {
                open.remove(&tag);
                if ended.insert(tag, how).is_some() {
                    return Err(format!("{tag} ended twice"));
                }
            }
        }
        Ok(())
    }

    proptest! {
        /// Whatever the order of settlements, flushes and repeats, every delivery ends once, and as was said.
        #[test]
        fn every_delivery_ends_once(
            order in Just((1u64..=60).collect::<Vec<_>>()).prop_shuffle(),
            returned in prop::collection::btree_set(1u64..=60, 0..20),
            flushes in prop::collection::vec(0u8..4, 60),
            repeat in 1u64..=60,
        ) {
            let mut window = Window::default();
            let (mut open, mut ended): (BTreeSet<u64>, BTreeMap<u64, Settlement>) = ((1..=60).collect(), BTreeMap::new());
            let how = |tag: u64| if returned.contains(&tag) { Settlement::Return } else { Settlement::Acknowledge };
            for (tag, flush) in order.into_iter().zip(flushes) {
                window.settle(tag, how(tag));
                if ended.contains_key(&repeat) || tag == repeat {
                    window.settle(repeat, Settlement::Return);
                }
                if flush > 0 {
                    prop_assert_eq!(apply(&window.frames(flush == 1), &mut open, &mut ended), Ok(()));
                }
            }
            prop_assert_eq!(apply(&window.frames(true), &mut open, &mut ended), Ok(()));
            prop_assert!(open.is_empty(), "{:?} still open", open);
            for (tag, ended) in ended {
                prop_assert_eq!(ended, how(tag));
            }
        }
    }
}
