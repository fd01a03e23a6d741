//! Owns what is done where no reply comes: it is said that no worker takes jobs, and lost replies are found in the jobs' rows or asked for again.
//!
//! Promises that a job which may still wait at the broker isn't posted a second time while its row can be asked for, and that nothing is waited
//! for for ever.

use super::{
    answer::Reply,
    link::{Link, Posting},
    quiet::FIRST,
    session::Session,
};
use crate::{amqp::topology::inspect, store::JobEnd};
use kiln_contract::key;
use std::time::{Duration, Instant};

/// How soon it is said that no worker takes jobs.
const EARLY: Duration = Duration::from_secs(2);
/// The same at the most: it doubles each time that nothing was found.
const MAX: Duration = Duration::from_secs(600);
/// How long no reply may come, and no row be found, before jobs are posted again though they may be in progress.
const GIVEN_UP: Duration = Duration::from_secs(600);

impl Link {
    /// Looks why nothing comes, where nothing does.
    pub(super) async fn look(&mut self, session: &mut Session) -> anyhow::Result<()> {
        if self.open.is_empty() {
            self.quiet.something_happened();
            return Ok(());
        }
        let silent = self.quiet.since.elapsed();
        let is_early = !self.quiet.has_said && !self.quiet.has_replied && silent >= EARLY;
        let is_time = silent >= FIRST && self.quiet.last_look.elapsed() >= self.quiet.wait;
        if !is_early && !is_time {
            return Ok(());
        }
        let timeout = session.post.broker.timeout();
        let seen = inspect(&session.post.connection, self.jobs.as_str(), timeout).await?;
        let Some(seen) = seen else {
            anyhow::bail!("queue `{}` is gone", self.jobs);
        };
        if seen.consumers == 0 {
            if !self.quiet.has_said {
                self.quiet.has_said = true;
                self.say(&format!(
                    "no worker takes jobs from `{}` now: they wait until one is started (`kiln run`)",
                    self.jobs
                ));
            }
            return Ok(());
        }
        if !is_time {
            return Ok(());
        }
        self.quiet.last_look = Instant::now();
        // What waits there comes in its time: only its row may be there already, its reply being lost.
        let may_post = seen.messages == 0 || silent >= GIVEN_UP;
        self.find_rows(silent, may_post).await;
        self.quiet.wait = (self.quiet.wait * 2).min(MAX);
        Ok(())
    }

    /// Answers jobs from their rows; posts again those that have none, where rows can't be asked for or long enough nothing came.
    async fn find_rows(&mut self, silent: Duration, may_post: bool) {
        let waiting: Vec<_> = self
            .open
            .iter()
            .filter(|(_, open)| open.posting == Posting::Yes)
            .map(|(spot, open)| {
                (
                    spot.clone(),
                    open.id.clone(),
                    key::hash_body(&open.message.body),
                )
            })
            .collect();
        let mut is_away = false;
        for (spot, id, hash) in waiting {
            let found = match &self.store {
                None => Ok(None),
                Some(_) if is_away => Err(()),
                Some(store) => store.finished(&id, &hash).await.map_err(drop),
            };
            // One question to a database that doesn't answer holds everything up for long enough. Long after, jobs are posted without it.
            is_away |= found.is_err();
            if is_away && silent < GIVEN_UP {
                return;
            }
            let is_asked = self.store.is_some() && found.is_ok();
            if let Ok(Some(done)) = found {
                let end = JobEnd::Done(done);
                self.answer_from_row(&spot, Reply::Row { job_id: id, end });
                self.quiet.something_happened();
                continue;
            }
            // An id that its producer chose may have another job's row.
            let rejected = match &self.store {
                Some(store) if id == spot.1 && is_asked => {
                    store.job(&id, None).await.ok().flatten()
                }
                _ => None,
            };
            if let Some(end @ JobEnd::Rejected(_)) = rejected {
                self.answer_from_row(&spot, Reply::Row { job_id: id, end });
                self.quiet.something_happened();
                continue;
            }
            if may_post
                && (!is_asked || silent >= GIVEN_UP)
                && let Some(open) = self.open.get_mut(&spot)
            {
                open.posting = Posting::No;
            }
        }
    }
}
