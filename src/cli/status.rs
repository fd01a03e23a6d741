//! `kiln status`: the fleet, its queues, lanes and schedules on one screen.

use super::{
    Exit, lane_queues, plain,
    post::{close, connect},
};
use crate::{
    amqp::topology::{Seen, Topology, inspect},
    clock::rfc3339,
    config::Settings,
    parts,
    store::{PostgresStore, RunRow, SCHEDULE, WorkerRow},
    warm::{due, folder::Folder},
};
use chrono::{DateTime, Utc};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};
use std::{io::IsTerminal, time::Duration};

/// Shows every worker, queue, lane and schedule of this database and broker.
#[derive(Debug, Args)]
#[command(after_help = "\
Workers are those of the last hour: one that stopped as it was asked to is `stopped`, one that says nothing
any more is `lost`. Figures are of the last five minutes. Exits with 1 if no worker is ready.

Examples:
  kiln status
  kiln status --watch
  kiln status --json | jq '.workers[] | select(.state != \"ready\")'")]
pub(super) struct Arguments {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Show it again every two seconds, or every so many.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = clap::value_parser!(u64).range(1..=3_600))]
    watch: Option<u64>,
}

/// What waits in a queue, and who takes it.
type Depth = (String, Option<Seen>);

/// All that is shown.
struct Status {
    workers: Vec<WorkerRow>,
    /// An error is why they aren't known.
    queues: Result<Vec<Depth>, String>,
    lanes: Vec<(String, Option<lane_queues::LaneSeen>)>,
    schedules: Vec<ScheduleSeen>,
    /// What is wrong with schedule files.
    problems: Vec<String>,
}

struct ScheduleSeen {
    name: String,
    is_paused: bool,
    next: Option<DateTime<Utc>>,
    last: Option<RunRow>,
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    let store = parts::postgres(&settings)?;
    store.migrate().await?;
    loop {
        let status = match look(&store, &settings).await {
            Ok(status) => status,
            Err(error) if arguments.watch.is_some() => {
                eprintln!("kiln: {error:#}");
                tokio::time::sleep(Duration::from_secs(arguments.watch.unwrap_or(2))).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        if arguments.json {
            println!("{}", status.as_json());
        } else {
            let clears = arguments.watch.is_some() && std::io::stdout().is_terminal();
            status.show(clears);
        }
        let Some(seconds) = arguments.watch else {
            let is_ready = |one: &WorkerRow| matches!(one.state(), "ready" | "degraded" | "paused");
            return Ok(match status.workers.iter().any(is_ready) {
                true => Exit::Ok,
                false => Exit::Failed,
            });
        };
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
}

async fn look(store: &PostgresStore, settings: &Settings) -> anyhow::Result<Status> {
    let workers = store.workers().await?;
    let runs = store.latest_runs(1, None).await?;
    let (now, paused) = (store.clock().await?, store.paused().await?);
    let mut folder = Folder::new(&settings.warm.dir);
    folder.scan();
    let schedules = folder.schedules().into_iter().map(|schedule| ScheduleSeen {
        is_paused: paused
            .iter()
            .any(|one| one.name.strip_prefix(SCHEDULE) == Some(&schedule.name)),
        next: due::next(&schedule, now).filter(|_| schedule.enabled),
        last: runs
            .iter()
            .find(|run| run.schedule == schedule.name)
            .cloned(),
        name: schedule.name.clone(),
    });
    let mut status = Status {
        workers,
        queues: Ok(Vec::new()),
        lanes: Vec::new(),
        schedules: schedules.collect(),
        problems: folder.problems().iter().map(ToString::to_string).collect(),
    };
    if settings.amqp.url.is_some() {
        match queues(settings).await {
            Ok((queues, lanes)) => (status.queues, status.lanes) = (Ok(queues), lanes),
            Err(error) => status.queues = Err(format!("{error:#}")),
        }
    }
    Ok(status)
}

type Queues = (Vec<Depth>, Vec<(String, Option<lane_queues::LaneSeen>)>);

async fn queues(settings: &Settings) -> anyhow::Result<Queues> {
    let topology = Topology::new(&settings.queues, &settings.retry);
    let broker = parts::broker(settings)?;
    let connection = connect(&broker, "status").await?;
    let mut queues = Vec::new();
    for queue in [&topology.jobs, &topology.warm, &topology.dead] {
        let seen = inspect(&connection, queue, broker.timeout()).await?;
        queues.push((queue.clone(), seen));
    }
    let mut lanes = Vec::new();
    for name in lane_queues::names(settings) {
        let look = lane_queues::look(&connection, &topology, settings, &name, broker.timeout());
        lanes.push((name.clone(), look.await?));
    }
    close(&connection).await;
    Ok((queues, lanes))
}

impl Status {
    fn as_json(&self) -> Value {
        let workers = self.workers.iter().map(|one| {
            json!({
                "name": one.name, "state": one.state(), "version": one.version, "started_at": rfc3339(one.started_at), "seen_at": rfc3339(one.seen_at),
                "uptime_seconds": one.up.max(0.0) as u64, "figures": one.figures,
            })
        });
        let seen = |seen: Option<Seen>| {
            seen.map(|seen| json!({"messages": seen.messages, "consumers": seen.consumers}))
        };
        let queues = self.queues.as_ref().ok().into_iter().flatten();
        let queues = queues.map(|(name, depth)| (name.clone(), json!(seen(*depth))));
        let lanes = self.lanes.iter().map(|(name, lane)| {
            let lane = lane.map(|lane| json!({"queues": lane.queues, "messages": lane.seen.messages, "consumers": lane.seen.consumers, "untaken": lane.untaken}));
            (name.clone(), json!(lane))
        });
        let schedules = self.schedules.iter().map(|one| {
            let last = one.last.as_ref().map(|run| {
                json!({"due_at": rfc3339(run.due_at), "state": run.state.as_str(), "done": run.done, "planned": run.planned, "message": run.message})
            });
            json!({"schedule": one.name, "paused": one.is_paused, "next": one.next.filter(|_| !one.is_paused).map(rfc3339), "last": last})
        });
        json!({
            "workers": workers.collect::<Vec<_>>(),
            "queues": queues.collect::<serde_json::Map<_, _>>(),
            "queues_error": self.queues.as_ref().err(),
            "lanes": lanes.collect::<serde_json::Map<_, _>>(),
            "schedules": schedules.collect::<Vec<_>>(),
            "schedule_problems": self.problems,
        })
    }

    fn show(&self, clears: bool) {
        let mut text = String::new();
        if self.workers.is_empty() {
            text.push_str("no worker within the last hour: `kiln run` starts one\n");
        } else {
            add(&mut text, &self.workers_table());
            for one in self
                .workers
                .iter()
                .filter(|one| !one.figures.reason.is_empty())
            {
                let reason = plain::plain(&one.figures.reason);
                text.push_str(&format!("{}: {reason}\n", one.name));
            }
        }
        match &self.queues {
            Ok(queues) if queues.is_empty() => {}
            Ok(queues) => add(&mut text, &self.queues_table(queues)),
            Err(reason) => text.push_str(&format!("\nqueues: {reason}\n")),
        }
        if !self.schedules.is_empty() {
            add(&mut text, &self.schedules_table());
        }
        for problem in &self.problems {
            text.push_str(&format!("{problem}\n"));
        }
        // The cursor goes home, and what was there is cleared.
        let clear = if clears { "\x1b[H\x1b[2J" } else { "" };
        print!("{clear}{}", text.trim_start());
    }

    fn workers_table(&self) -> Table {
        let mut table = new_table([
            "worker", "state", "version", "up", "lanes", "jobs/min", "hits", "p99 ms", "waiting",
            "in hand", "memory", "seen",
        ]);
        for column in table.column_iter_mut().skip(5) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for one in &self.workers {
            let figures = &one.figures;
            let all = figures.hits.saturating_add(figures.misses);
            let hits = match all {
                0 => String::new(),
                all => format!("{:.1} %", 100.0 * figures.hits as f64 / all as f64),
            };
            table.add_row([
                one.name.clone(),
                one.state().to_owned(),
                one.version.clone(),
                length(one.up),
                figures.lanes.join(", "),
                format!("{:.0}", figures.jobs as f64 / 5.0),
                hits,
                format!("{:.1}", figures.p99_ms),
                figures.waiting_jobs.to_string(),
                mebibytes(figures.bytes_in_hand),
                mebibytes(figures.memory_bytes),
                format!("{} ago", length(one.silent)),
            ]);
        }
        table
    }

    fn queues_table(&self, queues: &[Depth]) -> Table {
        let mut table = new_table(["queue", "messages", "consumers", ""]);
        for column in table.column_iter_mut().skip(1).take(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for (name, seen) in queues {
            let cells = match seen {
                Some(seen) => [seen.messages.to_string(), seen.consumers.to_string()],
                None => ["".to_owned(), "not there yet".to_owned()],
            };
            let [messages, consumers] = cells;
            table.add_row([name.clone(), messages, consumers, String::new()]);
        }
        for (name, lane) in &self.lanes {
            let Some(lane) = lane else { continue };
            let stranded = match lane.untaken {
                0 => String::new(),
                jobs => format!("{jobs} jobs that no worker takes"),
            };
            table.add_row([
                format!("lane {name}"),
                lane.seen.messages.to_string(),
                lane.seen.consumers.to_string(),
                stranded,
            ]);
        }
        table
    }

    fn schedules_table(&self) -> Table {
        let mut table = new_table([
            "schedule",
            "next run (UTC)",
            "last run (UTC)",
            "outcome",
            "inputs",
        ]);
        let minute = |at: DateTime<Utc>| at.format("%m-%d %H:%M:%S").to_string();
        for one in &self.schedules {
            let last = one.last.as_ref();
            table.add_row([
                one.name.clone(),
                match one.is_paused {
                    true => "paused".to_owned(),
                    false => one.next.map(minute).unwrap_or_default(),
                },
                last.map_or_else(String::new, |run| minute(run.due_at)),
                last.map_or("never", |run| run.state.as_str()).to_owned(),
                last.map_or_else(String::new, |run| {
                    format!("{} of {}", run.done, run.planned)
                }),
            ]);
        }
        table
    }
}

fn new_table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(header);
    table
}

fn add(text: &mut String, table: &Table) {
    text.push('\n');
    text.push_str(&table.trim_fmt());
    text.push('\n');
}

/// A length of time as people say it.
fn length(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.0} MiB", bytes as f64 / 1_048_576.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_said_in_their_unit() {
        let said = [0.4, 119.0, 121.0, 7_199.0, 7_200.0, 172_800.0].map(length);
        assert_eq!(said, ["0 s", "119 s", "2 min", "119 min", "2 h", "2 d"]);
    }
}
