//! Every order of a session that takes jobs until it is asked to stop, of jobs that end, and of their settlements, one of which may be dropped
//! anywhere.
//!
//! A stop waits until every job that was taken is settled or back in its queue, and always ends; afterwards nothing is settled; and each job
//! ends once. Ways that are wrong are told from the right one.

use super::*;
use futures_util::FutureExt;
use kiln_fuzz::{Begun, Task, every_order, step};
use std::{
    cell::{Cell, RefCell},
    mem::ManuallyDrop,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    thread::panicking,
};

const MAX_ORDERS: usize = 100_000;
const JOBS: usize = 2;

/// What may be done wrongly.
#[derive(Clone, Copy, Default)]
struct Wrong {
    /// A job counts from the step on only in which it runs.
    counts_late: bool,
    /// A job counts until it has ended only.
    counts_briefly: bool,
    /// What has ended is nobody's once the task is dropped that was to settle it.
    forgets: bool,
    /// The last end may fall between the look and the wait.
    listens_late: bool,
}

/// What the tasks of one run share.
struct World {
    wrong: Wrong,
    in_hand: JobsInHand,
    ended: Together<(Delivery, Option<InHand>)>,
    begun: Begun,
    is_stopping: Cell<bool>,
    is_closed: Cell<bool>,
    /// Jobs that were taken, and those of them that are settled or returned.
    taken: Cell<usize>,
    done: RefCell<Vec<usize>>,
}

/// A delivery, which goes back to its queue when it is dropped.
struct Delivery(Rc<World>, usize);

impl Drop for Delivery {
    fn drop(&mut self) {
        if panicking() {
            return;
        }
        let mut done = self.0.done.borrow_mut();
        assert!(!done.contains(&self.1), "it ends twice");
        done.push(self.1);
        assert!(!self.0.is_closed.get(), "after the channel's end");
    }
}

impl World {
    fn new(wrong: Wrong, metrics: &Metrics) -> Rc<Self> {
        Rc::new(Self {
            wrong,
            in_hand: JobsInHand::new(metrics.clone()),
            ended: Together::default(),
            begun: Begun::default(),
            is_stopping: Cell::new(false),
            is_closed: Cell::new(false),
            taken: Cell::new(0),
            done: RefCell::default(),
        })
    }

    /// Takes jobs, and then waits for all that are in hand.
    async fn session(self: Rc<Self>) {
        for number in 0..JOBS {
            if self.is_stopping.get() {
                break;
            }
            self.taken.set(number + 1);
            let delivery = Delivery(self.clone(), number);
            let in_hand = (!self.wrong.counts_late).then(|| self.in_hand.add());
            self.begun.spawn(self.clone().work(delivery, in_hand));
            step().await;
        }
        self.idle().await;
        assert_eq!(self.done.borrow().len(), self.taken.get(), "still in hand");
        self.is_closed.set(true);
    }

    async fn idle(&self) {
        if !self.wrong.listens_late {
            return self.in_hand.idle().await;
        }
        while self.in_hand.idle().now_or_never().is_none() {
            step().await;
            self.in_hand.0.none.notified().await;
        }
    }

    /// Runs a job to its end.
    async fn work(self: Rc<Self>, delivery: Delivery, in_hand: Option<InHand>) {
        let in_hand = in_hand.unwrap_or_else(|| self.in_hand.add());
        let in_hand = (!self.wrong.counts_briefly).then_some(in_hand);
        let Some(turn) = self.ended.add((delivery, in_hand)) else {
            return;
        };
        if self.wrong.forgets {
            let turn = ManuallyDrop::new(turn);
            let take = move || ManuallyDrop::into_inner(turn).take();
            self.begun.spawn(async move { settle(take()).await });
        } else {
            self.begun.spawn(async move { settle(turn.take()).await });
        }
    }
}

/// The broker's confirms take a while.
async fn settle(ended: Vec<(Delivery, Option<InHand>)>) {
    step().await;
    drop(ended);
}

/// How many orders there are.
fn explored(wrong: Wrong) -> usize {
    let metrics = Metrics::new();
    every_order(MAX_ORDERS, |orders| {
        let world = World::new(wrong, &metrics);
        // The first job, or what began next: the second one, or a settlement.
        let dropped = 2 + orders.pick(2);
        let stops: Task<'_> = Box::pin(async { world.is_stopping.set(true) });
        let session: Task<'_> = Box::pin(world.clone().session());
        let stuck = orders.run_begun(vec![session, stops], &world.begun, Some(dropped));
        assert_eq!(stuck, 0, "it waits for ever");
        assert!(world.is_closed.get());
    })
}

#[test]
fn in_every_order_a_stop_waits_for_all_that_is_in_hand() {
    let orders = explored(Wrong::default());
    assert!(orders > 100, "{orders}");
}

#[test]
fn wrong_ways_to_stop_are_found() {
    let right = Wrong::default();
    let wrong = [
        Wrong {
            counts_late: true,
            ..right
        },
        Wrong {
            counts_briefly: true,
            ..right
        },
        Wrong {
            forgets: true,
            ..right
        },
        Wrong {
            listens_late: true,
            ..right
        },
    ];
    for (number, wrong) in wrong.into_iter().enumerate() {
        let found = catch_unwind(AssertUnwindSafe(|| explored(wrong)));
        assert!(found.is_err(), "{number}");
    }
}
