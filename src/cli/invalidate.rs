//! `kiln invalidate`: invalidates a namespace's cached scores on every worker, then removes its named entries and rankings.
//!
//! Promises that workers use no score from before, even where the removal is cut short.

use super::Exit;
use crate::{config::Settings, parts};
use anyhow::{anyhow, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use kiln_contract::name;
use serde_json::json;

/// Invalidates a namespace's cached scores, on every worker at once.
#[derive(Debug, Args)]
#[command(after_help = "\
The next jobs of the namespace are scored again; its named entries and rankings are removed from Redis, a thousand at a time,
before the command ends. Scores don't go stale by themselves: use it if a model was replaced under its old version, or if a bug
wrote wrong entries.

Examples:
  kiln invalidate feed
  kiln invalidate feed --json")]
pub(super) struct Arguments {
    /// The namespace; jobs that name none are in their model's.
    namespace: String,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    let namespace = arguments.namespace;
    if !name::is_name(&namespace) {
        bail!("namespace: {}", name::EXPECTED_NAME);
    }
    let redis = parts::redis_at_hand(&settings).await?;
    let failed = |reason: String| anyhow!("redis at {}: {reason}", redis.host());
    redis.invalidate(&namespace).await.map_err(failed)?;
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template(
        "{spinner} {pos} entries removed, {per_sec}",
    )?);
    let mut removal = redis.removal(&namespace);
    while !removal.done {
        removal.step().await.map_err(failed)?;
        bar.set_position(removal.removed);
    }
    bar.finish_and_clear();
    if arguments.json {
        println!(
            "{}",
            json!({"namespace": namespace, "removed": removal.removed})
        );
    } else {
        println!(
            "{namespace} is invalidated: its next jobs are scored again; {} named entries and rankings are removed",
            removal.removed
        );
    }
    Ok(Exit::Ok)
}
