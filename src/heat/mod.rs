//! Owns what is requested: which inputs jobs request and which names readers read, as this worker sees it and as all
//! workers together do.
//!
//! Promises bounded memory whatever is requested, and that counting costs a batch next to nothing. Refuses to decide what
//! is done about it.

mod hint;
mod readers;
mod share;
pub mod sketch;

use kiln_contract::key::InputHash;
use rand::{SeedableRng, rngs::SmallRng};
use sketch::{CAPACITY, Sketch};
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Instant,
};

pub use hint::Hint;
pub use readers::{NamedRate, Readers};
pub use share::{Hot, SharedHeat};

/// Namespaces that are watched; jobs of further ones aren't counted.
const MAX_SCOPES: usize = 32;
/// Inputs of one batch that are counted; of more, a part stands for the rest.
const COUNTED: usize = 64;

/// What is counted separately: a namespace with the model that its jobs name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
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
}

#[derive(Debug)]
struct Inner {
    scopes: BTreeMap<HeatScope, Sketch>,
    rng: SmallRng,
}

impl Default for Heat {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            inner: Mutex::new(Inner {
                scopes: BTreeMap::new(),
                rng: SmallRng::from_os_rng(),
            }),
            readers: Readers::default(),
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
        let now = self.began.elapsed().as_secs_f64();
        // The map and the sketches are sound after a panic elsewhere: none of their changes runs outside code.
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner { scopes, rng } = &mut *inner;
        let scope = HeatScope {
            namespace: namespace.to_owned(),
            model: model.to_owned(),
        };
        if !scopes.contains_key(&scope) && scopes.len() >= MAX_SCOPES {
            return;
        }
        let sketch = scopes.entry(scope).or_insert_with(|| Sketch::new(CAPACITY));
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
    }

    /// The `top` hottest inputs of every namespace with their requests a second, the fastest first.
    pub fn hottest(&self, top: usize) -> Vec<(HeatScope, Vec<(InputHash, f64)>)> {
        let now = self.began.elapsed().as_secs_f64();
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner
            .scopes
            .iter()
            .map(|(scope, sketch)| {
                let mut hot = sketch.hot(now);
                hot.truncate(top);
                (scope.clone(), hot)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_contract::key::hash_text;

    fn input(n: usize) -> InputHash {
        hash_text(&n.to_string(), None)
    }

    #[test]
    fn namespaces_and_models_are_counted_apart_and_are_bounded() {
        let heat = Heat::default();
        for n in 0..100 {
            heat.asked(&format!("n{n}"), "m", &[n], |n| Some((input(*n), 1.0)));
        }
        heat.asked("n0", "other", &[1], |n| Some((input(*n), 1.0)));
        let hot = heat.hottest(10);
        assert_eq!(hot.len(), MAX_SCOPES);
        assert!(hot.iter().all(|(_, hot)| hot.len() == 1));
    }

    #[test]
    fn jobs_that_are_made_alike_are_counted_alike() {
        let heat = Heat::default();
        let inputs: Vec<usize> = (0..192).map(|n| n % 3).collect();
        for _ in 0..50 {
            heat.asked("n", "m", &inputs, |n| Some((input(*n), 1.0)));
        }
        let hot = heat.hottest(10);
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
        let hot = heat.hottest(100);
        let (_, hot) = hot.first().expect("a namespace");
        assert_eq!(hot.first().map(|(key, _)| *key), Some(input(0)));
        let all: f64 = hot.iter().map(|(_, rate)| rate).sum();
        assert!(hot[0].1 / all > 0.7, "{} of {all}", hot[0].1);
    }
}
