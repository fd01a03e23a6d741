//! Owns what is requested: which inputs jobs request and which names readers read, as this worker sees it and as all
//! workers together do.
//!
//! Promises bounded memory whatever is requested, and that counting costs a batch next to nothing. Refuses to decide what
//! is done about it.

pub mod ahead;
pub mod follow;
mod hint;
pub mod pace;
mod readers;
mod share;
pub mod sketch;

use ahead::Ahead;
use kiln_contract::key::InputHash;
use rand::{SeedableRng, rngs::SmallRng};
use sketch::{Asked, CAPACITY, Held, MAX_CAPACITY, STEP_BYTES, Sketch};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

pub use hint::Hint;
pub use readers::{NamedRate, Readers};
pub use share::{Hot, MAX_REPORTED, SharedHeat};

/// Bytes that counting what jobs request may take; the same again is for what readers request. Namespaces that are full take a mebibyte each, small ones
/// a tenth of that; while a half of it is free, a namespace may take several. Jobs of further ones aren't counted, unless one that nobody asks for any more makes room.
pub const MAX_BYTES: usize = 32 << 20;
/// After so many seconds without a request a namespace may make room for another.
const IDLE_SECONDS: f64 = 600.0;
/// Inputs of one batch that are counted; of more, a part stands for the rest.
const COUNTED: usize = 64;

/// What is counted separately: a namespace with the model that its jobs name.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeatScope {
    pub namespace: String,
    pub model: String,
}

/// The heat that one worker sees.
#[derive(Debug)]
pub struct Heat {
    began: Instant,
    inner: Mutex<Inner>,
    /// What readers request.
    pub readers: Readers,
    /// What probably comes next.
    pub ahead: Ahead,
}

#[derive(Debug)]
struct Inner {
    scopes: BTreeMap<HeatScope, Watched>,
    /// Bytes of all sketches.
    bytes: usize,
    max_bytes: usize,
    /// Requests that weren't counted for want of room.
    dropped: u64,
    rng: SmallRng,
}

/// A scope that is counted.
#[derive(Debug)]
struct Watched {
    sketch: Sketch,
    /// When it was asked for last, in seconds since the beginning.
    last: f64,
}

impl Inner {
    /// Whether a scope is counted, for which room is made where it can be.
    fn watches(&mut self, scope: &HeatScope, now: f64) -> bool {
        if self.scopes.contains_key(scope) {
            return true;
        }
        if self.bytes + STEP_BYTES > self.max_bytes {
            let last = |one: &(&HeatScope, &Watched)| one.1.last;
            let idlest = self
                .scopes
                .iter()
                .min_by(|a, b| last(a).total_cmp(&last(b)));
            let idlest = idlest.filter(|one| now - last(one) > IDLE_SECONDS);
            let Some(idlest) = idlest.map(|(scope, _)| scope.clone()) else {
                return false;
            };
            if let Some(gone) = self.scopes.remove(&idlest) {
                self.bytes = self.bytes.saturating_sub(gone.sketch.bytes());
            }
            if self.bytes + STEP_BYTES > self.max_bytes {
                return false;
            }
        }
        let sketch = Sketch::new(MAX_CAPACITY);
        self.scopes
            .insert(scope.clone(), Watched { sketch, last: now });
        true
    }
}

impl Default for Heat {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            inner: Mutex::new(Inner {
                scopes: BTreeMap::new(),
                bytes: 0,
                max_bytes: MAX_BYTES,
                dropped: 0,
                rng: SmallRng::from_os_rng(),
            }),
            readers: Readers::default(),
            ahead: Ahead::default(),
        }
    }
}

impl Heat {
    /// Counts what jobs request; `input` gives an input of `asked` and what a hit on it saves for its cost, compared with
    /// others of the model.
    pub fn asked<T>(
        &self,
        namespace: &str,
        model: &str,
        asked: &[T],
        input: impl Fn(&T) -> Option<(InputHash, f32)>,
    ) {
        let now = self.now();
        let scope = HeatScope {
            namespace: namespace.to_owned(),
            model: model.to_owned(),
        };
        let inputs = asked.iter().filter_map(&input).map(|(input, _)| input);
        self.ahead.asked(&scope, inputs);
        let mut inner = self.lock();
        if !inner.watches(&scope, now) {
            inner.dropped += asked.len() as u64;
            return;
        }
        let Inner {
            scopes,
            bytes,
            max_bytes,
            rng,
            ..
        } = &mut *inner;
        let Some(watched) = scopes.get_mut(&scope) else {
            return;
        };
        watched.last = now;
        let sketch = &mut watched.sketch;
        let before = sketch.bytes();
        // Beyond what is usual, a half is left to others that may come.
        let room = if sketch.len() < CAPACITY {
            *max_bytes
        } else {
            *max_bytes / 2
        };
        sketch.may_grow = *bytes + STEP_BYTES <= room;
        let step = asked.len().div_ceil(COUNTED).max(1);
        // One drawn from each stretch: a fixed stride would meet the same places of jobs that are made alike.
        for stretch in asked.chunks(step) {
            let drawn = if step > 1 {
                rand::Rng::random_range(rng, 0..step)
            } else {
                0
            };
            if let Some((input, value)) = stretch.get(drawn).and_then(&input) {
                sketch.add(&input, step as f32, value, now, rng);
            }
        }
        *bytes = (*bytes + sketch.bytes()).saturating_sub(before);
    }

    /// Counts reads that a reader's service reports.
    pub fn hinted(&self, hint: &Hint) {
        let names = hint.keys.iter().map(String::as_str);
        let session = hint.session.as_deref();
        self.ahead.read(&hint.namespace, session, names.clone());
        self.readers.hinted(&hint.namespace, names);
    }

    /// Requests that weren't counted for want of room since this was last asked.
    pub fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.lock().dropped)
    }

    /// What is counted separately, in order.
    pub fn scopes(&self) -> Vec<HeatScope> {
        self.lock().scopes.keys().cloned().collect()
    }

    /// The inputs of one scope with their requests a second, the fastest first.
    pub fn hottest(&self, scope: &HeatScope) -> Vec<(InputHash, f64)> {
        let now = self.now();
        let held = self.held(scope);
        held.map(|held| held.hot(now)).unwrap_or_default()
    }

    /// The `top` hottest inputs of one scope at `now`, with when each was asked for last, in milliseconds of the clock that said `now_ms` then.
    /// Nothing where the scope has made room for another.
    fn asked_last(
        &self,
        scope: &HeatScope,
        top: usize,
        (now, now_ms): (f64, i64),
    ) -> Option<Vec<(Asked, i64)>> {
        let hot = self.held(scope)?.asked(now).into_iter().take(top);
        let dated = hot.map(|one| (one, moment(now_ms, now - one.at)));
        Some(dated.collect())
    }

    /// What is held of one scope. Every batch waits for this lock: nothing is worked out under it, and no more than one scope is copied at
    /// a time.
    fn held(&self, scope: &HeatScope) -> Option<Held> {
        let inner = self.lock();
        inner.scopes.get(scope).map(|watched| watched.sketch.held())
    }

    /// Seconds since it began.
    fn now(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// The map and the sketches are sound after a panic elsewhere: none of their changes runs outside code.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The moment so many seconds before `now_ms`.
fn moment(now_ms: i64, seconds: f64) -> i64 {
    now_ms.saturating_sub((seconds.max(0.0) * 1e3) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_contract::key::hash_text;

    fn input(n: usize) -> InputHash {
        hash_text(&n.to_string(), None)
    }

    fn hottest(heat: &Heat) -> Vec<(HeatScope, Vec<(InputHash, f64)>)> {
        let scopes = heat.scopes().into_iter();
        let hot = scopes.map(|scope| (scope.clone(), heat.hottest(&scope)));
        hot.collect()
    }

    #[test]
    fn namespaces_and_models_are_counted_apart() {
        let heat = Heat::default();
        for n in 0..100 {
            heat.asked(&format!("n{n}"), "m", &[n], |n| Some((input(*n), 1.0)));
        }
        heat.asked("n0", "other", &[1], |n| Some((input(*n), 1.0)));
        let hot = hottest(&heat);
        assert_eq!(hot.len(), 101);
        assert!(hot.iter().all(|(_, hot)| hot.len() == 1));
        assert_eq!(heat.take_dropped(), 0);
    }

    #[test]
    fn what_there_is_no_room_for_is_counted_and_idle_namespaces_make_room() {
        let heat = Heat::default();
        for n in 0..1_000 {
            let inputs: Vec<usize> = (0..60).collect();
            heat.asked(&format!("n{n}"), "m", &inputs, |n| Some((input(*n), 1.0)));
        }
        let watched = heat.scopes().len();
        assert!((100..1_000).contains(&watched), "{watched} namespaces");
        assert_eq!(heat.take_dropped(), 60 * (1_000 - watched as u64));
        assert_eq!(heat.take_dropped(), 0);
        let mut inner = heat.inner.lock().expect("no panic while locked");
        assert!(inner.bytes <= MAX_BYTES, "{} bytes", inner.bytes);
        let scope = |namespace: &str| HeatScope {
            namespace: namespace.to_owned(),
            model: "m".to_owned(),
        };
        assert!(!inner.watches(&scope("new"), 60.0));
        assert!(inner.watches(&scope("new"), 10_000.0));
        assert_eq!(inner.scopes.len(), watched);
    }

    #[test]
    fn a_namespace_may_take_more_than_is_usual_while_a_half_is_free() {
        let ask = |heat: &Heat, namespace: &str, inputs: usize| {
            let inputs: Vec<usize> = (0..inputs).collect();
            for some in inputs.chunks(COUNTED) {
                heat.asked(namespace, "m", some, |n| Some((input(*n), 1.0)));
            }
            let hot = hottest(heat);
            let own = hot.iter().find(|(scope, _)| scope.namespace == namespace);
            own.map_or(0, |(_, hot)| hot.len())
        };
        let heat = Heat::default();
        assert_eq!(ask(&heat, "large", 40_000), MAX_CAPACITY);
        assert_eq!(ask(&heat, "small", 100), 100);
        let heat = Heat::default();
        let max_bytes = 2 << 20;
        heat.inner.lock().expect("no panic while locked").max_bytes = max_bytes;
        let large = ask(&heat, "large", 40_000);
        assert!((CAPACITY..12_000).contains(&large), "{large}");
        assert_eq!(ask(&heat, "other", CAPACITY), CAPACITY);
    }

    #[test]
    fn what_is_reported_is_the_hottest_and_when_it_was_asked_for() {
        let heat = Heat::default();
        for n in 0..50 {
            let asked = vec![n; n + 1];
            heat.asked("n", "m", &asked, |n| Some((input(*n), 1.0)));
        }
        let scopes = heat.scopes();
        let now = heat.now();
        let all = heat.hottest(&scopes[0]);
        let reported = heat.asked_last(&scopes[0], 10, (now, 1_000_000));
        let reported = reported.expect("it is counted");
        let inputs = |(asked, _): &(Asked, i64)| asked.input;
        let first = all.iter().take(10).map(|(input, _)| *input);
        assert!(reported.iter().map(inputs).eq(first));
        let is_dated = |(asked, at): &(Asked, i64)| *at == moment(1_000_000, now - asked.at);
        assert!(reported.iter().all(is_dated));
        let unknown = HeatScope::default();
        assert!(heat.asked_last(&unknown, 10, (now, 0)).is_none());
        assert!(heat.hottest(&unknown).is_empty());
    }

    #[test]
    fn jobs_that_are_made_alike_are_counted_alike() {
        let heat = Heat::default();
        let inputs: Vec<usize> = (0..192).map(|n| n % 3).collect();
        for _ in 0..50 {
            heat.asked("n", "m", &inputs, |n| Some((input(*n), 1.0)));
        }
        let hot = hottest(&heat);
        let (_, hot) = hot.first().expect("a namespace");
        let all: f64 = hot.iter().map(|(_, rate)| rate).sum();
        assert!(
            hot.iter()
                .all(|(_, rate)| (0.25..0.42).contains(&(rate / all))),
            "{hot:?}"
        );
    }

    #[test]
    fn a_part_of_a_large_batch_stands_for_the_whole() {
        let heat = Heat::default();
        let mut inputs = vec![0; 3_000];
        inputs.extend(1..=1_000);
        for _ in 0..20 {
            heat.asked("n", "m", &inputs, |n| Some((input(*n), 1.0)));
        }
        let hot = hottest(&heat);
        let (_, hot) = hot.first().expect("a namespace");
        assert_eq!(hot.first().map(|(key, _)| *key), Some(input(0)));
        let all: f64 = hot.iter().map(|(_, rate)| rate).sum();
        assert!(hot[0].1 / all > 0.7, "{} of {all}", hot[0].1);
    }
}
