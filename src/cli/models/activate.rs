//! `kiln models activate`

use super::open;
use crate::{app, cli::Exit, config::Settings};
use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;

/// Makes a version the one that a bare model name means, on every worker of this database, within a second.
#[derive(Debug, Args)]
#[command(after_help = "\
The version must be in the models folder here and pass its checks. A worker that doesn't have it goes on serving
what it served, says so in its log and in kiln_model_activations_pending, and follows as soon as it has it.

Examples:
  kiln models activate sentiment@2
  kiln models activate sentiment --default")]
pub(super) struct Arguments {
    /// name@version; with --default, the name alone.
    model: String,
    /// Take the choice back: workers serve what their settings name, or else the highest version.
    #[arg(long)]
    default: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    let store = app::postgres(&settings)?;
    let (name, version) = match (arguments.model.split_once('@'), arguments.default) {
        (Some((name, version)), false) => (name, Some(version)),
        (None, true) => (arguments.model.as_str(), None),
        (None, false) => bail!("expected name@version, found {:?}", arguments.model),
        (Some(_), true) => bail!("--default takes a name without a version"),
    };
    if version.is_some() {
        let registry = open(&settings).await?;
        super::resolve(&registry, &arguments.model)?;
    }
    store.migrate().await.context("migrations")?;
    let before = store.chosen_models().await?.remove(name);
    match version {
        Some(version) => store.choose_model(name, version).await?,
        None => {
            store.unchoose_model(name).await?;
        }
    }
    if arguments.json {
        println!(
            "{}",
            json!({"model": name, "version": version, "before": before})
        );
        return Ok(Exit::Ok);
    }
    let was = before.map_or_else(
        || "no version was chosen before".to_owned(),
        |version| format!("{version} was before"),
    );
    match version {
        Some(version) => println!("{name}@{version} is active; {was}"),
        None => println!("{name} is as the workers' settings say; {was}"),
    }
    Ok(Exit::Ok)
}
