//! Posts what changed, as far as the budget and the queues have room.

use super::{Posting, Reading};
use crate::{
    amqp::message::{self, Message},
    backoff::Backoff,
    warm::{
        carry::Stopped,
        follow::{
            FIRST_REST, Follower, LOOK, MAX_REST,
            batch::{Batch, Maker, New, mark},
            outlay::Fit,
            window::MAX_MET,
        },
        gather::versions::Versions,
        schedule::Keep,
        source::{Found, SourceError},
    },
};
use kiln_contract::order::Moment;
use tokio::time::Instant;

/// Jobs that may wait to be served; beyond them nothing is read.
const MAX_WAITING: usize = 1_000;
/// Jobs that are posted together.
const TOGETHER: usize = 64;
/// What comes before the queue's other jobs, where the broker has priorities.
const URGENT: u8 = 5;

/// What became of a page's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Posted {
    All,
    /// Those that are settled, and no others: they can't be remembered.
    Settled,
    /// Some; the run is to end.
    Part,
}

/// A row, and what it is remembered by.
pub(super) struct Marked {
    found: Found,
    mark: u128,
}

impl Marked {
    pub(super) fn of(found: Found) -> Self {
        let mark = mark(&found.at.key, found.row.as_ref().ok());
        Self { found, mark }
    }

    /// Its position, and what it is remembered by there.
    pub(super) fn at(&self) -> (i64, u128) {
        (self.found.at.position, self.mark)
    }

    /// When it changed, where that is known.
    pub(super) fn changed_us(&self) -> Option<i64> {
        self.found.row.as_ref().ok()?.changed_us
    }
}

impl Reading {
    /// Posts those rows that weren't met before, as far as they can be remembered.
    pub(super) async fn post(
        &mut self,
        follower: &Follower,
        rows: Vec<Marked>,
        posting: &Posting<'_>,
    ) -> Result<Result<Posted, SourceError>, Stopped> {
        let (rows, posted) = match self.has_room(follower, &rows, posting) {
            true => (rows, Posted::All),
            false => (self.with_room(rows, posting), Posted::Settled),
        };
        let new = self.new_rows(follower, rows);
        let Some((kind, window)) = self.window.as_mut().filter(|_| !new.is_empty()) else {
            return Ok(Ok(posted));
        };
        let (carrier, schedule) = (&follower.carrier, &follower.schedule);
        let versions = match carrier.engine.registry().serving(&schedule.model) {
            Ok(serving) => Versions::new(serving),
            Err(error) => return Ok(Err(SourceError(error.to_string()))),
        };
        let own_ttl = versions.active().info().ttl_seconds;
        let maker = Maker {
            schedule,
            versions: &versions,
            kind: *kind,
            ttl_seconds: carrier.settings.ttl_seconds(
                schedule.ttl_seconds,
                schedule.namespace(),
                own_ttl,
            ),
            size: carrier.settings.warm.piece_inputs,
            max_bytes: carrier.settings.intake.max_body_bytes,
            run: self.claim.id,
        };
        let made = maker.batches(&new);
        for (position, mark) in made.too_large {
            window.meet(position, mark);
            self.done.bad += 1;
        }
        let are_posted = self.post_batches(follower, made.batches, posting).await?;
        Ok(Ok(if are_posted { posted } else { Posted::Part }))
    }

    /// Posts jobs as far as the budget, the queues and the time go. Says whether that was all of them.
    async fn post_batches(
        &mut self,
        follower: &Follower,
        batches: Vec<Batch>,
        posting: &Posting<'_>,
    ) -> Result<bool, Stopped> {
        let mut batches = batches.into_iter().peekable();
        while let Some(next) = batches.peek() {
            let fit = self.fit(follower, next);
            if fit == Fit::Never {
                self.outlay.close();
                return Ok(false);
            }
            if !self.make_room(follower, posting, fit).await? {
                return Ok(false);
            }
            let mut together = Vec::new();
            while together.len() < TOGETHER
                && let Some(batch) = batches.next_if(|batch| self.affords(follower, batch))
            {
                self.outlay.post(&batch.id, batch.inputs, batch.cost);
                together.push(batch);
            }
            if !together.is_empty() && !self.publish(follower, together, posting).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether those rows that weren't met before can be remembered. That they can't is said once.
    fn has_room(&mut self, follower: &Follower, rows: &[Marked], posting: &Posting<'_>) -> bool {
        let Some((_, window)) = &self.window else {
            return true;
        };
        let is_new = |row: &&Marked| !window.has_met(row.found.at.position, row.mark);
        let mut new = rows.iter().filter(is_new).peekable();
        let oldest = new
            .peek()
            .and_then(|row| self.age(row.changed_us(), posting));
        let is_new = new.peek().is_some();
        let has_room = new.all(|row| window.has_room(row.found.at.position, posting.is_whole));
        if !is_new {
            return true;
        }
        self.unread = Some((posting.began, oldest.unwrap_or(0.0)));
        if !has_room && !self.is_full {
            let (schedule, remembered) = (&follower.schedule.name, MAX_MET);
            tracing::info!(
                schedule,
                remembered,
                "more changes within overlap_seconds than are remembered: reading waits"
            );
        }
        self.is_full = !has_room;
        has_room
    }

    /// Those rows that may be met where not all may.
    fn with_room(&self, mut rows: Vec<Marked>, posting: &Posting<'_>) -> Vec<Marked> {
        rows.retain(|row| {
            let window = self.window.as_ref().map(|(_, window)| window);
            window.is_some_and(|window| window.has_room(row.found.at.position, posting.is_whole))
        });
        rows
    }

    /// Those rows that weren't met before. What is wrong with one is counted, and it isn't met again.
    fn new_rows(&mut self, follower: &Follower, rows: Vec<Marked>) -> Vec<New> {
        let Some((_, window)) = &mut self.window else {
            return Vec::new();
        };
        let keep = &follower.schedule.keep;
        let mut new = Vec::new();
        for Marked { found, mark } in rows {
            let Found { at, row } = found;
            if window.has_met(at.position, mark) {
                continue;
            }
            match row {
                Ok(row) if row.key.is_none() && (*keep == Keep::Named || row.content.is_none()) => {
                    window.meet(at.position, mark);
                    self.done.bad += 1;
                }
                // No name stands for it.
                Ok(row) if row.content.is_none() && *keep != Keep::Named => {
                    window.meet(at.position, mark)
                }
                Ok(row) => new.push(New { row, mark }),
                Err(problem) => {
                    window.meet(at.position, mark);
                    self.done.bad += 1;
                    tracing::debug!(
                        schedule = follower.schedule.name,
                        problem,
                        "a row is no input"
                    );
                }
            }
        }
        new
    }

    /// Says whether the broker has them: otherwise the schedule ends.
    async fn publish(
        &mut self,
        follower: &Follower,
        batches: Vec<Batch>,
        posting: &Posting<'_>,
    ) -> Result<bool, Stopped> {
        let queue = &follower.carrier.topology.warm;
        let posted_as = |batch: &Batch| {
            let mut message: Message = message::job(queue, &batch.id, batch.body.clone());
            message.properties = message.properties.with_priority(URGENT);
            message::accepted(message, Moment::of(posting.accepted))
        };
        let messages: Vec<Message> = batches.iter().map(posted_as).collect();
        let posted = tokio::select! {
            biased;
            posted = follower.carrier.publisher.publish(messages) => posted,
            () = posting.end.cancelled() => return Ok(false),
        };
        posted.map_err(|error| Stopped::Failed(format!("{error}; lower warm.piece_inputs")))?;
        for batch in batches {
            if let Some((_, window)) = &mut self.window {
                batch
                    .marks
                    .iter()
                    .for_each(|mark| window.meet(batch.position, *mark));
            }
            self.done.posted += i64::try_from(batch.inputs).unwrap_or_default();
            self.done.jobs += 1;
            self.done.model_seconds += batch.cost;
            let ages = batch.changed_us.iter().map(|at| self.age(*at, posting));
            let ages = ages.flatten().collect();
            let Batch { id, position, .. } = batch;
            self.waiting.add(id, position, posting.began, ages);
        }
        Ok(true)
    }

    /// Waits until the queues have room for more, ever longer where the broker doesn't answer; and until something more has told what it took, where
    /// that comes first. Says whether there is time left.
    async fn make_room(
        &mut self,
        follower: &Follower,
        posting: &Posting<'_>,
        fit: Fit,
    ) -> Result<bool, Stopped> {
        let carrier = &follower.carrier;
        let mut rests = Backoff::new(FIRST_REST, MAX_REST);
        let (before, is_early) = (self.waiting.len(), fit == Fit::Later);
        loop {
            if posting.end.is_cancelled() || self.lost.is_found || Instant::now() >= posting.until {
                return Ok(false);
            }
            let has_reported = !is_early || self.waiting.len() < before || self.waiting.is_empty();
            let has_room = has_reported
                && self.waiting.len() + TOGETHER <= MAX_WAITING
                && self
                    .depths
                    .have_room(&carrier.broker, &carrier.topology, &carrier.settings.warm)
                    .await;
            if has_room {
                return Ok(true);
            }
            let rest = self.depths.rest(LOOK, &mut rests);
            posting
                .end
                .run_until_cancelled(tokio::time::sleep(rest))
                .await;
            self.tend(follower).await?;
        }
    }

    fn fit(&self, follower: &Follower, batch: &Batch) -> Fit {
        let budget = &follower.schedule.budget;
        self.outlay.fit(budget, batch.inputs, batch.cost)
    }

    /// Whether a job is posted now. One row alone may cost more than all of the budget: it goes where nothing is spent, which is said.
    fn affords(&self, follower: &Follower, batch: &Batch) -> bool {
        let fit = self.fit(follower, batch);
        if fit == Fit::Alone {
            let (schedule, expected_seconds) = (&follower.schedule.name, batch.cost);
            tracing::warn!(
                schedule,
                expected_seconds,
                "one row is expected to cost more than a run's whole budget; it is posted alone"
            );
        }
        matches!(fit, Fit::Now | Fit::Alone)
    }

    pub(super) fn is_spent(&self, follower: &Follower) -> bool {
        self.outlay.is_spent(&follower.schedule.budget)
    }
}
