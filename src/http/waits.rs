//! Owns waiting for jobs to end, whichever worker has them.
//!
//! Promises that all who wait here ask the database one question together, however many they are, and less and less often while nothing ends; and that
//! their number is bounded: each holds a connection meanwhile, of which others need some. Nothing runs while nobody waits.

use super::{api_state::ApiState, problem::Problem};
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

/// Who waits, by the job's id.
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
    by_id: HashMap<String, Awaited>,
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
    job_id: &'a str,
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

    fn enter<'a>(&'a self, job_id: &'a str) -> Result<Waiter<'a>, Problem> {
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
        let ended = match jobs.by_id.entry(job_id.to_owned()) {
            Entry::Occupied(mut job) => {
                job.get_mut().by += 1;
                job.get().ended.subscribe()
            }
            Entry::Vacant(job) => {
                let (ended, receiver) = watch::channel(false);
                job.insert(Awaited { ended, by: 1 });
                receiver
            }
        };
        Ok(Waiter {
            waits: self,
            job_id,
            ended,
        })
    }

    /// Waits until a job has ended, for `limit` at the most; says whether it has.
    pub(super) async fn ended(
        &self,
        state: &ApiState,
        job_id: &str,
        limit: Duration,
    ) -> Result<bool, Problem> {
        let waiter = self.enter(job_id)?;
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
        let ids: Vec<String> = self.jobs().by_id.keys().cloned().collect();
        let ended = state.ask(move |store| async move { store.ended(&ids).await });
        let ended = ended.await?;
        let jobs = self.jobs();
        for id in &ended {
            if let Some(job) = jobs.by_id.get(id) {
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
        if let Some(job) = jobs.by_id.get_mut(self.job_id) {
            job.by -= 1;
            if job.by == 0 {
                jobs.by_id.remove(self.job_id);
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
        let first = waits.enter("a").expect("room");
        let others: Vec<Waiter<'_>> = (1..10).map(|_| waits.enter("a").expect("room")).collect();
        let refused = waits.enter("b").err().expect("no room");
        assert_eq!(refused.status_code(), 503);
        drop(others);
        assert_eq!(waits.jobs().waiting, 1);
        drop(first);
        assert!(waits.jobs().by_id.is_empty() && waits.jobs().waiting == 0);
        assert_eq!(
            (Waits::new(1).max, Waits::new(1 << 20).max),
            (1, MAX_WAITING)
        );
    }
}
