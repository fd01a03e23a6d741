//! Prints what came of a simulation: a table for people, lines of JSON for programs.

use super::Arguments;
use crate::warm::simulate::{Policy, Replay, World, trace::RequestTrace, wish::Advice};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;

/// What each policy came to.
pub(super) fn outcomes(
    arguments: &Arguments,
    trace: &RequestTrace,
    world: &World,
    outcomes: &[Replay],
) {
    let Some(nothing) = outcomes.first() else {
        return;
    };
    let avoided = |outcome: &Replay| nothing.waited as f64 - outcome.waited as f64;
    let best = |policy: Policy| {
        let found = outcomes.iter().find(|o| o.policy == policy);
        found.map(avoided).filter(|avoided| *avoided > 0.0)
    };
    let (oracle, clairvoyant) = (best(Policy::Oracle), best(Policy::Clairvoyant));
    let compared: Vec<Compared<'_>> = outcomes
        .iter()
        .map(|outcome| Compared {
            outcome,
            of_oracle: oracle.map(|best| avoided(outcome) / best),
            of_clairvoyant: clairvoyant.map(|best| avoided(outcome) / best),
            saved: outcome.saved_per_second(nothing),
        })
        .collect();
    if arguments.json {
        compared.iter().for_each(|one| one.print(trace));
        return;
    }
    println!("{}", table(&compared, arguments.entry_bytes));
    println!(
        "\nrequests           {} over {} keys in {:.1} h",
        nothing.requests,
        trace.keys,
        trace.length / 3_600.0
    );
    println!("a run              every {} s", world.every);
    println!(
        "`waited` is what to keep low at an affordable cost; `later` is the second half, when heat knows what is asked for; `of` is the share \
         of the waits that the other policy avoids"
    );
    for caveat in outcomes.iter().filter_map(|o| o.policy.caveat(trace)) {
        eprintln!("{caveat}");
    }
}

/// What to set for a wished share of waits, in percent.
pub(super) fn advice(arguments: &Arguments, wish: f64, advice: &Advice) {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "ttl_seconds",
        "a run every",
        "budget",
        "inputs",
        "model_seconds",
        "waited",
        "later",
        "computed",
        "renewed",
        "model s",
        "MiB",
    ]);
    for one in &advice.fits {
        let outcome = &one.outcome;
        if arguments.json {
            println!(
                "{}",
                json!({
                    "ttl_seconds": one.ttl, "every_seconds": one.every, "budget_percent": 100.0 * one.budget,
                    "budget": {"inputs": one.inputs, "model_seconds": one.model_seconds}, "waited_share": outcome.waited_share(),
                    "waited_share_later": outcome.waited_share_later(), "warmed": outcome.warmed, "renewed": outcome.renewed,
                    "model_seconds": outcome.model_seconds, "max_entries": outcome.entries,
                })
            );
        }
        table.add_row([
            format!("{:.0}", one.ttl),
            one.every
                .map_or_else(|| "no warming".to_owned(), |every| format!("{every:.0} s")),
            format!("{:.0} %", 100.0 * one.budget),
            one.inputs.to_string(),
            format!("{:.3}", one.model_seconds),
            format!("{:.2} %", 100.0 * outcome.waited_share()),
            format!("{:.2} %", 100.0 * outcome.waited_share_later()),
            outcome.warmed.to_string(),
            outcome.renewed.to_string(),
            format!("{:.0}", outcome.model_seconds),
            mebibytes(outcome.entries, arguments.entry_bytes),
        ]);
    }
    for untried in &advice.untried {
        eprintln!("{untried}");
    }
    if advice.fits.is_empty() {
        eprintln!(
            "nothing that was tried leaves at most {wish} % of the requests waiting: the best leaves {:.2} %, and {:.2} % are the first for their key, \
             which heat can't foresee; a source that lists them, or a longer TTL, can",
            100.0 * advice.best,
            100.0 * advice.first
        );
        return;
    }
    if arguments.json {
        return;
    }
    align(&mut table);
    println!("{table}");
    println!(
        "\nthe smallest budget with which at most {wish} % wait; of these, choose the shortest TTL that you can afford: it bounds how old an entry may be. \
         `inputs` and `model_seconds` are each run's, as in a schedule's [budget]"
    );
}

fn align(table: &mut Table) {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

/// One policy beside the best ones.
struct Compared<'a> {
    outcome: &'a Replay,
    /// Share of the waits that these avoid.
    of_oracle: Option<f64>,
    of_clairvoyant: Option<f64>,
    /// Seconds of waiting saved for a second of model time.
    saved: f64,
}

impl Compared<'_> {
    fn print(&self, trace: &RequestTrace) {
        let outcome = self.outcome;
        println!(
            "{}",
            json!({
                "policy": outcome.policy.as_str(), "requests": outcome.requests, "waited": outcome.waited, "waited_share": outcome.waited_share(),
                "waited_share_later": outcome.waited_share_later(), "of_oracle": self.of_oracle, "of_clairvoyant": self.of_clairvoyant,
                "waiting_seconds": outcome.waiting, "warmed": outcome.warmed, "renewed": outcome.renewed, "warming_seconds": outcome.warming,
                "model_seconds": outcome.model_seconds, "saved_per_model_second": self.saved, "max_entries": outcome.entries,
                "caveat": outcome.policy.caveat(trace),
            })
        );
    }
}

fn table(compared: &[Compared<'_>], entry_bytes: u32) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    let has_oracle = compared.iter().any(|one| one.of_oracle.is_some());
    let before = ["policy", "hit rate", "waited", "later"];
    let after = [
        "of clairvoyant",
        "waiting s",
        "computed",
        "renewed",
        "model s",
        "saved s per model s",
        "MiB",
    ];
    let oracle = has_oracle.then_some("of oracle");
    table.set_header(before.into_iter().chain(oracle).chain(after));
    let share = |share: f64| format!("{:.2} %", 100.0 * share);
    let of = |share: Option<f64>| {
        share.map_or_else(String::new, |share| format!("{:.1} %", 100.0 * share))
    };
    for one in compared {
        let outcome = one.outcome;
        let before = [
            outcome.policy.as_str().to_owned(),
            share(1.0 - outcome.waited_share()),
            share(outcome.waited_share()),
            share(outcome.waited_share_later()),
        ];
        let after = [
            of(one.of_clairvoyant),
            format!("{:.0}", outcome.waiting),
            outcome.warmed.to_string(),
            outcome.renewed.to_string(),
            format!("{:.0}", outcome.model_seconds),
            format!("{:.3}", one.saved),
            mebibytes(outcome.entries, entry_bytes),
        ];
        let oracle = has_oracle.then(|| of(one.of_oracle));
        table.add_row(before.into_iter().chain(oracle).chain(after));
    }
    align(&mut table);
    table
}

fn mebibytes(entries: usize, entry_bytes: u32) -> String {
    format!(
        "{:.1}",
        entries as f64 * f64::from(entry_bytes) / 1_048_576.0
    )
}
