//! `kiln warm`: runs a schedule now, or shows what it would post.
//!
//! Promises that a dry run posts nothing; a run is carried out by a worker, never by this process.

mod simulate;

use super::Exit;
use crate::{
    config::Settings,
    parts,
    store::{PostgresStore, RunRow, RunState},
    telemetry::metrics::Metrics,
    warm::{
        due,
        folder::Folder,
        gather::{Gatherer, PlannedEntry, RunPlan},
        hot_source::open,
        schedule::Schedule,
    },
};
use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
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
        return dry_run(&arguments, &settings, &schedule, &store).await;
    }
    let id = store.ask_run(&schedule.name, schedule.limit).await?;
    if arguments.wait {
        return wait(&arguments, &store, id).await;
    }
    if arguments.json {
        println!("{}", json!({"run": id, "schedule": schedule.name}));
    } else {
        println!(
            "run {id} of {} is requested; `kiln schedules` shows how it went",
            schedule.name
        );
    }
    Ok(Exit::Ok)
}

async fn dry_run(
    arguments: &Arguments,
    settings: &Settings,
    schedule: &Schedule,
    store: &PostgresStore,
) -> anyhow::Result<Exit> {
    let models = settings.clone();
    let registry = tokio::task::spawn_blocking(move || parts::open_registry(&models)).await??;
    let redis = match &settings.redis.url {
        Some(_) => Some(parts::redis(settings, Metrics::new())?),
        None => None,
    };
    let now = store.clock().await?;
    let gatherer = Gatherer {
        settings,
        registry: &registry,
        redis: redis.as_ref(),
        now,
        // No draw: what is shown is what is certain.
        random: || 1.0,
    };
    let source = open(schedule, settings, store, redis.as_ref()).await?;
    let plan = gatherer.plan(schedule, source.as_ref(), 0.0).await?;
    if arguments.json {
        let shown: Vec<_> = plan
            .chosen
            .iter()
            .take(arguments.show)
            .map(|p| {
                json!({"key": p.key, "inputs": p.rows.len(), "seconds_left": p.left, "rate": p.candidate.rate, "cost_seconds": p.candidate.cost, "saves_seconds": p.candidate.saves(), "why": why(p, schedule, now)})
            })
            .collect();
        println!(
            "{}",
            json!({
                "schedule": schedule.name, "entries": plan.chosen.len(), "inputs": plan.inputs(), "fresh": plan.fresh, "over_budget": plan.over_budget,
                "bad": plan.bad, "model_seconds": plan.model_seconds(), "saved_seconds": plan.saved_seconds(), "message": plan.message(), "first": shown,
            })
        );
        return Ok(Exit::Ok);
    }
    show(arguments, schedule, now, &plan);
    Ok(if plan.bad > 0 {
        Exit::Partial
    } else {
        Exit::Ok
    })
}

fn show(arguments: &Arguments, schedule: &Schedule, now: DateTime<Utc>, plan: &RunPlan) {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["entry", "inputs", "asked /s", "cost ms", "why"]);
    for planned in plan.chosen.iter().take(arguments.show) {
        table.add_row([
            planned
                .key
                .clone()
                .unwrap_or_else(|| "(a score)".to_owned()),
            planned.rows.len().to_string(),
            planned
                .candidate
                .rate
                .map_or_else(String::new, |rate| format!("{rate:.4}")),
            format!("{:.3}", planned.candidate.cost * 1e3),
            why(planned, schedule, now),
        ]);
    }
    if !plan.chosen.is_empty() {
        println!("{table}");
    }
    let more = plan.chosen.len().saturating_sub(arguments.show);
    if more > 0 {
        println!("and {more} more");
    }
    println!(
        "would post         {} inputs in {} entries",
        plan.inputs(),
        plan.chosen.len()
    );
    println!("model time         {:.3} s", plan.model_seconds());
    if let Some(saved) = plan.saved_seconds() {
        println!("waiting saved      {saved:.3} s");
    }
    println!("fresh enough       {} inputs", plan.fresh);
    println!("over the budget    {} inputs", plan.over_budget);
    if let Some(message) = plan.message() {
        eprintln!("{message}");
    }
}

fn why(planned: &PlannedEntry, schedule: &Schedule, now: DateTime<Utc>) -> String {
    let next = due::next(schedule, now).map(|next| (next - now).as_seconds_f64());
    match (planned.left, next) {
        (None, _) => "not there".to_owned(),
        (Some(left), _) if left < 0.0 => format!("served in its grace time for {:.0} s", -left),
        (Some(left), Some(next)) => format!("expires in {left:.0} s, next run in {next:.0} s"),
        (Some(left), None) => format!("expires in {left:.0} s"),
    }
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
        println!(
            "{}",
            json!({
                "run": run.id, "schedule": run.schedule, "state": run.state.as_str(), "planned": run.planned, "skipped": run.skipped, "bad": run.bad,
                "posted": run.posted, "done": run.done, "failed": run.failed, "hits": run.hits, "misses": run.misses,
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
        ("of them scored", run.misses.to_string()),
        ("failed", run.failed.to_string()),
        ("bad rows", run.bad.to_string()),
        ("seconds", format!("{seconds:.1}")),
    ] {
        println!("{name:<15}{value:>12}");
    }
    if let Some(message) = &run.message {
        eprintln!("{message}");
    }
}
