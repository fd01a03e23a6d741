//! `kiln run`: the worker, until a signal stops it.
//!
//! Refuses to start without all three servers' URLs.

use super::Exit;
use crate::{config::Settings, redact::Redact, worker};
use clap::Args;
use std::path::PathBuf;

/// Runs the worker until SIGTERM or SIGINT.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  KILN_AMQP_URL=amqp://127.0.0.1 KILN_REDIS_URL=redis://127.0.0.1 KILN_DATABASE_URL=postgres://127.0.0.1/kiln kiln run
  kiln run --lanes reranker,embedder")]
pub(super) struct Arguments {
    /// Serve only these lanes, by their names (a model's name, unless the settings group models); jobs of others are moved to their
    /// lanes' queues [default: all].
    #[arg(long, value_delimiter = ',', value_name = "LANES")]
    lanes: Vec<String>,
}

pub(super) async fn run(
    arguments: Arguments,
    mut settings: Settings,
    file: Option<PathBuf>,
) -> anyhow::Result<Exit> {
    if !arguments.lanes.is_empty() {
        settings.intake.lanes = arguments.lanes;
    }
    let missing: Vec<&str> = [
        ("KILN_AMQP_URL", settings.amqp.url.is_none()),
        ("KILN_REDIS_URL", settings.redis.url.is_none()),
        ("KILN_DATABASE_URL", settings.database.url.is_none()),
    ]
    .into_iter()
    .filter_map(|(name, missing)| missing.then_some(name))
    .collect();
    if !missing.is_empty() {
        eprintln!(
            "kiln: not set: {}. `kiln score FILE` needs no servers.",
            missing.join(", ")
        );
        return Ok(Exit::Usage);
    }
    if let Err(error) = worker::run(settings, file.as_deref()).await {
        // The log is where operators look; the line on the terminal comes from `main`.
        tracing::error!(error = error.redacted(), "the worker stops");
        return Err(error);
    }
    Ok(Exit::Ok)
}
