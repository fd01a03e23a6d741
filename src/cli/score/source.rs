//! Owns reading the file: on a thread of its own, cut into blocks, with its progress.
//!
//! Promises that what is in hand is bounded in bytes, whatever the file holds, and that a file which can't be read on ends the run.

use super::{
    Arguments,
    block::Rows,
    flow::Flow,
    item::{BLOCK_BYTES, BadRow, Input, Item, Json, Keep, Position},
    table::{Table, Taker, Wanted},
};
use crate::cli::{
    file::{Columns, CsvLines, CsvRow, Format, LINE_BYTES, Packing, described, unpack},
    progress::on_terminal,
};
use crate::redact::Redact;
use anyhow::{Context, anyhow, bail};
use indicatif::ProgressBar;
use std::{
    fs::{File, Metadata},
    io::{self, BufRead, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// The file, and what is known of it before it is read.
pub(super) struct Source {
    pub path: PathBuf,
    pub format: Format,
    file: Option<File>,
    pub about: Option<Metadata>,
    /// A table with types that was opened.
    pub table: Option<Table>,
    pub bar: ProgressBar,
    columns: Columns,
    keep: Keep,
    /// Whether rows are wanted as they stand.
    wants_rows: bool,
}

/// Opens the file.
pub(super) fn open(arguments: &Arguments) -> anyhow::Result<Source> {
    let path = arguments.file.clone();
    let format = arguments.input_format.or_else(|| Format::of_name(&path));
    let (file, about) = if path.as_os_str() == "-" {
        (None, None)
    } else {
        let shown = path.display();
        let file = File::open(&path).with_context(|| format!("{shown} can't be opened"))?;
        let about = file
            .metadata()
            .with_context(|| format!("{shown} can't be read"))?;
        if about.is_dir() {
            bail!("{shown} is a folder, not a file");
        }
        // A pipe or device has no size of its own.
        let about = Some(about).filter(Metadata::is_file);
        (Some(file), about)
    };
    let columns = Columns {
        text: arguments.text_column.clone(),
        text_pair: arguments.text_pair_column.clone(),
        key: arguments.key_column.clone(),
        features: arguments.feature_columns.clone(),
        by_name: arguments.features_by_name,
    };
    let (keep, wants_rows) = (arguments.keep(), arguments.quarantine.is_some());
    let wanted = Wanted {
        columns: &columns,
        keep: &keep,
        to_table: arguments.output_format().is_table(),
        rows: wants_rows,
    };
    let format = format.unwrap_or(Format::Jsonl);
    let bar = progress(about.as_ref().map(Metadata::len));
    Ok(Source {
        table: Table::open(format, &path, file.as_ref(), &bar, &wanted)?,
        path,
        format,
        file,
        about,
        bar,
        columns,
        keep,
        wants_rows,
    })
}

/// A bar over the file's bytes, on a terminal.
fn progress(bytes: Option<u64>) -> ProgressBar {
    let (bar, template) = match bytes {
        Some(bytes) => (
            ProgressBar::new(bytes),
            "{bar:40} {percent:>3} %  {msg}  {eta} left",
        ),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} read  {msg}"),
    };
    on_terminal(bar, template)
}

impl Source {
    /// The columns that go to the output, in its order, where the file has a header or they are named.
    pub fn kept(&self, wanted: &Keep) -> anyhow::Result<Vec<String>> {
        if let Some(table) = &self.table {
            return Ok(table.kept());
        }
        match (wanted, self.format) {
            (Keep::None, _) | (Keep::Others, Format::Jsonl) => Ok(Vec::new()),
            (Keep::These(names), _) => Ok(names.clone()),
            (Keep::Others, _) => self.header_kept(wanted),
        }
    }

    fn header_kept(&self, wanted: &Keep) -> anyhow::Result<Vec<String>> {
        let shown = self.path.display();
        if self.about.is_none() {
            bail!(
                "the columns of {shown} aren't known before it is read: name them, as --keep-columns=a,b, and write --format jsonl"
            );
        }
        let file = File::open(&self.path).with_context(|| format!("{shown} can't be opened"))?;
        let (reader, _) = unpack(file).with_context(|| format!("{shown} can't be read"))?;
        let lines = CsvLines::new(reader, &self.columns, self.format.delimiter());
        let lines = lines.with_context(|| shown.to_string())?;
        let kept = keep(&lines, wanted).with_context(|| shown.to_string())?;
        Ok(kept.into_iter().map(|(_, name)| name).collect())
    }

    /// Reads what comes after a position, to the end or until nobody takes it any more.
    pub fn read(mut self, from: Position, flow: &Flow) -> anyhow::Result<()> {
        let shown = self.path.display().to_string();
        if let Some(table) = self.table.take() {
            return table.read(from, flow, &shown);
        }
        let raw: Box<dyn Read + Send> = match self.file.take() {
            Some(file) => Box::new(flow.bar.wrap_read(file)),
            None => Box::new(flow.bar.wrap_read(io::stdin())),
        };
        let unpacked = unpack(raw).with_context(|| format!("{shown} can't be read"));
        let (reader, packing) = unpacked?;
        match self.format {
            Format::Jsonl => {
                let reader = self.skip(reader, packing, from, flow)?;
                read_lines(reader, from, flow, &shown)
            }
            _ => {
                let delimiter = self.format.delimiter();
                let mut lines = CsvLines::new(reader, &self.columns, delimiter)
                    .with_context(|| shown.clone())?;
                let keep = keep(&lines, &self.keep).with_context(|| shown.clone())?;
                if from == Position::default() {
                    return read_records(&mut lines, &keep, self.wants_rows, flow, &shown);
                }
                let rest = self.reopen(from, flow)?;
                let mut lines = lines.resume(rest, delimiter, from.lines, from.bytes);
                read_records(&mut lines, &keep, self.wants_rows, flow, &shown)
            }
        }
    }

    /// The file from a position on.
    fn reopen(&self, from: Position, flow: &Flow) -> anyhow::Result<Box<dyn BufRead + Send>> {
        let shown = self.path.display();
        let file = File::open(&self.path).with_context(|| format!("{shown} can't be opened"))?;
        flow.bar.set_position(0);
        let unpacked = unpack(flow.bar.wrap_read(file));
        let (reader, packing) = unpacked.with_context(|| format!("{shown} can't be read"))?;
        self.skip(reader, packing, from, flow)
    }

    /// Goes to a position: at once where the file isn't packed.
    fn skip(
        &self,
        mut reader: Box<dyn BufRead + Send>,
        packing: Packing,
        from: Position,
        flow: &Flow,
    ) -> anyhow::Result<Box<dyn BufRead + Send>> {
        let shown = self.path.display();
        let unreadable = || format!("{shown} can't be read");
        if from.bytes == 0 {
            return Ok(reader);
        }
        if packing == Packing::Plain && self.about.is_some() {
            let mut file = File::open(&self.path).with_context(unreadable)?;
            file.seek(SeekFrom::Start(from.bytes))
                .with_context(unreadable)?;
            flow.bar.set_position(from.bytes);
            let buffered = io::BufReader::with_capacity(1 << 17, flow.bar.wrap_read(file));
            return Ok(Box::new(buffered));
        }
        let skipped = io::copy(&mut reader.by_ref().take(from.bytes), &mut io::sink());
        if skipped.with_context(unreadable)? < from.bytes {
            bail!("{shown} is shorter than it was");
        }
        Ok(reader)
    }
}

fn read_lines(
    mut reader: Box<dyn BufRead + Send>,
    from: Position,
    flow: &Flow,
    shown: &str,
) -> anyhow::Result<()> {
    let mut at = from;
    loop {
        let (mut bytes, first) = (Vec::with_capacity(BLOCK_BYTES / 4), at.lines + 1);
        let (mut is_over, mut is_long) = (false, false);
        let (mut count, mut sent) = (0, at);
        while count < flow.max_rows() && bytes.len() < BLOCK_BYTES {
            let before = bytes.len();
            let read = reader
                .by_ref()
                .take(LINE_BYTES)
                .read_until(b'\n', &mut bytes);
            let unreadable = |error: io::Error| {
                anyhow!(
                    "{shown}: line {} can't be read: {}",
                    at.lines + 1,
                    error.redacted()
                )
            };
            let mut read = read.map_err(unreadable)? as u64;
            if read == 0 {
                is_over = true;
                break;
            }
            is_long = read == LINE_BYTES && bytes.last() != Some(&b'\n');
            if is_long {
                bytes.truncate(before);
                read += reader.skip_until(b'\n').map_err(unreadable)? as u64;
            }
            at = Position {
                bytes: at.bytes + read,
                lines: at.lines + 1,
            };
            if is_long {
                break;
            }
            (count, sent) = (count + 1, at);
        }
        let size = bytes.len();
        // A run that goes on from here has the long line still before it.
        let is_taken = flow.send(Rows::Lines(bytes, first), count, size, sent)
            && (!is_long || {
                let bad = Item::Bad(BadRow::too_long(at.lines));
                flow.send(Rows::Items(vec![bad]), 1, 0, at)
            });
        if is_over || !is_taken {
            return Ok(());
        }
    }
}

/// Columns that go to the output, by position, with their names.
fn keep<R: BufRead>(lines: &CsvLines<R>, keep: &Keep) -> anyhow::Result<Vec<(usize, String)>> {
    let headers = lines.headers();
    let named = |at: usize| headers.get(at).map(|name| (at, name.clone()));
    match keep {
        Keep::None => Ok(Vec::new()),
        Keep::Others => Ok(lines.others().into_iter().filter_map(named).collect()),
        Keep::These(names) => names
            .iter()
            .map(|name| {
                let at = headers.iter().position(|header| header == name);
                at.map(|at| (at, name.clone()))
                    .with_context(|| format!("no column `{name}`; {}", described(headers)))
            })
            .collect(),
    }
}

fn read_records<R: BufRead>(
    lines: &mut CsvLines<R>,
    keep: &[(usize, String)],
    wants_rows: bool,
    flow: &Flow,
    shown: &str,
) -> anyhow::Result<()> {
    let (mut items, mut size) = (Vec::new(), 0);
    let end = |lines: &CsvLines<R>| {
        let (lines, bytes) = lines.position();
        Position { bytes, lines }
    };
    while let Some(row) = lines.next_row() {
        let CsvRow { line, input } = row.map_err(|error| {
            anyhow!(
                "{shown}: line {} can't be read: {}",
                lines.position().0 + 1,
                error.redacted()
            )
        })?;
        let row = (wants_rows || input.is_err()).then(|| whole(lines));
        let columns = keep.iter().map(|(at, _)| *at);
        let input = input.and_then(|json| lines.unreadable(columns).map_or(Ok(json), Err));
        let row = row.or_else(|| input.is_err().then(|| whole(lines)));
        let item = match input {
            Ok(json) => Item::Input(Input {
                line,
                kept: kept(lines, keep),
                row,
                json: Json::Own(json),
            }),
            Err(problem) => Item::Bad(BadRow {
                line,
                problem: format!("{problem}"),
                column: Some(problem.column()),
                row,
            }),
        };
        size += item.bytes();
        items.push(item);
        if items.len() >= flow.max_rows() || size >= BLOCK_BYTES {
            let full = std::mem::take(&mut items);
            let count = full.len();
            if !flow.send(Rows::Items(full), count, size, end(lines)) {
                return Ok(());
            }
            size = 0;
        }
    }
    let count = items.len();
    flow.send(Rows::Items(items), count, size, end(lines));
    Ok(())
}

fn kept<R: BufRead>(lines: &CsvLines<R>, keep: &[(usize, String)]) -> Vec<(String, String)> {
    let json = |at: usize| serde_json::json!(lines.cell(at).unwrap_or_default()).to_string();
    keep.iter()
        .map(|(at, name)| (name.clone(), json(*at)))
        .collect()
}

/// A record as a JSON object.
fn whole<R: BufRead>(lines: &CsvLines<R>) -> String {
    let cells = lines.headers().iter().enumerate();
    let row: serde_json::Map<String, serde_json::Value> = cells
        .map(|(at, name)| (name.clone(), lines.cell(at).into()))
        .collect();
    serde_json::Value::Object(row).to_string()
}

/// How a file is known again: by its path, its size and the time of its last change.
pub(super) fn identity(path: &Path, about: &Metadata) -> serde_json::Value {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let changed = about.modified().ok();
    let changed = changed.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    serde_json::json!({
        "path": path.display().to_string(),
        "bytes": about.len(),
        "changed_ns": changed.map(|at| at.as_nanos().to_string()),
    })
}
