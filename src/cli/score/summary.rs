//! Owns what is said at the end: the closing summary on standard error, and the report.
//!
//! Promises that a report holds no row's values.

use super::{result::cell, tally::Tally};
use crate::{cli::file::Inputs, pipeline::Engine};
use anyhow::Context;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

/// Says it on standard error.
pub(super) fn print(tally: &Tally, elapsed: Duration, as_json: bool) {
    let inputs = tally.inputs();
    let per_second = per_second(inputs, elapsed);
    let labels = labels(tally);
    if as_json {
        let summary = json!({
            "inputs": inputs, "hits": tally.hits, "misses": tally.misses, "coalesced": tally.coalesced, "bad_lines": tally.bad_rows,
            "seconds": seconds(elapsed), "inputs_per_s": per_second, "labels": labels,
        });
        eprintln!("{summary}");
        return;
    }
    let line = |name: &str, value: String| eprintln!("{name:<12}{value:>12}");
    line("inputs", inputs.to_string());
    line("hits", tally.hits.to_string());
    line("misses", tally.misses.to_string());
    line("coalesced", tally.coalesced.to_string());
    line("bad lines", tally.bad_rows.to_string());
    line("seconds", format!("{:.3}", elapsed.as_secs_f64()));
    line("inputs/s", per_second.to_string());
    for (label, count) in &labels {
        line(label, count.to_string());
    }
}

fn seconds(elapsed: Duration) -> f64 {
    (elapsed.as_secs_f64() * 1e3).round() / 1e3
}

fn per_second(inputs: u64, elapsed: Duration) -> f64 {
    (inputs as f64 / elapsed.as_secs_f64().max(1e-9)).round()
}

/// Labels by their names: a tally has them as results do.
fn labels(tally: &Tally) -> BTreeMap<String, u64> {
    let labels = tally.labels.iter();
    labels.map(|(label, count)| (cell(label), *count)).collect()
}

/// What a report is made of beside the tally.
pub(super) struct Facts<'a> {
    pub files: &'a Inputs,
    pub output: Option<&'a Path>,
    pub model: Option<&'a str>,
    pub elapsed: Duration,
    /// The last line of an earlier run that this one has gone on from.
    pub resumed_after: Option<u64>,
}

/// The file of the report, opened before the work: who may not write it is told at once.
pub(super) struct Report(Option<(PathBuf, File, bool)>);

impl Report {
    /// Opens it, where one is asked for. What stands in it stays until there is another.
    pub fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else {
            return Ok(Self(None));
        };
        let is_new = !path.exists();
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path);
        let file = file.with_context(|| format!("{} can't be written", path.display()))?;
        Ok(Self(Some((path.to_owned(), file, is_new))))
    }

    /// Leaves no empty one.
    pub fn give_up(&self) {
        if let Self(Some((path, _, true))) = self {
            let _ = fs::remove_file(path);
        }
    }

    /// Writes it.
    pub fn write(
        self,
        tally: &Tally,
        facts: &Facts<'_>,
        engine: Option<&Engine>,
    ) -> anyhow::Result<()> {
        let Some((path, mut file, _)) = self.0 else {
            return Ok(());
        };
        let bytes = serde_json::to_vec_pretty(&about(tally, facts, engine))?;
        let is_file = file.metadata().is_ok_and(|about| about.is_file());
        let emptied = if is_file { file.set_len(0) } else { Ok(()) };
        let written = emptied.and_then(|()| file.write_all(&bytes));
        written.with_context(|| format!("{} can't be written", path.display()))
    }
}

fn about(tally: &Tally, facts: &Facts<'_>, engine: Option<&Engine>) -> Value {
    let inputs = tally.inputs();
    let name = facts
        .model
        .map(|model| model.split('@').next().unwrap_or(model));
    let lanes = engine.map(Engine::lanes).unwrap_or_default();
    let lane = lanes.iter().find(|lane| Some(lane.name.as_str()) == name);
    let measured = lane.and_then(|lane| lane.seconds_per_input);
    // Where everything was found, no call was measured: what the model was measured to take when it was loaded, for its longest inputs.
    let expected = tally.longest.iter().filter_map(|long| long.seconds).next();
    let per_input = measured.or(expected);
    let found = tally.hits + tally.coalesced;
    let look_up = engine.and_then(Engine::look_up_seconds);
    let saved =
        per_input.map(|cost| found as f64 * cost - inputs as f64 * look_up.unwrap_or_default());
    let round = |value: f64| (value * 1e9).round() / 1e9;
    let slowest = tally.longest.iter().map(|long| {
        json!({"file": long.file, "line": long.line, "bytes": long.bytes, "expected_seconds": long.seconds.map(round)})
    });
    json!({
        "file": (facts.files.count() == 1).then(|| facts.files.first().display().to_string()),
        "files": facts.files.count(),
        "output": facts.output.map(|path| path.display().to_string()),
        "model": facts.model,
        "rows": tally.rows,
        "inputs": inputs,
        "hits": tally.hits,
        "misses": tally.misses,
        "coalesced": tally.coalesced,
        "bad_rows": tally.bad_rows,
        "seconds": seconds(facts.elapsed),
        "inputs_per_s": per_second(inputs, facts.elapsed),
        "resumed_after_line": facts.resumed_after,
        "labels": labels(tally),
        "scores": tally.scores.report(),
        "cost": {
            "seconds_per_input": per_input.map(round),
            "model_seconds": measured.map(|cost| round(cost * tally.misses as f64)),
        },
        "cache": {
            "hit_share": (inputs > 0).then(|| round(tally.hits as f64 / inputs as f64)),
            "look_up_seconds_per_input": look_up.map(round),
            "seconds_saved": saved.map(round),
        },
        "slowest_inputs": slowest.collect::<Vec<_>>(),
    })
}
