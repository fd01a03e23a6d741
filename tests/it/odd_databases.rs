//! Databases that someone set up or holds otherwise: what works all the same, and what a worker says where it doesn't.

use crate::harness::jobs::fault_job;
use crate::harness::stack::Stack;
use crate::harness::worker::Worker;
use crate::harness::{PATIENCE, eventually};

const SHOW_ESCAPED: &str = "\
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET bytea_output = escape', current_database()); END $$";

async fn says(worker: &Worker, wanted: &str) {
    eventually("it says why it isn't ready", PATIENCE, async || {
        let (status, body) = worker.get("/readyz").await?;
        (status == 503 && body.contains(wanted)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_hears_of_no_pause_is_not_ready() {
    let stack = Stack::shared().await;
    let worker = stack.worker().expect_trouble().start().await;
    let held = stack
        .hold("LOCK TABLE controls IN ACCESS EXCLUSIVE MODE")
        .await;
    says(&worker, "lock").await;
    drop(held);
    worker.wait_ready().await;
    stack.bus.answer(&fault_job("after", "a text")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_the_database_shows_escaped_are_read_as_well() {
    let stack = Stack::shared().await;
    stack.worker().start().await.stop().await;
    stack.execute(SHOW_ESCAPED).await;
    // It reads the checksums of its migrations, and the job's body of the one that comes again.
    let _worker = stack.worker().start().await;
    let job = fault_job("one", "a text");
    stack.bus.answer(&job).await;
    let again = stack.bus.answer(&job).await;
    assert_eq!(again.status(), "ok");
    assert_eq!(stack.row_count().await, 1);
}
