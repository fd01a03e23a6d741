//! Owns the arguments of `kiln warm simulate`: how the log is read, and what is simulated.

use crate::warm::{
    schedule::{Budget, Missed},
    simulate::{
        Allowed, Renewals, Seen, World,
        log::{Form, Reading},
        synthetic::Shape,
        trace::RequestTrace,
    },
};
use anyhow::{Context, bail};
use clap::Args;
use rand::{Rng, SeedableRng, rngs::StdRng};
use regex::Regex;
use std::path::PathBuf;

/// Replays requests against warming policies, all at the same budget: what share of requests waits, and at what cost.
#[derive(Debug, Args)]
#[command(after_help = "\
The log is CSV (time, key and perhaps a session, or any columns with a header), JSON lines, or a web server's lines with --pattern.
Times are seconds or milliseconds since 1970, RFC 3339, or as nginx and Apache write them. --synthetic generates requests, for which the
oracle knows the true rates. Needs no server.

Examples:
  kiln warm simulate requests.csv --ttl 300 --budget 5
  kiln warm simulate access.log --pattern '\"GET /items/(?<key>[^/? ]+)' --seen hints --every 60
  kiln warm simulate requests.jsonl --wish 10
  kiln warm simulate --synthetic trends --plot waits.svg")]
pub(in crate::cli::warm) struct Arguments {
    /// The access log; - for standard input.
    #[arg(value_name = "LOG", required_unless_present = "synthetic")]
    pub trace: Option<PathBuf>,
    /// The log's form.
    #[arg(long, value_enum, default_value_t)]
    format: Form,
    /// What is the key: a regular expression with a group `key`, and perhaps `namespace`, `session` and `time`, for a line or for the key's field.
    #[arg(long, value_name = "REGEX")]
    pattern: Option<String>,
    /// The field that holds the time, or a JSON pointer to it.
    #[arg(long, value_name = "NAME")]
    time_field: Option<String>,
    /// The field that holds the key, or a JSON pointer to it.
    #[arg(long, value_name = "NAME")]
    key_field: Option<String>,
    /// The field that holds the namespace, or a JSON pointer to it.
    #[arg(long, value_name = "NAME")]
    namespace_field: Option<String>,
    /// The field that holds the session, or a JSON pointer to it.
    #[arg(long, value_name = "NAME")]
    session_field: Option<String>,
    /// Only requests of this namespace.
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// Generate the requests.
    #[arg(long, value_enum, conflicts_with = "trace")]
    pub synthetic: Option<Shape>,
    /// Keys of a generated trace.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000), value_name = "COUNT")]
    pub keys: u32,
    /// Requests per second of a generated trace.
    #[arg(long, default_value_t = 200.0, value_name = "PER_SECOND")]
    pub rate: f64,
    /// Length of a generated trace, in hours.
    #[arg(long, default_value_t = 8.0, value_name = "HOURS")]
    pub hours: f64,
    /// Keys of one crowd of a generated flash trace.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=100_000), value_name = "COUNT")]
    pub crowd: u32,
    /// Random seed of a generated trace.
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    pub seed: u64,
    /// TTL of an entry, in seconds. Each is shortened by up to a tenth, as workers do.
    #[arg(long, default_value_t = 300.0, value_name = "SECONDS")]
    ttl: f64,
    /// What warming may compute, in percent of what scoring each request would take.
    #[arg(long, default_value_t = 5.0, value_name = "PERCENT")]
    budget: f64,
    /// Instead: inputs that each run may compute, as `budget.inputs` of a schedule.
    #[arg(long, value_name = "COUNT", conflicts_with = "budget")]
    run_inputs: Option<usize>,
    /// Instead: seconds of model time for each run, as `budget.model_seconds` of a schedule.
    #[arg(long, value_name = "SECONDS", conflicts_with = "budget")]
    run_model_seconds: Option<f64>,
    /// Instead: known scores that each run may renew, as `budget.renewals` of a schedule.
    #[arg(long, value_name = "COUNT", conflicts_with = "budget")]
    run_renewals: Option<usize>,
    /// What is refreshed without model time.
    #[arg(long, value_enum, default_value_t)]
    renewals: Renewals,
    /// Seconds from one run to the next.
    #[arg(long, default_value_t = World::EVERY, value_name = "SECONDS")]
    every: f64,
    /// How long after its due time a run's entries are there, in seconds.
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS")]
    run_seconds: f64,
    /// What workers see of the requests.
    #[arg(long, value_enum, default_value_t)]
    seen: Seen,
    /// How many of the hottest inputs a run considers, as `top` of a source.
    #[arg(long, default_value_t = World::TOP, value_name = "COUNT")]
    top: usize,
    /// Also refresh at once what probably follows a request, by what followed it before: in its session where the log names one.
    #[arg(long)]
    follow: bool,
    /// Memory that warming may fill in Redis, in mebibytes; no bound if absent.
    #[arg(long, value_name = "MIB")]
    memory: Option<f64>,
    /// Memory that one entry takes, in bytes.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..), value_name = "BYTES")]
    pub entry_bytes: u32,
    /// No worker is up from one time to another, in seconds since the log began.
    #[arg(long, value_name = "FROM-TO", value_parser = outage)]
    down: Option<(f64, f64)>,
    /// What happens to runs that came due meanwhile, as `missed` of a schedule.
    #[arg(long, value_enum, default_value = "once")]
    missed: Missed,
    /// Model time of an input, in milliseconds; the cheapest one's, with --cost-spread.
    #[arg(long, default_value_t = 1.0, value_name = "MS")]
    cost: f64,
    /// How many times as much the most expensive input costs as the cheapest; the others lie between.
    #[arg(long, default_value_t = 1.0, value_name = "TIMES")]
    cost_spread: f64,
    /// What a reader waits in addition to the model, in milliseconds.
    #[arg(long, default_value_t = 3.0, value_name = "MS")]
    round_trip: f64,
    /// Find settings with which at most so many percent of the requests wait.
    #[arg(long, value_name = "PERCENT", conflicts_with = "plot", value_parser = percent)]
    pub wish: Option<f64>,
    /// Draw the share of requests that waited over time, as SVG.
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// Print one JSON object per policy.
    #[arg(long)]
    pub json: bool,
}

/// By how much a worker shortens a TTL at most.
const TTL_SPREAD: f64 = 0.1;

fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim().parse::<f64>();
    let number = number.ok().filter(|number| (0.0..=100.0).contains(number));
    number.ok_or_else(|| "expected 0 to 100, such as 10 or 10%".to_owned())
}

fn outage(text: &str) -> Result<(f64, f64), String> {
    let read = || {
        let (from, to) = text.split_once('-')?;
        let (from, to) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
        Some((from, to))
            .filter(|(from, to): &(f64, f64)| *from >= 0.0 && from < to && to.is_finite())
    };
    read().ok_or_else(|| "expected two times in seconds, such as 3600-5400".to_owned())
}

impl Arguments {
    /// Checks the ranges of numbers.
    pub fn check(&self) -> anyhow::Result<()> {
        for (name, value, max) in [
            ("--rate", self.rate, 1e6),
            ("--hours", self.hours, 10_000.0),
            ("--ttl", self.ttl, 1e9),
            ("--budget", self.budget, 100.0),
            ("--every", self.every, 86_400.0),
            ("--cost", self.cost, 1e6),
            ("--round-trip", self.round_trip, 1e6),
            (
                "--run-model-seconds",
                self.run_model_seconds.unwrap_or(1.0),
                1e6,
            ),
            ("--memory", self.memory.unwrap_or(1.0), 1e9),
        ] {
            if !(value > 0.0 && value <= max) {
                bail!("{name}: expected more than 0 and at most {max}");
            }
        }
        if !(1.0..=1e6).contains(&self.cost_spread) {
            bail!("--cost-spread: expected 1 to 1000000");
        }
        if !(0.0..=3_600.0).contains(&self.run_seconds) {
            bail!("--run-seconds: expected 0 to 3600");
        }
        if !(1..=100_000).contains(&self.top) {
            bail!("--top: expected 1 to 100000");
        }
        if self.rate * self.hours * 3_600.0 > 2e8 {
            bail!("--rate and --hours make more than 200 million requests");
        }
        Ok(())
    }

    /// How the log is read.
    pub fn reading(&self) -> anyhow::Result<Reading> {
        let pattern = self.pattern.as_deref().map(Regex::new).transpose();
        Ok(Reading {
            form: self.format,
            pattern: pattern.context("--pattern")?,
            time_field: self.time_field.clone(),
            key_field: self.key_field.clone(),
            namespace_field: self.namespace_field.clone(),
            session_field: self.session_field.clone(),
            namespace: self.namespace.clone(),
        })
    }

    /// What is simulated with these requests.
    pub fn world(&self, trace: &RequestTrace) -> anyhow::Result<World> {
        if trace.length / self.every > 1e7 {
            bail!(
                "--every: the log's {:.0} s would have more than ten million runs",
                trace.length
            );
        }
        let mut rng = StdRng::seed_from_u64(self.seed);
        let costs = (0..trace.keys)
            .map(|_| self.cost / 1e3 * self.cost_spread.powf(rng.random()))
            .collect();
        let allowed = match (self.run_inputs, self.run_model_seconds, self.run_renewals) {
            (None, None, None) => Allowed::Share(self.budget / 100.0),
            (inputs, model_seconds, renewals) => {
                let usual = Budget::default();
                Allowed::Run(Budget {
                    inputs: inputs.unwrap_or(usual.inputs),
                    model_seconds,
                    renewals: renewals.unwrap_or(usual.renewals),
                })
            }
        };
        let max_entries = self
            .memory
            .map(|mib| (mib * 1_048_576.0 / f64::from(self.entry_bytes)) as usize);
        Ok(World {
            ttl_spread: TTL_SPREAD,
            allowed,
            renewals: self.renewals,
            seen: self.seen,
            run_seconds: self.run_seconds,
            top: self.top,
            follow: self.follow,
            max_entries,
            outage: self.down,
            missed: self.missed,
            round_trip: self.round_trip / 1e3,
            ..World::new(self.ttl, costs).every(self.every)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn what_is_not_said_of_a_runs_budget_is_as_a_schedule_has_it() {
        let trace = RequestTrace {
            requests: vec![(0.0, 0)],
            sessions: Vec::new(),
            keys: 1,
            length: 60.0,
            truth: None,
        };
        let words = ["kiln", "log.csv", "--run-model-seconds", "0.5"];
        let world = Cli::parse_from(words).arguments.world(&trace);
        let expected = Budget {
            model_seconds: Some(0.5),
            ..Budget::default()
        };
        assert_eq!(world.expect("a world").allowed, Allowed::Run(expected));
    }
}
