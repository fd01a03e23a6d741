//! `kiln migrate`: brings the database's tables up to date, as `kiln run` does, and moves jobs into partitions where that is asked for.

use super::{Exit, progress};
use crate::{config::Settings, parts, store::Moved};
use clap::Args;
use indicatif::ProgressBar;
use std::time::Instant;

/// Brings the database's tables up to date. `kiln run` does the same when it starts.
#[derive(Debug, Args)]
#[command(after_help = "\
--partition moves `jobs` into daily partitions, which `kiln prune` drops whole. Workers go on
meanwhile, and it may be cut short: it goes on where it was. Only once every worker is of this
release: earlier ones can't write to the tables that it makes.

Examples:
  KILN_DATABASE_URL=postgres://127.0.0.1/kiln kiln migrate
  kiln migrate --partition")]
pub(super) struct Arguments {
    /// Also move `jobs` into daily partitions.
    #[arg(long)]
    partition: bool,
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    let store = parts::postgres(&settings)?;
    match store.migrate().await? {
        None => reported!("the database is up to date"),
        Some(newer) => reported!(
            "the database is up to date; a newer release's migrations, up to {newer}, are there as well"
        ),
    }
    if !arguments.partition {
        return Ok(Exit::Ok);
    }
    let start = Instant::now();
    let template = "{bar:40} {percent}% of the table's blocks, {eta} left";
    let bar = progress::on_terminal(ProgressBar::new(0), template);
    let moved = store.partition_jobs(|done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    let moved = moved.await?;
    bar.finish_and_clear();
    match moved {
        Moved::Now => reported!(
            "jobs are in daily partitions, after {:.1} s; results from before stay in jobs_before until they are pruned",
            start.elapsed().as_secs_f64()
        ),
        Moved::Before => reported!("jobs are in daily partitions already"),
    }
    Ok(Exit::Ok)
}
