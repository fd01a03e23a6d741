//! Owns the labels of metrics: every value, and what it means. The variants' doc comments are what `docs/metrics.md` says of each value.

pub(super) use super::named::{FIGURE, MODEL, MODEL_VERSION, NAMESPACE, PREDICTION, VERSION};

use super::metric::{Label, Values};
use kiln_contract::failure::Code;

macro_rules! label {
    (
        $(#[$doc:meta])*
        $name:ident: $label:literal {
            $($(#[doc = $meaning:literal])+ $variant:ident = $text:literal),+ $(,)?
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[doc = $meaning])+ $variant),+ }

        impl $name {
            /// Every value of the label.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The label, with the meaning of each value.
            pub const LABEL: Label = Label {
                name: $label,
                values: Values::Listed(|| vec![$(($text, concat!($($meaning),+))),+]),
            };

            /// The value's text.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

label!(
    /// What of a version's making took its time.
    TrainingStep: "step" {
        /// fitting the model to the data
        Training = "training",
        /// scoring what was held out, and its figures
        Evaluation = "evaluation",
    }
);

label!(
    /// What became of a job.
    JobOutcome: "outcome" {
        /// it is scored, and its row is committed
        Ok = "ok",
        /// its id and body were known: it is answered from its row
        Repeated = "repeated",
        /// it can never succeed, or ran out of tries: it is a dead letter with a code
        Rejected = "rejected",
        /// it failed for a reason that may pass: it waits in a `kiln.retry.*` queue for its next try
        Retried = "retried",
        /// its lane has no room or no queue yet, or isn't served here, and it can't be moved: it comes again in a while, and that is no try
        Postponed = "postponed",
        /// its lane was full or not served here: it waits in the lane's queue
        Moved = "moved",
        /// this worker could not go on with it: it is back in its queue, unharmed
        Abandoned = "abandoned",
    }
);

label!(
    /// How an input got its score.
    InputResult: "result" {
        /// found in the cache
        Hit = "hit",
        /// scored by the model
        Miss = "miss",
        /// scored by the model without a look-up, which would have taken longer
        Uncached = "uncached",
        /// the same as another input of the batch, or as one in flight, and answered with it
        Coalesced = "coalesced",
        /// refused, in a job that says `"on_error": "skip"`
        Skipped = "skipped",
    }
);

label!(
    /// The stages of a batch.
    Stage: "stage" {
        /// reading the bodies
        Parse = "parse",
        /// one look-up of all inputs in Redis
        LookUp = "look_up",
        /// the model calls for the misses, with the wait for a model thread and for other workers' leases
        Score = "score",
        /// writing rows to the database and entries to Redis
        Store = "store",
        /// replies, dead letters and acknowledgements
        Settle = "settle",
    }
);

label!(
    /// What an audit found of something in Redis.
    AuditFinding: "finding" {
        /// the model says the same
        Right = "right",
        /// its rows say the same, and it couldn't be recomputed: its version isn't here, its input isn't stored, or jobs went first
        ByRows = "by_rows",
        /// the model, or its row, says otherwise
        Wrong = "wrong",
        /// there is no row that it could be of
        WithoutRow = "without_row",
        /// there was nothing to compare it with
        Unchecked = "unchecked",
        /// a named entry or ranking of another version than the one in use
        OtherVersion = "other_version",
        /// a named entry or ranking no older than its namespace's objective
        InTime = "in_time",
        /// a named entry or ranking older than its namespace's objective
        TooOld = "too_old",
    }
);

label!(
    /// What Redis was asked.
    CacheOperation: "operation" {
        /// a look-up
        Get = "get",
        /// a write
        Set = "set",
    }
);

label!(
    /// How a round trip to Redis went.
    CacheOutcome: "outcome" {
        /// it was answered
        Ok = "ok",
        /// it failed, was refused, or took longer than `redis.timeout_ms` and its size allow
        Error = "error",
        /// it was left out: every connection failed less than `redis.cooldown_ms` ago
        Skipped = "skipped",
    }
);

label!(
    /// Why a batch was closed.
    CloseReason: "reason" {
        /// it has `intake.batch_jobs` jobs
        Size = "size",
        /// it has `intake.batch_tokens` tokens
        Tokens = "tokens",
        /// it waited `intake.batch_wait_ms`, or had no reason to wait
        Wait = "wait",
        /// the worker stops
        Drain = "drain",
        /// a suspect runs alone
        Alone = "alone",
    }
);

label!(
    /// What became of a reply.
    ReplyOutcome: "outcome" {
        /// confirmed by the broker
        Sent = "sent",
        /// confirmed by the broker, without its results: they are too large
        SentWithoutResults = "sent_without_results",
        /// its queue is gone: it is dropped
        Unroutable = "unroutable",
        /// its queue doesn't take it, or the broker doesn't let it be published: it is dropped after a few tries
        Refused = "refused",
        /// its queue didn't confirm it in time: it is given up, and may arrive yet
        Unconfirmed = "unconfirmed",
        /// it is larger than the broker takes, even without results: it is dropped
        TooLarge = "too_large",
    }
);

label!(
    /// The connections by which a worker publishes.
    PublisherKind: "publisher" {
        /// dead letters, retries, warming jobs, and jobs that came over HTTP
        MustArrive = "publish",
        /// replies
        Replies = "reply",
    }
);

label!(
    /// The servers that a worker needs.
    Server: "server" {
        /// RabbitMQ
        Broker = "broker",
        /// Redis or Valkey
        Redis = "redis",
        /// Postgres
        Postgres = "postgres",
    }
);

label!(
    /// The parts of a worker's health.
    HealthPart: "part" {
        /// the worker itself: it has started, doesn't stop, and its tasks run
        Worker = "worker",
        /// the models' folder: at least one version is loaded, and none is refused
        Models = "models",
        /// the lanes: none has failed so that its jobs can't end
        Lanes = "lanes",
        /// Postgres: it answers, and takes rows
        Postgres = "postgres",
        /// the tables are up to date
        Migrations = "migrations",
        /// RabbitMQ: jobs are taken from it
        Broker = "broker",
        /// the queues that jobs can do without for a while: each is there, and consumed where it is to be
        Queues = "queues",
        /// the connection that replies, dead letters and retries are published on
        Publisher = "publisher",
        /// Redis: it answers in time, and takes writes
        Redis = "redis",
        /// warming: no schedule file is refused
        Warming = "warming",
    }
);

label!(
    /// The queues whose depth is watched.
    QueueKind: "queue" {
        /// jobs from producers, those in shards included
        Jobs = "jobs",
        /// warming jobs
        Warm = "warm",
        /// dead letters
        Dead = "dead",
        /// what the broker set aside (expired, or delivered too often), until Kiln has rejected it
        Expired = "expired",
    }
);

label!(
    /// The tables that rows go into.
    Table: "table" {
        /// one row a job
        Jobs = "jobs",
        /// one row an input that was scored
        Scores = "scores",
    }
);

label!(
    /// What became of a hint of readers.
    HintOutcome: "outcome" {
        /// counted
        Ok = "ok",
        /// it breaks the hints' form: it is dropped
        Bad = "bad",
    }
);

label!(
    /// What was requested.
    #[derive(PartialOrd, Ord)]
    HeatOf: "of" {
        /// inputs, requested by jobs
        Jobs = "jobs",
        /// named entries and rankings, requested by readers
        Reads = "reads",
    }
);

label!(
    /// What became of a warming run.
    WarmOutcome: "outcome" {
        /// everything it planned was posted and answered
        Done = "done",
        /// it ended with an error
        Failed = "failed",
        /// it was left out: an earlier run of the schedule was under way or waited, or no worker knew the schedule any more
        Skipped = "skipped",
    }
);

label!(
    /// What became of a warming run's input.
    WarmInput: "outcome" {
        /// the model computed its score
        Computed = "computed",
        /// its score was known: only its entries were written anew
        Renewed = "renewed",
        /// a budget or Redis's memory had no room for it
        LeftOver = "left_over",
        /// it was posted between two runs, since it probably is asked for next
        Ahead = "ahead",
    }
);

label!(
    /// How an input that a lease guards got its score.
    LeaseOutcome: "outcome" {
        /// scored by this worker, which holds the lease
        Won = "won",
        /// scored by another worker, whose entry was waited for
        Waited = "waited",
        /// scored by this worker after waiting in vain
        Late = "late",
    }
);

label!(
    /// What became of the spans of a traced job.
    TraceOutcome: "outcome" {
        /// taken by the collector
        Sent = "sent",
        /// the collector is away, slow or refuses them
        Dropped = "dropped",
    }
);

/// The codes of rejected jobs.
pub(super) const CODE: Label = Label {
    name: "code",
    values: Values::Listed(|| {
        let codes = Code::ALL.iter();
        codes.map(|code| (code.as_str(), meaning(*code))).collect()
    }),
};

fn meaning(code: Code) -> &'static str {
    match code {
        Code::Malformed => "the body isn't JSON",
        Code::Invalid => "it breaks the contract",
        Code::TooLarge => "it is larger than the worker takes (`intake.max_body_bytes`)",
        Code::UnknownModel => "no such model, or no such version",
        Code::Conflict => "the id was used before, with another body",
        Code::Expired => "its `expiration` passed before a worker took it",
        Code::Exhausted => "it failed as often as it may be tried (`retry.max_tries`)",
        Code::Cancelled => "its run was cancelled before a worker took it (`kiln jobs cancel`)",
    }
}

pub(super) const LANE: Label = Label {
    name: "lane",
    values: Values::Named("a lane: a model's name, or a name under `[lanes]` in the settings"),
};

pub(super) const SHARD: Label = Label {
    name: "shard",
    values: Values::Named("the number of a shard: 0 to 31 (`queues.shards`)"),
};

label!(
    /// What became of an input that a shadow version was to score.
    ShadowOutcome: "outcome" {
        /// it was scored, and compared with what the active version gave
        Scored = "scored",
        /// there was no room for it, or the version couldn't take it
        Dropped = "dropped",
        /// the version failed on it, or on what was scored with it
        Failed = "failed",
    }
);

label!(
    /// What became of an input of a model of which two versions share the inputs.
    SplitOutcome: "outcome" {
        /// its score was in the cache
        Cached = "cached",
        /// the version scored it, for this job or for another one
        Scored = "scored",
        /// the version failed on it, or on what was scored with it, and so did this try of its job
        Failed = "failed",
    }
);

label!(
    /// What becomes of a callback.
    CallbackOutcome: "outcome" {
        /// answered 2xx
        Delivered = "delivered",
        /// tried again later
        Retried = "retried",
        /// answered 410, by which a receiver ends it in good order
        Gone = "gone",
        /// tried too often or for too long, or too many waited, or nothing is there to be posted any more
        GivenUp = "given_up",
    }
);

label!(
    /// How two versions' scores differ.
    DifferenceKind: "kind" {
        /// the mean of new minus active
        Mean = "mean",
        /// the mean of the absolute difference
        MeanAbsolute = "mean_absolute",
        /// the largest absolute difference
        Largest = "largest",
    }
);
