//! One statement on a named database.
//!
//! Promises that the statement can't write: it is a cursor's query, which must be a reading one, in a read-only transaction.
//! Promises that it ends: at the time limit, which the server enforces too, or at the row limit. Data never becomes part of a
//! statement.

mod bounded;
mod origin;
mod row;

pub(super) use self::bounded::{bounded, has_left_out};
use self::origin::{Origin, before};
pub(super) use self::row::bytes as row_bytes;
use super::{BadSource, Item, Row, RowSource, SourceError};
use crate::{
    config::{self, Database, NamedDatabase},
    redact::{self, Redact},
    secret::Secret,
    tls,
};
use futures_util::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use rand::seq::SliceRandom;
use serde::Deserialize;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, SqlSafeStr, Statement,
    postgres::PgConnectOptions,
};
use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    time::Duration,
};
use tokio::time::Instant;
use toml::Spanned;

/// What makes a cursor of a statement.
const HEAD: &str = "DECLARE warm NO SCROLL CURSOR FOR\n";
/// Rows fetched in one round trip before it is known how large they are, and then at the utmost.
const FIRST_FETCH: usize = 8;
const MAX_FETCH: usize = 500;
/// Bytes that the rows of a round trip take if none is larger than those before.
const FETCH_BYTES: usize = 4 << 20;

/// `kind = "sql"`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqlSpec {
    /// One of `[databases]`, or `kiln` for Kiln's own.
    database: String,
    statement: Spanned<String>,
    #[serde(default = "thirty")]
    limit_seconds: u64,
    #[serde(default = "many")]
    limit_rows: usize,
    #[serde(skip)]
    origin: Option<Origin>,
}

fn thirty() -> u64 {
    30
}

fn many() -> usize {
    100_000
}

impl SqlSpec {
    pub(super) fn check(&mut self) -> Result<(), Vec<BadSource>> {
        let statement = self.statement.get_mut();
        let bare = statement.trim().trim_end_matches(';').trim_end();
        *statement = bare.to_owned();
        let mut bad = Vec::new();
        if statement.is_empty() {
            bad.push(BadSource::new("statement", "expected a SELECT"));
        }
        if !(1..=3_600).contains(&self.limit_seconds) {
            bad.push(BadSource::new("limit_seconds", "expected 1 to 3600"));
        }
        if !(1..=10_000_000).contains(&self.limit_rows) {
            bad.push(BadSource::new("limit_rows", "expected 1 to 10000000"));
        }
        match bad.is_empty() {
            true => Ok(()),
            false => Err(bad),
        }
    }

    pub(super) fn database(&self) -> &str {
        &self.database
    }

    /// Notes where the statement stands in the schedule's file, whose text this is.
    pub(super) fn locate(&mut self, file: &Path, text: &str) {
        let statement = self.statement.get_ref();
        self.origin = Some(Origin::of(file, text, self.statement.span(), statement));
    }
}

/// A database's name in a message.
fn shown(database: &str) -> &str {
    match kiln_contract::redact::is_name(database) {
        true => database,
        false => kiln_contract::redact::HIDDEN,
    }
}

/// The rows of a statement.
pub struct SqlSource {
    url: Secret,
    /// The database's name in the settings.
    database: String,
    /// Where the statement stands.
    origin: Option<Origin>,
    /// One for each address: any of them will do, since nothing is written.
    options: Vec<PgConnectOptions>,
    statement: String,
    limit: Duration,
    limit_rows: usize,
    connect_limit: Duration,
}

impl SqlSource {
    /// `own` is Kiln's own database, under the name `kiln`.
    pub(super) fn new(
        spec: &SqlSpec,
        databases: &BTreeMap<String, NamedDatabase>,
        own: &Database,
    ) -> Result<Self, SourceError> {
        let limit = Duration::from_secs(spec.limit_seconds);
        Ok(Self {
            statement: spec.statement.get_ref().clone(),
            origin: spec.origin.clone(),
            limit_rows: spec.limit_rows,
            ..Self::of(&spec.database, limit, databases, own)?
        })
    }

    /// A database without a statement, of which one may run for `limit`.
    pub(super) fn of(
        database: &str,
        limit: Duration,
        databases: &BTreeMap<String, NamedDatabase>,
        own: &Database,
    ) -> Result<Self, SourceError> {
        let named = databases.get(database);
        let found = match (named, database) {
            (Some(named), _) => Some((&named.url, &named.tls)),
            (None, "kiln") => own.url.as_ref().map(|url| (url, &own.tls)),
            (None, _) => None,
        };
        let Some((url, certificates)) = found else {
            let known: Vec<&str> = databases
                .keys()
                .map(String::as_str)
                .chain(["kiln"])
                .collect();
            return Err(SourceError(format!(
                "database `{}` is not set under [databases]; known: {}",
                shown(database),
                known.join(", ")
            )));
        };
        let mut options = Vec::new();
        for address in url.addresses() {
            let one: PgConnectOptions = address
                .expose()
                .parse()
                .map_err(|e: sqlx::Error| SourceError(url.scrub(&e.redacted())))?;
            let one = tls::postgres(one, address.expose(), certificates);
            // Poolers refuse the setting, and nothing here needs it.
            options.push(
                one.application_name("kiln warming")
                    .extra_float_digits(None)
                    // A slow statement's text would be logged, with what the schedule compares with.
                    .disable_statement_logging(),
            );
        }
        Ok(Self {
            url: url.clone(),
            database: database.to_owned(),
            origin: None,
            options,
            statement: String::new(),
            limit,
            limit_rows: 0,
            connect_limit: config::ms(own.timeout_ms),
        })
    }

    /// How to connect to each address.
    pub(super) fn options(&self) -> &[PgConnectOptions] {
        &self.options
    }

    fn explain(&self, error: &sqlx::Error) -> SourceError {
        let said = redact::statement(error);
        let text = tls::explain(self.url.scrub(&said.text));
        let database = shown(&self.database);
        // The cursor's own words come before the statement.
        let at = said
            .character
            .and_then(|at| at.checked_sub(HEAD.chars().count()));
        let origin = self.origin.as_ref().filter(|_| said.is_of_statement);
        let located = origin.map(|origin| origin.shown(at.map(|at| before(&self.statement, at))));
        let located = located.unwrap_or_default();
        SourceError(format!("{located}database `{database}`: {text}"))
    }

    /// An error of the statement as a whole.
    fn blame(&self, problem: &str) -> SourceError {
        let origin = self.origin.as_ref().map(|origin| origin.shown(None));
        let database = shown(&self.database);
        let origin = origin.unwrap_or_default();
        SourceError(format!("{origin}database `{database}`: {problem}"))
    }

    /// A connection to the first address that takes one, tried in any order.
    pub(super) async fn connect(&self) -> Result<PgConnection, SourceError> {
        let mut order: Vec<&PgConnectOptions> = self.options.iter().collect();
        order.shuffle(&mut rand::rng());
        let limit = self.connect_limit.div_f64(order.len().max(1) as f64);
        let mut failure = SourceError("the database has no address".into());
        for options in order {
            let connect = PgConnection::connect_with(options);
            failure = match tokio::time::timeout(limit, connect).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => self.explain(&error),
                Err(_) => SourceError("the database doesn't answer".into()),
            };
        }
        Err(failure)
    }

    /// A connection with the cursor declared. What the statement gives is looked at first.
    async fn open(&self, until: Instant) -> Result<PgConnection, SourceError> {
        let mut connection = self.connect().await?;
        let declare = async {
            let limit_ms = self.limit.as_millis();
            for statement in [
                "BEGIN READ ONLY".to_owned(),
                format!("SET LOCAL statement_timeout = {limit_ms}"),
                format!("SET LOCAL idle_in_transaction_session_timeout = {limit_ms}"),
            ] {
                connection.execute(AssertSqlSafe(statement)).await?;
            }
            // The statement is the operator's own, from the schedule; a prepared statement is one statement.
            let cursor = format!("{HEAD}{}", self.statement);
            sqlx::query(AssertSqlSafe(cursor))
                .execute(&mut connection)
                .await?;
            connection.execute("CLOSE warm").await?;
            let statement = AssertSqlSafe(self.statement.clone()).into_sql_str();
            connection.prepare(statement).await
        };
        let prepared = self.within(until, declare).await?;
        let columns = prepared.columns();
        row::check_columns(columns).map_err(|problem| self.blame(&problem))?;
        let cursor = format!("{HEAD}{}", bounded(&self.statement, columns));
        let declare = sqlx::query(AssertSqlSafe(cursor)).execute(&mut connection);
        self.within(until, declare).await?;
        Ok(connection)
    }

    pub(super) async fn within<T>(
        &self,
        until: Instant,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, SourceError> {
        tokio::time::timeout_at(until, work)
            .await
            .map_err(|_| {
                let limit = self.limit.as_secs();
                self.blame(&format!("the statement ran past its limit of {limit} s"))
            })?
            .map_err(|e| self.explain(&e))
    }
}

struct Cursor {
    connection: PgConnection,
    rows: VecDeque<Result<Row, String>>,
    /// Rows that were fetched, and the bytes of the largest one.
    fetched: usize,
    largest: usize,
    seen: usize,
    ended: bool,
    until: Instant,
}

/// How many rows to fetch after so many, of which the largest had so many bytes.
fn wanted(fetched: usize, largest: usize) -> usize {
    match fetched {
        0 => FIRST_FETCH,
        // Twice as many as ever at the utmost, since those that follow may be larger.
        _ => (FETCH_BYTES / largest.max(1)).clamp(1, MAX_FETCH.min(fetched.saturating_mul(2))),
    }
}

impl SqlSource {
    /// Fetches some rows. Each is read as it arrives: of one that is too large nothing is kept.
    async fn fetch(&self, cursor: &mut Cursor) -> Result<(), SourceError> {
        // One more than the limit, to tell a source that is larger from one that fits.
        let rest = self.limit_rows + 1 - cursor.seen;
        let count = wanted(cursor.fetched, cursor.largest).min(rest);
        let fetch = format!("FETCH {count} FROM warm");
        let (fetched, largest, rows) = (&mut cursor.fetched, &mut cursor.largest, &mut cursor.rows);
        let connection = &mut cursor.connection;
        let mut arrived = 0;
        let work = async {
            let mut arriving = sqlx::query(AssertSqlSafe(fetch)).fetch(connection);
            while let Some(row) = arriving.try_next().await? {
                arrived += 1;
                *fetched += 1;
                *largest = row::bytes(&row).max(*largest);
                rows.push_back(row::read(&row));
            }
            Ok(())
        };
        self.within(cursor.until, work).await?;
        cursor.ended = arrived < count;
        Ok(())
    }

    async fn next(&self, cursor: &mut Cursor) -> Result<Option<Item>, SourceError> {
        if cursor.rows.is_empty() && !cursor.ended {
            self.fetch(cursor).await?;
        }
        let Some(row) = cursor.rows.pop_front() else {
            return Ok(None);
        };
        cursor.seen += 1;
        if cursor.seen > self.limit_rows {
            let limit = self.limit_rows;
            let problem = format!("the statement gives more than limit_rows = {limit}");
            return Err(self.blame(&problem));
        }
        Ok(Some(match row {
            Ok(row) => Item::Row(row),
            Err(problem) => Item::Bad(format!("row {}: {problem}", cursor.seen)),
        }))
    }
}

impl RowSource for SqlSource {
    fn rows(&self) -> BoxStream<'_, Result<Item, SourceError>> {
        let open = async move {
            let until = Instant::now() + self.limit;
            let connection = self.open(until).await?;
            let cursor = Cursor {
                connection,
                rows: VecDeque::new(),
                fetched: 0,
                largest: 0,
                seen: 0,
                ended: false,
                until,
            };
            Ok(stream::unfold(Some(cursor), move |state| async move {
                let mut cursor = state?;
                match self.next(&mut cursor).await {
                    Ok(Some(item)) => Some((Ok(item), Some(cursor))),
                    Ok(None) => {
                        // All rows have arrived; a failed close changes nothing.
                        let _closed =
                            tokio::time::timeout(Duration::from_secs(1), cursor.connection.close())
                                .await;
                        None
                    }
                    Err(error) => Some((Err(error), None)),
                }
            }))
        };
        stream::once(open)
            .flat_map(|opened| match opened {
                Ok(rows) => rows.boxed(),
                Err(error) => stream::iter([Err(error)]).boxed(),
            })
            .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_rows_are_fetched_as_fit_and_few_before_their_size_is_known() {
        assert_eq!(wanted(0, 0), FIRST_FETCH);
        assert_eq!(wanted(8, 100), 16);
        assert_eq!(wanted(1_000, 100), MAX_FETCH);
        assert_eq!(wanted(1_000, 5 << 20), 1);
        assert_eq!(wanted(1_000, FETCH_BYTES / 10), 10);
        assert_eq!(wanted(8, 0), 16);
    }
}
