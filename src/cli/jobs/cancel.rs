//! `kiln jobs cancel`: has workers drop the jobs of a run that they haven't taken yet.
//!
//! Promises that it holds for every worker of the database, also for one that starts later.

use super::name;
use crate::{cli::Exit, config::Settings, parts};
use anyhow::Context;
use clap::Args;
use serde_json::json;

/// Cancels a run of files over the fleet: workers drop its jobs that they haven't taken yet.
#[derive(Debug, Args)]
#[command(after_help = "\
Workers hear it within two seconds. A job that is dropped is answered with the code `cancelled`; what is in hand ends as ever. The
command that collects the run's results ends with exit code 1; what it has written so far stays, and the same command started
again goes on from there, as another run.

Example:
  kiln jobs cancel --run run-20261127-031500-1f2e3d4c")]
pub(super) struct Arguments {
    /// The run's name, as the command that began it has said it.
    #[arg(long, value_name = "ID", value_parser = name)]
    run: String,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    let store = parts::postgres(&settings)?;
    store.migrate().await.context("migrations")?;
    let changed = store.cancel_run(&arguments.run).await?;
    let done = store.run_jobs(&arguments.run).await?;
    let jobs = done.ok + done.rejected + done.dropped;
    let run = &arguments.run;
    if arguments.json {
        println!("{}", json!({"run": run, "changed": changed, "jobs": jobs}));
        return Ok(Exit::Ok);
    }
    match changed {
        true => println!("run {run} is cancelled, on every worker within two seconds"),
        false => println!("run {run} was cancelled already"),
    }
    if jobs == 0 {
        eprintln!("none of its jobs has ended yet: if it runs for a while, look at the name");
    }
    Ok(Exit::Ok)
}
