//! What is spent between two runs of a schedule on what probably is asked for next.
//!
//! Promises that all workers together spend no more than one budget from one due time to the next, and that the next run knows of it, however often
//! it is planned.

use crate::store::{PostgresStore, StoreError};

/// The latest run of a schedule, before one if that is given.
const LATEST: &str = "\
coalesce((SELECT id FROM warm_runs WHERE schedule = $1 AND ($2::int8 IS NULL OR due_at < (SELECT due_at FROM warm_runs WHERE id = $2)) \
ORDER BY due_at DESC LIMIT 1), 0)";
const SPEND: &str = "\
INSERT INTO warm_ahead (schedule, after_run, inputs, model_seconds, renewals) SELECT $1, LATEST, $3, $4, $5
ON CONFLICT (schedule, after_run) DO UPDATE SET inputs = warm_ahead.inputs + excluded.inputs,
  model_seconds = warm_ahead.model_seconds + excluded.model_seconds, renewals = warm_ahead.renewals + excluded.renewals
WHERE warm_ahead.inputs + excluded.inputs <= $6 AND warm_ahead.renewals + excluded.renewals <= $8
  AND ($7::float8 IS NULL OR warm_ahead.model_seconds + excluded.model_seconds <= $7)
RETURNING true";
const SPENT: &str = "\
SELECT inputs, model_seconds, renewals FROM warm_ahead WHERE schedule = $1 AND after_run = LATEST";
/// A run may be due before one that was claimed earlier: what a few of the latest have is kept.
const DROP: &str = "\
DELETE FROM warm_ahead WHERE schedule = $1 AND after_run <> LATEST AND after_run NOT IN (
  SELECT id FROM warm_runs WHERE schedule = $1 ORDER BY due_at DESC LIMIT 8)";

/// What may be spent from one run to the next, or was.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SpentAhead {
    /// Inputs that a model computes.
    pub inputs: i64,
    /// What these are expected to take, in seconds.
    pub model_seconds: f64,
    /// Inputs whose known scores are renewed.
    pub renewals: i64,
}

impl PostgresStore {
    /// What was spent since the latest run of a schedule; with `run`, between the one before that and itself. What was spent before is forgotten.
    pub async fn spent_ahead(
        &self,
        schedule: &str,
        run: Option<i64>,
    ) -> Result<SpentAhead, StoreError> {
        let mut lease = self.lease().await?;
        let text = SPENT.replace("LATEST", LATEST);
        // The text is made of constants alone.
        let query = sqlx::query_as::<_, (i64, f64, i64)>(sqlx::AssertSqlSafe(text))
            .bind(schedule)
            .bind(run);
        let answer = self.deadline(query.fetch_optional(&mut *lease)).await;
        let spent = self.end(lease, answer).await?;
        if run.is_some() {
            let text = DROP.replace("LATEST", LATEST);
            let query = sqlx::query(sqlx::AssertSqlSafe(text));
            self.execute(query.bind(schedule).bind(run)).await?;
        }
        let spent = spent.map(|(inputs, model_seconds, renewals)| SpentAhead {
            inputs,
            model_seconds,
            renewals,
        });
        Ok(spent.unwrap_or_default())
    }

    /// Spends so much, unless that is more than is left of `budget` until the next run; seconds that are infinite don't bound it. Says whether it is spent.
    pub async fn spend_ahead(
        &self,
        schedule: &str,
        spends: SpentAhead,
        budget: SpentAhead,
    ) -> Result<bool, StoreError> {
        let seconds = Some(budget.model_seconds).filter(|seconds| seconds.is_finite());
        let is_too_much = spends.inputs > budget.inputs
            || spends.renewals > budget.renewals
            || spends.model_seconds > budget.model_seconds;
        if is_too_much {
            return Ok(false);
        }
        let mut lease = self.lease().await?;
        let text = SPEND.replace("LATEST", LATEST);
        let query = sqlx::query_scalar::<_, bool>(sqlx::AssertSqlSafe(text))
            .bind(schedule)
            .bind(None::<i64>)
            .bind(spends.inputs)
            .bind(spends.model_seconds)
            .bind(spends.renewals)
            .bind(budget.inputs)
            .bind(seconds)
            .bind(budget.renewals);
        let answer = self.deadline(query.fetch_optional(&mut *lease)).await;
        Ok(self.end(lease, answer).await?.is_some())
    }
}
