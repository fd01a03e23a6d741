//! Every order of jobs that come, owners that go away, and batches that are begun, land or are dropped.
//!
//! Of flights: an input that is being scored isn't begun again, and whoever asks for it meanwhile gets its row, unless an invalidation has come
//! between; a batch is given the rows of its own inputs; a job's owner is told its end once, and nobody waits for ever. Of the lane's accounts:
//! what the lane is said to hold is what its jobs hold, at every step; there are as many batches as are counted, and no more than may be; a
//! job that was let in counts as under way or as there until it leaves, and whoever waits for room is woken; at the end nothing is left. Ways
//! that are wrong are told from the right one.

mod world;

use super::*;
use crate::pipeline::lane::flight::InFlight;
use futures_util::FutureExt;
use kiln_fuzz::{Task, every_order, step};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
};
use world::{Ways, World};

const MAX_ORDERS: usize = 100_000;
const RIGHT: Ways = Ways {
    batch: as_it_is,
    room: room_as_it_is,
    goes_on: true,
    shares: true,
    heeds_invalidations: true,
    counts: true,
};

/// What becomes of inputs that were taken together.
type Batch = fn(&Rc<World>, Vec<Taken>, Rows) -> Task<'static>;

const SCORED: How = How::Scored {
    is_stored: false,
    nanos: 0,
};

fn as_it_is(world: &Rc<World>, taken: Vec<Taken>, rows: Rows) -> Task<'static> {
    let world = world.clone();
    let mut flight = InFlight::new(world.clone(), world.lane.clone(), taken.clone());
    let unbegun = Unbegun(Some(world.clone()));
    Box::pin(async move {
        flight.begin();
        unbegun.begin();
        let call = world.call(&taken, &rows);
        step().await;
        let rows = call.rows();
        drop(call);
        if world.fails.take() {
            return flight.fail(&taken, &ModelError::Stopped);
        }
        flight.land(SCORED, taken.iter().zip(rows.iter().map(|row| &row[..])));
    })
}

/// What is dropped before its first step tells that everything was cut.
struct Unbegun(Option<Rc<World>>);

impl Unbegun {
    fn begin(mut self) {
        self.0 = None;
    }
}

impl Drop for Unbegun {
    fn drop(&mut self) {
        if let Some(world) = &self.0 {
            world.is_cut.set(true);
        }
    }
}

/// Who waits for a batch's inputs may go away before they are read.
fn reading_late(world: &Rc<World>, taken: Vec<Taken>, _: Rows) -> Task<'static> {
    let world = world.clone();
    Box::pin(async move {
        let rows = world.lane.state().work.rows(&taken);
        as_it_is(&world, taken, rows).await;
    })
}

/// Whoever is dropped takes what it has of its lane along, and who ends says nothing where nothing waits for its turn.
fn forgetting(world: &Rc<World>, taken: Vec<Taken>, rows: Rows) -> Task<'static> {
    let world = world.clone();
    Box::pin(async move {
        let call = world.call(&taken, &rows);
        step().await;
        let (rows, mut left) = (call.rows(), Vec::new());
        drop(call);
        let mut state = world.lane.state();
        for (one, row) in taken.iter().zip(&rows) {
            state.work.land(one, row, SCORED, &mut left);
        }
        state.running -= 1;
        let is_idle = state.work.is_idle();
        drop(state);
        world.ended(left);
        if !is_idle {
            world.begin();
        }
    })
}

/// What leaves takes nothing off the accounts.
fn unaccounted(world: &Rc<World>, taken: Vec<Taken>, _: Rows) -> Task<'static> {
    let world = world.clone();
    Box::pin(async move {
        step().await;
        world.lane.change(|state| {
            let slots = taken.iter().flat_map(|one| state.work.end_slot(one.id));
            let jobs: Vec<JobId> = slots.map(|(job, _)| job).collect();
            for job in jobs {
                drop(state.work.jobs.try_remove(job));
            }
            state.running -= 1;
        });
        world.begin();
    })
}

fn room_as_it_is(world: &Rc<World>) -> Task<'static> {
    let lane = world.lane.clone();
    Box::pin(async move {
        lane.room(&[0]).await;
    })
}

/// What is said between the look and the wait is missed.
fn listening_late(world: &Rc<World>) -> Task<'static> {
    let lane = world.lane.clone();
    Box::pin(async move {
        while lane.room(&[0]).now_or_never().is_none() {
            step().await;
            lane.arrivals.freed.notified().await;
        }
    })
}

/// A job that was let in and isn't in the lane yet.
struct OnItsWay(Rc<World>);

impl OnItsWay {
    fn new(world: &Rc<World>) -> Self {
        world.on_their_way.update(|jobs| jobs + 1);
        Self(world.clone())
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.0.on_their_way.update(|jobs| jobs - 1);
    }
}

/// Takes a job from a queue as soon as the lane has room.
async fn intake(world: Rc<World>) {
    (world.ways.room)(&world).await;
    let (arriving, on_its_way) = (world.lane.arriving(), OnItsWay::new(&world));
    let mut job = world.job(&["a"]);
    if world.ways.counts {
        job.source = job.source.arriving(arriving);
    } else {
        drop(arriving);
    }
    step().await;
    world.check();
    drop(on_its_way);
    world.enter(job);
}

/// Jobs ask for the same input, the second one before or after an invalidation; the first one's owner goes away; the first batch fails, or may be
/// dropped. Gives how many orders there are.
fn flights(ways: Ways) -> usize {
    every_order(MAX_ORDERS, |orders| {
        let is_late = orders.pick(2) == 1;
        let max = if is_late { 2 } else { 1 + orders.pick(2) };
        let world = World::new(ways, max);
        let fails = orders.pick(2) == 1;
        world.fails.set(fails);
        let texts: &[&str] = if is_late { &["b"] } else { &["a", "b"] };
        world.enter(world.job(texts));
        let second: Task<'_> = Box::pin(async {
            world.now.set(u64::from(is_late));
            world.enter(world.job(&["b"]));
        });
        let leaves: Task<'_> = Box::pin(async { world.leave() });
        let dropped = (!fails).then_some(2);
        let stuck = orders.run_begun(vec![second, leaves], &world.begun, dropped);
        assert_eq!(stuck, 0, "somebody waits for ever");
        world.assert_over();
    })
}

/// The lane is full of one job, and another one waits for room. That one may be dropped, or the first batch.
fn accounts(ways: Ways) -> usize {
    every_order(MAX_ORDERS, |orders| {
        let world = World::new(ways, 2);
        world.enter(world.job(&["a", "b"]));
        let waits: Task<'_> = Box::pin(intake(world.clone()));
        let dropped = orders.pick(2);
        let stuck = orders.run_begun(vec![waits], &world.begun, Some(dropped));
        assert_eq!(stuck, 0, "somebody waits for ever");
        world.assert_over();
    })
}

fn is_found(explored: impl Fn() -> usize) -> bool {
    catch_unwind(AssertUnwindSafe(explored)).is_err()
}

#[test]
fn in_every_order_an_input_is_scored_once_at_a_time_for_all_who_ask_for_it() {
    let orders = flights(RIGHT);
    assert!(orders > 300, "{orders}");
}

#[test]
fn in_every_order_a_lane_counts_what_it_holds_and_wakes_who_waits_for_room() {
    let orders = accounts(RIGHT);
    assert!(orders > 300, "{orders}");
}

#[test]
fn wrong_ways_to_share_a_flight_are_found() {
    for batch in [forgetting as Batch, reading_late] {
        assert!(is_found(|| flights(Ways { batch, ..RIGHT })));
    }
    let wrong = [
        Ways {
            goes_on: false,
            ..RIGHT
        },
        Ways {
            shares: false,
            ..RIGHT
        },
        Ways {
            heeds_invalidations: false,
            ..RIGHT
        },
    ];
    for (number, ways) in wrong.into_iter().enumerate() {
        assert!(is_found(|| flights(ways)), "{number}");
    }
}

#[test]
fn wrong_accounts_of_a_lane_are_found() {
    for batch in [forgetting as Batch, unaccounted] {
        assert!(is_found(|| accounts(Ways { batch, ..RIGHT })));
    }
    let late = Ways {
        room: listening_late,
        ..RIGHT
    };
    let uncounted = Ways {
        counts: false,
        ..RIGHT
    };
    assert!(is_found(|| accounts(late)) && is_found(|| accounts(uncounted)));
}
