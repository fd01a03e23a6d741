//! Asks Redis whether it is of use, without storing anything but what it has lost of invalidations.

use super::redis::{RedisCache, is_refusal};
use kiln_contract::key;
use redis::{RedisError, Value};

/// How often Redis is asked whether it takes writes, as a number of checks, where it is asked for marks each time.
const WRITES: u32 = 2;
/// How often it is asked whether it runs scripts, as a number of checks.
const SCRIPTS: u32 = 10;

/// The checks of one Redis that one task makes.
#[derive(Debug, Default)]
pub struct Checks {
    /// How many went well since the last one that failed.
    well: u32,
    /// Where to go on with the marks.
    turn: usize,
}

/// What a check came to.
#[derive(Debug)]
pub struct Checked {
    /// Marks of invalidations that Redis had lost and was given again.
    pub repaired: u64,
    /// Why it is of no use, without credentials.
    pub works: Result<(), String>,
}

impl RedisCache {
    /// Asks how Redis is, and puts back the marks that it has lost. That it shows those is an answer as well: whether it takes writes is
    /// asked every other time then, so that a worker with nothing to do asks little. After a failure all is asked.
    pub async fn check(&self, checks: &mut Checks) -> Checked {
        self.follow().await;
        let with_script = checks.well.is_multiple_of(SCRIPTS);
        let mut asked = None;
        if checks.well.is_multiple_of(WRITES) {
            asked = Some(self.probe(with_script).await);
        }
        let mut repaired = None;
        if asked.as_ref().is_none_or(Result::is_ok) {
            repaired = self.repair_marks(&mut checks.turn).await;
        }
        let works = match asked {
            Some(works) => works,
            None if repaired.is_some() => {
                self.answered();
                Ok(())
            }
            None => self.probe(with_script).await,
        };
        checks.well = works.as_ref().map_or(0, |()| checks.well.wrapping_add(1));
        Checked {
            repaired: repaired.unwrap_or_default(),
            works,
        }
    }

    /// A write that stores nothing: a server without memory, a replica or one that can't save refuses it all the same; and, where that is
    /// asked for, a script that does nothing. Of a cluster, each primary is asked, and every slot must have one. The error holds no credentials.
    async fn probe(&self, with_script: bool) -> Result<(), String> {
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
