//! Posts what changed, as far as the budget and the queues have room.

use super::{Posting, Reading};
use crate::{
    amqp::message::{self, Message},
    warm::{
        carry::Stopped,
        follow::{
            Follower, LOOK,
            batch::{Batch, Maker, New, mark},
        },
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

impl Reading {
    /// Posts those rows that weren't met before. Says whether all are posted: otherwise the run is to end.
    pub(super) async fn post(
        &mut self,
        follower: &Follower,
        found: Vec<Found>,
        posting: &Posting<'_>,
    ) -> Result<Result<bool, SourceError>, Stopped> {
        let new = self.new_rows(follower, found);
        let Some((kind, _)) = &self.window else {
            return Ok(Ok(true));
        };
        if new.is_empty() {
            return Ok(Ok(true));
        }
        let (carrier, schedule) = (&follower.carrier, &follower.schedule);
        let model = match carrier.engine.registry().resolve(&schedule.model) {
            Ok(model) => model,
            Err(error) => return Ok(Err(SourceError(error.to_string()))),
        };
        let own_ttl = model.info().ttl_seconds;
        let maker = Maker {
            schedule,
            model: &model,
            kind: *kind,
            ttl_seconds: carrier.settings.ttl_seconds(
                schedule.ttl_seconds,
                schedule.namespace(),
                own_ttl,
            ),
            size: carrier.settings.warm.piece_inputs,
            run: self.claim.id,
        };
        let mut batches = maker.batches(&new).into_iter().peekable();
        while batches.peek().is_some() {
            if !self.make_room(follower, posting).await? {
                return Ok(Ok(false));
            }
            let mut together = Vec::new();
            while together.len() < TOGETHER
                && let Some(batch) = batches.next_if(|batch| self.affords(follower, batch))
            {
                self.spent.0 += batch.inputs;
                self.spent.1 += batch.cost;
                together.push(batch);
            }
            if together.is_empty() {
                return Ok(Ok(false));
            }
            self.publish(follower, together, posting).await?;
        }
        Ok(Ok(true))
    }

    /// Those rows that weren't met before. What is wrong with one is counted, and it isn't met again.
    fn new_rows(&mut self, follower: &Follower, found: Vec<Found>) -> Vec<New> {
        let Some((_, window)) = &mut self.window else {
            return Vec::new();
        };
        let keep = &follower.schedule.keep;
        let mut new = Vec::new();
        for Found { at, row } in found {
            let mark = mark(&at.key, row.as_ref().ok());
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

    async fn publish(
        &mut self,
        follower: &Follower,
        batches: Vec<Batch>,
        posting: &Posting<'_>,
    ) -> Result<(), Stopped> {
        let queue = &follower.carrier.topology.warm;
        let posted_as = |batch: &Batch| {
            let mut message: Message = message::job(queue, &batch.id, batch.body.clone());
            message.properties = message.properties.with_priority(URGENT);
            message::accepted(message, Moment::of(posting.accepted))
        };
        let messages: Vec<Message> = batches.iter().map(posted_as).collect();
        let posted = follower.carrier.publisher.publish(messages).await;
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
            let measured = |at: &i64| *at >= self.measured_from_us;
            let ages = batch.changed_us.iter().map(|at| match at {
                Some(at) => Some(*at)
                    .filter(measured)
                    .map(|at| posting.now_us.saturating_sub(at).max(0) as f64 / 1e6),
                None => Some(0.0),
            });
            self.waiting.add(
                batch.id,
                batch.position,
                posting.began,
                ages.flatten().collect(),
            );
        }
        Ok(())
    }

    /// Waits until the queues have room for more. Says whether there is time left.
    async fn make_room(
        &mut self,
        follower: &Follower,
        posting: &Posting<'_>,
    ) -> Result<bool, Stopped> {
        let carrier = &follower.carrier;
        loop {
            if posting.end.is_cancelled() || Instant::now() >= posting.until {
                return Ok(false);
            }
            let has_room = self.waiting.len() + TOGETHER <= MAX_WAITING
                && self
                    .depths
                    .have_room(&carrier.broker, &carrier.topology, &carrier.settings.warm)
                    .await;
            if has_room {
                return Ok(true);
            }
            tokio::time::sleep(LOOK).await;
            self.tend(follower).await?;
        }
    }

    fn affords(&self, follower: &Follower, batch: &Batch) -> bool {
        let budget = &follower.schedule.budget;
        let (inputs, seconds) = self.spent;
        inputs.saturating_add(batch.inputs) <= budget.inputs
            && budget
                .model_seconds
                .is_none_or(|max| seconds + batch.cost <= max)
    }

    pub(super) fn is_spent(&self, follower: &Follower) -> bool {
        let budget = &follower.schedule.budget;
        self.spent.0 >= budget.inputs || budget.model_seconds.is_some_and(|max| self.spent.1 >= max)
    }
}
