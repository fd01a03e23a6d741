//! Owns the sample: rows that nothing is wrong with, written and undone, which show whether the database refuses some rows or all.
//!
//! Promises that nothing of a sample stays, and that it has a row of each kind that was refused.

use super::{
    Batch, CallbackRow, CallbackTo, JobRow, PosterRow, PostgresStore, RejectedRow, RunPiece,
    ScoreRow, ServedRow, SpentTime, StoreError, WordOrder, insert,
    kinds::{Kinds, Names},
    rejected,
};
use crate::{clock, redact::Redact};
use chrono::{DateTime, Utc};
use kiln_contract::{
    failure::{Code, Rejection},
    result::Finished,
};
use rand::Rng;
use sqlx::{Postgres, postgres::PgArguments, query::Query};
use std::{collections::BTreeSet, sync::Arc};

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

impl PostgresStore {
    /// Whether it takes a row of each of these kinds that nothing is wrong with.
    pub(super) async fn takes(&self, kinds: Kinds) -> Result<(), StoreError> {
        let sample = Sample::new(self.taken.names());
        let write = |tables| {
            let sample = &sample;
            async move {
                if kinds.has(Kinds::REJECTED) {
                    let rejection = Rejection::new(Code::Exhausted, "", NAME);
                    let error = serde_json::to_string(&rejection)
                        .map_err(|e| StoreError::Refused(e.redacted()))?;
                    let row = sample.rejected(kinds, &rejection);
                    return self
                        .undone(rejected::statement(&sample.id, &row, &error, tables))
                        .await;
                }
                let done = sample.done();
                let statement = insert::statement(&sample.batch(kinds, &done), tables);
                let statement = statement
                    .map_err(|e| StoreError::Refused(sqlx::Error::Encode(e).redacted()))?;
                self.undone(statement).await
            }
        };
        let days = || BTreeSet::from([sample.at.date_naive()]);
        match self.for_tables(days, write).await {
            Ok(()) => {
                self.taken.asked(kinds, false);
                Ok(())
            }
            Err(StoreError::Refused(reason) | StoreError::Objected(reason)) => {
                self.taken.asked(kinds, true);
                let reason = format!("it refuses every row: {reason}");
                Err(StoreError::Unavailable(reason))
            }
            Err(other) => Err(other),
        }
    }

    /// The same of the kinds that it refused when it was last asked, unless rows of them have been stored since.
    pub(super) async fn takes_again(&self) -> Result<(), StoreError> {
        match self.taken.refused() {
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
        self.end_write(lease, answer).await
    }
}

/// What a sample's rows are made of.
struct Sample {
    id: String,
    hash: [u8; 32],
    /// Those of a job that was stored, which a rule about them lets pass.
    names: Arc<Names>,
    at: DateTime<Utc>,
}

impl Sample {
    fn new(names: Option<Arc<Names>>) -> Self {
        let hash: [u8; 32] = rand::rng().random();
        Self {
            id: format!("{NAME}-{}", hex::encode(hash)),
            hash,
            names: names.unwrap_or_else(|| Arc::new([NAME; 3].map(str::to_owned))),
            at: clock::now(),
        }
    }

    fn done(&self) -> Finished {
        let [model, version, namespace] = (*self.names).clone();
        Finished {
            model,
            version,
            namespace,
            results: "[]".to_owned(),
            hits: 0,
            misses: 1,
            elapsed_ms: 1.0,
            finished_at: self.at,
        }
    }

    fn rejected<'a>(&'a self, kinds: Kinds, rejection: &'a Rejection) -> RejectedRow<'a> {
        let [model, _, namespace] = &*self.names;
        RejectedRow {
            job_id: Some(&self.id),
            body_sha256: self.hash,
            model: Some(model),
            namespace: Some(namespace),
            rejection,
            posters: kinds
                .has(Kinds::POSTERS)
                .then_some(NAME)
                .into_iter()
                .collect(),
            callback: kinds.has(Kinds::CALLBACKS).then_some(NOWHERE),
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
            is_ledger: !kinds.has(Kinds::RESULTS),
            ..Batch::default()
        };
        if kinds.has(Kinds::SCORES) {
            batch.scores.push(self.score());
        }
        if kinds.has(Kinds::SERVED) {
            batch.served.push(self.served());
        }
        if kinds.has(Kinds::POSTERS) {
            batch.posters.push(PosterRow {
                posted_by: NAME,
                job_id: &self.id,
                body_sha256: self.hash,
            });
        }
        if kinds.has(Kinds::CALLBACKS) {
            batch.callbacks.push(CallbackRow {
                job_id: &self.id,
                body_sha256: self.hash,
                to: NOWHERE,
            });
        }
        batch.spent.extend(kinds.run.map(|run| SpentTime {
            of: RunPiece {
                run,
                piece: NO_PIECE,
            },
            seconds: 0.0,
        }));
        batch
    }

    fn score(&self) -> ScoreRow<'_> {
        let [model, version, namespace] = &*self.names;
        ScoreRow {
            input: self.hash,
            model,
            version,
            namespace,
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
        let [model, version, namespace] = &*self.names;
        ServedRow {
            namespace,
            key: &self.id,
            job_id: &self.id,
            model,
            version,
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
