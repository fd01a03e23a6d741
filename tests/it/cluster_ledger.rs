//! A known ledger of jobs over clusters of all three servers, while a fault strikes every two seconds: none lost, none unknown, one row
//! each, and afterwards the workers hold what they held before.
//!
//! `LEDGER_SECONDS` says for how long faults strike, and `LEDGER_SEED` repeats a sequence that was printed.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::env;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::harness::bus::{DEAD, JOBS};
use crate::harness::cluster::fleet::{Breaks, Databases, Rabbits, Shards, Workers};
use crate::harness::jobs::job_ids;
use crate::harness::stack::Stack;
use crate::harness::worker::{Usage, Worker};
use crate::harness::{PATIENCE, eventually, eventually_equals};

const SECONDS: u64 = 45;
const FAULT_EVERY: Duration = Duration::from_secs(2);
const POST_EVERY: Duration = Duration::from_millis(200);
/// Posted at once.
const JOBS_AT_ONCE: usize = 20;
/// Inputs that come again and again, each in one job of so many.
const SHARED: usize = 50;
const LANE: &str = "kiln.lane.fault";

/// Sockets and tasks that may be more than before: a connection that a server's new address needs beside the old ones' rest.
const MORE: usize = 12;

fn seconds() -> u64 {
    let set = env::var("LEDGER_SECONDS").ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(SECONDS)
}

fn seed() -> u64 {
    let set = env::var("LEDGER_SEED").ok();
    let set = set.and_then(|text| text.parse().ok());
    set.unwrap_or_else(|| rand::rng().random())
}

/// One of a text that no other job has and one that others have, both kept for readers.
fn job(prefix: &str, n: usize) -> Value {
    let shared = format!("shared {}", n % SHARED);
    json!({
        "job_id": format!("{prefix}-{n}"),
        "model": "fault",
        "namespace": "ledger",
        "named": true,
        "inputs": [
            {"key": format!("own:{}", n % SHARED), "text": format!("sleep:1 {prefix} {n}")},
            {"key": shared, "text": shared},
        ],
    })
}

fn jobs(prefix: &str, from: usize, count: usize) -> Vec<Value> {
    (from..from + count).map(|n| job(prefix, n)).collect()
}

/// Waits until it has nothing in hand, and gives what it holds.
async fn idle(worker: &Worker) -> Usage {
    worker.wait_in_hand(0).await;
    worker.usage().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_confirmed_job_has_one_row_whatever_befalls_the_clusters() {
    let seed = seed();
    println!("LEDGER_SEED={seed}");
    let mut dice = StdRng::seed_from_u64(seed);
    let (mut rabbits, mut shards, mut databases) =
        tokio::join!(Rabbits::start(), Shards::start(), Databases::start());
    let mut stack = Stack::on_clusters(&rabbits.cluster, databases.pair.primary.clone()).await;
    let settings = stack
        .worker()
        .expect_trouble()
        .set("KILN_AMQP_URL", &rabbits.url())
        .set("KILN_REDIS_URL", &shards.url())
        .set("KILN_DATABASE_URL", &databases.url(stack.database()))
        .set("KILN_INTAKE__BATCH_JOBS", "16")
        .set("KILN_INTAKE__PREFETCH", "64")
        // So that many jobs are moved to the lane's queues on their way.
        .set("KILN_LANE__EXPENSIVE_FROM_MS", "0")
        .set("KILN_LANE__MAX_SECONDS_IN_HAND", "0.02")
        .set("KILN_LANE__TURN_MS", "8")
        .set("KILN_LANE__QUEUES", "1");
    let mut workers = Workers::start(settings, 2, 2).await;
    let first = jobs("before", 0, 10 * JOBS_AT_ONCE);
    stack.bus.publish_jobs(&first).await;
    stack.wait_for_rows(first.len()).await;
    let mut before = Vec::new();
    for worker in &workers.survivors {
        let declared = "jobs may wait in a lane's queues";
        let is_declared = |line: &str| line.contains(declared);
        worker.wait_for_line(declared, is_declared).await;
        before.push(idle(worker).await);
    }
    println!("before: {before:?}");
    let mut ledger: BTreeSet<String> = job_ids(&first).into_iter().collect();

    let begun = Instant::now();
    let say = |what: String| println!("{:6.1} s  {what}", begun.elapsed().as_secs_f64());
    let over = AtomicBool::new(false);
    let faults = Cell::new(0);
    let (rabbit, redis, postgres, worker) =
        (Turns::new(), Turns::new(), Turns::new(), Turns::new());
    let choosing = async {
        let all = [&rabbit, &redis, &postgres, &worker];
        let mut tick = interval(FAULT_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while begun.elapsed() < Duration::from_secs(seconds()) {
            tick.tick().await;
            let whole: Vec<&Turns> = all.into_iter().filter(|one| !one.busy.get()).collect();
            // Where all are still being healed, the next one waits for its turn.
            if let Some(one) = whole.choose(&mut dice) {
                one.next(dice.random());
                faults.set(faults.get() + 1);
            }
        }
        all.into_iter().for_each(Turns::end);
    };
    let breaking = async {
        tokio::join!(
            choosing,
            rabbit.run(&mut rabbits, &say),
            redis.run(&mut shards, &say),
            postgres.run(&mut databases, &say),
            worker.run(&mut workers, &say),
        );
        over.store(true, Ordering::Relaxed);
        say(format!("all is whole again after {} faults", faults.get()));
    };
    let posting = async {
        let mut tick = interval(POST_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut posted = 0;
        while !over.load(Ordering::Relaxed) {
            tick.tick().await;
            let some = jobs("during", posted, JOBS_AT_ONCE);
            posted += some.len();
            stack.bus.publish_jobs(&some).await;
            ledger.extend(job_ids(&some));
        }
    };
    tokio::join!(breaking, posting);

    stack.look_at(databases.pair.primary.clone());
    let posted = ledger.len();
    let done_by = PATIENCE.max(Duration::from_secs(seconds()));
    eventually(&format!("{posted} rows"), done_by, || async {
        (stack.row_count().await as usize >= posted).then_some(())
    })
    .await;
    say(format!("{posted} jobs are done"));
    check(&stack, &ledger).await;
    for worker in workers.all() {
        worker.wait_ready().await;
    }
    for (worker, before) in workers.survivors.iter().zip(before) {
        is_where_it_was(worker, before).await;
    }
    for worker in workers.all() {
        worker.stop().await;
    }
    // The broker counts every few seconds; nobody takes or settles a job any more.
    eventually_equals("jobs left behind", PATIENCE, Some(0), || {
        stack.unsettled(JOBS)
    })
    .await;
}

/// Nothing lost, doubled or unknown, and each job scored.
async fn check(stack: &Stack, ledger: &BTreeSet<String>) {
    let rows = stack.rows().await;
    let kept: BTreeSet<String> = rows.iter().map(|row| row.job_id.clone()).collect();
    assert_eq!(rows.len(), kept.len(), "one row each");
    let lost: Vec<&String> = ledger.difference(&kept).collect();
    assert_eq!(lost, Vec::<&String>::new(), "none lost");
    let unknown: Vec<&String> = kept.difference(ledger).collect();
    assert_eq!(unknown, Vec::<&String>::new(), "none unknown");
    let is_whole = |results: &Value| results.as_array().is_some_and(|all| all.len() == 2);
    let scored = rows
        .iter()
        .filter(|row| row.status == "ok" && row.results.as_ref().is_some_and(is_whole));
    assert_eq!(scored.count(), rows.len(), "all scored");
    let doubled = "SELECT count(*) FROM (SELECT 1 FROM scores GROUP BY input_sha256, model, version HAVING count(*) > 1) AS doubled";
    assert_eq!(stack.count(doubled).await, 0, "one row of each score");
    let scores = stack.count("SELECT count(*) FROM scores").await;
    let inputs = rows.len() + SHARED;
    assert_eq!(scores as usize, inputs, "each input's row");
    assert_eq!(stack.bus.waiting(DEAD).await, Some(0), "none given up");
    stack.wait_for_empty(JOBS).await;
    stack.wait_for_empty(LANE).await;
}

async fn is_where_it_was(worker: &Worker, before: Usage) {
    let after = eventually("it holds what it held", PATIENCE, async || {
        let now = idle(worker).await;
        let fits = now.sockets <= before.sockets + MORE && now.tasks <= before.tasks + MORE;
        fits.then_some(now)
    })
    .await;
    println!("before {before:?}, after {after:?}");
    let bound = before.rss_kib + before.rss_kib / 2;
    assert!(after.rss_kib <= bound, "{after:?}, and before {before:?}");
}

/// Whose turn it is to be struck: one fault at a time.
struct Turns {
    send: Cell<Option<mpsc::UnboundedSender<u64>>>,
    receive: Cell<Option<mpsc::UnboundedReceiver<u64>>>,
    busy: Cell<bool>,
}

impl Turns {
    fn new() -> Self {
        let (send, receive) = mpsc::unbounded_channel();
        Self {
            send: Cell::new(Some(send)),
            receive: Cell::new(Some(receive)),
            busy: Cell::new(false),
        }
    }

    fn next(&self, seed: u64) {
        self.busy.set(true);
        let send = self.send.take();
        if let Some(send) = &send {
            let _gone = send.send(seed);
        }
        self.send.set(send);
    }

    fn end(&self) {
        self.send.set(None);
    }

    /// Does one fault after the other until the end.
    async fn run(&self, what: &mut impl Breaks, say: &dyn Fn(String)) {
        let mut turns = self.receive.take().expect("it runs once");
        while let Some(seed) = turns.recv().await {
            what.fault(&mut StdRng::seed_from_u64(seed), say).await;
            self.busy.set(false);
        }
    }
}
