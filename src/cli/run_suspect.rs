//! `kiln run-suspect`: the process in which a worker runs jobs that it suspects of killing workers.
//!
//! Refuses to be of use to anybody else: it talks to the worker that started it, over its standard input and output.

use super::Exit;
use crate::{config::Settings, worker};
use clap::Args;

/// Runs suspected jobs for the worker that starts it.
#[derive(Debug, Args)]
pub(super) struct Arguments {}

pub(super) async fn run(_: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    worker::serve(settings).await?;
    Ok(Exit::Ok)
}
