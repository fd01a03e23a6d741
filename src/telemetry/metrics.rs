//! Owns every metric: its name, its labels, its meaning, its buckets.
//!
//! Promises that label values are enumerations or come from manifests, never from a job. The help texts are
//! what operators read on the metric.

mod help;

use kiln_contract::failure::Code;
use kiln_model::ModelInfo;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use std::time::Duration;

/// Seconds: from a tenth of a millisecond to half a minute.
pub const SECONDS: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0, 30.0,
];
/// Rows or jobs of a batch.
const SIZES: [f64; 13] = [
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0,
];

macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($variant),+ }
        impl $name {
            /// Every value of the label.
            pub const ALL: &[Self] = &[$(Self::$variant),+];
            /// The label's text.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

label!(
    /// What became of a job.
    JobOutcome { Ok = "ok", Repeated = "repeated", Rejected = "rejected", Retried = "retried", Abandoned = "abandoned" }
);
label!(
    /// How an input got its score.
    InputResult { Hit = "hit", Miss = "miss", Coalesced = "coalesced", Skipped = "skipped" }
);
label!(
    /// The stages of a batch.
    Stage { Parse = "parse", LookUp = "look_up", Score = "score", Store = "store", Settle = "settle" }
);
label!(
    /// What was asked of Redis.
    CacheOperation { Get = "get", Set = "set" }
);
label!(
    /// How it went.
    CacheOutcome { Ok = "ok", Error = "error", Skipped = "skipped" }
);
label!(
    /// Why a batch was closed.
    CloseReason { Size = "size", Tokens = "tokens", Wait = "wait", Drain = "drain", Alone = "alone" }
);
label!(
    /// What became of a reply.
    ReplyOutcome { Sent = "sent", Unroutable = "unroutable" }
);
label!(
    /// The servers that a worker needs.
    Server { Broker = "broker", Redis = "redis", Postgres = "postgres" }
);
label!(
    /// The queues whose depth is watched.
    QueueKind { Jobs = "jobs", Warm = "warm", Dead = "dead", Expired = "expired" }
);
label!(
    /// The tables that rows go into.
    Table { Jobs = "jobs", Scores = "scores" }
);
label!(
    /// What became of a hint of readers.
    HintOutcome { Ok = "ok", Bad = "bad" }
);
label!(
    /// What was asked for: inputs by jobs, or names by readers.
    #[derive(PartialOrd, Ord)]
    HeatOf { Jobs = "jobs", Reads = "reads" }
);
label!(
    /// What became of a warming run.
    WarmOutcome { Done = "done", Failed = "failed", Skipped = "skipped" }
);
label!(
    /// How an input that a lease guards got its score; late: after waiting in vain.
    LeaseOutcome { Won = "won", Waited = "waited", Late = "late" }
);

label!(
    /// What became of the spans of a traced job.
    TraceOutcome { Sent = "sent", Dropped = "dropped" }
);

fn each<L: Copy, M>(all: &[L], make: impl Fn(L) -> M) -> Vec<M> {
    all.iter().copied().map(make).collect()
}

/// Handles to the metrics, made once: recording takes no look-up by name.
#[derive(Clone)]
pub struct Metrics {
    jobs: Vec<Counter>,
    rejections: Vec<Counter>,
    inputs: Vec<Counter>,
    job_seconds: Histogram,
    stages: Vec<Histogram>,
    cache_operations: Vec<Counter>,
    cache_seconds: Vec<Histogram>,
    cache_bad_entries: Counter,
    batches: Vec<Counter>,
    batch_jobs: Histogram,
    store_rows: Vec<Counter>,
    store_errors: Counter,
    replies: Vec<Counter>,
    in_hand: Gauge,
    servers: Vec<Gauge>,
    queues: Vec<Gauge>,
    reconnects: Counter,
    model_problems: Gauge,
    activations_pending: Gauge,
    warm_runs: Vec<Counter>,
    leases: Vec<Counter>,
    schedule_problems: Gauge,
    schedules_overdue: Gauge,
    intake_paused: Gauge,
    schedules_paused: Gauge,
    hints: Vec<Counter>,
    invalidated: Counter,
    traces: Vec<Counter>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

/// Makes the recorder that `/metrics` prints from the process's own. The caller runs its upkeep.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full("kiln_batch_jobs".into()), &SIZES)?
        .set_buckets_for_metric(Matcher::Full("kiln_model_batch_rows".into()), &SIZES)?;
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
        help::describe();
        gauge!("kiln_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        let operations = each(CacheOperation::ALL, |o| {
            each(
                CacheOutcome::ALL,
                |r| counter!("kiln_cache_operations_total", "operation" => o.as_str(), "outcome" => r.as_str()),
            )
        });
        Self {
            jobs: each(
                JobOutcome::ALL,
                |o| counter!("kiln_jobs_total", "outcome" => o.as_str()),
            ),
            rejections: each(
                &Code::ALL,
                |c| counter!("kiln_rejections_total", "code" => c.as_str()),
            ),
            inputs: each(
                InputResult::ALL,
                |r| counter!("kiln_inputs_total", "result" => r.as_str()),
            ),
            job_seconds: histogram!("kiln_job_duration_seconds"),
            stages: each(
                Stage::ALL,
                |s| histogram!("kiln_stage_duration_seconds", "stage" => s.as_str()),
            ),
            cache_operations: operations.into_iter().flatten().collect(),
            cache_seconds: each(
                CacheOperation::ALL,
                |o| histogram!("kiln_cache_operation_duration_seconds", "operation" => o.as_str()),
            ),
            cache_bad_entries: counter!("kiln_cache_bad_entries_total"),
            batches: each(
                CloseReason::ALL,
                |r| counter!("kiln_batches_total", "reason" => r.as_str()),
            ),
            batch_jobs: histogram!("kiln_batch_jobs"),
            store_rows: each(
                Table::ALL,
                |t| counter!("kiln_store_rows_total", "table" => t.as_str()),
            ),
            store_errors: counter!("kiln_store_errors_total"),
            replies: each(
                ReplyOutcome::ALL,
                |o| counter!("kiln_replies_total", "outcome" => o.as_str()),
            ),
            in_hand: gauge!("kiln_jobs_in_hand"),
            servers: each(
                Server::ALL,
                |s| gauge!("kiln_server_up", "server" => s.as_str()),
            ),
            queues: each(
                QueueKind::ALL,
                |q| gauge!("kiln_queue_messages", "queue" => q.as_str()),
            ),
            reconnects: counter!("kiln_broker_reconnects_total"),
            model_problems: gauge!("kiln_model_problems"),
            activations_pending: gauge!("kiln_model_activations_pending"),
            warm_runs: each(
                WarmOutcome::ALL,
                |o| counter!("kiln_warm_runs_total", "outcome" => o.as_str()),
            ),
            leases: each(
                LeaseOutcome::ALL,
                |o| counter!("kiln_leases_total", "outcome" => o.as_str()),
            ),
            schedule_problems: gauge!("kiln_schedule_problems"),
            schedules_overdue: gauge!("kiln_schedules_overdue"),
            intake_paused: gauge!("kiln_intake_paused"),
            schedules_paused: gauge!("kiln_schedules_paused"),
            hints: each(
                HintOutcome::ALL,
                |o| counter!("kiln_hints_total", "outcome" => o.as_str()),
            ),
            invalidated: counter!("kiln_invalidated_entries_total"),
            traces: each(
                TraceOutcome::ALL,
                |o| counter!("kiln_traces_total", "outcome" => o.as_str()),
            ),
        }
    }

    /// Counts jobs by what became of them.
    pub fn jobs(&self, outcome: JobOutcome, count: u64) {
        add(&self.jobs, outcome as usize, count);
    }

    /// Counts a rejection by its code.
    pub fn rejection(&self, code: Code) {
        add(&self.rejections, code as usize, 1);
    }

    /// Counts inputs by how they got their score.
    pub fn inputs(&self, result: InputResult, count: u64) {
        add(&self.inputs, result as usize, count);
    }

    /// Records a job's time from its delivery to its result.
    pub fn job(&self, elapsed: Duration) {
        self.job_seconds.record(elapsed);
    }

    /// Records a batch's time in a stage.
    pub fn stage(&self, stage: Stage, elapsed: Duration) {
        if let Some(histogram) = self.stages.get(stage as usize) {
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
            &self.cache_operations,
            operation as usize * CacheOutcome::ALL.len() + outcome as usize,
            1,
        );
        if let (Some(histogram), Some(elapsed)) =
            (self.cache_seconds.get(operation as usize), elapsed)
        {
            histogram.record(elapsed);
        }
    }

    /// Counts entries that didn't decode or didn't belong to their key.
    pub fn bad_entries(&self, count: u64) {
        self.cache_bad_entries.increment(count);
    }

    /// Records a batch that was closed.
    pub fn batch(&self, reason: CloseReason, jobs: usize) {
        add(&self.batches, reason as usize, 1);
        self.batch_jobs.record(jobs as f64);
    }

    /// Counts rows committed.
    pub fn rows(&self, table: Table, count: usize) {
        add(&self.store_rows, table as usize, count as u64);
    }

    /// Counts a failed attempt to store.
    pub fn store_error(&self) {
        self.store_errors.increment(1);
    }

    /// Counts a reply.
    pub fn reply(&self, outcome: ReplyOutcome) {
        add(&self.replies, outcome as usize, 1);
    }

    /// Sets how many jobs are in hand.
    pub fn in_hand(&self, jobs: usize) {
        self.in_hand.set(jobs as f64);
    }

    /// Sets whether a server answers.
    pub fn server(&self, server: Server, up: bool) {
        if let Some(gauge) = self.servers.get(server as usize) {
            gauge.set(if up { 1.0 } else { 0.0 });
        }
    }

    /// Sets a queue's depth.
    pub fn queue(&self, queue: QueueKind, messages: u32) {
        if let Some(gauge) = self.queues.get(queue as usize) {
            gauge.set(messages);
        }
    }

    /// Counts a connection to the broker that had to be made again.
    pub fn reconnect(&self) {
        self.reconnects.increment(1);
    }

    /// Sets how many chosen model versions aren't loaded here.
    pub fn activations_pending(&self, count: usize) {
        self.activations_pending.set(count as f64);
    }

    /// Counts inputs whose scoring a lease guarded.
    pub fn leases(&self, outcome: LeaseOutcome, inputs: usize) {
        add(&self.leases, outcome as usize, inputs as u64);
    }

    /// Counts a warming run that ended.
    pub fn warm_run(&self, outcome: WarmOutcome) {
        add(&self.warm_runs, outcome as usize, 1);
    }

    /// Sets how many schedule files are refused.
    pub fn schedule_problems(&self, count: usize) {
        self.schedule_problems.set(count as f64);
    }

    /// Sets how many schedules are due without a worker that runs them.
    pub fn schedules_overdue(&self, count: usize) {
        self.schedules_overdue.set(count as f64);
    }

    /// Sets how much operators have paused, and whether that is taking jobs, too.
    pub fn paused(&self, all: usize, intake: bool) {
        self.intake_paused.set(f64::from(u8::from(intake)));
        self.schedules_paused
            .set((all - usize::from(intake)) as f64);
    }

    /// Counts what readers found and an invalidation removed.
    pub fn invalidated(&self, entries: u64) {
        self.invalidated.increment(entries);
    }

    /// Counts traced jobs by what became of their spans.
    pub fn traces(&self, outcome: TraceOutcome, count: u64) {
        add(&self.traces, outcome as usize, count);
    }

    /// Counts a hint of readers.
    pub fn hint(&self, outcome: HintOutcome) {
        add(&self.hints, outcome as usize, 1);
    }

    /// Sets how much is asked for in a namespace, and what share of it goes to the hottest. The caller bounds the
    /// namespaces to those that the settings or models name.
    pub fn heat(&self, of: HeatOf, namespace: &str, rate: f64, top_share: f64) {
        let labels = [
            ("of", of.as_str().to_owned()),
            ("namespace", namespace.to_owned()),
        ];
        gauge!("kiln_heat_requests_per_second", &labels).set(rate);
        gauge!("kiln_heat_top_share_ratio", &labels).set(top_share);
    }

    /// Sets how many model versions are refused.
    pub fn model_problems(&self, count: usize) {
        self.model_problems.set(count as f64);
    }

    /// Records one forward pass.
    pub fn model_call(&self, info: &ModelInfo, rows: usize, tokens: usize, seconds: f64) {
        if tokens > 0 {
            counter!("kiln_model_tokens_total", "model" => info.name.clone())
                .increment(tokens as u64);
        }
        histogram!("kiln_model_batch_rows", "model" => info.name.clone()).record(rows as f64);
        histogram!("kiln_model_batch_duration_seconds", "model" => info.name.clone())
            .record(seconds);
    }

    /// Counts texts that were cut short because they have more tokens than their model takes.
    pub fn truncated_texts(&self, info: &ModelInfo, count: usize) {
        if count > 0 {
            counter!("kiln_texts_truncated_total", "model" => info.name.clone())
                .increment(count as u64);
        }
    }

    /// Has a model's failures counted from nothing on: the first one is a change then.
    pub fn model_serves(&self, info: &ModelInfo) {
        counter!("kiln_model_failures_total", "model" => info.name.clone()).increment(0);
    }

    /// Counts a model call that failed.
    pub fn model_failure(&self, info: &ModelInfo) {
        counter!("kiln_model_failures_total", "model" => info.name.clone()).increment(1);
    }

    /// Counts predictions of one of the labels that the manifest lists.
    pub fn predictions(&self, info: &ModelInfo, label: &str, count: u64) {
        counter!("kiln_predictions_total", "model" => info.name.clone(), "label" => label.to_owned()).increment(count);
    }
}

fn add(counters: &[Counter], index: usize, count: u64) {
    if let Some(counter) = counters.get(index) {
        counter.increment(count);
    }
}
