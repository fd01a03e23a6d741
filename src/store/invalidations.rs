//! Owns the invalidations of namespaces, which all workers on a database share: their marks, and who removes what readers found before.
//!
//! Promises that a stamp is more than every one before it, whatever the clocks say, and that whoever has read the changes up to one has
//! missed none before: the row of the latest of all is locked from each change to its commit.

use super::{PostgresStore, StoreError};

/// A claim on a removal lasts for so long after it was last renewed.
const CLAIM_SECONDS: f64 = 15.0;

/// What is so old that no entry can be older is forgotten: no entry lives for longer than a year and its grace time.
const INVALIDATE: &str = "\
WITH latest AS (
  INSERT INTO invalidations AS latest (namespace, stamp, change)
  VALUES ('', GREATEST((extract(epoch FROM clock_timestamp()) * 1000)::bigint, $2 + 1), 1)
  ON CONFLICT (namespace) DO UPDATE
    SET stamp = GREATEST(excluded.stamp, latest.stamp + 1), change = latest.change + 1, at = now()
  RETURNING stamp, change
), forgotten AS (
  DELETE FROM invalidations WHERE at < now() - interval '3 years' AND namespace NOT IN ('', $1)
)
INSERT INTO invalidations (namespace, stamp, change, removing_until)
SELECT $1, stamp, change, now() + make_interval(secs => $3) FROM latest
ON CONFLICT (namespace) DO UPDATE SET
  stamp = excluded.stamp, change = excluded.change, at = now(), removed_on = NULL, removing_until = excluded.removing_until
RETURNING stamp, pg_notify('kiln', '')";

const ADOPT: &str = "\
WITH latest AS (
  INSERT INTO invalidations AS latest (namespace, stamp, change) VALUES ('', $2, 1)
  ON CONFLICT (namespace) DO UPDATE SET stamp = GREATEST(excluded.stamp, latest.stamp), change = latest.change + 1
  RETURNING change
)
INSERT INTO invalidations AS known (namespace, stamp, change)
SELECT $1, $2, change FROM latest WHERE $1 <> ''
ON CONFLICT (namespace) DO UPDATE SET stamp = excluded.stamp, change = excluded.change, at = now(), removed_on = NULL
WHERE known.stamp < excluded.stamp
RETURNING pg_notify('kiln', '')";

/// The row of the latest of all always comes along: it says how far the changes go.
const SINCE: &str =
    "SELECT namespace, stamp, change FROM invalidations WHERE change > $1 OR namespace = ''";

const CLAIM: &str = "\
UPDATE invalidations AS claimed SET removing_until = now() + make_interval(secs => $2)
FROM (
  SELECT namespace, removed_on FROM invalidations
  WHERE namespace <> '' AND removed_on IS DISTINCT FROM $1 AND (removing_until IS NULL OR removing_until < now())
  ORDER BY stamp DESC LIMIT 1 FOR UPDATE SKIP LOCKED
) AS due
WHERE claimed.namespace = due.namespace
RETURNING claimed.namespace, claimed.stamp, due.removed_on IS NULL";

const RENEWED: &str = "\
UPDATE invalidations SET removing_until = now() + make_interval(secs => $3) WHERE namespace = $1 AND stamp = $2";

const REMOVED: &str = "\
UPDATE invalidations SET removed_on = $3, removing_until = NULL WHERE namespace = $1 AND stamp = $2";

/// A namespace's latest invalidation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidationMark {
    /// Empty: the latest of all.
    pub namespace: String,
    pub stamp: u64,
    /// Its number among all changes.
    pub change: i64,
}

/// A namespace of which what readers found before is to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removable {
    pub namespace: String,
    pub stamp: u64,
    /// Whether it was never removed from any server.
    pub is_first: bool,
}

fn number(stamp: u64) -> i64 {
    i64::try_from(stamp).unwrap_or(i64::MAX)
}

impl PostgresStore {
    /// Invalidates what was scored for a namespace until now, and gives the stamp, which is more than `floor`. The caller has the right to
    /// remove what readers found, for a while.
    pub async fn invalidate(&self, namespace: &str, floor: u64) -> Result<u64, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_scalar::<_, i64>(INVALIDATE)
            .bind(namespace)
            .bind(number(floor))
            .bind(CLAIM_SECONDS);
        let answer = self.deadline(query.fetch_one(&mut *lease)).await;
        self.end(lease, answer).await.map(i64::unsigned_abs)
    }

    /// Takes over a mark that only Redis has, as earlier releases set them; an empty name: the latest of all.
    pub async fn adopt_mark(&self, namespace: &str, stamp: u64) -> Result<(), StoreError> {
        let query = sqlx::query(ADOPT).bind(namespace).bind(number(stamp));
        self.execute(query).await.map(|_| ())
    }

    /// The marks that were set after a change, and the latest of all.
    pub async fn marks_since(&self, change: i64) -> Result<Vec<InvalidationMark>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_as::<_, (String, i64, i64)>(SINCE).bind(change);
        let answer = self.deadline(query.fetch_all(&mut *lease)).await;
        let marks = self.end(lease, answer).await?.into_iter();
        let mark = |(namespace, stamp, change): (String, i64, i64)| InvalidationMark {
            namespace,
            stamp: stamp.unsigned_abs(),
            change,
        };
        Ok(marks.map(mark).collect())
    }

    /// Claims a removal that nobody is at, of what isn't removed from `server` yet: the latest one, which most is left to find of.
    pub async fn claim_removal(&self, server: &str) -> Result<Option<Removable>, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query_as::<_, (String, i64, bool)>(CLAIM)
            .bind(server)
            .bind(CLAIM_SECONDS);
        let answer = self.deadline(query.fetch_optional(&mut *lease)).await;
        let claimed = self.end(lease, answer).await?;
        Ok(claimed.map(|(namespace, stamp, is_first)| Removable {
            namespace,
            stamp: stamp.unsigned_abs(),
            is_first,
        }))
    }

    /// Goes on holding a claim.
    pub async fn renew_removal(&self, one: &Removable) -> Result<(), StoreError> {
        let query = sqlx::query(RENEWED)
            .bind(&one.namespace)
            .bind(number(one.stamp))
            .bind(CLAIM_SECONDS);
        self.execute(query).await.map(|_| ())
    }

    /// Notes that what readers found is removed from `server`.
    pub async fn note_removed(&self, one: &Removable, server: &str) -> Result<(), StoreError> {
        let query = sqlx::query(REMOVED)
            .bind(&one.namespace)
            .bind(number(one.stamp))
            .bind(server);
        self.execute(query).await.map(|_| ())
    }
}
