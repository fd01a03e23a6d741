//! `kiln pause` and `kiln resume`: whether workers take jobs, and whether a schedule runs by itself.
//!
//! Promises that it holds for every worker of the database, also for one that starts later.

use super::{Exit, actor};
use crate::{
    config::Settings,
    parts,
    store::{ActionKind, INTAKE, SCHEDULE},
    warm::folder::Folder,
};
use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;

/// Stops all workers of this database from taking jobs, or a schedule from running by itself.
#[derive(Debug, Args)]
#[command(after_help = "\
Workers follow within a second and finish the jobs in hand. The pause lasts until `kiln resume`, also across restarts.

Examples:
  kiln pause
  kiln pause trending-queries")]
pub(super) struct Arguments {
    /// The schedule's name [default: taking jobs].
    schedule: Option<String>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Lets workers take jobs again, or a schedule run by itself again.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln resume
  kiln resume trending-queries")]
pub(super) struct ResumeArguments {
    /// The schedule's name [default: taking jobs].
    schedule: Option<String>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn pause(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    steer(arguments.schedule, arguments.json, true, &settings).await
}

pub(super) async fn resume(arguments: ResumeArguments, settings: Settings) -> anyhow::Result<Exit> {
    steer(arguments.schedule, arguments.json, false, &settings).await
}

async fn steer(
    schedule: Option<String>,
    json: bool,
    pause: bool,
    settings: &Settings,
) -> anyhow::Result<Exit> {
    let name = match &schedule {
        None => INTAKE.to_owned(),
        Some(schedule) => {
            let mut folder = Folder::new(&settings.warm.dir);
            folder.scan();
            // One whose file is gone or bad can still be let go on.
            if pause && folder.get(schedule).is_none() {
                let dir = settings.warm.dir.display();
                bail!("there is no schedule `{schedule}` in {dir}");
            }
            format!("{SCHEDULE}{schedule}")
        }
    };
    let store = parts::postgres(settings)?;
    store.migrate().await.context("migrations")?;
    let changed = if pause {
        store.pause(&name, &actor::user()).await?
    } else {
        store.resume(&name).await?
    };
    if changed {
        let kind = match pause {
            true => ActionKind::Pause,
            false => ActionKind::Resume,
        };
        actor::note(&store, kind, &name).await;
    }
    if json {
        let what = schedule.as_deref().unwrap_or(INTAKE);
        reported!(
            "{}",
            json!({"what": what, "paused": pause, "changed": changed})
        );
        return Ok(Exit::Ok);
    }
    let what = schedule.map_or_else(
        || "taking jobs".to_owned(),
        |name| format!("schedule {name}"),
    );
    let state = match (pause, changed) {
        (true, true) => "is paused, on every worker within a second",
        (true, false) => "was paused already",
        (false, true) => "is resumed, on every worker within a second",
        (false, false) => "wasn't paused",
    };
    reported!("{what} {state}");
    Ok(Exit::Ok)
}
