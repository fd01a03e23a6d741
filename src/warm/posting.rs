//! Posts what a run has planned, portion by portion, for as long as its budget lasts, and waits for the end of what it posted.
//!
//! Promises that a run cut short goes on where it stopped, with what is left of its budget: all that it needs to know is in its row.

use super::{
    carry::{Carrier, Stopped},
    depths::Depths,
    known::Renewing,
    portion::{self, Portion},
};
use crate::{
    amqp::message::{self, Message},
    backoff::Backoff,
    store::{Claim, Post, Progress, RunPiece},
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
/// Bodies of jobs that are read and handed to the broker together, in bytes; one that is larger goes alone.
const HANDFUL_BYTES: usize = 4 << 20;
/// How long jobs are taken to wait for their turn before any has come to it.
const USUAL_WAIT: Duration = Duration::from_secs(10);

impl Carrier {
    /// Posts what is left of a run, pausing while the queues are full, until its budget is spent.
    pub(super) async fn post(&self, claim: Claim, name: &str) -> Result<(), Stopped> {
        let mut depths = Depths::default();
        // What readers were told since the run began is newer than what its source said.
        let Some(began) = self.store.run_started_at(claim.id).await? else {
            return Err(Stopped::Lost);
        };
        let (began, mut waits) = (Moment::of(began), USUAL_WAIT);
        // A worker that was stopped may have handed them to the broker, or not.
        loop {
            let sent = self.store.next_posts(claim.id, WINDOW, true).await?;
            if sent.is_empty() {
                break;
            }
            self.post_portion(claim, began, &sent, waits).await?;
        }
        let (mut rest, mut unheard) = (backoff(), Backoff::new(LOOK, UNHEARD));
        let (mut posts, mut posted_at) = (Vec::new(), None::<Instant>);
        loop {
            if posts.is_empty() {
                posts = self.store.next_posts(claim.id, WINDOW, false).await?;
            }
            if posts.is_empty() {
                break;
            }
            let progress = self.store.run_progress(claim.id).await?;
            let Some(outlay) = self.store.run_outlay(claim).await? else {
                return Err(Stopped::Lost);
            };
            let progress = progress.charged(&outlay);
            let later = match portion::next(&outlay, &progress, &posts) {
                Portion::Wait => {
                    tokio::time::sleep(rest.next_wait()).await;
                    continue;
                }
                Portion::Stop(why) => {
                    let left = self.store.leave_rest(claim, &why).await?;
                    let left_over = left.ok_or(Stopped::Lost)?;
                    tracing::info!(run = claim.id, why, left_over, "a warming run ends early");
                    self.metrics
                        .warm_inputs(name, WarmInput::LeftOver, left_over);
                    break;
                }
                Portion::Post(count) => posts.split_off(count.min(posts.len())),
            };
            while !depths
                .have_room(&self.broker, &self.topology, &self.settings.warm)
                .await
            {
                tokio::time::sleep(depths.rest(LOOK, &mut unheard)).await;
            }
            // As long as the ones before took, at the least.
            waits = waits.max(posted_at.map_or(Duration::ZERO, |at| at.elapsed()));
            self.post_portion(claim, began, &posts, waits).await?;
            posted_at = Some(Instant::now());
            posts = later;
            rest.reset();
        }
        if self.store.all_posted(claim).await? {
            Ok(())
        } else {
            Err(Stopped::Lost)
        }
    }

    /// Posts jobs which are expected to wait so long for their turn.
    async fn post_portion(
        &self,
        claim: Claim,
        began: Moment,
        posts: &[Post],
        waits: Duration,
    ) -> Result<(), Stopped> {
        let mut rest = posts;
        while let Some((some, after)) = rest.split_at_checked(handful(rest)) {
            if some.is_empty() {
                break;
            }
            self.post_handful(claim, began, some, waits).await?;
            rest = after;
        }
        Ok(())
    }

    async fn post_handful(
        &self,
        claim: Claim,
        began: Moment,
        posts: &[Post],
        waits: Duration,
    ) -> Result<(), Stopped> {
        let pieces: Vec<i32> = posts.iter().map(|post| post.piece).collect();
        let bodies = self.store.post_bodies(claim.id, &pieces).await?;
        if bodies.len() != pieces.len() || !self.store.note_sent(claim, &pieces).await? {
            return Err(Stopped::Lost);
        }
        let renewing = Renewing {
            cache: self.engine.cache(),
            store: &self.store,
            registry: self.engine.registry(),
            settings: &self.settings,
            waits,
        };
        let jobs = posts.iter().zip(&bodies);
        renewing.put_back(claim.id, jobs).await?;
        let messages = pieces.iter().zip(bodies).map(|(piece, body)| {
            let (run, piece) = (claim.id, *piece);
            let id = RunPiece { run, piece }.job_id();
            let message = message::job(&self.topology.warm, &id, body);
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

/// How many of these jobs are handed over together: one at the least, where there is one.
fn handful(posts: &[Post]) -> usize {
    let mut bytes = 0;
    let fits = posts.iter().take_while(|post| {
        bytes += usize::try_from(post.bytes).unwrap_or_default();
        bytes <= HANDFUL_BYTES
    });
    fits.count().max(1).min(posts.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_handed_over_by_their_bytes() {
        let of = |bytes: &[i32]| {
            let post = |bytes: &i32| Post {
                bytes: *bytes,
                ..Post::default()
            };
            handful(&bytes.iter().map(post).collect::<Vec<_>>())
        };
        assert_eq!(of(&[]), 0);
        assert_eq!(of(&[1 << 20; 100]), 4);
        assert_eq!(of(&[100 << 20, 1]), 1);
        assert_eq!(of(&[1_000; 128]), 128);
    }
}
