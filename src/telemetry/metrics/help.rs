//! What operators read on each metric.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Gives every metric its help text and unit.
pub(super) fn describe() {
    let seconds = Unit::Seconds;
    describe_counter!("kiln_jobs_total", "Jobs by what became of them.");
    describe_counter!(
        "kiln_rejections_total",
        "Rejected jobs by the code that their producers got."
    );
    describe_counter!("kiln_inputs_total", "Inputs by how they got their score.");
    describe_histogram!(
        "kiln_job_duration_seconds",
        seconds,
        "Time of a job from its delivery to its stored result."
    );
    describe_histogram!(
        "kiln_stage_duration_seconds",
        seconds,
        "Time of a batch in each stage."
    );
    describe_counter!(
        "kiln_cache_operations_total",
        "Round trips to Redis; skipped: Redis was failing and left alone."
    );
    describe_counter!(
        "kiln_traces_total",
        "Traced jobs by what became of their spans."
    );
    describe_counter!(
        "kiln_invalidated_entries_total",
        "Entries of readers that an invalidation removed."
    );
    describe_histogram!(
        "kiln_cache_operation_duration_seconds",
        seconds,
        "Time of a round trip to Redis."
    );
    describe_counter!(
        "kiln_cache_bad_entries_total",
        "Entries in Redis that didn't decode or weren't their key's."
    );
    describe_counter!(
        "kiln_batches_total",
        "Batches of jobs by why they were closed."
    );
    describe_histogram!("kiln_batch_jobs", "Jobs of a batch.");
    describe_histogram!("kiln_model_batch_rows", "Rows of one forward pass.");
    describe_counter!(
        "kiln_model_tokens_total",
        "Tokens that went through a model that reads tokens."
    );
    describe_counter!(
        "kiln_texts_truncated_total",
        "Texts that were cut short because they have more tokens than their model takes."
    );
    describe_histogram!(
        "kiln_model_batch_duration_seconds",
        seconds,
        "Time of one forward pass."
    );
    describe_counter!(
        "kiln_model_failures_total",
        "Model calls that panicked or gave no finite number."
    );
    describe_counter!(
        "kiln_predictions_total",
        "Inputs by the label that their model gave them."
    );
    describe_counter!("kiln_store_rows_total", "Rows committed to the database.");
    describe_counter!(
        "kiln_store_errors_total",
        "Attempts to store a batch that failed."
    );
    describe_counter!(
        "kiln_replies_total",
        "Replies by whether their queue was still there."
    );
    describe_gauge!(
        "kiln_jobs_in_hand",
        "Jobs delivered to this worker and not yet settled."
    );
    describe_gauge!(
        "kiln_server_up",
        "1 where the server answered when last asked."
    );
    describe_gauge!("kiln_queue_messages", "Messages ready in a queue.");
    describe_counter!(
        "kiln_broker_reconnects_total",
        "Connections to the broker that had to be made again."
    );
    describe_gauge!(
        "kiln_model_activations_pending",
        "Chosen model versions that aren't loaded here."
    );
    describe_gauge!(
        "kiln_model_problems",
        "Model versions on disk that are refused."
    );
    describe_counter!(
        "kiln_leases_total",
        "Inputs of dear models by who scored them: this worker (won), another one (waited), or this one after waiting in vain (late)."
    );
    describe_counter!(
        "kiln_warm_runs_total",
        "Warming runs that ended on this worker, by how; skipped: an earlier run of the schedule was under way."
    );
    describe_gauge!(
        "kiln_schedules_overdue",
        "Schedules that are due and that no worker has room to run."
    );
    describe_gauge!(
        "kiln_intake_paused",
        "1 while operators have paused taking jobs."
    );
    describe_gauge!(
        "kiln_schedules_paused",
        "Schedules that operators have paused."
    );
    describe_counter!(
        "kiln_hints_total",
        "Hints of readers' services by what became of them."
    );
    describe_gauge!(
        "kiln_heat_requests_per_second",
        "Requests a second for the inputs (of: jobs) or names (of: reads) that this worker holds for hot."
    );
    describe_gauge!(
        "kiln_heat_top_share_ratio",
        "Share of those requests that goes to the 100 hottest."
    );
    describe_gauge!("kiln_schedule_problems", "Schedule files that are refused.");
    describe_gauge!("kiln_build_info", "1, with the version of this worker.");
}
