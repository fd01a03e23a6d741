//! Owns what becomes of a job's outcome: its results go out, its bad inputs are reported by line, and all is counted for the
//! closing summary.

use super::{output::Output, source::Work};
use crate::{
    cli::file::{BadLine, BadLines, Format},
    pipeline::{InputCounts, Outcome},
};
use anyhow::bail;
use indicatif::ProgressBar;
use kiln_contract::result;
use serde_json::{Value, value::RawValue};
use std::{collections::BTreeMap, time::Duration};

/// Writes a job's results, and reports its bad inputs by line.
pub(super) fn take(
    work: &Work,
    outcome: Outcome,
    output: &mut Output,
    summary: &mut Summary,
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    let replies = work.whole && output.format() == Format::Jsonl;
    let mut bad = |problem: String| {
        let line = work.line(0);
        summary.bad_lines.report(bar, &BadLine { line, problem });
    };
    match outcome {
        Outcome::Done { job_id, result, .. } => {
            let results: Vec<&RawValue> = serde_json::from_str(&result.results)?;
            for (index, raw) in results.iter().enumerate() {
                summary.result(bar, work, index, &serde_json::from_str(raw.get())?);
            }
            if replies {
                output.line(&result::ok_reply(&job_id, &result))?;
            } else {
                for result in results {
                    output.result(result)?;
                }
            }
        }
        Outcome::Rejected { job_id, rejection } => {
            bad(rejection.to_string());
            if replies {
                let job_id = job_id.unwrap_or_default();
                output.line(&result::rejected_reply(&job_id, &rejection))?;
            }
        }
        Outcome::Retry { reason, .. } => bad(reason),
        Outcome::Postponed { .. } | Outcome::Moved(_) | Outcome::Abandoned => {
            bail!("the model threads have stopped")
        }
    }
    Ok(())
}

/// An input's error in words. Within a file of inputs the line says which input it is, and the field only what of it.
fn problem(error: &Value, whole: bool) -> String {
    let part = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
    let field = if whole {
        part("field")
    } else {
        part("field").split_once('.').map_or("", |f| f.1)
    };
    let named = if field.is_empty() {
        String::new()
    } else {
        format!("`{field}`: ")
    };
    format!("{named}{}", part("message"))
}

/// What is said at the end.
#[derive(Debug, Default)]
pub(super) struct Summary {
    counts: InputCounts,
    pub(super) bad_lines: BadLines,
    labels: BTreeMap<String, u64>,
}

impl Summary {
    /// Adds the inputs of one job.
    pub(super) fn count(&mut self, counts: InputCounts) {
        self.counts.hits += counts.hits;
        self.counts.misses += counts.misses;
        self.counts.coalesced += counts.coalesced;
        self.counts.skipped += counts.skipped;
    }

    /// Counts one input's result, and reports it where it is an error.
    fn result(&mut self, bar: &ProgressBar, work: &Work, index: usize, result: &Value) {
        if let Some(error) = result.get("error") {
            let line = work.line(index);
            let problem = problem(error, work.whole);
            self.bad_lines.report(bar, &BadLine { line, problem });
        }
        if let Some(label) = result.get("label").and_then(Value::as_str) {
            *self.labels.entry(label.to_owned()).or_default() += 1;
        }
    }

    /// Whether any line was bad.
    pub(super) fn is_partial(&self) -> bool {
        self.bad_lines.count() > 0
    }

    /// Says it on standard error.
    pub(super) fn print(&self, elapsed: Duration, json: bool) {
        let InputCounts {
            hits,
            misses,
            coalesced,
            ..
        } = self.counts;
        let inputs = hits + misses + coalesced;
        let per_second = (inputs as f64 / elapsed.as_secs_f64().max(1e-9)).round();
        if json {
            let summary = serde_json::json!({
                "inputs": inputs, "hits": hits, "misses": misses, "coalesced": coalesced, "bad_lines": self.bad_lines.count(),
                "seconds": (elapsed.as_secs_f64() * 1e3).round() / 1e3, "inputs_per_s": per_second, "labels": self.labels,
            });
            eprintln!("{summary}");
            return;
        }
        self.bad_lines.print_rest();
        let line = |name: &str, value: String| eprintln!("{name:<12}{value:>12}");
        line("inputs", inputs.to_string());
        line("hits", hits.to_string());
        line("misses", misses.to_string());
        line("coalesced", coalesced.to_string());
        line("bad lines", self.bad_lines.count().to_string());
        line("seconds", format!("{:.3}", elapsed.as_secs_f64()));
        line("inputs/s", per_second.to_string());
        for (label, count) in &self.labels {
            line(label, count.to_string());
        }
    }
}
