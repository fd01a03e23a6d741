//! `/v1/models`: the model versions of this worker, how they were trained, and how those differ that score beside the active ones.

use super::{
    Shared,
    auth::Reader,
    problem::Problem,
    responses::{Guarded, Unavailable},
};
use crate::{pipeline::ShadowFigures, warm::rollover::compare};
use axum::{Json, extract::State};
use kiln_contract::split::Share;
use kiln_model::{Backend, InputKind, PassFigures, Task, Training};
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// One model version.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelShown {
    name: String,
    version: String,
    /// Whether the name without a version means this one.
    active: bool,
    /// The share of the inputs of jobs that name no version which goes to this one instead of the active one, 0 to 1; null where none does.
    share: Option<f64>,
    architecture: String,
    /// The backend that it is on here: `cpu` where `models.fall_back` has that stand in; null where none works.
    backend: Option<&'static str>,
    /// `classification`, `scalar` or `embedding`.
    task: &'static str,
    /// `text` or `features`.
    input: &'static str,
    /// The labels of a classifier.
    labels: Vec<String>,
    parameters: usize,
    /// Bytes of its weights in this worker's memory, without what a tokenizer or a pass takes; null while they are released.
    memory_bytes: Option<u64>,
    /// How long its passes took on this worker lately; null where there were none.
    times: Option<TimesShown>,
    /// Of an active version: the one that scores a share of live jobs' inputs beside it; null where there is none.
    shadow: Option<ShadowShown>,
    /// How it was trained, if its manifest says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    training: Option<TrainingShown>,
}

/// How long a version's forward passes took on this worker within the last minutes: those of jobs and requests, not those of a shadow.
#[derive(Debug, Serialize, ToSchema)]
pub struct TimesShown {
    /// Minutes that they cover at most.
    minutes: u64,
    passes: u64,
    /// Inputs that the passes scored.
    inputs: u64,
    /// Percentiles of a pass's model time, in milliseconds, to a fifth.
    pass_p50_ms: f64,
    pass_p99_ms: f64,
    /// The same of an input's part of its pass.
    input_p50_ms: f64,
    input_p99_ms: f64,
}

impl From<PassFigures> for TimesShown {
    fn from(figures: PassFigures) -> Self {
        let ms = |seconds: f64| (seconds * 1e6).round() / 1e3;
        Self {
            minutes: figures.minutes,
            passes: figures.passes,
            inputs: figures.inputs,
            pass_p50_ms: ms(figures.pass_p50),
            pass_p99_ms: ms(figures.pass_p99),
            input_p50_ms: ms(figures.input_p50),
            input_p99_ms: ms(figures.input_p99),
        }
    }
}

/// How a model version was trained.
#[derive(Debug, Serialize, ToSchema)]
pub struct TrainingShown {
    /// When its data begins.
    from: String,
    /// When its data ends.
    to: String,
    /// Rows of data, those that were held out included.
    rows: u64,
    training_seconds: f64,
    evaluation_seconds: f64,
    /// What the evaluation found, by name.
    metrics: BTreeMap<String, f64>,
}

impl From<&Training> for TrainingShown {
    fn from(training: &Training) -> Self {
        Self {
            from: training.from.clone(),
            to: training.to.clone(),
            rows: training.rows,
            training_seconds: training.training_seconds,
            evaluation_seconds: training.evaluation_seconds,
            metrics: training.metrics.clone(),
        }
    }
}

/// A version of `models.shadow`, as this worker has it score. Differences are over the latest 1,024 inputs that both versions scored.
#[derive(Debug, Serialize, ToSchema)]
pub struct ShadowShown {
    version: String,
    /// The share of inputs that it is to score.
    share: f64,
    /// Why it scores nothing; null while it scores.
    trouble: Option<String>,
    /// Inputs that it has scored since the worker's start, that found no room or didn't fit, and that it failed on.
    scored: u64,
    dropped: u64,
    failed: u64,
    /// Time of its passes, in seconds.
    model_seconds: f64,
    /// Inputs that are compared.
    compared: usize,
    /// Mean of its scores minus the active version's; null before there is one.
    mean: Option<f64>,
    mean_absolute: Option<f64>,
    max_absolute: Option<f64>,
    /// Spearman's, -1 to 1; null where either side is constant.
    rank_correlation: Option<f64>,
    /// Share of inputs that get another label; null where there are none.
    flips: Option<f64>,
}

impl From<ShadowFigures> for ShadowShown {
    fn from(figures: ShadowFigures) -> Self {
        let shift = compare(&figures.pairs);
        Self {
            version: figures.version,
            share: figures.share,
            trouble: figures.trouble,
            scored: figures.scored,
            dropped: figures.dropped,
            failed: figures.failed,
            model_seconds: figures.seconds,
            compared: figures.pairs.len(),
            mean: shift.map(|shift| shift.mean),
            mean_absolute: shift.map(|shift| shift.mean_absolute),
            max_absolute: shift.map(|shift| shift.max_absolute),
            rank_correlation: shift.and_then(|shift| shift.rank_correlation),
            flips: shift.and_then(|shift| shift.flips),
        }
    }
}

/// Lists the model versions that this worker serves.
#[utoipa::path(get, path = "/v1/models", tag = "worker", security(("key" = [])),
    responses((status = 200, body = Vec<ModelShown>), Guarded, Unavailable))]
pub(super) async fn models(
    _reader: Reader,
    State(shared): State<Shared>,
) -> Result<Json<Vec<ModelShown>>, Problem> {
    let engine = &shared.state()?.engine;
    let listed = engine.registry().list();
    let shadows = engine.shadows().map(|shadows| shadows.figures());
    let mut shadows = shadows.unwrap_or_default();
    let shown = listed.into_iter().map(|model| {
        let info = model.info;
        let is_its = |shadow: &ShadowFigures| model.active && shadow.model == info.name;
        let shadow = shadows.iter().position(is_its);
        let shadow = shadow.map(|at| shadows.swap_remove(at));
        let reference = format!("{}@{}", info.name, info.version);
        let loaded = engine.registry().resolve(&reference).ok();
        let backend = engine.registry().backend_of(&info.name);
        let (task, labels) = match info.task {
            Task::Classification { labels } => ("classification", labels),
            Task::Scalar => ("scalar", Vec::new()),
            Task::Embedding => ("embedding", Vec::new()),
        };
        ModelShown {
            name: info.name,
            version: info.version,
            active: model.active,
            share: model.share.map(Share::ratio),
            architecture: info.architecture,
            backend: backend.map(Backend::as_str),
            task,
            input: match info.input {
                InputKind::Text { .. } => "text",
                InputKind::Features { .. } => "features",
            },
            labels,
            parameters: info.parameters,
            memory_bytes: loaded.as_ref().and_then(|model| model.memory_bytes()),
            times: loaded
                .and_then(|model| model.passes())
                .map(TimesShown::from),
            shadow: shadow.map(ShadowShown::from),
            training: info.training.as_deref().map(TrainingShown::from),
        }
    });
    Ok(Json(shown.collect()))
}
