//! Asks Redis whether it is of use, without storing anything.

use super::redis::{RedisCache, is_refusal};
use kiln_contract::key;
use redis::{RedisError, Value};

impl RedisCache {
    /// A write that stores nothing: a server without memory, a replica or one that can't save refuses it all the same; and, where that is
    /// asked for, a script that does nothing. Of a cluster, each primary is asked, and every slot must have one. The error holds no credentials.
    pub async fn probe(&self, with_script: bool) -> Result<(), String> {
        self.follow().await;
        if self.is_cluster() {
            return match self.try_each_primary(with_script).await {
                Ok(()) => {
                    self.answered();
                    Ok(())
                }
                Err(error) => {
                    self.ping().await?;
                    Err(self.scrub(&error))
                }
            };
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
        if let Err(error) = self.any::<Value>(set).await {
            if self.is_cluster() {
                // That was found out just now: the next check asks all of it.
                return Ok(());
            }
            // One that refuses writes may answer all the same.
            self.ping().await?;
            return Err(refuses("writes", error));
        }
        self.answered();
        if !with_script {
            return Ok(());
        }
        let mut script = redis::cmd("EVAL");
        script.arg("return 1").arg(0);
        let answer = self.any::<Value>(script).await;
        let scripts = "scripts, without which readers' entries aren't written";
        answer.map(|_| ()).map_err(|e| refuses(scripts, e))
    }
}
