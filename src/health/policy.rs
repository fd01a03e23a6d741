//! Owns how patient health is with each part, and why.

use crate::telemetry::metrics::HealthPart as Part;
use std::time::Duration;

/// How what is reported of a part becomes its state.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    /// Jobs end without it: the worker is degraded, and stays ready.
    pub optional: bool,
    /// It counts as working before anything was reported.
    pub assumed: bool,
    /// How long it has to fail without a success before it counts as failing.
    pub down_after: Duration,
    /// How long it has to work without a failure before it counts as working again.
    pub up_after: Duration,
    /// A failure that was reported goes on until the contrary is: an event, not a sample.
    pub lasts: bool,
    /// How long failed work counts after the last attempt: who made it may have given up, and then the checks alone are asked.
    pub forgotten_after: Option<Duration>,
    /// Whether its changes are logged.
    pub logged: bool,
    /// Whether that it is degraded is logged; where each thing that is refused has a line of its own, that is enough.
    pub logs_degraded: bool,
}

/// What the worker itself knows, and doesn't measure: it holds at once.
const FACT: Policy = Policy {
    optional: false,
    assumed: false,
    down_after: Duration::ZERO,
    up_after: Duration::ZERO,
    lasts: true,
    forgotten_after: None,
    logged: true,
    logs_degraded: true,
};

impl Policy {
    pub(super) fn of(part: Part) -> Self {
        match part {
            // A start and a stop are asked for; the log says so elsewhere.
            Part::Worker => Self {
                logged: false,
                ..FACT
            },
            Part::Migrations => FACT,
            Part::Models => Self {
                logs_degraded: false,
                ..FACT
            },
            Part::Warming => Self {
                optional: true,
                assumed: true,
                logs_degraded: false,
                ..FACT
            },
            // Each queue that can't be used has a line of its own.
            Part::Queues => Self {
                optional: true,
                assumed: true,
                logs_degraded: false,
                ..FACT
            },
            // A lane that fails and recovers with every other call isn't one that works.
            Part::Lanes => Self {
                assumed: true,
                up_after: Duration::from_secs(3),
                ..FACT
            },
            // Jobs can't end without it, so readiness goes within about a second; but ten statements that fail in the same moment are
            // connections that a restart or a failover cut, and the next attempt works.
            Part::Postgres => Self {
                down_after: Duration::from_millis(900),
                up_after: Duration::from_secs(3),
                lasts: false,
                forgotten_after: Some(Duration::from_secs(30)),
                ..FACT
            },
            // A connection that is lost is mostly there again after the first backoff of 100 ms.
            Part::Broker => Self {
                down_after: Duration::from_secs(1),
                up_after: Duration::from_secs(3),
                ..FACT
            },
            // An alarm of the broker comes and goes with its disk and memory; jobs wait for their replies meanwhile.
            Part::Publisher => Self {
                assumed: true,
                down_after: Duration::from_secs(5),
                up_after: Duration::from_secs(3),
                ..FACT
            },
            // Nothing hurries: jobs go on. One slow answer is no news, and one quick one no recovery.
            Part::Redis => Self {
                optional: true,
                down_after: Duration::from_millis(1_900),
                up_after: Duration::from_secs(5),
                lasts: false,
                ..FACT
            },
        }
    }
}
