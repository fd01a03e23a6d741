//! Shows what a run would post, and why: by the same code and the same knowledge as a run.

use super::Arguments;
use crate::{
    cli::Exit,
    config::Settings,
    parts,
    store::PostgresStore,
    telemetry::metrics::Metrics,
    warm::{
        due,
        gather::{Gatherer, PlannedEntry, RunPlan},
        hot_source::open,
        schedule::Schedule,
    },
};
use chrono::{DateTime, Utc};
use comfy_table::{Table, presets};
use serde_json::{Value, json};

const MEBIBYTE: f64 = 1_048_576.0;

pub(super) async fn run(
    arguments: &Arguments,
    settings: &Settings,
    schedule: &Schedule,
    store: &PostgresStore,
) -> anyhow::Result<Exit> {
    let models = settings.clone();
    let registry = tokio::task::spawn_blocking(move || parts::open_registry(&models)).await??;
    registry.choose(store.choices().await?);
    let redis = match &settings.redis.url {
        Some(_) => Some(parts::redis(settings, Metrics::new())?),
        None => None,
    };
    let now = store.clock().await?;
    let gatherer = Gatherer {
        settings,
        registry: &registry,
        store,
        redis: redis.as_ref(),
        now,
        claim: None,
        scores_here: false,
    };
    let mut left = schedule.clone();
    left.budget = left
        .budget
        .less(&store.spent_ahead(&schedule.name, None).await?);
    let schedule = &left;
    let source = open(schedule, settings, store, redis.as_ref()).await?;
    let mut plan = gatherer.plan(schedule, source.as_ref()).await?;
    let jobs = gatherer.pieces(schedule, &mut plan).len();
    if arguments.json {
        println!("{}", as_json(arguments, schedule, now, &plan, jobs));
    } else {
        show(arguments, schedule, now, &plan, jobs);
    }
    Ok(if plan.bad > 0 {
        Exit::Partial
    } else {
        Exit::Ok
    })
}

fn as_json(
    arguments: &Arguments,
    schedule: &Schedule,
    now: DateTime<Utc>,
    plan: &RunPlan,
    jobs: usize,
) -> Value {
    let shown = plan.chosen.iter().take(arguments.show).map(|p| {
        let candidate = &p.candidate;
        json!({
            "key": p.key, "inputs": p.rows.len(), "computes": candidate.computes, "from_table": p.from_table, "seconds_left": p.left,
            "rate": candidate.rate, "cost_seconds": candidate.cost, "bytes": candidate.bytes as u64, "saves_seconds": candidate.saves(),
            "why": why(p, schedule, now),
        })
    });
    let shown: Vec<Value> = shown.collect();
    let left = plan.left;
    json!({
        "schedule": schedule.name, "entries": plan.chosen.len(), "jobs": jobs, "inputs": plan.inputs(), "computes": plan.computes(),
        "renewals": plan.renewed(), "from_table": plan.from_table(), "fresh": plan.fresh, "too_old": plan.too_old, "unkept": plan.unkept, "over_budget": left.inputs(),
        "left_over": {"compute": left.compute, "renewals": left.renewals, "memory": left.memory},
        "bad": plan.bad, "model_seconds": plan.model_seconds(), "costs_are_measured": plan.costs_are_measured,
        "saved_seconds": plan.saved_seconds(), "kept_bytes": plan.kept_bytes as u64, "max_bytes": plan.max_bytes.map(|max| max as u64),
        "message": plan.message(), "first": shown,
    })
}

fn show(
    arguments: &Arguments,
    schedule: &Schedule,
    now: DateTime<Utc>,
    plan: &RunPlan,
    jobs: usize,
) {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "entry", "inputs", "computes", "asked /s", "cost ms", "bytes", "why",
    ]);
    for planned in plan.chosen.iter().take(arguments.show) {
        let candidate = &planned.candidate;
        let rate = candidate.rate.map(|rate| format!("{rate:.4}"));
        table.add_row([
            planned
                .key
                .clone()
                .unwrap_or_else(|| "(a score)".to_owned()),
            planned.rows.len().to_string(),
            candidate.computes.to_string(),
            rate.unwrap_or_default(),
            format!("{:.3}", candidate.cost * 1e3),
            format!("{:.0}", candidate.bytes),
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
    figures(plan, jobs);
    if let Some(message) = plan.message() {
        eprintln!("{message}");
    }
}

fn figures(plan: &RunPlan, jobs: usize) {
    let (inputs, entries, left) = (plan.inputs(), plan.chosen.len(), plan.left);
    println!("would post         {inputs} inputs in {entries} entries, as {jobs} jobs");
    let guessed = if plan.costs_are_measured || plan.computes() == 0 {
        ""
    } else {
        ", a guess: no call has measured it"
    };
    let (computes, seconds) = (plan.computes(), plan.model_seconds());
    println!("computed           {computes} inputs, {seconds:.3} s of model time{guessed}");
    let (renewed, from_table) = (plan.renewed(), plan.from_table());
    println!("renewed            {renewed} inputs, {from_table} of them from the table of scores");
    if let Some(saved) = plan.saved_seconds() {
        println!("waiting saved      {saved:.3} s");
    }
    let bound = plan.max_bytes.map(|max| max / MEBIBYTE);
    let bound = bound.map_or_else(String::new, |max| format!(" of {max:.1}"));
    println!(
        "memory             {:.1}{bound} MiB",
        plan.kept_bytes / MEBIBYTE
    );
    println!("fresh enough       {} inputs", plan.fresh);
    if plan.too_old > 0 {
        println!("to be asked again  {} inputs", plan.too_old);
    }
    if plan.unkept > 0 {
        println!("not kept           {} inputs", plan.unkept);
    }
    println!(
        "left over          {} inputs to compute, {} to renew, {} for want of memory",
        left.compute, left.renewals, left.memory
    );
}

fn why(planned: &PlannedEntry, schedule: &Schedule, now: DateTime<Utc>) -> String {
    let next = due::next(schedule, now).map(|next| (next - now).as_seconds_f64());
    match (planned.left, next) {
        (None, _) if planned.from_table > 0 => "not there, its score is in the table".to_owned(),
        (None, _) => "not there".to_owned(),
        (Some(left), _) if left < 0.0 => format!("served in its grace time for {:.0} s", -left),
        (Some(left), Some(next)) => format!("expires in {left:.0} s, next run in {next:.0} s"),
        (Some(left), None) => format!("expires in {left:.0} s"),
    }
}
