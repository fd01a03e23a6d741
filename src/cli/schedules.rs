//! `kiln schedules`: the schedules with their next and last runs, and what is wrong with their files.

mod check;

use super::Exit;
use crate::{
    clock::rfc3339,
    config::Settings,
    parts,
    store::{Paused, RunRow, RunState, SCHEDULE},
    warm::{due, folder::Folder, schedule::Schedule},
};
use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use serde_json::json;

/// Lists the schedules with their next and last runs, or checks their files.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln schedules
  kiln schedules check --next 20")]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
    /// Print one JSON object per line.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Checks every schedule file against the settings and the models, and shows when each schedule would run next. Needs no server.
    #[command(after_help = "\
All mistakes of all files are told at once, each with its file, line and column: what can't be read, a
time that never comes, a model or database that there isn't, inputs that the model doesn't take.
Exits with 3 if there is one.

Examples:
  kiln schedules check
  kiln schedules check --next 20 --from 2026-03-28T00:00:00Z
  kiln schedules check --json")]
    Check(check::Arguments),
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    let mut folder = Folder::new(&settings.warm.dir);
    folder.scan();
    match arguments.action {
        Some(Action::Check(check)) => Ok(check::check(&check, &folder, &settings, arguments.json)),
        None => list(&folder, &settings, arguments.json).await,
    }
}

/// What is shown in place of the next run of what follows a table.
pub(super) const FOLLOWS: &str = "as rows change";

async fn list(folder: &Folder, settings: &Settings, json: bool) -> anyhow::Result<Exit> {
    let store = parts::postgres(settings)?;
    store.migrate().await?;
    let now = store.clock().await?;
    let runs = store.latest_runs(1, None).await?;
    let paused = store.paused().await?;
    let mut table = plain([
        "schedule",
        "next run",
        "last run",
        "outcome",
        "inputs",
        "computed",
        "renewed",
        "left over",
        "seconds",
        "saves s",
    ]);
    for schedule in folder.schedules() {
        let held = |one: &Paused| one.name.strip_prefix(SCHEDULE) == Some(&schedule.name);
        let paused = paused.iter().any(held);
        let next = due::next(&schedule, now).filter(|_| schedule.enabled && !paused);
        let last = runs.iter().find(|run| run.schedule == schedule.name);
        if json {
            let last = last.map(|run| {
                json!({
                    "due_at": rfc3339(run.due_at), "state": run.state.as_str(), "planned": run.planned, "skipped": run.skipped, "bad": run.bad,
                    "posted": run.posted, "done": run.done, "failed": run.failed, "hits": run.hits, "misses": run.misses,
                    "computes": run.computes, "left_over": run.left_over, "kept_bytes": run.kept_bytes, "message": run.message,
                    "model_seconds": run.model_seconds, "spent_seconds": run.spent_seconds, "saved_seconds": run.saved_seconds,
                    "started_at": rfc3339(run.started_at), "finished_at": run.finished_at.map(rfc3339),
                })
            });
            println!(
                "{}",
                json!({"schedule": schedule.name, "enabled": schedule.enabled, "paused": paused, "next": next.map(rfc3339), "last": last})
            );
        }
        let mut row = vec![
            schedule.name.clone(),
            match next {
                Some(next) => local(next, &schedule),
                None if paused => "paused".to_owned(),
                None if schedule.enabled && schedule.follows() => FOLLOWS.to_owned(),
                None if schedule.enabled => "never".to_owned(),
                None => "off".to_owned(),
            },
        ];
        row.extend(match last {
            Some(run) => cells(run, &schedule),
            None => ["never", "", "", "", "", "", "", ""].map(str::to_owned),
        });
        table.add_row(row);
    }
    if !json {
        println!("{table}");
    }
    for problem in folder.problems() {
        eprintln!("{problem}");
    }
    Ok(if folder.problems().is_empty() {
        Exit::Ok
    } else {
        Exit::Partial
    })
}

fn cells(run: &RunRow, schedule: &Schedule) -> [String; 8] {
    let seconds = run
        .finished_at
        .map(|end| (end - run.started_at).as_seconds_f64());
    let outcome = match &run.message {
        Some(message) if run.state != RunState::Done || run.bad > 0 || run.left_over > 0 => {
            format!("{}: {message}", run.state.as_str())
        }
        _ => run.state.as_str().to_owned(),
    };
    [
        local(run.due_at, schedule),
        outcome,
        format!("{} of {}", run.done, run.planned),
        run.misses.to_string(),
        run.hits.to_string(),
        run.left_over.to_string(),
        seconds.map_or_else(String::new, |s| format!("{s:.1}")),
        run.saved_seconds
            .map_or_else(String::new, |s| format!("{s:.1}")),
    ]
}

/// An instant as clocks in the schedule's zone show it.
fn local(at: DateTime<Utc>, schedule: &Schedule) -> String {
    at.with_timezone(&schedule.zone)
        .to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn plain<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(header);
    table
}
