//! Asks Redis whether it is of use, without storing anything.

use super::redis::{RedisCache, is_refusal};
use kiln_contract::key;
use redis::{RedisError, Value};

impl RedisCache {
    /// A round trip, and a write that stores nothing: a server without memory, a replica or one that can't save refuses it all the
    /// same; and a script that does nothing; of a cluster, each primary is asked, and every slot must have one. The error holds no credentials.
    pub async fn probe(&self) -> Result<(), String> {
        self.follow().await;
        self.ping().await?;
        if self.is_cluster() {
            let tried = self.try_each_primary().await;
            return tried.map_err(|e| self.scrub(&e));
        }
        let mut set = redis::cmd("SET");
        // There is no such key, and so nothing to overwrite.
        set.arg(key::trial("health")).arg("").arg("XX");
        let refuses = |what: &str, e: RedisError| {
            let reason = self.scrub(&e);
            if is_refusal(&e) {
                return format!("refuses {what}: {reason}");
            }
            reason
        };
        let answer = self.any::<Value>(set).await;
        answer.map_err(|e| refuses("writes", e))?;
        let mut script = redis::cmd("EVAL");
        script.arg("return 1").arg(0);
        let answer = self.any::<Value>(script).await;
        let scripts = "scripts, without which readers' entries aren't written";
        answer.map(|_| ()).map_err(|e| refuses(scripts, e))
    }
}
