//! Owns what readers were served under a name: a row whenever that changed.
//!
//! Promises that a batch's rows are written by the statement that writes its jobs, only for jobs that are new, and only where a name's
//! latest row is older news and says something else, or has left the cache. Rows are only added, so that no two writers wait for each other.

pub(super) mod alone;
mod said;

use super::{
    Batch, PostgresStore, StoreError,
    columns::{Columns, column},
};
use crate::redact::Redact;
use chrono::{DateTime, Utc};
use kiln_contract::order::{Kind, Order};
use sqlx::{
    AssertSqlSafe, Row,
    error::BoxDynError,
    postgres::{PgArguments, PgRow},
};

/// How new a word is: a producer's sequence, or a moment, and when a worker first accepted its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WordOrder {
    /// `s`: a sequence; `t`: a moment in microseconds.
    pub kind: char,
    pub value: i64,
    /// Microseconds since 1970.
    pub accepted_us: i64,
}

impl From<Order> for WordOrder {
    fn from(order: Order) -> Self {
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        Self {
            kind: match order.kind() {
                Kind::Sequence => 's',
                Kind::Moment => 't',
            },
            value: whole(order.value()),
            accepted_us: whole(order.accepted().micros()),
        }
    }
}

impl WordOrder {
    /// Whether it says nothing but when its job was accepted.
    fn is_plain(self) -> bool {
        self.kind == 't' && self.value == self.accepted_us
    }

    /// Whether a word of this order replaces one of the other.
    fn is_newer_than(self, other: Self) -> bool {
        if self.kind == other.kind && !self.is_plain() && !other.is_plain() {
            (self.value, self.accepted_us) > (other.value, other.accepted_us)
        } else {
            self.accepted_us > other.accepted_us
        }
    }
}

/// What readers are to be served under a name.
#[derive(Debug, Clone, Copy)]
pub struct ServedRow<'a> {
    pub namespace: &'a str,
    pub key: &'a str,
    pub job_id: &'a str,
    pub model: &'a str,
    pub version: &'a str,
    /// The input's hash; of a ranking, that of its items.
    pub input: Option<&'a [u8]>,
    pub label: Option<&'a str>,
    pub score: Option<f32>,
    /// A ranking's items as JSON, and the hashes of their inputs.
    pub items: Option<&'a str>,
    pub inputs: Option<&'a [u8]>,
    pub is_removed: bool,
    pub order: WordOrder,
}

/// What readers were served under a name, once.
#[derive(Debug, Clone, PartialEq)]
pub struct ServedPast {
    pub from: DateTime<Utc>,
    pub job_id: String,
    pub model: String,
    pub version: String,
    pub input: Option<Vec<u8>>,
    pub label: Option<String>,
    pub score: Option<f32>,
    /// A ranking's items as JSON.
    pub items: Option<String>,
    /// The hashes of a ranking's inputs, one after the other.
    pub inputs: Option<Vec<u8>>,
    pub is_removed: bool,
    pub order: WordOrder,
}

impl ServedPast {
    /// Whether it only says that what stood before had left the cache: the next row may be older.
    fn is_end(&self) -> bool {
        self.is_removed && self.order.accepted_us == 0
    }
}

/// What readers were served under a name, the latest first.
#[derive(Debug)]
pub struct ServedHistory {
    pub rows: Vec<ServedPast>,
    /// Whether there are rows that were asked for and would have been too much.
    pub is_cut_short: bool,
}

/// A word whose job says nothing of its age is plain: it
/// is compared by its acceptance, and goes on under what the word before it says.
const INSERT: &str = "\
INSERT INTO served (namespace, key, served_from, job_id, model, version, input_sha256, label, score, items, inputs_sha256, is_removed,
  order_kind, order_value, accepted_us)
SELECT new.namespace, new.key, new.served_from, new.job_id, new.model, new.version, new.input_sha256, new.label, new.score, new.items::jsonb,
  new.inputs_sha256, new.is_removed,
  CASE WHEN {continues} THEN last.order_kind ELSE new.order_kind END, CASE WHEN {continues} THEN last.order_value ELSE new.order_value END, new.accepted_us
FROM ({rows}) AS new JOIN done ON done.job_id = new.job_id
LEFT JOIN LATERAL (
  SELECT * FROM served WHERE namespace = new.namespace AND key = new.key ORDER BY id DESC LIMIT 1
) AS last ON true
WHERE last.id IS NULL
OR {differs} AND {is_newer}";

/// Whether a word says nothing but when it was accepted, as the contract's `Order` has it; and whether it therefore continues the last one.
const NEW_IS_PLAIN: &str = "(new.order_kind = 't' AND new.order_value = new.accepted_us)";
const LAST_IS_PLAIN: &str = "(last.order_kind = 't' AND last.order_value = last.accepted_us)";

/// What a name that has a history is removed by, by hand: no job's, and the last one's model.
const FORGET: &str = "\
INSERT INTO served (namespace, key, served_from, job_id, model, version, is_removed, order_kind, order_value, accepted_us)
SELECT new.namespace, new.key, now(), '', last.model, last.version, true,
  CASE WHEN {continues} THEN last.order_kind ELSE new.order_kind END, CASE WHEN {continues} THEN last.order_value ELSE new.order_value END, new.accepted_us
FROM (SELECT $1::text AS namespace, $2::text AS key, $3::\"char\" AS order_kind, $4::int8 AS order_value, $5::int8 AS accepted_us) AS new
CROSS JOIN LATERAL (
  SELECT * FROM served WHERE namespace = new.namespace AND key = new.key ORDER BY id DESC LIMIT 1
) AS last WHERE NOT last.is_removed";

/// Whether a word says something else than the last one. A score that differs by a ten-thousandth is the same: not every device sums in one order.
const DIFFERS: &str = "\
((last.is_removed, last.model, last.version, last.input_sha256, last.label)
    IS DISTINCT FROM (new.is_removed, new.model, new.version, new.input_sha256, new.label)
  OR abs(new.score - last.score) > 0.0001 * greatest(abs(new.score), abs(last.score)))";

/// Whether a word replaces the last one.
const IS_NEWER: &str = "\
(CASE WHEN new.order_kind = last.order_kind AND NOT {new_is_plain} AND NOT {last_is_plain}
  THEN (new.order_value, new.accepted_us) > (last.order_value, last.accepted_us)
  ELSE new.accepted_us > last.accepted_us END)";

/// The hashes of rankings' inputs are left out: nobody is shown them, and they are most of a long ranking.
const PAST: &str = "\
SELECT * FROM (
  SELECT *, NULL::bytea AS inputs_sha256, count(*) OVER () AS all_rows,
    coalesce(sum(octet_length(items)) OVER (ORDER BY id DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS bytes_before
  FROM (
    SELECT id, served_from, job_id, model, version, input_sha256, label, score, items::text AS items, is_removed, order_kind, order_value,
      accepted_us FROM served WHERE namespace = $1 AND key = $2 ORDER BY id DESC LIMIT $3
  ) AS latest
) AS past WHERE bytes_before < $4 ORDER BY id DESC";

/// Rankings of one history are read until they have so many bytes.
const PAST_BYTES: i64 = 8 << 20;

const LATEST: &str = "\
SELECT names.number, last.served_from, last.job_id, last.model, last.version, last.input_sha256, last.label, last.score, last.items::text AS items,
  last.inputs_sha256, last.is_removed, last.order_kind, last.order_value, last.accepted_us
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS names(namespace, key, number)
CROSS JOIN LATERAL (
  SELECT * FROM served WHERE namespace = names.namespace AND key = names.key ORDER BY id DESC LIMIT 4
) AS last ORDER BY last.id";

/// The insertion of a batch's names, where the jobs that were written are in `done`.
pub(super) fn insert(
    batch: &Batch<'_>,
    arguments: &mut PgArguments,
) -> Result<String, BoxDynError> {
    let rows = rows(&batch.served, batch.finished_at, arguments)?;
    Ok(INSERT
        .replace("{continues}", &continues())
        .replace("{differs}", DIFFERS)
        .replace("{is_newer}", &is_newer())
        .replace("{rows}", &rows))
}

/// These rows, as a query of their own.
fn rows(
    rows: &[ServedRow<'_>],
    at: DateTime<Utc>,
    arguments: &mut PgArguments,
) -> Result<String, BoxDynError> {
    let mut rows: Vec<&ServedRow<'_>> = rows.iter().collect();
    rows.sort_unstable_by_key(|row| (row.namespace, row.key));
    let mut columns = Columns::new(arguments);
    columns.shared("namespace", column(&rows, |r| r.namespace))?;
    columns.each("key", "text", column(&rows, |r| r.key))?;
    columns.each("job_id", "text", column(&rows, |r| r.job_id))?;
    columns.shared("model", column(&rows, |r| r.model))?;
    columns.shared("version", column(&rows, |r| r.version))?;
    columns.nullable("input_sha256", "bytea", column(&rows, |r| r.input))?;
    columns.nullable("label", "text", column(&rows, |r| r.label))?;
    columns.nullable("score", "real", column(&rows, |r| r.score))?;
    columns.nullable("items", "text", column(&rows, |r| r.items))?;
    columns.nullable("inputs_sha256", "bytea", column(&rows, |r| r.inputs))?;
    columns.common("is_removed", "bool", column(&rows, |r| r.is_removed))?;
    let kinds = column(&rows, |r| r.order.kind as i8);
    columns.common("order_kind", "\"char\"", kinds)?;
    let accepted = column(&rows, |r| r.order.accepted_us);
    columns.each("accepted_us", "int8", accepted)?;
    columns.one("served_from", "timestamptz", at)?;
    // What says nothing of its age is as old as its job.
    let are_plain = rows.iter().all(|row| row.order.is_plain());
    if !are_plain {
        columns.each("order_value", "int8", column(&rows, |r| r.order.value))?;
    }
    let rows = columns.into_rows();
    Ok(match are_plain {
        true => format!("SELECT *, accepted_us AS order_value FROM ({rows}) AS plain"),
        false => rows,
    })
}

fn is_newer() -> String {
    let is_newer = IS_NEWER.replace("{new_is_plain}", NEW_IS_PLAIN);
    is_newer.replace("{last_is_plain}", LAST_IS_PLAIN)
}

/// Whether a word goes on under what the one before it says of its age.
fn continues() -> String {
    format!("last.id IS NOT NULL AND {NEW_IS_PLAIN} AND NOT {LAST_IS_PLAIN}")
}

impl PostgresStore {
    /// Notes in a name's history that it was removed by hand.
    pub async fn forgotten(
        &self,
        namespace: &str,
        key: &str,
        order: WordOrder,
    ) -> Result<(), StoreError> {
        let mut lease = self.lease().await?;
        let text = FORGET.replace("{continues}", &continues());
        // Made of this file's own constants.
        let query = sqlx::query(AssertSqlSafe(text))
            .bind(namespace)
            .bind(key)
            .bind(order.kind as i8)
            .bind(order.value)
            .bind(order.accepted_us);
        let answer = self.deadline(query.execute(&mut *lease)).await;
        self.end(lease, answer).await.map(|_| ())
    }

    /// What readers were served under a name, at most `max` rows, and as many as fit into 8 MiB or a little more.
    pub async fn served(
        &self,
        namespace: &str,
        key: &str,
        max: u32,
    ) -> Result<ServedHistory, StoreError> {
        let mut lease = self.lease().await?;
        let query = sqlx::query(PAST)
            .bind(namespace)
            .bind(key)
            .bind(i64::from(max))
            .bind(PAST_BYTES);
        let answer = self.deadline(query.fetch_all(&mut *lease)).await;
        let rows = self.end(lease, answer).await?;
        let past = || {
            let all = rows.first().map(|row| row.try_get::<i64, _>("all_rows"));
            let all = all.transpose()?.unwrap_or_default();
            let past: Result<Vec<_>, sqlx::Error> = rows.iter().map(read).collect();
            Ok((past?, all.unsigned_abs() > rows.len() as u64))
        };
        let (past, is_cut_short) =
            past().map_err(|e: sqlx::Error| StoreError::Refused(e.redacted()))?;
        Ok(ServedHistory {
            rows: in_order(past),
            is_cut_short,
        })
    }

    /// The latest row of each of these names, given as namespace and key; nothing of one that has none.
    pub async fn last_served(
        &self,
        names: &[(&str, &str)],
    ) -> Result<Vec<Option<ServedPast>>, StoreError> {
        let (namespaces, keys): (Vec<&str>, Vec<&str>) = names.iter().copied().unzip();
        let mut lease = self.lease().await?;
        let query = sqlx::query(LATEST).bind(&namespaces).bind(&keys);
        let answer = self.deadline(query.fetch_all(&mut *lease)).await;
        let rows = self.end(lease, answer).await?;
        let mut found = vec![None; names.len()];
        for row in &rows {
            let read = || Ok::<_, sqlx::Error>((row.try_get::<i64, _>("number")?, read(row)?));
            let (number, past) = read().map_err(|e| StoreError::Refused(e.redacted()))?;
            let index = usize::try_from(number - 1).ok();
            let slot: Option<&mut Option<ServedPast>> =
                index.and_then(|index| found.get_mut(index));
            let Some(slot) = slot else {
                continue;
            };
            let last = slot.as_ref().map(|last| last.order);
            if past.is_end() {
                *slot = None;
            } else if last.is_none_or(|last| past.order.is_newer_than(last)) {
                // Two that were written at the same time may stand in either order.
                *slot = Some(past);
            }
        }
        Ok(found)
    }
}

/// Leaves out what was older than what readers had already: it was written at the same time, and never served. The latest comes first.
fn in_order(rows: Vec<ServedPast>) -> Vec<ServedPast> {
    let mut served: Vec<ServedPast> = Vec::with_capacity(rows.len());
    let mut has_left = false;
    for row in rows.into_iter().rev() {
        let last = served.last().filter(|_| !has_left);
        if row.is_end() {
            has_left = true;
        } else if last.is_none_or(|last| row.order.is_newer_than(last.order)) {
            served.push(row);
            has_left = false;
        }
    }
    served.reverse();
    served
}

fn read(row: &PgRow) -> Result<ServedPast, sqlx::Error> {
    let kind: i8 = row.try_get("order_kind")?;
    Ok(ServedPast {
        from: row.try_get("served_from")?,
        job_id: row.try_get("job_id")?,
        model: row.try_get("model")?,
        version: row.try_get("version")?,
        input: row.try_get("input_sha256")?,
        label: row.try_get("label")?,
        score: row.try_get("score")?,
        items: row.try_get("items")?,
        inputs: row.try_get("inputs_sha256")?,
        is_removed: row.try_get("is_removed")?,
        order: WordOrder {
            kind: char::from(kind.unsigned_abs()),
            value: row.try_get("order_value")?,
            accepted_us: row.try_get("accepted_us")?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn past(kind: char, value: i64, accepted_us: i64) -> ServedPast {
        ServedPast {
            from: DateTime::UNIX_EPOCH,
            job_id: format!("{kind}{value}"),
            model: String::new(),
            version: String::new(),
            input: None,
            label: None,
            score: None,
            items: None,
            inputs: None,
            is_removed: false,
            order: WordOrder {
                kind,
                value,
                accepted_us,
            },
        }
    }

    #[test]
    fn what_was_written_at_the_same_time_as_newer_news_was_never_served() {
        let rows = vec![
            past('s', 7, 60),
            past('s', 8, 50),
            past('t', 40, 40),
            past('t', 30, 30),
        ];
        let ids: Vec<String> = in_order(rows).into_iter().map(|row| row.job_id).collect();
        assert_eq!(ids, ["s8", "t40", "t30"]);
        let end = ServedPast {
            is_removed: true,
            ..past('t', 0, 0)
        };
        let rows = vec![past('s', 4, 80), past('s', 5, 70), end, past('s', 8, 50)];
        let ids: Vec<String> = in_order(rows).into_iter().map(|row| row.job_id).collect();
        assert_eq!(ids, ["s5", "s8"], "one was older and stood all the same");
    }
}
