//! Keeps a worker's models as the folder and the database want them.

use super::news::{self, Heard};
use crate::{
    clock,
    health::{Health, Part},
    store::{PostgresStore, StoreError},
    telemetry::metrics::Metrics,
};
use kiln_model::{ChoiceReport, Registry};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// How often the models' folder is looked at.
const RESCAN: Duration = Duration::from_secs(2);

/// Loads what is new in the folder, and gives back the memory of what nobody asks for.
pub(in crate::worker) async fn rescan(
    registry: Arc<Registry>,
    health: Health,
    metrics: Metrics,
    unused_for: Duration,
) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(RESCAN);
    tick.tick().await;
    loop {
        tick.tick().await;
        let scanned = registry.clone();
        let (report, given_back) = tokio::task::spawn_blocking(move || {
            let report = scanned.rescan();
            (report, scanned.unload_unused(unused_for))
        })
        .await?;
        if let Some(reason) = registry.lost_device() {
            anyhow::bail!("{reason}; another process may find it whole");
        }
        for model in &report.added {
            tracing::info!(model, "a model version was loaded");
        }
        for model in &report.replaced {
            tracing::warn!(
                model,
                "a model version was loaded anew; scores cached before stay as they are"
            );
        }
        for model in &report.removed {
            tracing::info!(model, "a model version is gone");
        }
        for model in &given_back {
            tracing::info!(model, "an unused model version gave its memory back");
        }
        for problem in &report.new_problems {
            tracing::error!(%problem, "a model version is refused");
        }
        note(&registry, &health, &metrics);
    }
}

/// Tells health and metrics what is loaded.
pub(in crate::worker) fn note(registry: &Registry, health: &Health, metrics: &Metrics) {
    let problems = registry.problems();
    metrics.model_problems(problems.len());
    for model in registry.list() {
        metrics.model_serves(&model.info);
        metrics.trained(&model.info);
    }
    let first = problems.first().map(ToString::to_string);
    if registry.list().is_empty() {
        let reason = first.unwrap_or_else(|| "no model is loaded".to_owned());
        health.down(Part::Models, &reason);
        return;
    }
    let refused = first.map(|first| refused(problems.len(), "version", &first));
    let replaced = registry.replaced_backends().iter().cloned();
    let reasons: Vec<String> = refused.into_iter().chain(replaced).collect();
    match reasons.is_empty() {
        true => health.up(Part::Models),
        false => health.degraded(Part::Models, &reasons.join("; ")),
    }
}

/// Says how many of something are refused, and why the first one is.
pub(super) fn refused(count: usize, thing: &str, first: &str) -> String {
    match count {
        1 => format!("1 {thing} is refused: {first}"),
        _ => format!("{count} {thing}s are refused; the first: {first}"),
    }
}

/// Serves the versions that the database names, and the shares that it gives, within a second of their being chosen.
pub(in crate::worker) async fn follow_choice(
    registry: Arc<Registry>,
    mut heard: Heard,
    metrics: Metrics,
) -> anyhow::Result<()> {
    let mut before = ChoiceReport::default();
    let mut shared = BTreeSet::new();
    loop {
        let news = news::next(&mut heard).await;
        let report = registry.choose(news.chosen.clone());
        for model in &report.switched {
            tracing::info!(model, "another model version is active");
            if let Some((name, version)) = model.split_once('@') {
                metrics.activated(name, version, clock::now());
            }
        }
        for model in &report.pending {
            if !before.pending.contains(model) {
                tracing::error!(
                    model,
                    "the chosen model version isn't loaded here; what served goes on serving"
                );
            }
        }
        say_splits(&before, &report);
        let splits = report.splits.iter().filter_map(|(model, share)| {
            let (name, version) = model.split_once('@')?;
            Some(((name.to_owned(), version.to_owned()), share.ratio()))
        });
        metrics.split_shares(&splits.collect::<Vec<_>>(), &mut shared);
        metrics.activations_pending(report.pending.len() + report.unfit.len());
        before = report;
    }
}

/// Says what has become of versions that share a model's inputs with the active one.
fn say_splits(before: &ChoiceReport, now: &ChoiceReport) {
    for (model, share) in &now.splits {
        if before.splits.get(model) != Some(share) {
            tracing::info!(model, share = %share, "a share of the inputs goes to this model version");
        }
    }
    for model in before.splits.keys() {
        if !now.splits.contains_key(model) {
            tracing::info!(
                model,
                "no share of the inputs goes to this model version any more"
            );
        }
    }
    for (model, reason) in &now.unfit {
        if before.unfit.get(model) != Some(reason) {
            tracing::error!(
                model,
                reason,
                "the chosen model version can't have its share of the inputs; all go to the active one"
            );
        }
    }
}

/// Asks once.
pub(in crate::worker) async fn choose(
    registry: &Registry,
    store: &PostgresStore,
) -> Result<ChoiceReport, StoreError> {
    let choices = store.choices().await?;
    Ok(registry.choose(choices))
}
