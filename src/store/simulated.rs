//! Owns a stand-in of Postgres for simulations: the rows of jobs and scores in memory.
//!
//! Promises what `conformance` holds the real database to: a job's row is written once, a rejection gives way to a result, and scores
//! stay. By a seed, answers are late or lost after the commit, statements are ended or undone, connections break before a statement or
//! while it goes on, and a row is refused. Refuses to know a history of names, callbacks, posters and runs: none of them are a batch's end.

use super::{Batch, Inserted, Rejected, RejectedRow, StoreError, postgres::compared};
use crate::{
    clock,
    simulated::{Chance, log},
};
use kiln_contract::{failure::Rejection, key::InputHash, result::Finished};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// What a job's id has whose row is refused.
pub const REFUSED: &str = "unstorable";
/// How long a statement takes that is waited for in vain.
const STATEMENT_TIME: Duration = Duration::from_secs(4);

/// How a job ended, as its row has it.
#[derive(Debug, Clone, PartialEq)]
pub enum JobState {
    Done(Box<Finished>),
    Rejected(Rejection),
}

/// A job's row.
#[derive(Debug, Clone, PartialEq)]
pub struct SimulatedJob {
    pub body_sha256: [u8; 32],
    pub state: JobState,
}

/// A score's row, by its key: input, model and version.
pub type Scores = BTreeMap<(InputHash, String, String), Vec<f32>>;

#[derive(Debug, Default)]
struct Tables {
    jobs: BTreeMap<String, SimulatedJob>,
    scores: Scores,
}

/// What a batch writes, by itself: its statement may go on when its caller has gone.
#[derive(Debug, Clone)]
struct Write {
    jobs: Vec<(String, [u8; 32], Finished)>,
    scores: Scores,
}

impl Write {
    fn of(batch: &Batch<'_>) -> Self {
        let jobs = batch.jobs.iter();
        let scores = batch.scores.iter().map(|score| {
            let key = (
                score.input,
                score.model.to_owned(),
                score.version.to_owned(),
            );
            (key, score.outputs.to_vec())
        });
        Self {
            jobs: jobs
                .map(|job| (job.job_id.to_owned(), job.body_sha256, job.done.clone()))
                .collect(),
            scores: scores.collect(),
        }
    }
}

/// The database as one client reaches it. Clones are the same.
#[derive(Debug, Clone)]
pub struct SimulatedStore {
    tables: Arc<Mutex<Tables>>,
    chance: Chance,
    stored: Arc<Mutex<u64>>,
    /// Nothing is answered before.
    away_until: Arc<Mutex<Option<Instant>>>,
    /// This client has no answers any more.
    gone: CancellationToken,
}

impl SimulatedStore {
    /// An empty one.
    pub fn new(chance: &Chance) -> Self {
        Self {
            tables: Arc::default(),
            chance: chance.apart(),
            stored: Arc::default(),
            away_until: Arc::default(),
            gone: CancellationToken::new(),
        }
    }

    /// The same for another client.
    pub fn other(&self) -> Self {
        Self {
            tables: self.tables.clone(),
            away_until: self.away_until.clone(),
            ..Self::new(&self.chance)
        }
    }

    /// Leaves this client without an answer, for good.
    pub fn leave(&self) {
        self.gone.cancel();
    }

    /// Leaves every client without an answer for so long.
    pub fn stop(&self, time: Duration) {
        let until = clock::instant() + time;
        *self.away_until() = Some(until);
    }

    fn away_until(&self) -> MutexGuard<'_, Option<Instant>> {
        let until = self.away_until.lock();
        until.unwrap_or_else(PoisonError::into_inner)
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A job's row.
    pub fn job(&self, job_id: &str) -> Option<SimulatedJob> {
        self.tables().jobs.get(job_id).cloned()
    }

    /// Every row of a score.
    pub fn scores(&self) -> Scores {
        self.tables().scores.clone()
    }

    pub(super) fn stored(&self) -> u64 {
        *self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn insert(&self, batch: &Batch<'_>) -> Result<Vec<Inserted>, StoreError> {
        if batch.jobs.is_empty() {
            return Ok(Vec::new());
        }
        let write = Write::of(batch);
        let is_refused = write.jobs.iter().any(|(id, ..)| id.contains(REFUSED));
        let written = self
            .statement(move |tables| match is_refused {
                true => Err(StoreError::Refused("as its id says".to_owned())),
                false => Ok(insert(tables, &write)),
            })
            .await??;
        let inserted = match written == batch.jobs.len() {
            true => vec![Inserted::New; written],
            false => self.compare(batch).await?,
        };
        if written > 0 {
            *self.stored.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        }
        Ok(inserted)
    }

    async fn compare(&self, batch: &Batch<'_>) -> Result<Vec<Inserted>, StoreError> {
        let ids: Vec<String> = batch.jobs.iter().map(|job| job.job_id.to_owned()).collect();
        let found = self
            .statement(move |tables| {
                let rows = ids.iter().filter_map(|id| {
                    let row = tables.jobs.get(id)?;
                    let JobState::Done(done) = &row.state else {
                        return None;
                    };
                    Some((id.clone(), (row.body_sha256.to_vec(), (**done).clone())))
                });
                rows.collect::<HashMap<_, _>>()
            })
            .await?;
        Ok(compared(batch, found))
    }

    pub(super) async fn finished(
        &self,
        job_id: &str,
        body_sha256: &[u8; 32],
    ) -> Result<Option<Box<Finished>>, StoreError> {
        let (job_id, body_sha256) = (job_id.to_owned(), *body_sha256);
        self.statement(move |tables| {
            let row = tables.jobs.get(&job_id);
            let row = row.filter(|row| row.body_sha256 == body_sha256)?;
            match &row.state {
                JobState::Done(done) => Some(done.clone()),
                JobState::Rejected(_) => None,
            }
        })
        .await
    }

    pub(super) async fn reject(
        &self,
        rows: &[RejectedRow<'_>],
    ) -> Result<Vec<Rejected>, StoreError> {
        let mut rejected = Vec::with_capacity(rows.len());
        'rows: for row in rows {
            let (own, other) = row.ids();
            for id in [&own, &other] {
                let job = SimulatedJob {
                    body_sha256: row.body_sha256,
                    state: JobState::Rejected(row.rejection.clone()),
                };
                let named = id.clone();
                let written = self.statement(move |tables| reject(tables, named, job));
                if written.await? {
                    break;
                }
                if let Some(first) = self.finished(id, &row.body_sha256).await? {
                    rejected.push(Rejected::Finished(first));
                    continue 'rows;
                }
            }
            rejected.push(Rejected::Noted);
        }
        Ok(rejected)
    }

    /// Runs a statement as the seed says: with its effect and without, and with its answer and without.
    async fn statement<T: Send + 'static>(
        &self,
        run: impl FnOnce(&mut Tables) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let (chance, gone) = (&self.chance, self.gone.clone());
        tokio::time::sleep(chance.delay()).await;
        if gone.is_cancelled() {
            std::future::pending::<()>().await;
        }
        let is_away = self
            .away_until()
            .is_some_and(|until| clock::instant() < until);
        if is_away {
            return Err(lost());
        }
        let failure = self.failure();
        let is_done = failure.is_none() || chance.below(2) == 0;
        if let Some(StoreError::Unavailable(_)) = &failure
            && chance.below(4) == 0
        {
            // Its connection is lost, and the server hasn't noticed.
            let (tables, time) = (self.tables.clone(), chance.millis(1..3_000));
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                log(|| "postgres runs a statement that nobody waits for".to_owned());
                run(&mut tables.lock().unwrap_or_else(PoisonError::into_inner));
            });
            return Err(lost());
        }
        let is_undone = matches!(&failure, Some(StoreError::Contended(_)));
        let answer = match is_done && !is_undone {
            true => Some(run(&mut self.tables())),
            false => None,
        };
        log(|| format!("postgres: done {}, {failure:?}", answer.is_some()));
        if let Some(StoreError::TimedOut(_)) = &failure {
            tokio::time::sleep(STATEMENT_TIME).await;
        }
        tokio::time::sleep(chance.delay()).await;
        if gone.is_cancelled() {
            std::future::pending::<()>().await;
        }
        match (failure, answer) {
            (None, Some(answer)) => Ok(answer),
            (failure, _) => Err(failure.unwrap_or_else(lost)),
        }
    }

    fn failure(&self) -> Option<StoreError> {
        let chance = &self.chance;
        if chance.fails(100) {
            return Some(lost());
        }
        if chance.fails(20) {
            return Some(StoreError::TimedOut("the statement's limit".to_owned()));
        }
        let is_undone = chance.fails(30);
        is_undone.then(|| StoreError::Contended("a deadlock".to_owned()))
    }
}

fn lost() -> StoreError {
    StoreError::Unavailable("the connection was lost".to_owned())
}

/// Writes a batch, and says how many of its jobs' rows are new.
fn insert(tables: &mut Tables, write: &Write) -> usize {
    for (key, outputs) in &write.scores {
        let row = tables.scores.entry(key.clone());
        row.or_insert_with(|| outputs.clone());
    }
    let mut written = 0;
    for (id, body_sha256, done) in &write.jobs {
        let is_done = |row: &SimulatedJob| matches!(row.state, JobState::Done(_));
        if tables.jobs.get(id).is_some_and(is_done) {
            continue;
        }
        log(|| format!("postgres has {id}"));
        let row = SimulatedJob {
            body_sha256: *body_sha256,
            state: JobState::Done(Box::new(done.clone())),
        };
        tables.jobs.insert(id.clone(), row);
        written += 1;
    }
    written
}

/// Writes a rejection unless a result stands there.
fn reject(tables: &mut Tables, id: String, job: SimulatedJob) -> bool {
    let is_done = |row: &SimulatedJob| matches!(row.state, JobState::Done(_));
    if tables.jobs.get(&id).is_some_and(is_done) {
        return false;
    }
    log(|| format!("postgres has the rejection of {id}"));
    tables.jobs.insert(id, job);
    true
}
