//! Owns waiting for jobs to end, whichever worker has them.
//!
//! Promises that all who wait here ask the database one question together, however many they are, and less and less often while nothing ends; and that
//! their number is bounded: each holds a connection meanwhile, of which others need some. Nothing runs while nobody waits. Whoever waits for a job that
//! another key posted hears nothing of its end.

use super::{api_state::ApiState, problem::Problem};
use crate::store::AskedJob;
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::{Mutex as Turns, watch};

/// Requests that wait at once, at the most.
const MAX_WAITING: usize = 1_000;
/// Time between two questions: after somebody came, and after many.
const SOONEST: Duration = Duration::from_millis(100);
const LATEST: Duration = Duration::from_millis(800);

/// Who waits, by the job's id and the key to which it is shown.
#[derive(Debug)]
pub(super) struct Waits {
    /// How many may wait.
    max: usize,
    jobs: Mutex<Jobs>,
    /// Whoever has the turn asks for all. It holds when that was last done.
    turn: Turns<Option<Instant>>,
    rest_ms: AtomicU64,
}

#[derive(Debug, Default)]
struct Jobs {
    by_job: HashMap<AskedJob, Awaited>,
    waiting: usize,
}

/// A job that somebody waits for.
#[derive(Debug)]
struct Awaited {
    ended: watch::Sender<bool>,
    by: usize,
}

/// One who waits; forgotten when it is dropped.
struct Waiter<'a> {
    waits: &'a Waits,
    job: AskedJob,
    ended: watch::Receiver<bool>,
}

impl Waits {
    /// Where so many connections are served: half of them may wait.
    pub(super) fn new(connections: usize) -> Self {
        Self {
            max: (connections / 2).clamp(1, MAX_WAITING),
            jobs: Mutex::default(),
            turn: Turns::default(),
            rest_ms: AtomicU64::new(0),
        }
    }

    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        // Sound after a panic elsewhere: its counts are changed together.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, (job_id, posted_by): (&str, Option<&str>)) -> Result<Waiter<'_>, Problem> {
        let mut jobs = self.jobs();
        if jobs.waiting >= self.max {
            let waiting = jobs.waiting;
            return Err(Problem::unavailable(format!(
                "{waiting} requests wait for jobs here already, as many as may"
            )));
        }
        jobs.waiting += 1;
        self.rest_ms
            .store(SOONEST.as_millis() as u64, Ordering::Relaxed);
        let job: AskedJob = (job_id.to_owned(), posted_by.map(str::to_owned));
        let ended = match jobs.by_job.entry(job.clone()) {
            Entry::Occupied(mut known) => {
                known.get_mut().by += 1;
                known.get().ended.subscribe()
            }
            Entry::Vacant(new) => {
                let (ended, receiver) = watch::channel(false);
                new.insert(Awaited { ended, by: 1 });
                receiver
            }
        };
        Ok(Waiter {
            waits: self,
            job,
            ended,
        })
    }

    /// Waits until a job has ended, for `limit` at the most; says whether it has. Where a key is named, only one that it posted.
    pub(super) async fn ended(
        &self,
        state: &ApiState,
        job: (&str, Option<&str>),
        limit: Duration,
    ) -> Result<bool, Problem> {
        let waiter = self.enter(job)?;
        let mut ended = waiter.ended.clone();
        tokio::select! {
            // The sender is there for as long as this one is counted.
            _ended = ended.wait_for(|ended| *ended) => Ok(true),
            failed = self.ask_for_all(state) => failed,
            () = tokio::time::sleep(limit) => Ok(*waiter.ended.borrow()),
        }
    }

    /// Asks for all again and again, once it is this one's turn. Ends only where that fails.
    async fn ask_for_all(&self, state: &ApiState) -> Result<bool, Problem> {
        let mut asked = self.turn.lock().await;
        loop {
            // In steps: who comes meanwhile makes it shorter.
            while asked.is_some_and(|at| at.elapsed() < self.rest()) {
                tokio::time::sleep(SOONEST).await;
            }
            *asked = Some(Instant::now());
            self.ask(state).await?;
            let longer = (2 * self.rest()).min(LATEST);
            self.rest_ms
                .store(longer.as_millis() as u64, Ordering::Relaxed);
        }
    }

    fn rest(&self) -> Duration {
        Duration::from_millis(self.rest_ms.load(Ordering::Relaxed))
    }

    /// Asks which of the jobs that anybody waits for have ended.
    async fn ask(&self, state: &ApiState) -> Result<(), Problem> {
        let asked: Vec<AskedJob> = self.jobs().by_job.keys().cloned().collect();
        let ended = state.ask(move |store| async move { store.ended(&asked).await });
        let ended = ended.await?;
        let jobs = self.jobs();
        for one in &ended {
            if let Some(job) = jobs.by_job.get(one) {
                job.ended.send_replace(true);
            }
        }
        Ok(())
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut jobs = self.waits.jobs();
        jobs.waiting -= 1;
        if let Some(job) = jobs.by_job.get_mut(&self.job) {
            job.by -= 1;
            if job.by == 0 {
                jobs.by_job.remove(&self.job);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_counted_bounded_and_forgotten() {
        let waits = Waits::new(20);
        let first = waits.enter(("a", None)).expect("room");
        let enter = |_| waits.enter(("a", Some("shop"))).expect("room");
        let others: Vec<Waiter<'_>> = (1..10).map(enter).collect();
        assert_eq!(waits.jobs().by_job.len(), 2);
        let refused = waits.enter(("b", None)).err().expect("no room");
        assert_eq!(refused.status_code(), 503);
        drop(others);
        assert_eq!(waits.jobs().waiting, 1);
        drop(first);
        assert!(waits.jobs().by_job.is_empty() && waits.jobs().waiting == 0);
        assert_eq!(
            (Waits::new(1).max, Waits::new(1 << 20).max),
            (1, MAX_WAITING)
        );
    }
}
