//! The names of a run's jobs, and the model time that they took, which is written with their rows: whoever sees a job's row sees what it cost.

use super::Claim;
use crate::store::{
    Batch, PostgresStore, StoreError,
    columns::{Columns, column},
    tables::Tables,
};
use sqlx::error::BoxDynError;
use sqlx::postgres::PgArguments;
use std::collections::{BTreeMap, BTreeSet};

/// One of the jobs that a warming run is cut into. In order, runs first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunPiece {
    pub run: i64,
    pub piece: i32,
}

impl RunPiece {
    /// The job's id: what makes posting it twice harmless.
    pub fn job_id(self) -> String {
        format!("warm-{}-{}", self.run, self.piece)
    }

    /// The piece whose job has this id, if it is one's. A job of a run that follows a table is named after its body, and numbered below 0 after that.
    pub fn of_job(id: &str) -> Option<Self> {
        let (run, piece) = id.strip_prefix("warm-")?.split_once('-')?;
        let piece = match piece.len() {
            DIGEST_DIGITS => {
                let first = u32::from_str_radix(piece.get(..8)?, 16).ok()?;
                -1 - i32::try_from(first >> 1).ok()?
            }
            _ => piece.parse().ok()?,
        };
        Some(Self {
            run: run.parse().ok()?,
            piece,
        })
    }
}

/// Digits of a body's digest in the name of a job that follows a table.
const DIGEST_DIGITS: usize = 32;

/// Model time that a run's job took, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpentTime {
    pub of: RunPiece,
    pub seconds: f64,
}

/// Of a run that has ended nobody asks.
const IS_OPEN: &str = "EXISTS (SELECT FROM warm_runs WHERE id = run_id AND finished_at IS NULL)";
/// A statement that is repeated adds nothing.
const OVER: &str = "\
ON CONFLICT (run_id, piece) DO UPDATE SET model_seconds = greatest(warm_spent.model_seconds, excluded.model_seconds)";

/// The insertion of what a batch's jobs of runs took.
pub(in crate::store) fn insert(
    batch: &Batch<'_>,
    arguments: &mut PgArguments,
) -> Result<String, BoxDynError> {
    let mut rows = batch.spent.clone();
    rows.sort_unstable_by_key(|spent| spent.of);
    // Two that share a number are one row.
    rows.dedup_by(|one, kept| {
        let are_one = one.of == kept.of;
        if are_one {
            kept.seconds += one.seconds;
        }
        are_one
    });
    let mut columns = Columns::new(arguments);
    columns.each("run_id", "int8", column(&rows, |spent| spent.of.run))?;
    columns.each("piece", "int4", column(&rows, |spent| spent.of.piece))?;
    let seconds = column(&rows, |spent| spent.seconds);
    columns.each("model_seconds", "float8", seconds)?;
    let insert = columns.into_insert_where("warm_spent", IS_OPEN);
    Ok(format!("{insert}\n{OVER}"))
}

/// How many of a run's jobs are through.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Progress {
    pub jobs: i64,
    pub rejected: i64,
    /// Inputs whose scores were known.
    pub hits: i64,
    /// Inputs that the model computed.
    pub misses: i64,
    /// Model time that they took, in seconds.
    pub model_seconds: f64,
    /// Those of them of which nobody said what they took: a worker of a release before computed them.
    pub uncharged: i64,
}

impl Progress {
    /// The same with what nobody said they took taken to be what the others took, or what was expected of them: whichever is more.
    pub fn charged(self, outlay: &Outlay) -> Self {
        let each = |seconds: f64, inputs: i64| {
            let each = seconds / inputs as f64;
            Some(each).filter(|each| inputs > 0 && each.is_finite())
        };
        let took = each(self.model_seconds, self.misses - self.uncharged);
        let expected = each(outlay.posted_seconds, outlay.posted_computes);
        let each = took.into_iter().chain(expected).fold(0.0, f64::max);
        Self {
            model_seconds: self.model_seconds + each * self.uncharged as f64,
            ..self
        }
    }
}

// A job's row lies under warm-<run>-<piece>; '-' comes right before '.'.
const PROGRESS: &str = "\
SELECT count(*), count(*) FILTER (WHERE status = 'rejected'), coalesce(sum(hits), 0), coalesce(sum(misses), 0),
  (SELECT coalesce(sum(model_seconds), 0) FROM warm_spent WHERE run_id = $1),
  coalesce(sum(misses) FILTER (WHERE misses > 0 AND spent.job IS NULL), 0)
FROM jobs LEFT JOIN (SELECT 'warm-' || run_id || '-' || piece AS job FROM warm_spent WHERE run_id = $1) AS spent ON spent.job = job_id
WHERE job_id >= 'warm-' || $1::text || '-' AND job_id < 'warm-' || $1::text || '.'";
const PROGRESS_BY_IDS: &str = "\
SELECT count(*), count(*) FILTER (WHERE status = 'rejected'), coalesce(sum(hits), 0), coalesce(sum(misses), 0),
  (SELECT coalesce(sum(model_seconds), 0) FROM warm_spent WHERE run_id = $1),
  coalesce(sum(misses) FILTER (WHERE misses > 0 AND spent.job IS NULL), 0)
FROM job_ids LEFT JOIN (SELECT 'warm-' || run_id || '-' || piece AS job FROM warm_spent WHERE run_id = $1) AS spent ON spent.job = job_id
WHERE job_id >= 'warm-' || $1::text || '-' AND job_id < 'warm-' || $1::text || '.'";
const SPENT_BY: &str =
    "SELECT piece, model_seconds FROM warm_spent WHERE run_id = $1 AND piece = ANY($2)";
const OUTLAY: &str = "\
SELECT budget_inputs, budget_seconds, pieces, posted, posted_pieces, posted_computes, posted_seconds FROM warm_runs WHERE id = $1 AND token = $2";

/// What a run may spend, and what it has posted so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Outlay {
    /// Inputs that the model may compute; no bound of a run that a release before planned.
    pub inputs: Option<i64>,
    /// Model time, in seconds.
    pub seconds: Option<f64>,
    pub pieces: i64,
    /// Inputs.
    pub posted: i64,
    pub posted_pieces: i64,
    /// Inputs that what was posted was to compute.
    pub posted_computes: i64,
    /// Model time that was expected of it, in seconds.
    pub posted_seconds: f64,
}

impl PostgresStore {
    /// How many of a run's jobs are through, and what they took.
    pub async fn run_progress(&self, run: i64) -> Result<Progress, StoreError> {
        let ask = |tables| async move {
            let statement = match tables {
                Tables::Plain => PROGRESS,
                Tables::Partitioned => PROGRESS_BY_IDS,
            };
            let mut lease = self.lease().await?;
            let query = sqlx::query_as::<_, (i64, i64, i64, i64, f64, i64)>(statement).bind(run);
            let answer = self.deadline(query.fetch_one(&mut *lease)).await;
            self.end(lease, answer).await
        };
        let (jobs, rejected, hits, misses, model_seconds, uncharged) =
            self.for_tables(BTreeSet::new, ask).await?;
        Ok(Progress {
            jobs,
            rejected,
            hits,
            misses,
            model_seconds,
            uncharged,
        })
    }

    /// Model time that these jobs of a run took, in seconds, where they took any.
    pub async fn spent_by<'a>(
        &self,
        run: i64,
        ids: &[&'a str],
    ) -> Result<BTreeMap<&'a str, f64>, StoreError> {
        let piece = |id: &&'a str| Some((RunPiece::of_job(id)?.piece, *id));
        let pieces: Vec<(i32, &'a str)> = ids.iter().filter_map(piece).collect();
        let mut lease = self.lease().await?;
        let query = sqlx::query_as::<_, (i32, f64)>(SPENT_BY)
            .bind(run)
            .bind(column(&pieces, |(piece, _)| *piece));
        let answer = self.deadline(query.fetch_all(&mut *lease)).await;
        let spent: BTreeMap<i32, f64> = self.end(lease, answer).await?.into_iter().collect();
        let of = |(piece, id): (i32, &'a str)| Some((id, *spent.get(&piece)?));
        Ok(pieces.into_iter().filter_map(of).collect())
    }

    /// What a run may spend and has posted; nothing where the claim doesn't hold.
    pub async fn run_outlay(&self, claim: Claim) -> Result<Option<Outlay>, StoreError> {
        let mut lease = self.lease().await?;
        type Row = (Option<i64>, Option<f64>, i64, i64, i64, i64, f64);
        let query = sqlx::query_as::<_, Row>(OUTLAY)
            .bind(claim.id)
            .bind(claim.token);
        let answer = self.deadline(query.fetch_optional(&mut *lease)).await;
        let row = self.end(lease, answer).await?;
        Ok(row.map(
            |(inputs, seconds, pieces, posted, posted_pieces, posted_computes, posted_seconds)| {
                Outlay {
                    inputs,
                    seconds,
                    pieces,
                    posted,
                    posted_pieces,
                    posted_computes,
                    posted_seconds,
                }
            },
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_said_it_took_is_charged_all_the_same() {
        let outlay = Outlay {
            posted_seconds: 1.0,
            posted_computes: 100,
            ..Outlay::default()
        };
        let charged = |misses, uncharged, model_seconds, outlay| {
            let progress = Progress {
                misses,
                uncharged,
                model_seconds,
                ..Progress::default()
            };
            progress.charged(outlay).model_seconds
        };
        assert_eq!(charged(10, 0, 0.5, &outlay), 0.5);
        // Half of them were an older worker's: the others took ten times what was expected.
        assert_eq!(charged(10, 5, 0.5, &outlay), 1.0);
        assert_eq!(charged(10, 10, 0.0, &outlay), 0.1);
        assert_eq!(charged(10, 10, 0.0, &Outlay::default()), 0.0);
    }

    #[test]
    fn a_piece_is_known_by_its_jobs_id() {
        let piece = RunPiece { run: 12, piece: 3 };
        assert_eq!(RunPiece::of_job(&piece.job_id()), Some(piece));
        let named = format!("warm-12-{}", "ff00".repeat(8));
        let piece = RunPiece::of_job(&named).expect("one that follows a table");
        assert_eq!(piece.run, 12);
        assert!(piece.piece < 0, "no number of another run's job");
        let other = format!("warm-12-{}", "fe00".repeat(8));
        assert_ne!(RunPiece::of_job(&other), Some(piece));
        assert_eq!(
            RunPiece::of_job(&format!("warm-12-{}", "x".repeat(32))),
            None
        );
        for other in [
            "warm-12",
            "warm-12-",
            "warm-a-1",
            "warm--1-2",
            "job-12-3",
            "warm-1-2-3",
        ] {
            assert_eq!(RunPiece::of_job(other), None, "{other}");
        }
    }
}
