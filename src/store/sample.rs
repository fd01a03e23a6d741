//! Owns the sample: rows that nothing is wrong with, written and undone, which show whether the database refuses some rows or all.
//!
//! Promises that nothing of a sample stays, and that it has a row of each kind that was refused.

use super::{
    Batch, CallbackRow, CallbackTo, JobRow, PosterRow, PostgresStore, RejectedRow, RunPiece,
    ScoreRow, ServedRow, SpentTime, StoreError, WordOrder, insert, rejected,
};
use crate::{clock, redact::Redact};
use chrono::{DateTime, Utc};
use kiln_contract::{
    failure::{Code, Rejection},
    result::Finished,
};
use rand::Rng;
use sqlx::{Postgres, postgres::PgArguments, query::Query};
use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// What a constraint that is checked at a transaction's end is to say before it is undone.
const CHECK_NOW: &str = "SET CONSTRAINTS ALL IMMEDIATE";
/// What a sample's texts say.
const NAME: &str = "kiln-sample";
const NOWHERE: CallbackTo<'static> = CallbackTo {
    url: "https://kiln-sample.invalid/",
    host: "kiln-sample.invalid",
};
/// A number that no job of a run has.
const NO_PIECE: i32 = i32::MIN;

/// Of which kinds a write's rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kinds {
    Finished {
        scores: bool,
        served: bool,
        posters: bool,
        callbacks: bool,
        /// A run whose jobs' model time is written.
        spent: Option<i64>,
        is_ledger: bool,
    },
    Rejected,
}

impl Kinds {
    pub fn of(batch: &Batch<'_>) -> Self {
        Self::Finished {
            scores: !batch.scores.is_empty(),
            served: !batch.served.is_empty(),
            posters: !batch.posters.is_empty(),
            callbacks: !batch.callbacks.is_empty(),
            spent: batch.spent.first().map(|spent| spent.of.run),
            is_ledger: batch.is_ledger,
        }
    }
}

/// The kinds of rows that the database refused when it was last asked.
#[derive(Debug, Default)]
pub(super) struct Refusing(Mutex<Option<Kinds>>);

impl Refusing {
    fn kinds(&self) -> MutexGuard<'_, Option<Kinds>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch was stored: where its rows are of those kinds, they are taken again.
    pub fn took(&self, batch: &Batch<'_>) {
        let mut kinds = self.kinds();
        if kinds.is_some_and(|refused| refused == Kinds::of(batch)) {
            *kinds = None;
        }
    }
}

impl PostgresStore {
    /// Whether it takes a row of each of these kinds that nothing is wrong with.
    pub(super) async fn takes(&self, kinds: Kinds) -> Result<(), StoreError> {
        let sample = Sample::new();
        let write = |tables| {
            let sample = &sample;
            async move {
                let rejection = Rejection::new(Code::Exhausted, "", NAME);
                let error = serde_json::to_string(&rejection)
                    .map_err(|e| StoreError::Refused(e.redacted()))?;
                let (done, rejected) = (sample.done(), sample.rejected(&rejection));
                match kinds {
                    Kinds::Rejected => {
                        let statement = rejected::statement(&sample.id, &rejected, &error, tables);
                        self.undone(statement).await
                    }
                    Kinds::Finished { .. } => {
                        let statement = insert::statement(&sample.batch(kinds, &done), tables);
                        let statement = statement
                            .map_err(|e| StoreError::Refused(sqlx::Error::Encode(e).redacted()))?;
                        self.undone(statement).await
                    }
                }
            }
        };
        let days = || BTreeSet::from([sample.at.date_naive()]);
        match self.for_tables(days, write).await {
            Ok(()) => {
                *self.refusing.kinds() = None;
                Ok(())
            }
            Err(StoreError::Refused(reason) | StoreError::Objected(reason)) => {
                *self.refusing.kinds() = Some(kinds);
                let reason = format!("it refuses every row: {reason}");
                Err(StoreError::Unavailable(reason))
            }
            Err(other) => Err(other),
        }
    }

    /// The same of the kinds that it refused when it was last asked, if any.
    pub(super) async fn takes_again(&self) -> Result<(), StoreError> {
        let refused = *self.refusing.kinds();
        match refused {
            Some(kinds) => self.takes(kinds).await,
            None => Ok(()),
        }
    }

    /// Runs a statement and undoes it.
    async fn undone(&self, statement: Query<'_, Postgres, PgArguments>) -> Result<(), StoreError> {
        let mut lease = self.transaction().await?;
        let run = async {
            sqlx::raw_sql(CHECK_NOW).execute(&mut *lease).await?;
            statement.execute(&mut *lease).await?;
            lease.roll_back().await
        };
        let answer = self.deadline(run).await;
        self.end(lease, answer).await
    }
}

/// What a sample's rows are made of.
struct Sample {
    id: String,
    hash: [u8; 32],
    at: DateTime<Utc>,
}

impl Sample {
    fn new() -> Self {
        let hash: [u8; 32] = rand::rng().random();
        Self {
            id: format!("{NAME}-{}", hex::encode(hash)),
            hash,
            at: clock::now(),
        }
    }

    fn done(&self) -> Finished {
        Finished {
            model: NAME.to_owned(),
            version: NAME.to_owned(),
            namespace: NAME.to_owned(),
            results: "[]".to_owned(),
            hits: 0,
            misses: 1,
            elapsed_ms: 1.0,
            finished_at: self.at,
        }
    }

    fn rejected<'a>(&'a self, rejection: &'a Rejection) -> RejectedRow<'a> {
        RejectedRow {
            job_id: Some(&self.id),
            body_sha256: self.hash,
            model: Some(NAME),
            namespace: Some(NAME),
            rejection,
            posters: vec![NAME],
            callback: Some(NOWHERE),
            finished_at: self.at,
        }
    }

    fn batch<'a>(&'a self, kinds: Kinds, done: &'a Finished) -> Batch<'a> {
        let mut batch = Batch {
            jobs: vec![JobRow {
                job_id: &self.id,
                body_sha256: self.hash,
                done,
            }],
            finished_at: self.at,
            ..Batch::default()
        };
        let Kinds::Finished {
            scores,
            served,
            posters,
            callbacks,
            spent,
            is_ledger,
        } = kinds
        else {
            return batch;
        };
        batch.is_ledger = is_ledger;
        if scores {
            batch.scores.push(self.score());
        }
        if served {
            batch.served.push(self.served());
        }
        if posters {
            batch.posters.push(PosterRow {
                posted_by: NAME,
                job_id: &self.id,
                body_sha256: self.hash,
            });
        }
        if callbacks {
            batch.callbacks.push(CallbackRow {
                job_id: &self.id,
                body_sha256: self.hash,
                to: NOWHERE,
            });
        }
        batch.spent.extend(spent.map(|run| SpentTime {
            of: RunPiece {
                run,
                piece: NO_PIECE,
            },
            seconds: 0.0,
        }));
        batch
    }

    fn score(&self) -> ScoreRow<'_> {
        ScoreRow {
            input: self.hash,
            model: NAME,
            version: NAME,
            namespace: NAME,
            key: Some(NAME),
            label: Some(NAME),
            score: Some(0.5),
            outputs: &[0.5],
            text: Some(NAME),
            text_pair: None,
            features: None,
        }
    }

    fn served(&self) -> ServedRow<'_> {
        ServedRow {
            namespace: NAME,
            key: &self.id,
            job_id: &self.id,
            model: NAME,
            version: NAME,
            input: Some(&self.hash),
            label: Some(NAME),
            score: Some(0.5),
            items: None,
            inputs: None,
            is_removed: false,
            order: WordOrder {
                kind: 't',
                value: 1,
                accepted_us: 1,
            },
        }
    }
}
