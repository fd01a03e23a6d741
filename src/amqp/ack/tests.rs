//! Which frames say what is settled, and that a flush may be dropped at any moment.

use super::*;
use futures_util::FutureExt;
use proptest::prelude::*;
use std::{cell::RefCell, collections::BTreeSet};
#[cfg(feature = "faults")]
use {
    crate::{amqp::simulated::SimulatedBroker, simulated::Chance},
    lapin::BasicProperties,
    std::time::Duration,
};

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

#[test]
fn what_is_settled_behind_an_open_tag_takes_no_memory_in_any_order() {
    let mut window = Window::default();
    (1..=9).for_each(|tag| window.open(tag));
    for tag in [9, 8, 5, 7, 2, 3, 6, 4] {
        window.settle(tag, Settlement::Acknowledge);
        assert!(window.has_stragglers());
        assert_eq!(window.frames(true), [Frame::Ack(tag)]);
        assert!(!window.has_stragglers());
    }
    assert_eq!(window.sent, BTreeMap::from([(2, 9)]), "one run");
}

#[tokio::test]
async fn what_a_dropped_flush_leaves_is_sent_by_the_next_one_in_order() {
    let state = BlockingMutex::new(State::default());
    for tag in 1..=4 {
        locked(&state).window.open(tag);
    }
    let settle = |tag, how| locked(&state).window.settle(tag, how);
    settle(1, Settlement::Acknowledge);
    settle(2, Settlement::Return);
    let sent = RefCell::new(Vec::new());
    let note = |frame| {
        sent.borrow_mut().push(frame);
        std::future::ready(Ok::<_, ()>(()))
    };
    {
        // The socket takes nothing more.
        let stuck = send_all(&state, false, |frame| {
            let _noted = note(frame);
            std::future::pending::<Result<(), ()>>()
        });
        assert!(stuck.now_or_never().is_none());
    }
    assert!(locked(&state).has_stragglers(), "somebody has to go on");
    assert_eq!(locked(&state).at_broker(), 3, "the returned one counts");
    settle(3, Settlement::Acknowledge);
    assert_eq!(send_all(&state, false, note).await, Ok(()));
    let expected = [Frame::AckUpTo(1), Frame::Return(2), Frame::AckUpTo(3)];
    assert_eq!(*sent.borrow(), expected);
    assert_eq!(locked(&state).at_broker(), 1);
    assert!(!locked(&state).has_stragglers(), "nothing is left to send");
}

/// Until the broker has so many deliveries that aren't settled.
#[cfg(feature = "faults")]
async fn unsettled(channel: &SimulatedChannel, count: usize) {
    let heard = async {
        while channel.unsettled() != count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(60), heard).await;
    assert_eq!(in_time, Ok(()), "{} aren't settled", channel.unsettled());
}

#[cfg(feature = "faults")]
#[tokio::test(start_paused = true)]
async fn a_channel_says_what_its_broker_does_not_know_and_sends_what_waits() {
    let broker = SimulatedBroker::new(&Chance::new(1), Box::new(|_| {}));
    let channel = broker.open("jobs", 10);
    let acks = Acks::simulated(channel.clone());
    let mut guards = Vec::new();
    for _ in 0..3 {
        broker.publish("jobs", Vec::new(), BasicProperties::default());
        let (tag, _) = channel.next().await;
        guards.push(acks.guard(tag));
    }
    let [first, second, third] = guards.try_into().expect("three");
    assert!(acks.is_open() && !acks.has_stragglers());
    assert_eq!(acks.at_broker(), 3);

    acknowledge(vec![second]).await;
    assert_eq!((acks.at_broker(), acks.has_stragglers()), (3, true));
    let held = acks.hold().await;
    acks.flush_stragglers();
    assert!(acks.tasks.is_empty(), "nothing is sent for now");
    drop(held);
    acks.flush_stragglers();
    unsettled(&channel, 2).await;
    assert_eq!((acks.at_broker(), acks.has_stragglers()), (2, false));
    acks.flush_stragglers();
    assert!(acks.tasks.is_empty(), "nothing waits");

    drop(first);
    acknowledge(vec![third]).await;
    unsettled(&channel, 0).await;
    assert_eq!((acks.at_broker(), broker.waiting("jobs")), (0, 1));
    channel.close();
    assert!(!acks.is_open());
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

mod orders;
