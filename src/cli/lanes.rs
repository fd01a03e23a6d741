//! `kiln lanes`: each lane's queues as the broker knows them, and what the worker on this machine has of it.

use super::{
    Exit,
    lane_queues::{self, LaneSeen},
    post::{close, connect},
    worker_api,
};
use crate::{amqp::topology::Topology, config::Settings, parts};
use anyhow::Context;
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::BTreeMap, net::SocketAddr};

/// Shows each lane: what waits in its queues and who takes it, and what the worker on this machine has in hand.
#[derive(Debug, Args)]
#[command(after_help = "\
The lanes are those that the settings name, those of the models in the models folder, and those of the worker at
http.addr, if one answers there without an API key. A lane whose jobs no worker takes is marked.

Examples:
  kiln lanes
  kiln lanes --json | jq 'select(.stranded)'")]
pub(super) struct Arguments {
    /// Where the worker on this machine listens [default: the setting http.addr].
    #[arg(long, value_name = "ADDRESS")]
    addr: Option<SocketAddr>,
    /// Print one JSON object per lane.
    #[arg(long)]
    json: bool,
}

/// Longest answer of a worker that is read, in bytes.
const MAX_ANSWER: u64 = 8 << 20;

/// What the worker shows of its lanes.
#[derive(Debug, Default, Deserialize)]
struct Answer {
    lanes: Vec<Value>,
}

/// What is known of a lane.
#[derive(Debug, Default, PartialEq)]
struct Row {
    queues: Option<LaneSeen>,
    /// As the worker shows it.
    worker: Option<Value>,
}

impl Row {
    fn is_stranded(&self) -> bool {
        self.untaken() > 0
    }

    fn untaken(&self) -> u32 {
        self.queues.map_or(0, |queues| queues.untaken)
    }
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    let addr = worker_api::here(arguments.addr.unwrap_or(settings.http.addr));
    let asked = tokio::task::spawn_blocking(move || worker_lanes(addr));
    let broker = parts::broker(&settings)?;
    let connection = connect(&broker, "lanes").await?;
    let (answer, silent) = match asked.await? {
        Ok(answer) => (answer, None),
        Err(reason) => (Answer::default(), Some(reason)),
    };
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for name in lane_queues::names(&settings) {
        rows.entry(name).or_default();
    }
    for lane in answer.lanes {
        if let Some(name) = lane.get("name").and_then(Value::as_str).map(str::to_owned) {
            rows.entry(name).or_default().worker = Some(lane);
        }
    }
    let topology = Topology::new(&settings.queues, &settings.retry);
    for (name, row) in &mut rows {
        let look = lane_queues::look(&connection, &topology, &settings, name, broker.timeout());
        row.queues = look.await.context("asking for the lanes' queues")?;
    }
    close(&connection).await;
    if arguments.json {
        for (name, row) in &rows {
            println!("{}", line(name, row));
        }
    } else {
        println!("{}", table(&rows).trim_fmt());
        for line in explained(&rows) {
            println!("\n{line}");
        }
    }
    if let Some(reason) = silent {
        eprintln!("what is in hand isn't shown: the worker at {addr}: {reason:#}");
    }
    Ok(Exit::Ok)
}

/// The lanes of the worker on this machine; an error is why they aren't known.
fn worker_lanes(addr: SocketAddr) -> anyhow::Result<Answer> {
    let (status, body) = worker_api::ask(addr, "/v1/lanes", MAX_ANSWER)?;
    match status {
        200 => serde_json::from_str(&body).context("its answer"),
        401 | 403 => anyhow::bail!("it wants an API key"),
        _ => anyhow::bail!("it answered with status {status}"),
    }
}

/// Says of each lane with jobs that nobody takes what to do.
fn explained(rows: &BTreeMap<String, Row>) -> impl Iterator<Item = String> {
    rows.iter().filter_map(|(lane, row)| {
        let advice = row.queues?.advice(lane)?;
        let jobs = row.untaken();
        Some(format!(
            "{jobs} jobs wait in lane `{lane}`, and no worker takes them; {advice}"
        ))
    })
}

fn line(name: &str, row: &Row) -> Value {
    let queues = row.queues.map(|lane| {
        let seen = lane.seen;
        json!({"queues": lane.queues, "messages": seen.messages, "consumers": seen.consumers})
    });
    json!({"lane": name, "stranded": row.is_stranded(), "queue": queues, "worker": row.worker})
}

fn table(rows: &BTreeMap<String, Row>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "lane",
        "queues",
        "messages",
        "consumers",
        "jobs",
        "inputs",
        "seconds",
        "batches",
        "moved",
        "waits s",
        "",
    ]);
    for column in table.column_iter_mut().skip(1).take(9) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for (name, row) in rows {
        let none = || "-".to_owned();
        let queue = |count: fn(LaneSeen) -> String| row.queues.map_or_else(none, count);
        let worker = |field: &str, digits: usize| {
            let figure = row
                .worker
                .as_ref()
                .and_then(|lane| lane.get(field)?.as_f64());
            figure.map_or_else(none, |figure| format!("{figure:.digits$}"))
        };
        let served = row.worker.as_ref().and_then(|lane| lane.get("served"));
        let note = match served {
            _ if row.is_stranded() => "no worker takes its jobs",
            Some(Value::Bool(false)) => "not served here",
            _ => "",
        };
        table.add_row([
            name.clone(),
            queue(|lane| lane.queues.to_string()),
            queue(|lane| lane.seen.messages.to_string()),
            queue(|lane| lane.seen.consumers.to_string()),
            worker("jobs", 0),
            worker("waiting_inputs", 0),
            worker("model_seconds_in_hand", 1),
            worker("batches_in_flight", 0),
            worker("moved_jobs", 0),
            worker("longest_wait_seconds", 1),
            note.to_owned(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::topology::Seen;

    fn rows() -> BTreeMap<String, Row> {
        let seen = |messages, consumers| {
            let seen = Seen {
                messages,
                consumers,
            };
            let untaken = if consumers == 0 { messages } else { 0 };
            Some(LaneSeen {
                queues: 4,
                seen,
                untaken,
            })
        };
        let here = json!({
            "served": true, "jobs": 12, "waiting_inputs": 340, "model_seconds_in_hand": 4.96, "batches_in_flight": 2,
            "moved_jobs": 1_000, "longest_wait_seconds": 0.25,
        });
        BTreeMap::from([
            (
                "encoder".to_owned(),
                Row {
                    queues: seen(120, 8),
                    worker: Some(here),
                },
            ),
            (
                "gpu".to_owned(),
                Row {
                    queues: seen(7, 0),
                    worker: Some(json!({"served": false})),
                },
            ),
            ("sentiment".to_owned(), Row::default()),
        ])
    }

    #[test]
    fn the_table_has_a_line_a_lane_and_says_what_nobody_takes() {
        let rows = rows();
        let text = table(&rows).trim_fmt();
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines[1],
            [
                "encoder", "4", "120", "8", "12", "340", "5.0", "2", "1000", "0.2"
            ]
        );
        assert_eq!(lines[2][..4], ["gpu", "4", "7", "0"]);
        assert!(
            text.lines()
                .nth(2)
                .is_some_and(|line| line.ends_with("no worker takes its jobs"))
        );
        assert_eq!(lines[3], [&["sentiment"][..], &["-"; 9][..]].concat());
        // Numbers end where their titles end.
        let end = |line: &str, word: &str| line.find(word).map(|at| at + word.len());
        let (head, encoder) = (text.lines().next(), text.lines().nth(1));
        let ends = head
            .zip(encoder)
            .map(|(head, encoder)| (end(head, "messages"), end(encoder, "120")));
        assert!(
            ends.is_some_and(|(head, encoder)| head == encoder),
            "{text}"
        );
        let explained: Vec<String> = explained(&rows).collect();
        assert_eq!(explained.len(), 1);
        assert!(explained[0].contains("7 jobs wait in lane `gpu`"));
        assert!(explained[0].contains("`kiln run --lanes gpu`"));
    }

    #[test]
    fn a_lane_is_one_json_object() {
        let rows = rows();
        let gpu = line("gpu", &rows["gpu"]);
        let expected = json!({
            "lane": "gpu", "stranded": true, "queue": {"queues": 4, "messages": 7, "consumers": 0}, "worker": {"served": false},
        });
        assert_eq!(gpu, expected);
        let sentiment = line("sentiment", &rows["sentiment"]);
        let expected =
            json!({"lane": "sentiment", "stranded": false, "queue": null, "worker": null});
        assert_eq!(sentiment, expected);
    }
}
