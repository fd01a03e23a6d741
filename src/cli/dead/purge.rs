//! `kiln dead purge`: deletes dead letters for good.
//!
//! Refuses to do so unasked: it wants `--yes`, or a filter and an answer on a terminal. Promises that what was deleted is noted, however
//! it ends, unless it is killed.

use super::{DeadLetterQueue, PurgeArguments, progress, warn_of_unseen};
use crate::{
    amqp::{
        dead_letters::{DeadLetterScan, HeldDelivery},
        letter::Letter,
    },
    cli::{Exit, stop},
    clock,
    store::ActionKind,
};
use anyhow::{Context, bail};
use std::io::{self, BufRead, IsTerminal, Write};

pub(super) async fn run(
    queue: &DeadLetterQueue,
    arguments: PurgeArguments,
) -> anyhow::Result<Exit> {
    let asks = !arguments.yes;
    if asks && arguments.filter.is_any() {
        eprintln!("kiln: this deletes every dead letter: give --yes, or a filter");
        return Ok(Exit::Usage);
    }
    if asks && !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        eprintln!("kiln: there is no terminal to ask on: give --yes");
        return Ok(Exit::Usage);
    }
    let mut scan = queue.open(arguments.scan).await?;
    let mut purged = Some(0);
    let ended = purge(queue, &arguments, &mut scan, &mut purged).await;
    let (seen, waiting) = (scan.seen, scan.waiting);
    // What isn't meant goes back before anything else is waited for.
    let closed = scan.close().await;
    if let Some(letters) = purged.filter(|letters| ended.is_ok() || *letters > 0) {
        let filter = &arguments.filter;
        queue.note(ActionKind::Purge, filter, letters).await;
    }
    ended?;
    closed?;
    let purged = purged.unwrap_or_default();
    if purged < arguments.filter.limit.unwrap_or(u64::MAX) {
        warn_of_unseen(seen, waiting, arguments.scan);
    }
    if arguments.json {
        reported!(
            "{}",
            serde_json::json!({"purged": purged, "looked_at": seen})
        );
    } else {
        reported!("purged {purged} of {waiting} letters");
    }
    Ok(Exit::Ok)
}

/// Deletes the letters that are meant, and counts them; nothing where somebody was asked and wants none deleted.
async fn purge(
    queue: &DeadLetterQueue,
    arguments: &PurgeArguments,
    scan: &mut DeadLetterScan,
    purged: &mut Option<u64>,
) -> anyhow::Result<()> {
    let asks = !arguments.yes;
    let bar = progress(scan);
    let now = clock::now();
    let limit = arguments.filter.limit.unwrap_or(u64::MAX);
    let mut meant = 0u64;
    let mut held: Vec<HeldDelivery> = Vec::new();
    // Until something is deleted, the system's way to end a command is as good.
    let stopped = (!asks).then(stop::token).unwrap_or_default();
    // What is to be asked about is in hand until then, and counts against the same bound.
    while meant < limit
        && (held.len() as u64) < u64::from(arguments.scan.max)
        && !stopped.is_cancelled()
        && let Some(delivery) = scan.next().await?
    {
        let letter = Letter::read(&delivery.properties, delivery.data.len());
        bar.set_position(scan.seen.into());
        if !arguments.filter.means(&letter, now) {
            scan.hold(delivery);
            continue;
        }
        meant += 1;
        if asks {
            held.push(delivery.into());
        } else {
            scan.remove(&delivery.into()).await?;
            *purged = Some(meant);
        }
    }
    bar.finish_and_clear();
    if stopped.is_cancelled() {
        bail!("stopped: {meant} letters were purged");
    }
    if !asks || meant == 0 {
        return Ok(());
    }
    if confirmed(meant, &queue.name).await? {
        let stopped = stop::token();
        for (letter, count) in held.iter().zip(1..) {
            if stopped.is_cancelled() {
                bail!("stopped: {} letters were purged", count - 1);
            }
            scan.remove(letter).await?;
            *purged = Some(count);
        }
    } else {
        *purged = None;
        for letter in held {
            scan.hold(letter);
        }
    }
    Ok(())
}

/// Asks on the terminal.
async fn confirmed(letters: u64, queue: &str) -> anyhow::Result<bool> {
    eprint!("delete {letters} letters from `{queue}` for good? [y/N] ");
    io::stderr().flush()?;
    let answer = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    let answer = answer.await?.context("standard input")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
