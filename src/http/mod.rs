//! The HTTP port: a thin face over what the other rooms know, on a thread and runtime of its own, so that
//! health answers while the worker is busy.
//!
//! Promises that a slow client, a large body or many connections cost the worker nothing: each has its limit. Refuses to read large
//! bodies on this thread.

mod accept;
mod accepted;
mod actions;
mod advice;
mod apart;
mod api_state;
mod auth;
mod cache;
mod compat;
mod cors;
mod dead;
mod docs;
mod extract;
mod find;
mod fleet;
#[cfg(test)]
mod fuzz;
mod health;
mod http2;
mod job;
mod job_id;
mod jobs;
mod keys;
mod lanes;
mod live;
mod logs;
mod models;
mod openapi;
mod packed;
mod page;
mod permits;
mod plan;
mod posted;
mod preface;
mod problem;
mod requests;
mod responses;
mod score;
mod screen;
mod show;
mod steer;
mod stopping;
mod streams;
mod timings;
mod unread;
mod versions;
mod waits;

pub use api_state::ApiState;

use crate::{
    config::Http,
    health::Health,
    redact::Redact,
    telemetry::window::{Noted, Pattern, Window},
};
use auth::Keys;
use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use cors::Origins;
use live::Live;
use metrics_exporter_prometheus::PrometheusHandle;
use posted::Posted;
use problem::Problem;
use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};
use stopping::Stopping;
use timings::KeptTimings;
use tokio::{
    net::TcpListener,
    runtime::{Handle, RuntimeMetrics},
    sync::{Semaphore, oneshot},
};
use waits::Waits;

/// How often the recorder forgets what it need not keep.
const UPKEEP: Duration = Duration::from_secs(5);
/// Where requests wait for longer than others may take.
const WAIT: &str = "/v1/jobs/{id}/wait";
/// Threads that read large bodies.
const READERS: usize = 2;

/// Why the port can't be served.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("setting `http.addr`: {addr} can't be listened on: {reason}")]
    Bind {
        addr: SocketAddr,
        reason: std::io::Error,
    },
    #[error("the HTTP thread could not be started: {0}")]
    Thread(std::io::Error),
}

/// What the port is made of.
pub struct Port {
    pub health: Health,
    pub metrics: PrometheusHandle,
    pub settings: Http,
    /// Largest body of a request, in bytes.
    pub max_body_bytes: usize,
}

/// What the routes share.
type Shared = Arc<SharedState>;

struct SharedState {
    health: Health,
    metrics: PrometheusHandle,
    /// Of the worker, not of this port.
    runtime: RuntimeMetrics,
    keys: Arc<Keys>,
    /// Pages of other sites that may use the API.
    origins: Origins,
    /// Whether only requests to names of this machine are answered: without keys, another name may be a web page's trick.
    wants_local_host: bool,
    /// There once the worker has its parts.
    state: Arc<OnceLock<ApiState>>,
    limit: Duration,
    /// Largest body of a request, in bytes.
    max_body_bytes: usize,
    /// How each path does: its answers, those that were the worker's fault, and their times.
    paths: Arc<Window>,
    live: Live,
    /// Who may look through the jobs now, who may plan, and who may look through the dead letters.
    finding: Arc<Semaphore>,
    /// Whose body is unpacked now.
    unpacking: Semaphore,
    /// Who may compare two versions now.
    comparing: Arc<Semaphore>,
    planning: Arc<Semaphore>,
    dead: Arc<Semaphore>,
    posted: Posted,
    timings: KeptTimings,
    waits: Waits,
    stopping: Stopping,
}

impl SharedState {
    fn state(&self) -> Result<&ApiState, Problem> {
        self.state
            .get()
            .ok_or_else(|| Problem::unavailable("the worker is starting"))
    }
}

/// The port in service.
pub struct Served {
    /// Where it listens.
    pub addr: SocketAddr,
    ended: oneshot::Receiver<String>,
    state: Arc<OnceLock<ApiState>>,
    stopping: Stopping,
}

impl Served {
    /// Opens the API over the worker's parts; until then it answers that the worker is starting.
    pub fn open(&self, state: ApiState) {
        // It is set once: there is one worker a process.
        let _first_stays = self.state.set(state);
    }

    /// Waits until the thread has ended, and says why.
    pub async fn ended(&mut self) -> String {
        let reason = (&mut self.ended).await;
        reason.unwrap_or_else(|_| "it panicked".into())
    }

    /// Refuses new work from now on, and ends the streams of those who watch. Health and metrics go on.
    pub fn refuse(&self) {
        self.stopping.refusing.cancel();
    }

    /// Waits until every request in hand has its answer.
    pub async fn idle(&self) {
        self.stopping.idle().await;
    }

    /// Takes no further connections, lets those that are open send what they have, and waits for the thread's end; after `limit` they
    /// are cut.
    pub async fn close(&mut self, limit: Duration) {
        self.stopping.closing.cancel();
        // What isn't sent by then is cut with the process.
        let _cut = tokio::time::timeout(limit, self.ended()).await;
    }
}

/// Binds the address and serves it until [`Served::close`]. Called on a runtime.
pub fn serve(port: Port) -> Result<Served, HttpError> {
    let addr = port.settings.addr;
    let bind = |reason| HttpError::Bind { addr, reason };
    let listener = accept::listen(addr).and_then(TcpListener::into_std);
    let listener = listener.map_err(bind)?;
    let addr = listener.local_addr().map_err(bind)?;
    let (sender, ended) = oneshot::channel();
    let state = Arc::new(OnceLock::new());
    let shared = Arc::new(SharedState {
        health: port.health,
        metrics: port.metrics,
        runtime: Handle::current().metrics(),
        keys: Arc::new(Keys::new(&port.settings)),
        origins: Origins::new(&port.settings.cors_origins),
        wants_local_host: port.settings.api && port.settings.keys.is_empty(),
        state: state.clone(),
        limit: Duration::from_millis(port.settings.timeout_ms),
        max_body_bytes: port.max_body_bytes,
        paths: Arc::default(),
        live: Live::new(),
        finding: Arc::new(Semaphore::new(find::AT_ONCE)),
        unpacking: Semaphore::new(READERS),
        comparing: Arc::new(Semaphore::new(1)),
        planning: Arc::new(Semaphore::new(plan::AT_ONCE)),
        dead: Arc::new(Semaphore::new(dead::AT_ONCE)),
        posted: Posted::default(),
        timings: KeptTimings::default(),
        waits: Waits::new(port.settings.connections),
        stopping: Stopping::default(),
    });
    let stopping = shared.stopping.clone();
    let (settings, max) = (port.settings, port.max_body_bytes);
    let run = move || {
        let reason = match blocking(listener, shared, &settings, max) {
            Ok(()) => "it stopped serving".to_owned(),
            Err(error) => error.redacted(),
        };
        // Nobody listens any more once the worker is on its way out.
        let _unheard = sender.send(reason);
    };
    std::thread::Builder::new()
        .name("kiln-http".into())
        .spawn(run)
        .map_err(HttpError::Thread)?;
    Ok(Served {
        addr,
        ended,
        state,
        stopping,
    })
}

fn blocking(
    listener: std::net::TcpListener,
    shared: Shared,
    settings: &Http,
    max_body_bytes: usize,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(READERS)
        .thread_name("kiln-http-body")
        .build()?;
    runtime.block_on(async move {
        let upkeep = shared.metrics.clone();
        let upkeep = async move {
            let mut tick = tokio::time::interval(UPKEEP);
            loop {
                tick.tick().await;
                upkeep.run_upkeep();
            }
        };
        let (live, metrics) = (shared.live.clone(), shared.metrics.clone());
        let sampling = async move {
            if settings.api {
                live.follow(metrics).await;
            }
            std::future::pending::<()>().await
        };
        let listener = TcpListener::from_std(listener)?;
        let (connections, limit) = (settings.connections, shared.limit);
        let closing = shared.stopping.closing.clone();
        let routes = routes(shared, settings.api, max_body_bytes);
        tokio::select! {
            () = accept::accept(listener, routes, connections, limit, closing) => Ok(()),
            () = upkeep => Ok(()),
            () = sampling => Ok(()),
        }
    })
}

fn routes(shared: Shared, api: bool, max_body_bytes: usize) -> Router {
    let mut routes = Router::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics));
    if api {
        routes = routes
            .merge(page::routes())
            .merge(dead::routes())
            .merge(versions::routes())
            .merge(plan::routes())
            .route("/v1/live", get(live::live))
            .route("/health", get(show::health))
            .route("/version", get(show::version))
            .route("/openapi.json", get(openapi::document))
            .route("/docs", get(docs::moved))
            .route("/docs/", get(docs::index))
            .route("/docs/{*file}", get(docs::file))
            .route("/v1/score", post(score::score))
            .route("/v1/score/batch", post(score::batch))
            .route("/v1/embeddings", post(compat::openai::embeddings))
            .route("/embed", post(compat::inference::embed))
            .route("/predict", post(compat::inference::predict))
            .route("/rerank", post(compat::inference::rerank))
            .route("/v1/jobs", get(find::jobs).post(jobs::enqueue))
            .route("/v1/jobs/{id}", get(job::job))
            .route(WAIT, get(job::wait))
            .route("/v1/key", get(actions::key))
            .route("/v1/log/actions", get(actions::list))
            .route("/v1/keys/{namespace}/{key}", get(keys::explain))
            .route("/v1/lanes", get(lanes::lanes))
            .route("/v1/fleet", get(fleet::fleet))
            .route("/v1/timings", get(timings::timings))
            .route("/v1/schedules", get(show::schedules))
            .route("/v1/schedules/{name}/pause", post(steer::pause_schedule))
            .route("/v1/schedules/{name}/resume", post(steer::resume_schedule))
            .route("/v1/warm/runs", get(show::runs))
            .route("/v1/cache/health", get(cache::health))
            .route("/v1/cache/info", get(cache::info))
            .route("/v1/cache/stats", get(cache::stats))
            .route("/v1/cache/stats/endpoints", get(cache::endpoints))
            .route("/v1/cache/stats/patterns", get(cache::patterns))
            .route("/v1/cache/stats/top-patterns", get(cache::top))
            .route("/v1/cache/stats/low-performers", get(cache::low))
            .route("/v1/cache/warm", post(jobs::warm))
            .route("/v1/cache/invalidate/{namespace}", post(steer::invalidate))
            .route("/v1/cache/reset-stats", post(cache::reset))
            .route("/v1/log/recent", get(logs::recent))
            .route("/v1/rejections", get(show::rejections))
            .route("/v1/log", get(logs::levels).put(logs::set_levels))
            .route("/v1/hits", post(steer::hits))
            .route("/v1/intake/pause", post(steer::pause_intake))
            .route("/v1/intake/resume", post(steer::resume_intake));
    }
    routes
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .layer(axum::middleware::from_fn_with_state(
            shared.clone(),
            stopping::guard,
        ))
        .layer(axum::middleware::from_fn_with_state(shared.clone(), timed))
        .layer(axum::middleware::from_fn(packed::pack))
        .layer(axum::middleware::from_fn_with_state(
            shared.clone(),
            screen::screen,
        ))
        .layer(DefaultBodyLimit::max(max_body_bytes))
        .with_state(shared)
}

async fn no_such_route() -> Problem {
    Problem::not_found("", "there is no such path; /openapi.json lists them")
}

async fn no_such_method() -> Problem {
    Problem::bad_method()
}

/// Cuts a request that takes too long, such as one whose body comes slowly.
async fn timed(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    // A handler's own limit comes first, and says more.
    let mut limit = shared.limit + Duration::from_millis(500);
    let begun = Instant::now();
    let path = request.extensions().get::<MatchedPath>().cloned();
    if path.as_ref().is_some_and(|path| path.as_str() == WAIT) {
        limit += Duration::from_secs(job::MAX_WAIT_SECONDS);
    }
    let response = match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::timeout(shared.limit).into_response(),
    };
    // Only paths that there are: what a client makes up is nobody's figure.
    if let Some(path) = path {
        let fault = response.status().is_server_error();
        let noted = Noted {
            hits: u64::from(!fault),
            misses: u64::from(fault),
            latency: Some(begun.elapsed()),
            ..Noted::default()
        };
        let pattern = Pattern::Namespace(path.as_str().to_owned());
        shared.paths.note(std::iter::once((pattern, noted)));
    }
    response
}
