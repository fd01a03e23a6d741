//! Sees what is served, and notes how far everything is.

use super::Reading;
use crate::{
    store::{Claim, Followed, Progress},
    warm::{
        carry::Stopped,
        follow::{Follower, NOTE, outlay::Outlay},
        source::{Point, PositionKind},
    },
};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// What is said of a run whose budget is spent.
const SPENT: &str = "the budget is spent: what changes waits for the next run";
/// What is said where more changes than are remembered within the overlap.
const FULL: &str = "more changes within overlap_seconds than are remembered: reading waits";
/// What is said where jobs are nowhere any more.
const LOST: &str = "some of its jobs are nowhere any more, as after a purge: what they hold is posted again by the next run";
/// What is said where positions have gone back, as after TRUNCATE ... RESTART IDENTITY.
const BACK: &str = "no row has the position up to which it was followed, or a higher one: where positions have begun anew, rows below it aren't found";
/// What is said where the clock of a table's database has gone back.
const STEPPED: &str =
    "the clock of the table's database went back: it is followed anew from an overlap before that";
/// Longest time for finding that out.
const LOOK_BACK: Duration = Duration::from_secs(5);
/// What is said of rows whose time hasn't come.
const AHEAD: &str = "some rows have a position in the future: they wait until it comes";

/// What was done since it was noted.
#[derive(Default)]
pub(super) struct Done {
    pub posted: i64,
    pub bad: i64,
    pub jobs: i64,
    pub model_seconds: f64,
}

/// What a run has spent before this worker has it. What was under way is read and posted again.
pub(super) async fn spent_before(follower: &Follower, claim: Claim) -> Result<Outlay, Stopped> {
    let progress = follower.carrier.store.run_progress(claim.id).await?;
    let inputs = usize::try_from(progress.hits + progress.misses).unwrap_or_default();
    Ok(Outlay::of(inputs, progress.model_seconds))
}

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
            self.record(follower, &ended).await?;
            let now = Instant::now();
            for age in ended.iter().flat_map(|id| self.waiting.end(id, now)) {
                metrics.staleness(&self.namespace, age);
            }
        }
        let now = Instant::now();
        let behind = self.behind(now, follower);
        follower
            .behind
            .set(&follower.schedule.name, &self.namespace, behind, metrics);
        if now.duration_since(self.noted.0) >= NOTE {
            self.look_for_lost(follower, now).await;
            self.note(follower, None).await?;
        }
        Ok(())
    }

    /// Finds out whether what waits is nowhere any more, and says so.
    async fn look_for_lost(&mut self, follower: &Follower, now: Instant) {
        let waits = self.waiting.longest(now);
        if !self.lost.wants_to_know(waits) {
            return;
        }
        let carrier = &follower.carrier;
        let queued = self.depths.look(&carrier.broker, &carrier.topology).await;
        let queued = queued.map(|queued| queued.warm);
        if self.lost.finds(queued, waits, now) {
            let (schedule, jobs) = (&follower.schedule.name, self.waiting.len());
            tracing::warn!(schedule, jobs, reason = LOST, "a run ends early");
        }
    }

    /// Learns what ended jobs took of the model, where that is bounded.
    async fn record(&mut self, follower: &Follower, ended: &[String]) -> Result<(), Stopped> {
        if ended.is_empty() {
            return Ok(());
        }
        let ids: Vec<&str> = ended.iter().map(String::as_str).collect();
        let spent = match follower.schedule.budget.model_seconds {
            Some(_) => follower.carrier.store.spent_by(self.claim.id, &ids).await?,
            None => BTreeMap::new(),
        };
        for id in ids {
            let took = spent.get(id).copied().unwrap_or_default();
            self.outlay.end(id, took);
        }
        Ok(())
    }

    /// Age of the oldest change that isn't served, in seconds: posted, read, or perhaps there where nothing can be read. Nothing where that isn't
    /// known.
    fn behind(&self, now: Instant, follower: &Follower) -> Option<f64> {
        let since = |at: Instant| now.duration_since(at).as_secs_f64();
        let is_stuck = self.trouble.is_some() || self.is_spent(follower);
        let known = [
            (!self.waiting.is_empty()).then(|| self.waiting.oldest(now)),
            self.unread.map(|(at, age)| age + since(at)),
            is_stuck.then(|| since(self.read)),
            // Between two readings nothing is behind.
            self.has_read.then_some(0.0),
        ];
        known.into_iter().flatten().reduce(f64::max)
    }

    /// What is in the way.
    fn message(&self, follower: &Follower) -> Option<&str> {
        let reasons = [
            (self.lost.is_found, LOST),
            (self.is_spent(follower), SPENT),
            (self.is_full, FULL),
            (self.has_gone_back, BACK),
            (self.has_stepped_back, STEPPED),
            (self.ahead.is_some(), AHEAD),
        ];
        let reason = reasons.into_iter().find(|(holds, _)| *holds);
        self.trouble.as_deref().or(reason.map(|(_, text)| text))
    }

    /// Up to which position everything is served.
    fn served(&self) -> Option<i64> {
        let (_, window) = self.window.as_ref()?;
        Some(self.waiting.served_to(window.passed()))
    }

    /// Whether something isn't noted yet.
    pub(in crate::warm::follow) fn has_news(&self, follower: &Follower) -> bool {
        let is_news = || {
            self.noted.1 != self.served()
                || self.done.jobs + self.done.bad > 0
                || self.said.as_deref() != self.message(follower)
        };
        // Before that there is no position to note.
        self.window.is_some() && is_news()
    }

    /// Notes how far everything is served, where that is news. At a run's end its `progress` says how much it posted.
    pub(in crate::warm::follow) async fn note(
        &mut self,
        follower: &Follower,
        progress: Option<&Progress>,
    ) -> Result<(), Stopped> {
        let is_news = self.has_news(follower);
        self.noted.0 = Instant::now();
        let (Some((kind, _)), Some(served)) = (&self.window, self.served()) else {
            return Ok(());
        };
        if !is_news && progress.is_none() {
            return Ok(());
        }
        let message = self.message(follower);
        // A job that was posted twice counts once; what was rejected isn't known by inputs.
        let all_posted = progress.filter(|progress| progress.rejected == 0);
        let followed = Followed {
            position: (*kind, served),
            source: &self.digest,
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
        let said = message.map(str::to_owned);
        self.said = said;
        self.noted.1 = Some(served);
        self.done = Done::default();
        Ok(())
    }

    /// Begins anew where the table's own clock has fallen behind what was followed, and says so. Says whether it has.
    pub(super) fn step_back(&mut self, now_us: i64, schedule: &str) -> bool {
        let Some((PositionKind::Moment, window)) = &mut self.window else {
            return false;
        };
        if now_us <= 0 || !window.step_back(now_us) {
            return false;
        }
        (self.last, self.clock_us, self.has_stepped_back) = (None, None, true);
        tracing::warn!(schedule, reason = STEPPED, "a followed table has gone back");
        true
    }

    /// Says where numbers have gone back, once a run: what is new then lies where nobody looks. Rows that were removed look the same.
    pub(super) async fn look_back(&mut self, floor: &Point, schedule: &str) {
        let Some((PositionKind::Sequence, _)) = &self.window else {
            return;
        };
        if !self.looks_back {
            return;
        }
        let asking = self.changes.reaches(floor.position.saturating_sub(1));
        match tokio::time::timeout(LOOK_BACK, asking).await {
            Ok(Ok(reaches)) => self.has_gone_back = !reaches,
            // A table that can't be read is told by its reading.
            Ok(Err(_)) => return,
            // Its statement takes long: it isn't asked again in this run.
            Err(_) => {}
        }
        self.looks_back = false;
        // A table whose rows are removed once they are served looks the same all the time.
        if self.has_gone_back && !std::mem::replace(&mut self.has_said_back, true) {
            tracing::warn!(schedule, reason = BACK, "a followed table has gone back");
        }
    }
}
