//! What is said of an error of PostgreSQL or of its client: by the fields that the server sends beside its text (its code, the
//! position, the column, the table, the constraint), and by the text only where that is the server's own.

use super::{Redact, of, sqlite, sqlstate};
use kiln_contract::redact::{is_name, names_only};
use sqlx::{
    Error,
    error::DatabaseError,
    migrate::MigrateError,
    postgres::{PgDatabaseError, PgErrorPosition, PgSeverity},
    sqlite::SqliteError,
};
use std::fmt;

/// The code of an error of syntax.
const SYNTAX: &str = "42601";

pub(super) fn any(error: &Error) -> String {
    match error {
        Error::Database(error) => database(error.as_ref()),
        Error::Io(error) => format!("error communicating with database: {}", error.redacted()),
        Error::Tls(error) => format!(
            "error occurred while attempting to establish a TLS connection: {}",
            of(error.as_ref())
        ),
        Error::Configuration(error) => format!("error with configuration: {}", of(error.as_ref())),
        Error::ColumnDecode { index, source } => {
            let index = if is_name(index) { index } else { "?" };
            format!("column {index} can't be read: {}", value(source.as_ref()))
        }
        Error::Decode(error) => format!("a value can't be read: {}", value(error.as_ref())),
        Error::Encode(error) => format!("a value can't be written: {}", value(error.as_ref())),
        Error::Protocol(_) => "the database's answer can't be read".to_owned(),
        Error::InvalidArgument(text) | Error::ColumnNotFound(text) => {
            names_only(&format!("`{text}` isn't there"))
        }
        Error::Migrate(error) => migration(error),
        // The client's own fixed words.
        Error::RowNotFound
        | Error::TypeNotFound { .. }
        | Error::ColumnIndexOutOfBounds { .. }
        | Error::PoolTimedOut
        | Error::PoolClosed
        | Error::WorkerCrashed
        | Error::InvalidSavePointStatement
        | Error::BeginFailed => error.to_string(),
        _ => "the database's client failed".to_owned(),
    }
}

pub(super) fn migration(error: &MigrateError) -> String {
    match error {
        MigrateError::Execute(error) => format!("while executing migrations: {}", any(error)),
        MigrateError::ExecuteMigration(error, version) => {
            format!("while executing migration {version}: {}", any(error))
        }
        MigrateError::Source(error) => {
            format!("while resolving migrations: {}", of(error.as_ref()))
        }
        // Numbers of migrations, and fixed words.
        other => other.to_string(),
    }
}

/// Why a value doesn't fit its type in the program: the client names types only, unless it quotes.
fn value(error: &(dyn std::error::Error + 'static)) -> String {
    let text = error.to_string();
    let fixed = [
        "mismatched types; ",
        "unexpected null; ",
        "invalid utf-8 sequence",
    ];
    match fixed.iter().any(|start| text.starts_with(start)) {
        true => text,
        false => "it isn't of the type that was expected".to_owned(),
    }
}

fn database(error: &(dyn DatabaseError + 'static)) -> String {
    if let Some(error) = error.try_downcast_ref::<PgDatabaseError>() {
        return postgres(error);
    }
    let code = error.code();
    match error.try_downcast_ref::<SqliteError>() {
        Some(error) => sqlite::said(code.as_deref(), error.message()),
        None => "the database refuses".to_owned(),
    }
}

fn postgres(error: &PgDatabaseError) -> String {
    let position = match error.position() {
        Some(PgErrorPosition::Original(at)) => format!(", character {at} of the statement"),
        Some(PgErrorPosition::Internal { position, .. }) => {
            format!(", character {position} of a statement in a function")
        }
        None => String::new(),
    };
    ServerError::of(error, position).to_string()
}

/// What is said of an error of a statement that somebody wrote, for who can say where it stands.
#[derive(Debug)]
pub struct StatementError {
    /// Without a position.
    pub text: String,
    /// The character that the server points at, counted from 1.
    pub character: Option<usize>,
    /// Whether the statement itself is to blame, and not the server or the way to it.
    pub is_of_statement: bool,
}

/// What is said of an error of a statement.
pub fn statement(error: &Error) -> StatementError {
    let server = error.as_database_error();
    let server = server.and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    match server {
        Some(error) => StatementError {
            text: ServerError::of(error, String::new()).to_string(),
            character: match error.position() {
                Some(PgErrorPosition::Original(at)) => Some(at),
                _ => None,
            },
            is_of_statement: sqlstate::is_of_statement(error.code()),
        },
        None => StatementError {
            text: any(error),
            character: None,
            is_of_statement: false,
        },
    }
}

/// What the server sends.
struct ServerError<'a> {
    severity: &'static str,
    code: &'a str,
    text: &'a str,
    /// What has a field of its own.
    names: [(&'static str, Option<&'a str>); 4],
    position: String,
}

impl fmt::Display for ServerError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (meaning, condition) = sqlstate::meaning(self.code);
        // A server that speaks another language quotes in ways that aren't all known.
        match sqlstate::is_fixed(self.code, self.text) && self.text.is_ascii() {
            true => f.write_str(&names_only(self.text))?,
            false => f.write_str(meaning)?,
        }
        for (what, name) in self.named() {
            write!(f, ", {what} `{name}`")?;
        }
        write!(f, " ({}SQLSTATE {}", self.severity, self.code)?;
        if let Some(condition) = condition {
            write!(f, " {condition}")?;
        }
        write!(f, "{})", self.position)
    }
}

impl<'a> ServerError<'a> {
    fn of(error: &'a PgDatabaseError, position: String) -> Self {
        Self {
            severity: match error.severity() {
                PgSeverity::Fatal => "FATAL, ",
                PgSeverity::Panic => "PANIC, ",
                _ => "",
            },
            code: error.code(),
            text: error.message(),
            names: [
                ("column", error.column()),
                ("table", error.table()),
                ("constraint", error.constraint()),
                ("type", error.data_type()),
            ],
            position,
        }
    }

    /// The names that have fields of their own; without any, those that the text quotes.
    fn named(&self) -> Vec<(&'static str, &str)> {
        let fields = self.names.iter();
        let mut names: Vec<_> = fields
            .filter_map(|(what, name)| Some((*what, (*name)?)))
            .collect();
        // What isn't found or isn't allowed: in class 42 the text quotes the statement, which is nobody's row.
        if names.is_empty() && self.code.starts_with("42") {
            let quoted = self.text.split('"').skip(1).step_by(2);
            let what = if self.code == SYNTAX { "at" } else { "name" };
            names.extend(quoted.map(|name| (what, name)));
        }
        names.retain(|(_, name)| is_name(name));
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANARY: &str = "anna.private@example.org";

    fn said(code: &str, text: &str, names: [Option<&str>; 4]) -> String {
        let [column, table, constraint, kind] = names;
        let error = ServerError {
            severity: "",
            code,
            text,
            names: [
                ("column", column),
                ("table", table),
                ("constraint", constraint),
                ("type", kind),
            ],
            position: ", character 8 of the statement".to_owned(),
        };
        error.to_string()
    }

    #[test]
    fn a_server_s_text_is_replaced_by_what_its_code_means() {
        let none = [None; 4];
        let cast = format!("invalid input syntax for type integer: \"{CANARY}\"");
        assert_eq!(
            said("22P02", &cast, none),
            "a text can't be read as the type that it is to be (SQLSTATE 22P02 invalid_text_representation, \
             character 8 of the statement)"
        );
        let unique = [None, Some("users"), Some("users_mail_key"), None];
        assert_eq!(
            said("23505", "duplicate key value", unique),
            "a unique constraint refuses the row, table `users`, constraint `users_mail_key` (SQLSTATE 23505 \
             unique_violation, character 8 of the statement)"
        );
        let column = "column \"rats\" does not exist";
        assert!(said("42703", column, none).contains("no such column, name `rats` ("));
        // Double quotes where single ones were meant.
        let literal = format!("column \"{CANARY}\" does not exist");
        assert!(said("42703", &literal, none).starts_with("there is no such column (SQLSTATE"));
        let timeout = "canceling statement due to statement timeout";
        assert!(said("57014", timeout, none).starts_with(timeout));
        for code in [
            "22001", "22003", "22012", "P0001", "XX000", "99999", "", "2", "é",
        ] {
            for text in [cast.as_str(), CANARY] {
                assert!(!said(code, text, none).contains("anna"), "{code}");
            }
        }
        let other = "FEHLER: »anna.private@example.org« gibt’s nicht";
        assert!(!said("3D000", other, none).contains("anna"));
    }

    #[test]
    fn a_value_that_the_client_cannot_take_is_not_shown() {
        let decode = Error::Decode(format!("expected a day, found {CANARY}").into());
        let column = Error::ColumnDecode {
            index: "\"mail\"".into(),
            source: format!("no number: {CANARY}").into(),
        };
        let encode = Error::Encode(CANARY.into());
        for error in [decode, column, encode, Error::Protocol(CANARY.into())] {
            assert!(!any(&error).contains("anna"), "{error}");
        }
        let column = Error::ColumnDecode {
            index: "mail".into(),
            source: "unexpected null; try decoding as an `Option`".into(),
        };
        assert_eq!(
            any(&column),
            "column mail can't be read: unexpected null; try decoding as an `Option`"
        );
    }
}
