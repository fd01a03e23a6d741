//! Owns one address of a database: how a connection to it is made, and what stands there.
//!
//! Promises to know whether a session is Kiln's own: what it sets with its first message is lost where a pooler such as pgbouncer stands between.
//! There a session lasts for a transaction only, and nothing may be set for longer: a name that stayed would have others' statements ended.

use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, PgConnection, Row, postgres::PgConnectOptions,
};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// What the server is given first, and asked for by every session.
const MARK: &str = "kiln.session";
/// How a pooler refuses what it doesn't know: a violation of the protocol, a feature that isn't supported.
const REFUSALS: [&str; 2] = ["08P01", "0A000"];
/// What every session is called whose server connection others get, when no statement of Kiln's runs there.
const SHARED: &str = "kiln";
/// The same, where the pooler was given another name before it was known.
const RENAME: &str = "SET application_name = 'kiln'";
/// How soon a statement ends whose client is gone; not every server can look.
const WATCH_CLIENT: &str = "SET client_connection_check_interval = 1000";

/// A new session.
#[derive(Debug)]
pub(super) struct Session {
    pub connection: PgConnection,
    /// Whether the server shows its name to others.
    pub is_seen: bool,
    /// Whether it takes no writes.
    pub is_read_only: bool,
}

/// One address of a database.
#[derive(Debug)]
pub(super) struct Address {
    options: PgConnectOptions,
    /// Whether a pooler stands there; unknown before the first connection.
    is_pooled: AtomicBool,
    /// Whether one was made.
    is_known: AtomicBool,
}

impl Address {
    pub fn new(options: PgConnectOptions) -> Self {
        Self {
            // What poolers refuse, and Kiln doesn't need; and lines with whole statements, again and again while something holds them up.
            options: options.extra_float_digits(None).disable_statement_logging(),
            is_pooled: AtomicBool::new(false),
            is_known: AtomicBool::new(false),
        }
    }

    /// Whether a pooler stands there, as far as is known.
    pub fn is_pooled(&self) -> bool {
        self.is_pooled.load(Ordering::Relaxed)
    }

    /// How to connect where a session is surely Kiln's own.
    pub fn own_session(&self, limit: Duration) -> Option<PgConnectOptions> {
        let is_own = self.is_known.load(Ordering::Relaxed) && !self.is_pooled();
        is_own.then(|| self.marked("kiln", Some(limit)))
    }

    fn marked(&self, name: &str, limit: Option<Duration>) -> PgConnectOptions {
        let options = self.options.clone().application_name(name);
        let options = options.options([(MARK, name)]);
        match limit {
            Some(limit) => options.options([("statement_timeout", limit.as_millis())]),
            None => options,
        }
    }

    /// Where it is.
    pub fn host(&self) -> String {
        format!("{}:{}", self.options.get_host(), self.options.get_port())
    }

    /// A connection; one of its own session ends its statements at the limit, if there is one.
    async fn connect(
        &self,
        name: &str,
        limit: Option<Duration>,
    ) -> Result<PgConnection, sqlx::Error> {
        if !self.is_pooled() {
            match PgConnection::connect_with(&self.marked(name, limit)).await {
                Err(error) if is_refusal(&error) => self.is_pooled.store(true, Ordering::Relaxed),
                other => return other,
            }
        }
        let options = self.options.clone().application_name(SHARED);
        PgConnection::connect_with(&options).await
    }

    /// A connection that is ready for statements, each of which ends at its limit, if there is one.
    pub async fn open(&self, name: &str, limit: Option<Duration>) -> Result<Session, sqlx::Error> {
        let was_pooled = self.is_pooled();
        let mut connection = self.connect(name, limit).await?;
        // A name of our own making: it needs no quoting.
        let about = format!(
            "SET LOCAL application_name = '{name}';
             SELECT (SELECT count(*) FROM pg_stat_activity WHERE pid = pg_backend_pid() AND application_name = '{name}'),
             (current_setting('{MARK}', true) IS NOT DISTINCT FROM '{name}')::int,
             (current_setting('transaction_read_only') = 'on')::int"
        );
        let about = sqlx::raw_sql(AssertSqlSafe(about))
            .fetch_one(&mut connection)
            .await?;
        let is_seen = about.try_get::<i64, _>(0)? > 0;
        let is_own = about.try_get::<i32, _>(1)? > 0;
        let is_read_only = about.try_get::<i32, _>(2)? > 0;
        self.is_pooled.store(!is_own, Ordering::Relaxed);
        self.is_known.store(true, Ordering::Relaxed);
        if is_own {
            match sqlx::raw_sql(WATCH_CLIENT).execute(&mut connection).await {
                Ok(_) | Err(sqlx::Error::Database(_)) => {}
                Err(error) => return Err(error),
            }
        } else if !was_pooled {
            sqlx::raw_sql(RENAME).execute(&mut connection).await?;
        }
        Ok(Session {
            connection,
            is_seen,
            is_read_only,
        })
    }
}

fn is_refusal(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|e| e.code());
    code.is_some_and(|code| REFUSALS.contains(&code.as_ref()))
}
