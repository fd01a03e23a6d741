//! Says how this worker is, so that any worker and `kiln status` can show all.
//!
//! Promises one statement every few seconds, whatever happens here, and a goodbye where it is asked to stop; and that this statement stays small: how
//! long passes took is said once a minute where that is much.

use crate::{
    clock,
    health::{Health, Part, Readiness},
    pipeline::{Engine, insight::Insight},
    store::{INTAKE, Paused, PostgresStore, WorkerFigures, WorkerPasses},
    telemetry::worker_name,
    worker::supervisor::{Stage, Supervisor},
};
use chrono::{DateTime, Utc};
use kiln_model::{ListedModel, PASS_BUCKETS};
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

/// How often it is said.
const REPORT: Duration = Duration::from_secs(5);
/// How often workers that are gone are forgotten, in reports.
const FORGET_EVERY: u32 = 60;
/// How often the tables are waited for.
const WAIT: Duration = Duration::from_millis(200);
/// Minutes that the figures cover.
const MINUTES: u64 = 5;
/// Lanes and models that are named.
const MAX_NAMED: usize = 64;
/// Versions that are named.
const MAX_LOADED: usize = 512;
/// Versions whose passes are reported: those that had the largest number of inputs.
const MAX_TIMED: usize = 32;
/// What is said of passes with every report, in bytes; what is more is said no more often than this.
const SMALL_BYTES: usize = 1_024;
const SELDOM: Duration = Duration::from_secs(60);
/// Longest wait for the last word.
const GOODBYE: Duration = Duration::from_secs(1);

/// What a worker knows of itself.
#[derive(Clone)]
struct Reporter {
    engine: Arc<Engine>,
    insight: Arc<Insight>,
    store: PostgresStore,
    health: Health,
    paused: watch::Receiver<Vec<Paused>>,
}

/// What was said of passes last, and when.
#[derive(Debug, Default)]
struct Said {
    text: String,
    at: Option<Instant>,
}

impl Said {
    /// Whether this is to be said now: it is something else, and small or not too soon.
    fn is_due(&self, text: &str, now: Instant) -> bool {
        let is_soon = self.at.is_some_and(|at| now < at + SELDOM);
        text != self.text && (text.len() <= SMALL_BYTES || !is_soon)
    }

    fn note(&mut self, text: String, now: Instant) {
        (self.text, self.at) = (text, Some(now));
    }
}

/// Adds the task.
pub(in crate::worker) fn add(
    tasks: &mut Supervisor,
    engine: &Arc<Engine>,
    insight: &Arc<Insight>,
    store: &PostgresStore,
    health: &Health,
    paused: &watch::Receiver<Vec<Paused>>,
) {
    let reporter = Reporter {
        engine: engine.clone(),
        insight: insight.clone(),
        store: store.clone(),
        health: health.clone(),
        paused: paused.clone(),
    };
    let started_at = clock::now();
    tasks.add(Stage::Background, "fleet", move |stop| {
        reporter.clone().run(started_at, stop)
    });
}

impl Reporter {
    async fn run(self, started_at: DateTime<Utc>, stop: CancellationToken) -> anyhow::Result<()> {
        let name = worker_name();
        let mut tick = tokio::time::interval(WAIT);
        while !self.health.is_up(Part::Migrations) {
            if stop.run_until_cancelled(tick.tick()).await.is_none() {
                return Ok(());
            }
        }
        let mut tick = tokio::time::interval(REPORT);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut turn = 0u32;
        let mut said = Said::default();
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let work = async {
                let (passes, now) = (self.passes().to_text(), Instant::now());
                let due = said.is_due(&passes, now).then_some(passes);
                let reported = self
                    .store
                    .report_worker(&name, started_at, &self.figures(), due.as_deref())
                    .await;
                // That the database is out of reach is told by its own check.
                if let (Ok(()), Some(passes)) = (reported, due) {
                    said.note(passes, now);
                }
                if turn.is_multiple_of(FORGET_EVERY) {
                    let _later = self.store.forget_workers().await;
                }
            };
            // What is on its way ends before the goodbye, or it would take that back.
            let patience = async {
                stop.cancelled().await;
                tokio::time::sleep(GOODBYE).await;
            };
            tokio::select! {
                () = work => {}
                () = patience => break,
            }
            turn = turn.wrapping_add(1);
        }
        let goodbye = self.store.note_stopped(&name, started_at);
        let _unheard = tokio::time::timeout(GOODBYE, goodbye).await;
        Ok(())
    }

    fn figures(&self) -> WorkerFigures {
        let report = self.health.report();
        let is_paused = self.paused.borrow().iter().any(|one| one.name == INTAKE);
        let reason = report.missing().next().or_else(|| report.degraded().next());
        let reason = reason.map(|part| format!("{}: {}", part.part.as_str(), part.reason));
        let status = match report.readiness() {
            Readiness::Ready | Readiness::Degraded if is_paused => "paused",
            other => other.as_str(),
        };
        let figures = self.insight.window.total(MINUTES);
        let lanes = self.engine.lanes();
        let served = lanes.iter().filter(|lane| lane.is_served);
        let models = self.engine.registry().list();
        let named = |model: &ListedModel| format!("{}@{}", model.info.name, model.info.version);
        let active = models.iter().filter(|model| model.active);
        WorkerFigures {
            status: status.to_owned(),
            reason: reason.unwrap_or_default(),
            lanes: served
                .map(|lane| lane.name.clone())
                .take(MAX_NAMED)
                .collect(),
            models: active.take(MAX_NAMED).map(named).collect(),
            splits: models
                .iter()
                .filter_map(|model| Some(format!("{} {}", named(model), model.share?)))
                .take(MAX_NAMED)
                .collect(),
            loaded: models.iter().take(MAX_LOADED).map(named).collect(),
            waiting_jobs: lanes.iter().map(|lane| lane.jobs as u64).sum(),
            bytes_in_hand: self.engine.budget().taken() as u64,
            hits: figures.hits,
            misses: figures.misses,
            jobs: figures.requests,
            p99_ms: figures.p99_ms,
            memory_bytes: memory_bytes(),
            keeps_queued: true,
        }
    }

    fn passes(&self) -> WorkerPasses {
        let registry = self.engine.registry();
        let models = registry.list();
        let counted = models.iter().filter_map(|model| {
            let named = format!("{}@{}", model.info.name, model.info.version);
            let counts = registry.resolve(&named).ok()?.pass_counts()?;
            Some((named, counts))
        });
        let mut counted: Vec<_> = counted.collect();
        counted.sort_by_key(|(_, counts)| std::cmp::Reverse(counts.inputs));
        counted.truncate(MAX_TIMED);
        WorkerPasses {
            buckets: PASS_BUCKETS,
            versions: counted.into_iter().collect(),
        }
    }
}

/// What this process takes of the machine's memory; 0 where the system doesn't say.
fn memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or_default() << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_much_is_said_once_a_minute_and_what_is_the_same_never_again() {
        let (mut said, start) = (Said::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let much = |text: &str| text.repeat(SMALL_BYTES);
        assert!(said.is_due("few", start));
        said.note("few".into(), start);
        assert!(!said.is_due("few", after(3_600)));
        assert!(said.is_due("fewer", after(5)));
        assert!(!said.is_due(&much("ab"), after(59)));
        assert!(said.is_due(&much("ab"), after(60)));
        said.note(much("ab"), after(60));
        assert!(!said.is_due(&much("cd"), after(119)) && said.is_due(&much("cd"), after(120)));
        assert!(!said.is_due(&much("ab"), after(3_600)));
    }
}
