//! `kiln models`: the commands about models, and what they share: loading the folder, naming what a model takes and gives.

mod activate;
mod bench;
mod check;
mod import;
mod list;
mod making;
mod quantise;
mod rollover;
mod shadow;
mod share;

use super::Exit;
use crate::{config::Settings, parts, redact::Redact};
use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use kiln_model::{InputKind, Model, PairRule, Registry, Task};
use std::sync::Arc;

/// Imports, lists, checks, quantizes, measures and activates models.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln models list
  kiln models import ./my-classifier --name sentiment --version 2
  kiln models check sentiment@2 --golden expected.jsonl
  kiln models quantize sentiment@2 --version 2-int8 --texts texts.txt
  kiln models bench sentiment
  kiln models activate sentiment@2 --warm 0.95")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    List(list::ListArguments),
    Inspect(list::InspectArguments),
    Import(import::Arguments),
    Check(check::Arguments),
    #[command(alias = "quantise")]
    Quantize(quantise::Arguments),
    Bench(bench::Arguments),
    Activate(activate::Arguments),
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    match arguments.action {
        Action::List(arguments) => list::list(arguments, settings).await,
        Action::Inspect(arguments) => list::inspect(arguments, settings).await,
        Action::Import(arguments) => import::run(arguments, settings).await,
        Action::Check(arguments) => check::run(arguments, settings).await,
        Action::Quantize(arguments) => quantise::run(arguments, settings).await,
        Action::Bench(arguments) => bench::run(arguments, settings).await,
        Action::Activate(arguments) => activate::run(arguments, settings).await,
    }
}

/// Has a registry serve what was chosen for all workers, where there is a database. Says so where that isn't known.
async fn follow(registry: &Registry, settings: &Settings) {
    if settings.database.url.is_none() {
        return;
    }
    let choices = match parts::postgres(settings) {
        Ok(store) => store.choices().await.map_err(anyhow::Error::from),
        Err(error) => Err(error),
    };
    match choices {
        Ok(choices) => drop(registry.choose(choices)),
        Err(error) => eprintln!("kiln: what was activated isn't known: {}", error.redacted()),
    }
}

/// Loads the models folder off the runtime's threads.
async fn open(settings: &Settings) -> anyhow::Result<Arc<Registry>> {
    let models = settings.clone();
    tokio::task::spawn_blocking(move || parts::open_registry(&models))
        .await
        .context("loading the models")?
}

fn resolve(registry: &Registry, reference: &str) -> anyhow::Result<Arc<Model>> {
    registry
        .resolve(reference)
        .map_err(|unknown| anyhow!(unknown))
}

/// What a model takes, in words.
fn takes(input: InputKind) -> String {
    match input {
        InputKind::Text { pair } => match pair {
            PairRule::None => "text".to_owned(),
            PairRule::Optional => "text or pair".to_owned(),
            PairRule::Required => "pair of texts".to_owned(),
        },
        InputKind::Features { count } => format!("{count} features"),
    }
}

/// What a model gives, in words.
fn gives(task: &Task, width: usize) -> String {
    match task {
        Task::Classification { labels } => format!("{} labels", labels.len()),
        Task::Scalar => "one number".to_owned(),
        Task::Embedding => format!("{width} numbers"),
    }
}
