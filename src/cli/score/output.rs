//! Owns how `kiln score` writes results: one JSON object a line, or CSV.

use crate::cli::file::Format;
use anyhow::Context;
use serde_json::{Value, value::RawValue};
use std::{
    fs::File,
    io::{self, BufWriter, IsTerminal, Write},
    path::Path,
};

/// Where results go.
pub(super) struct Output {
    writer: Writer,
    /// Whether every line is to be seen at once.
    live: bool,
}

enum Writer {
    Jsonl(Box<dyn Write + Send>),
    Csv {
        writer: Box<csv::Writer<Box<dyn Write + Send>>>,
        started: bool,
    },
}

impl Output {
    /// A file, or standard output.
    pub(super) fn open(path: Option<&Path>, format: Format) -> anyhow::Result<Self> {
        let sink: Box<dyn Write + Send> = match path {
            Some(path) => {
                let file = File::create(path)
                    .with_context(|| format!("{} can't be written", path.display()))?;
                Box::new(BufWriter::new(file))
            }
            None => Box::new(BufWriter::new(io::stdout())),
        };
        let writer = match format {
            Format::Jsonl => Writer::Jsonl(sink),
            Format::Csv => Writer::Csv {
                writer: Box::new(csv::Writer::from_writer(sink)),
                started: false,
            },
        };
        Ok(Self {
            writer,
            live: path.is_none() && io::stdout().is_terminal(),
        })
    }

    pub(super) fn format(&self) -> Format {
        match self.writer {
            Writer::Jsonl(_) => Format::Jsonl,
            Writer::Csv { .. } => Format::Csv,
        }
    }

    /// One line of JSON as it stands.
    pub(super) fn line(&mut self, json: &[u8]) -> anyhow::Result<()> {
        if let Writer::Jsonl(sink) = &mut self.writer {
            sink.write_all(json)?;
            sink.write_all(b"\n")?;
        }
        self.show()
    }

    /// One input's result.
    pub(super) fn result(&mut self, result: &RawValue) -> anyhow::Result<()> {
        match &mut self.writer {
            Writer::Jsonl(sink) => {
                sink.write_all(result.get().as_bytes())?;
                sink.write_all(b"\n")?;
            }
            Writer::Csv { writer, started } => {
                if !*started {
                    writer.write_record([
                        "key",
                        "label",
                        "score",
                        "cached",
                        "scores",
                        "embedding",
                        "error",
                    ])?;
                    *started = true;
                }
                let result: Value = serde_json::from_str(result.get())?;
                let error = result.get("error").and_then(|e| e.get("message"));
                writer.write_record([
                    cell(result.get("key")),
                    cell(result.get("label")),
                    cell(result.get("score")),
                    cell(result.get("cached")),
                    cell(result.get("scores")),
                    cell(result.get("embedding")),
                    cell(error),
                ])?;
            }
        }
        self.show()
    }

    fn show(&mut self) -> anyhow::Result<()> {
        match &mut self.writer {
            Writer::Jsonl(sink) if self.live => sink.flush()?,
            Writer::Csv { writer, .. } if self.live => writer.flush()?,
            _ => {}
        }
        Ok(())
    }

    /// Writes what is buffered.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        match &mut self.writer {
            Writer::Jsonl(sink) => sink.flush()?,
            Writer::Csv { writer, .. } => writer.flush()?,
        }
        Ok(())
    }
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}
