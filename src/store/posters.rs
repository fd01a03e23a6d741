//! Owns which API keys posted a job, and finding jobs by that.
//!
//! Promises that a key is known for a job only with the body that it posted: whoever posts another body under a job's id sees nothing of the job.

use super::{
    Batch, PostgresStore, StoreError,
    columns::{Columns, column},
};
use sqlx::{error::BoxDynError, postgres::PgArguments};

/// A job's row with a body that a key has posted: `jobs` and the key's name are of the statement around it.
macro_rules! posted_by {
    ($name:literal) => {
        concat!(
            "EXISTS (SELECT FROM job_posters AS poster WHERE poster.posted_by = ",
            $name,
            " AND poster.job_id = jobs.job_id AND poster.body_sha256 = jobs.body_sha256)"
        )
    };
}
pub(super) use posted_by;

/// The tail of every insertion: a job that was rejected may be posted again, and its row is as young as its end.
const AGAIN: &str = "\
ON CONFLICT (posted_by, job_id, body_sha256) DO UPDATE SET posted_at = excluded.posted_at";
const ENDED: &str = concat!(
    "SELECT asked.job_id, asked.posted_by FROM (SELECT job_id, body_sha256 FROM jobs WHERE job_id = ANY($1::text[])) AS jobs \
     JOIN unnest($1::text[], $2::text[]) AS asked (job_id, posted_by) ON asked.job_id = jobs.job_id WHERE asked.posted_by IS NULL OR ",
    posted_by!("asked.posted_by")
);

/// A key that posted a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PosterRow<'a> {
    pub posted_by: &'a str,
    pub job_id: &'a str,
    pub body_sha256: [u8; 32],
}

/// A job, and the key to which it is shown; everybody's to whoever may see all.
pub type AskedJob = (String, Option<String>);

/// The insertion of a batch's posters.
pub(super) fn insert(
    batch: &Batch<'_>,
    arguments: &mut PgArguments,
) -> Result<String, BoxDynError> {
    // In order, as all rows are; and no row twice, which the server refuses.
    let mut rows = batch.posters.clone();
    rows.sort_unstable();
    rows.dedup();
    let mut columns = Columns::new(arguments);
    columns.shared("posted_by", column(&rows, |p| p.posted_by))?;
    columns.each("job_id", "text", column(&rows, |p| p.job_id))?;
    let bodies = column(&rows, |p| p.body_sha256.as_slice());
    columns.each("body_sha256", "bytea", bodies)?;
    columns.one("posted_at", "timestamptz", batch.finished_at)?;
    Ok(format!("{}\n{AGAIN}", columns.into_insert("job_posters")))
}

impl PostgresStore {
    /// Those of these jobs that have ended, each as far as it is shown to whom it is asked for.
    pub async fn ended(&self, asked: &[AskedJob]) -> Result<Vec<AskedJob>, StoreError> {
        let ids: Vec<&str> = asked.iter().map(|(id, _)| id.as_str()).collect();
        let names: Vec<Option<&str>> = asked.iter().map(|(_, by)| by.as_deref()).collect();
        let mut lease = self.lease().await?;
        let query = sqlx::query_as::<_, AskedJob>(ENDED).bind(ids).bind(names);
        let answer = self.deadline(query.fetch_all(&mut *lease)).await;
        self.end(lease, answer).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sqlx::Arguments;

    #[test]
    fn a_poster_is_written_once_whatever_the_batch_says() {
        let row = |posted_by, job_id| PosterRow {
            posted_by,
            job_id,
            body_sha256: [0; 32],
        };
        let batch = Batch {
            posters: vec![row("b", "j"), row("a", "k"), row("b", "j")],
            ..Batch::default()
        };
        let mut arguments = PgArguments::default();
        let text = insert(&batch, &mut arguments).expect("arguments that encode");
        assert!(
            text.starts_with("INSERT INTO job_posters (posted_by, job_id, body_sha256, posted_at)\nSELECT unnest($1"),
            "{text}"
        );
        assert_eq!(arguments.len(), 4);
        assert!(text.ends_with(AGAIN), "{text}");
    }
}
