//! Owns the reading of one table: from where, what of it was met, what of it waits to be served, and what of the budget is left.

mod post;
mod tend;

use super::{Follower, waiting::Waiting, window::Window};
use crate::{
    store::Claim,
    warm::{
        carry::Stopped,
        depths::Depths,
        source::{Beginning, Changes, ChangesSpec, Point, PositionKind, SourceError},
    },
};
use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What metrics call a namespace that neither the settings nor a model's name give.
const OTHERS: &str = "other";

/// What was done since it was noted.
#[derive(Default)]
struct Done {
    posted: i64,
    bad: i64,
    jobs: i64,
    model_seconds: f64,
}

/// The reading of a table.
pub(super) struct Reading {
    changes: Changes,
    depths: Depths,
    claim: Claim,
    /// Kiln's database's clock, and when it was asked.
    clock: (DateTime<Utc>, Instant),
    /// What positions are, and what was met of them; nothing before the table was first read.
    window: Option<(PositionKind, Window)>,
    /// Where the latest reading ended.
    last: Option<Point>,
    waiting: Waiting,
    /// Changes before it were there when the table was first followed: they say nothing of how soon a change is served.
    measured_from_us: i64,
    /// When everything was last read.
    read: Instant,
    done: Done,
    noted: (Instant, Option<i64>),
    spent: (usize, f64),
    trouble: Option<String>,
    namespace: String,
}

impl Reading {
    pub(super) fn new(follower: &Follower, spec: &ChangesSpec) -> Result<Self, SourceError> {
        let settings = &follower.carrier.settings;
        let namespace = follower.schedule.namespace();
        let models = follower.carrier.engine.registry().list();
        let is_known = settings.namespaces.contains_key(namespace)
            || models.iter().any(|model| model.info.name == namespace);
        let now = Instant::now();
        Ok(Self {
            changes: Changes::new(spec, settings)?,
            depths: Depths::default(),
            claim: Claim { id: 0, token: 0 },
            clock: (DateTime::UNIX_EPOCH, now),
            window: None,
            last: None,
            waiting: Waiting::default(),
            measured_from_us: i64::MIN,
            read: now,
            done: Done::default(),
            noted: (now, None),
            spent: (0, 0.0),
            trouble: None,
            namespace: if is_known { namespace } else { OTHERS }.to_owned(),
        })
    }

    /// Begins a run.
    pub(super) async fn start(&mut self, claim: Claim, follower: &Follower) -> Result<(), Stopped> {
        self.claim = claim;
        self.spent = (0, 0.0);
        self.done = Done::default();
        self.clock = (follower.carrier.store.clock().await?, Instant::now());
        let own = follower
            .carrier
            .settings
            .namespaces
            .get(follower.schedule.namespace());
        if let Some(seconds) = own.and_then(|own| own.max_staleness_seconds) {
            follower
                .carrier
                .metrics
                .max_staleness(&self.namespace, seconds);
        }
        Ok(())
    }

    /// Reads what has changed and posts it; all that may have committed late where it is `whole`. The inner error is the table's: it is
    /// said when it is news.
    pub(super) async fn read(
        &mut self,
        follower: &Follower,
        spec: &ChangesSpec,
        is_whole: bool,
        until: Instant,
        end: &CancellationToken,
    ) -> Result<Result<(), SourceError>, Stopped> {
        if self.is_spent(follower) {
            return Ok(Ok(()));
        }
        let schedule = &follower.schedule.name;
        let read = match self.begin(follower, spec).await? {
            Ok(from) => {
                let from = match &self.last {
                    Some(last) if !is_whole => last.clone(),
                    _ => from,
                };
                self.pages(follower, from, until, end).await?
            }
            Err(error) => Err(error),
        };
        match (&read, &self.trouble) {
            (Err(error), before) if before.as_ref() != Some(&error.0) => {
                tracing::warn!(
                    schedule,
                    reason = error.0,
                    "a table can't be followed; it is tried again"
                );
                self.trouble = Some(error.0.clone());
            }
            (Ok(()), Some(_)) => {
                tracing::info!(schedule, "a table is followed again");
                self.trouble = None;
            }
            _ => {}
        }
        Ok(read)
    }

    /// Where what may be new begins. The first time, the position is made durable before anything is read.
    async fn begin(
        &mut self,
        follower: &Follower,
        spec: &ChangesSpec,
    ) -> Result<Result<Point, SourceError>, Stopped> {
        if let Some((_, window)) = &self.window {
            return Ok(Ok(Point::after(window.floor())));
        }
        let stored = follower
            .carrier
            .store
            .followed_to(&follower.schedule.name)
            .await?;
        let (kind, position) = match self.changes.begin(spec.from, stored).await {
            Ok(begun) => begun,
            Err(error) => return Ok(Err(error)),
        };
        if spec.from == Beginning::Start && stored.is_none() {
            self.measured_from_us = i64::MAX;
        }
        self.window = Some((kind, Window::new(spec.overlap(), position)));
        self.note(follower, None).await?;
        Ok(Ok(Point::after(position)))
    }

    async fn pages(
        &mut self,
        follower: &Follower,
        from: Point,
        until: Instant,
        end: &CancellationToken,
    ) -> Result<Result<(), SourceError>, Stopped> {
        let mut point = from;
        loop {
            let (began, accepted) = (Instant::now(), self.now());
            let page = match self.changes.read(&point).await {
                Ok(page) => page,
                Err(error) => return Ok(Err(error)),
            };
            if self.measured_from_us == i64::MAX {
                self.measured_from_us = page.now_us;
            }
            let posting = Posting {
                began,
                accepted,
                now_us: page.now_us,
                until,
                end,
            };
            match self.post(follower, page.rows, &posting).await? {
                Ok(true) => {}
                // The rest is read again.
                Ok(false) => return Ok(Ok(())),
                Err(error) => return Ok(Err(error)),
            }
            if let Some((kind, window)) = &mut self.window {
                // What lies in the future doesn't hide what comes before it.
                let latest = match kind {
                    PositionKind::Sequence => i64::MAX,
                    PositionKind::Moment => page.now_us,
                };
                window.pass(began, page.complete.unwrap_or(window.floor()).min(latest));
                let next = page.next.clone().unwrap_or(point);
                self.last = Some(next.min(Point::after(latest)));
            }
            match page.next {
                Some(next) if !page.is_last && !end.is_cancelled() && Instant::now() < until => {
                    point = next
                }
                _ => break,
            }
            self.tend(follower).await?;
        }
        self.read = Instant::now();
        Ok(Ok(()))
    }

    /// Whether something that was posted isn't served yet.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Waits until the database tells of a change.
    pub(super) async fn changed(&mut self) {
        self.changes.changed().await;
    }

    pub(super) async fn close(&mut self) {
        self.changes.close().await;
    }

    /// Kiln's database's clock now.
    fn now(&self) -> DateTime<Utc> {
        let since = TimeDelta::from_std(self.clock.1.elapsed());
        self.clock.0 + since.unwrap_or_default()
    }
}

/// Under which conditions a page is posted.
struct Posting<'a> {
    /// When it was about to be read, here and by Kiln's database's clock.
    began: Instant,
    accepted: DateTime<Utc>,
    /// When it was read, by the clock of its own database, in microseconds since 1970.
    now_us: i64,
    until: Instant,
    end: &'a CancellationToken,
}
