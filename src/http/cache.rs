//! `/v1/cache`: hit rates and latency of this worker by namespace and kind of key, with recommendations.

use super::{
    Shared, advice,
    api_state::ApiState,
    auth::{Admin, Reader},
    extract::Params,
    problem::Problem,
    responses::{BadRequest, Guarded, Unavailable},
};
use crate::telemetry::window::{Figures, Pattern};
use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// The period that statistics cover.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Period {
    /// Length of the period up to now, in minutes: 5 to 1440, default 60, in steps of five.
    #[param(minimum = 5, maximum = 1440)]
    minutes: Option<u64>,
}

/// How many patterns to list, over which period.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TopWanted {
    /// 1 to 128, default 10.
    #[param(minimum = 1, maximum = 128)]
    limit: Option<usize>,
    #[param(minimum = 5, maximum = 1440)]
    minutes: Option<u64>,
}

/// Below which hit rate, over which period.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LowWanted {
    /// Hit rate, 0 to 1, default 0.5.
    #[param(minimum = 0.0, maximum = 1.0)]
    threshold: Option<f64>,
    #[param(minimum = 5, maximum = 1440)]
    minutes: Option<u64>,
    /// Only patterns of so many inputs at least, default 1.
    min_inputs: Option<u64>,
}

fn minutes(asked: Option<u64>) -> Result<u64, Problem> {
    let minutes = asked.unwrap_or(60);
    if (5..=1_440).contains(&minutes) {
        Ok(minutes)
    } else {
        Err(Problem::invalid("minutes", "expected 5 to 1440"))
    }
}

/// Statistics of one pattern.
#[derive(Debug, Serialize, ToSchema)]
pub struct PatternShown {
    /// A namespace, or the keys in a namespace that share a prefix, such as `feed/page:*`.
    pattern: String,
    /// Inputs found in the cache.
    hits: u64,
    /// Inputs that a model scored.
    misses: u64,
    hit_rate: Option<f64>,
    /// Jobs. Their latency is measured from delivery to stored result.
    requests: u64,
    mean_ms: f64,
    p50_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
}

impl PatternShown {
    fn new(pattern: &str, figures: &Figures) -> Self {
        let round = |ms: f64| (ms * 100.0).round() / 100.0;
        Self {
            pattern: pattern.to_owned(),
            hits: figures.hits,
            misses: figures.misses,
            hit_rate: figures.hit_rate(),
            requests: figures.requests,
            mean_ms: round(figures.mean_ms),
            p50_ms: round(figures.p50_ms),
            p95_ms: round(figures.p95_ms),
            p99_ms: round(figures.p99_ms),
        }
    }
}

/// A pattern with a low hit rate, and a recommendation.
#[derive(Debug, Serialize, ToSchema)]
pub struct LowPerformer {
    #[serde(flatten)]
    figures: PatternShown,
    recommendation: String,
}

/// Cache health against the thresholds in the settings.
#[derive(Debug, Serialize, ToSchema)]
pub struct CacheHealth {
    /// `healthy`; `warning` if p95 latency is over its threshold; `degraded` if the hit rate or the mean latency misses its own; `idle` without requests.
    status: &'static str,
    hit_rate: Option<f64>,
    mean_ms: f64,
    p95_ms: f64,
    warnings: Vec<String>,
    /// What would make it cheaper, by what models and look-ups are measured to take on this worker.
    advice: Vec<String>,
}

/// Cache configuration.
#[derive(Debug, Serialize, ToSchema)]
pub struct CacheInfo {
    enabled: bool,
    /// Whether the last read from Redis and the last write to it succeeded.
    redis_works: bool,
    ttl_seconds: u64,
    grace_seconds: u64,
    memory_mib: u64,
    /// What the look-up of one input takes, a running mean; null before the first one.
    look_up_seconds: Option<f64>,
    /// How far statistics go back, in seconds.
    watched_seconds: u64,
}

/// Statistics of all patterns together, on this worker.
#[utoipa::path(get, path = "/v1/cache/stats", tag = "cache", security(("key" = [])), params(Period),
    responses((status = 200, body = PatternShown), Guarded, BadRequest, Unavailable))]
pub(super) async fn stats(
    _reader: Reader,
    State(shared): State<Shared>,
    Params(period): Params<Period>,
) -> Result<Json<PatternShown>, Problem> {
    let figures = shared
        .state()?
        .insight
        .window
        .total(minutes(period.minutes)?);
    Ok(Json(PatternShown::new("*", &figures)))
}

/// Statistics of each pattern on this worker.
#[utoipa::path(get, path = "/v1/cache/stats/patterns", tag = "cache", security(("key" = [])), params(Period),
    responses((status = 200, body = Vec<PatternShown>), Guarded, BadRequest, Unavailable))]
pub(super) async fn patterns(
    _reader: Reader,
    State(shared): State<Shared>,
    Params(period): Params<Period>,
) -> Result<Json<Vec<PatternShown>>, Problem> {
    let all = shared
        .state()?
        .insight
        .window
        .figures(minutes(period.minutes)?);
    Ok(Json(shown(&all)))
}

/// Statistics of one API path.
#[derive(Debug, Serialize, ToSchema)]
pub struct EndpointShown {
    endpoint: String,
    requests: u64,
    /// Responses with a status of 500 or above.
    faults: u64,
    mean_ms: f64,
    p50_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
}

/// Statistics of each path of this worker's API.
#[utoipa::path(get, path = "/v1/cache/stats/endpoints", tag = "cache", security(("key" = [])), params(Period),
    responses((status = 200, body = Vec<EndpointShown>), Guarded, BadRequest))]
pub(super) async fn endpoints(
    _reader: Reader,
    State(shared): State<Shared>,
    Params(period): Params<Period>,
) -> Result<Json<Vec<EndpointShown>>, Problem> {
    let all = shared.paths.figures(minutes(period.minutes)?);
    let shown = all.iter().map(|(path, figures)| {
        let shown = PatternShown::new(&path.to_string(), figures);
        EndpointShown {
            endpoint: shown.pattern,
            requests: shown.requests,
            faults: shown.misses,
            mean_ms: shown.mean_ms,
            p50_ms: shown.p50_ms,
            p95_ms: shown.p95_ms,
            p99_ms: shown.p99_ms,
        }
    });
    Ok(Json(shown.collect()))
}

fn shown(all: &[(Pattern, Figures)]) -> Vec<PatternShown> {
    all.iter()
        .map(|(pattern, figures)| PatternShown::new(&pattern.to_string(), figures))
        .collect()
}

/// Lists the most requested patterns.
#[utoipa::path(get, path = "/v1/cache/stats/top-patterns", tag = "cache", security(("key" = [])), params(TopWanted),
    responses((status = 200, body = Vec<PatternShown>), Guarded, BadRequest, Unavailable))]
pub(super) async fn top(
    _reader: Reader,
    State(shared): State<Shared>,
    Params(wanted): Params<TopWanted>,
) -> Result<Json<Vec<PatternShown>>, Problem> {
    let limit = wanted.limit.unwrap_or(10);
    if !(1..=128).contains(&limit) {
        return Err(Problem::invalid("limit", "expected 1 to 128"));
    }
    let mut all = shared
        .state()?
        .insight
        .window
        .figures(minutes(wanted.minutes)?);
    all.sort_by_key(|(_, figures)| std::cmp::Reverse(figures.hits + figures.misses));
    all.truncate(limit);
    Ok(Json(shown(&all)))
}

/// Lists patterns with a hit rate below a threshold, lowest first, each with a recommendation based on its own misses.
#[utoipa::path(get, path = "/v1/cache/stats/low-performers", tag = "cache", security(("key" = [])), params(LowWanted),
    responses((status = 200, body = Vec<LowPerformer>), Guarded, BadRequest, Unavailable))]
pub(super) async fn low(
    _reader: Reader,
    State(shared): State<Shared>,
    Params(wanted): Params<LowWanted>,
) -> Result<Json<Vec<LowPerformer>>, Problem> {
    let threshold = wanted.threshold.unwrap_or(0.5);
    if !(0.0..=1.0).contains(&threshold) {
        return Err(Problem::invalid("threshold", "expected 0 to 1"));
    }
    let state = shared.state()?;
    let mut all = state.insight.window.figures(minutes(wanted.minutes)?);
    let rate = |figures: &Figures| figures.hit_rate().unwrap_or(1.0);
    let min = wanted.min_inputs.unwrap_or(1);
    all.retain(|(_, figures)| rate(figures) < threshold && figures.hits + figures.misses >= min);
    // Of equal ones what misses more comes first.
    all.sort_by(|a, b| {
        let rates = rate(&a.1).total_cmp(&rate(&b.1));
        rates.then(b.1.misses.cmp(&a.1.misses))
    });
    let low = all.iter().map(|(pattern, figures)| LowPerformer {
        figures: PatternShown::new(&pattern.to_string(), figures),
        recommendation: advice::recommend(figures, ttl(state, pattern)),
    });
    Ok(Json(low.collect()))
}

/// The TTL of a pattern's entries where jobs name no other, in seconds.
fn ttl(state: &ApiState, pattern: &Pattern) -> u64 {
    let namespace = match pattern {
        Pattern::Namespace(namespace) | Pattern::Prefix(namespace, _) => namespace,
        Pattern::Others => "",
    };
    state.settings.ttl_seconds(None, namespace, None)
}

/// Judges the cache by the thresholds in the settings.
#[utoipa::path(get, path = "/v1/cache/health", tag = "cache", security(("key" = [])), params(Period),
    responses((status = 200, body = CacheHealth), Guarded, BadRequest, Unavailable))]
pub(super) async fn health(
    _reader: Reader,
    State(shared): State<Shared>,
    Params(period): Params<Period>,
) -> Result<Json<CacheHealth>, Problem> {
    let state = shared.state()?;
    let figures = state.insight.window.total(minutes(period.minutes)?);
    let (status, warnings) = advice::judge(&figures, &state.settings.cache.health);
    Ok(Json(CacheHealth {
        status,
        hit_rate: figures.hit_rate(),
        mean_ms: figures.mean_ms,
        p95_ms: figures.p95_ms,
        warnings,
        advice: advice::not_worth_it(
            &state.settings.cache,
            state.engine.look_up_seconds(),
            &state.engine.lanes(),
        ),
    }))
}

/// Shows the cache configuration.
#[utoipa::path(get, path = "/v1/cache/info", tag = "cache", security(("key" = [])),
    responses((status = 200, body = CacheInfo), Guarded, Unavailable))]
pub(super) async fn info(
    _reader: Reader,
    State(shared): State<Shared>,
) -> Result<Json<CacheInfo>, Problem> {
    let state = shared.state()?;
    let cache = &state.settings.cache;
    let server = state.engine.cache().server();
    Ok(Json(CacheInfo {
        enabled: cache.enabled,
        redis_works: server.is_some_and(|redis| !redis.is_failing()),
        ttl_seconds: cache.ttl_seconds,
        grace_seconds: cache.grace_seconds,
        memory_mib: cache.memory_mib,
        look_up_seconds: state.engine.look_up_seconds(),
        watched_seconds: state.insight.window.age().as_secs(),
    }))
}

/// Resets this worker's statistics.
#[utoipa::path(post, path = "/v1/cache/reset-stats", tag = "cache", security(("key" = [])),
    responses((status = 204), Guarded, Unavailable))]
pub(super) async fn reset(
    _admin: Admin,
    State(shared): State<Shared>,
) -> Result<StatusCode, Problem> {
    shared.state()?.insight.window.reset();
    Ok(StatusCode::NO_CONTENT)
}
