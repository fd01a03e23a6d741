//! The task that runs suspects, one after the other, in a process beside the worker.
//!
//! Promises that only a process that ended, or a run that took too long, counts against a job.

use super::{
    child::{Child, End, Program},
    held::{Suspect, Suspects},
    protocol::Request,
    queue::History,
};
use crate::{
    amqp::{ack::Acks, delivery::Delivery, topology::Origin},
    backoff::Backoff,
    config::Intake,
    pipeline::Outcome,
    store::{self, StoreError},
    telemetry::metrics::CloseReason,
    worker::drain::DrainLimits,
};
use kiln_contract::failure::{Code, Rejection};
use kiln_contract::key;
use kiln_model::Registry;
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long a process is kept without a suspect.
const IDLE: Duration = Duration::from_secs(10);
/// Waits between attempts to start a process, or to load a model.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const MAX_WAIT: Duration = Duration::from_secs(30);
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
            let again = tokio::select! {
                biased;
                again = self.attempt(&mut host, suspect, history, &stop) => again,
                () = overdue(&stop, limits.jobs, &acks) => {
                    tracing::info!("a suspected job goes back to its queue unfinished");
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
        let body = &suspect.delivery.body;
        if suspect.delivery.verdict().is_some() || body.len() > intake.max_body_bytes {
            // It is rejected unseen.
            self.reject(suspect, None).await;
            return None;
        }
        let body = key::hash_body(body);
        let Some(runs) = history.runs else {
            let known = patiently(|| store.suspect_runs(&body));
            let runs = Some(stop.run_until_cancelled(known).await?);
            return Some((suspect, History { runs, ..history }));
        };
        if runs >= intake.suspect_runs {
            self.reject(suspect, Some(give_up(runs, intake))).await;
            let cleared = patiently(|| store.suspect_cleared(&body));
            stop.run_until_cancelled(cleared).await?;
            return None;
        }
        if history.unserved > 0 && !self.rest(host, stop, true).await? {
            // Somebody came who may go first.
            return Some((suspect, history));
        }
        if !stop.run_until_cancelled(host.ready()).await? {
            self.rest(host, stop, false).await?;
            return Some((suspect, history));
        }
        host.counted = Some(Counted { body, runs });
        let counted = patiently(|| store.suspect_started(&body, runs + 1));
        stop.run_until_cancelled(counted).await?;
        self.run_one(host, suspect, history, runs + 1).await
    }

    /// Waits before another attempt: to the end, or until another suspect comes; none where all are to be returned.
    async fn rest(
        &self,
        host: &mut Host,
        stop: &CancellationToken,
        wakes_for_others: bool,
    ) -> Option<bool> {
        tokio::select! {
            () = sleep(host.backoff.next_wait()) => Some(true),
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
        let request = request(delivery, processor.engine.registry());
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
                let body = key::hash_body(&delivery.body);
                processor
                    .conclude(delivery, in_hand, outcome, (begun, counts))
                    .await;
                let cleared = patiently(|| processor.store.suspect_cleared(&body));
                // A mark that stays behind is that of a job which is acknowledged.
                let _stays = timeout(MARK, cleared).await;
                host.counted = None;
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
                self.reject(suspect, Some(unknown)).await;
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

    /// Ends a job that no model sees: this worker's own engine writes its row.
    async fn reject(&self, suspect: Suspect, given_up: Option<Rejection>) {
        let (delivery, in_hand) = suspect.into_parts();
        self.processor().work(delivery, given_up).await;
        drop(in_hand);
    }
}

/// A run that is counted, of a job that had so many unfinished ones before.
struct Counted {
    body: [u8; 32],
    runs: u32,
}

/// The process, if there is one.
struct Host {
    program: Program,
    child: Option<Child>,
    backoff: Backoff,
    /// What was reported not to work: the process by an empty name, or a model by its own.
    reported: BTreeSet<String>,
    counted: Option<Counted>,
}

impl Host {
    fn new(program: Program) -> Self {
        Self {
            program,
            child: None,
            backoff: Backoff::new(FIRST_WAIT, MAX_WAIT),
            reported: BTreeSet::new(),
            counted: None,
        }
    }

    /// Whether there is a process that takes a job, started where there was none.
    async fn ready(&mut self) -> bool {
        if self.child.as_mut().is_some_and(Child::is_alive) {
            return true;
        }
        self.child = None;
        match Child::start(&self.program).await {
            Ok(child) => {
                self.works_again("");
                self.child = Some(child);
                true
            }
            Err(reason) => {
                self.report("", &reason);
                false
            }
        }
    }

    /// Has it end by itself.
    async fn close(&mut self) {
        if let Some(child) = self.child.take() {
            child.close().await;
        }
    }

    async fn kill(&mut self) {
        if let Some(child) = self.child.take() {
            child.kill().await;
        }
    }

    /// Reports what keeps suspects waiting: once, as an error.
    fn report(&mut self, model: &str, reason: &str) {
        let is_known = !self.reported.insert(model.to_owned());
        if is_known {
            tracing::debug!(model, reason, "suspected jobs still wait");
        } else if model.is_empty() {
            tracing::error!(
                reason,
                "the process for suspected jobs can't be started; they wait"
            );
        } else {
            tracing::error!(
                model,
                reason,
                "suspected jobs wait for a model that their process can't load"
            );
        }
    }

    fn works_again(&mut self, model: &str) {
        if self.reported.remove(model) {
            tracing::info!(model, "suspected jobs go on");
        }
    }

    fn went_well(&mut self, outcome: &Outcome) {
        self.backoff.reset();
        if let Outcome::Done { result, .. } = outcome {
            self.works_again(&result.model);
        }
    }
}

fn model_name(reference: &str) -> &str {
    reference.split('@').next().unwrap_or_default()
}

/// What the process is given beside the job's body.
fn request(delivery: &Delivery, registry: &Registry) -> Request {
    let active = registry.list().into_iter().filter(|listed| listed.active);
    Request {
        message_id: delivery.message_id().map(str::to_owned),
        tries: delivery.tries(),
        is_warming: delivery.origin == Origin::Warm,
        waited_ms: u64::try_from(delivery.received.elapsed().as_millis()).unwrap_or(u64::MAX),
        active: active
            .map(|listed| (listed.info.name, listed.info.version))
            .collect(),
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
