//! Owns the settings of lanes: what a model, or a group of models, may have in hand, and what of it waits in a queue.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What every lane has that sets nothing else.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LaneLimits {
    /// Model time of one input, in milliseconds, from which a lane is expensive: its jobs are moved to the lane's queue where there are too many, and it has a queue; 0: always.
    pub expensive_from_ms: f64,
    /// Expected model time of one batch, in milliseconds: how long a job of another namespace waits at least.
    pub turn_ms: u64,
    /// Model time of the jobs in hand, in seconds, beyond which further ones are moved to the lane's queue.
    pub max_seconds_in_hand: f64,
    /// Bytes of the jobs in hand beyond which further ones are moved to the lane's queue.
    pub max_bytes_in_hand: usize,
    /// Batches of an expensive lane that are scored at the same time.
    pub batches_in_flight: usize,
    /// Queues of an expensive lane: namespaces are spread over them, and they are served in turns.
    pub queues: usize,
    /// Times that a job is moved to a lane's queue before it is held in spite of the lane's limits.
    pub max_moves: u32,
}

impl Default for LaneLimits {
    fn default() -> Self {
        Self {
            expensive_from_ms: 1.0,
            turn_ms: 100,
            max_seconds_in_hand: 5.0,
            max_bytes_in_hand: 64 << 20,
            batches_in_flight: 2,
            queues: 4,
            max_moves: 8,
        }
    }
}

/// A lane that several models share, or one that has limits of its own.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lane {
    /// The models of this lane; the one of the lane's own name if empty.
    pub models: Vec<String>,
    /// Model time of one input, in milliseconds, from which this lane is expensive.
    pub expensive_from_ms: Option<f64>,
    /// Expected model time of one batch, in milliseconds.
    pub turn_ms: Option<u64>,
    /// Model time of the jobs in hand, in seconds, beyond which further ones are moved to the lane's queue.
    pub max_seconds_in_hand: Option<f64>,
    /// Bytes of the jobs in hand beyond which further ones are moved to the lane's queue.
    pub max_bytes_in_hand: Option<usize>,
    /// Batches that are scored at the same time.
    pub batches_in_flight: Option<usize>,
    /// Queues of this lane.
    pub queues: Option<usize>,
}

impl Lane {
    /// Its limits: its own, and for what it doesn't set those of all.
    pub fn limits(&self, all: &LaneLimits) -> LaneLimits {
        LaneLimits {
            expensive_from_ms: self.expensive_from_ms.unwrap_or(all.expensive_from_ms),
            turn_ms: self.turn_ms.unwrap_or(all.turn_ms),
            max_seconds_in_hand: self.max_seconds_in_hand.unwrap_or(all.max_seconds_in_hand),
            max_bytes_in_hand: self.max_bytes_in_hand.unwrap_or(all.max_bytes_in_hand),
            batches_in_flight: self.batches_in_flight.unwrap_or(all.batches_in_flight),
            queues: self.queues.unwrap_or(all.queues),
            max_moves: all.max_moves,
        }
    }
}

/// The lane of each model that shares one.
pub fn lanes_by_model(lanes: &BTreeMap<String, Lane>) -> BTreeMap<String, String> {
    let models = lanes.iter().flat_map(|(name, lane)| {
        let models = lane.models.iter();
        models.map(|model| (model.clone(), name.clone()))
    });
    models.collect()
}
