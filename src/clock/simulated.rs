//! Owns the time and the randomness of a simulation: those of the thread that it runs on, from a seed.
//!
//! Promises that the same seed gives the same times and the same numbers, whatever other threads do meanwhile.

use super::instant;
use chrono::{DateTime, Utc};
use kiln_contract::order::Moment;
use rand::{RngCore, SeedableRng, rngs::StdRng, rngs::ThreadRng};
use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

/// The time of day at the beginning, in microseconds since 1970.
const BEGINS_AT: i64 = 1_800_000_000_000_000;

thread_local! {
    static NOW: RefCell<Option<World>> = const { RefCell::new(None) };
}

struct World {
    begun: Instant,
    /// The latest of what came in, in microseconds since the beginning.
    latest: u64,
    rng: StdRng,
}

/// A simulation on this thread, until it is dropped.
#[derive(Debug)]
pub struct Simulated(());

impl Simulated {
    /// Begins one, on a runtime whose clock stands still.
    pub fn begin(seed: u64) -> Self {
        NOW.set(Some(World {
            begun: instant(),
            latest: 0,
            rng: StdRng::seed_from_u64(seed),
        }));
        Self(())
    }

    /// Time since it began.
    pub fn elapsed() -> Duration {
        since_begun(instant()).unwrap_or_default()
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        NOW.set(None);
    }
}

fn since_begun(at: Instant) -> Option<Duration> {
    NOW.with_borrow(|world| Some(at.saturating_duration_since(world.as_ref()?.begun)))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// As [`super::received`].
pub(super) fn received() -> Option<Instant> {
    let now = instant();
    NOW.with_borrow_mut(|world| {
        let world = world.as_mut()?;
        let since = micros(now.saturating_duration_since(world.begun));
        world.latest = since.max(world.latest + 1);
        Some(world.begun + Duration::from_micros(world.latest))
    })
}

/// As [`super::moment`].
pub(super) fn moment(at: Instant) -> Option<Moment> {
    let since = micros(since_begun(at)?);
    Some(Moment::from_micros(
        BEGINS_AT.saturating_add_unsigned(since),
    ))
}

/// The time of day.
pub(super) fn now() -> Option<DateTime<Utc>> {
    let since = micros(since_begun(instant())?);
    DateTime::from_timestamp_micros(BEGINS_AT.saturating_add_unsigned(since))
}

/// A simulation's generator, where there is one.
pub(super) fn rng() -> AnyRng {
    match NOW.with_borrow(Option::is_some) {
        true => AnyRng::Simulated,
        false => AnyRng::Thread(rand::rng()),
    }
}

/// The thread's randomness, or its simulation's.
#[derive(Debug)]
pub enum AnyRng {
    Thread(ThreadRng),
    Simulated,
}

impl AnyRng {
    fn with<T>(&mut self, draw: impl FnOnce(&mut dyn RngCore) -> T) -> T {
        match self {
            Self::Thread(rng) => draw(rng),
            Self::Simulated => NOW.with_borrow_mut(|world| match world {
                Some(world) => draw(&mut world.rng),
                None => draw(&mut rand::rng()),
            }),
        }
    }
}

impl RngCore for AnyRng {
    fn next_u32(&mut self) -> u32 {
        self.with(|rng| rng.next_u32())
    }

    fn next_u64(&mut self) -> u64 {
        self.with(|rng| rng.next_u64())
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        self.with(|rng| rng.fill_bytes(bytes));
    }
}
