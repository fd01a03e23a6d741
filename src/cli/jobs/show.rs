//! `kiln jobs show`: how a job ended, with its results and its inputs as far as they are stored.

use super::job_id;
use crate::{
    cli::{Exit, plain::plain},
    clock::rfc3339,
    config::Settings,
    explain::{self, JobKnown},
    parts,
    store::JobEnd,
};
use clap::Args;
use comfy_table::{Table, presets};
use kiln_contract::result::Finished;
use serde_json::Value;
use std::collections::HashMap;

/// Shows how a job ended: its results, or why it was rejected.
#[derive(Debug, Args)]
#[command(after_help = "\
Exits with 1 where no job with that id has ended: it may be in a queue or in a worker's hands, or was pruned.
Inputs are shown of those that the job named keys of, where they are stored (`store.inputs`, `store.served`).

Example:
  kiln jobs show reviews-7 --json | jq '.results[0]'")]
pub(super) struct Arguments {
    /// The job's id.
    #[arg(value_parser = job_id)]
    id: String,
    /// Print the reply as JSON, with the inputs that are known.
    #[arg(long)]
    json: bool,
}

/// Results that are shown without `--json`, and characters of a text.
const RESULTS: usize = 50;
const SHOWN: usize = 80;

pub(super) async fn run(arguments: Arguments, settings: &Settings) -> anyhow::Result<Exit> {
    let store = parts::postgres(settings)?;
    store.migrate().await?;
    let Some(known) = explain::job(&store, &arguments.id, None, true).await? else {
        eprintln!(
            "kiln: no job `{}` has ended: it is unknown, in a queue, or in a worker's hands",
            arguments.id
        );
        return Ok(Exit::Failed);
    };
    if arguments.json {
        println!("{}", String::from_utf8_lossy(&known.to_json(&arguments.id)));
    } else {
        show(&arguments.id, &known);
    }
    Ok(Exit::Ok)
}

fn show(id: &str, known: &JobKnown) {
    let mut table = bare();
    table.add_row(["job", &plain(id)]);
    match &known.end {
        JobEnd::Rejected(error) => {
            table.add_row(["status", "rejected"]);
            let error: Value = serde_json::from_str(error).unwrap_or_default();
            for name in ["code", "field", "message"] {
                let said = error.get(name).and_then(Value::as_str).unwrap_or_default();
                table.add_row([name, &plain(said)]);
            }
            println!("{table}");
        }
        JobEnd::Done(done) => {
            for (name, value) in facts(done) {
                table.add_row([name.to_owned(), plain(&value)]);
            }
            println!("{table}");
            results(done, known);
        }
    }
}

fn facts(done: &Finished) -> [(&'static str, String); 6] {
    [
        ("status", "ok".to_owned()),
        ("model", format!("{}@{}", done.model, done.version)),
        ("namespace", done.namespace.clone()),
        (
            "inputs",
            format!("{} cached, {} scored", done.hits, done.misses),
        ),
        ("took", format!("{:.1} ms", done.elapsed_ms)),
        ("ended", rfc3339(done.finished_at)),
    ]
}

fn results(done: &Finished, known: &JobKnown) {
    if done.results.is_empty() {
        eprintln!("its results weren't stored");
        return;
    }
    let all: Vec<Value> = serde_json::from_str(&done.results).unwrap_or_default();
    let texts: HashMap<&str, String> = known
        .inputs
        .iter()
        .map(|input| {
            let features = input
                .features
                .as_ref()
                .map(|features| format!("{features:?}"));
            let texts = [input.text.clone(), input.text_pair.clone(), features];
            let shown: Vec<String> = texts.into_iter().flatten().collect();
            (input.key.as_str(), shown.join(" | "))
        })
        .collect();
    let mut table = bare();
    table.set_header(["", "KEY", "RESULT", "INPUT"]);
    for (number, result) in all.iter().take(RESULTS).enumerate() {
        let key = result.get("key").and_then(Value::as_str);
        let text = key
            .and_then(|key| texts.get(key))
            .map_or("", String::as_str);
        table.add_row([
            number.to_string(),
            plain(key.unwrap_or("-")),
            plain(&said(result)),
            plain(&shorten(text)),
        ]);
    }
    println!("\n{table}");
    if all.len() > RESULTS {
        eprintln!("{} of {} results: --json shows all", RESULTS, all.len());
    }
}

/// A result in a few words.
fn said(result: &Value) -> String {
    let text = |name: &str| result.get(name).and_then(Value::as_str).map(str::to_owned);
    let number = |name: &str| result.get(name).map(ToString::to_string);
    if let Some(error) = result.get("error") {
        let message = error.get("message").and_then(Value::as_str);
        return shorten(&format!("error: {}", message.unwrap_or_default()));
    }
    if result.get("removed").is_some() {
        return "removed".to_owned();
    }
    if let Some(values) = result.get("embedding").and_then(Value::as_array) {
        return format!("an embedding of {} values", values.len());
    }
    let cached = result.get("cached").and_then(Value::as_bool);
    let cached = cached.filter(|is| *is).map(|_| "(cached)".to_owned());
    let version = text("version").map(|version| format!("by {version}"));
    let parts = [text("label"), number("score"), version, cached];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    parts.join(" ")
}

fn bare() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table
}

fn shorten(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).collect();
    if text.chars().count() > SHOWN {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn results_are_said_in_a_few_words() {
        for (result, expected) in [
            (
                json!({"label": "positive", "score": 0.5, "cached": true}),
                "positive 0.5 (cached)",
            ),
            (json!({"score": 2.0, "cached": false}), "2.0"),
            (
                json!({"score": 2.0, "version": "2", "cached": true}),
                "2.0 by 2 (cached)",
            ),
            (
                json!({"embedding": [1, 2], "cached": false}),
                "an embedding of 2 values",
            ),
            (json!({"error": {"message": "bad"}}), "error: bad"),
            (json!({"removed": true}), "removed"),
        ] {
            assert_eq!(said(&result), expected);
        }
    }
}
