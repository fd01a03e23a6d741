//! Owns what is durable: one row a job, one row a scored input, one row whenever what readers find changed, and the marks of suspected jobs.
//!
//! Promises that every write is safe to repeat, that a job's row is written once, and that a repeat of a job
//! is answered from its row. Refuses to decide what happens to a job after a failure: it says whether the
//! database is out of reach ([`StoreError::Unavailable`]), was busy with another's write
//! ([`StoreError::Contended`]), took too long ([`StoreError::TimedOut`]), objects to what may be the data ([`StoreError::Objected`]), or
//! refuses the data ([`StoreError::Refused`]).

mod actions;
mod active;
mod address;
mod ask;
mod callbacks;
mod cancelled;
mod columns;
mod controls;
mod costs;
mod error;
mod fleet;
mod follow;
mod hosts;
mod inputs;
mod insert;
mod invalidations;
mod jobs;
mod kinds;
mod listed;
mod listen;
mod lost;
mod migrations;
mod news;
mod partitions;
mod parts;
mod posters;
mod postgres;
mod probe;
mod prune;
mod rejected;
mod retry;
mod runs;
mod sample;
mod scored;
mod served;
mod sessions;
#[cfg(test)]
#[cfg(feature = "faults")]
pub mod simulated;
mod sqlite;
mod suspects;
mod tables;
mod timings;

use chrono::{DateTime, Utc};
use kiln_contract::failure::Rejection;
use kiln_contract::key::InputHash;
use kiln_contract::result::Finished;
use std::time::Duration;

pub use actions::{ActionKind, ActionRow};
pub use callbacks::{CallbackRow, CallbackTo, DueCallback, WaitingCallbacks};
pub use cancelled::RunJobs;
pub use controls::{INTAKE, Paused, SCHEDULE};
pub use costs::KnownCost;
pub use error::StoreError;
pub use fleet::{VersionPasses, WorkerFigures, WorkerPasses, WorkerRow};
pub use follow::{Followed, FollowedTo};
pub use hosts::Opened;
pub use inputs::{KnownInput, ScorePair};
pub use invalidations::{InvalidationMark, Removable};
pub use jobs::{JobEnd, JobInput};
pub use listed::{JobFilter, JobMark, JobPage, ListedJob};
pub use listen::Listener;
pub use migrations::{Applied, Unfit};
pub use news::News;
pub use partitions::Moved;
pub use parts::{Writing, in_parts};
pub use posters::{AskedJob, PosterRow};
pub use postgres::PostgresStore;
pub use retry::{until_answered, until_refused};
pub use runs::{
    Claim, Claimed, Kept, NewPost, Outlay, PlanTotals, Post, Progress, RunPiece, RunRow, RunState,
    RunsBefore, SpentAhead, SpentTime, TakenOver,
};
pub use scored::{KnownScore, ScoredInput};
pub use served::{
    ServedHistory, ServedPast, ServedRow, WordOrder,
    alone::{Standing, UnsaidName},
};
pub use sqlite::{FoundScores, SqliteStore};
pub use timings::{SLOT_SECONDS, TimingRow};

/// A finished job on its way into the database.
#[derive(Debug)]
pub struct JobRow<'a> {
    pub job_id: &'a str,
    pub body_sha256: [u8; 32],
    pub done: &'a Finished,
}

/// A miss on its way into the database.
#[derive(Debug)]
pub struct ScoreRow<'a> {
    pub input: InputHash,
    pub model: &'a str,
    pub version: &'a str,
    pub namespace: &'a str,
    pub key: Option<&'a str>,
    pub label: Option<&'a str>,
    pub score: Option<f32>,
    /// The model's whole output row.
    pub outputs: &'a [f32],
    /// The input itself, where inputs are stored.
    pub text: Option<&'a str>,
    pub text_pair: Option<&'a str>,
    pub features: Option<&'a [f32]>,
}

/// What one batch writes, in one transaction. No two jobs share an id, no two scores a model, version and
/// input.
#[derive(Debug, Default)]
pub struct Batch<'a> {
    pub jobs: Vec<JobRow<'a>>,
    pub scores: Vec<ScoreRow<'a>>,
    /// What readers are served from now on, by these jobs; no name twice.
    pub served: Vec<ServedRow<'a>>,
    /// Model time that those of these jobs took that are of warming runs.
    pub spent: Vec<SpentTime>,
    /// The API keys that posted these jobs.
    pub posters: Vec<PosterRow<'a>>,
    /// Where the ends of these jobs are posted to; no job twice.
    pub callbacks: Vec<CallbackRow<'a>>,
    pub finished_at: DateTime<Utc>,
    /// Leave the results out of Postgres: a repeat's are those that it has now.
    pub is_ledger: bool,
}

/// What became of a job's row.
#[derive(Debug, Clone, PartialEq)]
pub enum Inserted {
    /// Written now.
    New,
    /// The same job was finished before: this is its result.
    Same(Box<Finished>),
    /// The id belongs to a job with another body.
    Conflict,
}

/// A rejected job on its way into the database.
#[derive(Debug, Clone)]
pub struct RejectedRow<'a> {
    /// The job's id, where it could be read.
    pub job_id: Option<&'a str>,
    pub body_sha256: [u8; 32],
    pub model: Option<&'a str>,
    pub namespace: Option<&'a str>,
    pub rejection: &'a Rejection,
    /// The API keys that posted it.
    pub posters: Vec<&'a str>,
    /// Where its end is posted to.
    pub callback: Option<CallbackTo<'a>>,
    pub finished_at: DateTime<Utc>,
}

/// What became of a rejection.
#[derive(Debug, Clone, PartialEq)]
pub enum Rejected {
    /// Its row says so.
    Noted,
    /// The same job was finished before, so that it isn't rejected: this is its result.
    Finished(Box<Finished>),
}

impl RejectedRow<'_> {
    /// The ids under which the row may stand: its own, and one that no other body has.
    fn ids(&self) -> (String, String) {
        let hash = hex::encode(self.body_sha256.get(..8).unwrap_or_default());
        match self.job_id {
            Some(id) => (id.to_owned(), format!("{id}~{hash}")),
            None => (format!("body-{hash}"), format!("body-{hash}")),
        }
    }
}

/// The database in use.
#[derive(Debug, Clone)]
pub enum Store {
    Postgres(PostgresStore),
    Sqlite(SqliteStore),
    #[cfg(all(test, feature = "faults"))]
    Simulated(simulated::SimulatedStore),
}

impl Store {
    /// Writes a batch and says, job by job, what became of its row.
    pub async fn insert(&self, batch: &Batch<'_>) -> Result<Vec<Inserted>, StoreError> {
        match self {
            Self::Postgres(store) => store.insert(batch).await,
            Self::Sqlite(store) => store.insert(batch).await,
            #[cfg(all(test, feature = "faults"))]
            Self::Simulated(store) => store.insert(batch).await,
        }
    }

    /// The names of words that stand whose history says that something else does.
    pub async fn unsaid(&self, standing: &Standing<'_>) -> Result<Vec<UnsaidName>, StoreError> {
        match self {
            Self::Postgres(store) => store.unsaid(standing).await,
            // It has no history of names.
            Self::Sqlite(_) => Ok(Vec::new()),
            #[cfg(all(test, feature = "faults"))]
            Self::Simulated(_) => Ok(Vec::new()),
        }
    }

    /// Notes what stands under names although something newer stood there before, which the cache has forgotten.
    pub async fn served_alone(&self, standing: &Standing<'_>) -> Result<(), StoreError> {
        match self {
            Self::Postgres(store) => store.served_alone(standing).await,
            // It has no history of names.
            Self::Sqlite(_) => Ok(()),
            #[cfg(all(test, feature = "faults"))]
            Self::Simulated(_) => Ok(()),
        }
    }

    /// How many batches were written so far.
    pub fn stored(&self) -> u64 {
        match self {
            Self::Postgres(store) => store.stored(),
            // Its writes have no limit that others could be judged by.
            Self::Sqlite(_) => 0,
            #[cfg(all(test, feature = "faults"))]
            Self::Simulated(store) => store.stored(),
        }
    }

    /// How many batches were written so far that had rows of all kinds that this one has.
    pub fn stored_like(&self, batch: &Batch<'_>) -> u64 {
        match self {
            Self::Postgres(store) => store.taken.like(kinds::Kinds::of(batch)),
            Self::Sqlite(_) => 0,
            #[cfg(all(test, feature = "faults"))]
            Self::Simulated(store) => store.stored(),
        }
    }

    /// The same of rejections.
    pub fn stored_rejections(&self, rows: &[RejectedRow<'_>]) -> u64 {
        match self {
            Self::Postgres(store) => store.taken.like(kinds::Kinds::of_rejections(rows)),
            Self::Sqlite(_) => 0,
            #[cfg(all(test, feature = "faults"))]
            Self::Simulated(_) => 0,
        }
    }

    /// Writes the rows of rejected jobs, and says job by job what became of it. A finished job's row is never overwritten, and nothing is
    /// written of such a job.
    pub async fn reject(&self, rows: &[RejectedRow<'_>]) -> Result<Vec<Rejected>, StoreError> {
        match self {
            Self::Postgres(store) => store.reject(rows).await,
            Self::Sqlite(store) => store.reject(rows).await,
            #[cfg(all(test, feature = "faults"))]
            Self::Simulated(store) => store.reject(rows).await,
        }
    }

    /// Whether it takes rows of the kinds that a batch has, if nothing is wrong with them. None of them stays.
    pub async fn takes(&self, batch: &Batch<'_>) -> Result<(), StoreError> {
        match self {
            Self::Postgres(store) => store.takes(kinds::Kinds::of(batch)).await,
            // Nobody adds a rule of his own to it.
            Self::Sqlite(_) => Ok(()),
            #[cfg(all(test, feature = "faults"))]
            Self::Simulated(_) => Ok(()),
        }
    }

    /// The same of rejections.
    pub async fn takes_rejections(&self, rows: &[RejectedRow<'_>]) -> Result<(), StoreError> {
        match self {
            Self::Postgres(store) => store.takes(kinds::Kinds::of_rejections(rows)).await,
            Self::Sqlite(_) => Ok(()),
            #[cfg(all(test, feature = "faults"))]
            Self::Simulated(_) => Ok(()),
        }
    }

    /// The result of a job that has finished, by its id and its body's hash.
    pub async fn finished(
        &self,
        job_id: &str,
        body_sha256: &[u8; 32],
    ) -> Result<Option<Box<Finished>>, StoreError> {
        match self {
            Self::Postgres(store) => store.finished(job_id, body_sha256).await,
            Self::Sqlite(store) => store.finished(job_id, body_sha256).await,
            #[cfg(all(test, feature = "faults"))]
            Self::Simulated(store) => store.finished(job_id, body_sha256).await,
        }
    }

    /// Deletes jobs, scores, what names were served and warming runs older than `age`, at most `batch` rows a statement, and calls
    /// `progress` with the rows deleted so far. Says how many of each.
    pub async fn prune(
        &self,
        age: Duration,
        batch: u32,
        mut progress: impl FnMut(u64) + Send,
    ) -> Result<Pruned, StoreError> {
        let before = crate::clock::now()
            - chrono::Duration::from_std(age).map_err(|e| StoreError::Refused(e.to_string()))?;
        let mut pruned = Pruned::default();
        for table in Table::ALL {
            let mut walk = prune::BlockWalk::default();
            while let Some(rows) = match self {
                Self::Postgres(store) => store.prune(table, before, batch, &mut walk).await?,
                Self::Sqlite(store) => store.prune(table, before, batch).await?,
                #[cfg(all(test, feature = "faults"))]
                Self::Simulated(_) => None,
            } {
                *pruned.of(table) += rows;
                progress(pruned.all());
            }
        }
        if let Self::Postgres(store) = self {
            // What can't be dropped now holds up nothing else.
            let results = store.prune_results(before, batch).await;
            let mut walk = prune::Walk::default();
            while let Some(rows) = store.prune_served(before, batch, &mut walk).await? {
                pruned.served += rows;
                progress(pruned.all());
            }
            store.prune_posters(before, batch).await?;
            results?;
        }
        Ok(pruned)
    }
}

/// The tables that grow, and of which whatever is old enough can go.
#[derive(Debug, Clone, Copy)]
enum Table {
    Jobs,
    Scores,
    Runs,
}

impl Table {
    const ALL: [Self; 3] = [Self::Jobs, Self::Scores, Self::Runs];
}

/// Rows deleted for their age.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    pub jobs: u64,
    pub scores: u64,
    pub served: u64,
    pub runs: u64,
}

impl Pruned {
    fn of(&mut self, table: Table) -> &mut u64 {
        match table {
            Table::Jobs => &mut self.jobs,
            Table::Scores => &mut self.scores,
            Table::Runs => &mut self.runs,
        }
    }

    fn all(&self) -> u64 {
        self.jobs + self.scores + self.served + self.runs
    }
}

/// 32-bit floats as little-endian bytes.
fn float_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// What [`float_bytes`] wrote.
fn floats(bytes: &[u8]) -> Vec<f32> {
    let (values, _) = bytes.as_chunks::<4>();
    values.iter().map(|b| f32::from_le_bytes(*b)).collect()
}
