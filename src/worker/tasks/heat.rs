//! Keeps what this worker knows of heat fresh, and tells the other workers.

use super::namespaces::Known;
use crate::{
    cache::RedisCache,
    clock,
    heat::{Heat, MAX_BYTES, SharedHeat},
    pipeline::Engine,
    telemetry::metrics::{HeatOf, Metrics},
};
use kiln_contract::key;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

/// How often workers tell each other what is hot.
const REPORT: Duration = Duration::from_secs(5);
/// Names of which Redis is asked each time how often they are read.
const LOOKED_AT: usize = 1_000;
/// How often what workers that are gone have reported is looked for, as a number of reports: once a minute.
const FORGET_EVERY: u32 = 12;
/// What counts as the top of a namespace.
const TOP: usize = 100;

/// Tells the other workers what is hot here. `known` are the namespaces that metrics may name.
pub(in crate::worker) async fn report(
    heat: Arc<Heat>,
    engine: Arc<Engine>,
    metrics: Metrics,
    worker: String,
    known: BTreeSet<String>,
) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(REPORT);
    let (mut turn, mut has_said) = (0u32, false);
    loop {
        tick.tick().await;
        show(&heat, &engine, &metrics, &known);
        let dropped = take_dropped(&heat, &metrics);
        if dropped > 0 && !std::mem::replace(&mut has_said, true) {
            tracing::warn!(
                max_bytes = MAX_BYTES,
                "there is no room to watch all namespaces: some aren't warmed by what is hot in them"
            );
        }
        turn = turn.wrapping_add(1);
        if let Some(redis) = engine.cache().server() {
            sample_reads(&heat, redis).await;
            let now_ms = clock::now().timestamp_millis();
            let shared = SharedHeat::new(redis);
            // That Redis is failing is told by its own check; the next time may do.
            let _told = shared.report(&heat, &worker, now_ms).await;
            if dropped > 0 {
                let _told = shared.report_dropped(dropped, &worker, now_ms).await;
            }
            if turn % FORGET_EVERY == 1 {
                shared.forget_gone(&heat, now_ms).await;
            }
        }
    }
}

/// Counts what there was no room for since the last time; says how many requests those are.
fn take_dropped(heat: &Heat, metrics: &Metrics) -> u64 {
    let (jobs, reads) = (heat.take_dropped(), heat.readers.take_dropped());
    metrics.heat_dropped(HeatOf::Jobs, jobs);
    metrics.heat_dropped(HeatOf::Reads, reads);
    jobs.saturating_add(reads)
}

/// Asks Redis about some of the names that were written here.
async fn sample_reads(heat: &Heat, redis: &RedisCache) {
    let names = heat.readers.next(LOOKED_AT);
    if names.is_empty() {
        return;
    }
    let Some(counter) = redis.access_counter().await else {
        return;
    };
    let keys: Vec<Vec<u8>> = names
        .iter()
        .map(|(namespace, name)| key::named(namespace, name).into_bytes())
        .collect();
    if let Some(signs) = redis.reads(&keys, counter).await {
        heat.readers.found(&names, &signs);
    }
}

/// Sets what share of the requests goes to the hottest few.
fn show(heat: &Heat, engine: &Engine, metrics: &Metrics, known: &BTreeSet<String>) {
    let known = Known::new(known, engine.registry());
    let mut rates: BTreeMap<(HeatOf, String), (f64, f64)> = BTreeMap::new();
    let mut add = |of: HeatOf, namespace: &str, hot: &[f64]| {
        let (top, all) = rates
            .entry((of, known.label(namespace).to_owned()))
            .or_default();
        *top += hot.iter().take(TOP).sum::<f64>();
        *all += hot.iter().sum::<f64>();
    };
    for scope in heat.scopes() {
        let hot = heat.hottest(&scope).into_iter();
        let hot: Vec<f64> = hot.map(|(_, rate)| rate).collect();
        add(HeatOf::Jobs, &scope.namespace, &hot);
    }
    for namespace in heat.readers.namespaces() {
        add(HeatOf::Reads, &namespace, &heat.readers.rates(&namespace));
    }
    for ((of, namespace), (top, all)) in rates {
        metrics.heat(of, &namespace, all, if all > 0.0 { top / all } else { 0.0 });
    }
}
