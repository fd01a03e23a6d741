//! Owns a stand-in of RabbitMQ for simulations: queues in memory, channels that deliver from them, and what is published to them.
//!
//! Promises what `conformance` holds the real broker to: a message that isn't acknowledged on a channel comes again once the channel is
//! gone, with the number of its deliveries; a retry queue gives its messages back to where they came from when their time has passed.
//! By a seed, frames are late, or lost with their channel. What is settled that isn't delivered is reported.

use super::{ack::Frame, confirm::PublishOutcome};
use crate::simulated::{Chance, log};
use lapin::{BasicProperties, ChannelState, ErrorKind, types::AMQPValue};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// What a queue's name has in which messages wait, before the milliseconds.
const RETRY: &str = ".retry.";
/// The end of the name of a queue that refuses whatever comes.
const FULL: &str = ".full";
/// The end of the name of a queue that there isn't.
const GONE: &str = ".gone";

/// A message in a queue.
#[derive(Debug, Clone)]
pub struct HeldMessage {
    pub body: Vec<u8>,
    pub properties: BasicProperties,
    /// How often it was delivered and came back.
    pub deliveries: u32,
}

/// What the broker saw.
#[derive(Debug)]
pub enum Event<'a> {
    /// A message is in a queue.
    Taken {
        queue: &'a str,
        message: &'a HeldMessage,
    },
    /// A delivery is gone for good.
    Acknowledged { message: &'a HeldMessage },
    /// What no client may do.
    Wrong(String),
}

/// Hears what the broker saw.
pub type Watch = Box<dyn FnMut(&Event<'_>) + Send>;

/// A broker. Clones are the same.
#[derive(Clone)]
pub struct SimulatedBroker(Arc<Inner>);

struct Inner {
    queues: Mutex<BTreeMap<String, VecDeque<HeldMessage>>>,
    /// Messages that wait in retry queues.
    resting: Mutex<usize>,
    watch: Mutex<Watch>,
    arrived: Notify,
    /// Breaks every connection that there is.
    cut: Mutex<CancellationToken>,
    chance: Chance,
}

impl std::fmt::Debug for SimulatedBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimulatedBroker")
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimulatedBroker {
    /// One without messages.
    pub fn new(chance: &Chance, watch: Watch) -> Self {
        Self(Arc::new(Inner {
            queues: Mutex::default(),
            resting: Mutex::default(),
            watch: Mutex::new(watch),
            arrived: Notify::new(),
            cut: Mutex::default(),
            chance: chance.apart(),
        }))
    }

    /// How many messages wait to be delivered, now or later.
    pub fn waiting(&self, queue: &str) -> usize {
        let ready = locked(&self.0.queues).get(queue).map_or(0, VecDeque::len);
        ready + *locked(&self.0.resting)
    }

    /// Breaks every connection.
    pub fn restart(&self) {
        std::mem::take(&mut *locked(&self.0.cut)).cancel();
    }

    /// What breaks a connection that is made now.
    pub fn cut(&self) -> CancellationToken {
        locked(&self.0.cut).clone()
    }

    fn saw(&self, event: &Event<'_>) {
        let mut watch = locked(&self.0.watch);
        watch(event);
    }

    /// Takes a message into a queue.
    pub fn publish(
        &self,
        queue: &str,
        body: Vec<u8>,
        properties: BasicProperties,
    ) -> PublishOutcome {
        if queue.ends_with(FULL) {
            return PublishOutcome::Refused;
        }
        if queue.ends_with(GONE) {
            return PublishOutcome::Unroutable;
        }
        let message = HeldMessage {
            body,
            properties,
            deliveries: 0,
        };
        self.saw(&Event::Taken {
            queue,
            message: &message,
        });
        match retry(queue) {
            Some((home, time)) => self.rest(home, time, message),
            None => self.ready(queue, message),
        }
        PublishOutcome::Confirmed
    }

    fn ready(&self, queue: &str, message: HeldMessage) {
        let mut queues = locked(&self.0.queues);
        let queue = queues.entry(queue.to_owned()).or_default();
        queue.push_back(message);
        drop(queues);
        self.0.arrived.notify_waiters();
    }

    fn rest(&self, home: String, time: Duration, message: HeldMessage) {
        *locked(&self.0.resting) += 1;
        let broker = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            *locked(&broker.0.resting) -= 1;
            broker.ready(&home, message);
        });
    }

    /// A channel that delivers from a queue.
    pub fn open(&self, queue: &str, prefetch: usize) -> SimulatedChannel {
        let (frames, heard) = mpsc::unbounded_channel();
        let channel = SimulatedChannel(Arc::new(Channel {
            broker: self.clone(),
            queue: queue.to_owned(),
            prefetch,
            deliveries: Mutex::default(),
            frames,
            closed: CancellationToken::new(),
        }));
        tokio::spawn(channel.clone().hear(heard, self.cut()));
        channel
    }
}

/// Where a retry queue's messages go, and after what time.
fn retry(queue: &str) -> Option<(String, Duration)> {
    let (prefix, rest) = queue.split_once(RETRY)?;
    let (origin, time) = rest.split_once('.')?;
    let ms = time.strip_suffix("ms")?.parse().ok()?;
    Some((format!("{prefix}.{origin}"), Duration::from_millis(ms)))
}

/// A channel of one consumer. Clones are the same.
#[derive(Debug, Clone)]
pub struct SimulatedChannel(Arc<Channel>);

#[derive(Debug)]
struct Channel {
    broker: SimulatedBroker,
    queue: String,
    prefetch: usize,
    deliveries: Mutex<Deliveries>,
    /// Frames; and nothing at the channel's orderly end.
    frames: mpsc::UnboundedSender<Option<Frame>>,
    closed: CancellationToken,
}

#[derive(Debug, Default)]
struct Deliveries {
    last: u64,
    open: BTreeMap<u64, HeldMessage>,
}

impl SimulatedChannel {
    /// The next delivery, as soon as there is one and the window has room.
    pub async fn next(&self) -> (u64, HeldMessage) {
        loop {
            let arrived = self.0.broker.0.arrived.notified();
            if let Some(delivery) = self.ready() {
                return delivery;
            }
            arrived.await;
        }
    }

    /// A delivery that is there.
    pub fn ready(&self) -> Option<(u64, HeldMessage)> {
        let mut deliveries = locked(&self.0.deliveries);
        if deliveries.open.len() >= self.0.prefetch || self.0.closed.is_cancelled() {
            return None;
        }
        let mut queues = locked(&self.0.broker.0.queues);
        let mut message = queues.get_mut(&self.0.queue)?.pop_front()?;
        if message.deliveries > 0 {
            let mut headers = message.properties.headers().clone().unwrap_or_default();
            let count = AMQPValue::LongLongInt(message.deliveries.into());
            headers.insert("x-delivery-count".into(), count);
            message.properties = message.properties.with_headers(headers);
        }
        deliveries.last += 1;
        let tag = deliveries.last;
        deliveries.open.insert(tag, message.clone());
        Some((tag, message))
    }

    /// Deliveries that aren't settled.
    pub fn unsettled(&self) -> usize {
        locked(&self.0.deliveries).open.len()
    }

    /// Whether it is there.
    pub fn is_open(&self) -> bool {
        !self.0.closed.is_cancelled()
    }

    /// Waits until it isn't.
    pub async fn closed(&self) {
        self.0.closed.cancelled().await;
    }

    /// Ends it: what isn't settled comes again.
    pub fn close(&self) {
        self.0.closed.cancel();
        let open = std::mem::take(&mut locked(&self.0.deliveries).open);
        for message in open.into_values().rev() {
            self.give_back(message);
        }
    }

    /// Ends it once all frames before were heard.
    pub async fn end(&self) {
        // Where nobody hears it, it has ended.
        let _ended = self.0.frames.send(None);
        self.closed().await;
    }

    fn give_back(&self, mut message: HeldMessage) {
        message.deliveries += 1;
        let mut queues = locked(&self.0.broker.0.queues);
        let queue = queues.entry(self.0.queue.clone()).or_default();
        queue.push_front(message);
        drop(queues);
        self.0.broker.0.arrived.notify_waiters();
    }

    /// Writes a frame: what comes of it, nobody says.
    pub fn send(&self, frame: Frame) -> Result<(), lapin::Error> {
        match self.is_open() && self.0.frames.send(Some(frame)).is_ok() {
            true => Ok(()),
            false => Err(ErrorKind::InvalidChannelState(ChannelState::Closed, "closed").into()),
        }
    }

    async fn hear(
        self,
        mut frames: mpsc::UnboundedReceiver<Option<Frame>>,
        cut: CancellationToken,
    ) {
        loop {
            let frame = tokio::select! {
                biased;
                () = self.0.closed.cancelled() => return,
                () = cut.cancelled() => None,
                frame = frames.recv() => frame.flatten(),
            };
            let Some(frame) = frame else {
                return self.close();
            };
            tokio::time::sleep(self.0.broker.0.chance.delay()).await;
            if !self.is_open() {
                return;
            }
            self.settle(frame);
        }
    }

    fn settle(&self, frame: Frame) {
        log(|| format!("rabbitmq hears {frame:?}"));
        let (Frame::AckUpTo(tag) | Frame::Ack(tag) | Frame::Return(tag)) = frame;
        let settled: Vec<HeldMessage> = {
            let mut deliveries = locked(&self.0.deliveries);
            let is_open = deliveries.open.contains_key(&tag);
            let tags: Vec<u64> = match frame {
                _ if !is_open => Vec::new(),
                Frame::AckUpTo(tag) => deliveries.open.range(..=tag).map(|(tag, _)| *tag).collect(),
                Frame::Ack(tag) | Frame::Return(tag) => vec![tag],
            };
            let settled = tags.iter().filter_map(|tag| deliveries.open.remove(tag));
            settled.collect()
        };
        if settled.is_empty() {
            let wrong = format!("{frame:?}: it isn't delivered, or settled already");
            self.0.broker.saw(&Event::Wrong(wrong));
            return self.close();
        }
        for message in settled {
            match frame {
                Frame::Return(_) => self.give_back(message),
                Frame::AckUpTo(_) | Frame::Ack(_) => {
                    self.0
                        .broker
                        .saw(&Event::Acknowledged { message: &message });
                }
            }
        }
        // There is room for others.
        self.0.broker.0.arrived.notify_waiters();
    }
}
