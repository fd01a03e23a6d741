//! `kiln jobs`: the commands about jobs that were posted.

mod find;
mod show;
mod wait;

use super::Exit;
use crate::config::Settings;
use clap::{Args, Subcommand};

/// Finds jobs that have ended, shows one, or waits for some.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln jobs find --status rejected --from 2h
  kiln jobs show reviews-7
  kiln jobs wait reviews-7 reviews-8")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Find(Box<find::Arguments>),
    Show(show::Arguments),
    Wait(wait::Arguments),
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    match arguments.action {
        Action::Find(arguments) => find::run(*arguments, &settings).await,
        Action::Show(arguments) => show::run(arguments, &settings).await,
        Action::Wait(arguments) => wait::run(arguments, &settings).await,
    }
}

/// Checks an id that was given.
fn job_id(text: &str) -> Result<String, String> {
    match kiln_contract::job::is_job_id(text) {
        true => Ok(text.to_owned()),
        false => Err(kiln_contract::job::EXPECTED_JOB_ID.to_owned()),
    }
}
