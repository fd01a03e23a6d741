//! Owns the time of day and randomness that decisions use, so that a test can own them instead.
//!
//! In tests, within a [`Simulated`], time is the runtime's, which may stand still, and randomness follows from a seed.

#[cfg(test)]
#[cfg(feature = "faults")]
mod simulated;

#[cfg(all(test, feature = "faults"))]
pub use simulated::{AnyRng as ClockRng, Simulated};

use chrono::{DateTime, Utc};
use kiln_contract::order::Moment;
pub use kiln_contract::time::rfc3339;
use rand::Rng;
use std::{
    sync::{
        OnceLock,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// What instants of this process are counted from.
static ORIGIN: OnceLock<Instant> = OnceLock::new();
/// The latest of [`received`], in microseconds since the origin.
static LATEST: AtomicU64 = AtomicU64::new(0);
/// The time of day at the origin, in microseconds since 1970, as the system's clock says by now; 0 before it was asked.
static ORIGIN_AT: AtomicI64 = AtomicI64::new(0);
/// How far the system's clock may seem to have moved without being taken to have been set anew, in microseconds.
const STEP_MICROS: u64 = 50_000;
/// How long asking the system's clock takes at most: a process that was held up meanwhile knows nothing.
const ASKING: Duration = Duration::from_millis(1);

/// The generator that [`rng`] gives.
#[cfg(not(all(test, feature = "faults")))]
pub type ClockRng = rand::rngs::ThreadRng;

/// Randomness: that of the thread.
#[cfg(not(all(test, feature = "faults")))]
pub fn rng() -> ClockRng {
    rand::rng()
}

/// Randomness: that of the thread, or the simulation's on it.
#[cfg(all(test, feature = "faults"))]
pub fn rng() -> ClockRng {
    simulated::rng()
}

/// Now, by the clock of the runtime that this is called on.
pub fn instant() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// How long ago that was, by the same clock.
pub fn since(at: Instant) -> Duration {
    instant().saturating_duration_since(at)
}

/// Now, for something that comes in: later than all that came in before it, by a microsecond where they come together.
pub fn received() -> Instant {
    #[cfg(all(test, feature = "faults"))]
    if let Some(at) = simulated::received() {
        return at;
    }
    let origin = *ORIGIN.get_or_init(Instant::now);
    let now = micros(origin.elapsed());
    let next = |latest: u64| now.max(latest + 1);
    let latest = LATEST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |latest| {
        Some(next(latest))
    });
    origin + Duration::from_micros(next(latest.unwrap_or_default()))
}

/// The time of day at an instant of this process. Instants that are apart give moments that are apart, in the same order, unless the
/// system's clock is set anew.
pub fn moment(at: Instant) -> Moment {
    #[cfg(all(test, feature = "faults"))]
    if let Some(moment) = simulated::moment(at) {
        return moment;
    }
    let origin = *ORIGIN.get_or_init(Instant::now);
    let since = micros(at.saturating_duration_since(origin));
    Moment::from_micros(origin_at(origin).saturating_add_unsigned(since))
}

fn origin_at(origin: Instant) -> i64 {
    let asked = Instant::now();
    let wall = Utc::now().timestamp_micros();
    let took = asked.elapsed();
    let found = wall.saturating_sub_unsigned(micros(asked.saturating_duration_since(origin)));
    let known = ORIGIN_AT.load(Ordering::Relaxed);
    let is_set_anew = took < ASKING && found.abs_diff(known) > STEP_MICROS;
    if known == 0 || is_set_anew {
        // Where two ask first at once, both go by the one that was noted.
        let noted = ORIGIN_AT.compare_exchange(known, found, Ordering::Relaxed, Ordering::Relaxed);
        return noted.map_or_else(|other| other, |_| found);
    }
    known
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Now, cut to the milliseconds that the contract carries, so that a stored and a sent instant are equal.
pub fn now() -> DateTime<Utc> {
    let now = utc();
    DateTime::from_timestamp_millis(now.timestamp_millis()).unwrap_or(now)
}

fn utc() -> DateTime<Utc> {
    #[cfg(all(test, feature = "faults"))]
    if let Some(now) = simulated::now() {
        return now;
    }
    Utc::now()
}

/// A life in milliseconds for an entry that may live `ttl_seconds`: at most 10 % shorter, by `share` of
/// those 10 % (0 to 1), so that what was written together doesn't expire together.
pub fn spread_ttl_ms(ttl_seconds: u64, share: f64) -> u64 {
    let whole = ttl_seconds.saturating_mul(1_000);
    let cut = (whole as f64 * 0.1 * share.clamp(0.0, 1.0)) as u64;
    whole.saturating_sub(cut).max(1)
}

/// [`spread_ttl_ms`] with a random share.
pub fn random_ttl_ms(rng: &mut impl Rng, ttl_seconds: u64) -> u64 {
    spread_ttl_ms(ttl_seconds, rng.random())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_comes_in_together_is_apart_and_in_order() {
        let instants: Vec<Instant> = (0..2_000).map(|_| received()).collect();
        let moments: Vec<Moment> = instants.iter().map(|at| moment(*at)).collect();
        assert!(moments.is_sorted_by(|a, b| a < b));
        let now = Moment::of(Utc::now());
        let off = now.micros().abs_diff(moment(received()).micros());
        assert!(off < 10_000_000, "{off} us");
    }

    proptest! {
        #[test]
        fn a_life_is_cut_by_a_tenth_at_most(ttl in 1u64..=kiln_contract::job::MAX_TTL_SECONDS, share in 0.0f64..=1.0) {
            let ms = spread_ttl_ms(ttl, share);
            prop_assert!(ms <= ttl * 1000);
            prop_assert!(ms >= ttl * 900);
        }
    }
}
