//! Owns the reading of one table: from where, what of it was met, what of it waits to be served, and what of the budget is left.

mod post;
mod tend;

use super::{Follower, lost::Lost, outlay::Outlay, waiting::Waiting, window::Window};
use crate::{
    store::Claim,
    warm::{
        carry::Stopped,
        depths::Depths,
        source::{Beginning, Changes, ChangesSpec, Page, Point, PositionKind, SourceError},
    },
};
use chrono::{DateTime, TimeDelta, Utc};
use post::{Marked, Posted};
use std::time::Duration;
use tend::{Done, spent_before};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What metrics call a namespace that neither the settings nor a model's name give.
const OTHERS: &str = "other";
/// Longest that a row's time is waited for at once.
const FAR: Duration = Duration::from_secs(3_600);

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
    /// Whether some of it is nowhere any more: then the run ends, and the next one begins anew from what is served.
    pub(super) lost: Lost,
    /// Changes before it were there when the table was first followed: they say nothing of how soon a change is served.
    measured_from_us: i64,
    /// When everything was last read, and whether it ever was.
    read: Instant,
    has_read: bool,
    /// The oldest change that is known and isn't posted: when it was read, and how old it was then, in seconds.
    unread: Option<(Instant, f64)>,
    /// What the source is known by.
    digest: [u8; 32],
    /// The clock of the table's own database when it was last read, in microseconds since 1970.
    clock_us: Option<i64>,
    /// When the first row comes that lies in the future.
    ahead: Option<Instant>,
    /// Whether more was met than is remembered.
    is_full: bool,
    /// Whether no number is as high as the one it was followed to, whether to look, and whether that was said.
    has_gone_back: bool,
    looks_back: bool,
    has_said_back: bool,
    /// Whether the clock of the table's database has gone back in this run.
    has_stepped_back: bool,
    done: Done,
    noted: (Instant, Option<i64>),
    /// What the run's row says is in the way.
    said: Option<String>,
    outlay: Outlay,
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
            lost: Lost::of(settings),
            measured_from_us: i64::MIN,
            read: now,
            has_read: false,
            unread: None,
            digest: spec.digest(),
            clock_us: None,
            ahead: None,
            is_full: false,
            has_gone_back: false,
            looks_back: true,
            has_said_back: false,
            has_stepped_back: false,
            done: Done::default(),
            noted: (now, None),
            said: None,
            outlay: Outlay::default(),
            trouble: None,
            namespace: if is_known { namespace } else { OTHERS }.to_owned(),
        })
    }

    /// Begins a run.
    pub(super) async fn start(&mut self, claim: Claim, follower: &Follower) -> Result<(), Stopped> {
        self.claim = claim;
        self.outlay = spent_before(follower, claim).await?;
        self.said = None;
        (self.looks_back, self.has_stepped_back) = (true, false);
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
        let begun = tokio::select! {
            biased;
            () = end.cancelled() => return Ok(Ok(())),
            begun = self.begin(follower, spec) => begun?,
        };
        let is_whole = is_whole || self.last.is_none();
        let read = match begun {
            Ok(floor) => {
                let looking = self.look_back(&floor, schedule);
                if end.run_until_cancelled(looking).await.is_none() {
                    return Ok(Ok(()));
                }
                let from = self.last.clone().filter(|_| !is_whole).unwrap_or(floor);
                self.pages(follower, from, is_whole, until, end).await?
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
            // What is new may be read where what comes late can't be.
            (Ok(()), Some(_)) if is_whole => {
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
            return Ok(Ok(window.floor().clone()));
        }
        let schedule = &follower.schedule.name;
        let known = follower.carrier.store.followed_to(schedule).await?;
        let is_another = known
            .as_ref()
            .is_some_and(|known| !known.is_of(&self.digest));
        let stored = known.filter(|_| !is_another).map(|known| known.position);
        let (kind, position) = match self.changes.begin(spec.from, stored).await {
            Ok(begun) => begun,
            Err(error) => return Ok(Err(error)),
        };
        if is_another {
            tracing::warn!(
                schedule,
                "what is followed is another table or statement than before: it begins anew"
            );
        }
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
        is_whole: bool,
        until: Instant,
        end: &CancellationToken,
    ) -> Result<Result<(), SourceError>, Stopped> {
        let (mut point, reading_began) = (from, Instant::now());
        if let Some((_, window)) = self.window.as_mut().filter(|_| is_whole) {
            window.begin(reading_began, self.clock_us);
        }
        loop {
            let (began, accepted) = (Instant::now(), self.now());
            let page = tokio::select! {
                biased;
                () = end.cancelled() => return Ok(Ok(())),
                page = self.changes.read(&point) => page,
            };
            let page = match page {
                Ok(page) => page,
                Err(error) => return Ok(Err(error)),
            };
            if self.step_back(page.now_us, &follower.schedule.name) {
                return Ok(Ok(()));
            }
            let posting = Posting {
                began,
                accepted,
                now_us: page.now_us,
                until,
                end,
                is_whole,
            };
            let next = match self.take(follower, page, is_whole, &posting).await? {
                Ok(Taken::All) => break,
                Ok(Taken::Next(next)) => next,
                // The rest is read again.
                Ok(Taken::Part) => return Ok(Ok(())),
                Err(error) => return Ok(Err(error)),
            };
            if end.is_cancelled() || Instant::now() >= until {
                return Ok(Ok(()));
            }
            point = next;
            self.tend(follower).await?;
        }
        if is_whole || self.trouble.is_none() {
            (self.read, self.has_read, self.unread) = (reading_began, true, None);
        }
        self.is_full = false;
        Ok(Ok(()))
    }

    /// Posts a page, and goes on behind it.
    async fn take(
        &mut self,
        follower: &Follower,
        page: Page,
        is_whole: bool,
        posting: &Posting<'_>,
    ) -> Result<Result<Taken, SourceError>, Stopped> {
        self.look_at(&page, posting);
        let rows: Vec<Marked> = page.rows.into_iter().map(Marked::of).collect();
        let marks: Vec<(i64, u128)> = rows.iter().map(Marked::at).collect();
        let changed_us = rows.last().and_then(Marked::changed_us);
        let window = self.window.as_ref().map(|(_, window)| window);
        let has_met = |(at, mark): &(i64, u128)| window.is_some_and(|w| w.has_met(*at, *mark));
        let is_news = !marks.iter().all(has_met);
        match self.post(follower, rows, posting).await? {
            Ok(Posted::All) => {}
            Ok(Posted::Settled) => {
                // What there was no room for comes after all that is settled.
                if let Some((_, window)) = self.window.as_mut().filter(|_| is_whole) {
                    window.end();
                }
                return Ok(Ok(Taken::Part));
            }
            Ok(Posted::Part) => return Ok(Ok(Taken::Part)),
            Err(error) => return Ok(Err(error)),
        }
        if let Some((_, window)) = self.window.as_mut().filter(|_| is_whole) {
            if let Some(covered) = &page.covered {
                window.cover(covered, &marks);
            }
            if page.is_last {
                window.end();
            }
        }
        self.last = page.next.clone().or(self.last.take());
        Ok(Ok(match page.next {
            Some(next) if !page.is_last => {
                if is_news {
                    // What comes next is no older.
                    let age = self.age(changed_us, posting);
                    self.unread = Some((posting.began, age.unwrap_or(0.0)));
                }
                Taken::Next(next)
            }
            _ => Taken::All,
        }))
    }

    fn look_at(&mut self, page: &Page, posting: &Posting<'_>) {
        let now = Instant::now();
        if self.measured_from_us == i64::MAX {
            self.measured_from_us = page.now_us;
        }
        self.ahead = page.ahead.map(|at| {
            let rest = u64::try_from(at.saturating_sub(page.now_us)).unwrap_or_default();
            posting.began + Duration::from_micros(rest).min(FAR)
        });
        if let Some((kind, window)) = &mut self.window {
            if let Some(last) = page.rows.last() {
                window.see(now, last.at.position);
            }
            self.clock_us = (*kind == PositionKind::Moment).then_some(page.now_us);
        }
    }

    /// How old a change was when its page was read, in seconds, where its age counts.
    fn age(&self, changed_us: Option<i64>, posting: &Posting<'_>) -> Option<f64> {
        let Some(at) = changed_us else {
            return Some(0.0);
        };
        let age = posting.now_us.saturating_sub(at).max(0) as f64 / 1e6;
        (at >= self.measured_from_us).then_some(age)
    }

    /// When the table is to be read before its turn, since a row comes that lay in the future; said once if it has come meanwhile.
    pub(super) fn comes(&mut self, now: Instant) -> Option<Instant> {
        self.ahead.take_if(|at| *at <= now).or(self.ahead)
    }

    /// Whether more was met than is remembered, so that it takes time until there is room again.
    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    /// Whether the whole of it couldn't be read when that was tried last.
    pub(super) fn is_in_trouble(&self) -> bool {
        self.trouble.is_some()
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

/// What became of a page.
enum Taken {
    /// It was the last one.
    All,
    /// Another one comes after this point.
    Next(Point),
    /// There is no room for all of it now.
    Part,
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
    /// Whether it is a part of a reading from the floor.
    is_whole: bool,
}
