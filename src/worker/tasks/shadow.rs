//! Has shadow versions score, and shows in metrics how far they are from the active ones.

use crate::{
    pipeline::{Engine, ShadowFigures},
    telemetry::metrics::{Metrics, ShadowGauges},
    warm::rollover::compare,
    worker::supervisor::Supervisor,
};
use std::{sync::Arc, time::Duration};

/// How often their figures are shown.
const LOOK: Duration = Duration::from_secs(2);

/// Adds the tasks, if there are such versions.
pub(in crate::worker) fn add(tasks: &mut Supervisor, engine: &Arc<Engine>, metrics: &Metrics) {
    if engine.shadows().is_none() {
        return;
    }
    let scoring = engine.clone();
    tasks.add_droppable("shadow versions", move || {
        let engine = scoring.clone();
        async move {
            engine.score_shadows().await;
            Ok(())
        }
    });
    let (engine, metrics) = (engine.clone(), metrics.clone());
    tasks.add_droppable("shadow figures", move || {
        show(engine.clone(), metrics.clone())
    });
}

async fn show(engine: Arc<Engine>, metrics: Metrics) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tick.tick().await;
        for shadow in engine.shadows().iter().flat_map(|all| all.figures()) {
            metrics.shadow(&shadow.model, &shadow.version, gauges(&shadow));
        }
    }
}

fn gauges(shadow: &ShadowFigures) -> ShadowGauges {
    let shift = compare(&shadow.pairs);
    let of = |figure: Option<f64>| figure.unwrap_or(f64::NAN);
    ShadowGauges {
        scored: shadow.scored,
        dropped: shadow.dropped,
        failed: shadow.failed,
        milliseconds: (1e3 * shadow.seconds) as u64,
        differences: [
            of(shift.map(|shift| shift.mean)),
            of(shift.map(|shift| shift.mean_absolute)),
            of(shift.map(|shift| shift.max_absolute)),
        ],
        rank_correlation: of(shift.and_then(|shift| shift.rank_correlation)),
        flips: of(shift.and_then(|shift| shift.flips)),
    }
}
