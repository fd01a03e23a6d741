//! Owns listing jobs: the latest first, or in the order of their ids under a prefix, filtered, a page at a time.
//!
//! Promises that one page reads no more than [`MAX_LOOKED`] rows and no statement of it runs longer than [`LIMIT`], whatever the filters leave out
//! and however many rows there are: a page says how far it has looked. Refuses to count what there is in all.

use super::{PostgresStore, StoreError};
use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, FromRow, Postgres, Row, postgres::PgArguments, postgres::PgRow};
use std::time::{Duration, Instant};

/// Rows that one page looks at, at the most.
pub const MAX_LOOKED: u64 = 200_000;
/// Longest time for one statement of a page; a page stops to look further after half of it.
const LIMIT: Duration = Duration::from_secs(2);
/// Rows of the first statement of a page with filters, and of any.
const FIRST_LOOK: u64 = 1_000;
const LONGEST_LOOK: u64 = 16_000;

/// The indexes are there, whatever the server thinks of how many rows there are: of each way but theirs it would have to read them all. Rows of
/// partitions are looked up one by one.
const BY_INDEX: &str = "\
SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off";
const COLUMNS: &str = "\
job_id, status, model, version, namespace, hits, misses, error->>'code' AS code, elapsed_ms, finished_at, AT AS listed_at";
/// The jobs that a key has posted, in the order of its own indexes: it reads no others' rows.
const OWN: &str = "\
(SELECT poster.job_id, poster.posted_at, one.status, one.model, one.version, one.namespace, one.hits, one.misses, one.error, one.elapsed_ms, one.finished_at
FROM job_posters AS poster JOIN jobs AS one ON one.job_id = poster.job_id AND one.body_sha256 = poster.body_sha256
WHERE poster.posted_by = $11) AS jobs";
const LATEST: &str = "listed_at DESC, job_id DESC";
const BY_TIME: &str = "(AT, job_id) >= ($1, '') AND (AT, job_id) < ($2, $3)";
const OF_REJECTED: &str =
    "(AT, job_id) >= ($1, '') AND (AT, job_id) < ($2, $3) AND status = 'rejected'";
/// Some rows of the list, and of these what the filters want, with how many were looked at and which was the last.
const LOOK: &str = "\
WITH looked AS MATERIALIZED (SELECT COLUMNS FROM SOURCE WHERE RANGE ORDER BY ORDER LIMIT LOOKED),
last AS (
  SELECT counted.looked, one.listed_at AS last_at, one.job_id AS last_id FROM (SELECT count(*) AS looked FROM looked) AS counted
  LEFT JOIN (SELECT listed_at, job_id FROM looked ORDER BY BACKWARDS LIMIT 1) AS one ON true
),
wanted AS (
  SELECT * FROM looked WHERE ($4::text IS NULL OR model = $4) AND ($5::text IS NULL OR version = $5) AND ($6::text IS NULL OR namespace = $6)
  AND ($7::text IS NULL OR status = $7) AND ($8::text IS NULL OR code = $8)
  AND ($9::timestamptz IS NULL OR finished_at >= $9) AND ($10::timestamptz IS NULL OR finished_at < $10)
  ORDER BY ORDER LIMIT WANTED
)
SELECT last.*, wanted.* FROM last LEFT JOIN wanted ON true ORDER BY wanted.ORDER";

/// Which jobs are wanted; without any of it, all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// The key that posted them.
    pub posted_by: Option<String>,
    /// How their ids begin. The list is in the order of ids then.
    pub id_prefix: Option<String>,
    pub model: Option<String>,
    pub version: Option<String>,
    pub namespace: Option<String>,
    /// Whether they were rejected, or ended well.
    pub rejected: Option<bool>,
    /// Why they were rejected.
    pub code: Option<String>,
    /// Ended then or later.
    pub from: Option<DateTime<Utc>>,
    /// Ended before that.
    pub to: Option<DateTime<Utc>>,
}

/// A job in a list.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedJob {
    pub job_id: String,
    /// `ok` or `rejected`.
    pub status: String,
    pub model: Option<String>,
    pub version: Option<String>,
    pub namespace: Option<String>,
    /// Why it was rejected.
    pub code: Option<String>,
    pub hits: u32,
    pub misses: u32,
    pub elapsed_ms: Option<f64>,
    pub finished_at: DateTime<Utc>,
    /// Where it stands in the list: when it ended, or when the key that posted it last heard of that.
    pub listed_at: DateTime<Utc>,
}

/// The row to which a list has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobMark {
    pub finished_at: DateTime<Utc>,
    pub job_id: String,
}

/// A part of a list.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobPage {
    pub jobs: Vec<ListedJob>,
    /// Where it goes on; nothing at the end.
    pub next: Option<JobMark>,
    /// Rows that were read for it.
    pub looked_at: u64,
}

/// One look into the list.
struct Look {
    looked: u64,
    last: Option<JobMark>,
    jobs: Vec<ListedJob>,
}

impl JobFilter {
    /// Whether rows may be left out that the list's order has.
    fn leaves_out(&self) -> bool {
        let until = self.to.is_some() && (self.id_prefix.is_some() || self.posted_by.is_some());
        let ranges = until || (self.id_prefix.is_some() && self.from.is_some());
        let one = self.model.is_some() || self.version.is_some() || self.namespace.is_some();
        one || self.rejected.is_some() || self.code.is_some() || ranges
    }

    /// The statement for so many rows to look at and to give. Its text is made of this file's own constants and of numbers.
    fn statement(&self, looked: u64, wanted: usize) -> String {
        // A key's own jobs have no index by status: so many at a time are looked through.
        let is_of_rejected = self.is_of_rejected() && self.posted_by.is_none();
        let (range, order, backwards) = match (&self.id_prefix, is_of_rejected) {
            (Some(_), _) => (
                "job_id >= $1 AND job_id < $2 AND job_id > $3",
                "job_id",
                "job_id DESC",
            ),
            (None, true) => (OF_REJECTED, LATEST, "listed_at, job_id"),
            (None, false) => (BY_TIME, LATEST, "listed_at, job_id"),
        };
        let (source, at) = match self.posted_by.is_some() {
            true => (OWN, "posted_at"),
            false => ("jobs", "finished_at"),
        };
        // Qualified once more at the end, where both parts have names.
        let last = order.replace(", ", ", wanted.");
        LOOK.replace("wanted.ORDER", &format!("wanted.{last}"))
            .replace("COLUMNS", COLUMNS)
            .replace("SOURCE", source)
            .replace("RANGE", range)
            .replace("AT AS", &format!("{at} AS"))
            .replace("(AT,", &format!("({at},"))
            .replace("BACKWARDS", backwards)
            .replace("ORDER BY ORDER", &format!("ORDER BY {order}"))
            .replace("LOOKED", &looked.to_string())
            .replace("WANTED", &wanted.to_string())
    }

    fn is_of_rejected(&self) -> bool {
        self.rejected == Some(true) || self.code.is_some()
    }

    /// The statement with its arguments, after a mark.
    fn query<'q>(
        &'q self,
        after: Option<&'q JobMark>,
        text: String,
    ) -> sqlx::query::Query<'q, Postgres, PgArguments> {
        let query = sqlx::query(AssertSqlSafe(text));
        let query = match &self.id_prefix {
            Some(prefix) => query
                .bind(prefix)
                .bind(end_of(prefix))
                .bind(after.map_or("", |mark| mark.job_id.as_str())),
            None => {
                // A key's own list is by when it heard of a job last, which is later than its end.
                let to = self.to.filter(|_| self.posted_by.is_none());
                let to = to.unwrap_or_else(far);
                let from = self.from.unwrap_or(DateTime::UNIX_EPOCH);
                match after {
                    Some(mark) => query.bind(from).bind(mark.finished_at.min(to)).bind(
                        if mark.finished_at < to {
                            mark.job_id.as_str()
                        } else {
                            ""
                        },
                    ),
                    None => query.bind(from).bind(to).bind(""),
                }
            }
        };
        let own = self.posted_by.as_deref();
        let status = self.rejected.map(|is| if is { "rejected" } else { "ok" });
        let query = query
            .bind(self.model.as_deref())
            .bind(self.version.as_deref())
            .bind(self.namespace.as_deref())
            .bind(status)
            .bind(self.code.as_deref())
            .bind(self.from)
            .bind(self.to);
        let query = match own {
            Some(own) => query.bind(own),
            None => query,
        };
        query
            // Planned for these values each time: of a plan for any, the server knows neither the range nor how few rows are wanted.
            .persistent(false)
    }
}

/// Later than any job.
fn far() -> DateTime<Utc> {
    DateTime::from_timestamp(253_402_300_799, 0).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// What comes after all ids with that prefix: ids are printable ASCII.
fn end_of(prefix: &str) -> String {
    let mut end = prefix.to_owned();
    let after = end.pop().and_then(|last| char::from_u32(last as u32 + 1));
    end.push(after.unwrap_or(char::MAX));
    end
}

impl PostgresStore {
    /// Jobs after a mark, `limit` at the most. A page with fewer, or none, may still have a next one: then it has looked at as many rows as it may, or
    /// for as long.
    pub async fn list_jobs(
        &self,
        filter: &JobFilter,
        after: Option<JobMark>,
        limit: usize,
    ) -> Result<JobPage, StoreError> {
        let begun = Instant::now();
        let mut page = JobPage {
            next: after,
            ..JobPage::default()
        };
        let mut rows = match filter.leaves_out() {
            true => FIRST_LOOK.max(limit as u64),
            // One more, so that the last page is known for it.
            false => limit as u64 + 1,
        };
        loop {
            let wanted = limit - page.jobs.len();
            let look = self.look(filter, page.next.as_ref(), rows, wanted).await;
            let look = match look {
                Ok(look) => look,
                // What was looked at is as good as it is.
                Err(StoreError::TimedOut(_)) if page.looked_at > 0 => return Ok(page),
                Err(error) => return Err(error),
            };
            page.looked_at += look.looked;
            let is_full = look.jobs.len() == wanted;
            let last_given = look.jobs.last().map(|job| JobMark {
                finished_at: job.listed_at,
                job_id: job.job_id.clone(),
            });
            page.jobs.extend(look.jobs);
            let is_end = look.looked < rows;
            if is_full && last_given != look.last {
                // There are rows after it that were looked at already.
                page.next = last_given;
                return Ok(page);
            }
            page.next = look.last.filter(|_| !is_end);
            let is_enough = page.looked_at >= MAX_LOOKED || begun.elapsed() > LIMIT / 2;
            if is_end || is_full || is_enough {
                return Ok(page);
            }
            rows = (rows * 4).min(LONGEST_LOOK);
        }
    }

    async fn look(
        &self,
        filter: &JobFilter,
        after: Option<&JobMark>,
        rows: u64,
        wanted: usize,
    ) -> Result<Look, StoreError> {
        let text = filter.statement(rows, wanted);
        let mut lease = self.transaction().await?;
        let limits = format!(
            "SET LOCAL statement_timeout = {}; {BY_INDEX}",
            LIMIT.as_millis()
        );
        let asked = async {
            sqlx::raw_sql(AssertSqlSafe(limits))
                .execute(&mut *lease)
                .await?;
            filter.query(after, text).fetch_all(&mut *lease).await
        };
        let answer = self.deadline(asked).await;
        let rows = self.end(lease, answer).await?;
        read(&rows).map_err(|e| self.classify(e))
    }
}

fn read(rows: &[PgRow]) -> Result<Look, sqlx::Error> {
    let mut look = Look {
        looked: 0,
        last: None,
        jobs: Vec::with_capacity(rows.len()),
    };
    for row in rows {
        look.looked = row.try_get::<i64, _>("looked")?.unsigned_abs();
        let last = (row.try_get("last_at")?, row.try_get("last_id")?);
        if let (Some(finished_at), Some(job_id)) = last {
            look.last = Some(JobMark {
                finished_at,
                job_id,
            });
        }
        if row.try_get::<Option<String>, _>("job_id")?.is_some() {
            look.jobs.push(ListedJob::from_row(row)?);
        }
    }
    Ok(look)
}

impl FromRow<'_, PgRow> for ListedJob {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let count = |name: &str| row.try_get::<i32, _>(name).map(i32::unsigned_abs);
        Ok(Self {
            job_id: row.try_get("job_id")?,
            status: row.try_get("status")?,
            model: row.try_get("model")?,
            version: row.try_get("version")?,
            namespace: row.try_get("namespace")?,
            code: row.try_get("code")?,
            hits: count("hits")?,
            misses: count("misses")?,
            elapsed_ms: row.try_get("elapsed_ms")?,
            finished_at: row.try_get("finished_at")?,
            listed_at: row.try_get("listed_at")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_what_does_not_begin_with_it() {
        assert!("job-~~~" < end_of("job-").as_str() && "job." >= end_of("job-").as_str());
        assert!("~~~" < end_of("~").as_str() && "z" < end_of("~").as_str());
    }

    #[test]
    fn rejected_jobs_have_an_index_of_their_own_and_ids_theirs() {
        let by_code = JobFilter {
            code: Some("invalid".into()),
            ..JobFilter::default()
        };
        let text = by_code.statement(10, 5);
        assert!(
            text.contains("AND status = 'rejected' ORDER BY listed_at DESC, job_id DESC LIMIT 10"),
            "{text}"
        );
        assert!(
            text.ends_with("ORDER BY wanted.listed_at DESC, wanted.job_id DESC"),
            "{text}"
        );
        let by_id = JobFilter {
            id_prefix: Some("a".into()),
            ..by_code
        };
        let text = by_id.statement(10, 5);
        assert!(
            text.contains("job_id > $3 ORDER BY job_id LIMIT 10"),
            "{text}"
        );
        assert!(!text.contains("= 'rejected'"), "{text}");
    }

    #[test]
    fn a_key_s_own_jobs_are_read_by_what_is_known_of_its_own() {
        let own = JobFilter {
            posted_by: Some("shop".into()),
            ..JobFilter::default()
        };
        let text = own.statement(10, 5);
        let range = "(posted_at, job_id) < ($2, $3) ORDER BY listed_at DESC, job_id DESC LIMIT 10";
        assert!(text.contains(range), "{text}");
        assert!(text.contains("posted_at AS listed_at FROM (SELECT poster.job_id"));
        assert!(text.contains("poster.posted_by = $11"), "{text}");
        let all = JobFilter::default().statement(10, 5);
        assert!(!all.contains("$11") && all.contains("finished_at AS listed_at FROM jobs WHERE"));
        assert!(!text.contains("AT,") && !all.contains("SOURCE"), "{all}");
    }

    #[test]
    fn only_filters_beside_the_order_leave_rows_out() {
        let from = JobFilter {
            from: Some(DateTime::UNIX_EPOCH),
            ..JobFilter::default()
        };
        assert!(!from.leaves_out() && !JobFilter::default().leaves_out());
        let within = JobFilter {
            id_prefix: Some("a".into()),
            ..from
        };
        assert!(within.leaves_out());
    }
}
