//! Owns the time of day and randomness that decisions use, so that a test can own them instead.

use chrono::{DateTime, Utc};
pub use kiln_contract::time::rfc3339;
use rand::Rng;

/// Now, cut to the milliseconds that the contract carries, so that a stored and a sent instant are equal.
pub fn now() -> DateTime<Utc> {
    let now = Utc::now();
    DateTime::from_timestamp_millis(now.timestamp_millis()).unwrap_or(now)
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

    proptest! {
        #[test]
        fn a_life_is_cut_by_a_tenth_at_most(ttl in 1u64..=kiln_contract::job::MAX_TTL_SECONDS, share in 0.0f64..=1.0) {
            let ms = spread_ttl_ms(ttl, share);
            prop_assert!(ms <= ttl * 1000);
            prop_assert!(ms >= ttl * 900);
        }
    }
}
