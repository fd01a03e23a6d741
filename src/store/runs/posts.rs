//! The jobs of a planned run that aren't posted yet: an outbox, so that a run which is taken over posts the same jobs.

use super::Claim;
use crate::store::{PostgresStore, StoreError, columns::column};
use sqlx::{FromRow, Row, postgres::PgRow};

const CLEAR_POSTS: &str = "\
DELETE FROM warm_posts WHERE run_id = (SELECT id FROM warm_runs WHERE id = $1 AND token = $2 AND state = 'planning' FOR UPDATE)";
const ADD_POSTS: &str = "\
WITH held AS MATERIALIZED (SELECT id FROM warm_runs WHERE id = $1 AND token = $2 AND state = 'planning' FOR UPDATE)
INSERT INTO warm_posts (run_id, piece, inputs, body, computes, model_seconds, full_seconds)
SELECT id, unnest($3::int[]), unnest($4::int[]), unnest($5::bytea[]), unnest($6::int[]), unnest($7::float8[]), unnest($8::float8[]) FROM held";
const PLANNED: &str = "\
UPDATE warm_runs SET state = 'posting', planned = $3, skipped = $4, bad = $5, pieces = $6, model_seconds = $7, saved_seconds = $8, message = $9,
  computes = $10, left_over = $11, budget_inputs = $12, budget_seconds = $13, kept_bytes = $14, evicted_keys = $15,
  wanted_bytes = $16, kept_until = now() + make_interval(secs => $17)
WHERE id = $1 AND token = $2 AND state = 'planning'";
/// Of a body only its length is read.
const NEXT_POSTS: &str = "\
SELECT piece, inputs, computes, model_seconds, full_seconds, octet_length(body) AS bytes FROM warm_posts
WHERE run_id = $1 AND sent = $3 ORDER BY piece LIMIT $2";
const BODIES: &str =
    "SELECT body FROM warm_posts WHERE run_id = $1 AND piece = ANY($2) ORDER BY piece";
const SEND: &str = "\
UPDATE warm_posts SET sent = true
WHERE run_id = (SELECT id FROM warm_runs WHERE id = $1 AND token = $2 AND state = 'posting' FOR UPDATE) AND piece = ANY($3)";
const POSTED: &str = "\
WITH gone AS (
  DELETE FROM warm_posts WHERE run_id = (SELECT id FROM warm_runs WHERE id = $1 AND token = $2 AND state = 'posting' FOR UPDATE) AND piece = ANY($3)
  RETURNING inputs, computes, model_seconds)
UPDATE warm_runs SET posted = posted + gone.inputs, posted_pieces = posted_pieces + gone.pieces, posted_computes = posted_computes + gone.computes,
  posted_seconds = posted_seconds + gone.seconds
FROM (SELECT coalesce(sum(inputs), 0) AS inputs, count(*) AS pieces, coalesce(sum(computes), 0) AS computes, coalesce(sum(model_seconds), 0) AS seconds
  FROM gone) AS gone WHERE id = $1 AND token = $2 AND state = 'posting'";
const ALL_POSTED: &str =
    "UPDATE warm_runs SET state = 'waiting' WHERE id = $1 AND token = $2 AND state = 'posting'";
/// What a run leaves unposted is no part of it any more. What was sent is.
const LEAVE_REST: &str = "\
WITH gone AS (
  DELETE FROM warm_posts WHERE run_id = (SELECT id FROM warm_runs WHERE id = $1 AND token = $2 AND state = 'posting' FOR UPDATE)
    AND NOT sent RETURNING inputs)
UPDATE warm_runs SET pieces = pieces - rest.jobs, left_over = left_over + rest.inputs, message = concat_ws('; ', message, $3::text)
FROM (SELECT coalesce(sum(inputs), 0) AS inputs, count(*) AS jobs FROM gone) AS rest WHERE id = $1 AND token = $2 AND state = 'posting'
RETURNING rest.inputs";

/// A job of a run that isn't posted yet.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Post {
    pub piece: i32,
    pub inputs: i32,
    /// Those of them that the model is to compute.
    pub computes: i32,
    /// Model time that this is expected to take, in seconds.
    pub model_seconds: f64,
    /// The same if all of its inputs have to be computed; 0 of a run that a release before planned.
    pub full_seconds: f64,
    /// Length of its body.
    pub bytes: i32,
}

/// A job to post, which gets its number from its place in the plan.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NewPost {
    pub inputs: i32,
    /// Those of them that the model is to compute.
    pub computes: i32,
    /// Model time that this is expected to take, in seconds.
    pub model_seconds: f64,
    /// The same if all of its inputs have to be computed.
    pub full_seconds: f64,
    pub body: Vec<u8>,
}

impl FromRow<'_, PgRow> for Post {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            piece: row.try_get("piece")?,
            inputs: row.try_get("inputs")?,
            computes: row.try_get("computes")?,
            model_seconds: row.try_get("model_seconds")?,
            full_seconds: row.try_get("full_seconds")?,
            bytes: row.try_get("bytes")?,
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
    /// Those of the planned inputs that the model is to compute.
    pub computes: i64,
    /// Inputs that a budget or the memory left no room for.
    pub left_over: i64,
    /// Inputs that the model may compute.
    pub budget_inputs: i64,
    /// Model time that its jobs may take, in seconds.
    pub budget_seconds: Option<f64>,
    /// About what its entries fill of Redis, in bytes.
    pub kept_bytes: i64,
    /// The same if there were room for all that it considered.
    pub wanted_bytes: i64,
    /// How long they live, with their grace, in seconds.
    pub kept_seconds: f64,
    /// What Redis has evicted so far, where it says so.
    pub evicted_keys: Option<i64>,
}

impl PostgresStore {
    /// Forgets what an interrupted planning wrote.
    pub async fn clear_posts(&self, claim: Claim) -> Result<(), StoreError> {
        self.execute(sqlx::query(CLEAR_POSTS).bind(claim.id).bind(claim.token))
            .await?;
        Ok(())
    }

    /// Adds jobs to post, the first of which is number `first`. Says whether the claim holds.
    pub async fn add_posts(
        &self,
        claim: Claim,
        first: i32,
        posts: &[NewPost],
    ) -> Result<bool, StoreError> {
        let numbers: Vec<i32> = (first..).take(posts.len()).collect();
        let bodies: Vec<&[u8]> = posts.iter().map(|post| post.body.as_slice()).collect();
        let query = sqlx::query(ADD_POSTS)
            .bind(claim.id)
            .bind(claim.token)
            .bind(numbers)
            .bind(column(posts, |post| post.inputs))
            .bind(bodies)
            .bind(column(posts, |post| post.computes))
            .bind(column(posts, |post| post.model_seconds))
            .bind(column(posts, |post| post.full_seconds));
        Ok(self.execute(query).await? == posts.len() as u64)
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
            .bind(totals.message.as_deref())
            .bind(totals.computes)
            .bind(totals.left_over)
            .bind(totals.budget_inputs)
            .bind(totals.budget_seconds)
            .bind(totals.kept_bytes)
            .bind(totals.evicted_keys)
            .bind(totals.wanted_bytes)
            .bind(totals.kept_seconds);
        Ok(self.execute(query).await? > 0)
    }

    /// The next jobs of a run to post: of those that were sent already and aren't noted as posted, or of the others.
    pub async fn next_posts(
        &self,
        run: i64,
        max: i64,
        are_sent: bool,
    ) -> Result<Vec<Post>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_as(NEXT_POSTS)
            .bind(run)
            .bind(max)
            .bind(are_sent);
        let answer = self.deadline(query.fetch_all(&mut *lease)).await;
        self.end(lease, answer).await
    }

    /// The bodies of jobs of a run, which aren't noted as posted, in the order of their numbers.
    pub async fn post_bodies(&self, run: i64, pieces: &[i32]) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_scalar(BODIES).bind(run).bind(pieces);
        let answer = self.deadline(query.fetch_all(&mut *lease)).await;
        self.end(lease, answer).await
    }

    /// Notes jobs as sent, before they are: from now on they are the run's, whatever becomes of this worker. Says whether the claim holds.
    pub async fn note_sent(&self, claim: Claim, pieces: &[i32]) -> Result<bool, StoreError> {
        let query = sqlx::query(SEND)
            .bind(claim.id)
            .bind(claim.token)
            .bind(pieces);
        Ok(self.execute(query).await? == pieces.len() as u64)
    }

    /// Notes jobs as posted. Says whether the claim holds.
    pub async fn note_posted(&self, claim: Claim, pieces: &[i32]) -> Result<bool, StoreError> {
        let query = sqlx::query(POSTED)
            .bind(claim.id)
            .bind(claim.token)
            .bind(pieces);
        Ok(self.execute(query).await? > 0)
    }

    /// Leaves the rest of a run unposted, for a reason. Says how many inputs that is; nothing where the claim doesn't hold.
    pub async fn leave_rest(&self, claim: Claim, why: &str) -> Result<Option<i64>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_scalar(LEAVE_REST)
            .bind(claim.id)
            .bind(claim.token)
            .bind(why);
        let answer = self.deadline(query.fetch_optional(&mut *lease)).await;
        self.end(lease, answer).await
    }

    /// Ends posting. Says whether the claim holds.
    pub async fn all_posted(&self, claim: Claim) -> Result<bool, StoreError> {
        let query = sqlx::query(ALL_POSTED).bind(claim.id).bind(claim.token);
        Ok(self.execute(query).await? > 0)
    }
}
