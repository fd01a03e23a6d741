//! Owns being asked to stop by a signal: what the run has open is dropped then, and leaves only what the same command goes on from.

use super::manifest;
use std::{fs, future, path::Path};
use tokio::signal::unix::{SignalKind, signal};

/// Waits until somebody asks the run to stop, by SIGINT or SIGTERM.
pub(super) async fn asked() {
    let signals = signal(SignalKind::interrupt()).and_then(|interrupt| {
        let terminate = signal(SignalKind::terminate())?;
        Ok((interrupt, terminate))
    });
    match signals {
        Ok((mut interrupt, mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        // Who can't be told is ended by the system.
        Err(_) => future::pending().await,
    }
}

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
