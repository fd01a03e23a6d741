//! Owns the pipeline's own tasks: batches on their way through a stage.
//!
//! Promises that every one is tracked until it ends, that one which panics is reported, and that all of them end when they are cut.

use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The tasks of one engine. Whoever hands work over, it runs on the engine's runtime.
#[derive(Debug, Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    runtime: Handle,
    cut: CancellationToken,
}

impl Tasks {
    /// Tasks on the runtime that this is called on.
    pub fn new() -> Self {
        Self {
            tracker: TaskTracker::new(),
            runtime: Handle::current(),
            cut: CancellationToken::new(),
        }
    }

    /// Runs work beside the caller.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let cut = self.cut.clone();
        // Large, and moved often until it is a task.
        let work = Box::pin(work);
        let work = async move {
            // What a task that panics has of jobs is dropped with it, and so returned; locks are sound: see where they are taken.
            let caught = AssertUnwindSafe(cut.run_until_cancelled(work)).catch_unwind();
            if caught.await.is_err() {
                tracing::error!("a batch panicked; its jobs go back to their queue");
            }
        };
        self.tracker.spawn_on(work, &self.runtime);
    }

    /// Ends every task, and those that are still to come.
    pub fn cut(&self) {
        self.cut.cancel();
    }

    /// Waits until no task is left.
    pub async fn wait(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}
