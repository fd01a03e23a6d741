//! `kiln jobs`: the commands about jobs that were posted, and about runs of files over the fleet.

mod cancel;
mod find;
mod run;
mod show;
mod wait;

use super::Exit;
use crate::config::Settings;
use clap::{Args, Subcommand};
use kiln_contract::job;

/// Finds jobs that have ended, shows one, or waits for some; shows and cancels runs of files over the fleet.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln jobs find --status rejected --from 2h
  kiln jobs show reviews-7
  kiln jobs wait reviews-7 reviews-8
  kiln jobs cancel --run run-20261127-031500-1f2e3d4c")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Find(Box<find::Arguments>),
    Show(show::Arguments),
    Wait(wait::Arguments),
    Run(run::Arguments),
    Cancel(cancel::Arguments),
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    match arguments.action {
        Action::Find(arguments) => find::run(*arguments, &settings).await,
        Action::Show(arguments) => show::run(arguments, &settings).await,
        Action::Wait(arguments) => wait::run(arguments, &settings).await,
        Action::Run(arguments) => run::run(arguments, settings).await,
        Action::Cancel(arguments) => cancel::run(arguments, settings).await,
    }
}

/// Checks an id that was given.
fn job_id(text: &str) -> Result<String, String> {
    match job::is_job_id(text) {
        true => Ok(text.to_owned()),
        false => Err(job::EXPECTED_JOB_ID.to_owned()),
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
