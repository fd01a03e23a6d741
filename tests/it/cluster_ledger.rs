//! A known ledger of jobs over clusters of all three servers, while a fault strikes every two seconds: none lost, none unknown, one row
//! each, and afterwards the workers hold what they held before. It ends with a table of what was done and of what grew.
//!
//! `LEDGER_SECONDS` says for how long faults strike, and `LEDGER_SEED` repeats a sequence that was printed. `scripts/soak` runs it for hours.

use std::collections::BTreeSet;
use std::env;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use crate::harness::bus::{DEAD, JOBS};
use crate::harness::cluster::fleet::{Databases, Rabbits, Shards, Workers};
use crate::harness::cluster::turns::{Faults, Turns};
use crate::harness::growth::Growth;
use crate::harness::jobs::job_ids;
use crate::harness::stack::Stack;
use crate::harness::worker::{Settings, Usage, Worker, ask};
use crate::harness::{PATIENCE, eventually, eventually_equals};

const SECONDS: u64 = 45;
/// Faults rest now and then, so that what is held at rest can be looked at.
const ROUND_SECONDS: u64 = 300;
const FAULT_EVERY: Duration = Duration::from_secs(2);
const POST_EVERY: Duration = Duration::from_millis(200);
/// Of each kind, posted at once: of the model with a lane, of a model without one, of a model that there isn't, and over HTTP.
const AT_ONCE: [(Kind, usize); 4] = [
    (Kind::Dear, 16),
    (Kind::Cheap, 3),
    (Kind::Bad, 1),
    (Kind::Http, 1),
];
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Dear,
    Cheap,
    Bad,
    Http,
}

/// One of a text that no other job has and one that others have, both kept for readers; those over HTTP have only the second.
fn job(kind: Kind, prefix: &str, n: usize) -> Value {
    let (model, letter) = match kind {
        Kind::Dear => ("fault", "d"),
        Kind::Cheap => ("sentiment", "c"),
        Kind::Bad => ("nobody", "b"),
        Kind::Http => ("fault", "h"),
    };
    let shared = format!("shared {}", n % SHARED);
    let mut inputs = vec![json!({"key": shared, "text": shared})];
    if kind != Kind::Http {
        let own = format!("sleep:1 {prefix} {n}");
        inputs.push(json!({"key": format!("own:{}", n % SHARED), "text": own}));
    }
    json!({
        "job_id": format!("{prefix}-{letter}-{n}"),
        "model": model,
        "namespace": format!("ledger-{letter}"),
        "named": true,
        "inputs": inputs,
    })
}

/// What was posted in a round, by what is to become of it.
#[derive(Default)]
struct Ledger {
    scored: BTreeSet<String>,
    rejected: BTreeSet<String>,
    /// Whose producer had no answer.
    unsure: BTreeSet<String>,
}

/// All of the rounds.
#[derive(Default)]
struct Totals {
    scored: usize,
    rejected: usize,
    over_http: usize,
    unsure: usize,
    dear: usize,
    cheap: usize,
}

/// The fleet under test and its servers.
struct Fleet {
    stack: Stack,
    rabbits: Rabbits,
    shards: Shards,
    databases: Databases,
    workers: Workers,
    faults: Faults,
    begun: Instant,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_confirmed_job_has_one_row_whatever_befalls_the_clusters() {
    let seed = seed();
    println!("LEDGER_SEED={seed}");
    let mut dice = StdRng::seed_from_u64(seed);
    let mut fleet = Fleet::start().await;
    let (mut growth, mut totals) = (Growth::default(), Totals::default());
    // All of the shared inputs once, of each model.
    let first = fleet.post("before", SHARED).await;
    fleet.settle("before", first, &mut totals).await;
    for worker in &fleet.workers.survivors {
        let declared = "jobs may wait in a lane's queues";
        let is_declared = |line: &str| line.contains(declared);
        worker.wait_for_line(declared, is_declared).await;
    }
    let before = fleet.look(&mut growth).await;
    let rounds = seconds().div_ceil(ROUND_SECONDS).max(1);
    for round in 1..=rounds {
        let prefix = format!("r{round}");
        let time = Duration::from_secs(seconds()) / rounds as u32;
        let ledger = fleet.strike(&prefix, time, &mut dice).await;
        fleet.settle(&prefix, ledger, &mut totals).await;
        fleet.look(&mut growth).await;
    }
    fleet.print(&growth, &totals);
    for (worker, before) in fleet.workers.survivors.iter().zip(before) {
        is_where_it_was(worker, before).await;
    }
    for worker in fleet.workers.all() {
        worker.stop().await;
    }
    // The broker counts every few seconds; nobody takes or settles a job any more.
    eventually_equals("jobs left behind", PATIENCE, Some(0), || {
        fleet.stack.unsettled(JOBS)
    })
    .await;
}

impl Fleet {
    async fn start() -> Self {
        let (rabbits, shards, databases) =
            tokio::join!(Rabbits::start(), Shards::start(), Databases::start());
        let stack = Stack::on_clusters(&rabbits.cluster, databases.pair.primary.clone()).await;
        let settings = settings(&stack, &rabbits, &shards, &databases);
        Self {
            workers: Workers::start(settings, 2, 2).await,
            stack,
            rabbits,
            shards,
            databases,
            faults: Faults::default(),
            begun: Instant::now(),
        }
    }

    fn say(&self, what: &str) {
        println!("{:8.1} s  {what}", self.begun.elapsed().as_secs_f64());
    }

    /// Posts the jobs of so many turns, and gives what is to become of them.
    async fn post(&self, prefix: &str, turns: usize) -> Ledger {
        let port = self.workers.survivors[0].http_port;
        let mut ledger = Ledger::default();
        for turn in 0..turns {
            post_some(&self.stack, port, prefix, turn, &mut ledger).await;
        }
        ledger
    }

    /// Faults for so long, while jobs are posted.
    async fn strike(&mut self, prefix: &str, time: Duration, dice: &mut StdRng) -> Ledger {
        let begun = self.begun;
        let say = |what: String| println!("{:8.1} s  {what}", begun.elapsed().as_secs_f64());
        let over = AtomicBool::new(false);
        let (rabbit, redis, postgres, worker) =
            (Turns::new(), Turns::new(), Turns::new(), Turns::new());
        let began = Instant::now();
        let choosing = async {
            let all = [&rabbit, &redis, &postgres, &worker];
            let mut tick = interval(FAULT_EVERY);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while began.elapsed() < time {
                tick.tick().await;
                let whole: Vec<&Turns> = all.into_iter().filter(|one| !one.is_busy()).collect();
                // Where all are still being healed, the next one waits for its turn.
                if let Some(one) = whole.choose(dice) {
                    one.next(dice.random());
                }
            }
            all.into_iter().for_each(Turns::end);
        };
        let port = self.workers.survivors[0].http_port;
        let (stack, faults) = (&self.stack, &self.faults);
        let breaking = async {
            tokio::join!(
                choosing,
                rabbit.run(&mut self.rabbits, faults, &say),
                redis.run(&mut self.shards, faults, &say),
                postgres.run(&mut self.databases, faults, &say),
                worker.run(&mut self.workers, faults, &say),
            );
            over.store(true, Ordering::Relaxed);
        };
        let mut ledger = Ledger::default();
        let posting = async {
            let mut tick = interval(POST_EVERY);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut turn = 0;
            while !over.load(Ordering::Relaxed) {
                tick.tick().await;
                post_some(stack, port, prefix, turn, &mut ledger).await;
                turn += 1;
            }
        };
        tokio::join!(breaking, posting);
        self.stack.look_at(self.databases.pair.primary.clone());
        ledger
    }

    /// Waits until all of a round is done, and checks that nothing of it is lost, doubled or unknown.
    async fn settle(&self, prefix: &str, ledger: Ledger, totals: &mut Totals) {
        let stack = &self.stack;
        let posted = ledger.scored.len() + ledger.rejected.len();
        let done_by = PATIENCE.max(Duration::from_secs(seconds().min(ROUND_SECONDS)));
        eventually(&format!("{posted} rows"), done_by, || async {
            let known = kept(stack, prefix, "true").await;
            let posted = ledger.scored.iter().chain(&ledger.rejected);
            posted.clone().all(|id| known.contains(id)).then_some(())
        })
        .await;
        stack.wait_for_empty(JOBS).await;
        stack.wait_for_empty(LANE).await;
        for worker in self.workers.all() {
            worker.wait_ready().await;
            worker.wait_in_hand(0).await;
        }
        self.say(&format!("{posted} jobs are done"));
        let whole = "status = 'ok' AND jsonb_array_length(results) = CASE WHEN namespace = 'ledger-h' THEN 1 ELSE 2 END";
        let scored = kept(stack, prefix, whole).await;
        let rejected = kept(stack, prefix, "status = 'rejected'").await;
        let rows = format!("SELECT count(*) FROM jobs WHERE job_id LIKE '{prefix}-%'");
        let rows = stack.count(&rows).await as usize;
        assert_eq!(rows, scored.len() + rejected.len(), "one row each");
        let lost: Vec<&String> = ledger.scored.difference(&scored).collect();
        assert_eq!(lost, Vec::<&String>::new(), "none lost, and each scored");
        assert_eq!(rejected, ledger.rejected, "what can't be scored");
        let unknown: Vec<&String> = scored.difference(&ledger.scored).collect();
        let unknown = unknown
            .into_iter()
            .filter(|id| !ledger.unsure.contains(*id));
        assert_eq!(unknown.count(), 0, "none unknown");
        let of = |letter: &str| {
            let start = format!("{prefix}-{letter}-");
            scored.iter().filter(|id| id.starts_with(&start)).count()
        };
        totals.scored += scored.len();
        totals.rejected += rejected.len();
        totals.over_http += of("h");
        totals.dear += of("d");
        totals.cheap += of("c");
        totals.unsure += ledger.unsure.len();
        check(stack, totals).await;
    }

    /// Notes what is held, all being at rest, and gives what the workers that live through everything hold.
    async fn look(&self, growth: &mut Growth) -> Vec<Usage> {
        let at = self.begun.elapsed();
        let mut all = Vec::new();
        for (number, worker) in (1..).zip(&self.workers.survivors) {
            let usage = idle(worker).await;
            let mut note = |what: &str, value: usize| {
                growth.note(at, &format!("worker {number}: {what}"), value as f64);
            };
            note("memory, KiB", usage.rss_kib);
            note("handles", usage.handles);
            note("connections", usage.sockets);
            note("tasks", usage.tasks);
            all.push(usage);
        }
        let (keys, bytes) = self.shards.held().await;
        growth.note(at, "Redis: keys", keys as f64);
        growth.note(at, "Redis: memory, KiB", bytes as f64 / 1024.0);
        let tables = "SELECT (sum(pg_total_relation_size(oid)) / 1024)::bigint FROM pg_class \
                      WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
        let tables = self.stack.count(tables).await;
        growth.note(at, "Postgres: tables, KiB", tables as f64);
        let rows = self.stack.row_count().await;
        growth.note(at, "Postgres: jobs", rows as f64);
        all
    }

    /// What was done, and what grew meanwhile.
    fn print(&self, growth: &Growth, totals: &Totals) {
        let faults = self.faults.borrow();
        println!("\n{} faults:", faults.values().sum::<usize>());
        for (fault, count) in faults.iter() {
            println!("  {count:>6}  {fault}");
        }
        println!(
            "\n{} jobs scored, {} of them over HTTP, and {} rejected; 0 lost, 0 doubled, 0 unknown; {} had no answer when posted\n\n{}",
            totals.scored,
            totals.over_http,
            totals.rejected,
            totals.unsure,
            growth.table()
        );
    }
}

fn settings(stack: &Stack, rabbits: &Rabbits, shards: &Shards, databases: &Databases) -> Settings {
    stack
        .worker()
        .models(&["fault", "sentiment"])
        .expect_trouble()
        .set("KILN_AMQP_URL", &rabbits.url())
        .set("KILN_REDIS_URL", &shards.url())
        .set("KILN_DATABASE_URL", &databases.url(stack.database()))
        .set("KILN_INTAKE__BATCH_JOBS", "16")
        .set("KILN_INTAKE__PREFETCH", "64")
        // So that what Redis holds is level before long.
        .set("KILN_CACHE__TTL_SECONDS", "300")
        // So that many jobs are moved to the lane's queues on their way.
        .set("KILN_LANE__EXPENSIVE_FROM_MS", "0")
        .set("KILN_LANE__MAX_SECONDS_IN_HAND", "0.02")
        .set("KILN_LANE__TURN_MS", "8")
        .set("KILN_LANE__QUEUES", "1")
}

/// One turn's jobs of each kind.
async fn post_some(stack: &Stack, port: u16, prefix: &str, turn: usize, ledger: &mut Ledger) {
    let of = |kind: Kind| -> Vec<Value> {
        let count = AT_ONCE.iter().find(|(one, _)| *one == kind);
        let count = count.map_or(0, |(_, count)| *count);
        (turn * count..(turn + 1) * count)
            .map(|n| job(kind, prefix, n))
            .collect()
    };
    let (dear, cheap, bad) = (of(Kind::Dear), of(Kind::Cheap), of(Kind::Bad));
    let all = [dear.clone(), cheap.clone(), bad.clone()].concat();
    stack.bus.publish_jobs(&all).await;
    ledger.scored.extend(job_ids(&dear));
    ledger.scored.extend(job_ids(&cheap));
    ledger.rejected.extend(job_ids(&bad));
    for job in of(Kind::Http) {
        let headers = [("content-type", "application/json")];
        let body = job.to_string();
        let answer = ask(port, "POST", "/v1/jobs", &headers, body.as_bytes()).await;
        let ids = job_ids(std::slice::from_ref(&job));
        match answer.map(|answer| answer.status) {
            Some(202) => ledger.scored.extend(ids),
            _ => ledger.unsure.extend(ids),
        }
    }
}

/// The ids of a round's rows that are so.
async fn kept(stack: &Stack, prefix: &str, so: &str) -> BTreeSet<String> {
    let ids = format!(
        "SELECT coalesce(string_agg(job_id, ' '), '') FROM jobs WHERE job_id LIKE '{prefix}-%' AND {so}"
    );
    let ids = stack.text(&ids).await;
    ids.split_whitespace().map(str::to_owned).collect()
}

/// One score of each input, and one letter at least for each job that was rejected.
async fn check(stack: &Stack, totals: &Totals) {
    let doubled = "SELECT count(*) FROM (SELECT 1 FROM scores GROUP BY input_sha256, model, version HAVING count(*) > 1) AS doubled";
    assert_eq!(stack.count(doubled).await, 0, "one row of each score");
    let scores = stack.count("SELECT count(*) FROM scores").await;
    let inputs = totals.dear + totals.cheap + 2 * SHARED;
    assert_eq!(scores as usize, inputs, "each input's row");
    let letters = stack.bus.waiting(DEAD).await.unwrap_or(0);
    assert!(letters as usize >= totals.rejected, "each is a letter");
}

/// Waits until it has nothing in hand, and gives what it holds.
async fn idle(worker: &Worker) -> Usage {
    worker.wait_in_hand(0).await;
    worker.usage().await
}

async fn is_where_it_was(worker: &Worker, before: Usage) {
    let after = eventually("it holds what it held", PATIENCE, async || {
        let now = idle(worker).await;
        let fits = now.sockets <= before.sockets + MORE && now.tasks <= before.tasks + MORE;
        fits.then_some(now)
    })
    .await;
    let bound = before.rss_kib + before.rss_kib / 2;
    assert!(after.rss_kib <= bound, "{after:?}, and before {before:?}");
}
