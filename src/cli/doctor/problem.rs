//! Owns what went wrong when a server was asked, as far as the advice depends on it.
//!
//! Promises that the text shows no credentials, and that causes are distinguished by the servers' own codes.

use crate::{redact::Redact, secret::Secret, tls};
use redis::{ErrorKind, RedisError};
use std::{fmt, time::Duration};

/// Why a server didn't do what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The user or password is wrong.
    Login,
    /// There is no database of that name.
    NoDatabase,
    /// Its memory is full.
    Full,
    /// It takes no writes: it follows another server.
    Replica,
    /// The user lacks a right.
    Forbidden,
    Other,
}

/// What a server said, or that it said nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) cause: Cause,
    text: String,
}

impl Problem {
    fn new(cause: Cause, url: &Secret, error: &dyn Redact) -> Self {
        Self {
            cause,
            text: tls::explain(url.scrub(&error.redacted())),
        }
    }

    /// Nothing came in time.
    pub(super) fn silent(limit: Duration) -> Self {
        Self {
            cause: Cause::Other,
            text: format!("no answer within {limit:?}"),
        }
    }

    /// An error of Redis or its client.
    pub(super) fn redis(url: &Secret, error: &RedisError) -> Self {
        let cause = match error.code() {
            Some("WRONGPASS" | "NOAUTH") => Cause::Login,
            Some("OOM") => Cause::Full,
            Some("READONLY") => Cause::Replica,
            Some("NOPERM") => Cause::Forbidden,
            _ if error.kind() == ErrorKind::AuthenticationFailed => Cause::Login,
            _ => Cause::Other,
        };
        Self::new(cause, url, error)
    }

    /// An error of Postgres or its client.
    pub(super) fn postgres(url: &Secret, error: &sqlx::Error) -> Self {
        let database = error.as_database_error();
        let code = database.and_then(|e| e.code());
        let cause = match (code.as_deref(), database) {
            (Some("28P01"), _) => Cause::Login,
            // The same code says that pg_hba.conf has no line for the host.
            (Some("28000"), Some(e)) if e.message().starts_with("role") => Cause::Login,
            (Some("3D000"), _) => Cause::NoDatabase,
            _ => Cause::Other,
        };
        Self::new(cause, url, error)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_is_understood_by_its_codes() {
        let url = Secret::new("redis://:hunter2@127.0.0.1");
        for (said, cause) in [
            (
                "-WRONGPASS invalid username-password pair\r\n",
                Cause::Login,
            ),
            ("-NOAUTH Authentication required.\r\n", Cause::Login),
            (
                "-OOM command not allowed when used memory > 'maxmemory'.\r\n",
                Cause::Full,
            ),
            (
                "-READONLY You can't write against a read only replica.\r\n",
                Cause::Replica,
            ),
            ("-NOPERM this user has no permissions\r\n", Cause::Forbidden),
            ("-MISCONF hunter2 can't be saved\r\n", Cause::Other),
        ] {
            let value = redis::parse_redis_value(said.as_bytes());
            let error = value
                .and_then(redis::Value::extract_error)
                .expect_err("an error");
            let problem = Problem::redis(&url, &error);
            assert_eq!(problem.cause, cause, "{said}");
            assert!(!problem.to_string().contains("hunter2"), "{problem}");
        }
    }
}
