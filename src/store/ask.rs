//! Owns how a statement gets its connection, how long its answer is waited for, and what a failure means.
//!
//! Promises that nothing is asked while a statement that had no answer may still run: its backend is ended first.

use super::{
    PostgresStore, StoreError,
    sessions::{Lease, end_backends},
    tables::is_for_others,
};
use crate::{redact::Redact, tls};
use sqlx::{
    Connection, PgConnection, Postgres, Row,
    error::DatabaseError,
    postgres::{PgArguments, PgConnectOptions, PgDatabaseError, PgSeverity},
    query::Query,
};
use std::{
    borrow::Cow,
    future::Future,
    time::{Duration, Instant},
};

/// What the server says when it ends a statement: it was cancelled, by its own limit as a rule; it waited too long for a lock; its
/// transaction took too long.
const LIMITS: [&str; 3] = ["57014", "55P03", "25P04"];

/// What a server says that takes no writes any more: it only reads; it is shut down, by its operator or after a crash, or starts.
const LEFT: [&str; 4] = ["25006", "57P01", "57P02", "57P03"];

/// Classes of what it says of a connection, a session, itself or the statement's text, and not of rows: connection, transaction state,
/// right to log in, names of statements, cursors, catalogs and schemas, syntax and rights, resources, operator, settings.
const OF_NO_ROW: [&str; 14] = [
    "08", "0B", "25", "26", "28", "2D", "34", "3B", "3D", "3F", "42", "53", "57", "F0",
];
/// What it says of who lacks a right, and of a row that a policy refuses.
const NO_RIGHT: &str = "42501";

/// How soon the server is asked again whether a backend is gone.
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// Longest goodbye to the server.
const GOODBYE: Duration = Duration::from_secs(1);

impl PostgresStore {
    /// A connection, within the time limit, once nothing that was lost may still run.
    pub(super) async fn lease(&self) -> Result<Lease, StoreError> {
        self.end_lost().await?;
        let permit = match self.within(self.sessions.permit()).await {
            Ok(Some(permit)) => permit,
            Ok(None) => return Err(StoreError::Unavailable("the connections are closed".into())),
            // Only the server can say why they take so long.
            Err(_) => {
                let connection = self.connect().await?;
                self.goodbye(connection).await;
                return Err(StoreError::Unavailable("every connection is in use".into()));
            }
        };
        let lease = self.within(self.sessions.lease(permit)).await?;
        lease.map_err(|e| self.classify(e))
    }

    /// The same, with a transaction begun, which ends with the lease: committed where all was answered, else undone.
    pub(super) async fn transaction(&self) -> Result<Lease, StoreError> {
        let mut lease = self.lease().await?;
        if !lease.is_transaction() {
            let begun = self.deadline(lease.begin("BEGIN".to_owned())).await;
            if let Err(error) = begun.and_then(|begun| begun.map_err(|e| self.classify(e))) {
                self.sessions.close(lease);
                return Err(error);
            }
        }
        Ok(lease)
    }

    /// Opens a connection beside the others.
    pub(super) async fn connect(&self) -> Result<PgConnection, StoreError> {
        let connection = self.within(self.sessions.hosts.connect()).await?;
        connection.map_err(|e| self.classify(e))
    }

    /// How to connect for what lasts longer than a transaction, where that is known to be possible.
    pub(super) fn own_session(&self) -> Option<PgConnectOptions> {
        let limit = self.sessions.statement_limit;
        self.sessions.hosts.own_session(limit)
    }

    pub(super) async fn goodbye(&self, connection: PgConnection) {
        // It has answered: how it takes the goodbye changes nothing.
        let _closed = tokio::time::timeout(GOODBYE, connection.close()).await;
    }

    /// Ends what was lost. An error: something may still run.
    async fn end_lost(&self) -> Result<(), StoreError> {
        let lost = &self.sessions.lost;
        if lost.remaining(Instant::now()).is_none() {
            return Ok(());
        }
        let stays = |late| match lost.is_seen_running() {
            true => StoreError::Unavailable("a statement that had no answer still runs".into()),
            false => late,
        };
        let _one_at_a_time = self.within(lost.ending.lock()).await.map_err(stays)?;
        let names = lost.names();
        if !names.is_empty() {
            lost.seen_running(false);
            let mut connection = self.connect().await?;
            let gone = self.within(async {
                while still_there(&mut connection, &names).await? {
                    lost.seen_running(true);
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                Ok(())
            });
            match gone.await.map_err(stays)? {
                Ok(()) => lost.ended(&names),
                Err(sqlx::Error::Database(_)) => lost.left_to_their_limit(&names),
                Err(error) => return Err(self.classify(error)),
            }
            self.goodbye(connection).await;
        }
        match lost.remaining(Instant::now()) {
            None => Ok(()),
            Some(left) => Err(StoreError::Unavailable(format!(
                "a statement that had no answer may run for another {} ms",
                left.as_millis()
            ))),
        }
    }

    /// Takes a connection back once its statement was answered. One whose answer may still come is closed, and its statement noted as lost.
    pub(super) async fn end<T>(
        &self,
        mut lease: Lease,
        answer: Result<Result<T, sqlx::Error>, StoreError>,
    ) -> Result<T, StoreError> {
        let answer = match answer {
            Ok(Ok(value)) if lease.is_transaction() => {
                let committed = self.deadline(lease.commit()).await;
                committed.map(|committed| committed.map(|()| value))
            }
            other => other,
        };
        let error = match answer {
            Ok(Ok(value)) => {
                self.sessions.give_back(lease);
                return Ok(value);
            }
            Ok(Err(error)) => error,
            Err(late) => {
                drop(lease);
                if self.sessions.hosts.are_several() {
                    // Where this one is frozen, so are the others.
                    self.sessions.close_idle();
                }
                return Err(late);
            }
        };
        let broken = matches!(error, sqlx::Error::Io(_) | sqlx::Error::Tls(_));
        let code = error.as_database_error().and_then(|e| e.code());
        if code.is_some_and(|code| LEFT.contains(&code.as_ref())) {
            let why = self.url.scrub(&error.redacted());
            self.sessions.hosts.leave(lease.turn(), &why);
        }
        // A transaction's limit ends the whole session.
        let is_over = matches!(&error, sqlx::Error::Database(e) if is_fatal(e.as_ref()));
        let error = self.classify(error);
        if broken {
            // As a rule the others broke with it.
            self.sessions.close_idle();
        }
        if broken && lease.is_named() {
            drop(lease);
        } else if is_over || lease.is_transaction() || error.may_pass_elsewhere() {
            self.sessions.close(lease);
        } else {
            self.sessions.give_back(lease);
        }
        Err(error)
    }

    /// Runs one statement; returns the rows that it touched.
    pub(super) async fn execute(
        &self,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<u64, StoreError> {
        let mut lease = self.lease().await?;
        let answer = self.deadline(query.execute(&mut *lease)).await;
        self.end(lease, answer).await.map(|r| r.rows_affected())
    }

    /// The same of a statement that writes rows, where a right that lacks may be a policy's word on one of them.
    pub(super) async fn execute_write(
        &self,
        query: Query<'_, Postgres, PgArguments>,
    ) -> Result<u64, StoreError> {
        let mut lease = self.lease().await?;
        let answer = self.deadline(query.execute(&mut *lease)).await;
        let written = self.end_write(lease, answer).await;
        written.map(|r| r.rows_affected())
    }

    /// [`Self::end`] of a statement that writes rows.
    pub(super) async fn end_write<T>(
        &self,
        lease: Lease,
        answer: Result<Result<T, sqlx::Error>, StoreError>,
    ) -> Result<T, StoreError> {
        let lacks_right = matches!(&answer, Ok(Err(sqlx::Error::Database(e))) if e.code().is_some_and(|code| code == NO_RIGHT));
        match self.end(lease, answer).await {
            Err(StoreError::Unavailable(reason)) if lacks_right => {
                Err(StoreError::Objected(reason))
            }
            ended => ended,
        }
    }

    /// The answer to a statement, within the time limit.
    pub(super) async fn deadline<T>(&self, work: impl Future<Output = T>) -> Result<T, StoreError> {
        let hosts = &self.sessions.hosts;
        let turned = hosts.turned(hosts.turn());
        tokio::select! {
            biased;
            answer = tokio::time::timeout(self.timeout, work) => {
                answer.map_err(|_| StoreError::TimedOut(self.no_answer()))
            }
            () = turned => Err(StoreError::Unavailable("its address was left".into())),
        }
    }

    /// What isn't a statement, within the time limit.
    pub(super) async fn within<T>(&self, work: impl Future<Output = T>) -> Result<T, StoreError> {
        let done = tokio::time::timeout(self.timeout, work).await;
        done.map_err(|_| StoreError::Unavailable(self.no_answer()))
    }

    fn no_answer(&self) -> String {
        format!("no answer within {} ms", self.timeout.as_millis())
    }

    /// Whether an error can pass. Only what Postgres says of the data itself can't; where that may be so, it says that as well.
    pub(super) fn classify(&self, error: sqlx::Error) -> StoreError {
        let text = tls::explain(self.url.scrub(&error.redacted()));
        match &error {
            sqlx::Error::Database(e) if is_for_others(e.as_ref()) => {
                self.tables.doubt();
                StoreError::Unavailable(text)
            }
            // 40: a transaction rolled back by the server, and nothing wrong with it or the server.
            sqlx::Error::Database(e) if e.code().is_some_and(|code| code.starts_with("40")) => {
                StoreError::Contended(text)
            }
            sqlx::Error::Database(e)
                if e.code().is_some_and(|code| LIMITS.contains(&code.as_ref())) =>
            {
                StoreError::TimedOut(text)
            }
            sqlx::Error::Database(e)
                if e.code().is_some_and(|code| {
                    // 22: data exception, 23: integrity violation, 54: a limit of the server, 21: cardinality.
                    ["22", "23", "54", "21"]
                        .iter()
                        .any(|class| code.starts_with(class))
                }) =>
            {
                StoreError::Refused(text)
            }
            sqlx::Error::Encode(_) => StoreError::Refused(text),
            // A trigger, a policy, a function of someone else's, damaged pages: it may be said of one row or of all.
            sqlx::Error::Database(e)
                if !is_fatal(e.as_ref()) && e.code().is_some_and(is_of_rows) =>
            {
                StoreError::Objected(text)
            }
            _ => StoreError::Unavailable(text),
        }
    }
}

/// Whether a code may be said of some rows and not of others.
fn is_of_rows(code: Cow<'_, str>) -> bool {
    OF_NO_ROW.iter().all(|class| !code.starts_with(class))
}

/// Whether the server ends the connection with what it says.
fn is_fatal(error: &(dyn DatabaseError + 'static)) -> bool {
    let error = error.try_downcast_ref::<PgDatabaseError>();
    error.is_some_and(|error| matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic))
}

/// Ends these connections' backends; says whether some are still there.
async fn still_there(connection: &mut PgConnection, names: &[String]) -> Result<bool, sqlx::Error> {
    let there = sqlx::raw_sql(end_backends(names))
        .fetch_one(connection)
        .await?;
    Ok(there.try_get::<i64, _>(0)? > 0)
}
