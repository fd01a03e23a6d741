//! `kiln dead replay`: posts dead letters' jobs to the queues that they came from.
//!
//! Promises that a letter is removed only once the broker has confirmed its job, and that what was replayed is noted, however the command
//! ends, unless it is killed.

use super::{DeadLetterQueue, ReplayArguments, letter::Filter, progress, warn_of_unseen};
use crate::{
    amqp::{
        confirm::PublishOutcome,
        dead_letters::{DeadLetterScan, HeldDelivery},
        letter::Letter,
        message,
    },
    cli::{
        Exit,
        post::{BLOCKED, Pending, Post},
        stop,
    },
    clock,
    store::ActionKind,
};
use anyhow::bail;
use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream::FuturesUnordered};
use indicatif::ProgressBar;

/// Letters that wait for the confirms of their jobs together.
const WINDOW: usize = 64;

/// A letter that can't be replayed, and why.
const UNROUTABLE: &str = "the queue that it came from is gone";
const REFUSED: &str = "the broker refuses it: its queue may be full";
/// Letters that stay and are named one by one; the rest is counted.
const SHOWN: u64 = 20;

/// What happened so far.
#[derive(Default)]
struct Tally {
    replayed: u64,
    left: u64,
}

/// One replay on its way through the letters.
struct Replay<'a> {
    scan: DeadLetterScan,
    post: Post,
    bar: ProgressBar,
    filter: &'a Filter,
    now: DateTime<Utc>,
    /// Letters taken to be replayed.
    taken: u64,
    tally: Tally,
}

/// What became of the next letter.
enum Next {
    /// There is none.
    End,
    /// It stays a dead letter.
    Stays,
    /// Its job was written.
    Written {
        id: String,
        held: HeldDelivery,
        pending: Pending,
    },
}

pub(super) async fn run(
    queue: &DeadLetterQueue,
    arguments: ReplayArguments,
) -> anyhow::Result<Exit> {
    let scan = queue.open(arguments.scan).await?;
    let mut replay = Replay {
        post: Post::open(queue.broker.clone(), "dead replay").await?,
        bar: progress(&scan),
        scan,
        filter: &arguments.filter,
        now: clock::now(),
        taken: 0,
        tally: Tally::default(),
    };
    let ended = replay.all().await;
    let replayed = replay.tally.replayed;
    let is_noted = ended.is_ok() || replayed > 0;
    // What stays goes back before anything else is waited for.
    let finished = replay.finish(&arguments, ended).await;
    if is_noted {
        let filter = &arguments.filter;
        queue.note(ActionKind::Replay, filter, replayed).await;
    }
    finished
}

impl Replay<'_> {
    /// Replays every letter that is meant.
    async fn all(&mut self) -> anyhow::Result<()> {
        let mut confirms = FuturesUnordered::new();
        let mut more = true;
        let stopped = stop::token();
        while more || !confirms.is_empty() {
            more &= !stopped.is_cancelled();
            if more && confirms.len() < WINDOW {
                match self.next().await? {
                    Next::End => more = false,
                    Next::Stays => {}
                    Next::Written { id, held, pending } => {
                        confirms.push(async move { (id, held, pending.settle().await) });
                    }
                }
            } else if let Some((id, held, outcome)) = confirms.next().await {
                self.settle(&id, held, outcome).await?;
            }
        }
        if stopped.is_cancelled() {
            bail!("stopped: {} were replayed", self.tally.replayed);
        }
        Ok(())
    }

    fn is_at_limit(&self) -> bool {
        self.filter.limit.is_some_and(|limit| self.taken >= limit)
    }

    /// Takes a letter, and writes its job where it is meant and says where to.
    async fn next(&mut self) -> anyhow::Result<Next> {
        if self.is_at_limit() {
            return Ok(Next::End);
        }
        let Some(mut delivery) = self.scan.next().await? else {
            return Ok(Next::End);
        };
        let letter = Letter::read(&delivery.properties, delivery.data.len());
        if !self.filter.means(&letter, self.now) {
            self.scan.hold(delivery);
            return Ok(Next::Stays);
        }
        self.taken += 1;
        let id = letter.job_id.unwrap_or_else(|| "?".into());
        let body = std::mem::take(&mut delivery.data);
        let job = match message::replay(&delivery.properties, body) {
            Ok(job) => job,
            Err(why) => {
                self.scan.hold(delivery);
                self.bar.suspend(|| self.tally.leave(&id, why));
                return Ok(Next::Stays);
            }
        };
        let pending = self.post.send(&job).await?;
        Ok(Next::Written {
            id,
            held: HeldDelivery::from(delivery),
            pending,
        })
    }

    /// Removes a letter whose job is confirmed; any other stays.
    async fn settle(
        &mut self,
        id: &str,
        held: HeldDelivery,
        outcome: anyhow::Result<PublishOutcome>,
    ) -> anyhow::Result<()> {
        let replayed = self.tally.replayed;
        let why = match outcome {
            Ok(PublishOutcome::Confirmed) => {
                self.scan.remove(&held).await?;
                self.tally.replayed += 1;
                self.bar.set_position(self.scan.seen.into());
                self.bar
                    .set_message(format!("{} replayed", self.tally.replayed));
                return Ok(());
            }
            Ok(PublishOutcome::Unroutable) => UNROUTABLE,
            Ok(PublishOutcome::Refused) => REFUSED,
            Err(_) if self.post.is_blocked() => bail!("{BLOCKED}; {replayed} were replayed"),
            Err(error) => return Err(error.context(format!("{replayed} were replayed"))),
        };
        self.scan.hold(held);
        self.bar.suspend(|| self.tally.leave(id, why));
        Ok(())
    }

    /// Puts back what stays, and says how it went.
    async fn finish(
        self,
        arguments: &ReplayArguments,
        ended: anyhow::Result<()>,
    ) -> anyhow::Result<Exit> {
        let at_limit = self.is_at_limit();
        let (seen, waiting) = (self.scan.seen, self.scan.waiting);
        let closed = self.scan.close().await;
        ended?;
        closed?;
        self.post.close().await;
        self.bar.finish_and_clear();
        if !at_limit {
            warn_of_unseen(seen, waiting, arguments.scan);
        }
        let Tally { replayed, left } = self.tally;
        if arguments.json {
            let summary =
                serde_json::json!({"replayed": replayed, "left": left, "looked_at": seen});
            reported!("{summary}");
        } else {
            reported!("replayed {replayed} of {waiting} letters");
            if left > 0 {
                reported!("{left} could not be replayed and stay");
            }
        }
        Ok(if left > 0 { Exit::Partial } else { Exit::Ok })
    }
}

impl Tally {
    fn leave(&mut self, id: &str, why: &str) {
        self.left += 1;
        if self.left <= SHOWN {
            eprintln!("job `{}` stays: {why}", crate::cli::plain::plain(id));
        }
    }
}
