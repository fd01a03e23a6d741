//! Owns reading the files, one after the other: on a thread of its own, with its progress.
//!
//! Promises that a file which can't be read on ends the run, and that all of them have the columns that the output has.

use super::{
    FileArguments,
    flow::Flow,
    item::{Keep, Position},
    render::Layout,
    split,
    table::{Table, Taker, Wanted},
    text::{keep, marked, read_lines, read_records},
};
use crate::cli::{
    file::{self, Blob, Columns, CsvLines, Format, Inputs, Packing, unpack},
    progress::on_terminal,
};
use anyhow::{Context, anyhow, bail};
use indicatif::ProgressBar;
use std::{
    io::{self, BufRead, Read},
    path::{Path, PathBuf},
};

/// The files, and what is known of them before they are read.
pub(super) struct Source {
    pub inputs: Inputs,
    pub format: Format,
    /// How the files are known again; nothing where they can't be read twice.
    pub identity: Option<serde_json::Value>,
    pub bar: ProgressBar,
    first: Opened,
    sizes: Vec<u64>,
    asked: Asked,
    /// The columns that all files have which go to the output.
    layout: Option<Layout>,
}

/// What is asked of each file.
struct Asked {
    format: Format,
    columns: Columns,
    keep: Keep,
    to_table: bool,
    /// Whether rows are wanted as they stand.
    rows: bool,
}

/// A file that was opened.
struct Opened {
    path: PathBuf,
    file: Option<Blob>,
    /// A table with types.
    table: Option<Table>,
}

/// Finds the files, and opens the first.
pub(super) fn open(arguments: &FileArguments) -> anyhow::Result<Source> {
    let written = [&arguments.output, &arguments.quarantine, &arguments.report];
    let parts = split::there(arguments);
    let inputs = Inputs::find(&file::Asked {
        files: &arguments.files,
        recursive: arguments.recursive,
        format: arguments.input_format,
        written: written
            .into_iter()
            .flatten()
            .chain(&parts)
            .map(PathBuf::as_path)
            .collect(),
    })?;
    let format = inputs.format(arguments.input_format)?;
    let asked = Asked {
        format,
        columns: Columns {
            text: arguments.text_column.clone(),
            text_pair: arguments.text_pair_column.clone(),
            key: arguments.key_column.clone(),
            features: arguments.feature_columns.clone(),
            by_name: arguments.features_by_name,
        },
        keep: arguments.keep(),
        to_table: arguments.output_format().is_table(),
        rows: arguments.quarantine.is_some(),
    };
    let sizes = inputs.sizes();
    let bar = progress(sizes.as_ref().and_then(|sizes| sizes.last().copied()));
    Ok(Source {
        first: Opened::new(&inputs, 0, &asked, &bar)?,
        identity: inputs.identity(),
        inputs,
        format,
        bar,
        sizes: sizes.unwrap_or_default(),
        asked,
        layout: None,
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
    /// The columns that go to the output, in its order, where the first file has a header or they are named.
    pub fn kept(&self) -> anyhow::Result<Vec<String>> {
        self.first.kept(&self.asked)
    }

    /// The first file, where it is a table with types.
    pub fn table(&self) -> Option<&Table> {
        self.first.table.as_ref()
    }

    /// Whether the first file can be read twice.
    pub fn is_file(&self) -> bool {
        self.first.is_file()
    }

    /// Holds all files to the layout that the first one has.
    pub fn with_layout(&mut self, layout: &Layout) {
        self.layout = Some(layout.clone());
    }

    /// Reads what comes after a position, to the end or until nobody takes it any more.
    pub fn read(self, from: Position, flow: &Flow) -> anyhow::Result<()> {
        let mut first = Some(self.first);
        for at in from.file..self.inputs.count() {
            let before = self.sizes.get(at).copied().unwrap_or_default();
            if !flow.enter(at, before) {
                return Ok(());
            }
            let known = first.take().filter(|_| at == 0);
            let opened = match known {
                Some(opened) => opened,
                None => {
                    let opened = Opened::new(&self.inputs, at, &self.asked, &flow.bar)?;
                    opened.fits(&self.asked, self.layout.as_ref())?;
                    opened
                }
            };
            let from = if at == from.file {
                from
            } else {
                Position::default()
            };
            let (file, path) = (opened.file.clone(), opened.path.clone());
            let read = opened.read(from, &self.asked, flow);
            read.map_err(|error| {
                Opened {
                    table: None,
                    path,
                    file,
                }
                .explained(error)
            })?;
        }
        Ok(())
    }
}

impl Opened {
    fn new(inputs: &Inputs, at: usize, asked: &Asked, bar: &ProgressBar) -> anyhow::Result<Self> {
        let path = inputs.get(at).unwrap_or(Path::new("-")).to_owned();
        let file = inputs.open(at)?;
        let wanted = Wanted {
            columns: &asked.columns,
            keep: &asked.keep,
            to_table: asked.to_table,
            rows: asked.rows,
        };
        let table = Table::open(asked.format, &path, file.as_ref(), bar, &wanted);
        let mut opened = Self {
            table: None,
            path,
            file,
        };
        opened.table = table.map_err(|error| opened.explained(error))?;
        Ok(opened)
    }

    /// What a store said, where that is why it can't be read.
    fn explained(&self, error: anyhow::Error) -> anyhow::Error {
        let problem = match &self.file {
            Some(Blob::Object(object)) => object.problem(),
            Some(Blob::File(_)) | None => None,
        };
        match problem {
            Some(problem) => anyhow!("{} can't be read: {problem}", self.path.display()),
            None => error,
        }
    }

    /// Whether it can be read twice.
    fn is_file(&self) -> bool {
        self.file.as_ref().is_some_and(|file| file.size().is_some())
    }

    /// Its bytes from an offset on.
    fn bytes(&self, from: u64) -> anyhow::Result<Box<dyn Read + Send>> {
        let shown = self.path.display();
        match &self.file {
            Some(file) => file
                .reader(from)
                .with_context(|| format!("{shown} can't be read")),
            None => Ok(Box::new(io::stdin())),
        }
    }

    fn kept(&self, asked: &Asked) -> anyhow::Result<Vec<String>> {
        if let Some(table) = &self.table {
            return Ok(table.kept());
        }
        match (&asked.keep, asked.format) {
            (Keep::None, _) | (Keep::Others, Format::Jsonl) => Ok(Vec::new()),
            (Keep::These(names), _) => Ok(names.clone()),
            (Keep::Others, _) => self.header_kept(asked),
        }
    }

    /// Looks whether it has the columns that the output has.
    fn fits(&self, asked: &Asked, layout: Option<&Layout>) -> anyhow::Result<()> {
        let Some(layout) = layout.filter(|layout| layout.format != Format::Jsonl) else {
            return Ok(());
        };
        let is_same = self.kept(asked)? == layout.kept;
        let table = self.table.as_ref();
        let is_shaped = |table| layout.shape.as_ref().is_none_or(|shape| shape.fits(table));
        match is_same && table.is_none_or(is_shaped) {
            true => Ok(()),
            false => bail!(
                "{}: its columns to keep aren't those of the first file, in names, order or types: name those that all have, as --keep-columns=a,b",
                self.path.display()
            ),
        }
    }

    fn header_kept(&self, asked: &Asked) -> anyhow::Result<Vec<String>> {
        let shown = self.path.display();
        if !self.is_file() {
            bail!(
                "the columns of {shown} aren't known before it is read: name them, as --keep-columns=a,b, and write --format jsonl"
            );
        }
        let (reader, _) =
            unpack(self.bytes(0)?).with_context(|| format!("{shown} can't be read"))?;
        let (reader, _) = marked(reader, &shown.to_string())?;
        let lines = CsvLines::new(reader, &asked.columns, asked.format.delimiter());
        let lines = lines.with_context(|| shown.to_string())?;
        let kept = keep(&lines, &asked.keep).with_context(|| shown.to_string())?;
        Ok(kept.into_iter().map(|(_, name)| name).collect())
    }

    /// Reads what comes after a position, to the end or until nobody takes it any more.
    fn read(mut self, from: Position, asked: &Asked, flow: &Flow) -> anyhow::Result<()> {
        let shown = self.path.display().to_string();
        if let Some(table) = self.table.take() {
            return table.read(from, flow, &shown);
        }
        let raw = flow.bar.wrap_read(self.bytes(0)?);
        let unpacked = unpack(raw).with_context(|| format!("{shown} can't be read"));
        let (reader, packing) = unpacked?;
        let (mut reader, mark) = marked(reader, &shown)?;
        match asked.format {
            Format::Jsonl => {
                if from.bytes > 0 {
                    let reader = self.skip(reader, packing, from, flow)?;
                    return read_lines(reader, from, flow, &shown);
                }
                let skipped = io::copy(&mut reader.by_ref().take(mark), &mut io::sink());
                skipped.with_context(|| format!("{shown} can't be read"))?;
                let from = Position {
                    bytes: mark,
                    ..from
                };
                read_lines(reader, from, flow, &shown)
            }
            _ => {
                let delimiter = asked.format.delimiter();
                let mut lines = CsvLines::new(reader, &asked.columns, delimiter)
                    .with_context(|| shown.clone())?;
                let keep = keep(&lines, &asked.keep).with_context(|| shown.clone())?;
                if from.lines == 0 {
                    return read_records(&mut lines, &keep, asked.rows, flow, &shown);
                }
                let rest = self.reopen(from, flow)?;
                let mut lines = lines.resume(rest, delimiter, from.lines, from.bytes);
                read_records(&mut lines, &keep, asked.rows, flow, &shown)
            }
        }
    }

    /// The file from a position on.
    fn reopen(&self, from: Position, flow: &Flow) -> anyhow::Result<Box<dyn BufRead + Send>> {
        let shown = self.path.display();
        flow.note(0);
        let unpacked = unpack(flow.bar.wrap_read(self.bytes(0)?));
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
        if packing == Packing::Plain && self.is_file() {
            let file = self.bytes(from.bytes)?;
            flow.note(from.bytes);
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
