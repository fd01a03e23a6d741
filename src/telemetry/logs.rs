//! Owns how log lines look, and which are written. Lines go to standard error: standard output belongs to results.
//!
//! Promises that levels can be changed while the worker runs, and that no level, however talkative, lets the libraries that
//! carry bodies and passwords say more than what happened: below INFO only Kiln's own lines are written; and that a panic says where
//! it happened, and nothing of what it failed on.

use super::recent::Recent;
use crate::config::{Log, LogFormat};
use chrono::{DateTime, Utc};
use std::{
    backtrace::{Backtrace, BacktraceStatus},
    cell::Cell,
    collections::BTreeMap,
    fmt::Debug,
    io::{IsTerminal, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::OnceLock,
};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::filter_fn,
    fmt,
    fmt::MakeWriter,
    layer::{Context, SubscriberExt},
    reload,
    util::SubscriberInitExt,
};

/// Where the levels can be changed.
static LEVELS: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Whose lines these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    Worker,
    /// The process that runs a worker's suspects: its lines stand among the worker's.
    Suspects,
    /// A command, which shows progress instead: of its lines only warnings are written.
    Command,
}

/// Starts logging. A second call does nothing.
pub fn start(settings: &Log, speaker: Speaker) -> Result<(), String> {
    let quiet = speaker == Speaker::Command;
    let default = Log::default().filter;
    let wanted = if quiet && settings.filter == default {
        // The client library reports as an error what a command handles, such as a queue that is missing.
        "warn,lapin=off"
    } else {
        settings.filter.as_str()
    };
    let filter = parse(wanted).map_err(|e| format!("setting `log.filter`: {e}"))?;
    std::panic::set_hook(Box::new(report_panic));
    let (filter, levels) = reload::Layer::new(filter);
    let _already_set = LEVELS.set(levels);
    let terminal = std::io::stderr().is_terminal();
    let json = match settings.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !terminal && !quiet,
    };
    let registry = tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(may_speak))
        .with(RecentLines);
    // An error here means that a subscriber is set already, which is what was asked for.
    let named = Named::of(speaker);
    let _already_set = if json {
        registry
            .with(fmt::layer().json().flatten_event(true).with_writer(named))
            .try_init()
    } else {
        registry
            .with(
                fmt::layer()
                    .with_ansi(terminal)
                    .with_target(false)
                    .with_writer(named),
            )
            .try_init()
    };
    Ok(())
}

thread_local! {
    /// Whether a panic of this thread is caught by who expects it.
    static IS_EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs what may panic on data from outside, as libraries do; nothing where it did. Nothing is said of it either: that is its caller's.
#[cfg_attr(
    not(feature = "parquet"),
    expect(dead_code, reason = "only libraries of tables panic")
)]
pub fn caught<T>(run: impl FnOnce() -> T) -> Option<T> {
    let before = IS_EXPECTED.replace(true);
    let ended = catch_unwind(AssertUnwindSafe(run)).ok();
    IS_EXPECTED.set(before);
    ended
}

/// Says where a thread panicked, and why as far as that quotes nothing: a panic's text may hold what it failed on.
fn report_panic(panic: &std::panic::PanicHookInfo<'_>) {
    if IS_EXPECTED.get() {
        return;
    }
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("unnamed");
    let at = panic.location().map(ToString::to_string);
    let at = at.unwrap_or_default();
    let reason = kiln_contract::redact::panic(panic.payload());
    let backtrace = Backtrace::capture();
    let trace = match backtrace.status() {
        BacktraceStatus::Captured => format!("\n{backtrace}"),
        _ => String::new(),
    };
    // Nobody may read standard error any more, and a panic in here would end the process.
    let _unread = writeln!(
        std::io::stderr().lock(),
        "thread '{name}' panicked at {at}: {reason}{trace}"
    );
}

/// Levels in the syntax of tracing's `EnvFilter`, such as `info,kiln=debug`.
fn parse(levels: &str) -> Result<EnvFilter, String> {
    let parsed = EnvFilter::builder().parse(levels);
    parsed.map_err(|e| format!("{e}; expected levels such as `info,kiln=debug`"))
}

/// The levels in force; nothing before logging has started.
pub fn levels() -> Option<String> {
    let levels = LEVELS.get()?;
    levels.with_current(ToString::to_string).ok()
}

/// Changes the levels from now on. An error says what is wrong with them.
pub fn set_levels(wanted: &str) -> Result<(), String> {
    let filter = parse(wanted)?;
    match LEVELS.get() {
        Some(levels) => levels.reload(filter).map_err(|e| e.to_string()),
        None => Err("logging hasn't started".to_owned()),
    }
}

/// A line that was logged.
#[derive(Debug, Clone)]
pub struct Logged {
    pub at: DateTime<Utc>,
    pub level: &'static str,
    pub message: String,
    pub fields: BTreeMap<String, String>,
}

static RECENT: Recent<Logged> = Recent::new();

/// The last warnings and errors, the newest first.
pub fn recent() -> Vec<Logged> {
    RECENT.list()
}

/// Keeps the last warnings and errors.
struct RecentLines;

impl<S: Subscriber> Layer<S> for RecentLines {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let level = *event.metadata().level();
        if level > Level::WARN {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let message = fields.0.remove("message").unwrap_or_default();
        RECENT.push(Logged {
            at: crate::clock::now(),
            level: level.as_str(),
            message,
            fields: fields.0,
        });
    }
}

/// The fields of a line, as text.
#[derive(Default)]
struct Fields(BTreeMap<String, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}

fn may_speak(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    // A message that comes back is logged whole there, as a warning; and what callers handle is reported as an error, such as a lane's
    // queue that isn't there.
    // What functions in a database notify of, and what a URL has that isn't known, are shown with their values.
    let hidden = [
        "lapin::returned_messages",
        "sqlx::postgres::notice",
        "sqlx_postgres::options",
        // What it tries again it logs with its address, which may be signed.
        "object_store",
        // What clients of the HTTP port do is theirs to know, and they could do it without end.
        "h2",
    ];
    let is_hidden = hidden.iter().any(|one| target.starts_with(one)) || target == "lapin::channel";
    !is_hidden && (*metadata.level() <= Level::INFO || target.starts_with("kiln"))
}

/// Standard error, with every line saying whose it is.
struct Named {
    /// What a line of JSON begins with.
    json: String,
    /// What a line of text begins with.
    text: &'static str,
}

impl Named {
    fn of(speaker: Speaker) -> Self {
        let (name, text) = match speaker {
            Speaker::Suspects => (super::suspects_name(), "suspects: "),
            Speaker::Worker | Speaker::Command => (super::worker_name(), ""),
        };
        let name = serde_json::Value::from(name);
        Self {
            json: format!("{{\"worker\":{name},"),
            text,
        }
    }

    fn line(&self, line: &[u8]) -> Vec<u8> {
        match line.strip_prefix(b"{") {
            Some(rest) => [self.json.as_bytes(), rest].concat(),
            None => [self.text.as_bytes(), line].concat(),
        }
    }
}

/// One line on its way.
struct Line<'a>(&'a Named);

impl<'a> MakeWriter<'a> for Named {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line(self)
    }
}

impl Write for Line<'_> {
    /// Takes a whole line: that is how the formatter writes one. A line that can't be written is lost: the formatter would say so on
    /// standard error too, and panic where that is closed.
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let _unread = std::io::stderr().lock().write_all(&self.0.line(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let _unread = std::io::stderr().flush();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::Read,
        process::{Command, Stdio},
    };

    #[test]
    fn lines_of_the_process_for_suspects_say_so() {
        let named = Named::of(Speaker::Suspects);
        let line = named.line(b"{\"level\":\"INFO\"}\n");
        let line: serde_json::Value = serde_json::from_slice(&line).expect("a line of JSON");
        let worker = line["worker"].as_str().expect("a name");
        assert!(worker.ends_with("/suspects"), "{worker}");
        assert_eq!(line["level"], "INFO");
        assert_eq!(named.line(b"INFO hello\n"), b"suspects: INFO hello\n");
        let worker = Named::of(Speaker::Worker);
        assert_eq!(worker.line(b"INFO hello\n"), b"INFO hello\n");
    }

    /// Set in the process that [`a_process_outlives_the_reader_of_its_log`] starts.
    const CHILD: &str = "KILN_TEST_UNREAD_LOG";

    #[test]
    fn a_process_outlives_the_reader_of_its_log() {
        if std::env::var_os(CHILD).is_some() {
            // Until the other end is closed.
            std::io::stdin()
                .read_to_end(&mut Vec::new())
                .expect("an end");
            start(&Log::default(), Speaker::Worker).expect("logging starts");
            tracing::error!("nobody reads this");
            let caught = std::panic::catch_unwind(|| panic!("nobody reads this"));
            std::process::exit(if caught.is_err() { 42 } else { 1 });
        }
        let name = "telemetry::logs::tests::a_process_outlives_the_reader_of_its_log";
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", name, "--nocapture"])
            .env(CHILD, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        drop(child.stderr.take());
        drop(child.stdin.take());
        assert_eq!(child.wait().expect("it ends").code(), Some(42));
    }
}
