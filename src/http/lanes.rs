//! `/v1/lanes`: how each lane is, on this worker and in its queues.

use super::{
    Shared,
    auth::Reader,
    problem::Problem,
    responses::{Guarded, Unavailable},
};
use crate::{
    amqp::topology::Seen,
    config::Settings,
    pipeline::{Depth, LaneFigures},
};
use axum::{Json, extract::State};
use serde::Serialize;
use std::{cmp::Reverse, time::Instant};
use utoipa::ToSchema;

/// Namespaces of a lane that are shown.
const SHOWN: usize = 20;

/// The lanes of this worker.
#[derive(Debug, Serialize, ToSchema)]
pub struct LanesShown {
    /// Bytes of the bodies, inputs and outputs of all jobs in hand.
    bytes_in_hand: usize,
    /// What bounds them: `intake.max_bytes_in_hand`.
    max_bytes_in_hand: usize,
    lanes: Vec<LaneShown>,
}

/// One lane.
#[derive(Debug, Serialize, ToSchema)]
pub struct LaneShown {
    name: String,
    /// Whether this worker takes its jobs.
    served: bool,
    /// Whether its jobs are moved to its queues where there are too many.
    expensive: bool,
    /// Mean model time of an input; null before the first.
    seconds_per_input: Option<f64>,
    /// Jobs that wait for scores here.
    jobs: usize,
    /// Inputs that wait for their turn here.
    waiting_inputs: usize,
    /// Expected model time of the jobs here.
    model_seconds_in_hand: f64,
    bytes_in_hand: usize,
    batches_in_flight: usize,
    /// Jobs that this worker has moved to the lane's queues since its start.
    moved_jobs: u64,
    /// Time for which the oldest input here has waited for its turn.
    longest_wait_seconds: f64,
    /// The lane's queues; null before they are declared.
    queue: Option<LaneQueueShown>,
    /// The namespaces here that have waited longest, 20 at most.
    namespaces: Vec<NamespaceShown>,
}

/// The queues of a lane, all of them together, as the broker said within the last seconds.
#[derive(Debug, Serialize, ToSchema)]
pub struct LaneQueueShown {
    queues: usize,
    /// Messages that wait.
    messages: u32,
    /// Consumers of all workers.
    consumers: u32,
}

/// A namespace that waits in a lane.
#[derive(Debug, Serialize, ToSchema)]
pub struct NamespaceShown {
    namespace: String,
    /// Its part of the lane's time, in proportion to the others that wait.
    weight: f64,
    waiting_inputs: usize,
    /// Expected model time of these inputs.
    model_seconds: f64,
    longest_wait_seconds: f64,
}

/// Lists the lanes: what waits and is being scored on this worker, and what is in the lanes' queues.
#[utoipa::path(get, path = "/v1/lanes", tag = "worker", security(("key" = [])),
    responses((status = 200, body = LanesShown), Guarded, Unavailable))]
pub(super) async fn lanes(
    _reader: Reader,
    State(shared): State<Shared>,
) -> Result<Json<LanesShown>, Problem> {
    let state = shared.state()?;
    let now = Instant::now();
    let lanes = state.engine.lanes().into_iter().map(|lane| {
        let seen = state.lane_depths.get(&lane.name);
        shown(lane, seen, &state.settings, now)
    });
    Ok(Json(LanesShown {
        bytes_in_hand: state.engine.budget().taken(),
        max_bytes_in_hand: state.settings.intake.max_bytes_in_hand,
        lanes: lanes.collect(),
    }))
}

fn shown(lane: LaneFigures, seen: Option<Seen>, settings: &Settings, now: Instant) -> LaneShown {
    let mut waiting = lane.waiting;
    waiting.sort_unstable_by_key(|depth| (depth.oldest, Reverse(depth.items)));
    let wait = |depth: &Depth| now.saturating_duration_since(depth.oldest).as_secs_f64();
    let queues = lane.queues;
    let namespaces = waiting.iter().take(SHOWN).map(|depth| {
        let own = settings.namespaces.get(&*depth.namespace);
        NamespaceShown {
            namespace: depth.namespace.to_string(),
            weight: own.and_then(|own| own.weight).unwrap_or(1.0),
            waiting_inputs: depth.items,
            model_seconds: depth.seconds,
            longest_wait_seconds: wait(depth),
        }
    });
    LaneShown {
        name: lane.name,
        served: lane.is_served,
        expensive: lane.is_expensive,
        seconds_per_input: lane.seconds_per_input,
        jobs: lane.jobs,
        waiting_inputs: waiting.iter().map(|depth| depth.items).sum(),
        model_seconds_in_hand: lane.seconds_in_hand,
        bytes_in_hand: lane.bytes_in_hand,
        batches_in_flight: lane.batches_in_flight,
        moved_jobs: lane.moved,
        longest_wait_seconds: waiting.first().map(wait).unwrap_or_default(),
        queue: seen.map(|seen| LaneQueueShown {
            queues,
            messages: seen.messages,
            consumers: seen.consumers,
        }),
        namespaces: namespaces.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn those_who_wait_longest_are_shown_and_no_more_than_a_few() {
        let now = Instant::now();
        let waiting = (0..50).map(|n: u64| Depth {
            namespace: format!("n{n}").into(),
            items: 2,
            seconds: 0.5,
            oldest: now.checked_sub(Duration::from_secs(n)).expect("then"),
        });
        let lane = LaneFigures {
            name: "encoder".into(),
            waiting: waiting.collect(),
            ..LaneFigures::default()
        };
        let shown = shown(lane, None, &Settings::default(), now);
        assert_eq!(shown.waiting_inputs, 100);
        assert_eq!(shown.longest_wait_seconds, 49.0);
        assert_eq!(shown.namespaces.len(), SHOWN);
        let names = shown.namespaces.iter().map(|one| one.namespace.as_str());
        assert_eq!(names.take(3).collect::<Vec<_>>(), ["n49", "n48", "n47"]);
        assert!(shown.queue.is_none());
    }
}
