//! Owns the order of a batch's stages.
//!
//! Promises one outcome a job, in the order of the jobs, and that a job is called done or rejected only after
//! its row is committed. Refuses to settle anything: that is the caller's.

use super::{
    admit, coalesce,
    context::{Context, EngineParts},
    count::{self, InputCounts},
    look_up, note_heat,
    outcome::{Outcome, Outcomes},
    rejections, render, score,
    source::JobSource,
    store,
};
use crate::{
    cache::Cache,
    config::Settings,
    telemetry::{metrics::Stage, trace::Stages},
};
use kiln_contract::failure::Rejection;
use kiln_model::Registry;
use std::{sync::Arc, time::Instant};

/// Carries batches of jobs from their bodies to stored results.
pub struct Engine {
    context: Context,
}

impl Engine {
    /// An engine over these parts.
    pub fn new(parts: EngineParts, settings: &Settings) -> Self {
        Self {
            context: Context::new(parts, settings),
        }
    }

    /// The models that it serves.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.context.registry
    }

    /// Where it looks entries up.
    pub fn cache(&self) -> &Cache {
        &self.context.cache
    }

    /// Checks a body as a job's is checked, without running it; an error is what would be replied.
    pub fn examine(&self, body: &[u8], message_id: Option<&str>) -> Result<(), Rejection> {
        let source = JobSource::new(body).with_message_id(message_id);
        let checked = admit::check(&self.context, &source);
        checked.map(|_| ()).map_err(|bad| bad.rejection)
    }

    /// Counts a job that another process ran through an engine of its own.
    pub fn count(&self, received: Instant, outcome: &Outcome, counts: InputCounts) {
        let source = JobSource::new(&[]).received_at(received);
        count::batch(&self.context, &[source], std::iter::once(outcome), counts);
    }

    /// Carries one batch through every stage. Waits for the database as long as it takes. The future may be dropped at any
    /// point: running the batch again completes whatever was left undone.
    pub async fn run(&self, sources: &[JobSource<'_>]) -> (Vec<Outcome>, InputCounts) {
        let context = &self.context;
        let metrics = &context.metrics;
        let received = Instant::now();

        let mut outcomes = Outcomes::new(sources.len());
        let admitted = admit::batch(context, sources, &mut outcomes);
        let mut plan = coalesce::plan(&admitted);
        note_heat::batch(context, &plan);
        metrics.stage(Stage::Parse, received.elapsed());

        look_up::slots(context, &mut plan).await;
        let looked_up = received.elapsed();

        let failures = score::misses(context, &mut plan).await;
        let scored = received.elapsed();
        metrics.stage(Stage::Score, scored - looked_up);

        let (finished, mut counts) = render::jobs(context, &plan, &failures, &mut outcomes);
        let begun = Instant::now();
        store::batch(context, &plan, finished, &mut outcomes).await;
        counts.stages = Stages {
            looked_up,
            scored,
            stored: received.elapsed(),
        };
        let outcomes = outcomes.finish();
        if let Some(insight) = &context.insight {
            insight.note(&plan);
        }
        rejections::batch(context, sources, &admitted, &outcomes).await;
        metrics.stage(Stage::Store, begun.elapsed());

        count::batch(context, sources, outcomes.iter(), counts);
        (outcomes.into_vec(), counts)
    }
}
