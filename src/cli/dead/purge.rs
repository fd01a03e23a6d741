//! `kiln dead purge`: deletes dead letters for good.
//!
//! Refuses to do so unasked: it wants `--yes`, or a filter and an answer on a terminal.

use super::{Office, PurgeArguments, desk::Hand, letter::Letter, progress, warn_of_unseen};
use crate::{cli::Exit, clock};
use anyhow::Context;
use std::io::{self, BufRead, IsTerminal, Write};

pub(super) async fn run(office: &Office, arguments: PurgeArguments) -> anyhow::Result<Exit> {
    let asks = !arguments.yes;
    if asks && arguments.filter.is_any() {
        eprintln!("kiln: this deletes every dead letter: give --yes, or a filter");
        return Ok(Exit::Usage);
    }
    if asks && !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        eprintln!("kiln: there is no terminal to ask on: give --yes");
        return Ok(Exit::Usage);
    }
    let mut desk = office.open(arguments.scan).await?;
    let bar = progress(&desk);
    let now = clock::now();
    let limit = arguments.filter.limit.unwrap_or(u64::MAX);
    let mut meant = 0u64;
    let mut in_hand: Vec<Hand> = Vec::new();
    // What is to be asked about is in hand until then, and counts against the same bound.
    while meant < limit
        && (in_hand.len() as u64) < u64::from(arguments.scan.most)
        && let Some(delivery) = desk.next().await?
    {
        let letter = Letter::read(&delivery.properties, delivery.data.len());
        bar.set_position(desk.seen.into());
        if !arguments.filter.means(&letter, now) {
            desk.keep(delivery);
            continue;
        }
        meant += 1;
        if asks {
            in_hand.push(delivery.into());
        } else {
            desk.remove(&delivery.into()).await?;
        }
    }
    bar.finish_and_clear();
    if asks && meant > 0 {
        if confirmed(meant, &office.queue).await? {
            for letter in &in_hand {
                desk.remove(letter).await?;
            }
        } else {
            meant = 0;
            for letter in in_hand {
                desk.keep(letter);
            }
        }
    }
    let (seen, waiting) = (desk.seen, desk.waiting);
    desk.close().await?;
    if meant < limit {
        warn_of_unseen(seen, waiting, arguments.scan);
    }
    if arguments.json {
        println!(
            "{}",
            serde_json::json!({"purged": meant, "looked_at": seen})
        );
    } else {
        println!("purged {meant} of {waiting} letters");
    }
    Ok(Exit::Ok)
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
