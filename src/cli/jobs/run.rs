//! `kiln jobs run`: how far a run of files over the fleet has come, as far as the servers know.

use super::name;
use crate::{
    amqp::topology::{Topology, inspect},
    cli::{
        Exit,
        post::{close, connect},
    },
    clock,
    config::Settings,
    parts,
};
use clap::Args;
use serde_json::json;

/// Shows how far a run of files over the fleet has come.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  kiln jobs run run-20261127-031500-1f2e3d4c")]
pub(super) struct Arguments {
    /// The run's name, as the command that began it has said it.
    #[arg(value_name = "ID", value_parser = name)]
    run: String,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    let run = &arguments.run;
    let jobs = parts::postgres(&settings)?.run_jobs(run).await?;
    let topology = Topology::new(&settings.queues, &settings.retry);
    let broker = parts::broker(&settings)?;
    let connection = connect(&broker, "jobs").await?;
    let queue = topology.run(run).name;
    let seen = inspect(&connection, &queue, broker.timeout()).await?;
    close(&connection).await;
    let is_collected = seen.is_some_and(|seen| seen.consumers > 0);
    let replies = seen.map(|seen| seen.messages);
    let cancelled = jobs.cancelled_at.map(clock::rfc3339);
    if arguments.json {
        let state = json!({
            "run": run, "done": jobs.ok, "rejected": jobs.rejected, "dropped": jobs.dropped, "cancelled_at": cancelled,
            "replies_waiting": replies, "is_collected": is_collected,
        });
        println!("{state}");
        return Ok(Exit::Ok);
    }
    let line = |name: &str, value: String| println!("{name:<16}{value:>12}");
    line("jobs done", jobs.ok.to_string());
    line("rejected", jobs.rejected.to_string());
    line("dropped", jobs.dropped.to_string());
    match replies {
        None => println!("nobody has it open: it is over, or has never begun"),
        Some(replies) => {
            line("replies waiting", replies.to_string());
            if !is_collected {
                println!("its command doesn't run now: start it again to go on");
            }
        }
    }
    if let Some(at) = cancelled {
        println!("cancelled at {at}");
    }
    Ok(Exit::Ok)
}
