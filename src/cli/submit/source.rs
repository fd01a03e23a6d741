//! Owns reading the file: on a thread of its own, a few jobs ahead of posting, with its progress.

use super::cut::{Cut, Posting, Unfit};
use crate::cli::{
    file::{BadLine, Pieces},
    progress::on_terminal,
};
use anyhow::{Context, bail};
use indicatif::ProgressBar;
use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
};
use tokio::sync::mpsc;

/// Inputs came and no model was named.
#[derive(Debug, thiserror::Error)]
#[error("line {0} is an input, not a whole job: say with --model which model is to score inputs")]
pub(super) struct NoModel(u64);

pub(super) type OpenSource = Box<dyn FnOnce(ProgressBar) -> Box<dyn BufRead> + Send>;

/// The file, to be read on the reading thread, and its size where that is known.
pub(super) fn open(file: &Path) -> anyhow::Result<(OpenSource, Option<u64>)> {
    if file.as_os_str() == "-" {
        let stdin = |bar: ProgressBar| -> Box<dyn BufRead> {
            Box::new(BufReader::new(bar.wrap_read(io::stdin())))
        };
        return Ok((Box::new(stdin), None));
    }
    let path = file.display();
    let file = File::open(file).with_context(|| format!("{path} can't be opened"))?;
    let about = file
        .metadata()
        .with_context(|| format!("{path} can't be read"))?;
    if about.is_dir() {
        bail!("{path} is a folder, not a file");
    }
    let open = move |bar: ProgressBar| -> Box<dyn BufRead> {
        Box::new(BufReader::new(bar.wrap_read(file)))
    };
    // A pipe or device has no size of its own.
    Ok((Box::new(open), about.is_file().then_some(about.len())))
}

/// A bar over the file's bytes, on a terminal.
pub(super) fn progress(bytes: Option<u64>) -> ProgressBar {
    let (bar, template) = match bytes {
        Some(bytes) => (
            ProgressBar::new(bytes),
            "{bar:40} {percent:>3} %  {msg}  {eta} left",
        ),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} read  {msg}"),
    };
    on_terminal(bar, template)
}

/// What the reading thread hands over.
pub(super) enum Read {
    Job(Posting),
    Bad(BadLine),
}

/// Cuts the file into jobs. Ends early where nobody takes them any more.
pub(super) fn read(
    source: Box<dyn BufRead>,
    max_inputs: usize,
    cut: &Cut,
    sender: &mpsc::Sender<Read>,
) -> anyhow::Result<()> {
    for piece in Pieces::jsonl(source, max_inputs) {
        let item = match cut.posting(piece) {
            Ok(posting) => Read::Job(posting),
            Err(Unfit::Line(bad)) => Read::Bad(bad),
            Err(Unfit::NoModel(line)) => return Err(NoModel(line).into()),
        };
        if sender.blocking_send(item).is_err() {
            break;
        }
    }
    Ok(())
}
