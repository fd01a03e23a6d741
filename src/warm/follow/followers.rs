//! Owns which tables this worker follows: claims those that nobody follows, takes over those whose worker is gone, and ends those whose schedule is
//! gone, paused or another one by now.

use super::{Behind, Follower};
use crate::{
    redact::Redact,
    store::{Claim, StoreError},
    warm::{
        carry::{Carrier, Stopped, TOO_LONG},
        schedule::Schedule,
    },
};
use anyhow::bail;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Tables that one worker follows at the same time; the others are left to other workers.
const MAX_TABLES: usize = 32;
/// How often it is looked for tables that nobody follows.
const LOOK: Duration = Duration::from_secs(2);
/// How soon a table is followed again whose run failed.
const REST: Duration = Duration::from_secs(30);

/// One that is followed, by which version of its schedule, and what ends it.
struct Held {
    number: u64,
    schedule: Arc<Schedule>,
    end: CancellationToken,
}

/// The tables that this worker follows.
pub(in crate::warm) struct Followers {
    tasks: JoinSet<(String, u64, bool)>,
    /// How many were started.
    started: u64,
    held: BTreeMap<String, Held>,
    /// When those may be followed again whose run failed.
    rests: BTreeMap<String, Instant>,
    looked: Option<Instant>,
    /// Whether it was said that there are more than this worker follows.
    has_said_full: bool,
    behind: Behind,
    stop: CancellationToken,
}

impl Followers {
    /// None yet; `stop` ends them with the worker.
    pub(in crate::warm) fn new(stop: CancellationToken) -> Self {
        Self {
            tasks: JoinSet::new(),
            started: 0,
            held: BTreeMap::new(),
            rests: BTreeMap::new(),
            looked: None,
            has_said_full: false,
            behind: Behind::default(),
            stop,
        }
    }

    /// Forgets those that have ended.
    pub(in crate::warm) fn reap(&mut self) -> anyhow::Result<()> {
        while let Some(ended) = self.tasks.try_join_next() {
            match ended {
                Ok((name, number, failed)) => {
                    // One that was taken over from may end after the one that it was taken over by began.
                    if self
                        .held
                        .get(&name)
                        .is_some_and(|held| held.number == number)
                    {
                        self.held.remove(&name);
                    }
                    if failed {
                        self.rests.insert(name, Instant::now() + REST);
                    }
                }
                Err(error) => bail!("what follows a table ended: {}", error.redacted()),
            }
        }
        Ok(())
    }

    /// Ends those that aren't wanted any more, and follows what nobody does.
    pub(in crate::warm) async fn tend(
        &mut self,
        carrier: &Carrier,
        worker: &str,
        wanted: &[&Arc<Schedule>],
    ) -> Result<(), StoreError> {
        let is_wanted = |held: &Held| wanted.iter().any(|one| Arc::ptr_eq(one, &held.schedule));
        for held in self.held.values().filter(|held| !is_wanted(held)) {
            held.end.cancel();
        }
        if self.looked.is_some_and(|at| at.elapsed() < LOOK) {
            return Ok(());
        }
        let now = Instant::now();
        self.rests.retain(|_, until| *until > now);
        let is_free = |schedule: &&&Arc<Schedule>| {
            schedule.follows()
                && !self.held.contains_key(&schedule.name)
                && !self.rests.contains_key(&schedule.name)
        };
        let free: Vec<Arc<Schedule>> = wanted
            .iter()
            .filter(is_free)
            .map(|one| (*one).clone())
            .collect();
        if free.is_empty() {
            return Ok(());
        }
        self.looked = Some(now);
        let names: Vec<&str> = free.iter().map(|schedule| schedule.name.as_str()).collect();
        let unclaimed = carrier.store.unclaimed(&names).await?;
        for schedule in free.iter().filter(|one| unclaimed.contains(&one.name)) {
            if self.held.len() >= MAX_TABLES || self.stop.is_cancelled() {
                self.say_full(unclaimed.len());
                break;
            }
            let limit = schedule.limit * 2;
            let claim =
                carrier
                    .store
                    .claim_following(&schedule.name, worker, carrier.life(), limit);
            if let Some(claim) = claim.await? {
                self.start(carrier, worker, schedule.clone(), claim);
            }
        }
        Ok(())
    }

    /// Says once that tables wait for another worker.
    fn say_full(&mut self, waiting: usize) {
        if !self.stop.is_cancelled() && !std::mem::replace(&mut self.has_said_full, true) {
            tracing::warn!(
                waiting,
                "this worker follows {MAX_TABLES} tables, and no more: the others wait until another worker follows them"
            );
        }
    }

    /// Follows the tables on whose runs nobody goes on. They need no room among the runs that have an end.
    pub(in crate::warm) async fn take_over(
        &mut self,
        carrier: &Carrier,
        worker: &str,
        wanted: &[&Arc<Schedule>],
    ) -> Result<(), StoreError> {
        let of_others = |schedule: &&&Arc<Schedule>| {
            schedule.follows() && !self.held.contains_key(&schedule.name)
        };
        let lying: Vec<&Arc<Schedule>> = wanted.iter().filter(of_others).copied().collect();
        let names: Vec<&str> = lying.iter().map(|one| one.name.as_str()).collect();
        while !names.is_empty() && self.held.len() < MAX_TABLES && !self.stop.is_cancelled() {
            let taken = carrier
                .store
                .take_following_over(worker, &names, carrier.life());
            let Some((claim, name, is_over)) = taken.await? else {
                break;
            };
            tracing::info!(schedule = name, run = claim.id, "a run is taken over");
            match lying.iter().find(|one| one.name == name) {
                Some(schedule) if !is_over => {
                    self.start(carrier, worker, Arc::clone(schedule), claim);
                }
                _ => {
                    let failed = Err(Stopped::Failed(TOO_LONG.to_owned()));
                    carrier.end(claim, &name, failed).await;
                }
            }
        }
        Ok(())
    }

    /// Follows a table under a claim.
    pub(in crate::warm) fn start(
        &mut self,
        carrier: &Carrier,
        worker: &str,
        schedule: Arc<Schedule>,
        claim: Claim,
    ) {
        let end = CancellationToken::new();
        let follower = Follower {
            carrier: carrier.clone(),
            schedule: schedule.clone(),
            worker: worker.to_owned(),
            behind: self.behind.clone(),
        };
        let (name, stop, ending) = (schedule.name.clone(), self.stop.clone(), end.clone());
        tracing::info!(schedule = name, run = claim.id, "a table is followed");
        self.started += 1;
        let number = self.started;
        let held = Held {
            number,
            schedule,
            end,
        };
        self.held.insert(name.clone(), held);
        self.tasks.spawn(async move {
            let failed = follower.follow(claim, &stop, &ending).await;
            (name, number, failed)
        });
    }

    /// Waits until each has heard of the stop.
    pub(in crate::warm) async fn join(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}
