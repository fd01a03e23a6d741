//! Owns the right to score an input, over all workers: one holds it, the others wait for its entry.
//!
//! Promises that a right whose holder is gone expires, and that no worker releases another's. Needs no fencing: what
//! a late holder writes is what anyone else would have written, since a score depends on its input alone.

use super::RedisCache;
use crate::clock;
use rand::Rng;
use std::time::Duration;

/// Gives a key back where it is still ours.
pub(super) const GIVE_BACK: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

/// One worker's leases of one batch.
#[derive(Debug)]
pub struct Leases<'a> {
    redis: &'a RedisCache,
    token: String,
    life: Duration,
}

impl<'a> Leases<'a> {
    /// Leases that end after `life` where they aren't given back.
    pub fn new(redis: &'a RedisCache, life: Duration) -> Self {
        let token: [u8; 16] = clock::rng().random();
        Self {
            redis,
            token: hex::encode(token),
            life,
        }
    }

    /// Asks for a lease of each key; says for each whether it was granted. Where Redis fails, all are.
    pub async fn ask(&self, keys: &[Vec<u8>]) -> Vec<bool> {
        let had = self.redis.set_new(keys, &self.token, self.life).await;
        had.unwrap_or_else(|| vec![true; keys.len()])
    }

    /// Gives leases back. One that can't be ends by itself.
    pub async fn give_back(&self, keys: &[Vec<u8>]) {
        self.redis.run_on_each(GIVE_BACK, keys, &self.token).await;
    }
}
