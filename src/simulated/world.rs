//! Owns one simulation: its time, its randomness, its model, what is broken on purpose, and the log of what happened.

use super::Mutation;
use crate::clock::Simulated;
use kiln_contract::{key, model::ModelInfo};
use kiln_model::{ModelCall, ModelError, Rows, Scored};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    cell::RefCell,
    hash::{DefaultHasher, Hash, Hasher},
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

/// Lines of the log that are kept.
const LINES: usize = 4_000;
/// What a call of the model takes as it says, in seconds.
const CALL_SECONDS: f64 = 0.004;

thread_local! {
    static WORLD: RefCell<Option<Inner>> = const { RefCell::new(None) };
}

struct Inner {
    mutation: Option<Mutation>,
    model: Chance,
    lines: Vec<String>,
    digest: DefaultHasher,
}

/// A simulation on this thread, until it is dropped.
#[derive(Debug)]
pub struct World {
    _time: Simulated,
}

impl World {
    /// Begins one, on a runtime whose clock stands still.
    pub fn begin(seed: u64, mutation: Option<Mutation>, model: Chance) -> Self {
        WORLD.set(Some(Inner {
            mutation,
            model,
            lines: Vec::new(),
            digest: DefaultHasher::new(),
        }));
        Self {
            _time: Simulated::begin(seed),
        }
    }

    pub(super) fn mutation() -> Option<Mutation> {
        WORLD.with_borrow(|world| world.as_ref()?.mutation)
    }

    /// What happened: a number that two runs share which went the same way, and the last lines.
    pub fn record(&self) -> (u64, Vec<String>) {
        WORLD.with_borrow(|world| match world {
            Some(world) => (world.digest.finish(), world.lines.clone()),
            None => (0, Vec::new()),
        })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        WORLD.set(None);
    }
}

/// Notes what happened.
pub fn log(line: impl FnOnce() -> String) {
    if WORLD.with_borrow(Option::is_none) {
        return;
    }
    let at = Simulated::elapsed().as_secs_f64() * 1e3;
    let line = format!("{at:>10.3} {}", line());
    WORLD.with_borrow_mut(|world| {
        let Some(world) = world else { return };
        line.hash(&mut world.digest);
        if world.lines.len() < LINES {
            world.lines.push(line);
        }
    });
}

/// Draws from a seed whether something fails. Clones draw from the same; once calm, nothing fails any more.
#[derive(Debug, Clone)]
pub struct Chance {
    rng: Arc<Mutex<StdRng>>,
    is_calm: Arc<AtomicBool>,
    /// How much more fails than usual, in tenths.
    scale: Arc<AtomicU32>,
}

impl Chance {
    /// A stream of its own.
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Arc::new(Mutex::new(StdRng::seed_from_u64(seed))),
            is_calm: Arc::default(),
            scale: Arc::new(AtomicU32::new(10)),
        }
    }

    /// Another stream, which is calm when this one is.
    pub fn apart(&self) -> Self {
        let seed = self.draw(|rng| rng.random());
        Self {
            is_calm: self.is_calm.clone(),
            scale: self.scale.clone(),
            ..Self::new(seed)
        }
    }

    /// Lets nothing fail any more.
    pub fn calm(&self) {
        self.is_calm.store(true, Ordering::Relaxed);
    }

    /// Has so many tenths of the usual fail, here and in every stream that is apart from this one.
    pub fn scale(&self, tenths: u32) {
        self.scale.store(tenths, Ordering::Relaxed);
    }

    /// Draws something, calm or not.
    pub fn draw<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.rng.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A number below `end`, calm or not.
    pub fn below(&self, end: usize) -> usize {
        self.draw(|rng| rng.random_range(0..end.max(1)))
    }

    /// Whether something fails that does in so many of a thousand cases.
    pub fn fails(&self, of_a_thousand: u32) -> bool {
        let drawn = self.draw(|rng| rng.random_range(0..10_000));
        drawn < of_a_thousand * self.scale.load(Ordering::Relaxed)
            && !self.is_calm.load(Ordering::Relaxed)
    }

    /// A time, calm or not.
    pub fn millis(&self, range: Range<u64>) -> Duration {
        Duration::from_micros(
            self.draw(|rng| rng.random_range(range.start * 1_000..range.end * 1_000)),
        )
    }

    /// How long something is on its way: short as a rule, and now and then long.
    pub fn delay(&self) -> Duration {
        match self.fails(60) {
            true => self.millis(50..1_500),
            false => self.millis(0..3),
        }
    }
}

/// What a model gives for a text: a number that no other text or version has.
pub fn output(model: &str, version: &str, text: &str) -> f32 {
    let all = format!("{model}@{version}\n{text}");
    let [a, b, c, ..] = key::hash_body(all.as_bytes());
    u32::from_be_bytes([0, a, b, c]) as f32 / (1u32 << 24) as f32
}

/// What a model gives within a simulation: after a time, and sometimes nothing.
pub async fn score(info: &ModelInfo, rows: &Rows) -> Option<Result<Scored, ModelError>> {
    let chance = WORLD.with_borrow(|world| world.as_ref().map(|world| world.model.clone()))?;
    let Rows::Texts(texts) = rows else {
        return None;
    };
    let time = match chance.fails(20) {
        true => chance.millis(500..4_000),
        false => chance.millis(1..20),
    };
    tokio::time::sleep(time).await;
    let is_broken = texts.iter().any(|row| row.text.contains("panic"));
    if chance.fails(30) || is_broken {
        log(|| format!("model fails on {} rows", texts.len()));
        let message = "as drawn".to_owned();
        return Some(Err(ModelError::Panicked { message }));
    }
    let outputs = texts.iter();
    let outputs = outputs.map(|row| output(&info.name, &info.version, &row.text));
    Some(Ok(Scored {
        outputs: outputs.collect(),
        calls: vec![ModelCall {
            rows: texts.len(),
            tokens: 0,
            seconds: CALL_SECONDS,
        }],
        truncated: 0,
    }))
}
