//! `kiln invalidate`

use super::Exit;
use crate::{config::Settings, job, parts};
use anyhow::{anyhow, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

/// Makes everything that was scored for a namespace until now worthless, on every worker at once.
#[derive(Debug, Args)]
#[command(after_help = "\
The next jobs of the namespace are scored anew; named entries and rankings are removed from Redis, a thousand at a time, before the
command ends. Scores never go stale by themselves: this is for a model that was replaced under its old version, or entries that a
fault has spoilt.

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
    if !job::is_namespace(&namespace) {
        bail!("namespace: expected 1 to 64 of a-z, 0-9, `_` and `-`");
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
            "{namespace} is invalid: its next jobs are scored anew; {} entries of its readers removed",
            removal.removed
        );
    }
    Ok(Exit::Ok)
}
