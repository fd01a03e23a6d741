//! Owns how a run over the fleet ends before its files do: it is cancelled, or asked to stop.

use super::{Fleet, State, remove_journal};
use crate::cli::{
    Exit,
    score::{manifest, scorer::Scorer},
};
use anyhow::bail;
use std::path::Path;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Why a run has ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::cli::score) enum Ended {
    /// By `kiln jobs cancel`.
    #[error("the run was cancelled")]
    Cancelled,
    /// By a signal.
    #[error("the run was asked to stop")]
    Stopped,
}

/// Hears of a run's early end.
pub(in crate::cli::score) struct Watch {
    fleet: Fleet,
    signals: Option<(Signal, Signal)>,
}

impl Watch {
    /// Listens from now on.
    pub fn new(fleet: &Fleet) -> Self {
        let interrupt = signal(SignalKind::interrupt());
        let terminate = signal(SignalKind::terminate());
        Self {
            fleet: fleet.clone(),
            signals: interrupt.ok().zip(terminate.ok()),
        }
    }

    /// Waits for the end, and says why it came.
    pub async fn ended(&mut self) -> anyhow::Error {
        let mut state = self.fleet.0.state.clone();
        let over = async {
            let is_over = |state: &State| *state != State::Running;
            if state.wait_for(is_over).await.is_err() {
                // Whoever asks for an answer is told.
                std::future::pending::<()>().await;
            }
        };
        let Some((interrupt, terminate)) = &mut self.signals else {
            over.await;
            return self.fleet.over();
        };
        tokio::select! {
            () = over => self.fleet.over(),
            Some(()) = interrupt.recv() => Ended::Stopped.into(),
            Some(()) = terminate.recv() => Ended::Stopped.into(),
        }
    }
}

/// An early end on its way to be said.
pub(in crate::cli::score) struct Early {
    ended: Ended,
    /// The row after which a later run goes on.
    kept: Option<u64>,
}

impl Early {
    /// Reads an error as an early end, where it is one.
    pub fn of(error: &anyhow::Error) -> Option<Self> {
        let ended = *error.downcast_ref::<Ended>()?;
        Some(Self { ended, kept: None })
    }

    pub fn is_cancelled(&self) -> bool {
        self.ended == Ended::Cancelled
    }

    /// Notes that the rows so far are kept.
    pub fn note_kept(&mut self, lines: anyhow::Result<u64>) {
        self.kept = lines.ok();
    }

    /// Ends the run, and says how it can be gone on with.
    pub async fn say(self, scorer: &Scorer, output: Option<&Path>) -> anyhow::Result<Exit> {
        let Scorer::Fleet(fleet) = scorer else {
            return Ok(Exit::Failed);
        };
        let run = fleet.run();
        // The broker may be away: what stays there goes by itself.
        let _gone = fleet.end(self.is_cancelled()).await;
        let again = match self.kept {
            Some(lines) => format!(" after line {lines}: the same command goes on from there"),
            None => String::new(),
        };
        if self.is_cancelled() {
            if let Some(output) = output {
                remove_journal(output);
                if self.kept.is_none() {
                    manifest::remove(output);
                }
            }
            bail!("run {run} was cancelled{again}");
        }
        eprintln!("kiln: stopped{again}; `kiln jobs cancel --run {run}` drops the jobs that wait");
        Ok(Exit::Failed)
    }
}
