//! What is said of an error of PostgreSQL or of its client: by the fields that the server sends beside its text (its code, the
//! position, the column, the table, the constraint), and by the text only where that is the server's own.

use super::{Redact, of, sqlstate};
use kiln_contract::redact::{is_name, names_only};
use sqlx::{
    Error,
    error::DatabaseError,
    migrate::MigrateError,
    postgres::{PgDatabaseError, PgErrorPosition, PgSeverity},
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
    match error.try_downcast_ref::<PgDatabaseError>() {
        Some(error) => postgres(error),
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
    let own = is_own_script(error.r#where());
    let error = ServerError::of(error, position);
    let is_own = error.is_raised && own;
    ServerError { is_own, ..error }.to_string()
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
    /// Whether it points at a character of the statement: then it read the statement, and no row yet.
    is_pointed: bool,
    /// Whether it was in a function, or at a row.
    has_context: bool,
    /// Whether a function said it: all of it is what somebody wrote, or what stands in a row.
    is_raised: bool,
    /// Whether that was a script of Kiln's own, which names objects and no rows.
    is_own: bool,
}

/// The files of the server's languages for functions.
const LANGUAGES: [&str; 5] = ["pl_", "plperl", "plpy", "pltcl", "plv8"];

/// Names of the server's own files, which it counts.
const FILES: [&str; 3] = ["base/", "global/", "pg_"];

impl fmt::Display for ServerError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (meaning, condition) = sqlstate::meaning(self.code);
        match self.is_text_shown() {
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
            is_pointed: matches!(error.position(), Some(PgErrorPosition::Original(_))),
            has_context: error.r#where().is_some_and(|context| !context.is_empty()),
            is_raised: is_raised(error.routine(), error.file()),
            is_own: false,
        }
    }

    /// Whether the server's own text may be shown.
    fn is_text_shown(&self) -> bool {
        if self.is_own {
            return true;
        }
        let is_own = sqlstate::is_fixed(self.code, self.text) && !self.is_raised;
        // A server that speaks another language quotes in ways that aren't all known.
        if !is_own || !self.text.is_ascii() {
            return false;
        }
        let is_file = |name: &str| FILES.iter().any(|start| name.starts_with(start));
        let is_of_row = self.severity.is_empty() && sqlstate::is_asked(self.code);
        !is_of_row || quoted(self.text).all(is_file)
    }

    /// The names that have fields of their own; without any, those that the text has.
    fn named(&self) -> Vec<(&'static str, &str)> {
        // A function gives the fields values too.
        if self.is_raised {
            return Vec::new();
        }
        let fields = self.names.iter();
        let mut names: Vec<_> = fields
            .filter_map(|(what, name)| Some((*what, (*name)?)))
            .collect();
        // What isn't found: in class 42 the text quotes the statement, which is nobody's row. A statement that a function puts
        // together, and a name that it is asked for, may be.
        let is_of_statement =
            !self.has_context && (self.is_pointed || sqlstate::is_made(self.code));
        if names.is_empty() && self.code.starts_with("42") && is_of_statement {
            let what = if self.code == SYNTAX { "at" } else { "name" };
            names.extend(quoted(self.text).map(|name| (what, name)));
        }
        if names.is_empty() && !self.is_text_shown() {
            names.extend(self.found());
        }
        names.retain(|(_, name)| is_name(name));
        names
    }

    /// The name in a text of the server that has it without quotes, or in a class that has other texts too.
    fn found(&self) -> Option<(&'static str, &str)> {
        let text = self.text;
        match self.code {
            "42501" => {
                let heads = ["permission denied for ", "must be owner of "];
                kind_and_name(heads.iter().find_map(|head| text.strip_prefix(head))?)
            }
            "42883" | "42725" if self.is_pointed && !self.has_context => {
                let (kind, rest) = kind_and_rest(text)?;
                Some((kind, rest.split_once('(')?.0))
            }
            "0A000" | "58P01" if !self.has_context => {
                let rest = text.strip_prefix("extension \"")?;
                Some(("extension", rest.strip_suffix("\" is not available")?))
            }
            "XX001" | "XX002" => {
                let of = |mark: &str| text.split_once(mark)?.1.split([' ', ',', ';']).next();
                let index = text
                    .strip_prefix("index \"")
                    .and_then(|rest| rest.split('"').next());
                let toast = of(" in pg_toast")
                    .and(text.rsplit_once(" in "))
                    .map(|(_, name)| name);
                index
                    .map(|name| ("index", name))
                    .or_else(|| Some(("relation", of(" of relation ")?)))
                    .or_else(|| Some(("table", toast?)))
                    .map(|(kind, name)| (kind, name.trim_matches('"')))
            }
            _ => None,
        }
    }
}

/// Whether a function said an error.
fn is_raised(routine: Option<&str>, file: Option<&str>) -> bool {
    let file = file.and_then(|file| file.rsplit('/').next()).unwrap_or("");
    routine == Some("exec_stmt_raise") || LANGUAGES.iter().any(|start| file.starts_with(start))
}

/// Whether the innermost of what an error was raised in is a script of Kiln's own: a block without a name, which nobody else has its own
/// database run, or a function that Kiln made there. Of statements that somebody wrote this isn't asked.
fn is_own_script(context: Option<&str>) -> bool {
    let innermost = context.and_then(|context| context.lines().next());
    let mut words = innermost.unwrap_or("").split_whitespace();
    words.any(|word| {
        let name = word.rsplit('.').next().unwrap_or(word);
        let own = name.strip_prefix("kiln");
        name == "inline_code_block" || own.is_some_and(|rest| rest.starts_with('_'))
    })
}

/// The parts in double quotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('"').skip(1).step_by(2)
}

/// What the server names without quotes.
const KINDS: [&str; 20] = [
    "aggregate",
    "column",
    "database",
    "domain",
    "extension",
    "foreign server",
    "foreign table",
    "function",
    "index",
    "language",
    "large object",
    "materialized view",
    "parameter",
    "procedure",
    "publication",
    "relation",
    "schema",
    "sequence",
    "table",
    "view",
];

fn kind_and_rest(text: &str) -> Option<(&'static str, &str)> {
    KINDS.into_iter().find_map(|kind| {
        let rest = text.strip_prefix(kind)?.strip_prefix(' ')?;
        Some((kind, rest))
    })
}

fn kind_and_name(text: &str) -> Option<(&'static str, &str)> {
    kind_and_rest(text).map(|(kind, name)| (kind, name.trim_matches('"')))
}

#[cfg(test)]
mod tests;
