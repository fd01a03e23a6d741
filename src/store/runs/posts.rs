//! The jobs of a planned run that aren't posted yet: an outbox, so that a run which is taken over posts the same jobs.

use super::Claim;
use crate::store::{PostgresStore, StoreError};
use sqlx::{FromRow, Row, postgres::PgRow};

const CLEAR_POSTS: &str = "\
DELETE FROM warm_posts WHERE run_id = (SELECT id FROM warm_runs WHERE id = $1 AND token = $2 AND state = 'planning' FOR UPDATE)";
const ADD_POSTS: &str = "\
WITH held AS MATERIALIZED (SELECT id FROM warm_runs WHERE id = $1 AND token = $2 AND state = 'planning' FOR UPDATE)
INSERT INTO warm_posts (run_id, piece, inputs, body) SELECT id, unnest($3::int[]), unnest($4::int[]), unnest($5::bytea[]) FROM held";
const PLANNED: &str = "\
UPDATE warm_runs SET state = 'posting', planned = $3, skipped = $4, bad = $5, pieces = $6, model_seconds = $7, saved_seconds = $8, message = $9
WHERE id = $1 AND token = $2 AND state = 'planning'";
const NEXT_POSTS: &str =
    "SELECT piece, body FROM warm_posts WHERE run_id = $1 ORDER BY piece LIMIT $2";
const POSTED: &str = "\
WITH gone AS (
  DELETE FROM warm_posts WHERE run_id = (SELECT id FROM warm_runs WHERE id = $1 AND token = $2 AND state = 'posting' FOR UPDATE) AND piece = ANY($3)
  RETURNING inputs)
UPDATE warm_runs SET posted = posted + (SELECT coalesce(sum(inputs), 0) FROM gone) WHERE id = $1 AND token = $2 AND state = 'posting'";
const ALL_POSTED: &str =
    "UPDATE warm_runs SET state = 'waiting' WHERE id = $1 AND token = $2 AND state = 'posting'";

/// A job of a run that isn't posted yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Post {
    pub piece: i32,
    pub body: Vec<u8>,
}

impl FromRow<'_, PgRow> for Post {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            piece: row.try_get("piece")?,
            body: row.try_get("body")?,
        })
    }
}

/// What a run's plan came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PlanTotals {
    pub planned: i64,
    pub skipped: i64,
    pub bad: i64,
    pub pieces: i64,
    pub model_seconds: f64,
    pub saved_seconds: Option<f64>,
    pub message: Option<String>,
}

impl PostgresStore {
    /// Forgets what an interrupted planning wrote.
    pub async fn clear_posts(&self, claim: Claim) -> Result<(), StoreError> {
        self.execute(sqlx::query(CLEAR_POSTS).bind(claim.id).bind(claim.token))
            .await?;
        Ok(())
    }

    /// Adds jobs to post: their pieces' numbers, how many inputs each has, and their bodies. Says whether the claim holds.
    pub async fn add_posts(
        &self,
        claim: Claim,
        pieces: &[i32],
        inputs: &[i32],
        bodies: &[&[u8]],
    ) -> Result<bool, StoreError> {
        let query = sqlx::query(ADD_POSTS)
            .bind(claim.id)
            .bind(claim.token)
            .bind(pieces)
            .bind(inputs)
            .bind(bodies);
        Ok(self.execute(query).await? == pieces.len() as u64)
    }

    /// Ends planning. Says whether the claim holds.
    pub async fn plan_run(&self, claim: Claim, totals: &PlanTotals) -> Result<bool, StoreError> {
        let query = sqlx::query(PLANNED)
            .bind(claim.id)
            .bind(claim.token)
            .bind(totals.planned)
            .bind(totals.skipped)
            .bind(totals.bad)
            .bind(totals.pieces)
            .bind(totals.model_seconds)
            .bind(totals.saved_seconds)
            .bind(totals.message.as_deref());
        Ok(self.execute(query).await? > 0)
    }

    /// The next jobs of a run to post.
    pub async fn next_posts(&self, run: i64, max: i64) -> Result<Vec<Post>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_as(NEXT_POSTS).bind(run).bind(max);
        let answer = self.deadline(query.fetch_all(&mut *lease)).await;
        self.end(lease, answer).await
    }

    /// Notes jobs as posted. Says whether the claim holds.
    pub async fn note_posted(&self, claim: Claim, pieces: &[i32]) -> Result<bool, StoreError> {
        let query = sqlx::query(POSTED)
            .bind(claim.id)
            .bind(claim.token)
            .bind(pieces);
        Ok(self.execute(query).await? > 0)
    }

    /// Ends posting. Says whether the claim holds.
    pub async fn all_posted(&self, claim: Claim) -> Result<bool, StoreError> {
        let query = sqlx::query(ALL_POSTED).bind(claim.id).bind(claim.token);
        Ok(self.execute(query).await? > 0)
    }
}
