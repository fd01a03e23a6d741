//! Owns asking Redis how often its keys are read.
//!
//! Promises that asking doesn't count as reading: `OBJECT` leaves a key's counters as they are.

use super::{RedisCache, redis::SHORT_ANSWER};
use redis::Value;
use std::collections::HashMap;

/// Redis's own defaults, where it doesn't let its settings be read.
const LOG_FACTOR: f64 = 10.0;
const DECAY_MINUTES: f64 = 1.0;
/// Where the counter of a new key begins.
const NEW: f64 = 5.0;

/// What Redis knows of the accesses to one key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Access {
    /// Requests a second, by its counter.
    Rate(f64),
    /// Seconds since it was last touched.
    Idle(f64),
}

/// How this Redis counts accesses, which follows from its eviction policy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum AccessCounter {
    /// A counter that grows by the logarithm of the reads, and shrinks with time.
    Frequency { log_factor: f64, decay_minutes: f64 },
    /// When a key was last touched.
    Idle,
}

impl AccessCounter {
    /// What one answer to `OBJECT` means.
    fn access(self, answer: i64) -> Access {
        let answer = answer as f64;
        match self {
            Self::Idle => Access::Idle(answer),
            // A key that is read less than once in the time of decay falls to the value of a new key, or below.
            Self::Frequency { .. } if answer <= NEW => Access::Rate(0.0),
            Self::Frequency {
                log_factor,
                decay_minutes,
            } => Access::Rate(((answer - NEW) * log_factor + 1.0) / (60.0 * decay_minutes)),
        }
    }
}

impl RedisCache {
    /// How this Redis counts accesses; nothing if it doesn't answer.
    pub async fn access_counter(&self) -> Option<AccessCounter> {
        let mut info = redis::cmd("INFO");
        info.arg("memory");
        let info: String = self.any(info).await.ok()?;
        let policy = info
            .lines()
            .find_map(|line| line.trim_end().strip_prefix("maxmemory_policy:"))?;
        if !policy.ends_with("-lfu") {
            return Some(AccessCounter::Idle);
        }
        let mut ask = redis::cmd("CONFIG");
        ask.arg("GET").arg("lfu-*");
        // A service that lets nobody read its settings mostly has the usual ones.
        let settings: HashMap<String, String> = self.any(ask).await.unwrap_or_default();
        let number = |name: &str, default: f64| {
            let set = settings.get(name).and_then(|value| value.parse().ok());
            set.filter(|value: &f64| *value > 0.0).unwrap_or(default)
        };
        Some(AccessCounter::Frequency {
            log_factor: number("lfu-log-factor", LOG_FACTOR),
            decay_minutes: number("lfu-decay-time", DECAY_MINUTES),
        })
    }

    /// How often each key is read; nothing of one that isn't there, and nothing at all where Redis fails.
    pub async fn reads(
        &self,
        keys: &[Vec<u8>],
        counter: AccessCounter,
    ) -> Option<Vec<Option<Access>>> {
        let about = match counter {
            AccessCounter::Frequency { .. } => "FREQ",
            AccessCounter::Idle => "IDLETIME",
        };
        let ask = |key: &[u8]| {
            let mut command = redis::cmd("OBJECT");
            command.arg(about).arg(key);
            command
        };
        let answers: Vec<Option<Value>> = self.for_each_key(keys, SHORT_ANSWER, ask).await?;
        let accesses = answers.into_iter().map(|answer| match answer {
            Some(Value::Int(answer)) => Some(counter.access(answer)),
            _ => None,
        });
        Some(accesses.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::SmallRng};

    /// Redis's counter, as its documentation describes it, of a key that is read `rate` times a second.
    fn counter(rate: f64, rng: &mut SmallRng) -> f64 {
        let mut counter: f64 = 5.0;
        let mut sum = 0.0;
        for minute in 0..600 {
            for _ in 0..(rate * 60.0) as u32 {
                let base = (counter - 5.0).max(0.0);
                if rng.random::<f64>() < 1.0 / (base * 10.0 + 1.0) {
                    counter = (counter + 1.0).min(255.0);
                }
            }
            if minute >= 300 {
                let counts = AccessCounter::Frequency {
                    log_factor: 10.0,
                    decay_minutes: 1.0,
                };
                sum += match counts.access(counter as i64) {
                    Access::Rate(rate) => rate,
                    Access::Idle(_) => f64::NAN,
                };
            }
            counter = (counter - 1.0).max(0.0);
        }
        sum / 300.0
    }

    #[test]
    fn counters_tell_rates_within_a_factor_of_two() {
        let mut rng = SmallRng::seed_from_u64(3);
        for rate in [0.2, 1.0, 10.0, 30.0] {
            let measured = counter(rate, &mut rng);
            assert!(
                (0.5..2.0).contains(&(measured / rate)),
                "{rate}: {measured}"
            );
        }
    }
}
