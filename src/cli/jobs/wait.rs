//! `kiln jobs wait`: waits until jobs have ended, and says how each did.
//!
//! Promises one question to the database for all of them, and less and less often while none ends.

use super::job_id;
use crate::{
    cli::{Exit, age::age, plain::plain},
    config::Settings,
    explain, parts,
    store::{AskedJob, JobEnd, PostgresStore},
};
use clap::Args;
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// Waits until jobs have ended, and says how, in the order in which they do.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 all have ended well, 1 some have not ended within --timeout, 3 some were rejected.

Examples:
  kiln jobs wait reviews-7
  kiln jobs wait --timeout 5m --json order-17 order-18")]
pub(super) struct Arguments {
    /// The jobs' ids.
    #[arg(value_name = "ID", required = true, num_args = 1..=1_000, value_parser = job_id)]
    ids: Vec<String>,
    /// Longest wait: a number with s, m, h or d.
    #[arg(long, value_name = "AGE", default_value = "60s", value_parser = age)]
    timeout: Duration,
    /// Print each job's reply as a line of JSON.
    #[arg(long)]
    json: bool,
}

/// Time between two questions, at first and at last.
const SOONEST: Duration = Duration::from_millis(100);
const LATEST: Duration = Duration::from_secs(1);

pub(super) async fn run(arguments: Arguments, settings: &Settings) -> anyhow::Result<Exit> {
    let store = parts::postgres(settings)?;
    store.migrate().await?;
    let begun = Instant::now();
    let mut open: BTreeSet<String> = arguments.ids.into_iter().collect();
    let (mut rest, mut rejected) = (SOONEST, false);
    loop {
        let asked: Vec<AskedJob> = open.iter().map(|id| (id.clone(), None)).collect();
        let ended = store.ended(&asked).await?;
        if !ended.is_empty() {
            rest = SOONEST;
        }
        for (id, _) in ended {
            rejected |= say(&store, &id, arguments.json).await?;
            open.remove(&id);
        }
        let left = arguments.timeout.saturating_sub(begun.elapsed());
        if open.is_empty() || left.is_zero() {
            break;
        }
        tokio::time::sleep(rest.min(left)).await;
        rest = (2 * rest).min(LATEST);
    }
    for id in &open {
        eprintln!("kiln: `{id}` has not ended within {:?}", arguments.timeout);
    }
    Ok(match (open.is_empty(), rejected) {
        (false, _) => Exit::Failed,
        (true, true) => Exit::Partial,
        (true, false) => Exit::Ok,
    })
}

/// Says how a job ended; whether it was rejected.
async fn say(store: &PostgresStore, id: &str, json: bool) -> anyhow::Result<bool> {
    let Some(known) = explain::job(store, id, None, false).await? else {
        // Pruned since.
        return Ok(false);
    };
    let is_rejected = matches!(known.end, JobEnd::Rejected(_));
    if json {
        println!("{}", String::from_utf8_lossy(&known.to_json(id)));
    } else {
        match &known.end {
            JobEnd::Done(done) => println!("{}: ok after {:.1} ms", plain(id), done.elapsed_ms),
            JobEnd::Rejected(error) => println!("{}: rejected: {}", plain(id), plain(error)),
        }
    }
    Ok(is_rejected)
}
