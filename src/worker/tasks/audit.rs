//! Audits some of what is in Redis again and again, beside the jobs, and counts what it finds.
//!
//! Promises to have connections of its own, to keep to its share of the time, and to ask no model while jobs wait for theirs. Refuses to log
//! what it found: a count is enough for an alert, and `kiln audit` names what is wrong.

use super::namespaces::Known;
use crate::{
    audit::{Auditor, Counts, Pace, Report, Wanted},
    cache::Samples,
    config::{Database, Settings},
    pipeline::{Engine, LaneFigures},
    secret::Secret,
    store::PostgresStore,
    telemetry::metrics::{AuditFinding, Metrics},
    worker::supervisor::Supervisor,
};
use anyhow::Context;
use rand::Rng;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// Steps of the walk through Redis for one audit: few keys of a large Redis may match.
const MAX_STEPS: usize = 50;

/// Adds the audit, where the settings want one.
pub(in crate::worker) fn add(
    tasks: &mut Supervisor,
    settings: &Arc<Settings>,
    engine: &Arc<Engine>,
    metrics: &Metrics,
) {
    if settings.audit.enabled && settings.cache.enabled {
        let (settings, engine, metrics) = (settings.clone(), engine.clone(), metrics.clone());
        tasks.add_droppable("audit", move || {
            follow(settings.clone(), engine.clone(), metrics.clone())
        });
    }
}

/// Audits until the worker stops.
async fn follow(
    settings: Arc<Settings>,
    engine: Arc<Engine>,
    metrics: Metrics,
) -> anyhow::Result<()> {
    let named: BTreeSet<String> = settings.namespaces.keys().cloned().collect();
    let set = |url: &Option<Secret>| url.clone().context("a server without a URL");
    let (redis, database) = (set(&settings.redis.url)?, set(&settings.database.url)?);
    let of_its_own = Database {
        connections: 1,
        ..settings.database.clone()
    };
    let lanes = engine.clone();
    let busy = Arc::new(move || lanes.lanes().iter().any(is_busy));
    let mut auditor = Auditor {
        samples: Samples::new(&redis, &settings.redis, rand::rng().random()),
        store: PostgresStore::new(&database, &of_its_own)?,
        registry: engine.registry().clone(),
        settings: settings.clone(),
        pace: Pace::beside(settings.audit.share, busy),
    };
    let wanted = Wanted {
        namespace: None,
        sample: settings.audit.sample,
        max_steps: MAX_STEPS,
    };
    let mut tick = tokio::time::interval(Duration::from_secs(settings.audit.interval_seconds));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tick.tick().await;
    loop {
        for (namespace, own) in &settings.namespaces {
            if let Some((_, share)) = own.objective() {
                metrics.max_age_objective(namespace, share);
            }
        }
        record(
            &Report::default(),
            &Known::new(&named, engine.registry()),
            &metrics,
        );
        tick.tick().await;
        let mut report = Report::default();
        if let Err(reason) = auditor.run(&wanted, |finding| report.add(finding)).await {
            // Their own checks say so where people look.
            tracing::debug!(reason, "an audit is cut short");
        }
        let known = Known::new(&named, engine.registry());
        record(&report, &known, &metrics);
        metrics.audit_took(auditor.pace.take_spent());
    }
}

fn is_busy(lane: &LaneFigures) -> bool {
    lane.jobs > 0 || lane.batches_in_flight > 0
}

/// Counts what was found, by what metrics call each namespace. Those of which nothing was found are there with 0, so that the first thing found
/// is seen as one.
fn record(report: &Report, known: &Known<'_>, metrics: &Metrics) {
    let none = |label| (label, Counts::default());
    let mut sums: BTreeMap<&str, Counts> = known.labels().map(none).collect();
    for (namespace, counts) in report.by_namespace() {
        let label = known.label(namespace);
        sums.entry(label).or_default().add_all(&counts);
    }
    for (namespace, sum) in sums {
        metrics.audited(
            namespace,
            [
                (AuditFinding::Right, sum.right),
                (AuditFinding::ByRows, sum.by_rows),
                (AuditFinding::Wrong, sum.wrong),
                (AuditFinding::WithoutRow, sum.without_row),
                (AuditFinding::Unchecked, sum.unchecked),
                (AuditFinding::OtherVersion, sum.other_version),
                (AuditFinding::InTime, sum.in_time),
                (AuditFinding::TooOld, sum.too_old),
            ],
        );
    }
}
