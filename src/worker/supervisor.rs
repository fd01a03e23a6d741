//! Owns the tasks that a worker consists of: named, watched, joined.
//!
//! Promises that a task which ends before it should, or panics, stops the worker with a message that names
//! it: nothing dies silently.

use std::future::Future;
use tokio::{sync::watch, task::JoinSet};

/// Tells every task that the worker stops.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// A signal and the switch that gives it.
    pub fn new() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    /// Waits for the signal. A switch that is gone counts as given.
    pub async fn wait(&mut self) {
        let _gone_counts_too = self.0.wait_for(|stop| *stop).await;
    }

    /// Waits until the signal was taken back.
    pub async fn wait_off(&mut self) {
        let _gone_counts_too = self.0.wait_for(|stop| !*stop).await;
    }

    /// Whether the signal was given.
    pub fn is_given(&self) -> bool {
        *self.0.borrow()
    }
}

/// The worker's background tasks.
#[derive(Debug, Default)]
pub struct Supervisor {
    tasks: JoinSet<(&'static str, Result<(), String>)>,
}

impl Supervisor {
    /// Starts a task that is meant to run until the worker stops.
    pub fn start(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), String>> + Send + 'static,
    ) {
        self.tasks.spawn(async move {
            // A task of its own, so that a panic comes with its name.
            let result = tokio::spawn(task)
                .await
                .unwrap_or_else(|e| Err(format!("panicked: {e}")));
            (name, result)
        });
    }

    /// Waits until a task ends, and says which and why.
    pub async fn first_end(&mut self) -> String {
        match self.tasks.join_next().await {
            Some(Ok((name, Ok(())))) => format!("the task `{name}` ended before the worker did"),
            Some(Ok((name, Err(reason)))) => format!("the task `{name}` failed: {reason}"),
            Some(Err(error)) => format!("a task was lost: {error}"),
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_and_a_panic_are_named() {
        let mut supervisor = Supervisor::default();
        supervisor.start("idle", std::future::pending());
        supervisor.start("broken", async { Err("no luck".into()) });
        assert_eq!(
            supervisor.first_end().await,
            "the task `broken` failed: no luck"
        );
        supervisor.start("shaky", async { panic!("a panic on purpose") });
        assert!(
            supervisor
                .first_end()
                .await
                .starts_with("the task `shaky` failed: panicked")
        );
        supervisor.start("short", async { Ok(()) });
        assert!(supervisor.first_end().await.contains("`short` ended"));
    }

    #[tokio::test]
    async fn everybody_hears_the_stop() {
        let (switch, stop) = Stop::new();
        let (mut a, mut b) = (stop.clone(), stop.clone());
        assert!(!stop.is_given());
        switch.send_replace(true);
        tokio::join!(a.wait(), b.wait());
        assert!(stop.is_given());
    }
}
