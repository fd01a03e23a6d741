//! Owns the process that runs suspects, if there is one, and what was reported of it.
//!
//! Promises that what keeps suspects waiting is reported once, until it works again.

use super::child::{Child, Program};
use crate::{backoff::Backoff, pipeline::Outcome};
use std::{collections::BTreeSet, time::Duration};

/// Waits between attempts to start a process, or to load a model.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const MAX_WAIT: Duration = Duration::from_secs(30);

/// A run that is counted, of a job that had so many unfinished ones before.
pub(super) struct Counted {
    pub body: [u8; 32],
    pub runs: u32,
}

/// The process, if there is one.
pub(super) struct Host {
    program: Program,
    pub child: Option<Child>,
    pub backoff: Backoff,
    /// What was reported not to work: the process by an empty name, or a model by its own.
    reported: BTreeSet<String>,
    pub counted: Option<Counted>,
}

impl Host {
    pub fn new(program: Program) -> Self {
        Self {
            program,
            child: None,
            backoff: Backoff::new(FIRST_WAIT, MAX_WAIT),
            reported: BTreeSet::new(),
            counted: None,
        }
    }

    /// Whether there is a process that takes a job, started where there was none.
    pub async fn ready(&mut self) -> bool {
        if self.child.as_mut().is_some_and(Child::is_alive) {
            return true;
        }
        self.child = None;
        match Child::start(&self.program).await {
            Ok(child) => {
                self.works_again("");
                self.child = Some(child);
                true
            }
            Err(reason) => {
                self.report("", &reason);
                false
            }
        }
    }

    /// Has it end by itself.
    pub async fn close(&mut self) {
        if let Some(child) = self.child.take() {
            child.close().await;
        }
    }

    pub async fn kill(&mut self) {
        if let Some(child) = self.child.take() {
            child.kill().await;
        }
    }

    /// Reports what keeps suspects waiting: once, as an error.
    pub fn report(&mut self, model: &str, reason: &str) {
        let is_known = !self.reported.insert(model.to_owned());
        if is_known {
            tracing::debug!(model, reason, "suspected jobs still wait");
        } else if model.is_empty() {
            tracing::error!(
                reason,
                "the process for suspected jobs can't be started; they wait"
            );
        } else {
            tracing::error!(
                model,
                reason,
                "suspected jobs wait for a model that their process can't load"
            );
        }
    }

    fn works_again(&mut self, model: &str) {
        if self.reported.remove(model) {
            tracing::info!(model, "suspected jobs go on");
        }
    }

    pub fn went_well(&mut self, outcome: &Outcome) {
        self.backoff.reset();
        if let Outcome::Done { result, .. } = outcome {
            self.works_again(&result.model);
        }
    }
}

/// A model's name, of what a job calls it.
pub(super) fn model_name(reference: &str) -> &str {
    reference.split('@').next().unwrap_or_default()
}
