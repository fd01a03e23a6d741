//! Every order of the steps of two workers that miss the same input, over one server in memory, of which one may be dropped anywhere or time may
//! pass.
//!
//! An input is scored once, unless whoever held its lease is gone or has taken longer than it lasts; then it is scored a second time and no more;
//! and every job is answered whose own worker lives. Ways that are wrong are told from the right one. That a lease is granted to one alone, and
//! given back by nobody else, is the server's to hold: each is one command or script there.

use super::{
    super::{
        one::Lane,
        slot::Left,
        state::tests::{job, model},
        take::BatchLimits,
    },
    *,
};
use crate::{
    config::LaneLimits,
    pipeline::{
        budget::Budget, input_counts::InputCounts, model_call::Called, outcome::Outcome,
        share::Share, source::Ended,
    },
};
use kiln_contract::key::{InputHash, hash_text};
use kiln_fuzz::{Begun, every_order, step};
use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::{Mutex, MutexGuard},
    thread::panicking,
    time::Instant,
};
use tokio::sync::{Notify, oneshot::Receiver};

const MAX_ORDERS: usize = 100_000;
const LIMITS: BatchLimits = BatchLimits {
    rows: 8,
    tokens: 1 << 20,
    seconds: 1e9,
};

/// What may be done wrongly.
#[derive(Clone, Copy, Default)]
struct Wrong {
    /// Entries are looked for before leases are asked for.
    looks_first: bool,
    /// Rows are put after leases were given back.
    puts_last: bool,
    /// Those who wait ask for no lease.
    waits_in_vain: bool,
    /// Those who are to wait are forgotten.
    forgets: bool,
    /// Everybody has every lease.
    grants_all: bool,
}

#[derive(Default)]
struct Server {
    state: Mutex<ServerState>,
    changed: Notify,
}

#[derive(Default)]
struct ServerState {
    /// Who has the lease of an input.
    leases: HashMap<InputHash, u64>,
    entries: HashMap<InputHash, Vec<f32>>,
    askers: u64,
    calls: usize,
    /// Whether a worker is gone, and whether more time has passed than anybody waits.
    is_one_gone: bool,
    is_late: bool,
    /// Changes for which those who wait look again.
    changes: u64,
}

impl Server {
    fn state(&self) -> MutexGuard<'_, ServerState> {
        self.state.lock().expect("sound")
    }

    fn change(&self, change: impl FnOnce(&mut ServerState)) {
        let mut state = self.state();
        change(&mut state);
        state.changes += 1;
        drop(state);
        self.changed.notify_waiters();
    }
}

/// Each thing that is asked of the server is done at once. The answer takes a while, unless nothing depends on when it comes.
struct StandIn {
    server: Arc<Server>,
    wrong: Wrong,
    number: u64,
    is_waiting: bool,
    seen: u64,
    /// What was found too early, and what is put too late.
    found: Mutex<Vec<Option<Vec<f32>>>>,
    late: Mutex<Vec<(InputHash, Vec<f32>)>>,
}

impl StandIn {
    fn new(server: &Arc<Server>, wrong: Wrong, is_waiting: bool) -> Self {
        let mut state = server.state();
        state.askers += 1;
        Self {
            server: server.clone(),
            wrong,
            number: state.askers,
            is_waiting,
            seen: 0,
            found: Mutex::default(),
            late: Mutex::default(),
        }
    }

    fn entries(&self, open: &[Taken]) -> Vec<Option<Vec<f32>>> {
        let state = self.server.state();
        let row = |one: &Taken| state.entries.get(&one.input).cloned();
        open.iter().map(row).collect()
    }

    fn late(&self) -> MutexGuard<'_, Vec<(InputHash, Vec<f32>)>> {
        self.late.lock().expect("sound")
    }
}

impl Means for StandIn {
    fn width(&self) -> usize {
        model().info().output_width
    }

    fn note(&self, _: LeaseOutcome, _: usize) {}

    async fn call(&self, _: &Lane, _: &[Taken], rows: Rows) -> Result<Called, ModelError> {
        self.server.state().calls += 1;
        step().await;
        let Rows::Texts(texts) = rows else {
            panic!("texts")
        };
        let row = |text: &str| vec![f32::from(hash_text(text, None)[0]); self.width()];
        Ok(Called {
            outputs: texts.iter().flat_map(|one| row(&one.text)).collect(),
            seconds: 0.0,
        })
    }

    async fn lease(&self, open: &[Taken]) -> Vec<bool> {
        if self.wrong.looks_first {
            *self.found.lock().expect("sound") = self.entries(open);
            step().await;
        }
        let had = {
            let mut state = self.server.state();
            let mut ask =
                |one: &Taken| *state.leases.entry(one.input).or_insert(self.number) == self.number;
            let had: Vec<bool> = open.iter().map(&mut ask).collect();
            let is_vain = self.wrong.waits_in_vain && self.is_waiting;
            had.into_iter()
                .map(|had| self.wrong.grants_all || (had && !is_vain))
                .collect()
        };
        step().await;
        had
    }

    async fn find(&self, open: &[Taken]) -> Vec<Option<Vec<f32>>> {
        let known = std::mem::take(&mut *self.found.lock().expect("sound"));
        match known.is_empty() {
            true => self.entries(open),
            false => known,
        }
    }

    async fn put(&self, taken: &[Taken], outputs: &[f32]) -> bool {
        let rows = outputs.chunks_exact(self.width()).map(<[f32]>::to_vec);
        let rows = taken.iter().map(|one| one.input).zip(rows);
        match self.wrong.puts_last {
            true => self.late().extend(rows),
            false => self.server.change(|state| state.entries.extend(rows)),
        }
        step().await;
        true
    }

    async fn give_back(&self, held: &[Taken]) {
        if held.is_empty() {
            return;
        }
        self.server.change(|state| {
            let mine = |one: &&Taken| state.leases.get(&one.input) == Some(&self.number);
            let mine: Vec<InputHash> = held.iter().filter(mine).map(|one| one.input).collect();
            state.leases.retain(|input, _| !mine.contains(input));
        });
        let late = std::mem::take(&mut *self.late());
        if !late.is_empty() {
            step().await;
            self.server.change(|state| state.entries.extend(late));
        }
    }

    /// Until there is something to see.
    async fn rest(&mut self) -> bool {
        loop {
            let changed = self.server.changed.notified();
            let (changes, is_late) = {
                let state = self.server.state();
                (state.changes, state.is_late)
            };
            if changes != self.seen {
                self.seen = changes;
                return is_late;
            }
            changed.await;
        }
    }
}

/// A worker with a job of its own.
struct Worker {
    server: Arc<Server>,
    wrong: Wrong,
    lane: Arc<Lane>,
    begun: Begun,
    end: RefCell<Receiver<Ended>>,
}

impl Worker {
    fn start(server: &Arc<Server>, wrong: Wrong, begun: &Begun) -> Rc<Self> {
        let outputs = Budget::new(1 << 30).lane_outputs();
        let lane = Lane::new("sentiment", LaneLimits::default(), Arc::new([]), outputs);
        let (job, end) = job(&model(), "job", &["a"]);
        let worker = Rc::new(Self {
            server: server.clone(),
            wrong,
            lane: Arc::new(lane),
            begun: begun.clone(),
            end: RefCell::new(end),
        });
        assert!(
            worker
                .lane
                .enter(vec![job], |_| Share::default())
                .is_empty()
        );
        worker.pump(&worker.lane);
        worker
    }

    async fn work(self: Rc<Self>, mut flight: InFlight<Rc<Self>>, taken: Vec<Taken>, rows: Rows) {
        flight.begin();
        let means = StandIn::new(&self.server, self.wrong, false);
        let beside = |elsewhere, waiting, rows| {
            if !self.wrong.forgets {
                self.begun
                    .spawn(self.clone().wait(elsewhere, waiting, rows));
            }
        };
        leased(&mut flight, &means, (taken, rows), beside).await;
    }

    async fn wait(self: Rc<Self>, mut flight: InFlight<Rc<Self>>, waiting: Vec<Taken>, rows: Rows) {
        let mut means = StandIn::new(&self.server, self.wrong, true);
        wait(&mut flight, &mut means, waiting, rows).await;
    }

    fn is_answered(&self) -> bool {
        self.end.borrow_mut().try_recv().is_ok()
    }
}

impl Surroundings for Rc<Worker> {
    fn complete(&self, _: &Lane, left: Vec<Left>) {
        for one in left {
            let Left::Scored(job) = one else { continue };
            for (index, slot) in job.rows.slots.enumerate() {
                let row = job.rows.row(index).expect("a row");
                assert_eq!(row[0], f32::from(slot.input[0]), "another input's");
            }
            let (none, now) = (InputCounts::default(), Instant::now());
            job.source.end(Outcome::Abandoned, none, now);
        }
    }

    fn pump(&self, lane: &Arc<Lane>) {
        if panicking() {
            return;
        }
        for (batch, rows) in lane.due(1, LIMITS, Instant::now()).batches {
            let flight = InFlight::new(self.clone(), lane.clone(), batch.taken.clone());
            let alive = Alive(self.clone());
            let work = self.clone().work(flight, batch.taken, rows);
            self.begun.spawn(async move {
                let alive = alive;
                work.await;
                std::mem::forget(alive);
            });
        }
    }
}

/// A worker that is dropped leaves its leases to run out.
struct Alive(Rc<Worker>);

impl Drop for Alive {
    fn drop(&mut self) {
        let server = self.0.server.clone();
        server.state().is_one_gone = true;
        self.0.begun.spawn(async move {
            server.change(|state| state.leases.clear());
        });
    }
}

/// How many orders there are.
fn explored(wrong: Wrong) -> usize {
    every_order(MAX_ORDERS, |orders| {
        let (server, begun) = (Arc::new(Server::default()), Begun::default());
        let is_slow = orders.pick(2) == 1;
        let workers = [(); 2].map(|()| Worker::start(&server, wrong, &begun));
        if is_slow {
            let server = server.clone();
            begun.spawn(async move {
                server.change(|state| {
                    state.leases.clear();
                    state.is_late = true;
                });
            });
        }
        let dropped = (!is_slow).then_some(0);
        let stuck = orders.run_begun(Vec::new(), &begun, dropped);
        assert_eq!(stuck, 0, "somebody waits for ever");
        let state = server.state();
        let may_repeat = state.is_one_gone || is_slow;
        assert!(state.calls <= 1 + usize::from(may_repeat), "scored again");
        assert!(workers[1].is_answered());
        assert!(workers[0].is_answered() || state.is_one_gone);
    })
}

#[test]
fn in_every_order_an_input_that_two_workers_miss_is_scored_once_and_both_are_answered() {
    let orders = explored(Wrong::default());
    assert!(orders > 200, "{orders}");
}

#[test]
fn wrong_ways_to_lease_are_found() {
    let right = Wrong::default();
    let wrong = [
        Wrong {
            looks_first: true,
            ..right
        },
        Wrong {
            puts_last: true,
            ..right
        },
        Wrong {
            waits_in_vain: true,
            ..right
        },
        Wrong {
            forgets: true,
            ..right
        },
        Wrong {
            grants_all: true,
            ..right
        },
    ];
    for (number, wrong) in wrong.into_iter().enumerate() {
        let found = catch_unwind(AssertUnwindSafe(|| explored(wrong)));
        assert!(found.is_err(), "{number}");
    }
}
