//! What the API works with: the parts of the running worker, and a way to have work done on the worker's own runtime.

use super::{permits, problem::Problem};
use crate::{
    amqp::{connection::Broker, lane_depths::LaneDepths, publisher::Publisher, topology::Topology},
    config::Settings,
    heat::Heat,
    pipeline::{Engine, budget::Budget, insight::Insight},
    redact::Redact,
    store::{Paused, PostgresStore, Removable, StoreError},
    telemetry::{
        recent::{Recent, Rejected},
        trace::Tracer,
    },
    warm::folder::Folder,
};
use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    task::{JoinError, JoinHandle},
};

/// The parts behind the API.
#[derive(Clone)]
pub struct ApiState {
    /// The worker's runtime: connections to servers belong to it.
    pub runtime: Handle,
    pub engine: Arc<Engine>,
    /// What requests may hold of the bytes that may be in hand: never all of them, so that the queues' jobs go on beside.
    pub budget: Arc<Budget>,
    pub store: PostgresStore,
    pub publisher: Publisher,
    /// Where the dead letters are, over a connection of each look's own.
    pub broker: Broker,
    pub topology: Arc<Topology>,
    /// What the broker last said of the lanes' queues.
    pub lane_depths: LaneDepths,
    pub settings: Arc<Settings>,
    pub folder: Arc<Mutex<Folder>>,
    pub heat: Arc<Heat>,
    pub insight: Arc<Insight>,
    pub tracer: Tracer,
    /// What this worker rejected last.
    pub rejected: Arc<Recent<Rejected>>,
    /// What operators have paused, as this worker knows it.
    pub paused: watch::Receiver<Vec<Paused>>,
    /// Where namespaces go whose readers' entries are to be removed.
    pub invalid: mpsc::Sender<Removable>,
}

/// Ends its task when it is dropped: nobody waits for the answer any more.
struct WorkerTask<T>(JoinHandle<T>);

impl<T> Drop for WorkerTask<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn of_task<T>(done: Result<T, JoinError>) -> Result<T, Problem> {
    done.map_err(|error| {
        let error = error.redacted();
        tracing::error!(error, "the work for a request panicked");
        Problem::unavailable("the work for this request failed")
    })
}

impl ApiState {
    /// The key under which a caller's jobs are its own; none where there are no keys.
    pub(super) fn poster(&self, caller: &Arc<str>) -> Option<Arc<str>> {
        (!self.settings.http.keys.is_empty()).then(|| caller.clone())
    }

    /// Longest time for one request.
    pub(super) fn limit(&self) -> Duration {
        Duration::from_millis(self.settings.http.timeout_ms)
    }

    /// Has work done on the worker's runtime, within the time limit.
    pub(super) async fn run_on_worker<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Problem> {
        let mut run_on_worker = WorkerTask(self.runtime.spawn(work));
        let done = tokio::time::timeout(self.limit(), &mut run_on_worker.0).await;
        done.map_or_else(|_| Err(Problem::timeout(self.limit())), of_task)
    }

    /// Has work done on the worker's runtime to its end, however long somebody waits for it. The work bounds its own time.
    pub(super) async fn run_to_its_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Problem> {
        let done = tokio::time::timeout(self.limit(), self.detach(work)).await;
        done.map_or_else(|_| Err(Problem::goes_on(self.limit())), of_task)
    }

    /// The same with work that only looks: what it asked the database is answered in any case, as one that isn't waited for keeps others waiting until
    /// it has been ended there. The store bounds its time.
    pub(super) async fn look<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Problem> {
        let done = tokio::time::timeout(self.limit(), self.detach(work)).await;
        done.map_or_else(|_| Err(Problem::timeout(self.limit())), of_task)
    }

    /// Runs work on the worker's runtime. What its request holds of the port isn't free before its end.
    fn detach<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let held = permits::held();
        self.runtime.spawn(async move {
            let _held = held;
            work.await
        })
    }

    /// Asks the database something, which goes on to its end.
    pub(super) async fn ask<T, W>(
        &self,
        question: impl FnOnce(PostgresStore) -> W + Send + 'static,
    ) -> Result<T, Problem>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, StoreError>> + Send,
    {
        let store = self.store.clone();
        let answer = self.look(async move { question(store).await }).await?;
        answer.map_err(|error| Problem::unavailable(format!("postgres: {error}")))
    }
}
