//! Owns what a run says that was asked to stop: what it had open is dropped then, and leaves only what the same command goes on from.

use super::manifest;
use std::{fs, path::Path};

/// Says that it has stopped, and whether the same command goes on.
pub(super) fn say(output: Option<&Path>) {
    let goes_on = output.is_some_and(|output| {
        let real = fs::canonicalize(output).unwrap_or_else(|_| output.to_owned());
        manifest::path(&real).exists()
    });
    match goes_on {
        true => eprintln!("kiln: stopped: the same command goes on from there"),
        false => eprintln!("kiln: stopped"),
    }
}
