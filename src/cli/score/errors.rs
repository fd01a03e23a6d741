//! Owns bad rows: the first few are named on standard error, all are counted, and where that is asked for they end the run or go to a file.

use super::{item::BadRow, part::Part, source::Source};
use crate::cli::file::{BadLine, BadLines, Format, Inputs};
use anyhow::bail;
use indicatif::ProgressBar;
use serde_json::{json, value::RawValue};
use std::path::Path;

/// What a bad row does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum OnError {
    /// It ends the run; the output isn't written.
    Fail,
    /// It is named, its result carries an error where it is an input, and the others are scored.
    #[default]
    Skip,
    /// It goes to the file of --quarantine, and not into the output.
    Quarantine,
}

/// What becomes of bad rows.
pub(super) struct Errors {
    pub on_error: OnError,
    pub inputs: Inputs,
    pub format: Format,
    pub quarantine: Option<Part>,
    pub lines: BadLines,
    /// Whether a bad row has ended the run.
    pub failed: bool,
}

impl Errors {
    /// None yet, but for the first `kept` bytes of what an earlier run of the same output has put aside.
    pub fn open(
        on_error: OnError,
        source: &Source,
        (output, quarantine): (Option<&Path>, Option<&Path>),
        kept: u64,
    ) -> anyhow::Result<Self> {
        let quarantine = quarantine.map(|path| Part::open(path, kept, output));
        let quarantine = quarantine.transpose()?;
        Ok(Self {
            on_error,
            inputs: source.inputs.clone(),
            format: source.format,
            quarantine,
            lines: BadLines::default(),
            failed: false,
        })
    }

    /// Takes the bad rows of a block of a file. An error is the end of the run.
    pub fn take(
        &mut self,
        bar: &ProgressBar,
        file: usize,
        rows: Vec<BadRow>,
    ) -> anyhow::Result<()> {
        let file = self
            .inputs
            .get(file)
            .unwrap_or(Path::new("-"))
            .display()
            .to_string();
        // Where there is one, everybody knows which.
        let row = match self.inputs.count() {
            1 => self.format.row().to_owned(),
            _ => format!("{file}: {}", self.format.row()),
        };
        for bad in rows {
            if self.on_error == OnError::Fail {
                self.failed = true;
                bail!(
                    "{file}: {} {}: {}",
                    self.format.row(),
                    bad.line,
                    bad.problem
                );
            }
            if let Some(part) = &mut self.quarantine {
                let mut line = quarantined(&file, self.format, &bad);
                line.push('\n');
                part.write(line.as_bytes())?;
            }
            let BadRow { line, problem, .. } = bad;
            self.lines.report(bar, &row, &BadLine { line, problem });
        }
        Ok(())
    }
}

/// A bad row as a line of JSON.
fn quarantined(file: &str, format: Format, bad: &BadRow) -> String {
    let text = bad.row.as_deref();
    // A record was made an object; a line of JSON stays the text that it is.
    let object = || RawValue::from_string(text?.to_owned()).ok();
    let row = match format {
        Format::Jsonl => json!(text),
        _ => json!(object()),
    };
    json!({
        "file": file, "line": bad.line, "column": bad.column, "problem": bad.problem, "row": row,
    })
    .to_string()
}
