//! Keeps partitions ahead of the days for which jobs are stored, where jobs are in partitions.
//!
//! Promises little more than that a day's first job need not wait for one: a row whose day has none makes it itself.

use crate::{
    backoff::Backoff,
    health::{Health, Part},
    store::PostgresStore,
    worker::supervisor::Supervisor,
};
use std::time::Duration;

/// How often the days ahead are looked at, at the utmost; workers spread over the upper half of it.
const LOOK: Duration = Duration::from_secs(3600);
/// How soon again after a failure, at first.
const AGAIN: Duration = Duration::from_secs(10);
/// How often health is asked whether the tables are there.
const WAIT: Duration = Duration::from_millis(500);

/// Adds the task.
pub(in crate::worker) fn add(tasks: &mut Supervisor, store: &PostgresStore, health: &Health) {
    let (store, health) = (store.clone(), health.clone());
    tasks.add_droppable("days ahead", move || {
        keep_ahead(store.clone(), health.clone())
    });
}

/// Looks again and again.
async fn keep_ahead(store: PostgresStore, health: Health) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(WAIT);
    while !health.is_up(Part::Migrations) {
        tick.tick().await;
    }
    let mut failed = Backoff::new(AGAIN, LOOK);
    loop {
        let rest = match store.add_days_ahead().await {
            Ok(()) => {
                failed.reset();
                Backoff::new(LOOK, LOOK).next_wait()
            }
            Err(error) => {
                // That the database is out of reach is told by its own check.
                tracing::debug!(%error, "partitions of the days ahead are looked at later");
                failed.next_wait()
            }
        };
        tokio::time::sleep(rest).await;
    }
}
