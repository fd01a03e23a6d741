//! Owns recording metrics: a handle to each series, and a method for each thing that happens.
//!
//! Promises that label values are enumerations or come from manifests and settings, never from a job.

mod audit;
mod callbacks;
mod catalogue;
mod labels;
mod lanes;
mod metric;
mod models;
mod named;
mod open;
#[cfg(test)]
mod reference;
mod runtime;
mod schedules;
mod shadow;
mod split;
mod times;
mod training;
mod warming;

pub use catalogue::SECONDS;
pub use labels::{
    AuditFinding, CacheOperation, CacheOutcome, CallbackOutcome, CloseReason, DifferenceKind,
    HealthPart, HeatOf, HintOutcome, InputResult, JobOutcome, LeaseOutcome, PublisherKind,
    QueueKind, ReplyOutcome, Server, ShadowOutcome, SplitOutcome, Stage, Table, TraceOutcome,
    TrainingStep, WarmInput, WarmOutcome,
};
pub use lanes::LaneGauges;
pub use open::open_metrics;
pub use runtime::tasks;
pub use shadow::ShadowGauges;
pub use times::timings;

use catalogue::*;
use kiln_contract::failure::Code;
use metric::{Kind, Metric};
use metrics::{Counter, Gauge, Histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use schedules::Schedules;
use std::{sync::Arc, time::Duration};

/// Handles to the metrics, made once: recording takes no look-up by name, and a clone is the same handles.
#[derive(Clone)]
pub struct Metrics(Arc<Handles>);

struct Handles {
    jobs: Vec<Counter>,
    rejections: Vec<Counter>,
    inputs: Vec<Counter>,
    job_seconds: Histogram,
    stages: Vec<Histogram>,
    cache_operations: Vec<Counter>,
    cache_seconds: Vec<Histogram>,
    cache_connections_lost: Counter,
    cache_bad_entries: Counter,
    batches: Vec<Counter>,
    batch_jobs: Histogram,
    store_rows: Vec<Counter>,
    store_errors: Counter,
    store_timeouts: Counter,
    store_seconds: Histogram,
    publish_seconds: Vec<Histogram>,
    replies: Vec<Counter>,
    in_hand: Gauge,
    servers: Vec<Gauge>,
    failovers: Vec<Counter>,
    queues: Vec<Gauge>,
    reconnects: Counter,
    publishers: Vec<Gauge>,
    model_problems: Gauge,
    activations_pending: Gauge,
    warm_runs: Vec<Counter>,
    warm_inputs: Vec<Counter>,
    schedules: Schedules,
    leases: Vec<Counter>,
    schedule_problems: Gauge,
    schedules_overdue: Gauge,
    intake_paused: Gauge,
    schedules_paused: Gauge,
    hints: Vec<Counter>,
    invalidated: Counter,
    older_words: Counter,
    marks_repaired: Counter,
    traces: Vec<Counter>,
    callbacks: Vec<Counter>,
    heat_dropped: Vec<Counter>,
    ready: Gauge,
    degraded: Vec<Gauge>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

/// Makes the recorder that `/metrics` prints from the process's own. The caller runs its upkeep.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for metric in all().filter(|metric| metric.kind == Kind::Histogram) {
        builder =
            builder.set_buckets_for_metric(Matcher::Full(metric.name.into()), metric.buckets)?;
    }
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    // A second recorder in one process can't be: the first goes on.
    let _already_set = metrics::set_global_recorder(recorder);
    Ok(handle)
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Handles on the process's recorder; without one, recording does nothing.
    pub fn new() -> Self {
        all().for_each(Metric::describe);
        BUILD_INFO
            .gauge([env!("CARGO_PKG_VERSION").into()])
            .set(1.0);
        Self(Arc::new(Handles {
            jobs: JOBS.counters(),
            rejections: REJECTIONS.counters(),
            inputs: INPUTS.counters(),
            job_seconds: JOB_DURATION.histogram([]),
            stages: STAGE_DURATION.histograms(),
            cache_operations: CACHE_OPERATIONS.counters(),
            cache_seconds: CACHE_OPERATION_DURATION.histograms(),
            cache_connections_lost: CACHE_CONNECTIONS_LOST.counter([]),
            cache_bad_entries: CACHE_BAD_ENTRIES.counter([]),
            batches: BATCHES.counters(),
            batch_jobs: BATCH_JOBS.histogram([]),
            store_rows: STORE_ROWS.counters(),
            store_errors: STORE_ERRORS.counter([]),
            store_timeouts: STORE_TIMEOUTS.counter([]),
            store_seconds: STORE_DURATION.histogram([]),
            publish_seconds: PUBLISH_DURATION.histograms(),
            replies: REPLIES.counters(),
            in_hand: IN_HAND.gauge([]),
            servers: SERVER_UP.gauges(),
            failovers: FAILOVERS.counters(),
            queues: QUEUE_MESSAGES.gauges(),
            reconnects: BROKER_RECONNECTS.counter([]),
            publishers: PUBLISHER_UP.gauges(),
            model_problems: MODEL_PROBLEMS.gauge([]),
            activations_pending: MODEL_ACTIVATIONS_PENDING.gauge([]),
            warm_runs: WARM_RUNS.counters(),
            warm_inputs: WARM_INPUTS.counters(),
            schedules: Schedules::default(),
            leases: LEASES.counters(),
            schedule_problems: SCHEDULE_PROBLEMS.gauge([]),
            schedules_overdue: SCHEDULES_OVERDUE.gauge([]),
            intake_paused: INTAKE_PAUSED.gauge([]),
            schedules_paused: SCHEDULES_PAUSED.gauge([]),
            hints: HINTS.counters(),
            invalidated: INVALIDATED.counter([]),
            older_words: OLDER_WORDS.counter([]),
            marks_repaired: MARKS_REPAIRED.counter([]),
            traces: TRACES.counters(),
            callbacks: CALLBACKS.counters(),
            heat_dropped: HEAT_DROPPED.counters(),
            ready: READY.gauge([]),
            degraded: DEGRADED.gauges(),
        }))
    }

    /// Counts jobs by what became of them.
    pub fn jobs(&self, outcome: JobOutcome, count: u64) {
        add(&self.0.jobs, outcome as usize, count);
    }

    /// Counts a rejection by its code.
    pub fn rejection(&self, code: Code) {
        add(&self.0.rejections, code as usize, 1);
    }

    /// Counts inputs by how they got their score.
    pub fn inputs(&self, result: InputResult, count: u64) {
        add(&self.0.inputs, result as usize, count);
    }

    /// Records a job's time from its delivery to its result.
    pub fn job(&self, elapsed: Duration) {
        self.0.job_seconds.record(elapsed);
    }

    /// Records a batch's time in a stage.
    pub fn stage(&self, stage: Stage, elapsed: Duration) {
        if let Some(histogram) = self.0.stages.get(stage as usize) {
            histogram.record(elapsed);
        }
    }

    /// Counts a round trip to Redis; one left out because Redis is failing has no time.
    pub fn cache(
        &self,
        operation: CacheOperation,
        outcome: CacheOutcome,
        elapsed: Option<Duration>,
    ) {
        add(
            &self.0.cache_operations,
            operation as usize * CacheOutcome::ALL.len() + outcome as usize,
            1,
        );
        if let (Some(histogram), Some(elapsed)) =
            (self.0.cache_seconds.get(operation as usize), elapsed)
        {
            histogram.record(elapsed);
        }
    }

    /// Counts a connection to Redis that is closed and left alone for a while.
    pub fn cache_connection_lost(&self) {
        self.0.cache_connections_lost.increment(1);
    }

    /// Counts entries that didn't decode or didn't belong to their key.
    pub fn bad_entries(&self, count: u64) {
        self.0.cache_bad_entries.increment(count);
    }

    /// Records a batch that was closed.
    pub fn batch(&self, reason: CloseReason, jobs: usize) {
        add(&self.0.batches, reason as usize, 1);
        self.0.batch_jobs.record(jobs as f64);
    }

    /// Counts rows committed.
    pub fn rows(&self, table: Table, count: usize) {
        add(&self.0.store_rows, table as usize, count as u64);
    }

    /// Counts a failed attempt to store.
    pub fn store_error(&self) {
        self.0.store_errors.increment(1);
    }

    /// Counts an attempt to store that ran into its limit, beside [`Metrics::store_error`].
    pub fn store_timeout(&self) {
        self.0.store_timeouts.increment(1);
    }

    /// Counts a reply.
    pub fn reply(&self, outcome: ReplyOutcome) {
        add(&self.0.replies, outcome as usize, 1);
    }

    /// Sets how many jobs are in hand.
    pub fn in_hand(&self, jobs: usize) {
        self.0.in_hand.set(jobs as f64);
    }

    /// Counts a connection to another address of a server than the one before.
    pub fn failover(&self, server: Server) {
        if let Some(counter) = self.0.failovers.get(server as usize) {
            counter.increment(1);
        }
    }

    /// Sets whether a server answers.
    pub fn server(&self, server: Server, up: bool) {
        if let Some(gauge) = self.0.servers.get(server as usize) {
            gauge.set(if up { 1.0 } else { 0.0 });
        }
    }

    /// Sets whether the worker is ready.
    pub fn ready(&self, ready: bool) {
        self.0.ready.set(if ready { 1.0 } else { 0.0 });
    }

    /// Sets whether the worker goes on without a part.
    pub fn degraded(&self, part: HealthPart, degraded: bool) {
        if let Some(gauge) = self.0.degraded.get(part as usize) {
            gauge.set(if degraded { 1.0 } else { 0.0 });
        }
    }

    /// Sets a queue's depth.
    pub fn queue(&self, queue: QueueKind, messages: u32) {
        if let Some(gauge) = self.0.queues.get(queue as usize) {
            gauge.set(messages);
        }
    }

    /// Counts a connection to the broker that had to be made again.
    pub fn reconnect(&self) {
        self.0.reconnects.increment(1);
    }

    /// Sets whether what is published on a connection gets to the broker.
    pub fn publisher(&self, kind: PublisherKind, up: bool) {
        if let Some(gauge) = self.0.publishers.get(kind as usize) {
            gauge.set(if up { 1.0 } else { 0.0 });
        }
    }

    /// Sets how many chosen model versions aren't loaded here.
    pub fn activations_pending(&self, count: usize) {
        self.0.activations_pending.set(count as f64);
    }

    /// Counts inputs whose scoring a lease guarded.
    pub fn leases(&self, outcome: LeaseOutcome, inputs: usize) {
        add(&self.0.leases, outcome as usize, inputs as u64);
    }

    /// Sets how many schedule files are refused.
    pub fn schedule_problems(&self, count: usize) {
        self.0.schedule_problems.set(count as f64);
    }

    /// Sets how many schedules are due without a worker that runs them.
    pub fn schedules_overdue(&self, count: usize) {
        self.0.schedules_overdue.set(count as f64);
    }

    /// Sets how much operators have paused, and whether that is taking jobs, too.
    pub fn paused(&self, all: usize, intake: bool) {
        self.0.intake_paused.set(f64::from(u8::from(intake)));
        self.0
            .schedules_paused
            .set((all - usize::from(intake)) as f64);
    }

    /// Counts what readers found and an invalidation removed.
    pub fn invalidated(&self, entries: u64) {
        self.0.invalidated.increment(entries);
    }

    /// Counts named entries, rankings and removals that were left out for newer ones.
    pub fn older_words(&self, count: u64) {
        self.0.older_words.increment(count);
    }

    /// Counts marks of invalidations that Redis had lost and has again.
    pub fn marks_repaired(&self, marks: u64) {
        self.0.marks_repaired.increment(marks);
    }

    /// Counts traced jobs by what became of their spans.
    pub fn traces(&self, outcome: TraceOutcome, count: u64) {
        add(&self.0.traces, outcome as usize, count);
    }

    /// Counts a hint of readers.
    pub fn hint(&self, outcome: HintOutcome) {
        add(&self.0.hints, outcome as usize, 1);
    }

    /// Counts requests of namespaces that aren't watched for want of room.
    pub fn heat_dropped(&self, of: HeatOf, requests: u64) {
        add(&self.0.heat_dropped, of as usize, requests);
    }

    /// Sets how many model versions are refused.
    pub fn model_problems(&self, count: usize) {
        self.0.model_problems.set(count as f64);
    }
}

fn add(counters: &[Counter], index: usize, count: u64) {
    if let Some(counter) = counters.get(index) {
        counter.increment(count);
    }
}
