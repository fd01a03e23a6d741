//! What the tasks of one run share: a lane, those around it, and what must hold at every step and at the end.

use super::{
    super::{tests::job, tests::model, *},
    Batch,
};
use crate::{
    config::LaneLimits,
    pipeline::{
        budget::Budget,
        input_counts::InputCounts,
        lane::{flight::Surroundings, one::Lane, take::BatchLimits},
        outcome::Outcome,
        source::Ended,
    },
};
use kiln_contract::key::{InputHash, hash_text};
use kiln_fuzz::{Begun, Task};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    thread::panicking,
};
use tokio::sync::oneshot::{Receiver, error::TryRecvError};

/// One input in each batch.
const LIMITS: BatchLimits = BatchLimits {
    rows: 1,
    tokens: 1 << 20,
    seconds: 1e9,
};

/// What may be done wrongly.
#[derive(Clone, Copy)]
pub(super) struct Ways {
    pub(super) batch: Batch,
    pub(super) room: fn(&Rc<World>) -> Task<'static>,
    /// Whether another batch is begun when one ends.
    pub(super) goes_on: bool,
    /// Whether jobs that ask for the same input do so together.
    pub(super) shares: bool,
    /// Whether those who come after an invalidation do so apart from those before it.
    pub(super) heeds_invalidations: bool,
    /// Whether a job counts as on its way until it is in the lane.
    pub(super) counts: bool,
}

/// What the tasks of one run share.
pub(super) struct World {
    pub(super) ways: Ways,
    pub(super) lane: Arc<Lane>,
    budget: Arc<Budget>,
    /// Batches that may be in flight.
    max: usize,
    pub(super) begun: Begun,
    /// Whether the first batch fails.
    pub(super) fails: Cell<bool>,
    /// Whether everything was cut: what is in flight then is nobody's.
    pub(super) is_cut: Cell<bool>,
    /// The latest invalidation.
    pub(super) now: Cell<u64>,
    /// Inputs that are being scored, each with the latest invalidation that its jobs heed.
    flying: RefCell<Vec<(InputHash, u64)>>,
    pub(super) on_their_way: Cell<usize>,
    jobs: Cell<u64>,
    ends: RefCell<Vec<Receiver<Ended>>>,
}

impl World {
    pub(super) fn new(ways: Ways, max: usize) -> Rc<Self> {
        let budget = Budget::new(1 << 30);
        let limits = LaneLimits {
            max_seconds_in_hand: 1e-9,
            ..LaneLimits::default()
        };
        let lane = Lane::new("sentiment", limits, Arc::new([]), budget.lane_outputs());
        Rc::new(Self {
            ways,
            lane: Arc::new(lane),
            budget,
            max,
            begun: Begun::default(),
            fails: Cell::new(false),
            is_cut: Cell::new(false),
            now: Cell::new(0),
            flying: RefCell::default(),
            on_their_way: Cell::new(0),
            jobs: Cell::new(0),
            ends: RefCell::default(),
        })
    }

    /// A job that comes now.
    pub(super) fn job(&self, texts: &[&str]) -> OwnedJob {
        let (number, now) = (self.jobs.get() + 1, self.now.get());
        self.jobs.set(number);
        let (mut job, end) = job(&model(), &format!("job-{number}-{now}"), texts);
        job.source = job.source.holding(self.budget.take(10));
        for slot in job.rows.slots.iter_mut() {
            let heeded = if self.ways.heeds_invalidations {
                now
            } else {
                0
            };
            let apart = if self.ways.shares { 0 } else { number };
            (slot.seal.stamp, slot.min_stamp) = (heeded + apart, heeded);
        }
        self.ends.borrow_mut().push(end);
        job
    }

    pub(super) fn enter(self: &Rc<Self>, job: OwnedJob) {
        let moved = self.lane.enter(vec![job], |_| Share::default());
        assert!(moved.is_empty());
        self.begin();
    }

    pub(super) fn begin(self: &Rc<Self>) {
        let due = self.lane.due(self.max, LIMITS, Instant::now());
        for (batch, rows) in due.batches {
            self.begun.spawn((self.ways.batch)(self, batch.taken, rows));
        }
        self.ended(due.left);
    }

    /// The first job's owner goes away, and that is noticed.
    pub(super) fn leave(&self) {
        drop(self.ends.borrow_mut().remove(0));
        let left = self.lane.change(|state| state.work.abandoned());
        self.ended(left);
    }

    /// Whoever waits for these jobs is told, or they go back.
    pub(super) fn ended(&self, left: Vec<Left>) {
        for one in left {
            let Left::Scored(job) = one else { continue };
            let came = job.rows.job.job_id.rsplit('-').next();
            let came: f32 = came.and_then(|at| at.parse().ok()).expect("a stamp");
            for (index, slot) in job.rows.slots.enumerate() {
                let row = job.rows.row(index).expect("a row");
                assert_eq!(row[0], f32::from(slot.input[0]), "another input's");
                assert!(row[1] >= came, "from before an invalidation");
            }
            let (none, now) = (InputCounts::default(), Instant::now());
            job.source.end(Outcome::Abandoned, none, now);
        }
        self.check();
    }

    pub(super) fn check(&self) {
        if panicking() {
            return;
        }
        let state = self.lane.state();
        let calls = self.flying.borrow().len();
        assert!(
            calls <= state.running && state.running <= self.max,
            "batches"
        );
        let under_way = self.lane.arrivals.under_way();
        assert_eq!(under_way, self.on_their_way.get(), "on their way");
        state.work.assert_accounts();
    }

    /// Nobody waits, and nothing is left.
    pub(super) fn assert_over(&self) {
        let left = self.lane.change(|state| state.work.abandoned());
        self.ended(left);
        let nobody = |end: &mut Receiver<Ended>| end.try_recv().err() != Some(TryRecvError::Empty);
        assert!(self.ends.borrow_mut().iter_mut().all(nobody), "it waits");
        let state = self.lane.state();
        let open = (state.running, state.work.jobs(), state.work.slots.len());
        assert_eq!((open, self.budget.taken()), ((0, 0, 0), 0));
    }

    /// A call of the model, until it is dropped.
    pub(super) fn call(self: &Rc<Self>, taken: &[Taken], rows: &Rows) -> Call {
        let Rows::Texts(texts) = rows else {
            panic!("texts")
        };
        let given = texts.iter().map(|row| hash_text(&row.text, None));
        assert!(given.eq(taken.iter().map(|one| one.input)), "another one's");
        let inputs: Vec<_> = taken.iter().map(|one| (one.input, one.min_stamp)).collect();
        let is_new = |input| !self.flying.borrow().contains(input);
        assert!(
            self.is_cut.get() || inputs.iter().all(is_new),
            "scored twice"
        );
        self.flying.borrow_mut().extend(&inputs);
        Call {
            world: self.clone(),
            began: self.now.get(),
            inputs,
        }
    }
}

pub(super) struct Call {
    world: Rc<World>,
    began: u64,
    inputs: Vec<(InputHash, u64)>,
}

impl Call {
    /// A row for each input, which says which one it is and when it was begun.
    pub(super) fn rows(&self) -> Vec<[f32; 3]> {
        let row = |(input, _): &(InputHash, u64)| [f32::from(input[0]), self.began as f32, 0.0];
        self.inputs.iter().map(row).collect()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut flying = self.world.flying.borrow_mut();
        flying.retain(|one| !self.inputs.contains(one));
    }
}

impl Surroundings for Rc<World> {
    fn complete(&self, _: &Lane, left: Vec<Left>) {
        self.ended(left);
    }

    fn pump(&self, _: &Arc<Lane>) {
        if self.ways.goes_on && !panicking() {
            self.begin();
        }
    }
}

impl State {
    /// What it says that its jobs take is what they take, and everything that is waited for is there once.
    fn assert_accounts(&self) {
        let sum = |jobs: &mut dyn Iterator<Item = &LaneJob>| {
            let mut all = Load::default();
            jobs.for_each(|one| all.add(one.load));
            all
        };
        let are = |said: Load, all: Load| {
            said.bytes == all.bytes && (said.seconds - all.seconds).abs() < 1e-6
        };
        let all = sum(&mut self.jobs.iter().map(|(_, one)| one));
        assert!(are(self.all, all) && are(self.unlimited, all), "its load");
        let seconds: f64 = self.by_namespace.values().sum();
        assert!((seconds - all.seconds).abs() < 1e-6, "its namespaces");
        let mut waited_for = 0;
        for (index, slot) in &self.slots {
            assert_eq!(self.by_key.get(&slot.key), Some(&index));
            assert!(slot.is_taken || !slot.waiters.is_empty(), "for nobody");
            waited_for += slot.waiters.len();
        }
        let open: usize = self.jobs.iter().map(|(_, one)| one.open).sum();
        assert_eq!((waited_for, self.by_key.len()), (open, self.slots.len()));
    }
}
