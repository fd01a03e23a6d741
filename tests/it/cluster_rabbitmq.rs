//! A RabbitMQ cluster of three nodes under a worker: a node that is killed, frozen or restarted costs moments, and nothing is lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use futures_util::future::join_all;
use lapin::types::{AMQPValue, FieldTable};
use tokio::time::timeout;

use crate::harness::broker::Broker;
use crate::harness::bus::{Bus, DEAD, JOBS, REPLIES, persistent};
use crate::harness::cluster::rabbitmq::RabbitCluster;
use crate::harness::jobs::{job_ids, quick_jobs, slow_jobs};
use crate::harness::shell::Shell;
use crate::harness::stack::Stack;
use crate::harness::worker::Worker;
use crate::harness::{PATIENCE, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_three_nodes_keeps_confirmed_messages_without_one_of_them() {
    let begun = Instant::now();
    let cluster = RabbitCluster::start().await;
    println!("up after {:?}", begun.elapsed());
    let stack = Stack::on_cluster(&cluster).await;
    let message = |text: &str| vec![(text.as_bytes().to_vec(), persistent())];
    stack.bus.publish(REPLIES, message("1")).await;
    for strike in [Strike::Kill, Strike::Freeze] {
        let home = cluster.home(REPLIES, 0).await;
        let (node, begun) = (&cluster.nodes[home], Instant::now());
        strike.strike(node);
        stack.bus.publish(REPLIES, message("2")).await;
        println!("{strike:?}: confirmed again after {:?}", begun.elapsed());
        strike.mend(node).await;
        if matches!(strike, Strike::Kill) {
            cluster.wait_complete().await;
        }
    }
    eventually("what was confirmed is there", PATIENCE, || async {
        let waiting = stack.bus.waiting(REPLIES).await?;
        (waiting >= 3).then_some(())
    })
    .await;
}

/// What happens to a node.
#[derive(Clone, Copy, Debug)]
enum Strike {
    Kill,
    Freeze,
}

impl Strike {
    fn strike(self, node: &Broker) {
        match self {
            Self::Kill => node.kill(),
            Self::Freeze => node.freeze(),
        }
    }

    async fn mend(self, node: &Broker) {
        match self {
            Self::Kill => node.start().await,
            Self::Freeze => node.thaw(),
        }
    }
}

/// A classic queue of hints, as earlier releases declared it, in place of the one that is there.
async fn replace_hits(bus: &Bus) {
    bus.delete("kiln.hits").await;
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("classic"));
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(10_000));
    arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(60_000));
    bus.declare("kiln.hits", arguments).await;
}

/// The longest time without a finished job of those whose ids begin so, in milliseconds.
async fn longest_gap(stack: &Stack, prefix: &str) -> i64 {
    let gaps = format!(
        "SELECT coalesce(max(extract(milliseconds FROM gap) + 1000 * 60 * extract(minute FROM gap)), 0)::int8 FROM \
         (SELECT finished_at - lag(finished_at) OVER (ORDER BY finished_at) AS gap FROM jobs WHERE job_id LIKE '{prefix}%') gaps"
    );
    stack.count(&gaps).await
}

/// The node that leads `kiln.jobs` and to which a worker is connected is lost while jobs wait, and stays away until all of them are done.
async fn jobs_go_on_without_the_leader(strike: Strike) {
    let cluster = RabbitCluster::start().await;
    let stack = Stack::on_cluster(&cluster).await;
    // A queue that is just being declared when a node freezes is in the way of all others until that counts as lost: no lane gets some.
    let settings = stack.worker().expect_trouble();
    let settings = settings.set("KILN_LANE__EXPENSIVE_FROM_MS", "60000");
    // It declares the queues: their leaders are on the node to which it is connected.
    let first = settings.clone().start().await;
    let home = cluster.home(JOBS, 0).await;
    let node = &cluster.nodes[home];
    replace_hits(&Bus::new(cluster.urls()[home].clone())).await;
    assert_eq!(cluster.home("kiln.hits", home).await, home);
    let second = settings.start().await;
    node.flush_declarations().await;

    let jobs = slow_jobs("before", 600, 10);
    stack.bus.publish_jobs(&jobs).await;
    stack.wait_for_rows(50).await;
    let begun = Instant::now();
    strike.strike(node);
    let more = slow_jobs("after", 100, 1);
    let publishing = async {
        stack.bus.publish_jobs(&more).await;
        println!(
            "{strike:?}: the producer's jobs are confirmed after {:?}",
            begun.elapsed()
        );
    };
    let mut ids = job_ids(&jobs);
    ids.extend(job_ids(&more));
    let count = ids.len() as i64;
    let all_done = async {
        publishing.await;
        eventually("all is done", PATIENCE, || async {
            (stack.row_count().await >= count).then_some(())
        })
        .await;
    };
    tokio::pin!(all_done);
    if timeout(PATIENCE, &mut all_done).await.is_err() {
        let rows = stack.row_count().await;
        println!("{rows} of {count} rows; what another node says:");
        println!("{}", cluster.report((home + 1) % 3).await);
        panic!("{strike:?}: not all is done without the node");
    }
    // The later ones wait for their producer, which has time-outs of its own.
    println!(
        "{strike:?}: all is done after {:?}; longest gap between those that were there before {} ms",
        begun.elapsed(),
        longest_gap(&stack, "before-").await
    );
    // A queue that a frozen node leads may take no reply for longer than one is tried: such replies are dropped and counted.
    if matches!(strike, Strike::Kill) {
        let answered = stack.bus.reply_to_each(&ids).await;
        assert!(answered.values().all(|reply| reply.status() == "ok"));
    }
    for worker in [&first, &second] {
        worker.wait_ready().await;
    }
    let moved = |worker: &Worker| {
        let said = |line: &&String| line.contains("connected to another address");
        worker.lines().iter().filter(said).count()
    };
    let counted = [("server", "broker")];
    let failovers = first.metric("kiln_failovers_total", &counted).await;
    assert_eq!(
        (moved(&first), failovers),
        (1, 1.0),
        "one line for all connections"
    );
    first
        .wait_for_line("the queue of hints is done without", |line| {
            line.contains("kiln.hits") && line.contains("jobs go on without it")
        })
        .await;

    if matches!(strike, Strike::Kill) {
        the_doctor_sees_what_is_missing(&stack, home).await;
    }

    strike.mend(node).await;
    stack.expect_done(ids).await;
    stack.wait_for_empty(JOBS).await;
    assert_eq!(stack.bus.waiting(DEAD).await, Some(0));
    // The classic queue is back with its node. One that was frozen first has to find into the cluster again, by itself.
    if matches!(strike, Strike::Kill) {
        let back = |line: &str| line.contains("kiln.hits") && line.contains("used again");
        first
            .wait_for_line("the queue of hints is used again", back)
            .await;
    }
}

async fn the_doctor_sees_what_is_missing(stack: &Stack, away: usize) {
    let shell = Shell::on(stack).set("KILN_RETRY__DELAYS_MS", "[100,200]");
    let checks = shell.kiln(&["doctor", "--json"]).await.with(0).checks();
    for number in 0..3 {
        let status = if number == away { "warn" } else { "ok" };
        let check = &checks[&format!("rabbitmq {}", number + 1)];
        assert_eq!(check.0, status, "{checks:#?}");
    }
    let (status, found, advice) = &checks["rabbitmq cluster"];
    assert!(found.starts_with("2 of 3 addresses answer"), "{found}");
    // Its nodes were given no common name.
    assert!(status == "warn" && advice.contains("set_cluster_name"));
    let (status, found, advice) = &checks["queue kiln.hits"];
    assert!(
        status == "warn" && found.contains("inaccessible"),
        "{found}"
    );
    assert!(advice.contains("delete_queue kiln.hits"), "{advice}");
    assert_eq!(checks["queue kiln.jobs"].0, "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_go_on_while_the_leader_of_their_queue_is_dead() {
    jobs_go_on_without_the_leader(Strike::Kill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_go_on_while_the_leader_of_their_queue_is_frozen() {
    jobs_go_on_without_the_leader(Strike::Freeze).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_under_load_loses_nothing() {
    let cluster = RabbitCluster::start().await;
    let stack = Stack::on_cluster(&cluster).await;
    let workers = [
        stack.worker().expect_trouble().start().await,
        stack.worker().expect_trouble().start().await,
    ];
    let restarted = AtomicBool::new(false);
    let restarting = async {
        for node in &cluster.nodes {
            let done = stack.row_count().await as usize;
            stack.wait_for_rows(done + 50).await;
            node.stop().await;
            node.start().await;
            cluster.wait_complete().await;
        }
        restarted.store(true, Ordering::Relaxed);
    };
    let publishing = async {
        let mut ids = Vec::new();
        for round in 0.. {
            if restarted.load(Ordering::Relaxed) {
                break;
            }
            let mut jobs = quick_jobs(&format!("round-{round}"), 20);
            jobs.extend(slow_jobs(&format!("slow-{round}"), 1, 300));
            stack.bus.publish_jobs(&jobs).await;
            ids.extend(job_ids(&jobs));
            stack.wait_for_rows(ids.len()).await;
        }
        ids
    };
    let (ids, ()) = tokio::join!(publishing, restarting);
    println!(
        "{} jobs; longest gap {} ms",
        ids.len(),
        longest_gap(&stack, "").await
    );
    stack.expect_done(ids.clone()).await;
    println!(
        "to their end: longest gap {} ms",
        longest_gap(&stack, "").await
    );
    let answered = stack.bus.reply_to_each(&ids).await;
    assert!(answered.values().all(|reply| reply.status() == "ok"));
    stack.wait_for_empty(JOBS).await;
    assert_eq!(stack.bus.waiting(DEAD).await, Some(0));
    for worker in &workers {
        worker.wait_ready().await;
    }
}

/// Twelve of them, all ready.
async fn twelve_workers(stack: &Stack) -> Vec<Worker> {
    let started = (0..12).map(|_| stack.worker().expect_trouble().start());
    join_all(started).await
}

/// How often each moved to another node, and how many connections each had to make again.
async fn moves(workers: &[Worker]) -> (Vec<f64>, Vec<f64>) {
    let counted = [("server", "broker")];
    let (mut moved, mut reconnects) = (Vec::new(), Vec::new());
    for worker in workers {
        worker.wait_ready().await;
        moved.push(worker.metric("kiln_failovers_total", &counted).await);
        reconnects.push(worker.metric("kiln_broker_reconnects_total", &[]).await);
    }
    println!("moved: {moved:?}; connections made again: {reconnects:?}");
    (moved, reconnects)
}

/// Twelve workers lose the node that leads `kiln.jobs`: they move once, and in no storm.
async fn moved_once_and_in_no_storm(workers: &[Worker]) {
    let (moved, reconnects) = moves(workers).await;
    assert!(moved.iter().all(|moved| *moved <= 1.0));
    assert!(
        moved.iter().sum::<f64>() >= 1.0,
        "the one that declared the queues was there"
    );
    // One that takes jobs and two that publish, with a second try each.
    assert!(reconnects.iter().all(|again| *again <= 6.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twelve_workers_that_lose_a_node_move_once_and_in_no_storm() {
    let cluster = RabbitCluster::start().await;
    let stack = Stack::on_cluster(&cluster).await;
    let workers = twelve_workers(&stack).await;
    let home = cluster.home(JOBS, 0).await;
    let jobs = slow_jobs("twelve", 1_200, 100);
    stack.bus.publish_jobs(&jobs).await;
    stack.wait_for_rows(1).await;
    let begun = Instant::now();
    cluster.nodes[home].kill();
    stack.expect_done(job_ids(&jobs)).await;
    println!("all is done after {:?}", begun.elapsed());
    moved_once_and_in_no_storm(&workers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_that_is_cut_off_costs_moments_and_is_used_again() {
    let cluster = RabbitCluster::start().await;
    let stack = Stack::on_cluster(&cluster).await;
    let workers = twelve_workers(&stack).await;
    let home = cluster.home(JOBS, 0).await;
    let jobs = slow_jobs("before", 600, 100);
    stack.bus.publish_jobs(&jobs).await;
    stack.wait_for_rows(1).await;
    let begun = Instant::now();
    cluster.cut_off(home).await;
    let more = quick_jobs("meanwhile", 100);
    stack.bus.publish_jobs(&more).await;
    let mut ids = job_ids(&jobs);
    ids.extend(job_ids(&more));
    stack.expect_done(ids.clone()).await;
    println!("all is done after {:?}, without it", begun.elapsed());
    // Alone, it takes nothing from anybody.
    assert!(!cluster.nodes[home].accepts().await);
    let answered = stack.bus.reply_to_each(&ids).await;
    assert!(answered.values().all(|reply| reply.status() == "ok"));
    moved_once_and_in_no_storm(&workers).await;

    cluster.join(home).await;
    cluster.wait_whole().await;
    let last = quick_jobs("after", 100);
    let there = vec![cluster.urls()[home].clone(); 2];
    Bus::of(there).publish_jobs(&last).await;
    ids.extend(job_ids(&last));
    stack.expect_done(ids).await;
    stack.wait_for_empty(JOBS).await;
    assert_eq!(stack.bus.waiting(DEAD).await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_is_full_delays_replies_and_nobody_connects_anew() {
    let cluster = RabbitCluster::start().await;
    let stack = Stack::on_cluster(&cluster).await;
    let workers = twelve_workers(&stack).await;
    let jobs = slow_jobs("full", 1_200, 100);
    stack.bus.publish_jobs(&jobs).await;
    stack.wait_for_rows(1).await;
    cluster.nodes[1].fill_disk().await;
    // A worker says so once it has something to publish.
    eventually("what is published waits", PATIENCE, async || {
        for worker in &workers {
            if worker.metric("kiln_publisher_up", &[]).await < 2.0 {
                return Some(());
            }
        }
        None
    })
    .await;
    let ids = job_ids(&jobs);
    stack.expect_done(ids.clone()).await;
    cluster.nodes[1].free_disk().await;
    let answered = stack.bus.reply_to_each(&ids).await;
    assert!(answered.values().all(|reply| reply.status() == "ok"));
    stack.wait_for_empty(JOBS).await;
    assert_eq!(stack.bus.waiting(DEAD).await, Some(0));
    let (moved, reconnects) = moves(&workers).await;
    assert!(moved.iter().chain(&reconnects).all(|count| *count == 0.0));
}
