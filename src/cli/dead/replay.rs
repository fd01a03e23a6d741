//! `kiln dead replay`

use super::{Office, ReplayArguments, desk::Hand, letter::Letter, progress, warn_of_unseen};
use crate::{
    amqp::{confirm::PublishOutcome, message},
    cli::{
        Exit,
        post::{BLOCKED, Pending, Post},
    },
    clock,
};
use anyhow::bail;
use futures_util::{StreamExt, stream::FuturesUnordered};
use lapin::message::Delivery;

/// Letters that wait for the confirms of their jobs together.
const WINDOW: usize = 64;

/// A letter that can't be replayed, and why.
const HOMELESS: &str = "no usable header `kiln-queue`: Kiln didn't write it";
const UNROUTABLE: &str = "the queue that it came from is gone";
const REFUSED: &str = "the broker refuses it: its queue may be full";
/// Letters that stay and are told one by one; the rest is counted.
const SHOWN: u64 = 20;

/// What happened so far.
#[derive(Default)]
struct Tally {
    replayed: u64,
    left: u64,
}

pub(super) async fn run(office: &Office, arguments: ReplayArguments) -> anyhow::Result<Exit> {
    let mut desk = office.open(arguments.scan).await?;
    let post = Post::open(office.broker.clone(), "dead replay").await?;
    let bar = progress(&desk);
    let now = clock::now();
    let limit = arguments.filter.limit.unwrap_or(u64::MAX);
    let mut tally = Tally::default();
    let mut confirms = FuturesUnordered::new();
    let mut taken = 0u64;
    let mut more = true;
    while more || !confirms.is_empty() {
        if more && confirms.len() < WINDOW {
            let next = if taken < limit {
                desk.next().await?
            } else {
                None
            };
            let Some(delivery) = next else {
                more = false;
                continue;
            };
            let letter = Letter::read(&delivery.properties, delivery.data.len());
            if !arguments.filter.means(&letter, now) {
                desk.keep(delivery);
                continue;
            }
            taken += 1;
            let id = letter.job_id.unwrap_or_else(|| "?".into());
            match send(&post, delivery).await? {
                (hand, Some(pending)) => {
                    confirms.push(async move { (id, hand, pending.settle().await) });
                }
                (hand, None) => {
                    desk.keep(hand);
                    bar.suspend(|| tally.leave(&id, HOMELESS));
                }
            }
            continue;
        }
        let Some((id, hand, outcome)) = confirms.next().await else {
            continue;
        };
        let why = match outcome {
            Ok(PublishOutcome::Confirmed) => {
                desk.remove(&hand).await?;
                tally.replayed += 1;
                bar.set_position(desk.seen.into());
                bar.set_message(format!("{} replayed", tally.replayed));
                continue;
            }
            Ok(PublishOutcome::Unroutable) => UNROUTABLE,
            Ok(PublishOutcome::Refused) => REFUSED,
            Err(_) if post.is_blocked() => bail!("{BLOCKED}; {} were replayed", tally.replayed),
            Err(error) => return Err(error.context(format!("{} were replayed", tally.replayed))),
        };
        desk.keep(hand);
        bar.suspend(|| tally.leave(&id, why));
    }
    let (seen, waiting) = (desk.seen, desk.waiting);
    desk.close().await?;
    post.close().await;
    bar.finish_and_clear();
    if taken < limit {
        warn_of_unseen(seen, waiting, arguments.scan);
    }
    if arguments.json {
        let summary =
            serde_json::json!({"replayed": tally.replayed, "left": tally.left, "looked_at": seen});
        println!("{summary}");
    } else {
        println!("replayed {} of {waiting} letters", tally.replayed);
        if tally.left > 0 {
            println!("{} could not be replayed and stay", tally.left);
        }
    }
    Ok(if tally.left > 0 {
        Exit::Partial
    } else {
        Exit::Ok
    })
}

/// Writes the job of a letter; nothing is pending where the letter doesn't say where to.
async fn send(post: &Post, mut letter: Delivery) -> anyhow::Result<(Hand, Option<Pending>)> {
    let body = std::mem::take(&mut letter.data);
    let pending = match message::replay(&letter.properties, body) {
        Some(job) => Some(post.send(&job).await?),
        None => None,
    };
    Ok((Hand::from(letter), pending))
}

impl Tally {
    fn leave(&mut self, id: &str, why: &str) {
        self.left += 1;
        if self.left <= SHOWN {
            eprintln!("job `{}` stays: {why}", super::letter::plain(id));
        }
    }
}
