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
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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

/// Of which kinds a write's rows are, and a run whose jobs' model time is among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kinds {
    all: u8,
    run: Option<i64>,
}

impl Kinds {
    const FINISHED: u8 = 1;
    const RESULTS: u8 = 2;
    const SCORES: u8 = 4;
    const SERVED: u8 = 8;
    const POSTERS: u8 = 16;
    const CALLBACKS: u8 = 32;
    const SPENT: u8 = 64;
    /// Those of a rejection.
    pub const REJECTED: Self = Self {
        all: 128,
        run: None,
    };

    pub fn of(batch: &Batch<'_>) -> Self {
        let kinds = [
            (Self::FINISHED, true),
            (Self::RESULTS, !batch.is_ledger),
            (Self::SCORES, !batch.scores.is_empty()),
            (Self::SERVED, !batch.served.is_empty()),
            (Self::POSTERS, !batch.posters.is_empty()),
            (Self::CALLBACKS, !batch.callbacks.is_empty()),
            (Self::SPENT, !batch.spent.is_empty()),
        ];
        let there = kinds.into_iter().filter(|(_, is_there)| *is_there);
        Self {
            all: there.fold(0, |all, (kind, _)| all | kind),
            run: batch.spent.first().map(|spent| spent.of.run),
        }
    }

    fn has(self, kind: u8) -> bool {
        self.all & kind != 0
    }
}

/// The model, version and namespace of a job that was stored.
type Names = [String; 3];

#[derive(Debug, Default)]
struct State {
    /// How often rows of these kinds were stored together.
    stored: BTreeMap<u8, u64>,
    /// What was refused when it was last asked, and how often rows of its kinds had been stored by then.
    refused: Option<(Kinds, u64)>,
    names: Option<Arc<Names>>,
}

impl State {
    /// How often rows of all these kinds were stored.
    fn like(&self, kinds: Kinds) -> u64 {
        let with = self.stored.iter();
        let with = with.filter(|(all, _)| *all & kinds.all == kinds.all);
        with.map(|(_, count)| count).sum()
    }
}

/// What this process has stored, by kinds, and of which kinds the database refuses rows.
#[derive(Debug, Default)]
pub(super) struct Taken(Mutex<State>);

impl Taken {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch was stored.
    pub fn batch(&self, batch: &Batch<'_>) {
        let names = batch.jobs.first().map(|job| {
            let Finished {
                model,
                version,
                namespace,
                ..
            } = job.done;
            [model, version, namespace]
        });
        let mut state = self.state();
        *state.stored.entry(Kinds::of(batch).all).or_default() += 1;
        let known = state.names.as_deref();
        if let Some(names) = names
            && known.is_none_or(|known| known.iter().ne(names))
        {
            state.names = Some(Arc::new(names.map(Clone::clone)));
        }
    }

    /// A rejection was stored.
    pub fn rejection(&self) {
        let mut state = self.state();
        *state.stored.entry(Kinds::REJECTED.all).or_default() += 1;
    }

    /// How many batches of rows of all these kinds were stored.
    pub fn like(&self, kinds: Kinds) -> u64 {
        self.state().like(kinds)
    }

    /// How many batches of jobs were stored.
    pub fn batches(&self) -> u64 {
        self.like(Kinds {
            all: Kinds::FINISHED,
            run: None,
        })
    }

    /// Notes whether a sample of these kinds was refused.
    fn asked(&self, kinds: Kinds, is_refused: bool) {
        let mut state = self.state();
        if is_refused {
            state.refused = Some((kinds, state.like(kinds)));
        } else {
            state.refused.take_if(|(refused, _)| *refused == kinds);
        }
    }

    /// The kinds of which the last sample was refused, and nothing has been stored since.
    fn refused(&self) -> Option<Kinds> {
        let state = self.state();
        let (kinds, before) = state.refused?;
        (state.like(kinds) == before).then_some(kinds)
    }
}

impl PostgresStore {
    /// Whether it takes a row of each of these kinds that nothing is wrong with.
    pub(super) async fn takes(&self, kinds: Kinds) -> Result<(), StoreError> {
        let sample = Sample::new(self.taken.state().names.clone());
        let write = |tables| {
            let sample = &sample;
            async move {
                if kinds == Kinds::REJECTED {
                    let rejection = Rejection::new(Code::Exhausted, "", NAME);
                    let error = serde_json::to_string(&rejection)
                        .map_err(|e| StoreError::Refused(e.redacted()))?;
                    let row = sample.rejected(&rejection);
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

    fn rejected<'a>(&'a self, rejection: &'a Rejection) -> RejectedRow<'a> {
        let [model, _, namespace] = &*self.names;
        RejectedRow {
            job_id: Some(&self.id),
            body_sha256: self.hash,
            model: Some(model),
            namespace: Some(namespace),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(all: u8) -> Kinds {
        Kinds { all, run: None }
    }

    fn stored(taken: &Taken, all: u8) {
        *taken.state().stored.entry(all).or_default() += 1;
    }

    #[test]
    fn what_is_refused_is_so_until_it_is_stored_with_whatever_else() {
        let taken = Taken::default();
        let scores = Kinds::FINISHED | Kinds::SCORES;
        stored(&taken, scores);
        taken.asked(kinds(scores), true);
        stored(&taken, Kinds::FINISHED);
        taken.rejection();
        assert_eq!(taken.refused(), Some(kinds(scores)));
        taken.asked(kinds(Kinds::FINISHED), false);
        assert_eq!(
            taken.refused(),
            Some(kinds(scores)),
            "that says nothing of it"
        );
        stored(&taken, scores | Kinds::CALLBACKS);
        assert_eq!(taken.refused(), None);
        assert_eq!((taken.like(kinds(scores)), taken.batches()), (2, 3));
        taken.asked(Kinds::REJECTED, true);
        taken.rejection();
        assert_eq!(taken.refused(), None);
    }
}
