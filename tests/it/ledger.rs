//! Thousands of jobs, confirmed to their producer, while workers and servers die: none lost, none unknown, one row each.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::bus::{DEAD, JOBS};
use crate::harness::jobs::{job_ids, slow_jobs};
use crate::harness::stack::Stack;
use crate::harness::worker::{Settings, Worker};
use crate::harness::{PATIENCE, eventually, eventually_equals};

/// Where jobs of the model wait, all of whose namespaces are one.
const LANE: &str = "kiln.lane.fault";
const JOBS_PER_FAULT: usize = 400;
/// How far into its jobs a fault strikes.
const STRIKE_AFTER: usize = 100;

#[derive(Clone, Copy, Debug)]
enum Fault {
    KillWorker,
    KillRedis,
    KillPostgres,
    StopWorker,
    KillBroker,
    PauseRedis,
    PausePostgres,
    RestartBroker,
    KillBothWorkers,
}

const FAULTS: [Fault; 9] = [
    Fault::KillWorker,
    Fault::KillRedis,
    Fault::KillPostgres,
    Fault::StopWorker,
    Fault::KillBroker,
    Fault::PauseRedis,
    Fault::PausePostgres,
    Fault::RestartBroker,
    Fault::KillBothWorkers,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_confirmed_job_has_one_row_whatever_dies() {
    let stack = Stack::private().await;
    let settings = stack
        .worker()
        .expect_trouble()
        .set("KILN_INTAKE__BATCH_JOBS", "16");
    let settings = settings
        .set("KILN_INTAKE__PREFETCH", "64")
        // So that most jobs are moved to the lane's queues on their way.
        .set("KILN_LANE__EXPENSIVE_FROM_MS", "0")
        .set("KILN_LANE__MAX_SECONDS_IN_HAND", "0.02")
        .set("KILN_LANE__TURN_MS", "8")
        .set("KILN_LANE__QUEUES", "1");
    let mut workers = vec![
        settings.clone().start().await,
        settings.clone().start().await,
    ];
    for worker in &workers {
        let declared = "jobs may wait in a lane's queues";
        let is_declared = |line: &str| line.contains(declared);
        worker.wait_for_line(declared, is_declared).await;
    }
    let mut ledger: BTreeSet<String> = BTreeSet::new();
    let mut moved = 0.0;
    stack.bus.declare_replies().await;
    stack.broker.flush_declarations().await;

    for (n, fault) in FAULTS.into_iter().enumerate() {
        let jobs: Vec<Value> = slow_jobs(&format!("ledger-{n}"), JOBS_PER_FAULT, 1);
        let striking = async {
            stack.wait_for_rows(n * JOBS_PER_FAULT + STRIKE_AFTER).await;
            moved += moved_by(&workers).await;
            strike(
                fault,
                (n + 1) * JOBS_PER_FAULT,
                &stack,
                &settings,
                &mut workers,
            )
            .await;
        };
        // Publishing goes on during the fault, until the broker has confirmed every job.
        tokio::join!(stack.bus.publish_jobs(&jobs), striking);
        ledger.extend(job_ids(&jobs));
    }

    stack.wait_for_rows(ledger.len()).await;
    let rows = stack.rows().await;
    let kept: BTreeSet<String> = rows.iter().map(|row| row.job_id.clone()).collect();
    assert_eq!(rows.len(), kept.len(), "one row each");
    assert_eq!(
        ledger.difference(&kept).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "none lost"
    );
    assert_eq!(
        kept.difference(&ledger).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "none unknown"
    );
    assert!(
        rows.iter()
            .all(|row| row.status == "ok" && row.results.is_some()),
        "all scored"
    );
    assert_eq!(stack.bus.waiting(DEAD).await, Some(0), "none given up");
    stack.wait_for_empty(JOBS).await;
    stack.wait_for_empty(LANE).await;
    assert!(moved > 0.0, "jobs were moved");
    // Some that have their rows may be in hand once more; a stop gives back what hasn't begun.
    for queue in [JOBS, LANE] {
        eventually_equals("jobs in hand", PATIENCE, Some(0), || stack.unsettled(queue)).await;
    }
    for worker in &workers {
        worker.stop().await;
    }
    // The broker counts every few seconds; nobody takes or settles a job any more.
    eventually_equals("jobs left behind", PATIENCE, Some(0), || {
        stack.unsettled(JOBS)
    })
    .await;
}

/// Jobs that these have moved, since they were started.
async fn moved_by(workers: &[Worker]) -> f64 {
    let mut moved = 0.0;
    for worker in workers {
        let outcome = [("outcome", "moved")];
        moved += worker.metric("kiln_jobs_total", &outcome).await;
    }
    moved
}

/// `posted` is how many jobs there are by now.
async fn strike(
    fault: Fault,
    posted: usize,
    stack: &Stack,
    settings: &Settings,
    workers: &mut [Worker],
) {
    match fault {
        Fault::KillWorker => {
            workers[0].kill();
            workers[0] = settings.clone().start().await;
        }
        Fault::StopWorker => {
            workers[1].stop().await;
            workers[1] = settings.clone().start().await;
        }
        Fault::KillBothWorkers => {
            for worker in workers.iter_mut() {
                worker.kill();
            }
            for worker in workers.iter_mut() {
                *worker = settings.clone().start().await;
            }
        }
        Fault::KillRedis => {
            stack.redis.kill();
            stack.redis.start().await;
        }
        Fault::PauseRedis => {
            stack.redis.pause();
            // Jobs go on meanwhile, which is how the pause is known to have lasted.
            let done = stack.row_count().await as usize;
            stack.wait_for_rows((done + 1).min(posted)).await;
            stack.redis.resume();
        }
        Fault::KillPostgres => {
            stack.postgres.kill();
            stack.postgres.start().await;
        }
        Fault::PausePostgres => {
            stack.postgres.pause();
            eventually("a worker notices", PATIENCE, async || {
                for worker in workers.iter() {
                    if !worker.is_ready().await {
                        return Some(());
                    }
                }
                None
            })
            .await;
            stack.postgres.resume();
        }
        Fault::KillBroker => {
            stack.broker.kill();
            stack.broker.start().await;
        }
        Fault::RestartBroker => {
            stack.broker.stop().await;
            stack.broker.start().await;
        }
    }
}
