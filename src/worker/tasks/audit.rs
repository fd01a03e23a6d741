//! Audits some of what is in Redis again and again, beside the jobs, and counts what it finds.
//!
//! Promises to have a connection to Redis of its own, to keep to its share of the time, and to ask no model while jobs wait for theirs. Refuses to log
//! what it found: a count is enough for an alert, and `kiln audit` names what is wrong.

use super::namespaces::Known;
use crate::{
    audit::{Auditor, Counts, Finding, Pace, Wanted},
    cache::Samples,
    config::Settings,
    pipeline::{Engine, LaneFigures},
    store::PostgresStore,
    telemetry::metrics::{AuditFinding, Metrics},
    worker::supervisor::Supervisor,
};
use anyhow::Context;
use rand::Rng;
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// Steps of the walk through Redis for one audit: few keys of a large Redis may match.
const MAX_STEPS: usize = 50;

/// Adds the audit, where the settings want one.
pub(in crate::worker) fn add(
    tasks: &mut Supervisor,
    settings: &Arc<Settings>,
    engine: &Arc<Engine>,
    store: &PostgresStore,
    metrics: &Metrics,
) {
    if settings.audit.enabled && settings.cache.enabled {
        let (settings, engine, metrics) = (settings.clone(), engine.clone(), metrics.clone());
        let store = store.clone();
        tasks.add_droppable("audit", move || {
            let (engine, store) = (engine.clone(), store.clone());
            follow(settings.clone(), engine, store, metrics.clone())
        });
    }
}

/// Audits until the worker stops.
async fn follow(
    settings: Arc<Settings>,
    engine: Arc<Engine>,
    store: PostgresStore,
    metrics: Metrics,
) -> anyhow::Result<()> {
    let named: BTreeSet<String> = settings.namespaces.keys().cloned().collect();
    let redis = settings.redis.url.clone();
    let redis = redis.context("a server without a URL")?;
    let lanes = engine.clone();
    let between = Duration::from_secs(settings.audit.interval_seconds);
    let busy = Arc::new(move || lanes.lanes().iter().any(is_busy));
    let mut auditor = Auditor {
        samples: Samples::new(&redis, &settings.redis, rand::rng().random()),
        store,
        registry: engine.registry().clone(),
        settings: settings.clone(),
        pace: Pace::beside(settings.audit.share, between, busy),
    };
    let wanted = Wanted {
        namespace: None,
        sample: settings.audit.sample,
        max_steps: MAX_STEPS,
    };
    let mut tick = tokio::time::interval(between);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tick.tick().await;
    loop {
        for (namespace, own) in &settings.namespaces {
            if let Some((_, share)) = own.objective() {
                metrics.max_age_objective(namespace, share);
            }
        }
        begin(&Known::new(&named, engine.registry()), &metrics);
        tick.tick().await;
        let known = Known::new(&named, engine.registry());
        // One by one: beside busy models an audit takes long, and what it has found is known at once.
        let audited = auditor.run(&wanted, |finding| record(&finding, &known, &metrics));
        if let Err(reason) = audited.await {
            // Their own checks say so where people look.
            tracing::debug!(reason, "an audit is cut short");
        }
        metrics.audit_took(auditor.pace.take_spent());
    }
}

fn is_busy(lane: &LaneFigures) -> bool {
    lane.jobs > 0 || lane.batches_in_flight > 0
}

/// Counts nothing of each finding in every namespace that metrics name, so that the first thing found is seen as one.
fn begin(known: &Known<'_>, metrics: &Metrics) {
    for label in known.labels() {
        metrics.audited(label, findings(&Counts::default()));
    }
}

/// Counts a finding, by what metrics call its namespace.
fn record(finding: &Finding, known: &Known<'_>, metrics: &Metrics) {
    let mut counts = Counts::default();
    counts.add(finding);
    let found = findings(&counts)
        .into_iter()
        .filter(|(_, count)| *count > 0);
    metrics.audited(known.label(&finding.namespace), found);
}

fn findings(counts: &Counts) -> [(AuditFinding, u64); 8] {
    [
        (AuditFinding::Right, counts.right),
        (AuditFinding::ByRows, counts.by_rows),
        (AuditFinding::Wrong, counts.wrong),
        (AuditFinding::WithoutRow, counts.without_row),
        (AuditFinding::Unchecked, counts.unchecked),
        (AuditFinding::OtherVersion, counts.other_version),
        (AuditFinding::InTime, counts.in_time),
        (AuditFinding::TooOld, counts.too_old),
    ]
}
