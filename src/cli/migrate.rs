//! `kiln migrate`: brings the database's tables up to date, as `kiln run` does.

use super::Exit;
use crate::{config::Settings, parts};
use clap::Args;

/// Brings the database's tables up to date. `kiln run` does the same when it starts.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  KILN_DATABASE_URL=postgres://127.0.0.1/kiln kiln migrate")]
pub(super) struct Arguments {}

pub(super) async fn run(_: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    match parts::postgres(&settings)?.migrate().await? {
        None => println!("the database is up to date"),
        Some(newer) => println!(
            "the database is up to date; a newer release's migrations, up to {newer}, are there as well"
        ),
    }
    Ok(Exit::Ok)
}
