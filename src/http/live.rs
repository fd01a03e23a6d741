//! `/v1/live`: figures as they change, for the page.
//!
//! Every two seconds the worker's own metrics are read; the last quarter of an hour is kept, so that a page which is opened
//! after something happened still shows it. What is sent are the same counters that `/metrics` prints: the page makes rates and
//! percentiles of them, as Prometheus would.

use super::{
    Shared,
    auth::Reader,
    problem::Problem,
    responses::{Guarded, Unavailable},
};
use crate::telemetry::metrics::{
    CacheOperation, CacheOutcome, CloseReason, InputResult, JobOutcome, QueueKind, Server,
};
use axum::{
    extract::State,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::stream;
use kiln_contract::failure::Code;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

/// How often the metrics are read.
const STEP: Duration = Duration::from_secs(2);
/// Samples kept: a quarter of an hour.
const KEPT: usize = 450;
/// Pages that may watch at once.
const WATCHERS: usize = 32;

/// Milliseconds since 1970, then the series' values, in the order of their names; what isn't there is nothing.
type Sample = Arc<[Option<f64>]>;

/// What is known, and where the newest sample is told.
#[derive(Clone)]
pub(super) struct Live {
    names: Arc<[String]>,
    kept: Arc<Mutex<VecDeque<Sample>>>,
    newest: watch::Sender<Option<Sample>>,
    permits: Arc<Semaphore>,
}

impl Live {
    /// Nothing known yet.
    pub(super) fn new() -> Self {
        Self {
            names: names().into(),
            kept: Arc::default(),
            newest: watch::channel(None).0,
            permits: Arc::new(Semaphore::new(WATCHERS)),
        }
    }

    /// Reads the metrics until the process ends.
    pub(super) async fn follow(&self, metrics: PrometheusHandle) {
        let mut tick = tokio::time::interval(STEP);
        loop {
            tick.tick().await;
            let sample = self.sample(&metrics.render());
            {
                let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() == KEPT {
                    kept.pop_front();
                }
                kept.push_back(sample.clone());
            }
            self.newest.send_replace(Some(sample));
        }
    }

    fn sample(&self, exposition: &str) -> Sample {
        let all = read(exposition);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0.0, |since| since.as_millis() as f64);
        let values = self
            .names
            .iter()
            .map(|name| all.get(name.as_str()).copied());
        std::iter::once(Some(now)).chain(values).collect()
    }
}

/// The series that a page needs.
fn names() -> Vec<String> {
    let labelled = |family: &str, label: &str, values: Vec<&'static str>| {
        let series = |value| format!("{family}{{{label}=\"{value}\"}}");
        values.into_iter().map(series).collect::<Vec<_>>()
    };
    let each = |values: &mut dyn Iterator<Item = &'static str>| values.collect::<Vec<_>>();
    let mut names = [
        labelled(
            "kiln_jobs_total",
            "outcome",
            each(&mut JobOutcome::ALL.iter().map(|o| o.as_str())),
        ),
        labelled(
            "kiln_inputs_total",
            "result",
            each(&mut InputResult::ALL.iter().map(|r| r.as_str())),
        ),
        labelled(
            "kiln_queue_messages",
            "queue",
            each(&mut QueueKind::ALL.iter().map(|q| q.as_str())),
        ),
        labelled(
            "kiln_server_up",
            "server",
            each(&mut Server::ALL.iter().map(|s| s.as_str())),
        ),
        labelled(
            "kiln_rejections_total",
            "code",
            each(&mut Code::ALL.iter().map(|c| c.as_str())),
        ),
        labelled(
            "kiln_batches_total",
            "reason",
            each(&mut CloseReason::ALL.iter().map(|r| r.as_str())),
        ),
    ]
    .concat();
    let bounds = crate::telemetry::metrics::SECONDS.iter();
    let bounds = bounds.map(ToString::to_string).chain(["+Inf".to_owned()]);
    names.extend(bounds.map(|le| format!("kiln_job_duration_seconds_bucket{{le=\"{le}\"}}")));
    for operation in CacheOperation::ALL {
        let (operation, outcome) = (operation.as_str(), CacheOutcome::Error.as_str());
        names.push(format!(
            "kiln_cache_operations_total{{operation=\"{operation}\",outcome=\"{outcome}\"}}"
        ));
    }
    let plain = [
        "kiln_job_duration_seconds_sum",
        "kiln_job_duration_seconds_count",
        "kiln_batch_jobs_sum",
        "kiln_batch_jobs_count",
        "kiln_jobs_in_hand",
        "kiln_store_errors_total",
        "kiln_broker_reconnects_total",
        "kiln_intake_paused",
    ];
    names.extend(plain.map(str::to_owned));
    names
}

/// The series of an exposition in Prometheus' text format.
fn read(exposition: &str) -> HashMap<&str, f64> {
    let lines = exposition.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name, value.parse().ok()?))
    });
    pairs.collect()
}

/// The first event of a stream.
#[derive(Serialize)]
struct History<'a> {
    names: &'a [String],
    samples: Vec<Sample>,
}

/// One event of the stream.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes what the stream writes")]
pub struct LiveEvent {
    /// `history` or `sample`.
    event: String,
    /// JSON: of `history`, `names` of series and `samples`; of `sample`, one sample: milliseconds since 1970 and the series' values.
    data: String,
}

/// One who watches.
struct Watcher {
    live: Live,
    newest: watch::Receiver<Option<Sample>>,
    begun: bool,
    /// The worker stops: the stream ends, and the page looks for another worker.
    stopping: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Watcher {
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        let event = if self.begun {
            let changed = self.newest.changed();
            self.stopping.run_until_cancelled(changed).await?.ok()?;
            let newest = self.newest.borrow_and_update().clone();
            Event::default().event("sample").json_data(newest)
        } else {
            self.begun = true;
            self.newest.mark_unchanged();
            let kept = self
                .live
                .kept
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let history = History {
                names: &self.live.names,
                samples: kept.iter().cloned().collect(),
            };
            Event::default().event("history").json_data(history)
        };
        Some((Ok(event.ok()?), self))
    }
}

/// The last quarter of an hour at once (`history`: names of series and samples of their values), then each new sample, every two
/// seconds, as server-sent events.
#[utoipa::path(get, path = "/v1/live", tag = "worker", security(("key" = [])),
    responses((status = 200, content_type = "text/event-stream", body = LiveEvent), Guarded, Unavailable))]
pub(super) async fn live(
    _reader: Reader,
    State(shared): State<Shared>,
) -> Result<Response, Problem> {
    let live = shared.live.clone();
    let permit = live.permits.clone().try_acquire_owned();
    let permit = permit.map_err(|_| Problem::unavailable("as many pages watch as may"))?;
    let watcher = Watcher {
        newest: live.newest.subscribe(),
        live,
        begun: false,
        stopping: shared.stopping.refusing.clone(),
        _permit: permit,
    };
    let events = stream::unfold(watcher, Watcher::next);
    Ok(Sse::new(events)
        .keep_alive(KeepAlive::default())
        .into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_hold_what_the_exposition_says() {
        let live = Live::new();
        let text = "# HELP kiln_jobs_total Jobs.\nkiln_jobs_total{outcome=\"ok\"} 7\n\nkiln_jobs_in_hand 3\nkiln_other 1\n";
        let sample = live.sample(text);
        assert_eq!(sample.len(), live.names.len() + 1);
        let value = |name: &str| {
            let at = live.names.iter().position(|one| one == name);
            at.and_then(|at| sample[at + 1])
        };
        assert_eq!(value("kiln_jobs_total{outcome=\"ok\"}"), Some(7.0));
        assert_eq!(value("kiln_jobs_in_hand"), Some(3.0));
        assert_eq!(value("kiln_intake_paused"), None);
    }
}
