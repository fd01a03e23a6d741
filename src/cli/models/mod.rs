//! `kiln models`

mod import;

use super::Exit;
use crate::config::Settings;
use clap::{Args, Subcommand};

/// Brings models in and looks after them.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  kiln models import ./my-classifier --name sentiment --version 2")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Import(import::Arguments),
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    match arguments.action {
        Action::Import(arguments) => import::run(arguments, settings).await,
    }
}
