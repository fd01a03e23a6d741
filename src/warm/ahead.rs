//! Has ready what probably is asked for next: the followers of what was asked for just now, where a schedule wants that.
//!
//! Promises that only what isn't ready is posted ([`ready`]), within a half of a schedule's budget from one run to the next, over all workers; that
//! nothing waits for it, and one schedule for another no longer than a few seconds; and that what can't be posted now is let go: a moment later it is
//! of no use.

mod due;
mod looked_at;
mod ready;

use super::{
    carry::{Carrier, Stopped},
    depths::Depths,
    folder::Folder,
    gather::pieces::write_content,
    known::Renewing,
    schedule::{Keep, Schedule},
    source::SourceSpec,
};
use crate::{
    amqp::message::{self, Message},
    backoff::Backoff,
    cache::Capacity,
    heat::{
        Heat, HeatScope,
        ahead::{MAX_SCOPES, Next},
    },
    store::{News, Paused, Post, RunPiece, SCHEDULE, SpentAhead},
    telemetry::metrics::WarmInput,
};
use due::{Due, WITHIN_SECONDS};
use kiln_contract::job::{JobWriter, OnError};
use looked_at::LookedAt;
use rand::Rng;
use ready::Looking;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often what was asked for is looked at.
const TICK: Duration = Duration::from_millis(200);
/// How often the schedules are, in ticks.
const SCHEDULES_TICKS: u64 = 5;
/// How long one look of one schedule may take, the broker's answer included.
const LIMIT: Duration = Duration::from_secs(3);
/// How long a schedule rests whose look failed, at first and at the utmost.
const RESTS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(30)];
/// How long what others have spent is taken to be so, and what Redis said of its memory.
const KNOWN_FOR: Duration = Duration::from_secs(1);
const CAPACITY_FOR: Duration = Duration::from_secs(5);
/// Followers that are looked at together, and bytes of their inputs that are posted together: the others come again with their next request.
const MAX_AT_ONCE: usize = 64;
const HANDFUL_BYTES: usize = 4 << 20;
/// About what an input's entries fill of Redis, in bytes, and the share of its memory up to which one that makes no room by itself is filled.
const ENTRY_BYTES: f64 = 700.0;
const BRIM: f64 = 0.95;
/// Priority of its jobs: readers ask for them in a moment.
const URGENT: u8 = 5;

/// What posts followers.
#[derive(Clone)]
pub struct AheadPoster {
    pub carrier: Carrier,
    pub folder: Arc<Mutex<Folder>>,
    pub heat: Arc<Heat>,
    /// What operators have paused.
    pub news: watch::Receiver<Option<Arc<News>>>,
}

/// What is known of one schedule from one look to the next.
struct State {
    looked_at: LookedAt,
    spent: Option<(SpentAhead, Instant)>,
    rests: Backoff,
    /// Nothing is looked at before that.
    not_before: Instant,
}

impl Default for State {
    fn default() -> Self {
        let [first, last] = RESTS;
        Self {
            looked_at: LookedAt::default(),
            spent: None,
            rests: Backoff::new(first, last),
            not_before: Instant::now(),
        }
    }
}

/// What is known of the servers.
#[derive(Default)]
struct Servers {
    depths: Depths,
    /// What Redis said of its memory, if it says that, and when.
    capacity: Option<(Option<Capacity>, Instant)>,
    /// Keys that Redis had evicted when it was asked before, if it was.
    evicted_keys: Option<u64>,
}

impl AheadPoster {
    /// Posts until it is asked to stop.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut schedules, mut ticks, mut has_said) = (Vec::new(), 0u64, false);
        let mut states: BTreeMap<String, State> = BTreeMap::new();
        let mut servers = Servers::default();
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            if ticks.is_multiple_of(SCHEDULES_TICKS) {
                schedules = self.schedules(&mut has_said);
                states.retain(|name, _| schedules.iter().any(|one| one.name == *name));
            }
            ticks += 1;
            let (next, _) = self.heat.ahead.take();
            for (of, next) in next {
                for schedule in schedules.iter().filter(|one| scope(one) == of) {
                    let state = states.entry(schedule.name.clone()).or_default();
                    let look = self.look(schedule, next.clone(), state, &mut servers);
                    if stop.run_until_cancelled(look).await.is_none() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// The schedules that want it, whose namespaces are followed from now on; none before it is known what is paused.
    fn schedules(&self, has_said: &mut bool) -> Vec<Arc<Schedule>> {
        let news = self.news.borrow().clone();
        let mut all = Vec::new();
        if let Some(news) = news {
            let is_paused = |schedule: &Schedule| {
                let held = |one: &Paused| one.name.strip_prefix(SCHEDULE) == Some(&schedule.name);
                news.paused.iter().any(held)
            };
            let folder = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
            all = folder.schedules();
            drop(folder);
            all.retain(|one| {
                let wants = matches!(&one.source, SourceSpec::Heat(spec) if spec.follow);
                wants && one.enabled && !is_paused(one)
            });
        }
        let scopes: BTreeSet<HeatScope> = all.iter().map(|one| scope(one)).collect();
        let left_out = self.heat.ahead.follow(&scopes);
        if left_out > 0 && !std::mem::replace(has_said, true) {
            tracing::warn!(
                left_out,
                "`follow` is for {MAX_SCOPES} namespaces at once: what comes next in the others is left to their runs"
            );
        }
        all
    }

    /// Looks at what comes next of one schedule; one that fails rests for a while.
    async fn look(
        &self,
        schedule: &Schedule,
        next: Next,
        state: &mut State,
        servers: &mut Servers,
    ) {
        let now = Instant::now();
        let mut next = state.looked_at.due(next, now);
        next.truncate(MAX_AT_ONCE);
        if next.is_empty() || now < state.not_before {
            return;
        }
        let work = self.make_ready(schedule, next, state, servers);
        let reason = match tokio::time::timeout(LIMIT, work).await {
            Ok(Ok(())) => return state.rests.reset(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("not done within {LIMIT:?}"),
        };
        // That a server fails is told by its own check, and that a schedule does by its runs.
        tracing::debug!(
            schedule = schedule.name,
            reason,
            "what comes next isn't ready"
        );
        state.not_before = Instant::now() + state.rests.next_wait();
    }

    async fn make_ready(
        &self,
        schedule: &Schedule,
        next: Next,
        state: &mut State,
        servers: &mut Servers,
    ) -> Result<(), Stopped> {
        let spent = self.spent(schedule, state).await?;
        let budget = schedule.budget.ahead();
        let left = budget.less(&spent);
        let seconds = left.model_seconds.unwrap_or(f64::INFINITY);
        let is_spent = left.renewals == 0 && (left.inputs == 0 || seconds <= 0.0);
        if is_spent || !self.has_memory(&spent, servers).await {
            return Ok(());
        }
        let looking = Looking::new(&self.carrier, schedule)?;
        let due = looking.due(next, &mut state.looked_at).await?;
        let may_guess = schedule.budget.model_seconds.is_none();
        let (mut spends, mut bytes) = (SpentAhead::default(), 0);
        let affordable = due.into_iter().filter(|one| {
            let with = one.added_to(spends);
            let with_bytes = bytes + one.content.bytes();
            let is_within = with_bytes <= HANDFUL_BYTES
                && with.inputs <= count(left.inputs)
                && with.model_seconds <= seconds
                && with.renewals <= count(left.renewals)
                && (may_guess || one.is_measured || !one.computes);
            if is_within {
                (spends, bytes) = (with, with_bytes);
            }
            is_within
        });
        let affordable: Vec<Due> = affordable.collect();
        let carrier = &self.carrier;
        let (broker, settings) = (&carrier.broker, &carrier.settings.warm);
        if affordable.is_empty() {
            return Ok(());
        }
        if !servers
            .depths
            .have_room(broker, &carrier.topology, settings)
            .await
        {
            return Err(Stopped::Later("the queues have no room".to_owned()));
        }
        let (store, budget) = (&carrier.store, budget.whole());
        state.spent = None;
        if store.spend_ahead(&schedule.name, spends, budget).await? {
            self.publish(schedule, &affordable).await?;
            state.looked_at.posted(&affordable, Instant::now());
            let inputs = spends.inputs + spends.renewals;
            carrier
                .metrics
                .warm_inputs(&schedule.name, WarmInput::Ahead, inputs);
        }
        Ok(())
    }

    /// What all workers have spent since the latest run, as it was known a moment ago.
    async fn spent(&self, schedule: &Schedule, state: &mut State) -> Result<SpentAhead, Stopped> {
        if let Some((spent, at)) = state.spent
            && at.elapsed() < KNOWN_FOR
        {
            return Ok(spent);
        }
        let spent = self.carrier.store.spent_ahead(&schedule.name, None).await?;
        state.spent = Some((spent, Instant::now()));
        Ok(spent)
    }

    /// Whether Redis has memory for more: it evicts nothing, and what was spent since the latest run fills no more than warming may.
    async fn has_memory(&self, spent: &SpentAhead, servers: &mut Servers) -> bool {
        let Some(redis) = self.carrier.engine.cache().server() else {
            return false;
        };
        let is_known = |(_, at): &(_, Instant)| at.elapsed() < CAPACITY_FOR;
        if !servers.capacity.as_ref().is_some_and(is_known) {
            let before = servers.capacity.take().and_then(|(before, _)| before);
            servers.evicted_keys = before.map(|before| before.evicted_keys);
            servers.capacity = Some((redis.capacity().await, Instant::now()));
        }
        let Some((Some(capacity), _)) = &servers.capacity else {
            // One that doesn't say bounds nothing, here as in runs.
            return true;
        };
        let before = servers.evicted_keys;
        let evicts = before.is_some_and(|before| capacity.evicted_keys > before);
        let is_full = !capacity.makes_room && capacity.used as f64 > capacity.max as f64 * BRIM;
        let share = self.carrier.settings.warm.max_redis_share;
        let bytes = (spent.inputs + spent.renewals) as f64 * ENTRY_BYTES;
        !evicts && !is_full && bytes <= capacity.max as f64 * share
    }

    async fn publish(&self, schedule: &Schedule, due: &[Due]) -> Result<(), Stopped> {
        let carrier = &self.carrier;
        // A name like those of runs' jobs: what they say is memory, and no producer's word.
        let run = rand::rng().random_range(1 << 61..i64::MAX);
        let bodies: Vec<Vec<u8>> = due.iter().map(|one| body(schedule, one)).collect();
        let posts = due.iter().zip(&bodies).zip(0..);
        let posts: Vec<Post> = posts
            .map(|((one, body), piece)| one.post(piece, body.len()))
            .collect();
        let renewing = Renewing {
            cache: carrier.engine.cache(),
            store: &carrier.store,
            registry: carrier.engine.registry(),
            settings: &carrier.settings,
            waits: Duration::from_secs_f64(WITHIN_SECONDS),
        };
        renewing.put_back(run, posts.iter().zip(&bodies)).await?;
        let messages = bodies.into_iter().zip(due).zip(0..);
        let messages = messages.map(|((body, one), piece)| {
            let id = RunPiece { run, piece }.job_id();
            let mut message = message::job(&carrier.topology.warm, &id, body);
            message.properties = message.properties.with_priority(URGENT);
            message::accepted(message, one.accepted)
        });
        let messages: Vec<Message> = messages.collect();
        let posted = carrier.publisher.publish(messages).await;
        posted.map_err(|error| Stopped::Failed(error.to_string()))
    }
}

/// A job of one input: each has an age of its own.
fn body(schedule: &Schedule, due: &Due) -> Vec<u8> {
    let mut job = JobWriter::new();
    job.model(&schedule.model).namespace(schedule.namespace());
    job.inputs([due], |input, due| {
        if let Some(key) = &due.key {
            input.key(key);
        }
        write_content(input, &due.content);
    });
    if schedule.keep == Keep::Named && due.key.is_some() {
        job.named(true);
    }
    job.ttl_seconds(due.ttl_seconds).on_error(OnError::Skip);
    if let Some(as_of) = &due.as_of {
        job.as_of(as_of);
    }
    job.finish()
}

/// What a schedule's jobs are counted as.
fn scope(schedule: &Schedule) -> HeatScope {
    HeatScope {
        namespace: schedule.namespace().to_owned(),
        model: schedule.model_name().to_owned(),
    }
}

fn count(inputs: usize) -> i64 {
    i64::try_from(inputs).unwrap_or(i64::MAX)
}
