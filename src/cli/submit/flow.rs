//! Owns jobs on their way out and replies on their way in.
//!
//! Promises that no more than a bounded number of jobs is unconfirmed or unanswered at any time. Refuses to
//! hold a job's body once it was written.

use super::{cut::Posting, replies::Replies, source::Read, tally::Tally};
use crate::{
    amqp::{confirm::PublishOutcome, message::Message},
    cli::{
        post::{BLOCKED, Post, WINDOW},
        reported,
    },
};
use anyhow::{anyhow, bail};
use futures_util::{StreamExt, stream::FuturesUnordered};
use indicatif::ProgressBar;
use lapin::{BasicProperties, message::Delivery, types::ShortString};
use std::{collections::HashMap, time::Duration};
use tokio::sync::mpsc;

/// Jobs that may be without an answer under `--wait`: posting pauses there, so that memory stays bounded.
const UNANSWERED: usize = 10_000;
/// How soon it is said that no worker takes jobs.
const EARLY: Duration = Duration::from_secs(2);
/// AMQP's mark for a message that survives the broker's restart.
const PERSISTENT: u8 = 2;

/// Jobs on their way out, and replies on their way in.
pub(super) struct Submission<'a> {
    pub(super) post: &'a Post,
    pub(super) queue: ShortString,
    pub(super) wait: bool,
    /// How long nothing may happen while replies are missing.
    pub(super) quiet: Duration,
    /// Ids of the jobs whose replies are missing, by correlation id. The same job may stand in a file twice,
    /// and then has two replies.
    pub(super) unanswered: HashMap<u64, String>,
    pub(super) tally: Tally,
    pub(super) bar: &'a ProgressBar,
}

impl Submission<'_> {
    /// Posts every job and, where there is a queue for replies, waits until each is answered or nothing comes
    /// any more: the jobs without an answer stay in `unanswered`. Says whether the file was read to its end.
    pub(super) async fn run(
        &mut self,
        mut jobs: mpsc::Receiver<Read>,
        mut replies: Option<Replies>,
    ) -> anyhow::Result<bool> {
        let reply_to = replies.as_ref().map(|r| r.queue.clone());
        let mut confirms = FuturesUnordered::new();
        let mut reading = true;
        let mut number = 0u64;
        let quiet_end = tokio::time::sleep(self.quiet);
        tokio::pin!(quiet_end);
        let early = tokio::time::sleep(EARLY);
        tokio::pin!(early);
        let mut has_looked = false;
        while reading || !confirms.is_empty() || !self.unanswered.is_empty() {
            let room = confirms.len() < WINDOW && self.unanswered.len() < UNANSWERED;
            tokio::select! {
                job = jobs.recv(), if reading && room => match job {
                    Some(Read::Job(posting)) => {
                        number += 1;
                        if self.wait {
                            self.unanswered.insert(number, posting.id.clone());
                        }
                        let message = self.message(number, posting, reply_to.as_ref());
                        let pending = self.post.send(&message).await?;
                        confirms.push(async move { pending.settle().await });
                    }
                    Some(Read::Bad(bad)) => self.tally.bad_lines.report(self.bar, "line", &bad),
                    None => reading = false,
                },
                Some(outcome) = confirms.next(), if !confirms.is_empty() => self.confirmed(outcome)?,
                reply = next(&mut replies), if self.wait => {
                    let reply = reply?;
                    if let Some(replies) = &replies {
                        replies.taken(&reply).await?;
                    }
                    self.answered(&reply)?;
                }
                () = &mut early, if self.wait && !has_looked => {
                    has_looked = true;
                    self.say_if_nobody_takes().await;
                    continue;
                }
                () = &mut quiet_end, if self.wait && !self.unanswered.is_empty() => {
                    break;
                }
            }
            quiet_end
                .as_mut()
                .reset(tokio::time::Instant::now() + self.quiet);
        }
        if let Some(replies) = replies {
            replies.close().await;
        }
        Ok(!reading)
    }

    /// Says so where nothing was answered and no worker takes jobs.
    async fn say_if_nobody_takes(&self) {
        if self.tally.ok + self.tally.rejected > 0 {
            return;
        }
        if let Ok(Some(0)) = self.post.consumers(self.queue.as_str()).await {
            let queue = &self.queue;
            self.bar.suspend(|| eprintln!("kiln: no worker takes jobs from `{queue}` now: they wait until one is started (`kiln run`)"));
        }
    }

    fn message(&self, number: u64, posting: Posting, reply_to: Option<&ShortString>) -> Message {
        let mut properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(PERSISTENT)
            .with_message_id(posting.id.as_str().into());
        if let Some(reply_to) = reply_to {
            properties = properties
                .with_reply_to(reply_to.clone())
                .with_correlation_id(number.to_string().into());
        }
        Message::new(self.queue.clone(), posting.body, properties)
    }

    fn confirmed(&mut self, outcome: anyhow::Result<PublishOutcome>) -> anyhow::Result<()> {
        let queue = &self.queue;
        let outcome = match outcome {
            Err(_) if self.post.is_blocked() => bail!("{BLOCKED}"),
            other => other?,
        };
        match outcome {
            PublishOutcome::Confirmed => {
                self.tally.posted += 1;
                self.show();
                Ok(())
            }
            PublishOutcome::Unroutable => Err(anyhow!("queue `{queue}` was deleted meanwhile")),
            PublishOutcome::Refused => Err(anyhow!(
                "the broker refuses messages to `{queue}`: a policy may limit its length; let workers empty it first"
            )),
        }
    }

    fn answered(&mut self, reply: &Delivery) -> anyhow::Result<()> {
        let correlation_id = reply.properties.correlation_id().as_ref();
        let number = correlation_id.and_then(|c| c.as_str().parse().ok());
        // A job that a worker ran twice is answered twice.
        if number
            .and_then(|n: u64| self.unanswered.remove(&n))
            .is_none()
        {
            return Ok(());
        }
        self.tally.reply(&reply.data);
        self.show();
        // Both may be the same terminal. Jobs are posted to the end, whoever reads the replies.
        self.bar.suspend(|| reported::bytes(&reply.data));
        Ok(())
    }

    fn show(&self) {
        let Tally {
            posted,
            ok,
            rejected,
            ..
        } = self.tally;
        self.bar.set_message(if self.wait {
            format!("{posted} posted, {} answered", ok + rejected)
        } else {
            format!("{posted} posted")
        });
    }
}

async fn next(replies: &mut Option<Replies>) -> anyhow::Result<Delivery> {
    match replies {
        Some(replies) => replies.next().await,
        None => std::future::pending().await,
    }
}
