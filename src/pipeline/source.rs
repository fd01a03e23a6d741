//! Owns a job on its way into the pipeline: its body with what its message says of it, and then what admission made of it.
//!
//! Promises that whatever a caller doesn't say has one meaning: a first try, arrived now, that may be tried again. Refuses
//! to judge: that is for admission.

use super::index::SourceIndex;
use kiln_contract::failure::Rejection;
use kiln_contract::job::Job;
use kiln_model::Model;
use std::{sync::Arc, time::Instant};

/// One job as it comes in.
#[derive(Debug, Clone)]
pub struct JobSource<'a> {
    pub(super) body: &'a [u8],
    /// The job's id in the message's properties.
    pub(super) message_id: Option<&'a str>,
    pub(super) received: Instant,
    /// Tries made before this one.
    pub(super) tries: u32,
    /// Whether a failure that may pass leads to another try.
    pub(super) may_retry: bool,
    /// Whether its entries that are in the cache have their TTL refreshed, as a warming job's have.
    pub(super) refresh_ttl: bool,
    /// Why it is rejected unseen: the broker gave it up, or it killed workers.
    pub(super) given_up: Option<Rejection>,
}

impl<'a> JobSource<'a> {
    /// A job that was received now, at its first try.
    pub fn new(body: &'a [u8]) -> Self {
        Self {
            body,
            message_id: None,
            received: Instant::now(),
            tries: 0,
            may_retry: true,
            refresh_ttl: false,
            given_up: None,
        }
    }

    /// Sets the job's id in the message's properties.
    pub fn with_message_id(mut self, id: Option<&'a str>) -> Self {
        self.message_id = id;
        self
    }

    /// Sets when it was received.
    pub fn received_at(mut self, received: Instant) -> Self {
        self.received = received;
        self
    }

    /// Sets how often it was tried before.
    pub fn with_tries(mut self, tries: u32) -> Self {
        self.tries = tries;
        self
    }

    /// Makes this try its last: its caller has no way to retry it.
    pub fn without_retry(mut self) -> Self {
        self.may_retry = false;
        self
    }

    /// Says whether its entries that are in the cache have their TTL refreshed, as a warming job's have.
    pub fn with_ttl_refresh(mut self, refresh_ttl: bool) -> Self {
        self.refresh_ttl = refresh_ttl;
        self
    }

    /// Sets why it is rejected unseen.
    pub fn given_up(mut self, rejection: Option<Rejection>) -> Self {
        self.given_up = rejection;
        self
    }
}

/// A job that passed every check that needs no server.
#[derive(Debug)]
pub(super) struct AdmittedJob<'a> {
    /// Which job of the batch it is.
    pub index: SourceIndex,
    pub source: &'a JobSource<'a>,
    pub job: Job<'a>,
    pub model: Arc<Model>,
    pub body_sha256: [u8; 32],
    /// TTL of its entries.
    pub ttl_seconds: u64,
}
