//! Every order of settlements and flushes, one of which may be dropped anywhere: each delivery ends once, as it was settled and not before, and
//! nobody waits for ever. Ways to flush that are wrong are told from the right one.

use super::*;
use kiln_fuzz::{Task, every_order, step};
use std::panic::{AssertUnwindSafe, catch_unwind};

const TAGS: u64 = 3;
const MAX_ORDERS: usize = 2_000_000;

/// What the tasks of one run share.
struct Channel {
    state: BlockingMutex<State>,
    sending: Mutex<()>,
    /// The tag that goes back; the others are acknowledged.
    returned: u64,
    settled: RefCell<BTreeSet<u64>>,
    open: RefCell<BTreeSet<u64>>,
    ended: RefCell<BTreeMap<u64, Settlement>>,
}

impl Channel {
    fn new(returned: u64) -> Self {
        let state = BlockingMutex::new(State::default());
        (1..=TAGS).for_each(|tag| locked(&state).window.open(tag));
        Self {
            state,
            sending: Mutex::default(),
            returned,
            settled: RefCell::default(),
            open: RefCell::new((1..=TAGS).collect()),
            ended: RefCell::default(),
        }
    }

    fn how(&self, tag: u64) -> Settlement {
        match tag == self.returned {
            true => Settlement::Return,
            false => Settlement::Acknowledge,
        }
    }

    async fn settle(&self, tag: u64) {
        self.settled.borrow_mut().insert(tag);
        locked(&self.state).window.settle(tag, self.how(tag));
    }

    /// The broker hears of it at once; the socket takes a while.
    async fn send(&self, frame: Frame) -> Result<(), ()> {
        let heard = apply(
            &[frame],
            &mut self.open.borrow_mut(),
            &mut self.ended.borrow_mut(),
        );
        assert_eq!(heard, Ok(()));
        for (tag, how) in &*self.ended.borrow() {
            assert!(self.settled.borrow().contains(tag), "{tag} is still open");
            assert_eq!(*how, self.how(*tag), "{tag}");
        }
        step().await;
        Ok(())
    }

    fn due(&self, stragglers: bool) -> Vec<Frame> {
        locked(&self.state).window.frames(stragglers)
    }
}

type Flush = for<'a> fn(&'a Channel, bool) -> Task<'a>;

fn as_it_is(channel: &Channel, stragglers: bool) -> Task<'_> {
    Box::pin(async move {
        let _one_at_a_time = channel.sending.lock().await;
        let sent = send_all(&channel.state, stragglers, |frame| channel.send(frame));
        assert_eq!(sent.await, Ok(()));
    })
}

/// Whoever is dropped takes its frames along.
fn forgetting(channel: &Channel, stragglers: bool) -> Task<'_> {
    Box::pin(async move {
        let _one_at_a_time = channel.sending.lock().await;
        for frame in channel.due(stragglers) {
            let _sent = channel.send(frame).await;
        }
    })
}

/// An acknowledgement of many overtakes a return.
fn overtaking(channel: &Channel, stragglers: bool) -> Task<'_> {
    Box::pin(async move {
        for frame in channel.due(stragglers) {
            step().await;
            let _sent = channel.send(frame).await;
        }
    })
}

/// All that was delivered is acknowledged, settled or not.
fn hasty(channel: &Channel, _stragglers: bool) -> Task<'_> {
    Box::pin(async move {
        if !channel.due(true).is_empty() {
            let _sent = channel.send(Frame::AckUpTo(TAGS)).await;
        }
    })
}

/// How many orders there are.
fn explored(flush: Flush) -> usize {
    every_order(MAX_ORDERS, |orders| {
        let channel = Channel::new(1 + orders.pick(2) as u64);
        let settle = |tag| -> Task<'_> { Box::pin(channel.settle(tag)) };
        let mut tasks = vec![flush(&channel, false), flush(&channel, true)];
        tasks.extend((1..=TAGS).map(settle));
        assert_eq!(orders.run(tasks, Some(0)), 0, "somebody waits for ever");
        // The next one goes on with what was left.
        assert_eq!(orders.run(vec![flush(&channel, true)], None), 0);
        assert_eq!(*channel.open.borrow(), BTreeSet::new(), "still open");
        assert_eq!(locked(&channel.state).at_broker(), 0);
    })
}

#[test]
fn in_every_order_each_delivery_ends_once_and_as_it_was_settled() {
    let orders = explored(as_it_is);
    assert!(orders > 1_000, "{orders}");
}

#[test]
fn wrong_ways_to_flush_are_found() {
    for wrong in [forgetting as Flush, overtaking, hasty] {
        let found = catch_unwind(AssertUnwindSafe(|| explored(wrong)));
        assert!(found.is_err());
    }
}
