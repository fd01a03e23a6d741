//! Asks Redis whether it is of use, without storing anything.

use super::redis::{RedisCache, is_refusal};
use kiln_contract::key;
use redis::Value;

impl RedisCache {
    /// A round trip, and a write that stores nothing: a server without memory, a replica or one that can't save refuses it all the
    /// same. The error holds no credentials.
    pub async fn probe(&self) -> Result<(), String> {
        self.ping().await?;
        let mut set = redis::cmd("SET");
        // There is no such key, and so nothing to overwrite.
        set.arg(key::trial("health")).arg("").arg("XX");
        let answer = self.command::<Value>(set).await;
        answer.map(|_| ()).map_err(|e| {
            let reason = self.scrub(&e);
            if is_refusal(&e) {
                return format!("refuses writes: {reason}");
            }
            reason
        })
    }
}
