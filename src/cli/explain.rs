//! `kiln explain`: what readers find under a name, and why.
//!
//! Only reads, but that it brings the database's tables up to date first, as every command does that needs them.

use super::{Exit, plain::plain};
use crate::{
    clock,
    config::Settings,
    explain::{self, Explanation, HISTORY, HeatShown, MAX_HISTORY, PastShown, Sources},
    parts,
    telemetry::metrics::Metrics,
    warm::folder::Folder,
};
use anyhow::bail;
use clap::Args;
use comfy_table::{Table, presets};
use kiln_contract::name;

/// Says what readers find under a name, and why: its job, input, version, age, heat and next warming; and its history.
#[derive(Debug, Args)]
#[command(after_help = "\
Exits with 1 if nothing is known of the name. The history has a row whenever what readers find changed, for as long as `kiln prune`
leaves it. Changes nothing, but that the database's tables are brought up to date first.

Examples:
  kiln explain reviews review:42
  kiln explain feed feed:discover:page:1 --history 10 --json")]
pub(super) struct Arguments {
    /// The namespace; jobs that name none are in their model's.
    namespace: String,
    /// An input's key, or a ranking's.
    key: String,
    /// Latest rows of the history to show.
    #[arg(long, value_name = "ROWS", default_value_t = HISTORY, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_HISTORY)))]
    history: u32,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Longest text shown, in characters.
const SHOWN: usize = 100;
/// Items of a ranking that are shown.
const ITEMS: usize = 5;

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    if !name::is_name(&arguments.namespace) {
        bail!("namespace: {}", name::EXPECTED_NAME);
    }
    let store = parts::postgres(&settings)?;
    store.migrate().await?;
    let redis = parts::redis(&settings, Metrics::new())?;
    let mut folder = Folder::new(&settings.warm.dir);
    folder.scan();
    let schedules = folder.schedules();
    let sources = Sources {
        store: &store,
        redis: settings.cache.enabled.then_some(&redis),
        settings: &settings,
        schedules: &schedules,
        paused: &store.paused().await?,
        now: clock::now(),
    };
    let (namespace, key) = (&arguments.namespace, &arguments.key);
    let explained = explain::explain(&sources, namespace, key, arguments.history).await?;
    if arguments.json {
        println!("{}", serde_json::to_string(&explained)?);
    } else if explained.is_empty() && explained.unknown.is_empty() {
        eprintln!(
            "nothing is known of `{key}` in {namespace}: no job has named it, or it was pruned"
        );
    } else {
        show(&explained);
    }
    Ok(if explained.is_empty() {
        Exit::Failed
    } else {
        Exit::Ok
    })
}

fn show(explained: &Explanation) {
    let mut table = bare();
    for (name, value) in facts(explained) {
        table.add_row([name.to_owned(), plain(&value)]);
    }
    println!("{table}");
    if !explained.warming.is_empty() {
        let mut table = bare();
        table.set_header(["schedule", "next run", "warms it", "why"]);
        for one in &explained.warming {
            let next = one.next.clone().unwrap_or_else(|| "never".into());
            table.add_row([&one.schedule, &next, one.warms, &one.why].map(plain));
        }
        println!("\n{table}");
    }
    if !explained.history.is_empty() {
        let mut table = bare();
        table.set_header(["from", "until", "said", "model", "job", "input"]);
        for past in &explained.history {
            table.add_row(cells(past).map(|cell| plain(&cell)));
        }
        println!("\n{table}");
    }
    for unknown in &explained.unknown {
        eprintln!("not known: {}", plain(unknown));
    }
}

fn bare() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table
}

fn facts(explained: &Explanation) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("name", format!("{} {}", explained.namespace, explained.key)),
        ("readers find", found(explained)),
    ];
    let now = &explained.now;
    if let (Some(model), Some(version)) = (&now.model, &now.version) {
        facts.push(("model", format!("{model}@{version}")));
    }
    if let Some(job) = &now.job_id {
        facts.push(("job", job.clone()));
    }
    if let (Some(at), Some(age)) = (&now.scored_at, now.age_seconds) {
        facts.push(("scored", format!("{at}, {} ago", seconds(age))));
    }
    if let Some(left_ms) = now.ttl_ms {
        let left = seconds(left_ms as f64 / 1e3);
        let grace_ms = now.grace_ms.unwrap_or_default();
        let grace = match grace_ms {
            0 => String::new(),
            all if all >= left_ms => ", all of it grace time".to_owned(),
            part => format!(", {} of it grace time", seconds(part as f64 / 1e3)),
        };
        let until = now.expires_at.clone().unwrap_or_default();
        facts.push(("served until", format!("{until}, {left} from now{grace}")));
    }
    if let Some(input) = &explained.input {
        facts.push(("input", input.input_sha256.clone()));
        let texts = [("text", &input.text), ("text pair", &input.text_pair)];
        for (name, text) in texts {
            facts.extend(text.as_deref().map(|text| (name, shorten(text))));
        }
        if let Some(features) = &input.features {
            facts.push(("features", shorten(&format!("{features:?}"))));
        }
    }
    facts.push(("heat", heat(&explained.heat)));
    facts
}

fn found(explained: &Explanation) -> String {
    let now = &explained.now;
    let value = |name: &str| now.value.as_ref().and_then(|value| value.get(name));
    match now.state {
        "entry" => {
            let label = value("label").and_then(|label| label.as_str());
            let score = value("score").map(ToString::to_string);
            let parts: Vec<&str> = label.into_iter().chain(score.as_deref()).collect();
            if parts.is_empty() {
                "an embedding".into()
            } else {
                parts.join(" ")
            }
        }
        "ranking" => {
            let items = value("items").and_then(|items| items.as_array());
            items.map_or_else(String::new, |items| ranking(items))
        }
        "absent" => "nothing".into(),
        "unreadable" => "what Kiln didn't write".into(),
        _ => "not known".into(),
    }
}

fn ranking(items: &[serde_json::Value]) -> String {
    let name = |item: &serde_json::Value| {
        let key = item.get("key").and_then(|key| key.as_str());
        let score = item.get("score").map(ToString::to_string);
        format!("{} {}", key.unwrap_or("?"), score.unwrap_or_default())
    };
    let shown: Vec<String> = items.iter().take(ITEMS).map(name).collect();
    let more = items.len().saturating_sub(ITEMS);
    if more > 0 {
        format!("{}, and {more} more", shown.join(", "))
    } else {
        shown.join(", ")
    }
}

fn heat(heat: &HeatShown) -> String {
    let reads = heat.reads_per_second.map(|rate| {
        let rank = heat.reads_rank.unwrap_or_default();
        let by = heat.reads_by.unwrap_or_default();
        format!("{rate:.3} reads a second by {by}, number {rank} of the names")
    });
    let jobs = heat.jobs_per_second.map(|rate| {
        let rank = heat.jobs_rank.unwrap_or_default();
        format!("{rate:.3} requests a second by jobs, number {rank} of the inputs")
    });
    let parts: Vec<String> = reads.into_iter().chain(jobs).collect();
    if parts.is_empty() {
        "not among what workers report as hot".into()
    } else {
        parts.join("; ")
    }
}

fn cells(past: &PastShown) -> [String; 6] {
    let items = past.items.as_ref();
    let items: Option<Vec<serde_json::Value>> =
        items.and_then(|items| serde_json::from_str(items.get()).ok());
    let said = match (items, past.removed) {
        (_, true) => "removed".to_owned(),
        (Some(items), _) => ranking(&items),
        (None, _) => {
            let score = past.score.map(|score| score.to_string());
            let parts: Vec<String> = past.label.iter().cloned().chain(score).collect();
            parts.join(" ")
        }
    };
    let until = match &past.until {
        Some(until) => until.clone(),
        None if past.is_now => "now".into(),
        None => "it ended".into(),
    };
    let input = past.input_sha256.as_deref().unwrap_or_default();
    [
        past.from.clone(),
        until,
        said,
        format!("{}@{}", past.model, past.version),
        past.job_id.clone().unwrap_or_else(|| "by hand".into()),
        input.get(..16).unwrap_or(input).to_owned(),
    ]
}

fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7_200.0 => format!("{:.1} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3_600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

fn shorten(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).collect();
    if text.chars().count() > SHOWN {
        shown.push('…');
    }
    shown
}
