//! Owns being asked to stop by a signal.

use std::{future, process};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What a shell says of a command that a SIGINT ended.
const INTERRUPTED: i32 = 130;

/// Waits until somebody asks the command to stop, by SIGINT or SIGTERM.
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

/// What is cancelled once somebody asks the command to stop. Whoever asks again ends it at once.
pub(super) fn token() -> CancellationToken {
    let token = CancellationToken::new();
    let asked_once = token.clone();
    // It ends with the command, whatever it waits for.
    TaskTracker::new().spawn(async move {
        asked().await;
        asked_once.cancel();
        asked().await;
        process::exit(INTERRUPTED);
    });
    token
}
