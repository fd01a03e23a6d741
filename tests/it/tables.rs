//! The database's tables while releases change: what a newer one added is no reason to stop.

use crate::harness::jobs::{job_ids, quick_jobs};
use crate::harness::shell::Shell;
use crate::harness::stack::Stack;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_a_newer_release_has_migrated_is_used_unless_it_says_otherwise() {
    let stack = Stack::shared().await;
    let shell = Shell::on(&stack);
    shell.kiln(&["migrate"]).await.with(0);
    stack
        .execute("INSERT INTO _sqlx_migrations VALUES (4711, 'something new', now(), true, '', 1)")
        .await;

    let worker = stack.worker().start().await;
    let said = |line: &str| line.contains("a newer release has migrated") && line.contains("4711");
    worker.wait_for_line("the newer migration", said).await;
    let jobs = quick_jobs("beside", 20);
    stack.bus.publish_jobs(&jobs).await;
    stack.expect_done(job_ids(&jobs)).await;
    let migrated = shell.kiln(&["migrate"]).await.with(0);
    assert!(migrated.out.contains("4711"), "{}", migrated.out);
    let doctor = shell.kiln(&["doctor"]).await;
    assert!(doctor.out.contains("up to 4711"), "{}", doctor.out);

    // Its own words, as the manual has them.
    stack
        .execute("CREATE TABLE IF NOT EXISTS kiln_schema (needs_migration bigint NOT NULL)")
        .await;
    stack.execute("INSERT INTO kiln_schema VALUES (4711)").await;
    let refused = shell.kiln(&["migrate"]).await.with(1);
    let reason = "needs a release that knows migration 4711";
    assert!(refused.err.contains(reason), "{}", refused.err);
    let doctor = shell.kiln(&["doctor"]).await.with(1);
    assert!(doctor.out.contains(reason), "{}", doctor.out);
    let late = stack.worker().expect_trouble().spawn();
    let ended = late.wait_exit(crate::harness::PATIENCE).await;
    assert!(!ended.success(), "it takes no job");
    worker.stop().await;
}
