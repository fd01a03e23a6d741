//! Owns the list of metrics: the only place where one is named. A declarative table; `docs/metrics.md` is generated from it.

use super::{
    labels::{
        AuditFinding, CODE, CacheOperation, CacheOutcome, CallbackOutcome, CloseReason,
        DifferenceKind, FIGURE, HealthPart, HeatOf, HintOutcome, InputResult, JobOutcome, LANE,
        LeaseOutcome, MODEL, MODEL_VERSION, NAMESPACE, PREDICTION, PublisherKind, QueueKind,
        ReplyOutcome, SHARD, Server, ShadowOutcome, SplitOutcome, Stage, Table, TraceOutcome,
        TrainingStep, VERSION, WarmInput, WarmOutcome,
    },
    metric::{Metric, counter, gauge, histogram},
    schedules::SCHEDULE,
};

/// Seconds: from a tenth of a millisecond to half a minute.
pub const SECONDS: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0, 30.0,
];
/// Seconds: from a tenth to an hour.
pub(super) const LONG_SECONDS: [f64; 12] = [
    0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0,
];
/// Rows or jobs of a batch.
pub(super) const SIZES: [f64; 13] = [
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0,
];

macro_rules! catalogue {
    ($($group:literal: { $($constant:ident = $metric:expr;)+ })+) => {
        $($(pub(super) const $constant: Metric = $metric;)+)+

        /// Every metric, under the heading that it belongs to.
        pub(super) const GROUPS: &[(&str, &[Metric])] = &[$(($group, &[$($constant),+])),+];
    };
}

/// Every metric.
pub(super) fn all() -> impl Iterator<Item = &'static Metric> {
    GROUPS.iter().flat_map(|(_, metrics)| metrics.iter())
}

catalogue! {
    "Jobs": {
        JOBS = counter("kiln_jobs_total", "jobs", "Jobs by what became of them.")
            .by(&[JobOutcome::LABEL]);
        REJECTIONS = counter("kiln_rejections_total", "jobs", "Rejected jobs by the code that their producers got.")
            .by(&[CODE]);
        INPUTS = counter("kiln_inputs_total", "inputs", "Inputs by how they got their score.")
            .by(&[InputResult::LABEL]);
        JOB_DURATION = histogram("kiln_job_duration_seconds", "seconds", &SECONDS,
            "Time of a job from its delivery to its stored result.");
        IN_HAND = gauge("kiln_jobs_in_hand", "jobs", "Jobs delivered to this worker and not yet settled.");
        STAGE_DURATION = histogram("kiln_stage_duration_seconds", "seconds", &SECONDS, "Time of a batch in each stage.")
            .by(&[Stage::LABEL]);
        BATCHES = counter("kiln_batches_total", "batches", "Batches of jobs by why they were closed.")
            .by(&[CloseReason::LABEL]);
        BATCH_JOBS = histogram("kiln_batch_jobs", "jobs", &SIZES, "Jobs of a batch.");
        REPLIES = counter("kiln_replies_total", "replies", "Replies by whether their queue took them.")
            .by(&[ReplyOutcome::LABEL]);
        CALLBACKS = counter("kiln_callbacks_total", "tries", "Tries to post a job's end to its `callback_url`, by what became of them.")
            .by(&[CallbackOutcome::LABEL]);
        CALLBACKS_WAITING = gauge("kiln_callbacks_waiting", "callbacks",
            "Ends of jobs that are still to be posted, of all workers, where this one posts any; counted once a minute, up to one more than `callbacks.max_waiting`; NaN while the database doesn't say.");
        CALLBACK_AGE = gauge("kiln_callbacks_oldest_seconds", "seconds", "Time since the oldest of them was to be posted; NaN while the database doesn't say.");
        INTAKE_PAUSED = gauge("kiln_intake_paused", "1 or 0", "1 while operators have paused taking jobs.");
    }
    "Lanes": {
        LANE_JOBS = gauge("kiln_lane_jobs", "jobs", "Jobs in a lane that wait for scores.")
            .by(&[LANE]);
        LANE_WAITING_INPUTS = gauge("kiln_lane_waiting_inputs", "inputs",
            "Inputs in a lane that wait for their turn; those of warming aren't counted.")
            .by(&[LANE]);
        LANE_MODEL_SECONDS_IN_HAND = gauge("kiln_lane_model_seconds_in_hand", "model seconds",
            "Expected model time of the jobs in a lane.")
            .by(&[LANE]);
        LANE_BYTES_IN_HAND = gauge("kiln_lane_bytes_in_hand", "bytes", "Bytes of the jobs in a lane.")
            .by(&[LANE]);
        LANE_BATCHES_IN_FLIGHT = gauge("kiln_lane_batches_in_flight", "batches", "Batches of a lane that are being scored.")
            .by(&[LANE]);
        LANE_MOVED_JOBS = counter("kiln_lane_moved_jobs_total", "jobs", "Jobs that this worker moved to a lane's queues.")
            .by(&[LANE]);
        LANE_LONGEST_WAIT = gauge("kiln_lane_longest_wait_seconds", "seconds",
            "Time for which the oldest input of a namespace has waited in a lane for its turn.")
            .by(&[LANE, NAMESPACE]);
        LANE_SECONDS_PER_INPUT = gauge("kiln_lane_seconds_per_input", "seconds an input",
            "Mean model time of an input of a lane, the newest batches first; 0 before the first.")
            .by(&[LANE]);
        LANE_EXPENSIVE = gauge("kiln_lane_expensive", "1 or 0",
            "1 where an input costs so much that the lane's jobs are moved to its queues rather than held.")
            .by(&[LANE]);
        LANE_QUEUE_MESSAGES = gauge("kiln_lane_queue_messages", "messages", "Messages ready in a lane's queues, all of them together.")
            .by(&[LANE]);
        LANE_QUEUE_CONSUMERS = gauge("kiln_lane_queue_consumers", "consumers",
            "Consumers of a lane's queues, on all workers together.")
            .by(&[LANE]);
        BYTES_IN_HAND = gauge("kiln_bytes_in_hand", "bytes",
            "Bytes of the bodies, inputs and outputs of all jobs in hand; `intake.max_bytes_in_hand` bounds them.");
    }
    "Cache": {
        CACHE_OPERATIONS = counter("kiln_cache_operations_total", "round trips",
            "Round trips to Redis; skipped: Redis was failing and left alone.")
            .by(&[CacheOperation::LABEL, CacheOutcome::LABEL]);
        CACHE_OPERATION_DURATION = histogram("kiln_cache_operation_duration_seconds", "seconds", &SECONDS,
            "Time of a round trip to Redis.")
            .by(&[CacheOperation::LABEL]);
        CACHE_CONNECTIONS_LOST = counter("kiln_cache_connections_lost_total", "connections",
            "Connections to Redis that were closed and left alone for a while: no answer in time, or broken.");
        CACHE_BAD_ENTRIES = counter("kiln_cache_bad_entries_total", "entries",
            "Entries in Redis that didn't decode or weren't their key's.");
        INVALIDATED = counter("kiln_invalidated_entries_total", "entries",
            "Entries of readers that an invalidation removed.");
        OLDER_WORDS = counter("kiln_older_words_total", "entries",
            "Named entries, rankings and removals that were not written: something newer stands under their key.");
        MARKS_REPAIRED = counter("kiln_invalidation_marks_repaired_total", "marks",
            "Marks of invalidations that Redis had lost and was given again.");
        LEASES = counter("kiln_leases_total", "inputs",
            "Inputs of expensive models by who scored them: this worker (won), another one (waited), or this one after waiting in vain (late).")
            .by(&[LeaseOutcome::LABEL]);
    }
    "Audit": {
        AUDIT_FINDINGS = counter("kiln_audit_findings_total", "entries",
            "What the audit beside jobs found of named entries, rankings and score entries. One entry may count under several findings.")
            .by(&[NAMESPACE, AuditFinding::LABEL]);
        AUDIT_DURATION = histogram("kiln_audit_duration_seconds", "seconds", &SECONDS,
            "Time that the steps of one audit beside jobs took, waits for servers included and its rests left out.");
        MAX_AGE_OBJECTIVE = gauge("kiln_max_age_objective_ratio", "ratio",
            "Share of what readers of a namespace find that is to be young enough: `namespaces.*.max_age_share`.")
            .by(&[NAMESPACE]);
    }
    "Models": {
        MODEL_BATCH_ROWS = histogram("kiln_model_batch_rows", "rows", &SIZES, "Rows of one forward pass.")
            .by(&[MODEL]);
        MODEL_BATCH_DURATION = histogram("kiln_model_batch_duration_seconds", "seconds", &SECONDS,
            "Time of one forward pass.")
            .by(&[MODEL]);
        MODEL_TOKENS = counter("kiln_model_tokens_total", "tokens",
            "Tokens that went through a model that reads tokens.")
            .by(&[MODEL]);
        TEXTS_TRUNCATED = counter("kiln_texts_truncated_total", "texts",
            "Texts that were cut short because they have more tokens than their model takes.")
            .by(&[MODEL]);
        MODEL_FAILURES = counter("kiln_model_failures_total", "calls",
            "Model calls that panicked or gave no finite number.")
            .by(&[MODEL]);
        PREDICTIONS = counter("kiln_predictions_total", "inputs",
            "Inputs by the label that their model gave them.")
            .by(&[MODEL, PREDICTION]);
        MODEL_PROBLEMS = gauge("kiln_model_problems", "versions", "Model versions on disk that are refused.");
        MODEL_ACTIVATIONS_PENDING = gauge("kiln_model_activations_pending", "versions",
            "Versions chosen by `kiln models activate` that this worker hasn't loaded, or that can't have the share that they were given.");
        MODEL_ACTIVATED = gauge("kiln_model_activated_timestamp_seconds", "seconds",
            "When this worker last took a version into use because another one was chosen, since 1970; not there before the first time.")
            .by(&[MODEL, MODEL_VERSION]);
        SPLIT_SHARE = gauge("kiln_split_share_ratio", "0 to 1",
            "Share of its model's inputs that a version has beside the active one, by `kiln models activate --share`, on this worker.")
            .by(&[MODEL, MODEL_VERSION]);
        SPLIT_INPUTS = counter("kiln_split_inputs_total", "inputs",
            "Inputs of jobs that name no version, of models of which two versions share them: by the version that they went to, and what became of them.")
            .by(&[MODEL, MODEL_VERSION, SplitOutcome::LABEL]);
        SHADOW_INPUTS = counter("kiln_shadow_inputs_total", "inputs",
            "Inputs of live jobs that a version of `models.shadow` was to score, by what became of them.")
            .by(&[MODEL, MODEL_VERSION, ShadowOutcome::LABEL]);
        SHADOW_SECONDS = counter("kiln_shadow_model_seconds_total", "model seconds",
            "Time that the passes of a version of `models.shadow` took.")
            .by(&[MODEL, MODEL_VERSION]);
        SHADOW_DIFFERENCE = gauge("kiln_shadow_difference", "score",
            "How far the scores of a version of `models.shadow` are from the active version's, over the latest 1,024 inputs that both scored. NaN: none yet.")
            .by(&[MODEL, MODEL_VERSION, DifferenceKind::LABEL]);
        SHADOW_CORRELATION = gauge("kiln_shadow_rank_correlation", "-1 to 1",
            "Spearman's rank correlation of the same scores. NaN: none yet, or one side is constant.")
            .by(&[MODEL, MODEL_VERSION]);
        SHADOW_FLIPS = gauge("kiln_shadow_flips_ratio", "0 to 1",
            "Share of the same inputs that get another label. NaN: none yet, or there are no labels.")
            .by(&[MODEL, MODEL_VERSION]);
        MODEL_TRAINING_DURATION = gauge("kiln_model_training_duration_seconds", "seconds",
            "How long training a version and evaluating it took, where its manifest says so.")
            .by(&[MODEL, MODEL_VERSION, TrainingStep::LABEL]);
        MODEL_TRAINING_ROWS = gauge("kiln_model_training_rows", "rows",
            "Rows of data that a version was trained and evaluated on, where its manifest says so.")
            .by(&[MODEL, MODEL_VERSION]);
        MODEL_TRAINED_UNTIL = gauge("kiln_model_trained_until_timestamp_seconds", "seconds",
            "When the data ends that a version was trained on, since 1970, where its manifest says so.")
            .by(&[MODEL, MODEL_VERSION]);
        MODEL_EVALUATION = gauge("kiln_model_evaluation_figure", "as its name says",
            "What a version's evaluation found, where its manifest says so. A version's series of training and evaluation are there until the worker stops.")
            .by(&[MODEL, MODEL_VERSION, FIGURE]);
    }
    "Servers and queues": {
        SERVER_UP = gauge("kiln_server_up", "1 or 0", "1 where the server answered when last asked.")
            .by(&[Server::LABEL]);
        FAILOVERS = counter("kiln_failovers_total", "connections",
            "Connections to another address of a server than the one before, since that one was lost or takes no writes any more.")
            .by(&[Server::LABEL]);
        QUEUE_MESSAGES = gauge("kiln_queue_messages", "messages", "Messages ready in a queue.")
            .by(&[QueueKind::LABEL]);
        SHARD_MESSAGES = gauge("kiln_shard_messages", "messages", "Messages ready in a shard of the queue of jobs.")
            .by(&[SHARD]);
        BROKER_RECONNECTS = counter("kiln_broker_reconnects_total", "connections",
            "Connections to the broker that had to be made again.");
        PUBLISHER_UP = gauge("kiln_publisher_up", "1 or 0", "1 while what is published gets to the broker.")
            .by(&[PublisherKind::LABEL]);
        STORE_ROWS = counter("kiln_store_rows_total", "rows", "Rows committed to the database.")
            .by(&[Table::LABEL]);
        STORE_ERRORS = counter("kiln_store_errors_total", "attempts", "Attempts to store a batch that failed.");
        STORE_TIMEOUTS = counter("kiln_store_timeouts_total", "attempts",
            "Attempts to store a batch that ran into their limit; its jobs are then stored in smaller parts.");
        STORE_DURATION = histogram("kiln_store_duration_seconds", "seconds", &SECONDS,
            "Time of an attempt to store a batch, failed ones included.");
        PUBLISH_DURATION = histogram("kiln_publish_duration_seconds", "seconds", &SECONDS,
            "Time of a job's message from being handed over until the broker has confirmed it, or it was given up.")
            .by(&[PublisherKind::LABEL]);
    }
    "Warming": {
        WARM_RUNS = counter("kiln_warm_runs_total", "runs",
            "Warming runs that ended on this worker, by how; skipped: an earlier run of the schedule was under way or waited, or no worker knew the schedule any more.")
            .by(&[WarmOutcome::LABEL]);
        WARM_INPUTS = counter("kiln_warm_inputs_total", "inputs",
            "Inputs of warming runs that this worker planned or ended, by what became of them.")
            .by(&[WarmInput::LABEL]);
        SCHEDULE_RUNS = counter("kiln_schedule_runs_total", "runs",
            "Warming runs that ended on this worker, by their schedule and how.")
            .by(&[SCHEDULE, WarmOutcome::LABEL]);
        SCHEDULE_INPUTS = counter("kiln_schedule_inputs_total", "inputs",
            "Inputs of warming runs that this worker planned or ended, by their schedule and what became of them.")
            .by(&[SCHEDULE, WarmInput::LABEL]);
        SCHEDULE_DONE = gauge("kiln_schedule_done_timestamp_seconds", "seconds",
            "When this worker last ended a run of a schedule well, since 1970; not there before the first time.")
            .by(&[SCHEDULE]);
        SCHEDULE_PROBLEMS = gauge("kiln_schedule_problems", "files", "Schedule files that are refused.");
        SCHEDULES_OVERDUE = gauge("kiln_schedules_overdue", "schedules",
            "Schedules that are due and that no worker has room to run.");
        STALENESS = histogram("kiln_staleness_seconds", "seconds", &LONG_SECONDS,
            "Time from a row's change in a table that a schedule follows until its job had ended.")
            .by(&[NAMESPACE]);
        UNSERVED_AGE = gauge("kiln_unserved_change_age_seconds", "seconds",
            "Age of the oldest change in the tables that this worker follows whose job hasn't ended; where one can't be read, time since it could. NaN: nothing was read yet, or nothing is followed any more.")
            .by(&[NAMESPACE]);
        MAX_STALENESS = gauge("kiln_max_staleness_seconds", "seconds",
            "Time within which what readers of a namespace find is to follow a change: `namespaces.*.max_staleness_seconds`.")
            .by(&[NAMESPACE]);
        SCHEDULES_PAUSED = gauge("kiln_schedules_paused", "schedules", "Schedules that operators have paused.");
        HINTS = counter("kiln_hints_total", "hints", "Hints of readers' services by what became of them.")
            .by(&[HintOutcome::LABEL]);
        HEAT_REQUESTS = gauge("kiln_heat_requests_per_second", "requests a second",
            "Requests a second for the inputs (of: jobs) or names (of: reads) that this worker counts as hot.")
            .by(&[HeatOf::LABEL, NAMESPACE]);
        HEAT_DROPPED = counter("kiln_heat_dropped_total", "requests",
            "Requests of namespaces that this worker has no room to watch: they aren't warmed by heat.")
            .by(&[HeatOf::LABEL]);
        HEAT_TOP_SHARE = gauge("kiln_heat_top_share_ratio", "0 to 1",
            "Share of those requests that goes to the 100 hottest.")
            .by(&[HeatOf::LABEL, NAMESPACE]);
    }
    "The worker": {
        READY = gauge("kiln_ready", "1 or 0", "1 while `/readyz` answers 200: jobs that are taken end.");
        DEGRADED = gauge("kiln_degraded", "1 or 0",
            "1 where something is missing that the worker goes on without; `/readyz` says why.")
            .by(&[HealthPart::LABEL]);
        STARTED = gauge("kiln_started_timestamp_seconds", "seconds", "When this worker started, since 1970.");
        TASKS = gauge("kiln_tasks", "tasks",
            "Tasks of this worker's runtime. Idle, it goes back to what it was before.");
        TRACES = counter("kiln_traces_total", "jobs", "Traced jobs by what became of their spans.")
            .by(&[TraceOutcome::LABEL]);
        BUILD_INFO = gauge("kiln_build_info", "1", "1, with the version of this worker.")
            .by(&[VERSION]);
    }
}
