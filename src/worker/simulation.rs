//! Simulates everything around a batch: workers' whole way from a delivery to its acknowledgement, over stand-ins of RabbitMQ, Redis and
//! Postgres that fail by a seed, in virtual time on one thread. The same seed goes the same way.
//!
//! What every seed must hold:
//!
//! 1. A delivery is settled once: no frame settles what isn't delivered, or is settled already.
//! 2. Nothing is acknowledged before what follows from it is durable: its `ok` row with its inputs' `scores` rows, or its dead letter, or
//!    its next try's message; and before its reply is confirmed, where its reply queue takes any.
//! 3. While a word stands under a reader's key, none replaces it that is older by its producer's `as_of` or, where Redis doesn't fail, by
//!    its first acceptance.
//! 4. A job has one result: every reply says what its row says, however often it comes, and a job that has its `ok` row isn't rejected.
//! 5. At the end nothing is in hand, neither bytes nor jobs, of every worker that wasn't killed.
//! 6. Whoever waits for a job is woken.
//! 7. Once nothing fails any more, everything that was posted ends within bounded time.
//! 8. No input has the result of another one, in replies, in rows, and under readers' keys.
//!
//! Each of them is broken on purpose in a test, and that must be noticed: see `Mutation`. Left out: invalidations, the history of names,
//! warming, lanes' own queues, suspected jobs, callbacks, and the client libraries of RabbitMQ and Postgres: the tests on real servers
//! have those.

mod checks;
mod jobs;
mod node;
mod plan;
mod tests;

use crate::{
    amqp::simulated::SimulatedBroker,
    cache::simulated::Server,
    simulated::{Chance, Mutation, World, log},
    store::simulated::SimulatedStore,
};
use checks::Checks;
use jobs::QUEUE;
use node::{Node, Servers, Shared};
use plan::{Plan, Trouble};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How long it may take until everything has ended once nothing fails any more.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(100);

/// How one seed went.
#[derive(Debug)]
struct Run {
    problems: Vec<String>,
    /// A number that two runs share which went the same way, and what happened.
    digest: u64,
    lines: Vec<String>,
}

/// Runs one seed.
fn run(shared: &Shared, seed: u64, mutation: Option<Mutation>) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let chance = Chance::new(seed);
    let (digest, lines, problems) = runtime.block_on(async {
        let world = World::begin(seed, mutation, chance.apart());
        let problems = Box::pin(simulate(shared, &chance)).await;
        let (digest, lines) = world.record();
        (digest, lines, problems)
    });
    drop(runtime);
    Server::close_all();
    Run {
        problems,
        digest,
        lines,
    }
}

fn locked(checks: &Arc<Mutex<Checks>>) -> MutexGuard<'_, Checks> {
    checks.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn simulate(shared: &Shared, chance: &Chance) -> Vec<String> {
    let plan = Plan::draw(chance);
    let store = SimulatedStore::new(chance);
    let checks = Checks::new(&plan, store.clone(), shared.space());
    let redis = Server::new(&plan.redis, Some(checks::watch_redis(&checks)));
    let broker = SimulatedBroker::new(chance, checks::watch_broker(&checks));
    let servers = Servers {
        broker: broker.clone(),
        redis: redis.clone(),
        store,
        chance: chance.clone(),
    };
    let mut nodes: Vec<Node> = Vec::new();
    for _ in 0..plan.nodes {
        nodes.push(Node::start(shared, &servers, &plan, nodes.len()));
    }
    let calls = nodes.first().map(|node| node.call(&plan.calls));
    tokio::join!(
        post(&broker, &plan),
        trouble(&plan, shared, &servers, &mut nodes)
    );
    chance.calm();
    plan.redis.calm();
    log(|| "nothing fails any more".to_owned());
    let is_over = || broker.waiting(QUEUE) == 0 && nodes.iter().all(Node::is_settled);
    let end = async {
        while !is_over() {
            tokio::time::sleep(LOOK).await;
        }
    };
    if tokio::time::timeout(PATIENCE, end).await.is_err() {
        locked(&checks).wrong("not everything ended in time");
    }
    // What was heard of a job holds its bytes.
    for call in calls.into_iter().flatten() {
        node::heard(call, &checks).await;
    }
    for node in &nodes {
        node.end(&checks).await;
    }
    locked(&checks).conclude()
}

/// Posts the jobs, each at its time.
async fn post(broker: &SimulatedBroker, plan: &Plan) {
    for posting in &plan.postings {
        tokio::time::sleep(posting.after).await;
        let (body, properties) = posting.message(&plan.jobs);
        log(|| {
            format!(
                "posted {} as {}",
                posting.job_id(&plan.jobs),
                posting.number
            )
        });
        broker.publish(QUEUE, body, properties);
    }
}

/// Does what the plan says to servers and workers, and lasts for as long as things fail.
async fn trouble(plan: &Plan, shared: &Shared, servers: &Servers, nodes: &mut Vec<Node>) {
    for (after, what) in &plan.troubles {
        tokio::time::sleep(*after).await;
        log(|| format!("{what:?}"));
        match what {
            Trouble::RestartRedis(keeps) => servers.redis.restart(*keeps),
            Trouble::EvictKeys => servers.redis.evict(),
            Trouble::FreezeRedis(time) => servers.redis.freeze(*time),
            Trouble::StopPostgres(time) => servers.store.stop(*time),
            Trouble::RestartBroker => servers.broker.restart(),
            Trouble::Kill => {
                let another = Node::start(shared, servers, plan, nodes.len());
                nodes.first().iter().for_each(|node| node.kill());
                nodes.push(another);
            }
            Trouble::Stop => {
                let another = Node::start(shared, servers, plan, nodes.len());
                if let Some(node) = nodes.last() {
                    node.stop().await;
                }
                nodes.push(another);
            }
        }
    }
    tokio::time::sleep(plan.rest).await;
}
