//! Owns what is said at the end: the closing summary on standard error, and the report.
//!
//! Promises that a report holds no row's values.

use super::{item::Position, result::cell, tally::Tally};
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
pub(super) fn print(tally: &Tally, facts: &Facts<'_>, as_json: bool) {
    let (inputs, elapsed) = (tally.inputs(), facts.elapsed);
    let per_second = per_second(inputs, elapsed);
    let labels = labels(tally);
    if as_json {
        let mut summary = json!({
            "inputs": inputs, "hits": tally.hits, "misses": tally.misses(), "uncached": tally.uncached, "coalesced": tally.coalesced,
            "bad_lines": tally.bad_rows,
            "seconds": seconds(elapsed), "inputs_per_s": per_second, "labels": labels,
        });
        if let (Some(parts), Some(fields)) = (facts.parts, summary.as_object_mut()) {
            fields.insert("parts".to_owned(), parts.into());
        }
        eprintln!("{summary}");
        return;
    }
    let line = |name: &str, value: String| eprintln!("{name:<12}{value:>12}");
    line("inputs", inputs.to_string());
    line("hits", tally.hits.to_string());
    line("misses", tally.misses().to_string());
    if tally.uncached > 0 {
        line("uncached", tally.uncached.to_string());
    }
    line("coalesced", tally.coalesced.to_string());
    line("bad lines", tally.bad_rows.to_string());
    if let Some(parts) = facts.parts {
        line("parts", parts.to_string());
    }
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
    /// Its parts, where it is split.
    pub parts: Option<u32>,
    pub model: Option<&'a str>,
    pub elapsed: Duration,
    /// Where an earlier run stopped that this one has gone on from.
    pub resumed_after: Option<Position>,
}

/// The file of the report, opened before the work: who may not write it is told at once.
pub(super) struct Report {
    open: Option<(PathBuf, File)>,
    /// Its path, where there was none before and nothing is written yet.
    empty: Option<PathBuf>,
}

impl Drop for Report {
    fn drop(&mut self) {
        if let Some(path) = &self.empty {
            // It is in nobody's way where it stays.
            let _ = fs::remove_file(path);
        }
    }
}

impl Report {
    /// Opens it, where one is asked for. What stands in it stays until there is another.
    pub fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else {
            return Ok(Self {
                open: None,
                empty: None,
            });
        };
        let is_new = !path.exists();
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path);
        let file = file.with_context(|| format!("{} can't be written", path.display()))?;
        Ok(Self {
            open: Some((path.to_owned(), file)),
            empty: is_new.then(|| path.to_owned()),
        })
    }

    /// Writes it.
    pub fn write(
        mut self,
        tally: &Tally,
        facts: &Facts<'_>,
        engine: Option<&Engine>,
    ) -> anyhow::Result<()> {
        let Some((path, mut file)) = self.open.take() else {
            return Ok(());
        };
        let bytes = serde_json::to_vec_pretty(&about(tally, facts, engine))?;
        let is_file = file.metadata().is_ok_and(|about| about.is_file());
        let emptied = if is_file { file.set_len(0) } else { Ok(()) };
        let written = emptied.and_then(|()| file.write_all(&bytes));
        written.with_context(|| format!("{} can't be written", path.display()))?;
        self.empty = None;
        Ok(())
    }
}

/// Seconds of the model that were saved, less those of looking up.
fn saved(tally: &Tally, per_input: f64, look_up: f64) -> f64 {
    let found = tally.hits + tally.coalesced;
    let looked_up = tally.inputs().saturating_sub(tally.uncached);
    found as f64 * per_input - looked_up as f64 * look_up
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
    let look_up = engine.and_then(Engine::look_up_seconds);
    let saved = per_input.map(|cost| saved(tally, cost, look_up.unwrap_or_default()));
    let round = |value: f64| (value * 1e9).round() / 1e9;
    let only = facts.files.first().display().to_string();
    let only = Some(only).filter(|_| facts.files.count() == 1);
    let slowest = tally.longest.iter().map(|long| {
        let file = long.file.as_ref().or(only.as_ref());
        json!({"file": file, "line": long.line, "bytes": long.bytes, "seconds": long.seconds.map(round)})
    });
    json!({
        "file": only,
        "files": facts.files.count(),
        "output": facts.output.map(|path| path.display().to_string()),
        "parts": facts.parts,
        "model": facts.model,
        "rows": tally.rows,
        "inputs": inputs,
        "hits": tally.hits,
        "misses": tally.misses(),
        "uncached": tally.uncached,
        "coalesced": tally.coalesced,
        "bad_rows": tally.bad_rows,
        "rows_with_error": tally.error_rows,
        "seconds": seconds(facts.elapsed),
        "inputs_per_s": per_second(inputs, facts.elapsed),
        "resumed_after_line": facts.resumed_after.map(|from| from.lines),
        "resumed_in_file": facts.resumed_after.and_then(|from| facts.files.get(from.file)).map(|file| file.display().to_string()),
        "labels": labels(tally),
        "scores": tally.scores.report(),
        "cost": {
            "seconds_per_input": per_input.map(round),
            "model_seconds": measured.map(|cost| round(cost * tally.scored as f64)),
        },
        "cache": {
            "hit_share": (inputs > 0).then(|| round(tally.hits as f64 / inputs as f64)),
            "look_up_seconds_per_input": look_up.map(round),
            "seconds_saved": saved.map(round),
        },
        "slowest_inputs": slowest.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::InputCounts;

    #[test]
    fn what_was_not_looked_up_is_no_miss_and_costs_no_look_up() {
        let mut tally = Tally::default();
        tally.count(&InputCounts {
            hits: 10,
            misses: 90,
            uncached: 80,
            ..InputCounts::default()
        });
        assert_eq!(
            (tally.inputs(), tally.misses(), tally.uncached),
            (100, 10, 80)
        );
        let seconds = saved(&tally, 4.0, 1.0);
        assert!((seconds - 20.0).abs() < 1e-9, "{seconds}");
        let mut all = Tally::default();
        for _ in 0..2 {
            all.merge(&tally);
        }
        assert_eq!((all.misses(), all.uncached), (20, 160));
    }
}
