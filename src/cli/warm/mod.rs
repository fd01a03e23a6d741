//! `kiln warm`: runs a schedule now, or shows what it would post.
//!
//! Promises that a dry run posts nothing; a run is carried out by a worker, never by this process.

mod dry_run;
mod simulate;

use super::Exit;
use crate::{
    config::Settings,
    parts,
    store::{PostgresStore, RunRow, RunState},
    warm::folder::Folder,
};
use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::time::Duration;

/// Runs a schedule now, or shows what it would do.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Without --dry-run the run is handed to the workers of this database: one of them plans it and posts its jobs.

Examples:
  kiln warm trending-queries --dry-run
  kiln warm trending-queries --wait
  kiln warm simulate --synthetic steady"
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
    /// The schedule's name.
    #[arg(required = true)]
    name: Option<String>,
    /// Show what would be posted and why, and post nothing.
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Wait until the run has ended; the exit code says how.
    #[arg(long)]
    wait: bool,
    /// Entries that a dry run shows.
    #[arg(long, default_value_t = 20, value_name = "COUNT")]
    show: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    Simulate(Box<simulate::Arguments>),
}

/// How often a run is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(300);
/// How long no worker may take a run before that is said.
const UNTAKEN: Duration = Duration::from_secs(10);

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    if let Some(Action::Simulate(arguments)) = &arguments.action {
        return simulate::run(arguments);
    }
    let name = arguments.name.as_deref().unwrap_or_default();
    let mut folder = Folder::new(&settings.warm.dir);
    folder.scan();
    let Some(schedule) = folder.get(name) else {
        for problem in folder.problems() {
            eprintln!("{problem}");
        }
        let names: Vec<String> = folder.schedules().iter().map(|s| s.name.clone()).collect();
        bail!(
            "there is no schedule `{}` in {}; there are: {}",
            name,
            settings.warm.dir.display(),
            if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            }
        );
    };
    let store = parts::postgres(&settings)?;
    store.migrate().await.context("migrations")?;
    if arguments.dry_run {
        return dry_run::run(&arguments, &settings, &schedule, &store).await;
    }
    if schedule.follows() {
        bail!(
            "`{name}` follows a table: workers post what changes by themselves; --dry-run shows what waits"
        );
    }
    let id = store.ask_run(&schedule.name, schedule.limit).await?;
    if arguments.wait {
        return wait(&arguments, &store, id).await;
    }
    if arguments.json {
        reported!("{}", json!({"run": id, "schedule": schedule.name}));
    } else {
        reported!(
            "run {id} of {} is requested; `kiln schedules` shows how it went",
            schedule.name
        );
    }
    Ok(Exit::Ok)
}

async fn wait(arguments: &Arguments, store: &PostgresStore, id: i64) -> anyhow::Result<Exit> {
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template(
        "{msg:10} {bar:40} {pos}/{len} inputs",
    )?);
    let asked = tokio::time::Instant::now();
    let mut reported = false;
    let run = loop {
        let Some(run) = store.run_row(id).await? else {
            bail!("run {id} is gone from the table");
        };
        if run.state.is_over() {
            break run;
        }
        if run.state == RunState::Queued && !reported && asked.elapsed() > UNTAKEN {
            reported = true;
            bar.suspend(|| eprintln!("no worker has taken it yet: is one running, with `warm.enabled` and this schedule?"));
        }
        let progress = store.run_progress(id).await?;
        bar.set_message(run.state.as_str());
        bar.set_length(run.planned.max(0).unsigned_abs());
        bar.set_position((progress.hits + progress.misses).max(0).unsigned_abs());
        tokio::time::sleep(POLL_INTERVAL).await;
    };
    bar.finish_and_clear();
    end(arguments, &run);
    Ok(match run.state {
        RunState::Done if run.failed == 0 && run.bad == 0 => Exit::Ok,
        RunState::Done => Exit::Partial,
        _ => Exit::Failed,
    })
}

fn end(arguments: &Arguments, run: &RunRow) {
    let seconds = run
        .finished_at
        .map_or(0.0, |end| (end - run.started_at).as_seconds_f64());
    if arguments.json {
        reported!(
            "{}",
            json!({
                "run": run.id, "schedule": run.schedule, "state": run.state.as_str(), "planned": run.planned, "skipped": run.skipped, "bad": run.bad,
                "posted": run.posted, "done": run.done, "failed": run.failed, "hits": run.hits, "misses": run.misses,
                "computes": run.computes, "left_over": run.left_over, "kept_bytes": run.kept_bytes, "spent_seconds": run.spent_seconds,
                "seconds": seconds, "model_seconds": run.model_seconds, "saved_seconds": run.saved_seconds, "message": run.message,
            })
        );
        return;
    }
    for (name, value) in [
        ("state", run.state.as_str().to_owned()),
        ("planned", run.planned.to_string()),
        ("skipped", run.skipped.to_string()),
        ("done", run.done.to_string()),
        ("computed", run.misses.to_string()),
        ("renewed", run.hits.to_string()),
        ("left over", run.left_over.to_string()),
        ("failed", run.failed.to_string()),
        ("bad rows", run.bad.to_string()),
        ("seconds", format!("{seconds:.1}")),
        ("model seconds", format!("{:.3}", run.spent_seconds)),
    ] {
        reported!("{name:<15}{value:>12}");
    }
    if let Some(message) = &run.message {
        eprintln!("{message}");
    }
}
