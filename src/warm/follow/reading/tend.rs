//! Sees what is served, and notes how far everything is.

use super::{Done, Reading};
use crate::{
    store::{Followed, Progress},
    warm::{
        carry::Stopped,
        follow::{Follower, NOTE},
    },
};
use tokio::time::Instant;

/// What is said of a run whose budget is spent.
const SPENT: &str = "the budget is spent: what changes waits for the next run";

impl Reading {
    /// Sees what is served by now, and notes how far that is.
    pub(in crate::warm::follow) async fn tend(
        &mut self,
        follower: &Follower,
    ) -> Result<(), Stopped> {
        let metrics = &follower.carrier.metrics;
        if !self.waiting.is_empty() {
            let ended = follower
                .carrier
                .store
                .ended_jobs(&self.waiting.ids())
                .await?;
            let now = Instant::now();
            for age in ended.iter().flat_map(|id| self.waiting.end(id, now)) {
                metrics.staleness(&self.namespace, age);
            }
        }
        let now = Instant::now();
        let unread = now.duration_since(self.read).as_secs_f64();
        // Between two readings nothing is behind.
        let unread = if self.trouble.is_some() || self.is_spent(follower) {
            unread
        } else {
            0.0
        };
        let oldest = self.waiting.oldest(now).max(unread);
        follower
            .behind
            .set(&follower.schedule.name, &self.namespace, oldest, metrics);
        if now.duration_since(self.noted.0) >= NOTE {
            self.note(follower, None).await?;
        }
        Ok(())
    }

    /// Notes how far everything is served, where that is news. At a run's end its `progress` says how much it posted.
    pub(in crate::warm::follow) async fn note(
        &mut self,
        follower: &Follower,
        progress: Option<&Progress>,
    ) -> Result<(), Stopped> {
        let Some((kind, window)) = &self.window else {
            return Ok(());
        };
        let served = self.waiting.served_to(window.floor());
        let is_spent = self.is_spent(follower).then_some(SPENT);
        let message = self.trouble.as_deref().or(is_spent);
        let is_news =
            self.noted.1 != Some(served) || self.done.jobs + self.done.bad > 0 || message.is_some();
        self.noted.0 = Instant::now();
        if !is_news && progress.is_none() {
            return Ok(());
        }
        // A job that was posted twice counts once; what was rejected isn't known by inputs.
        let all_posted = progress.filter(|progress| progress.rejected == 0);
        let followed = Followed {
            position: (*kind, served),
            posted: self.done.posted,
            bad: self.done.bad,
            jobs: self.done.jobs,
            model_seconds: self.done.model_seconds,
            message,
            all_posted: all_posted.map(|progress| progress.hits + progress.misses),
        };
        if !follower
            .carrier
            .store
            .note_followed(self.claim, &followed)
            .await?
        {
            return Err(Stopped::Lost);
        }
        self.noted.1 = Some(served);
        self.done = Done::default();
        Ok(())
    }
}
