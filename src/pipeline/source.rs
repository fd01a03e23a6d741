//! Owns a job on its way into the pipeline: its body with what its carrier knows of it, and then what it was admitted as.
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
    /// The message's own name for the job.
    pub(super) message_id: Option<&'a str>,
    pub(super) received: Instant,
    /// Tries made before this one.
    pub(super) tries: u32,
    /// Whether a failure that may pass leads to another try.
    pub(super) may_retry: bool,
    /// Whether entries that are there are to live anew: a warming job's are.
    pub(super) refresh_ttl: bool,
    /// A verdict that stands before the job is looked at: the broker gave it up, or it killed workers.
    pub(super) given_up: Option<Rejection>,
}

impl<'a> JobSource<'a> {
    /// A job that came now, for its first try.
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

    /// Gives it the message's own name for the job.
    pub fn with_message_id(mut self, id: Option<&'a str>) -> Self {
        self.message_id = id;
        self
    }

    /// Says when it came.
    pub fn received_at(mut self, received: Instant) -> Self {
        self.received = received;
        self
    }

    /// Says how often it was tried before.
    pub fn with_tries(mut self, tries: u32) -> Self {
        self.tries = tries;
        self
    }

    /// Makes this try its last: nobody would bring it back.
    pub fn without_retry(mut self) -> Self {
        self.may_retry = false;
        self
    }

    /// Says whether entries that are there are to live anew, as a warming job's are.
    pub fn with_ttl_refresh(mut self, refresh_ttl: bool) -> Self {
        self.refresh_ttl = refresh_ttl;
        self
    }

    /// Gives it a verdict that stands before the job is looked at.
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
    /// Life of its entries.
    pub ttl_seconds: u64,
}
