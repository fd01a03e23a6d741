//! Owns the settings of a job's way: its queues, how it is taken in, tried again, and ended at a stop.

use serde::{Deserialize, Serialize};

/// The queues' names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Queues {
    /// What every queue's name starts with.
    pub prefix: String,
    /// Name of the queue of jobs; empty: `{prefix}.jobs`.
    pub jobs: String,
    /// Name of the queue of warming jobs; empty: `{prefix}.warm`.
    pub warm: String,
    /// Name of the queue of dead letters; empty: `{prefix}.dead`.
    pub dead: String,
    /// Further queues of jobs, `{jobs}.0` and so on, with leaders on different nodes: for more jobs than one node can lead. An exchange spreads
    /// over them what is published to it with the job's id as the routing key. 0: none, and no exchange.
    pub shards: usize,
    /// Name of that exchange; empty: the prefix.
    pub exchange: String,
    /// Deliveries after which RabbitMQ itself dead-letters a message; a backstop far beyond `retry.max_tries`.
    pub delivery_limit: u32,
}

impl Default for Queues {
    fn default() -> Self {
        Self {
            prefix: "kiln".into(),
            jobs: String::new(),
            warm: String::new(),
            dead: String::new(),
            shards: 0,
            exchange: String::new(),
            delivery_limit: 100,
        }
    }
}

/// How jobs are taken from their queues.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Intake {
    /// Unacknowledged jobs that the broker delivers to this worker at most.
    pub prefetch: u16,
    /// Unacknowledged warming jobs that the broker delivers to this worker at most.
    pub warm_prefetch: u16,
    /// Time without producers' jobs after which warming may use all capacity, in milliseconds.
    pub warm_idle_ms: u64,
    /// Share of the time that warming may use while producers' jobs arrive, above 0 and at most 1.
    pub warm_share: f64,
    /// Jobs at which a batch is closed.
    pub batch_jobs: usize,
    /// Tokens at which a batch is closed, estimated as a quarter of the bodies' bytes.
    pub batch_tokens: usize,
    /// Longest time that a batch is kept open while others are in flight, in milliseconds.
    pub batch_wait_ms: u64,
    /// Batches that are processed at the same time.
    pub batches_in_flight: usize,
    /// Largest body of a job, in bytes; a larger one is rejected unparsed.
    pub max_body_bytes: usize,
    /// Bytes of the bodies, inputs and outputs of all jobs in hand, beyond which no further jobs are taken in.
    pub max_bytes_in_hand: usize,
    /// Longest time that a job is in hand, in seconds; then it goes back to its queue. Well below the broker's own limit for acknowledgements (`consumer_timeout`, half an hour by default).
    pub max_hold_seconds: u64,
    /// Lanes that this worker serves; all if empty. Jobs of others are moved to their lanes' queues. Also `kiln run --lanes`.
    pub lanes: Vec<String>,
    /// Redeliveries after which a job is suspected of killing workers and runs alone, in a process of its own.
    pub suspect_after: u32,
    /// Runs alone that a suspect may leave unfinished before it is given up.
    pub suspect_runs: u32,
    /// Longest run of a suspect, in seconds; its process is killed then, and the run counts as unfinished. Loading its model and waiting
    /// for the database don't count.
    pub suspect_seconds: u64,
}

impl Default for Intake {
    fn default() -> Self {
        Self {
            prefetch: 1_000,
            warm_prefetch: 64,
            warm_idle_ms: 1_000,
            warm_share: 0.1,
            batch_jobs: 64,
            batch_tokens: 1 << 20,
            batch_wait_ms: 3,
            batches_in_flight: 6,
            max_body_bytes: 8 << 20,
            max_bytes_in_hand: 256 << 20,
            max_hold_seconds: 900,
            lanes: Vec::new(),
            suspect_after: 2,
            suspect_runs: 3,
            suspect_seconds: 60,
        }
    }
}

/// What happens to a job that failed for a reason that may pass.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// Wait before each further try, in milliseconds; the last one repeats. One queue per distinct wait.
    pub delays_ms: Vec<u64>,
    /// Tries of a job before it is given up as `exhausted`.
    pub max_tries: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            delays_ms: vec![1_000, 10_000, 60_000],
            max_tries: 5,
        }
    }
}

/// How the worker stops.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    /// Time to finish the jobs in hand after SIGTERM, in seconds; what is left then goes back to its queue.
    pub limit_seconds: u64,
}

impl Default for Drain {
    fn default() -> Self {
        Self { limit_seconds: 25 }
    }
}
