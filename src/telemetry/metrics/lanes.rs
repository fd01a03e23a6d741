//! Owns recording how the lanes are, and the shards: set once every few seconds, so that no handle is kept.

use super::{Metrics, catalogue::*};

/// How a lane is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LaneGauges {
    pub jobs: usize,
    pub waiting_inputs: usize,
    pub model_seconds: f64,
    pub bytes: usize,
    pub batches: usize,
    /// Since the start.
    pub moved: u64,
    pub seconds_per_input: f64,
    pub is_expensive: bool,
}

impl Metrics {
    /// Sets how a lane is. The caller bounds the lanes to those of models and settings.
    pub fn lane(&self, lane: &str, now: LaneGauges) {
        let lane = || [lane.to_owned().into()];
        LANE_JOBS.gauge(lane()).set(now.jobs as f64);
        let inputs = now.waiting_inputs as f64;
        LANE_WAITING_INPUTS.gauge(lane()).set(inputs);
        let seconds = LANE_MODEL_SECONDS_IN_HAND.gauge(lane());
        seconds.set(now.model_seconds);
        LANE_BYTES_IN_HAND.gauge(lane()).set(now.bytes as f64);
        let batches = LANE_BATCHES_IN_FLIGHT.gauge(lane());
        batches.set(now.batches as f64);
        LANE_MOVED_JOBS.counter(lane()).absolute(now.moved);
        let cost = LANE_SECONDS_PER_INPUT.gauge(lane());
        cost.set(now.seconds_per_input);
        let expensive = f64::from(u8::from(now.is_expensive));
        LANE_EXPENSIVE.gauge(lane()).set(expensive);
    }

    /// Sets for how long a namespace's oldest input waits. The caller bounds the namespaces to those that the settings or models name.
    pub fn lane_wait(&self, lane: &str, namespace: &str, seconds: f64) {
        let labels = [lane.to_owned().into(), namespace.to_owned().into()];
        LANE_LONGEST_WAIT.gauge(labels).set(seconds);
    }

    /// Sets what is in a lane's queues, and who takes it.
    pub fn lane_queue(&self, lane: &str, messages: u32, consumers: u32) {
        let lane = || [lane.to_owned().into()];
        LANE_QUEUE_MESSAGES.gauge(lane()).set(messages);
        LANE_QUEUE_CONSUMERS.gauge(lane()).set(consumers);
    }

    /// Sets what is in a shard of the queue of jobs.
    pub fn shard(&self, number: usize, messages: u32) {
        let label = [number.to_string().into()];
        SHARD_MESSAGES.gauge(label).set(messages);
    }

    /// Sets how many bytes are in hand.
    pub fn bytes_in_hand(&self, bytes: usize) {
        BYTES_IN_HAND.gauge([]).set(bytes as f64);
    }
}
