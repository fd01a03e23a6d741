//! Owns what Kiln says of errors of servers and libraries: the one place through which their messages go into logs, tables, replies
//! and onto terminals.
//!
//! Promises that codes, severities, positions and the names of columns, tables, constraints, queues and fields remain, and that a
//! value of anybody's doesn't: servers and readers quote the rows that they refuse. Errors of readers of JSON are the contract's
//! [`redact`](kiln_contract::redact), which this uses. Refuses to know credentials: those a [`Secret`](crate::secret::Secret) scrubs.

mod amqp;
mod files;
mod postgres;
mod redis;
mod sqlite;
mod sqlstate;

pub use amqp::reply;
pub use files::{Position, toml};
pub use postgres::statement;

use std::{error::Error, io};

/// An error of a server or a library, which is never shown as it is: its own text may quote anybody's data.
pub trait Redact {
    /// What may be said of it.
    fn redacted(&self) -> String;
}

impl Redact for sqlx::Error {
    fn redacted(&self) -> String {
        postgres::any(self)
    }
}

impl Redact for sqlx::migrate::MigrateError {
    fn redacted(&self) -> String {
        postgres::migration(self)
    }
}

impl Redact for ::redis::RedisError {
    fn redacted(&self) -> String {
        redis::any(self)
    }
}

impl Redact for lapin::Error {
    fn redacted(&self) -> String {
        amqp::any(self)
    }
}

impl Redact for serde_json::Error {
    fn redacted(&self) -> String {
        kiln_contract::redact::json(self)
    }
}

impl Redact for ::csv::Error {
    fn redacted(&self) -> String {
        files::csv(self)
    }
}

impl Redact for hyper::Error {
    /// Its texts are fixed; a cause of another library's follows by its own rule.
    fn redacted(&self) -> String {
        match self.source() {
            Some(cause) => format!("{self} ({})", of(cause)),
            None => self.to_string(),
        }
    }
}

impl Redact for hyper::http::Error {
    /// Its texts are fixed.
    fn redacted(&self) -> String {
        self.to_string()
    }
}

impl Redact for io::Error {
    /// The system's own texts hold no data; what is wrapped goes by its own rule.
    fn redacted(&self) -> String {
        match self.get_ref().and_then(|inner| known(inner)) {
            Some(inner) => inner,
            None => self.to_string(),
        }
    }
}

impl Redact for tokio::task::JoinError {
    /// A panic's text may quote what it failed on, and stands in no message: where it happened is in the log.
    fn redacted(&self) -> String {
        if self.is_panic() {
            "it panicked"
        } else {
            "it was cancelled"
        }
        .to_owned()
    }
}

impl Redact for anyhow::Error {
    /// An error with its causes, as commands end with.
    fn redacted(&self) -> String {
        let mut said: Vec<String> = Vec::new();
        for cause in self.chain() {
            let known = known(cause);
            let is_last = known.is_some();
            let text = known.unwrap_or_else(|| cause.to_string());
            if said.last().is_none_or(|last| !last.ends_with(&text)) {
                said.push(text);
            }
            // The causes of a library's error are part of what is said of it.
            if is_last {
                break;
            }
        }
        said.join(": ")
    }
}

/// What may be said of an error that is a server's or a library's, if it is one.
fn known(error: &(dyn Error + 'static)) -> Option<String> {
    fn as_one<E: Error + Redact + 'static>(error: &(dyn Error + 'static)) -> Option<String> {
        error.downcast_ref::<E>().map(Redact::redacted)
    }
    as_one::<sqlx::Error>(error)
        .or_else(|| as_one::<sqlx::migrate::MigrateError>(error))
        .or_else(|| as_one::<::redis::RedisError>(error))
        .or_else(|| as_one::<lapin::Error>(error))
        .or_else(|| as_one::<serde_json::Error>(error))
        .or_else(|| as_one::<::csv::Error>(error))
        .or_else(|| as_one::<hyper::Error>(error))
        .or_else(|| as_one::<tokio::task::JoinError>(error))
        .or_else(|| as_one::<io::Error>(error))
        .or_else(|| {
            error
                .downcast_ref::<::toml::de::Error>()
                .map(files::message)
        })
}

/// What may be said of any error: of one that isn't known here, the quoted parts only where they are names.
fn of(error: &(dyn Error + 'static)) -> String {
    known(error).unwrap_or_else(|| kiln_contract::redact::names_only(&error.to_string()))
}

#[cfg(test)]
mod tests;
