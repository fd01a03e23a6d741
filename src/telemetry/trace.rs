//! Owns how log lines look. Lines go to standard error: standard output belongs to results.

use crate::config::{Log, LogFormat};
use std::io::IsTerminal;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// Starts logging. `quiet` raises the default level to warnings, for commands that show progress instead.
/// A second call does nothing.
pub fn start(settings: &Log, quiet: bool) -> Result<(), String> {
    let default = Log::default().filter;
    let wanted = if quiet && settings.filter == default {
        // The client library reports as an error what a command handles, such as a queue that is missing.
        "warn,lapin=off"
    } else {
        settings.filter.as_str()
    };
    let filter = EnvFilter::try_new(wanted).map_err(|e| format!("setting `log.filter`: {e}"))?;
    let terminal = std::io::stderr().is_terminal();
    let json = match settings.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !terminal && !quiet,
    };
    let registry = tracing_subscriber::registry().with(filter);
    // An error here means that a subscriber is set already, which is what was asked for.
    let _already_set = if json {
        registry
            .with(
                fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_writer(std::io::stderr),
            )
            .try_init()
    } else {
        registry
            .with(
                fmt::layer()
                    .with_ansi(terminal)
                    .with_target(false)
                    .with_writer(std::io::stderr),
            )
            .try_init()
    };
    Ok(())
}
