//! `kiln warm simulate`: replays requests against ways of warming, all at the same budget. Needs no server.

use crate::{
    cli::Exit,
    warm::simulate::{
        Policy, Replay, World, replay,
        synthetic::{Make, Shape},
        trace::{self, RequestTrace},
    },
};
use anyhow::{Context, bail};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use plotters::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;
use std::{fs::File, path::PathBuf};

/// Replays requests against warming policies, all at the same budget: what share of requests waits, and at what cost.
#[derive(Debug, Args)]
#[command(after_help = "\
The trace is a CSV file of time (seconds or RFC 3339) and key, such as a reader's access log gives; --synthetic generates one, for
which the oracle knows the true rates. Needs no server.

Examples:
  kiln warm simulate requests.csv --ttl 300 --budget 5
  kiln warm simulate --synthetic trends --plot waits.svg")]
pub(super) struct Arguments {
    /// The requests.
    #[arg(value_name = "CSV", required_unless_present = "synthetic")]
    trace: Option<PathBuf>,
    /// Generate the requests.
    #[arg(long, value_enum, conflicts_with = "trace")]
    synthetic: Option<Shape>,
    /// Keys of a generated trace.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000), value_name = "COUNT")]
    keys: u32,
    /// Requests per second of a generated trace.
    #[arg(long, default_value_t = 200.0, value_name = "PER_SECOND")]
    rate: f64,
    /// Length of a generated trace, in hours.
    #[arg(long, default_value_t = 8.0, value_name = "HOURS")]
    hours: f64,
    /// Keys of one crowd of a generated flash trace.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=100_000), value_name = "COUNT")]
    crowd: u32,
    /// Random seed of a generated trace.
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    seed: u64,
    /// TTL of an entry, in seconds.
    #[arg(long, default_value_t = 300.0, value_name = "SECONDS")]
    ttl: f64,
    /// What warming may score, in percent of what scoring each request would take.
    #[arg(long, default_value_t = 5.0, value_name = "PERCENT")]
    budget: f64,
    /// Model time of an input, in milliseconds; the cheapest one's, with --cost-spread.
    #[arg(long, default_value_t = 1.0, value_name = "MS")]
    cost: f64,
    /// How many times as much the most expensive input costs as the cheapest; the others lie between.
    #[arg(long, default_value_t = 1.0, value_name = "TIMES")]
    cost_spread: f64,
    /// What a reader waits in addition to the model, in milliseconds.
    #[arg(long, default_value_t = 3.0, value_name = "MS")]
    round_trip: f64,
    /// Draw the share of requests that waited over time, as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Print one JSON object per policy.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    for (name, value, max) in [
        ("--rate", arguments.rate, 1e6),
        ("--hours", arguments.hours, 10_000.0),
        ("--ttl", arguments.ttl, 1e9),
        ("--budget", arguments.budget, 100.0),
        ("--cost", arguments.cost, 1e6),
        ("--round-trip", arguments.round_trip, 1e6),
    ] {
        if !(value > 0.0 && value <= max) {
            bail!("{name}: expected more than 0 and at most {max}");
        }
    }
    if !(1.0..=1e6).contains(&arguments.cost_spread) {
        bail!("--cost-spread: expected 1 to 1000000");
    }
    if arguments.rate * arguments.hours * 3_600.0 > 2e8 {
        bail!("--rate and --hours make more than 200 million requests");
    }
    let trace = load(arguments)?;
    let mut rng = StdRng::seed_from_u64(arguments.seed);
    let world = World {
        ttl: arguments.ttl,
        budget: arguments.budget / 100.0,
        costs: (0..trace.keys)
            .map(|_| arguments.cost / 1e3 * arguments.cost_spread.powf(rng.random()))
            .collect(),
        round_trip: arguments.round_trip / 1e3,
    };
    let policies: Vec<Policy> = Policy::ALL
        .into_iter()
        .filter(|policy| *policy != Policy::Oracle || trace.truth.is_some())
        .collect();
    let bar = ProgressBar::new(1_000 * policies.len() as u64);
    bar.set_style(ProgressStyle::with_template("{bar:40} {percent}% {msg}")?);
    let outcomes: Vec<Replay> = (0u64..)
        .zip(&policies)
        .map(|(number, policy)| {
            bar.set_message(policy.as_str());
            replay(&trace, &world, *policy, |share| {
                bar.set_position(number * 1_000 + (share * 1_000.0) as u64);
            })
        })
        .collect();
    bar.finish_and_clear();
    show(arguments, &trace, &outcomes);
    if let Some(file) = &arguments.plot {
        plot(file, &trace, &outcomes).with_context(|| file.display().to_string())?;
        if !arguments.json {
            println!("\nplot               {}", file.display());
        }
    }
    Ok(Exit::Ok)
}

fn load(arguments: &Arguments) -> anyhow::Result<RequestTrace> {
    if let Some(shape) = arguments.synthetic {
        return Ok(Make {
            shape,
            keys: arguments.keys as usize,
            rate: arguments.rate,
            length: arguments.hours * 3_600.0,
            crowd: arguments.crowd as usize,
            seed: arguments.seed,
        }
        .draw());
    }
    let Some(path) = &arguments.trace else {
        bail!("give a CSV file, or --synthetic");
    };
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let (trace, _) = trace::read(file).with_context(|| path.display().to_string())?;
    Ok(trace)
}

fn show(arguments: &Arguments, trace: &RequestTrace, outcomes: &[Replay]) {
    let Some(nothing) = outcomes.first() else {
        return;
    };
    let avoided = |outcome: &Replay| nothing.waited as f64 - outcome.waited as f64;
    let oracle = outcomes
        .iter()
        .find(|o| o.policy == Policy::Oracle)
        .map(avoided);
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "policy",
        "hit rate",
        "waited",
        "of oracle",
        "waiting s",
        "warmed",
        "model s",
        "saved s per model s",
    ]);
    for outcome in outcomes {
        let of_oracle = oracle
            .filter(|o| *o > 0.0)
            .map(|oracle| avoided(outcome) / oracle);
        if arguments.json {
            println!(
                "{}",
                json!({
                    "policy": outcome.policy.as_str(), "requests": outcome.requests, "waited": outcome.waited, "waited_share": outcome.waited_share(),
                    "of_oracle": of_oracle, "waiting_seconds": outcome.waiting, "warmed": outcome.warmed, "warming_seconds": outcome.warming,
                    "model_seconds": outcome.model_seconds, "saved_per_model_second": outcome.saved_per_second(nothing),
                })
            );
        }
        table.add_row([
            outcome.policy.as_str().to_owned(),
            format!("{:.2} %", 100.0 - 100.0 * outcome.waited_share()),
            format!("{:.2} %", 100.0 * outcome.waited_share()),
            of_oracle.map_or_else(String::new, |share| format!("{:.1} %", 100.0 * share)),
            format!("{:.0}", outcome.waiting),
            outcome.warmed.to_string(),
            format!("{:.0}", outcome.model_seconds),
            format!("{:.3}", outcome.saved_per_second(nothing)),
        ]);
    }
    if arguments.json {
        return;
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
    println!(
        "\nrequests           {} over {} keys in {:.1} h",
        nothing.requests,
        trace.keys,
        trace.length / 3_600.0
    );
    println!(
        "`of oracle` is the share of the waits that the oracle avoids; `waited` is what to keep low at an affordable cost"
    );
}

fn plot(file: &std::path::Path, trace: &RequestTrace, outcomes: &[Replay]) -> anyhow::Result<()> {
    const COLOURS: [RGBColor; 6] = [
        RGBColor(120, 120, 120),
        RGBColor(230, 159, 0),
        RGBColor(86, 180, 233),
        RGBColor(213, 94, 0),
        RGBColor(0, 114, 178),
        RGBColor(0, 158, 115),
    ];
    let area = SVGBackend::new(file, (960, 480)).into_drawing_area();
    area.fill(&WHITE)?;
    let hours = trace.length / 3_600.0;
    let top = outcomes
        .iter()
        .flat_map(|o| &o.parts)
        .copied()
        .fold(0.0, f64::max)
        * 105.0;
    let mut chart = ChartBuilder::on(&area)
        .caption("Requests that waited, %", ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..hours, 0.0..top.max(1.0))?;
    chart
        .configure_mesh()
        .x_desc("hours")
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (outcome, colour) in outcomes.iter().zip(COLOURS) {
        let parts = outcome.parts.len() as f64;
        let points = outcome
            .parts
            .iter()
            .enumerate()
            .map(|(index, share)| ((index as f64 + 0.5) / parts * hours, share * 100.0));
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(outcome.policy.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(TRANSPARENT)
        .draw()?;
    area.present()?;
    Ok(())
}
