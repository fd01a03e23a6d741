//! `kiln jobs`: what is known of jobs and of runs of files over the fleet, and cancelling these.

mod cancel;
mod run;

use super::Exit;
use crate::config::Settings;
use clap::{Args, Subcommand};
use kiln_contract::job;

/// Looks at runs of files over the fleet, and cancels them.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Cancel(cancel::Arguments),
    Run(run::Arguments),
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    match arguments.command {
        Command::Cancel(arguments) => cancel::run(arguments, settings).await,
        Command::Run(arguments) => run::run(arguments, settings).await,
    }
}

/// Longest name of a run.
const MAX_NAME: usize = 64;

/// A run's name, as the command that began it has said it.
fn name(text: &str) -> Result<String, String> {
    let fits = text.len() <= MAX_NAME && job::is_job_id(text) && !text.contains('.');
    match fits {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "expected a run's name, such as `kiln score --fleet` says it: at most {MAX_NAME} printable ASCII characters, no dot"
        )),
    }
}
