//! Owns outputs that are split into parts of so many rows or bytes, each a file of its own.
//!
//! Promises that a part has its name only once it is whole and, where the run can be gone on with, once the manifest says so; that a part which
//! has its name is never taken back; and that no part replaces a file. Refuses what parts of another run lie beside.

mod limits;
mod names;
mod output;
mod unnamed;

pub(super) use limits::{Limits, size};
pub(super) use names::Names;
pub(super) use output::{Naming, SplitOutput};
pub(super) use unnamed::Unnamed;

use super::FileArguments;
use anyhow::bail;
use serde::{Deserialize, Serialize};
use std::{fs, path::PathBuf};

/// How far a split output has come: what a manifest says of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SplitMark {
    /// Parts that are whole.
    pub whole: u32,
    /// Rows of the part after them; the manifest has its bytes.
    pub rows: u64,
    /// Rows after the manifest's position that are in whole parts.
    pub skip: u64,
}

/// Looks at what is said of parts, before anything is opened.
pub(super) fn check(arguments: &FileArguments) -> Result<(), String> {
    if arguments.limits().is_none() {
        return Ok(());
    }
    let option = match arguments.split_rows {
        Some(_) => "--split-rows",
        None => "--split-bytes",
    };
    let Some(output) = &arguments.output else {
        return Err(format!(
            "{option} needs --output FILE: standard output can't be split"
        ));
    };
    let shown = output.display();
    if fs::metadata(output).is_ok_and(|about| !about.is_file()) {
        return Err(format!("{shown} is no file: {option} can't split it"));
    }
    if output.file_name().is_none() {
        return Err(format!("{shown} is no name of a file"));
    }
    let names = Names::of(output);
    for (option, path) in [
        ("--quarantine", &arguments.quarantine),
        ("--report", &arguments.report),
    ] {
        if let Some(path) = path.as_ref().filter(|path| names.is_one(path)) {
            return Err(format!(
                "{option} {} is named as a part of --output: name another",
                path.display()
            ));
        }
    }
    Ok(())
}

/// The parts that are there: no pattern and no folder brings them as inputs.
pub(super) fn there(arguments: &FileArguments) -> Vec<PathBuf> {
    let output = arguments.limits().and(arguments.output.as_ref());
    let names = output.map(|output| Names::of(output));
    // A folder that can't be read is told where the output is opened.
    let there = names.and_then(|names| Some((names.there().ok()?, names)));
    let (numbers, names) = there.unzip();
    let numbers = numbers.unwrap_or_default().into_iter();
    numbers
        .filter_map(|number| Some(names.as_ref()?.path(number)))
        .collect()
}

/// Refuses parts that are there already, but for the first `own` ones.
fn check_there(names: &Names, own: u32) -> anyhow::Result<()> {
    let there = names.there().unwrap_or_default();
    let others: Vec<u32> = there.into_iter().filter(|one| *one > own).collect();
    let Some(first) = others.first() else {
        return Ok(());
    };
    let more = match others.len() {
        1 => "is there".to_owned(),
        all => format!("and {} more parts are there", all - 1),
    };
    bail!(
        "{} {more} already, of another run: remove them or name another --output, so that two runs' parts don't stand side by side",
        names.path(*first).display()
    )
}
