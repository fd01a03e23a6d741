//! Posts what a run has planned, and waits for the end of what it posted.
//!
//! Promises that a run cut short goes on where it stopped, with what is left of its budget: all that it needs to know is in its row.

use super::{
    carry::{Carrier, Stopped},
    depths::Depths,
    known::Renewing,
    outbox::{Outbox, post_all},
};
use crate::{
    amqp::message::{self, Message},
    backoff::Backoff,
    store::{Claim, Outlay, Post, Progress, RunPiece},
    telemetry::metrics::WarmInput,
};
use kiln_contract::order::Moment;
use std::time::{Duration, Instant};

/// Jobs of a run that are posted together.
const WINDOW: i64 = 128;
/// How often a paused or waiting run looks again, and how seldom at the utmost where the broker doesn't answer.
const LOOK: Duration = Duration::from_millis(100);
const UNHEARD: Duration = Duration::from_secs(5);
/// How soon a run looks that waits for jobs of its own, at first and at the latest.
const LOOK_SOON: [Duration; 2] = [Duration::from_millis(25), Duration::from_secs(1)];
/// How long jobs are taken to wait for their turn before any has come to it.
const USUAL_WAIT: Duration = Duration::from_secs(10);

/// The outbox of a run: its rows, and the queue of warming jobs.
struct RunOutbox<'c> {
    carrier: &'c Carrier,
    claim: Claim,
    name: &'c str,
    /// When the run began: what readers were told since then is newer than what its source said.
    began: Moment,
    depths: Depths,
    unheard: Backoff,
    /// How long jobs are expected to wait for their turn: as long as the ones before took, at the least.
    waits: Duration,
    posted_at: Option<Instant>,
}

impl Outbox for RunOutbox<'_> {
    async fn next(&mut self, are_sent: bool) -> Result<Vec<Post>, Stopped> {
        let store = &self.carrier.store;
        Ok(store.next_posts(self.claim.id, WINDOW, are_sent).await?)
    }

    async fn so_far(&mut self) -> Result<(Outlay, Progress), Stopped> {
        let store = &self.carrier.store;
        let progress = store.run_progress(self.claim.id).await?;
        let Some(outlay) = store.run_outlay(self.claim).await? else {
            return Err(Stopped::Lost);
        };
        Ok((outlay, progress.charged(&outlay)))
    }

    async fn room(&mut self) {
        let Carrier {
            broker,
            topology,
            settings,
            ..
        } = self.carrier;
        let depths = &mut self.depths;
        while !depths.have_room(broker, topology, &settings.warm).await {
            tokio::time::sleep(depths.rest(LOOK, &mut self.unheard)).await;
        }
        let took = self.posted_at.map_or(Duration::ZERO, |at| at.elapsed());
        self.waits = self.waits.max(took);
    }

    async fn send(&mut self, posts: &[Post]) -> Result<Vec<Vec<u8>>, Stopped> {
        let (store, pieces) = (&self.carrier.store, pieces(posts));
        let bodies = store.post_bodies(self.claim.id, &pieces).await?;
        if bodies.len() != pieces.len() || !store.note_sent(self.claim, &pieces).await? {
            return Err(Stopped::Lost);
        }
        Ok(bodies)
    }

    async fn publish(&mut self, posts: &[Post], bodies: Vec<Vec<u8>>) -> Result<(), Stopped> {
        let (carrier, run) = (self.carrier, self.claim.id);
        let renewing = Renewing {
            cache: carrier.engine.cache(),
            store: &carrier.store,
            registry: carrier.engine.registry(),
            settings: &carrier.settings,
            waits: self.waits,
        };
        renewing.put_back(run, posts.iter().zip(&bodies)).await?;
        let messages = pieces(posts).into_iter().zip(bodies).map(|(piece, body)| {
            let id = RunPiece { run, piece }.job_id();
            let message = message::job(&carrier.topology.warm, &id, body);
            message::accepted(message, self.began)
        });
        let messages: Vec<Message> = messages.collect();
        let posted = carrier.publisher.publish(messages).await;
        posted.map_err(|error| Stopped::Failed(format!("{error}; lower warm.piece_inputs")))
    }

    async fn note_posted(&mut self, posts: &[Post]) -> Result<(), Stopped> {
        let store = &self.carrier.store;
        self.posted_at = Some(Instant::now());
        held(store.note_posted(self.claim, &pieces(posts)).await?)
    }

    async fn leave_rest(&mut self, why: &str) -> Result<(), Stopped> {
        let left = self.carrier.store.leave_rest(self.claim, why).await?;
        let left_over = left.ok_or(Stopped::Lost)?;
        tracing::info!(
            run = self.claim.id,
            why,
            left_over,
            "a warming run ends early"
        );
        let metrics = &self.carrier.metrics;
        metrics.warm_inputs(self.name, WarmInput::LeftOver, left_over);
        Ok(())
    }

    async fn end(&mut self) -> Result<(), Stopped> {
        held(self.carrier.store.all_posted(self.claim).await?)
    }
}

fn pieces(posts: &[Post]) -> Vec<i32> {
    posts.iter().map(|post| post.piece).collect()
}

/// Whether a claim held.
fn held(holds: bool) -> Result<(), Stopped> {
    holds.then_some(()).ok_or(Stopped::Lost)
}

impl Carrier {
    /// Posts what is left of a run, pausing while the queues are full, until its budget is spent.
    pub(super) async fn post(&self, claim: Claim, name: &str) -> Result<(), Stopped> {
        let Some(began) = self.store.run_started_at(claim.id).await? else {
            return Err(Stopped::Lost);
        };
        let mut outbox = RunOutbox {
            carrier: self,
            claim,
            name,
            began: Moment::of(began),
            depths: Depths::default(),
            unheard: Backoff::new(LOOK, UNHEARD),
            waits: USUAL_WAIT,
            posted_at: None,
        };
        post_all(&mut outbox, backoff()).await
    }

    /// Waits until every posted job has its row.
    pub(super) async fn wait(&self, claim: Claim) -> Result<Progress, Stopped> {
        let mut rest = backoff();
        loop {
            let Some(outlay) = self.store.run_outlay(claim).await? else {
                return Err(Stopped::Lost);
            };
            let progress = self.store.run_progress(claim.id).await?;
            if progress.jobs >= outlay.pieces {
                return Ok(progress);
            }
            tokio::time::sleep(rest.next_wait()).await;
        }
    }
}

fn backoff() -> Backoff {
    let [soon, late] = LOOK_SOON;
    Backoff::new(soon, late)
}
