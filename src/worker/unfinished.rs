//! Owns what a pause leaves in hand: deliveries whose consumers have ended, on the connection that they came by, until each is settled.
//!
//! Promises that a pause gives nothing back that is being done, however long that takes; that taking jobs may go on meanwhile, on another connection; and
//! that a stop ends it within the drain limit.

use super::{
    channels::{self, DeliveryChannel, STRAGGLER_WAIT},
    drain::DrainLimits,
    process::JobProcessor,
    session::Session,
};
use crate::redact::Redact;
use lapin::Connection;
use std::{sync::Arc, time::Duration};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Pauses whose jobs may be in hand at the same time; the next one waits for one of them.
const MAX_SESSIONS: usize = 8;
/// Longest goodbye to the broker.
const GOODBYE: Duration = Duration::from_millis(200);

/// What is in hand of a session that takes no more.
pub(super) struct Unfinished {
    pub connection: Arc<Connection>,
    /// Every channel that deliveries came by.
    pub channels: Vec<DeliveryChannel>,
    /// What must be there for as long as the channels are: some have a connection of their own.
    pub session: Option<Box<Session>>,
}

/// Those of all pauses so far.
pub(super) struct UnfinishedSessions {
    tasks: JoinSet<()>,
    processor: JobProcessor,
    stop: CancellationToken,
}

impl UnfinishedSessions {
    /// None yet; `stop` is the worker's.
    pub(super) fn new(processor: &JobProcessor, stop: &CancellationToken) -> Self {
        Self {
            tasks: JoinSet::new(),
            processor: processor.clone(),
            stop: stop.clone(),
        }
    }

    /// Sees to one until all of it is settled, beside the caller.
    pub(super) async fn add(&mut self, one: Unfinished) {
        while let Some(ended) = self.tasks.try_join_next() {
            note(ended);
        }
        if self.tasks.len() >= MAX_SESSIONS
            && let Some(ended) = self.tasks.join_next().await
        {
            note(ended);
        }
        let (processor, stop) = (self.processor.clone(), self.stop.clone());
        self.tasks.spawn(one.finish(processor, stop));
    }

    /// Waits until all have ended; each hears of the stop by itself.
    pub(super) async fn end(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            note(ended);
        }
    }
}

/// Its connection is gone with it: what was in hand comes again, and finds its row.
fn note(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::warn!(
            error = error.redacted(),
            "jobs from before a pause aren't waited for any more"
        );
    }
}

impl Unfinished {
    async fn finish(self, processor: JobProcessor, stop: CancellationToken) {
        let Self {
            connection,
            channels,
            session,
        } = self;
        let limits = DrainLimits::new(&processor.settings.drain);
        let late = async {
            stop.cancelled().await;
            tokio::time::sleep(limits.jobs).await;
        };
        let settled = async {
            let mut look = tokio::time::interval(STRAGGLER_WAIT);
            while channels.iter().any(DeliveryChannel::is_awaited) {
                look.tick().await;
            }
        };
        tokio::select! {
            () = channels::flush_until(&channels, settled) => {}
            () = late => {
                tracing::warn!("the drain limit passed; what is unfinished goes back to its queue");
                processor.engine.cut().await;
            }
        }
        let left = limits.in_hand.saturating_sub(limits.jobs);
        channels::close(&channels, left / 2).await;
        drop(session);
        let closing = connection.close(200, "paused".into());
        let _gone_counts_too = tokio::time::timeout(GOODBYE, closing).await;
    }
}
