//! Owns the background tasks that a worker consists of: named, watched, stopped stage by stage, their ends awaited.
//!
//! Each follows the contract of River's `startstop`: it starts once, however often it is asked to; it is asked to stop once; the stop
//! is awaited, and is safe before the start, twice, and from several sides at once; a task that was stopped may be started again.
//! Promises that a task which ends before it was asked to, or panics, is reported with its name: nothing dies silently.

use crate::redact::Redact;
use futures_util::future::{BoxFuture, join_all};
use std::{
    future::Future,
    sync::{Mutex, MutexGuard, PoisonError},
    task::Context,
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};
use tokio_util::sync::CancellationToken;

/// Longest wait for the end of a task that was dropped.
const ABORTED: Duration = Duration::from_millis(200);

/// When a task is stopped: those of a stage together, one stage after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// What takes new work: no more is taken, and what is in hand ends.
    Intake,
    /// What no job in hand needs.
    Background,
    /// What jobs in hand need to their very end.
    Output,
}

/// Starts one run of a task.
type Work = Box<dyn Fn(CancellationToken) -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync>;

/// A background task.
pub(super) struct Task {
    name: &'static str,
    stage: Stage,
    work: Work,
    /// The latest run; none before the first.
    run: Mutex<Option<Run>>,
    failures: mpsc::Sender<String>,
    #[cfg(test)]
    live: std::sync::Arc<Live>,
}

/// One run of a task.
#[derive(Debug, Clone)]
struct Run {
    stop: CancellationToken,
    /// Turns true when nothing of it runs any more, blocking work that it handed over apart.
    ended: watch::Receiver<bool>,
    abort: AbortHandle,
}

impl Task {
    fn run(&self) -> MutexGuard<'_, Option<Run>> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the task, unless it runs or is just ending.
    pub(super) fn start(&self) {
        let mut latest = self.run();
        if latest.as_ref().is_some_and(|run| !*run.ended.borrow()) {
            return;
        }
        let stop = CancellationToken::new();
        let (sender, ended) = watch::channel(false);
        #[expect(clippy::disallowed_methods, reason = "this is where tasks are watched")]
        let work = tokio::spawn((self.work)(stop.clone()));
        #[cfg(test)]
        let live = Live::enter(&self.live);
        let abort = work.abort_handle();
        let (name, asked, failures) = (self.name, stop.clone(), self.failures.clone());
        #[expect(clippy::disallowed_methods, reason = "this is where tasks are watched")]
        tokio::spawn(async move {
            let failure = match work.await {
                Ok(Ok(())) if asked.is_cancelled() => None,
                Ok(Ok(())) => Some(format!("the task `{name}` ended before the worker did")),
                Ok(Err(reason)) => Some(format!("the task `{name}` failed: {}", reason.redacted())),
                // It was dropped: whoever did that knows.
                Err(lost) if lost.is_cancelled() => None,
                Err(lost) => Some(format!(
                    "the task `{name}` failed: panicked: {}",
                    lost.redacted()
                )),
            };
            if let Some(reason) = failure {
                // A full channel means that a failure is on its way already, and one is enough.
                let _first_counts = failures.try_send(reason);
            }
            #[cfg(test)]
            drop(live);
            sender.send_replace(true);
        });
        *latest = Some(Run { stop, ended, abort });
    }

    /// Asks the task to stop and waits for its end; one that takes longer than `limit` is dropped where it stands. Returns whether it
    /// ended by itself.
    pub(super) async fn stop(&self, limit: Duration) -> bool {
        let Some(mut run) = self.run().clone() else {
            return true;
        };
        run.stop.cancel();
        let ended = run.ended.wait_for(|ended| *ended);
        if tokio::time::timeout(limit, ended).await.is_ok() {
            return true;
        }
        run.abort.abort();
        // One that doesn't even yield ends with the process.
        let ended = run.ended.wait_for(|ended| *ended);
        let _deaf = tokio::time::timeout(ABORTED, ended).await;
        false
    }
}

/// The background tasks of one worker.
pub(super) struct Supervisor {
    tasks: Vec<Task>,
    failures: mpsc::Sender<String>,
    failed: Mutex<mpsc::Receiver<String>>,
}

impl Default for Supervisor {
    fn default() -> Self {
        let (failures, failed) = mpsc::channel(1);
        Self {
            tasks: Vec::new(),
            failures,
            failed: Mutex::new(failed),
        }
    }
}

impl Supervisor {
    /// Adds a task, which starts with the others. Its work runs until its token is cancelled, and then ends by itself.
    pub(super) fn add<W>(
        &mut self,
        stage: Stage,
        name: &'static str,
        work: impl Fn(CancellationToken) -> W + Send + Sync + 'static,
    ) where
        W: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.tasks.push(Task {
            name,
            stage,
            work: Box::new(move |stop| Box::pin(work(stop))),
            run: Mutex::default(),
            failures: self.failures.clone(),
            #[cfg(test)]
            live: std::sync::Arc::default(),
        });
    }

    /// Adds a task whose work may be dropped wherever it stands, and is when it is asked to stop.
    pub(super) fn add_droppable<W>(
        &mut self,
        name: &'static str,
        work: impl Fn() -> W + Send + Sync + 'static,
    ) where
        W: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.add(Stage::Background, name, move |stop| {
            let work = work();
            async move {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => Ok(()),
                    result = work => result,
                }
            }
        });
    }

    /// Starts every task.
    pub(super) fn start(&self) {
        self.tasks.iter().for_each(Task::start);
    }

    /// Waits until a task has failed, or has ended without being asked to, and says which and why.
    pub(super) async fn failure(&self) -> String {
        let recv = |context: &mut Context<'_>| {
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.poll_recv(context)
        };
        match std::future::poll_fn(recv).await {
            Some(reason) => reason,
            // The sender is ours: it can't be gone.
            None => std::future::pending().await,
        }
    }

    /// Stops the tasks of a stage, together. Returns the names of those that had to be dropped after `limit`.
    pub(super) async fn stop(&self, stage: Stage, limit: Duration) -> Vec<&'static str> {
        let tasks = self.tasks.iter().filter(|task| task.stage == stage);
        let stops = tasks.map(|task| async move { (task.name, task.stop(limit).await) });
        let ends = join_all(stops).await;
        ends.into_iter()
            .filter_map(|(name, in_time)| (!in_time).then_some(name))
            .collect()
    }

    #[cfg(test)]
    pub(super) fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// What [`Supervisor::failure`] would say at once.
    #[cfg(test)]
    pub(super) fn failure_so_far(&self) -> Option<String> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.try_recv().ok()
    }
}

/// Runs of a task that live, and the most that ever did.
#[cfg(test)]
#[derive(Default)]
struct Live {
    now: std::sync::atomic::AtomicUsize,
    max: std::sync::atomic::AtomicUsize,
}

#[cfg(test)]
impl Live {
    fn enter(live: &std::sync::Arc<Self>) -> impl Drop + Send + use<> {
        use std::sync::atomic::Ordering::SeqCst;
        struct Entered(std::sync::Arc<Live>);
        impl Drop for Entered {
            fn drop(&mut self) {
                self.0.now.fetch_sub(1, SeqCst);
            }
        }
        let now = live.now.fetch_add(1, SeqCst) + 1;
        live.max.fetch_max(now, SeqCst);
        Entered(live.clone())
    }
}

#[cfg(test)]
impl Task {
    /// The most runs that ever lived at once.
    pub(super) fn max_live(&self) -> usize {
        self.live.max.load(std::sync::atomic::Ordering::SeqCst)
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Whether nothing of it runs.
    pub(super) fn has_ended(&self) -> bool {
        self.run().as_ref().is_none_or(|run| *run.ended.borrow())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    const LONG: Duration = Duration::from_secs(30);
    const SHORT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn an_end_and_a_panic_are_named() {
        let mut supervisor = Supervisor::default();
        supervisor.add_droppable("idle", std::future::pending);
        supervisor.add_droppable("broken", async || Err(anyhow!("no luck")));
        supervisor.start();
        assert_eq!(
            supervisor.failure().await,
            "the task `broken` failed: no luck"
        );
        let mut supervisor = Supervisor::default();
        supervisor.add_droppable("shaky", async || panic!("a panic on purpose"));
        supervisor.start();
        let failure = supervisor.failure().await;
        assert!(failure.starts_with("the task `shaky` failed: panicked"));
        let mut supervisor = Supervisor::default();
        supervisor.add_droppable("short", async || Ok(()));
        supervisor.start();
        assert!(supervisor.failure().await.contains("`short` ended"));
    }

    #[tokio::test]
    async fn a_task_runs_once_and_its_end_is_awaited() {
        let runs = Arc::new(AtomicUsize::new(0));
        let mut supervisor = Supervisor::default();
        let counted = runs.clone();
        supervisor.add(Stage::Intake, "slow to end", move |stop| {
            let runs = counted.clone();
            async move {
                runs.fetch_add(1, Ordering::SeqCst);
                stop.cancelled().await;
                tokio::task::yield_now().await;
                runs.fetch_add(100, Ordering::SeqCst);
                Ok(())
            }
        });
        let idle: Vec<&str> = supervisor.stop(Stage::Intake, LONG).await;
        assert!(idle.is_empty(), "a stop before the start changes nothing");
        supervisor.start();
        supervisor.start();
        assert!(supervisor.stop(Stage::Background, LONG).await.is_empty());
        assert!(!supervisor.tasks()[0].has_ended(), "another stage");
        let (first, second) = tokio::join!(
            supervisor.stop(Stage::Intake, LONG),
            supervisor.stop(Stage::Intake, LONG)
        );
        assert!(first.is_empty() && second.is_empty());
        assert_eq!(runs.load(Ordering::SeqCst), 101);
        assert!(supervisor.stop(Stage::Intake, LONG).await.is_empty());
        supervisor.start();
        assert!(supervisor.stop(Stage::Intake, LONG).await.is_empty());
        assert_eq!(runs.load(Ordering::SeqCst), 202, "it may start again");
    }

    #[tokio::test]
    async fn a_failure_on_the_way_out_is_named_as_well() {
        let mut supervisor = Supervisor::default();
        supervisor.add(Stage::Intake, "clumsy", async |stop: CancellationToken| {
            stop.cancelled().await;
            panic!("a panic on purpose")
        });
        supervisor.start();
        assert!(supervisor.stop(Stage::Intake, LONG).await.is_empty());
        let failure = supervisor.failure_so_far().expect("a failure");
        assert!(failure.starts_with("the task `clumsy` failed: panicked"));
    }

    #[tokio::test]
    async fn one_that_does_not_end_is_dropped_and_named() {
        let mut supervisor = Supervisor::default();
        supervisor.add(Stage::Output, "deaf", |_| std::future::pending());
        supervisor.start();
        assert_eq!(supervisor.stop(Stage::Output, SHORT).await, ["deaf"]);
        assert!(supervisor.tasks()[0].has_ended());
    }
}
