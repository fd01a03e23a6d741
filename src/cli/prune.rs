//! `kiln prune`: deletes old jobs, scores, what names were served, and warming runs.
//!
//! Promises small statements, so that workers aren't held up, and that a second run goes on where one was cut short.

use super::{Exit, age::age};
use crate::{
    config::Settings,
    parts,
    store::{Pruned, SqliteStore, Store},
};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;

/// Deletes old jobs, scores and what names were served, in bounded batches.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  kiln prune --older-than 30d")]
pub(super) struct Arguments {
    /// Minimum age of the rows to delete: a number with s, m, h or d.
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Duration,
    /// Rows per statement.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: u32,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    let store = match settings.database.url {
        Some(_) => Store::Postgres(parts::postgres(&settings)?),
        None => Store::Sqlite(SqliteStore::open(&settings.embedded.path).await?),
    };
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template(
        "{spinner} {pos} rows deleted, {per_sec}",
    )?);
    let pruned = store
        .prune(arguments.older_than, arguments.batch, |rows| {
            bar.set_position(rows)
        })
        .await?;
    bar.finish_and_clear();
    let Pruned {
        jobs,
        scores,
        served,
        runs,
    } = pruned;
    if arguments.json {
        reported!(
            "{}",
            serde_json::json!({"jobs": jobs, "scores": scores, "served": served, "runs": runs})
        );
    } else {
        reported!(
            "deleted {jobs} jobs, {scores} scores, {served} rows of what names were served and {runs} warming runs"
        );
    }
    Ok(Exit::Ok)
}
