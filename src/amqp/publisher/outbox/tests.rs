//! Replies and messages that must arrive, and a broker that is made up.

use super::*;
use crate::amqp::{
    brief::Brief,
    confirm::PublishOutcome::{Confirmed, Refused, Unroutable},
    message::Message,
    publisher::{
        flights::{LATE, WINDOW},
        line::SHARE,
        verdict::Closing,
    },
};
use proptest::prelude::*;
use tokio::sync::oneshot;

const PATIENCE: Duration = Duration::from_secs(5);

/// An outbox with what its callers wait for.
struct World {
    outbox: Outbox,
    now: Instant,
    waiting: Vec<(usize, oneshot::Receiver<End>)>,
    handed: usize,
}

impl World {
    fn new(must_arrive: bool) -> Self {
        let policy = Policy {
            must_arrive,
            patience: PATIENCE,
        };
        Self {
            outbox: Outbox::new(policy, Metrics::new()),
            now: Instant::now(),
            waiting: Vec::new(),
            handed: 0,
        }
    }

    fn replies() -> Self {
        Self::new(false)
    }

    fn hand(&mut self, queue: &str, bytes: usize) -> usize {
        let message = Message::new(queue.into(), vec![0; bytes], BasicProperties::default());
        self.hand_over(message)
    }

    fn hand_over(&mut self, message: Message) -> usize {
        let (sender, receiver) = oneshot::channel();
        self.outbox.push(Entry::new(message, sender));
        self.handed += 1;
        self.waiting.push((self.handed, receiver));
        self.handed
    }

    /// Everything that may be written now: numbers and queues.
    fn written(&mut self) -> Vec<(u64, String)> {
        self.outbox.take_stale();
        let mut written = Vec::new();
        while let Some(message) = self.outbox.next(self.now) {
            written.push((message.number, message.queue.to_string()));
        }
        written
    }

    fn numbers(&mut self) -> Vec<u64> {
        self.written()
            .into_iter()
            .map(|(number, _)| number)
            .collect()
    }

    fn answer(&mut self, number: u64, outcome: crate::amqp::confirm::PublishOutcome) {
        self.outbox.answered(number, outcome, self.now);
    }

    fn close(&mut self, closing: &Closing) {
        self.outbox.main_closed(closing, self.now);
    }

    /// Lets time pass. Whether the connection is to be given up.
    fn pass(&mut self, time: Duration) -> bool {
        self.now += time;
        self.outbox.tick(self.now, false)
    }

    /// Messages that ended since the last look, in the order in which they were handed over.
    fn ended(&mut self) -> Vec<(usize, End)> {
        let mut ended = Vec::new();
        self.waiting.retain_mut(|(which, receiver)| {
            let end = receiver.try_recv().ok();
            ended.extend(end.map(|end| (*which, end)));
            end.is_none()
        });
        ended
    }

    fn changes(&mut self) -> usize {
        self.outbox.take_changes().len()
    }
}

fn closing(code: u16, text: &str) -> Closing {
    Closing {
        code,
        text: text.to_owned(),
    }
}

fn too_large(max: usize) -> Closing {
    let text = format!("message size 1 is larger than configured max size {max}");
    closing(406, &text)
}

#[test]
fn queues_take_turns_and_none_takes_the_whole_window() {
    let mut world = World::replies();
    for _ in 0..2 * SHARE {
        world.hand("slow", 10);
    }
    world.hand("quick", 10);
    let written = world.written();
    assert_eq!(written[1].1, "quick", "it needs no patience");
    assert_eq!(written.len(), SHARE + 1);
    let quick = written[1].0;
    world.answer(quick, Confirmed);
    assert_eq!(world.ended(), [(2 * SHARE + 1, End::Sent)]);
    // Four queues that confirm nothing have the window; once their messages are late, others have it again.
    for queue in ["b", "c", "d", "e"] {
        for _ in 0..SHARE {
            world.hand(queue, 10);
        }
    }
    assert_eq!(world.written().len(), WINDOW - SHARE);
    let last = world.hand("last", 10);
    assert!(world.written().is_empty());
    assert!(!world.pass(LATE));
    let written = world.written();
    assert!(
        written
            .iter()
            .all(|(_, queue)| queue == "last" || queue == "e")
    );
    let number = written.iter().find(|(_, queue)| queue == "last");
    world.answer(number.expect("it is written").0, Confirmed);
    assert_eq!(world.ended(), [(last, End::Sent)]);
}

#[test]
fn a_reply_is_refused_after_three_tries_and_from_then_on_after_one() {
    let mut world = World::replies();
    let first = world.hand("full", 10);
    for rest in [150, 300] {
        let numbers = world.numbers();
        world.answer(numbers[0], Refused);
        assert!(world.ended().is_empty() && world.numbers().is_empty());
        assert_eq!(world.changes(), 0);
        world.pass(Duration::from_millis(rest));
    }
    let numbers = world.numbers();
    world.answer(numbers[0], Refused);
    assert_eq!(world.ended(), [(first, End::Refused)]);
    assert_eq!(world.changes(), 1);
    for _ in 0..100 {
        let next = world.hand("full", 10);
        let numbers = world.numbers();
        world.answer(numbers[0], Refused);
        assert_eq!(world.ended(), [(next, End::Refused)]);
    }
    assert_eq!(world.changes(), 0, "said once");
    let last = world.hand("full", 10);
    let numbers = world.numbers();
    world.answer(numbers[0], Confirmed);
    assert_eq!(world.ended(), [(last, End::Sent)]);
    assert_eq!(world.changes(), 1);
    assert!(world.outbox.lines.is_empty(), "nothing is left to know");
}

#[test]
fn what_is_known_of_queues_is_bounded() {
    let mut world = World::replies();
    for client in 0..2 * KNOWN {
        world.hand(&format!("client-{client}"), 10);
        let numbers = world.numbers();
        world.answer(numbers[0], Unroutable);
    }
    assert!(world.ended().iter().all(|(_, end)| *end == End::Unroutable));
    assert_eq!(world.outbox.lines.len(), KNOWN);
    assert_eq!(world.outbox.refusing.len(), KNOWN);
}

#[test]
fn of_those_in_flight_on_a_closed_channel_only_the_guilty_one_is_dropped() {
    let mut world = World::replies();
    let handed: Vec<usize> = (0..5).map(|n| world.hand(&format!("q{n}"), 10)).collect();
    let numbers = world.numbers();
    world.answer(numbers[1], Confirmed);
    assert_eq!(world.ended(), [(handed[1], End::Sent)]);
    // The first was worked through before the second was answered: it can't be the reason.
    world.close(&closing(405, "RESOURCE_LOCKED"));
    let again = world.written();
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].1, "q0");
    let mut tried = Vec::new();
    while let Some(message) = world.outbox.next_suspect() {
        assert!(world.outbox.next_suspect().is_none(), "one at a time");
        tried.push(message.queue.to_string());
        if message.queue.as_str() == "q3" {
            let closing = closing(405, "RESOURCE_LOCKED");
            world
                .outbox
                .alone_failed(message.number, Some(&closing), world.now);
        } else {
            world.outbox.cleared(world.now);
            world.answer(message.number, Confirmed);
        }
    }
    assert_eq!(tried, ["q2", "q3", "q4"]);
    world.answer(again[0].0, Confirmed);
    assert_eq!(
        world.ended(),
        [
            (handed[0], End::Sent),
            (handed[2], End::Sent),
            (handed[3], End::Refused),
            (handed[4], End::Sent)
        ]
    );
    // From now on its queue's replies are tried alone, one at a time, and the others dropped at once.
    let next: Vec<usize> = (0..3).map(|_| world.hand("q3", 10)).collect();
    assert!(world.written().is_empty());
    let dropped = [(next[1], End::Refused), (next[2], End::Refused)];
    assert_eq!(world.ended(), dropped);
    let message = world.outbox.next_suspect().expect("it is tried");
    world.answer(message.number, Confirmed);
    assert_eq!(world.ended(), [(next[0], End::Sent)]);
    world.hand("q3", 10);
    assert_eq!(world.written().len(), 1, "like any other");
}

#[test]
fn a_lone_message_that_closes_the_channel_is_known_at_once() {
    let mut world = World::replies();
    let handed = world.hand("q", 10);
    assert_eq!(world.numbers().len(), 1);
    world.close(&closing(403, "ACCESS_REFUSED - write access refused"));
    assert_eq!(world.ended(), [(handed, End::Refused)]);
    assert!(world.outbox.next_suspect().is_none());
    assert!(
        world
            .outbox
            .trouble()
            .is_some_and(|why| why.contains("write access"))
    );
    let next = world.hand("other", 10);
    let numbers = world.numbers();
    world.answer(numbers[0], Confirmed);
    assert_eq!(world.ended(), [(next, End::Sent)]);
    assert_eq!(world.outbox.trouble(), None);
}

#[test]
fn a_channel_that_closes_for_no_message_s_sake_ends_no_message() {
    let mut world = World::replies();
    for n in 0..3 {
        world.hand(&format!("q{n}"), 10);
    }
    for _ in 0..3 {
        let written = world.numbers();
        let mut open = written.len();
        world.close(&closing(404, "NOT_FOUND"));
        while let Some(message) = world.outbox.next_suspect() {
            // Cleared, and then its channel goes as well.
            world.outbox.cleared(world.now);
            world.outbox.alone_failed(message.number, None, world.now);
            open -= 1;
        }
        assert_eq!((open, world.ended().len()), (0, 0));
    }
    let numbers = world.numbers();
    numbers
        .into_iter()
        .for_each(|number| world.answer(number, Confirmed));
    assert_eq!(world.ended().len(), 3);
}

#[test]
fn a_reply_that_the_broker_finds_too_large_is_sent_without_its_results() {
    let mut world = World::replies();
    let large = |brief: Option<usize>| {
        let mut message = Message::new("q".into(), vec![0; 5_000], BasicProperties::default());
        message.brief = brief.map(|bytes| Brief::Body(vec![0; bytes]));
        message
    };
    let first = world.hand_over(large(Some(300)));
    let other = world.hand("q", 10);
    let numbers = world.numbers();
    assert_eq!(numbers.len(), 2);
    world.close(&too_large(4_096));
    let suspect = world.outbox.next_suspect().expect("one of them");
    world
        .outbox
        .alone_failed(suspect.number, Some(&too_large(4_096)), world.now);
    let suspect = world.outbox.next_suspect().expect("the other");
    world.answer(suspect.number, Confirmed);
    assert_eq!(world.ended(), [(other, End::Sent)]);
    let numbers = world.numbers();
    world.answer(numbers[0], Confirmed);
    assert_eq!(world.ended(), [(first, End::SentBrief)]);
    assert_eq!(world.changes(), 1);

    // The limit is known from now on: no channel is closed any more.
    let second = world.hand_over(large(Some(300)));
    let third = world.hand_over(large(None));
    let numbers = world.numbers();
    assert_eq!(numbers.len(), 1);
    world.answer(numbers[0], Confirmed);
    let ends = [(second, End::SentBrief), (third, End::TooLarge)];
    assert_eq!(world.ended(), ends);
    // Until the connection is another one.
    world.outbox.lost(world.now);
    world.hand_over(large(None));
    assert_eq!(world.numbers().len(), 1);
}

#[test]
fn what_must_arrive_ends_without_its_body_where_the_broker_finds_it_too_large() {
    let mut world = World::new(true);
    let mut message = Message::new("dead".into(), vec![0; 5_000], BasicProperties::default());
    message.brief = Some(Brief::NoBody);
    let letter = world.hand_over(message);
    assert_eq!(world.numbers().len(), 1);
    world.close(&too_large(4_096));
    let brief = world
        .outbox
        .next(world.now)
        .expect("the same without its body");
    assert!(brief.body.is_empty());
    let headers = brief.properties.headers().clone().unwrap_or_default();
    assert!(headers.inner().contains_key("kiln-body-omitted"));
    world.answer(brief.number, Confirmed);
    assert_eq!(world.ended(), [(letter, End::SentBrief)]);
}

#[test]
fn a_queue_that_does_not_confirm_costs_its_own_replies_only() {
    let mut world = World::replies();
    let silent: Vec<usize> = (0..SHARE + 10).map(|_| world.hand("silent", 10)).collect();
    let written = world.numbers();
    assert_eq!(written.len(), SHARE);
    assert!(!world.pass(PATIENCE - LATE));
    let other = world.hand("other", 10);
    let numbers = world.numbers();
    world.answer(numbers[0], Confirmed);
    assert_eq!(world.ended(), [(other, End::Sent)]);
    assert!(!world.pass(LATE), "the connection works");
    assert!(world.written().is_empty());
    let ended = world.ended();
    assert_eq!(ended.len(), silent.len());
    assert!(ended.iter().all(|(_, end)| *end == End::Unconfirmed));
    // As long as they are unconfirmed, nothing more is tried there.
    let next = world.hand("silent", 10);
    assert!(world.numbers().is_empty());
    assert_eq!(world.ended(), [(next, End::Unconfirmed)]);
    world.answer(written[0], Confirmed);
    let next = world.hand("silent", 10);
    let numbers = world.numbers();
    world.answer(numbers[0], Confirmed);
    assert_eq!(world.ended(), [(next, End::Sent)]);
}

#[test]
fn a_connection_on_which_nothing_is_confirmed_is_given_up_once() {
    let mut world = World::replies();
    let handed = world.hand("q", 10);
    assert_eq!(world.numbers().len(), 1);
    assert!(!world.pass(LATE));
    assert!(world.pass(PATIENCE), "it may be the connection's fault");
    world.outbox.lost(world.now);
    assert!(world.ended().is_empty());
    assert_eq!(world.numbers().len(), 1);
    assert!(!world.pass(PATIENCE), "it isn't");
    assert_eq!(world.ended(), [(handed, End::Unconfirmed)]);
}

#[test]
fn a_lost_connection_loses_nothing_and_keeps_the_order() {
    let mut world = World::replies();
    for _ in 0..3 {
        world.hand("a", 10);
    }
    let suspect = world.hand("b", 10);
    assert_eq!(world.numbers().len(), 4);
    world.close(&closing(405, "RESOURCE_LOCKED"));
    let trial = world.outbox.next_suspect().expect("a trial");
    world.outbox.lost(world.now);
    assert!(world.ended().is_empty());
    let again = world.outbox.next_suspect().expect("the same");
    assert_ne!(again.number, trial.number, "numbers are never used twice");
    assert_eq!(again.queue, trial.queue);
    world.answer(again.number, Confirmed);
    assert_eq!(world.ended(), [(1, End::Sent)]);
    while let Some(message) = world.outbox.next_suspect() {
        world.answer(message.number, Confirmed);
    }
    let ends = [(2, End::Sent), (3, End::Sent), (suspect, End::Sent)];
    assert_eq!(world.ended(), ends);
}

#[test]
fn after_a_loss_a_refused_message_is_tried_on_other_channels_first() {
    for must_arrive in [false, true] {
        let mut world = World::new(must_arrive);
        world.outbox.lost(world.now);
        world.hand("led elsewhere", 10);
        for rest in [250, 500, 1_000, 2_000] {
            let number = world.numbers()[0];
            world.answer(number, Refused);
            assert!(world.outbox.take_stale(), "another channel is asked for");
            assert!(world.numbers().is_empty(), "it rests for a moment");
            world.pass(Duration::from_millis(rest));
        }
        assert!(
            world.ended().is_empty() && world.changes() == 0,
            "nothing is known yet"
        );
        let number = world.numbers()[0];
        world.answer(number, Confirmed);
        assert_eq!(world.ended(), [(1, End::Sent)]);
    }
}

#[test]
fn a_channel_that_is_given_up_has_everything_published_again_and_a_full_queue_is_known_in_time() {
    let mut world = World::replies();
    world.outbox.lost(world.now);
    world.hand("full", 10);
    let (full, other) = (world.numbers()[0], world.hand("other", 10));
    world.numbers();
    world.answer(full, Refused);
    let again = world.written();
    assert_eq!(again.len(), 1, "{again:?}");
    assert_eq!(again[0].1, "other");
    world.answer(again[0].0, Confirmed);
    assert_eq!(world.ended(), [(other, End::Sent)]);
    let mut tries = 1;
    while world.ended().is_empty() {
        world.pass(Duration::from_millis(500));
        for number in world.numbers() {
            tries += 1;
            world.answer(number, Refused);
        }
    }
    assert_eq!(tries, 4 + 3, "four other channels, and three tries as ever");
    world.hand("full", 10);
    let number = world.numbers()[0];
    world.answer(number, Refused);
    assert_eq!(world.ended().len(), 1, "the queue is known");
    assert!(!world.outbox.take_stale());
}

#[test]
fn many_refusals_after_a_loss_cost_the_others_a_few_channels() {
    let mut world = World::replies();
    world.outbox.lost(world.now);
    let mut channels = 0;
    for moment in 0..600 {
        world.hand(&format!("full {moment}"), 10);
        while let Some(message) = world.outbox.next(world.now) {
            world.answer(message.number, Refused);
        }
        channels += usize::from(world.outbox.take_stale());
        world.pass(Duration::from_millis(100));
    }
    assert!((4..=8).contains(&channels), "{channels}");
    assert!(world.ended().len() > 500);
}

#[test]
fn what_must_arrive_is_tried_until_it_has() {
    let mut world = World::new(true);
    let letters: Vec<usize> = (0..20).map(|_| world.hand("dead", 10)).collect();
    let retry = world.hand("retry", 10);
    let written = world.written();
    assert_eq!(written.len(), 21);
    for (number, queue) in written {
        let refused = queue == "dead";
        world.answer(number, if refused { Refused } else { Confirmed });
    }
    assert_eq!(world.ended(), [(retry, End::Sent)]);
    // A refusal or two may be a leader's that is slow to answer.
    for _ in 0..2 {
        assert_eq!(world.outbox.trouble(), None);
        world.pass(Duration::from_secs(1));
        let numbers = world.numbers();
        assert_eq!(numbers.len(), 20);
        numbers
            .into_iter()
            .for_each(|number| world.answer(number, Refused));
    }
    // One by one, at a growing distance, and said as long as it lasts.
    for round in 0..20 {
        assert!(world.written().is_empty());
        world.pass(Duration::from_secs(2));
        let numbers = world.numbers();
        assert_eq!(numbers.len(), 1, "{round}");
        world.answer(
            numbers[0],
            if round % 2 == 0 { Unroutable } else { Refused },
        );
        assert!(world.ended().is_empty());
    }
    let why = world.outbox.trouble().expect("it is stuck");
    assert!(why.contains("`dead`"), "{why}");
    world.pass(Duration::from_secs(2));
    let numbers = world.numbers();
    world.answer(numbers[0], Confirmed);
    assert_eq!(world.ended().len(), 1);
    assert_eq!(world.outbox.trouble(), None);
    let numbers = world.numbers();
    assert_eq!(numbers.len(), 19, "all at once");
    numbers
        .into_iter()
        .for_each(|number| world.answer(number, Confirmed));
    assert_eq!(world.ended().len(), letters.len() - 1);
}

#[test]
fn what_must_arrive_ends_only_where_it_never_can() {
    let mut world = World::new(true);
    world.hand("dead", 10);
    assert_eq!(world.numbers().len(), 1);
    for _ in 0..10 {
        world.close(&closing(403, "ACCESS_REFUSED"));
        assert!(world.ended().is_empty());
        world.pass(Duration::from_secs(2));
        assert!(world.written().is_empty(), "it is tried alone");
        let message = world.outbox.next_suspect().expect("it is tried again");
        let closing = closing(403, "ACCESS_REFUSED");
        world
            .outbox
            .alone_failed(message.number, Some(&closing), world.now);
    }
    assert!(world.outbox.trouble().is_some());
    let large = world.hand("warm", 5_000);
    assert_eq!(world.numbers().len(), 1);
    world.close(&too_large(4_096));
    assert_eq!(world.ended(), [(large, End::TooLarge)]);
}

#[test]
fn what_nobody_waits_for_is_not_published() {
    let mut world = World::new(true);
    world.hand("a", 10);
    world.hand("a", 10);
    world.waiting.remove(0);
    assert_eq!(world.written().len(), 1);
    for _ in 0..1_000 {
        world.hand("full", 10);
        world.waiting.pop();
    }
    let waiting = |world: &World| world.outbox.lines["full"].waiting.len();
    assert!(waiting(&world) <= WITHDRAWN);
    world.outbox.forget_withdrawn();
    assert_eq!(waiting(&world), 0);
}

#[test]
fn time_does_not_count_while_the_broker_blocks() {
    let mut world = World::replies();
    world.hand("q", 10);
    let numbers = world.numbers();
    world.now += 10 * PATIENCE;
    assert!(!world.outbox.tick(world.now, true));
    assert_eq!(world.outbox.wake_at(true), None);
    world.outbox.unblocked(world.now);
    assert!(!world.pass(LATE));
    assert_eq!(
        world.outbox.wake_at(false),
        Some(world.now - LATE + PATIENCE)
    );
    world.answer(numbers[0], Confirmed);
    assert_eq!(world.ended(), [(1, End::Sent)]);
}

proptest! {
    /// Whatever happens, in whatever order: once the broker takes everything again, every message has ended, and nothing is left to
    /// know of any queue.
    #[test]
    fn every_message_ends(
        must_arrive in any::<bool>(),
        what in prop::collection::vec((0u8..14, 0usize..4, 0usize..64), 1..300),
    ) {
        let mut world = World::new(must_arrive);
        let (mut main, mut alone): (Vec<u64>, Vec<u64>) = (Vec::new(), Vec::new());
        let mut trial = None;
        for (what, queue, which) in what {
            main.extend(world.numbers());
            if trial.is_none() {
                trial = world.outbox.next_suspect().map(|message| message.number);
            }
            let of = |numbers: &mut Vec<u64>| (!numbers.is_empty()).then(|| numbers.remove(which % numbers.len()));
            match what {
                0..=3 => {
                    world.hand(&format!("q{queue}"), if which == 0 { 10_000 } else { 10 });
                }
                4 | 5 => {
                    let outcome = [Confirmed, Refused, Unroutable, Confirmed][queue];
                    of(&mut main).into_iter().for_each(|number| world.answer(number, outcome));
                }
                6 => {
                    let outcome = [Confirmed, Refused, Unroutable, Confirmed][queue];
                    of(&mut alone).into_iter().for_each(|number| world.answer(number, outcome));
                }
                7 => {
                    let closing = if queue == 0 { too_large(5_000) } else { closing(403, "ACCESS_REFUSED") };
                    world.close(&closing);
                    main.clear();
                }
                8 | 9 => {
                    if let Some(number) = trial.take() {
                        world.outbox.cleared(world.now);
                        alone.push(number);
                    }
                }
                10 => {
                    let failed: Vec<u64> = alone.drain(..).chain(trial.take()).collect();
                    let closing = closing(403, "ACCESS_REFUSED");
                    if which == 0 {
                        world.outbox.alone_gone();
                    }
                    for number in failed {
                        world.outbox.alone_failed(number, (queue > 0).then_some(&closing), world.now);
                    }
                }
                11 => {
                    world.outbox.lost(world.now);
                    main.clear();
                    alone.clear();
                    trial = None;
                }
                12 => {
                    of(&mut main).into_iter().for_each(|number| world.outbox.unsent(number));
                }
                _ => {
                    if world.pass(LATE * u32::try_from(which).expect("a small number")) {
                        world.outbox.lost(world.now);
                        main.clear();
                    alone.clear();
                        trial = None;
                    }
                }
            }
        }
        for _ in 0..1_000 {
            main.extend(world.numbers());
            main.drain(..).chain(alone.drain(..)).chain(trial.take()).for_each(|number| world.answer(number, Confirmed));
            trial = world.outbox.next_suspect().map(|message| message.number);
            world.pass(Duration::from_millis(500));
            world.ended();
        }
        prop_assert!(world.waiting.is_empty(), "{:?}", world.outbox);
        for (queue, line) in &world.outbox.lines {
            prop_assert!(line.is_idle(), "{queue}: {line:?}");
            prop_assert!((line.bytes, line.late) == (0, 0), "{queue}: {line:?}");
        }
        prop_assert_eq!(world.outbox.trouble(), None);
        prop_assert_eq!(world.outbox.flights.len(), 0);
        prop_assert!(world.outbox.flights.have_room(crate::amqp::publisher::flights::WINDOW_BYTES));
    }
}
