//! `kiln hot`: what jobs ask for and what readers read most, over all workers.
//!
//! Only reads: what workers have counted in Redis, and the inputs' texts in Postgres where one is set.

use super::Exit;
use crate::{
    cache::RedisCache,
    clock,
    config::Settings,
    heat::{Hot, NamedRate, SharedHeat},
    parts,
    store::KnownInput,
};
use anyhow::anyhow;
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use kiln_contract::key::InputHash;
use serde_json::json;
use std::collections::HashMap;

/// Shows what jobs request and what readers read most, over all workers.
#[derive(Debug, Args)]
#[command(after_help = "\
Workers count the inputs of producers' jobs and exchange their counts every five seconds. Where a database is set, inputs are shown by
their key or text. Each worker watches as many namespaces as fit into 32 MiB (for jobs, and again for readers); where they are more,
that is said. How often named entries and rankings are read comes from readers' hints (the queue kiln.hits), or else from
Redis itself.

Examples:
  kiln hot
  kiln hot --namespace reviews --top 50")]
pub(super) struct Arguments {
    /// Only this namespace.
    #[arg(long)]
    namespace: Option<String>,
    /// Inputs of each namespace.
    #[arg(long, default_value_t = 10, value_name = "COUNT")]
    top: usize,
    /// Print one JSON object per input.
    #[arg(long)]
    json: bool,
}

/// Longest text shown, in characters.
const SHOWN: usize = 60;

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    let redis = parts::redis_at_hand(&settings).await?;
    let heat = SharedHeat::new(&redis);
    let Some(spaces) = heat.scopes().await else {
        return Err(unsaid(&redis).await);
    };
    let now_ms = clock::now().timestamp_millis();
    let wanted = |namespace: &str| {
        arguments
            .namespace
            .as_deref()
            .is_none_or(|one| one == namespace)
    };
    let mut shown = 0;
    for space in spaces.iter().filter(|space| wanted(&space.namespace)) {
        let Some(hot) = heat.hot(space, now_ms).await else {
            return Err(unsaid(&redis).await);
        };
        if hot.inputs.is_empty() {
            continue;
        }
        let known = known(&settings, &hot, arguments.top).await?;
        show(&arguments, &hot, &known);
        shown += 1;
    }
    let Some(namespaces) = heat.read_namespaces().await else {
        return Err(unsaid(&redis).await);
    };
    for namespace in namespaces.iter().filter(|one| wanted(one)) {
        let Some(names) = heat.read(namespace, now_ms).await else {
            return Err(unsaid(&redis).await);
        };
        if !names.is_empty() {
            show_names(&arguments, namespace, &names);
            shown += 1;
        }
    }
    if let Some((workers @ 1.., requests)) = heat.dropped(now_ms).await {
        eprintln!(
            "kiln: {workers} workers have no room to watch all namespaces; they didn't count {requests} requests within five seconds \
             (kiln_heat_dropped_total)"
        );
    }
    if shown == 0 && !arguments.json {
        println!("no worker has reported anything hot in the last minute");
    }
    Ok(Exit::Ok)
}

/// Why Redis doesn't say what is hot.
async fn unsaid(redis: &RedisCache) -> anyhow::Error {
    let host = redis.host();
    match redis.ping().await {
        Ok(()) => anyhow!(
            "redis at {host} refuses to say what is hot, or holds something else under Kiln's keys of that, which workers replace within seconds"
        ),
        Err(why) => anyhow!("redis at {host} doesn't answer: {why}"),
    }
}

async fn known(
    settings: &Settings,
    hot: &Hot,
    top: usize,
) -> anyhow::Result<HashMap<Vec<u8>, KnownInput>> {
    if settings.database.url.is_none() {
        return Ok(HashMap::new());
    }
    let hashes: Vec<&[u8]> = hot
        .inputs
        .iter()
        .take(top)
        .map(|(input, _)| input.as_slice())
        .collect();
    Ok(parts::postgres(settings)?
        .inputs(&hot.scope.model, &hashes)
        .await?)
}

fn show(arguments: &Arguments, hot: &Hot, known: &HashMap<Vec<u8>, KnownInput>) {
    let all: f64 = hot.inputs.iter().map(|(_, rate)| rate).sum();
    let space = &hot.scope;
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["asked /s", "share", "input"]);
    for (input, rate) in hot.inputs.iter().take(arguments.top) {
        let known = known.get(input.as_slice());
        if arguments.json {
            println!(
                "{}",
                json!({
                    "namespace": space.namespace, "model": space.model, "input_sha256": hex::encode(input), "rate": rate, "share": rate / all,
                    "key": known.and_then(|k| k.key.as_ref()), "text": known.and_then(|k| k.text.as_ref()),
                })
            );
        }
        table.add_row([
            format!("{rate:.3}"),
            format!("{:.1} %", 100.0 * rate / all),
            name(input, known),
        ]);
    }
    if arguments.json {
        return;
    }
    align(&mut table);
    println!(
        "{} by {}: {:.2} requests a second for the {} hottest inputs",
        space.namespace,
        space.model,
        all,
        hot.inputs.len()
    );
    println!("{table}\n");
}

fn show_names(arguments: &Arguments, namespace: &str, names: &[NamedRate]) {
    let all: f64 = names.iter().map(|one| one.rate).sum();
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["read /s", "share", "name"]);
    for one in names.iter().take(arguments.top) {
        let share = one.rate / all;
        if arguments.json {
            println!(
                "{}",
                json!({"namespace": namespace, "name": one.name, "rate": one.rate, "share": share, "counted": one.counted})
            );
        }
        table.add_row([
            format!("{:.3}", one.rate),
            format!("{:.1} %", 100.0 * share),
            shorten(&one.name),
        ]);
    }
    if arguments.json {
        return;
    }
    align(&mut table);
    println!(
        "readers of {namespace}: {all:.2} requests a second for the {} hottest names",
        names.len()
    );
    println!("{table}\n");
}

/// Figures to the right.
fn align(table: &mut Table) {
    for column in table.column_iter_mut().take(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

fn shorten(text: &str) -> String {
    if text.chars().count() > SHOWN {
        format!("{}…", text.chars().take(SHOWN).collect::<String>())
    } else {
        text.to_owned()
    }
}

fn name(input: &InputHash, known: Option<&KnownInput>) -> String {
    let text = known.and_then(|k| k.key.as_deref().or(k.text.as_deref()));
    match text {
        Some(text) => shorten(text),
        None => hex::encode(input.get(..8).unwrap_or_default()),
    }
}
