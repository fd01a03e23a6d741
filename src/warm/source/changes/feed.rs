//! Reads a followed table, a bounded page at a time, on one connection that is kept; and hears what the database tells of changes.

use super::{
    Beginning, ChangesSpec, Point, PositionKind,
    page::{Feed, Page, Reading},
    rows,
};
use crate::{
    config::Settings,
    warm::source::{
        SourceError,
        sql::{SqlSource, bounded},
    },
};
use chrono::{DateTime, Utc};
use futures_util::{FutureExt, TryStreamExt, future::BoxFuture};
use sqlx::{
    AssertSqlSafe, Connection, Either, Executor, PgConnection, SqlSafeStr, Statement, TypeInfo,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use std::time::Duration;
use tokio::time::Instant;

/// Longest wait for the database to say that it listens.
const LISTEN: Duration = Duration::from_secs(5);
/// How soon it is tried again to listen where that failed.
const AGAIN: Duration = Duration::from_secs(10);
/// The server's clock, in microseconds since 1970.
const CLOCK: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8";

/// A followed table.
pub(in crate::warm) struct Changes {
    sql: SqlSource,
    statement: String,
    /// The same without values that are too large; nothing before its columns are known.
    bounded: String,
    notify: Option<String>,
    limit: Duration,
    open: Option<(PgConnection, Feed)>,
    ear: Option<PgListener>,
    /// An ear that is about to be opened, however often its wait is cut short.
    opening: Option<BoxFuture<'static, Option<PgListener>>>,
    /// When it may be tried again to listen.
    again: Instant,
}

impl Changes {
    /// One that connects when it is first read.
    pub(in crate::warm) fn new(
        spec: &ChangesSpec,
        settings: &Settings,
    ) -> Result<Self, SourceError> {
        let limit = Duration::from_secs(spec.limit_seconds);
        Ok(Self {
            sql: SqlSource::of(
                &spec.database,
                limit,
                &settings.databases,
                &settings.database,
            )?,
            statement: spec.statement(),
            bounded: String::new(),
            notify: spec.notify.clone(),
            limit,
            open: None,
            ear: None,
            opening: None,
            again: Instant::now(),
        })
    }

    /// What its positions are.
    pub(in crate::warm) async fn kind(&mut self) -> Result<PositionKind, SourceError> {
        let until = Instant::now() + self.limit;
        let (connection, feed) = self.connected(until).await?;
        self.open = Some((connection, feed));
        Ok(feed.kind)
    }

    /// Where to begin: where it was followed to, if that is a position of the same kind, or else where the schedule says. A moment that is still to
    /// come by the database's clock is none.
    pub(in crate::warm) async fn begin(
        &mut self,
        from: Beginning,
        stored: Option<(PositionKind, i64)>,
    ) -> Result<(PositionKind, i64), SourceError> {
        let kind = self.kind().await?;
        let position = match (stored, from) {
            (Some((known, position)), _) if known == kind => match kind {
                PositionKind::Sequence => position,
                PositionKind::Moment => position.min(self.last(kind).await?),
            },
            (_, Beginning::Start) => first(kind),
            (_, Beginning::Now) => self.last(kind).await?,
        };
        Ok((kind, position))
    }

    /// The last position that there is: the database's clock, or the highest number of all rows.
    async fn last(&mut self, kind: PositionKind) -> Result<i64, SourceError> {
        let until = Instant::now() + self.limit;
        let (mut connection, feed) = self.connected(until).await?;
        let text = match kind {
            PositionKind::Moment => CLOCK.to_owned(),
            PositionKind::Sequence => format!(
                "SELECT max(position)::int8 FROM (\n{}\n) AS rows",
                self.statement
            ),
        };
        let mut query = sqlx::query_scalar::<_, Option<i64>>(AssertSqlSafe(text));
        if kind == PositionKind::Sequence {
            query = query.bind(first(kind));
            if feed.breaks_ties {
                query = query.bind(String::new());
            }
        }
        let opening = self.opening();
        let work = async {
            connection.execute(AssertSqlSafe(opening)).await?;
            let last = query.fetch_one(&mut connection).await?;
            connection.execute("ROLLBACK").await?;
            Ok(last)
        };
        let last = self.sql.within(until, work).await?;
        self.open = Some((connection, feed));
        Ok(last.unwrap_or(first(kind)))
    }

    /// Whether a row has this number as its position, or a higher one.
    pub(in crate::warm) async fn reaches(&mut self, position: i64) -> Result<bool, SourceError> {
        let before = position.saturating_sub(1);
        if before <= first(PositionKind::Sequence) {
            return Ok(true);
        }
        let until = Instant::now() + self.limit;
        let (mut connection, feed) = self.connected(until).await?;
        let text = format!("SELECT EXISTS (\n{}\n)", self.statement);
        let mut query = sqlx::query_scalar::<_, bool>(AssertSqlSafe(text)).bind(before);
        if feed.breaks_ties {
            query = query.bind(String::new());
        }
        let opening = self.opening();
        let work = async {
            connection.execute(AssertSqlSafe(opening)).await?;
            let found = query.fetch_one(&mut connection).await?;
            connection.execute("ROLLBACK").await?;
            Ok(found)
        };
        let found = self.sql.within(until, work).await?;
        self.open = Some((connection, feed));
        Ok(found)
    }

    fn opening(&self) -> String {
        let limit_ms = self.limit.as_millis();
        format!(
            "BEGIN READ ONLY; SET LOCAL statement_timeout = {limit_ms}; SET LOCAL idle_in_transaction_session_timeout = {limit_ms}"
        )
    }

    /// The connection, made and looked over where there is none.
    async fn connected(&mut self, until: Instant) -> Result<(PgConnection, Feed), SourceError> {
        if let Some(open) = self.open.take() {
            return Ok(open);
        }
        let mut connection = self.sql.connect().await?;
        let work = connection.prepare(AssertSqlSafe(self.statement.clone()).into_sql_str());
        let prepared = self.sql.within(until, work).await?;
        let parameters = match prepared.parameters() {
            Some(Either::Left(all)) => all,
            _ => &[],
        };
        let names: Vec<&str> = parameters.iter().map(TypeInfo::name).collect();
        let (kind, breaks_ties) = match names.as_slice() {
            ["INT8" | "INT4" | "INT2", rest @ ..] => (PositionKind::Sequence, !rest.is_empty()),
            ["TIMESTAMPTZ", rest @ ..] => (PositionKind::Moment, !rest.is_empty()),
            [other, ..] => {
                return Err(SourceError(format!(
                    "$1 is {other}, expected a number or a time with its zone: write $1::bigint or $1::timestamptz"
                )));
            }
            [] => return Err(SourceError("expected the position as $1".into())),
        };
        if names.len() > 2 || names.get(1).is_some_and(|name| *name != "TEXT") {
            return Err(SourceError(
                "expected $1, the position, and at the utmost $2, the last `tie` as text".into(),
            ));
        }
        rows::check_columns(prepared.columns(), kind, breaks_ties)?;
        self.bounded = bounded(&self.statement, prepared.columns());
        Ok((connection, Feed { kind, breaks_ties }))
    }

    /// The rows after a point. A connection that failed is made anew the next time.
    pub(in crate::warm) async fn read(&mut self, from: &Point) -> Result<Page, SourceError> {
        let until = Instant::now() + self.limit;
        let (mut connection, feed) = self.connected(until).await?;
        let page = self.page(&mut connection, feed, from, until).await?;
        self.open = Some((connection, feed));
        Ok(page)
    }

    async fn page(
        &mut self,
        connection: &mut PgConnection,
        feed: Feed,
        from: &Point,
        until: Instant,
    ) -> Result<Page, SourceError> {
        // The statement is the operator's own, from the schedule; a prepared statement is one statement.
        let cursor = format!("DECLARE warm NO SCROLL CURSOR FOR\n{}", self.bounded);
        let mut declare = sqlx::query(AssertSqlSafe(cursor));
        declare = match feed.kind {
            PositionKind::Sequence => declare.bind(sequence_before(from, feed)),
            PositionKind::Moment => match moment_before(from, feed) {
                Some(moment) => declare.bind(moment),
                // Nothing comes after the end of the calendar.
                None => return Ok(Page::end()),
            },
        };
        if feed.breaks_ties {
            declare = declare.bind(from.key.clone());
        }
        let opening = self.opening();
        let begin = async {
            connection.execute(AssertSqlSafe(opening)).await?;
            declare.execute(&mut *connection).await?;
            sqlx::query_scalar::<_, i64>(CLOCK)
                .fetch_one(&mut *connection)
                .await
        };
        let now_us = self.sql.within(until, begin).await?;
        let mut reading = Reading::new(feed, now_us, from.clone());
        while !reading.is_full && !reading.is_last {
            let wanted = reading.wanted();
            let fetch = format!("FETCH {wanted} FROM warm");
            let (mut arrived, mut strange) = (0, None);
            // Each is taken as it arrives, so that no more is held than a page has.
            let work = async {
                let mut arriving = sqlx::query(AssertSqlSafe(fetch)).fetch(&mut *connection);
                while let Some(row) = arriving.try_next().await? {
                    arrived += 1;
                    if strange.is_none() {
                        strange = reading.take(&row).err();
                    }
                }
                Ok(())
            };
            self.sql.within(until, work).await?;
            if let Some(error) = strange {
                return Err(error);
            }
            reading.is_last |= arrived < wanted;
        }
        self.sql
            .within(until, connection.execute("ROLLBACK"))
            .await?;
        Ok(reading.page())
    }

    /// Waits until the database tells of a change; for ever where it doesn't tell, or can't be heard.
    pub(in crate::warm) async fn changed(&mut self) {
        let Some(channel) = self.notify.clone() else {
            return std::future::pending().await;
        };
        if self.ear.is_none() && self.opening.is_none() && self.again <= Instant::now() {
            self.again = Instant::now() + AGAIN;
            let servers = self.sql.options().to_vec();
            self.opening = Some(listen(servers, channel).boxed());
        }
        if let Some(opening) = &mut self.opening {
            self.ear = opening.await;
            self.opening = None;
            // What was told before is in the table.
            if self.ear.is_some() {
                return;
            }
        }
        let Some(ear) = &mut self.ear else {
            return std::future::pending().await;
        };
        match ear.try_recv().await {
            Ok(Some(_)) => while ear.next_buffered().is_some() {},
            Ok(None) | Err(_) => self.ear = None,
        }
    }

    /// Ends the conversation.
    pub(in crate::warm) async fn close(&mut self) {
        (self.ear, self.opening) = (None, None);
        if let Some((connection, _)) = self.open.take() {
            // All rows have arrived; a failed close changes nothing.
            let _closed = tokio::time::timeout(Duration::from_secs(1), connection.close()).await;
        }
    }
}

/// Before the first row.
fn first(kind: PositionKind) -> i64 {
    match kind {
        PositionKind::Sequence => i64::MIN,
        // In year 1, which every calendar has.
        PositionKind::Moment => -62_135_596_800_000_000,
    }
}

/// What is bound to `$1`: without `$2`, rows at the point's own position count, too.
fn sequence_before(from: &Point, feed: Feed) -> i64 {
    if feed.breaks_ties {
        from.position
    } else {
        from.position.saturating_sub(1)
    }
}

fn moment_before(from: &Point, feed: Feed) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp_micros(sequence_before(from, feed))
}

/// A connection that hears of a channel, to the first of these servers that takes one.
async fn listen(servers: Vec<PgConnectOptions>, channel: String) -> Option<PgListener> {
    for options in servers {
        let one = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(LISTEN)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with(options);
        let listening = async {
            let mut ear = PgListener::connect_with(&one).await?;
            ear.eager_reconnect(false);
            ear.listen(&channel).await?;
            Ok::<_, sqlx::Error>(ear)
        };
        if let Ok(Ok(ear)) = tokio::time::timeout(LISTEN, listening).await {
            return Some(ear);
        }
    }
    None
}
