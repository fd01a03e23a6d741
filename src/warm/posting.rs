//! Posts what a run has planned, portion by portion, for as long as its budget lasts, and waits for the end of what it posted.
//!
//! Promises that a run cut short goes on where it stopped, with what is left of its budget: all that it needs to know is in its row.

use super::{
    carry::{Carrier, Stopped},
    depths::Depths,
    known,
    portion::{self, Portion},
};
use crate::{
    amqp::message::{self, Message},
    backoff::Backoff,
    store::{Claim, Post, Progress, RunPiece},
    telemetry::metrics::WarmInput,
};
use kiln_contract::order::Moment;
use std::time::Duration;

/// Jobs of a run that are posted together.
const WINDOW: i64 = 128;
/// How often a paused or waiting run looks again.
const LOOK: Duration = Duration::from_millis(100);
/// How soon a run looks that waits for a portion of its own, at first and at the latest.
const LOOK_SOON: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(250)];

impl Carrier {
    /// Posts what is left of a run, pausing while the queues are full, until its budget is spent.
    pub(super) async fn post(&self, claim: Claim) -> Result<(), Stopped> {
        let mut depths = Depths::default();
        // What readers were told since the run began is newer than what its source said.
        let Some(began) = self.store.run_started_at(claim.id).await? else {
            return Err(Stopped::Lost);
        };
        let [soon, late] = LOOK_SOON;
        let mut rest = Backoff::new(soon, late);
        let mut posts = Vec::new();
        loop {
            if posts.is_empty() {
                posts = self.store.next_posts(claim.id, WINDOW).await?;
            }
            if posts.is_empty() {
                break;
            }
            let progress = self.store.run_progress(claim.id).await?;
            let Some(outlay) = self.store.run_outlay(claim).await? else {
                return Err(Stopped::Lost);
            };
            let later = match portion::next(&outlay, &progress, &posts) {
                Portion::Wait => {
                    tokio::time::sleep(rest.next_wait()).await;
                    continue;
                }
                Portion::Stop(why) => {
                    let left = self.store.leave_rest(claim, &why).await?;
                    let left_over = left.ok_or(Stopped::Lost)?;
                    tracing::info!(run = claim.id, why, left_over, "a warming run ends early");
                    self.metrics.warm_inputs(WarmInput::LeftOver, left_over);
                    break;
                }
                Portion::Post(count) => posts.split_off(count.min(posts.len())),
            };
            while !depths
                .have_room(&self.broker, &self.topology, &self.settings.warm)
                .await
            {
                tokio::time::sleep(LOOK).await;
            }
            self.post_portion(claim, Moment::of(began), posts).await?;
            posts = later;
            rest.reset();
        }
        if self.store.all_posted(claim).await? {
            Ok(())
        } else {
            Err(Stopped::Lost)
        }
    }

    async fn post_portion(
        &self,
        claim: Claim,
        began: Moment,
        posts: Vec<Post>,
    ) -> Result<(), Stopped> {
        let (cache, registry) = (self.engine.cache(), self.engine.registry());
        let renewed = (claim.id, posts.as_slice());
        known::put_back(cache, &self.store, registry, &self.settings, renewed).await?;
        let pieces: Vec<i32> = posts.iter().map(|post| post.piece).collect();
        let messages = posts.into_iter().map(|post| {
            let (run, piece) = (claim.id, post.piece);
            let id = RunPiece { run, piece }.job_id();
            let message = message::job(&self.topology.warm, &id, post.body);
            message::accepted(message, began)
        });
        let messages: Vec<Message> = messages.collect();
        let posted = self.publisher.publish(messages).await;
        posted.map_err(|error| Stopped::Failed(format!("{error}; lower warm.piece_inputs")))?;
        if self.store.note_posted(claim, &pieces).await? {
            Ok(())
        } else {
            Err(Stopped::Lost)
        }
    }

    /// Waits until every posted job has its row.
    pub(super) async fn wait(&self, claim: Claim) -> Result<Progress, Stopped> {
        loop {
            let Some(outlay) = self.store.run_outlay(claim).await? else {
                return Err(Stopped::Lost);
            };
            let progress = self.store.run_progress(claim.id).await?;
            if progress.jobs >= outlay.pieces {
                return Ok(progress);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
