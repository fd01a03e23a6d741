//! Owns whose turn it is: work of several namespaces, taken by deficit round robin over the seconds that it costs.
//!
//! Promises that a namespace with much waiting delays another's next work by about a turn, whatever its backlog; that shares follow
//! the weights; and that a namespace with a limit gets no more than that, while the others go on. Pure: the caller says what time it is.
//!
//! Source: M. Shreedhar and G. Varghese, "Efficient Fair Queuing Using Deficit Round Robin", 1995; credit may become negative here, and
//! is corrected once the true cost is known.

use crate::pipeline::share::Share;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

/// Turns that a namespace may be behind after work that cost more than was expected.
const MAX_DEBT_TURNS: f64 = 4.0;
/// Lowest weight: a namespace of less would hardly ever have a turn.
const MIN_WEIGHT: f64 = 0.01;

/// What a piece of work costs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
    /// Expected model seconds.
    pub seconds: f64,
    /// Its part of a job.
    pub jobs: f64,
}

/// An allowance that refills with time, up to a second's worth.
#[derive(Debug)]
struct Bucket {
    per_second: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    fn new(per_second: f64, now: Instant) -> Self {
        Self {
            per_second: per_second.max(1e-6),
            level: per_second,
            at: now,
        }
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + passed * self.per_second).min(self.per_second);
        self.at = now;
    }

    /// When something may be taken again, if not now.
    fn wait(&self) -> Option<Duration> {
        (self.level <= 0.0).then(|| {
            let seconds = (1e-9 - self.level) / self.per_second;
            Duration::try_from_secs_f64(seconds.min(3_600.0)).unwrap_or_default()
        })
    }
}

#[derive(Debug)]
struct Waiting<T> {
    item: T,
    cost: Cost,
    since: Instant,
}

#[derive(Debug)]
struct Queue<T> {
    first: VecDeque<Waiting<T>>,
    normal: VecDeque<Waiting<T>>,
    weight: f64,
    credit: f64,
    /// What all that waits costs.
    waiting: Cost,
    limits: [Option<Bucket>; 2],
}

impl<T> Queue<T> {
    fn new(share: Share, turn: f64, now: Instant) -> Self {
        let weight = share.weight.max(MIN_WEIGHT);
        let bucket = |limit: Option<f64>| limit.map(|limit| Bucket::new(limit, now));
        Self {
            first: VecDeque::new(),
            normal: VecDeque::new(),
            weight,
            credit: turn * weight,
            waiting: Cost::default(),
            limits: [
                bucket(share.max_seconds_per_second),
                bucket(share.max_jobs_per_second),
            ],
        }
    }

    fn is_empty(&self) -> bool {
        self.first.is_empty() && self.normal.is_empty()
    }

    fn head(&self) -> Option<&Waiting<T>> {
        self.first.front().or_else(|| self.normal.front())
    }

    fn pop(&mut self) -> Option<Waiting<T>> {
        let taken = self.first.pop_front().or_else(|| self.normal.pop_front())?;
        let Cost { seconds, jobs } = taken.cost;
        self.waiting.seconds = (self.waiting.seconds - seconds).max(0.0);
        self.waiting.jobs = (self.waiting.jobs - jobs).max(0.0);
        self.credit -= seconds;
        self.spend(taken.cost);
        Some(taken)
    }

    fn spend(&mut self, cost: Cost) {
        let costs = [cost.seconds, cost.jobs];
        for (bucket, cost) in self.limits.iter_mut().zip(costs) {
            if let Some(bucket) = bucket {
                bucket.level = (bucket.level - cost).min(bucket.per_second);
            }
        }
    }

    /// Whether more of it waits than its limit lets go in a second.
    fn is_over(&self) -> bool {
        let waiting = [self.waiting.seconds, self.waiting.jobs];
        let mut limits = self.limits.iter().zip(waiting);
        limits.any(|(bucket, waiting)| {
            let limit = bucket.as_ref().map(|bucket| bucket.per_second);
            limit.is_some_and(|limit| waiting >= limit)
        })
    }

    /// Rounds after which it has its turn again; none where it has it.
    fn rounds(&self, turn: f64) -> Option<f64> {
        let rounds = (-self.credit / (turn * self.weight)).floor() + 1.0;
        (self.credit <= 0.0).then_some(rounds)
    }

    fn limited(&mut self, now: Instant) -> Option<Duration> {
        let buckets = self.limits.iter_mut().flatten();
        let waits = buckets.filter_map(|bucket| {
            bucket.refill(now);
            bucket.wait()
        });
        waits.max()
    }

    /// Whether nothing would be lost by forgetting it.
    fn is_fresh(&self) -> bool {
        self.limits.iter().all(Option::is_none)
    }
}

/// Work that waits, by namespace.
#[derive(Debug)]
pub struct Turns<T> {
    queues: HashMap<Arc<str>, Queue<T>, ahash::RandomState>,
    /// Namespaces with something waiting, the next one first.
    ring: VecDeque<Arc<str>>,
    turn: f64,
    len: usize,
}

/// What is known of a namespace that waits.
#[derive(Debug, Clone, PartialEq)]
pub struct Depth {
    pub namespace: Arc<str>,
    pub items: usize,
    pub seconds: f64,
    pub oldest: Instant,
}

impl<T> Turns<T> {
    /// Nothing waits. A turn is `seconds` long, for a weight of 1.
    pub fn new(seconds: f64) -> Self {
        Self {
            queues: HashMap::default(),
            ring: VecDeque::new(),
            turn: seconds.max(1e-6),
            len: 0,
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds work of a namespace; `is_first` puts it before the namespace's other work.
    pub fn push(
        &mut self,
        namespace: &str,
        share: impl FnOnce() -> Share,
        item: T,
        cost: Cost,
        is_first: bool,
        now: Instant,
    ) {
        let known = self.queues.get_key_value(namespace);
        let name: Arc<str> = known.map_or_else(|| namespace.into(), |(name, _)| name.clone());
        let queue = self
            .queues
            .entry(name.clone())
            .or_insert_with(|| Queue::new(share(), self.turn, now));
        if queue.is_empty() {
            self.ring.push_back(name);
        }
        queue.waiting.seconds += cost.seconds;
        queue.waiting.jobs += cost.jobs;
        let waiting = Waiting {
            item,
            cost,
            since: now,
        };
        if is_first {
            queue.first.push_back(waiting);
        } else {
            queue.normal.push_back(waiting);
        }
        self.len += 1;
    }

    /// Takes the next piece of work that fits. Namespaces over their limit are passed over.
    pub fn take(
        &mut self,
        now: Instant,
        mut fits: impl FnMut(&T) -> bool,
    ) -> Option<(Arc<str>, T, Cost)> {
        // A second time only where everybody who may have a turn has had it: then all of them get credit.
        for _ in 0..2 {
            let mut rounds: Option<f64> = None;
            for _ in 0..self.ring.len() {
                let queue = self.queues.get_mut(self.ring.front()?)?;
                let Some(head) = queue.head() else {
                    self.leave();
                    continue;
                };
                if fits(&head.item) && queue.limited(now).is_none() {
                    let Some(wait) = queue.rounds(self.turn) else {
                        return self.take_first();
                    };
                    rounds = Some(rounds.map_or(wait, |first| first.min(wait)));
                }
                self.ring.rotate_left(1);
            }
            self.grant(rounds?, now, &mut fits);
        }
        None
    }

    /// Takes the next piece of work of the first namespace of the ring.
    fn take_first(&mut self) -> Option<(Arc<str>, T, Cost)> {
        let name = self.ring.front()?.clone();
        let queue = self.queues.get_mut(&name)?;
        let taken = queue.pop()?;
        let (empty, spent) = (queue.is_empty(), queue.credit <= 0.0);
        self.len -= 1;
        if empty {
            self.leave();
        } else if spent {
            self.ring.rotate_left(1);
        }
        Some((name, taken.item, taken.cost))
    }

    /// Gives so many rounds' credit to all that may have a turn.
    fn grant(&mut self, rounds: f64, now: Instant, mut fits: impl FnMut(&T) -> bool) {
        for name in &self.ring {
            let Some(queue) = self.queues.get_mut(name) else {
                continue;
            };
            let may = queue.head().is_some_and(|head| fits(&head.item));
            if may && queue.limited(now).is_none() {
                let turn = self.turn * queue.weight;
                queue.credit = (queue.credit + rounds * turn).min(turn);
            }
        }
    }

    /// Takes the first namespace out of the ring: nothing of it waits.
    fn leave(&mut self) {
        if let Some(name) = self.ring.pop_front()
            && self.queues.get(&name).is_some_and(Queue::is_fresh)
        {
            self.queues.remove(&name);
        }
    }

    /// Corrects what a namespace was charged: its work cost so much more than was expected, or less.
    pub fn charge(&mut self, namespace: &str, more: Cost) {
        if let Some(queue) = self.queues.get_mut(namespace) {
            let turn = self.turn * queue.weight;
            queue.credit = (queue.credit - more.seconds).clamp(-MAX_DEBT_TURNS * turn, turn);
            queue.spend(more);
        }
    }

    /// Whether more of a namespace waits than its limit lets go in a second.
    pub fn is_over(&self, namespace: &str) -> bool {
        self.queues.get(namespace).is_some_and(Queue::is_over)
    }

    /// When a namespace that is over its limit may go on, where nothing else can be taken.
    pub fn wait(&mut self, now: Instant) -> Option<Duration> {
        let waiting = self.queues.values_mut().filter(|queue| !queue.is_empty());
        let waits: Vec<Option<Duration>> = waiting.map(|queue| queue.limited(now)).collect();
        waits
            .into_iter()
            .collect::<Option<Vec<_>>>()?
            .into_iter()
            .min()
    }

    /// Every namespace that waits.
    pub fn depths(&self) -> Vec<Depth> {
        let waiting = self.queues.iter().filter_map(|(name, queue)| {
            let heads = [queue.first.front(), queue.normal.front()];
            let oldest = heads.into_iter().flatten().map(|head| head.since).min()?;
            Some(Depth {
                namespace: name.clone(),
                items: queue.first.len() + queue.normal.len(),
                seconds: queue.waiting.seconds,
                oldest,
            })
        });
        waiting.collect()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.queues.clear();
        self.ring.clear();
        self.len = 0;
    }
}

#[cfg(test)]
#[path = "turns/tests.rs"]
mod tests;
