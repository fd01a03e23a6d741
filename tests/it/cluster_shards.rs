//! Shards on a RabbitMQ cluster: their leaders are on different nodes, and a node that is killed costs a pause.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::harness::bus::{DEAD, JOBS};
use crate::harness::cluster::rabbitmq::RabbitCluster;
use crate::harness::jobs::{job_ids, slow_jobs};
use crate::harness::stack::Stack;
use crate::harness::{PATIENCE, eventually};

const SHARDS: usize = 6;
/// Queues that a lane has by default.
const LANE_QUEUES: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_are_led_by_different_nodes_and_go_on_without_one() {
    let cluster = RabbitCluster::start().await;
    let stack = Stack::on_cluster(&cluster).await;
    let settings = stack.worker().expect_trouble();
    let settings = settings
        .set("KILN_QUEUES__SHARDS", &SHARDS.to_string())
        .set("KILN_LANE__EXPENSIVE_FROM_MS", "0");
    let workers = [
        settings.clone().start().await,
        settings.clone().start().await,
    ];
    let mut homes = Vec::new();
    for number in 0..SHARDS {
        homes.push(cluster.home(&format!("{JOBS}.{number}"), 0).await);
    }
    assert_eq!(homes, [0, 1, 2, 0, 1, 2], "each node leads some");
    stack.bus.answer(&slow_jobs("first", 1, 2)[0]).await;
    let mut lanes = vec![cluster.home("kiln.lane.fault", 0).await];
    for number in 1..LANE_QUEUES {
        let queue = format!("kiln.lane.fault.{number}");
        lanes.push(cluster.home(&queue, 0).await);
    }
    println!("leaders of a lane: {lanes:?}");
    let nodes: BTreeSet<usize> = lanes.iter().copied().collect();
    assert_eq!(nodes.len(), 3, "each node leads some: {lanes:?}");
    let lost = homes[0];
    cluster.nodes[lost].flush_declarations().await;
    let shards: Vec<String> = (0..SHARDS).map(|one| format!("{JOBS}.{one}")).collect();
    let sends = cluster.nodes[0].wait_bound("/", "kiln", &shards);
    sends.await;

    let before = slow_jobs("before", 600, 10);
    stack.bus.publish_through("kiln", &before).await;
    stack.wait_for_rows(50).await;
    let begun = Instant::now();
    cluster.nodes[lost].kill();
    let after = slow_jobs("after", 200, 1);
    stack.bus.publish_through("kiln", &after).await;
    println!(
        "the producer's jobs are confirmed after {:?}",
        begun.elapsed()
    );
    let mut ids = job_ids(&before);
    ids.extend(job_ids(&after));
    ids.push("first-0".to_owned());
    let count = ids.len() as i64;
    eventually("all is done without the node", PATIENCE, || async {
        (stack.row_count().await >= count).then_some(())
    })
    .await;
    println!("all is done after {:?}", begun.elapsed());
    let mut asked = ids.clone();
    asked.retain(|id| id != "first-0");
    let answered = stack.bus.reply_to_each(&asked).await;
    assert!(answered.values().all(|reply| reply.status() == "ok"));
    stack.expect_done(ids).await;
    assert_eq!(stack.bus.waiting(DEAD).await, Some(0));
    for worker in &workers {
        worker.wait_ready().await;
    }

    // A shard of which one member of three is left has no leader: whoever starts now takes from all others and keeps its connection, and
    // whoever stops doesn't wait for it.
    let member = "ra:stop_server(quorum_queues, {'%2F_kiln.jobs.1', node()}).";
    let led = &cluster.nodes[(lost + 1) % 3];
    led.ctl(&["eval", member]).await;
    let late = settings.start().await;
    late.wait_for_line("the shard is tried in vain", |line| {
        line.contains("a queue can't be used") && line.contains("kiln.jobs.1")
    })
    .await;
    for worker in &workers {
        worker.stop().await;
        let lines = worker.lines();
        assert!(!lines.iter().any(|line| line.contains("drain limit passed")));
    }
    for number in 0..4 {
        let job = &slow_jobs(&format!("late-{number}"), 1, 2)[0];
        stack.bus.answer(job).await;
    }
    let reconnects = late.metric("kiln_broker_reconnects_total", &[]).await;
    assert_eq!(reconnects, 0.0);
}
