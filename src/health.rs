//! Owns what a worker knows of its own parts: which of them work, why one doesn't, and whether jobs that are taken end.
//!
//! Promises that a part which is reported to fail and to work in turn changes the worker's state as seldom as its policy says, and
//! costs a bounded number of log lines. Refuses to ask the parts: who owns or uses one reports it.

mod lanes;
mod machine;
mod policy;
mod record;
mod report;
mod state;

pub use crate::telemetry::metrics::HealthPart as Part;
pub use report::{PartReport, Report};
pub use state::{PartState, Readiness};

use crate::{
    clock,
    telemetry::metrics::{Metrics, Server},
};
use lanes::Failed;
use machine::{Machine, Seen, Source};
use policy::Policy;
use record::Line;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long the worker's tasks may stand still before it counts as not ready.
const STILL: Duration = Duration::from_secs(15);

/// The parts of one worker.
#[derive(Debug, Clone)]
pub struct Health(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    started: Instant,
    parts: Mutex<Parts>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Parts {
    machines: Vec<Machine>,
    failed: Failed,
    failed_queues: Failed,
    missing_queues: Failed,
    /// When the worker's runtime last showed that it runs.
    beat: Option<Duration>,
}

impl Health {
    /// Nothing is known to work yet.
    pub fn new(metrics: Metrics) -> Self {
        let parts = Part::ALL.iter();
        Self(Arc::new(Inner {
            started: Instant::now(),
            parts: Mutex::new(Parts {
                machines: parts.map(|part| Machine::new(Policy::of(*part))).collect(),
                failed: Failed::default(),
                failed_queues: Failed::default(),
                missing_queues: Failed::default(),
                beat: None,
            }),
            metrics,
        }))
    }

    /// Notes that a part works.
    pub fn up(&self, part: Part) {
        if part == Part::Broker {
            self.0.metrics.server(Server::Broker, true);
        }
        self.note(part, Source::Work, Seen::Works);
    }

    /// Notes that a part doesn't work, and why. Jobs don't end until it does, unless the part is one that they can do without.
    pub fn down(&self, part: Part, reason: &str) {
        if part == Part::Broker {
            self.0.metrics.server(Server::Broker, false);
        }
        self.fails(part, PartState::Down, reason);
    }

    /// Notes that something of a part is missing, and why; jobs end all the same.
    pub fn degraded(&self, part: Part, reason: &str) {
        self.fails(part, PartState::Degraded, reason);
    }

    /// Notes how a check of a part ended that began at `begun`.
    pub fn checked(&self, part: Part, begun: Instant, outcome: Result<(), &str>) {
        let seen = match outcome {
            Ok(()) => Seen::Works,
            Err(reason) => Seen::Fails {
                since: begun.saturating_duration_since(self.0.started),
                state: PartState::Down,
                reason,
            },
        };
        self.note(part, Source::Check, seen);
    }

    /// Notes that a lane or model has failed so that its jobs can't end, and why.
    pub fn lane_failed(&self, name: &str, reason: &str) {
        self.parts().failed.add(name, reason);
        self.note_lanes();
    }

    /// Notes that a lane or model works, or that there is none of that name any more.
    pub fn lane_works(&self, name: &str) {
        self.parts().failed.remove(name);
        self.note_lanes();
    }

    /// Notes whether a lane's queues can be used, and why not: its other jobs end all the same.
    pub fn lane_queues(&self, name: &str, usable: Result<(), &str>) {
        {
            let failed = &mut self.parts().failed_queues;
            match usable {
                Ok(()) => failed.remove(name),
                Err(reason) => failed.add(name, reason),
            }
        }
        self.note_lanes();
    }

    /// Notes whether a queue that jobs can do without for a while can be used, and why not.
    pub fn queue(&self, name: &str, usable: Result<(), &str>) {
        let reason = {
            let missing = &mut self.parts().missing_queues;
            match usable {
                Ok(()) => missing.remove(name),
                Err(reason) => missing.add(name, reason),
            }
            missing.reason()
        };
        match reason {
            Some(reason) => self.degraded(Part::Queues, &reason),
            None => self.up(Part::Queues),
        }
    }

    fn note_lanes(&self) {
        let (failed, queues) = {
            let parts = self.parts();
            (parts.failed.reason(), parts.failed_queues.reason())
        };
        match (failed, queues) {
            (Some(reason), _) => self.down(Part::Lanes, &reason),
            (None, Some(reason)) => {
                let reason = format!("the lanes' queues can't be used: {reason}");
                self.degraded(Part::Lanes, &reason);
            }
            (None, None) => self.up(Part::Lanes),
        }
    }

    /// Notes that the worker stops, as it was asked to: from now on it isn't ready, and no log line calls that a fault.
    pub fn stopping(&self) {
        self.down(Part::Worker, "it is stopping");
    }

    /// Brings the parts up to date and notes that the worker's runtime runs. Called every now and then by a task on it.
    pub fn beat(&self) {
        let now = self.now();
        let before = self.parts().beat.replace(now);
        let still = before.map(|before| now.saturating_sub(before));
        if let Some(still) = still.filter(|still| *still > STILL) {
            tracing::info!(seconds = still.as_secs(), "the worker stood still");
        }
        self.report();
    }

    /// How all parts are.
    pub fn report(&self) -> Report {
        let (now, moment) = (self.now(), clock::now());
        let mut lines = Vec::new();
        let mut parts = self.parts();
        let still = parts.beat.map(|beat| now.saturating_sub(beat));
        let each = Part::ALL.iter().zip(&mut parts.machines);
        let reports = each.map(|(part, machine)| {
            lines.extend(machine.settle(now).map(|line| (*part, line)));
            let shown = machine.shown();
            let age = chrono::Duration::from_std(now.saturating_sub(shown.since));
            let reason = match (shown.state, part) {
                (PartState::Unknown, Part::Worker) => "it is starting".to_owned(),
                (PartState::Unknown, _) => "not tried yet".to_owned(),
                _ => shown.reason.clone(),
            };
            PartReport {
                part: *part,
                state: shown.state,
                reason,
                since: age.map_or(moment, |age| moment - age),
            }
        });
        let mut report = Report {
            parts: reports.collect(),
        };
        drop(parts);
        if let (Some(still), Some(worker)) = (still, report.parts.first_mut())
            && still > STILL
            && worker.state == PartState::Works
        {
            worker.state = PartState::Down;
            worker.reason = format!("its tasks have stood still for {} s", still.as_secs());
        }
        for (part, line) in lines {
            log(part, &line);
        }
        self.measure(&report);
        report
    }

    /// Whether the last report of a part says that it works, however short a time.
    pub fn is_up(&self, part: Part) -> bool {
        let parts = self.parts();
        let machine = parts.machines.get(part as usize);
        machine.is_some_and(Machine::works_now)
    }

    fn fails(&self, part: Part, state: PartState, reason: &str) {
        let since = self.now();
        let seen = Seen::Fails {
            since,
            state,
            reason,
        };
        self.note(part, Source::Work, seen);
    }

    fn note(&self, part: Part, source: Source, seen: Seen<'_>) {
        let now = self.now();
        let line = {
            let mut parts = self.parts();
            let machine = parts.machines.get_mut(part as usize);
            machine.and_then(|machine| machine.report(source, seen, now))
        };
        if let Some(line) = line {
            log(part, &line);
        }
    }

    fn measure(&self, report: &Report) {
        let metrics = &self.0.metrics;
        metrics.ready(report.readiness() != Readiness::NotReady);
        for part in &report.parts {
            metrics.degraded(part.part, part.state == PartState::Degraded);
        }
    }

    fn now(&self) -> Duration {
        self.0.started.elapsed()
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.0.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs a change of a part.
fn log(part: Part, line: &Line) {
    let (part, reason) = (part.as_str(), line.reason.as_str());
    // What was left out, where something was.
    let unlogged = (line.unlogged > 0).then_some(line.unlogged);
    let note = line
        .is_last
        .then_some("it changes often: from now on a change is logged every five minutes at most");
    match (line.before, line.now) {
        (_, PartState::Works) => tracing::info!(part, unlogged, note, "works again"),
        (PartState::Unknown, PartState::Down) => {
            tracing::warn!(part, reason, "waiting for it to work");
        }
        (PartState::Down, PartState::Down) => {
            tracing::warn!(part, reason, unlogged, note, "still waiting for it");
        }
        (_, PartState::Down) => {
            tracing::warn!(
                part,
                reason,
                unlogged,
                note,
                "stopped working; waiting for it"
            );
        }
        (PartState::Degraded, _) => {
            tracing::warn!(part, reason, unlogged, note, "still degraded; jobs go on");
        }
        (_, PartState::Degraded | PartState::Unknown) => {
            tracing::warn!(part, reason, unlogged, note, "degraded; jobs go on");
        }
    }
}

#[cfg(test)]
mod tests;
