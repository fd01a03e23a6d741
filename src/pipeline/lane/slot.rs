//! What a lane's state is made of: its jobs, their distinct inputs, and what they take.

use crate::pipeline::{index::SlotIndex, owned::OwnedJob, retention::Retention};
use kiln_contract::key::InputHash;
use kiln_model::ModelError;
use std::sync::Arc;

/// What those who share a slot have in common. What was begun before an invalidation is never shared with those who come after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SlotKey {
    /// A loaded model version's identity within the process.
    pub model: usize,
    /// The latest invalidation known to who asks, and the latest that counts for the namespace.
    pub stamp: u64,
    pub min_stamp: u64,
    pub input: InputHash,
}

/// What jobs take of a lane.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// Expected model seconds.
    pub seconds: f64,
    pub bytes: usize,
}

impl Load {
    /// With another one's as well.
    pub fn add(&mut self, other: Self) {
        self.seconds += other.seconds;
        self.bytes += other.bytes;
    }

    /// Without another one's.
    pub fn take_off(&mut self, other: Self) {
        self.seconds = (self.seconds - other.seconds).max(0.0);
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }
}

/// A slot in its lane: an index, and which of those that have had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SlotId {
    pub index: usize,
    pub serial: u64,
}

/// A job in its lane.
pub type JobId = usize;

/// An input that is to be scored.
#[derive(Debug)]
pub struct LaneSlot {
    pub serial: u64,
    pub key: SlotKey,
    /// The jobs that wait for it; it is scored for the first one.
    pub waiters: Vec<(JobId, SlotIndex)>,
    pub is_taken: bool,
    pub ttl_seconds: u64,
    pub keeps: Retention,
    pub seconds: f64,
}

/// Where an input of a job that comes in has its slot.
pub struct Entry {
    pub at: SlotId,
    pub seconds: f64,
    pub is_new: bool,
    pub is_taken: bool,
}

/// A job that waits for scores.
#[derive(Debug)]
pub struct LaneJob {
    pub job: OwnedJob,
    /// Slots that have no row yet.
    pub open: usize,
    /// Where the slots are that it came with open.
    pub slots: Vec<(SlotIndex, SlotId)>,
    pub load: Load,
    /// Whether its namespace has a limit of its own, so that it takes nothing of what others may have in hand.
    pub is_limited: bool,
}

/// A job that leaves its lane.
#[derive(Debug)]
pub enum Left {
    /// All of its inputs have their rows.
    Scored(OwnedJob),
    /// With the slot that it failed on.
    Failed(OwnedJob, ModelError, SlotIndex),
    /// Its time passed before its turn.
    Expired(OwnedJob),
    /// Nobody waits for it any more.
    Abandoned(OwnedJob),
}

/// A slot that is to be scored now.
#[derive(Debug, Clone)]
pub struct Taken {
    pub id: SlotId,
    /// The job that it is scored for.
    pub job: JobId,
    pub input: InputHash,
    pub stamp: u64,
    pub min_stamp: u64,
    pub ttl_seconds: u64,
    pub keeps: Retention,
    pub namespace: Arc<str>,
    pub seconds: f64,
    /// Its part of a job.
    pub part: f64,
    pub warms: bool,
    pub tokens: usize,
}
