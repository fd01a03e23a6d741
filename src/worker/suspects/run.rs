//! The task that runs suspects, one after the other, in a process beside the worker.
//!
//! Promises that only a process that ended, or a run that took too long, counts against a job; that what follows from a run's end holds up no
//! other suspect; and that a job which can't be run in time goes back to its queue.

use super::{
    child::End,
    held::{Suspect, Suspects},
    host::{Counted, Host, model_name},
    protocol::Request,
    queue::History,
};
use crate::{
    amqp::{ack::Acks, delivery::Delivery, topology::Origin},
    backoff::Backoff,
    config::{self, Intake, Settings},
    pipeline::Outcome,
    store::{self, StoreError},
    telemetry::metrics::CloseReason,
    worker::{drain::DrainLimits, process::JobProcessor},
};
use kiln_contract::failure::{Code, Rejection};
use kiln_contract::{job::Job, key};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long a process is kept without a suspect.
const IDLE: Duration = Duration::from_secs(10);
/// Longest wait for the database to hear that a run is over.
const MARK: Duration = Duration::from_secs(5);
/// How often a stop looks whether there is still something to wait for.
const LOOK: Duration = Duration::from_millis(100);

impl Suspects {
    /// Runs them until it is asked to stop. The one that runs by then may end within the drain limit.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let limits = DrainLimits::new(&self.processor().settings.drain);
        let mut host = Host::new(self.program().clone());
        loop {
            let next = async {
                loop {
                    match timeout(IDLE, self.next()).await {
                        Ok(next) => return next,
                        Err(_) => host.close().await,
                    }
                }
            };
            let Some((suspect, history, busy)) = stop.run_until_cancelled(next).await else {
                break;
            };
            let acks = suspect.delivery.guard.acks().clone();
            let received = suspect.delivery.received;
            let again = tokio::select! {
                biased;
                again = self.attempt(&mut host, suspect, history, &stop) => again,
                () = overdue(&stop, limits.jobs, &acks) => {
                    tracing::info!("a suspected job goes back to its queue unfinished");
                    host.kill().await;
                    None
                }
                () = self.held_too_long(received) => {
                    note_held_too_long();
                    host.kill().await;
                    None
                }
            };
            if let Some(Counted { body, runs }) = host.counted.take() {
                let store = &self.processor().store;
                let limit = if stop.is_cancelled() {
                    limits.in_hand.saturating_sub(limits.jobs) / 2
                } else {
                    MARK
                };
                let uncounted = patiently(|| store.suspect_uncounted(&body, runs));
                let _counts_if_unheard = timeout(limit, uncounted).await;
            }
            if let Some((suspect, history)) = again {
                self.put_back(suspect, history);
            }
            drop(busy);
        }
        host.close().await;
        Ok(())
    }

    /// One step with a suspect: it is ended, or given back to wait. Otherwise it returns to its queue.
    async fn attempt(
        &self,
        host: &mut Host,
        suspect: Suspect,
        history: History,
        stop: &CancellationToken,
    ) -> Option<(Suspect, History)> {
        let processor = self.processor();
        let (intake, store) = (&processor.settings.intake, &processor.store);
        if let Some(unseen) = self.unseen(&suspect.delivery) {
            self.hand_over(suspect, unseen);
            return None;
        }
        let left = self.left(suspect.delivery.received);
        if left.is_zero() {
            note_held_too_long();
            return None;
        }
        let body = key::hash_body(&suspect.delivery.body);
        let Some(runs) = history.runs else {
            let known = patiently(|| store.suspect_runs(&body));
            let runs = Some(stop.run_until_cancelled(known).await?);
            return Some((suspect, History { runs, ..history }));
        };
        if runs >= intake.suspect_runs {
            self.hand_over(suspect, Some(give_up(runs, intake)));
            return None;
        }
        if history.unserved > 0 && !self.rest(host, stop, left, true).await? {
            // Somebody came who may go first.
            return Some((suspect, history));
        }
        if !stop.run_until_cancelled(host.ready()).await? {
            self.rest(host, stop, left, false).await?;
            return Some((suspect, history));
        }
        host.counted = Some(Counted { body, runs });
        let counted = patiently(|| store.suspect_started(&body, runs + 1));
        stop.run_until_cancelled(counted).await?;
        self.run_one(host, suspect, history, runs + 1).await
    }

    /// Waits before another attempt, no longer than `left`: to the end, or until another suspect comes; none where all are to be returned.
    async fn rest(
        &self,
        host: &mut Host,
        stop: &CancellationToken,
        left: Duration,
        wakes_for_others: bool,
    ) -> Option<bool> {
        tokio::select! {
            () = sleep(host.backoff.next_wait().min(left)) => Some(true),
            () = self.arrival(), if wakes_for_others => Some(false),
            () = self.emptied() => None,
            () = stop.cancelled() => None,
        }
    }

    /// Runs one, whose run is counted.
    async fn run_one(
        &self,
        host: &mut Host,
        suspect: Suspect,
        history: History,
        runs: u32,
    ) -> Option<(Suspect, History)> {
        let processor = self.processor();
        processor.metrics.batch(CloseReason::Alone, 1);
        let (delivery, begun) = (&suspect.delivery, Instant::now());
        let request = request(delivery, processor);
        let limit = Duration::from_secs(processor.settings.intake.suspect_seconds);
        let child = host.child.as_mut()?;
        match child.run(&request, &delivery.body, limit).await {
            End::Outcome(outcome, counts) => {
                let received = delivery.received;
                processor.engine.count(received, &outcome, &counts);
                let (delivery, in_hand) = suspect.into_parts();
                if outcome == Outcome::Abandoned {
                    // Another process may do better. The job goes back, and nothing is held against it.
                    host.kill().await;
                    return None;
                }
                host.went_well(&outcome);
                host.counted = None;
                let processor = processor.clone();
                self.processor().beside(async move {
                    let body = key::hash_body(&delivery.body);
                    let run = (begun, counts);
                    processor.conclude(delivery, outcome, run).await;
                    clear(&processor, &body).await;
                    drop(in_hand);
                });
                None
            }
            End::Unserved { model, reason } => {
                host.kill().await;
                let Err(unknown) = processor.engine.registry().resolve(&model) else {
                    host.report(model_name(&model), &reason);
                    let mut history = history;
                    history.unserved = history.unserved.saturating_add(1);
                    return Some((suspect, history));
                };
                let unknown = Rejection::new(Code::UnknownModel, "model", unknown.to_string());
                self.hand_over(suspect, Some(unknown));
                None
            }
            end @ (End::Died(_) | End::TooLong) => {
                host.kill().await;
                host.counted = None;
                note_unfinished(delivery, &end, runs);
                let runs = Some(runs);
                Some((suspect, History { runs, ..history }))
            }
        }
    }

    /// Whether this worker's own engine ends a job, which no model sees then; with the rejection, where it has one already.
    fn unseen(&self, delivery: &Delivery) -> Option<Option<Rejection>> {
        let processor = self.processor();
        let intake = &processor.settings.intake;
        let verdict = delivery
            .verdict()
            .or_else(|| processor.cancelled.verdict(delivery));
        if verdict.is_some() || delivery.body.len() > intake.max_body_bytes {
            return Some(None);
        }
        if delivery.expires().is_some_and(|at| at <= Instant::now()) {
            let message = "the message's expiration passed before its turn";
            return Some(Some(Rejection::new(Code::Expired, "", message)));
        }
        let is_elsewhere = !intake.lanes.is_empty()
            && processor.may_move(delivery)
            && Job::parse(&delivery.body, delivery.message_id())
                .is_ok_and(|job| !is_served(&processor.settings, model_name(job.model.as_ref())));
        is_elsewhere.then_some(None)
    }

    /// Has this worker's own engine end a job beside the caller.
    fn hand_over(&self, suspect: Suspect, given_up: Option<Rejection>) {
        let processor = self.processor().clone();
        let (delivery, in_hand) = suspect.into_parts();
        self.processor().beside(async move {
            let body = given_up.is_some().then(|| key::hash_body(&delivery.body));
            processor.work(delivery, given_up).await;
            if let Some(body) = body {
                clear(&processor, &body).await;
            }
            drop(in_hand);
        });
    }

    /// How long a job may still be in hand before it runs.
    fn left(&self, received: Instant) -> Duration {
        let max = self.processor().settings.intake.max_hold_seconds;
        Duration::from_secs(max).saturating_sub(received.elapsed())
    }

    /// Waits until a job has been in hand for as long as it may be, and for as long as it may run after that.
    async fn held_too_long(&self, received: Instant) {
        let run = self.processor().settings.intake.suspect_seconds;
        sleep(self.left(received)).await;
        sleep(Duration::from_secs(run)).await;
    }
}

fn note_held_too_long() {
    tracing::warn!("a suspected job was in hand for too long; it goes back to its queue");
}

/// Forgets a job's runs, once it has ended. A mark that stays behind is that of a job which is acknowledged.
async fn clear(processor: &JobProcessor, body: &[u8; 32]) {
    let cleared = patiently(|| processor.store.suspect_cleared(body));
    let _stays = timeout(MARK, cleared).await;
}

/// Whether this worker serves a model's lane.
fn is_served(settings: &Settings, model: &str) -> bool {
    let lanes = config::lanes_by_model(&settings.lanes);
    let lane = lanes.get(model).map_or(model, String::as_str);
    settings.intake.lanes.iter().any(|served| served == lane)
}

/// What the process is given beside the job's body.
fn request(delivery: &Delivery, processor: &JobProcessor) -> Request {
    let listed = processor.engine.registry().list();
    let active = listed.iter().filter(|listed| listed.active);
    let split = listed.iter().filter_map(|listed| {
        let share = listed.share?.millionths();
        Some((
            listed.info.name.clone(),
            (listed.info.version.clone(), share),
        ))
    });
    Request {
        message_id: delivery.message_id().map(str::to_owned),
        tries: processor.settler.tries(delivery),
        is_warming: delivery.origin == Origin::Warm,
        waited_ms: u64::try_from(delivery.received.elapsed().as_millis()).unwrap_or(u64::MAX),
        accepted_us: delivery.first_accepted().micros(),
        posted_by: delivery.posted_by().as_deref().map(str::to_owned),
        active: active
            .map(|listed| (listed.info.name.clone(), listed.info.version.clone()))
            .collect(),
        splits: split.collect(),
    }
}

/// Waits for a stop, and then for as long as what runs may take; not where nobody can be answered any more.
async fn overdue(stop: &CancellationToken, limit: Duration, acks: &Acks) {
    stop.cancelled().await;
    let end = Instant::now() + limit;
    while acks.is_open() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        sleep(LOOK.min(left)).await;
    }
}

fn note_unfinished(delivery: &Delivery, end: &End, runs: u32) {
    let reason = match end {
        End::Died(reason) => reason.as_str(),
        _ => "it took longer than intake.suspect_seconds",
    };
    tracing::warn!(
        message_id = delivery.message_id(),
        correlation_id = delivery.correlation_id(),
        trace_id = delivery.trace_id(),
        reason,
        runs,
        "a suspected job didn't end; its process is gone, and the worker goes on"
    );
}

/// The rejection of a job that finished none of its runs.
fn give_up(runs: u32, intake: &Intake) -> Rejection {
    tracing::warn!(
        runs,
        "a job is given up: it ended each process that ran it alone"
    );
    let message = format!(
        "processes died each of the {runs} times that this job ran alone, or it took longer than {} s",
        intake.suspect_seconds
    );
    Rejection::new(Code::Exhausted, "", message)
}

/// Repeats a small statement until the database has answered.
async fn patiently<T: Default, W: Future<Output = Result<T, StoreError>>>(
    statement: impl Fn() -> W,
) -> T {
    let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    match store::until_answered(backoff, statement, |error, _| error.may_pass()).await {
        Ok(value) => value,
        Err(error) => {
            tracing::error!(%error, "the database refuses the mark of a suspected job");
            T::default()
        }
    }
}
