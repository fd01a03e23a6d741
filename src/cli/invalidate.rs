//! `kiln invalidate`: invalidates a namespace's cached scores on every worker, then removes its named entries and rankings.
//!
//! Promises that workers use no score from before, even where Redis is out of reach or the removal is cut short: a worker ends it then.

use super::{Exit, actor};
use crate::{
    cache::{self, Invalidation, RedisCache},
    config::Settings,
    parts,
    store::{ActionKind, PostgresStore, Removable},
    telemetry::metrics::Metrics,
};
use anyhow::{Context, anyhow, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use kiln_contract::name;
use serde_json::json;
use std::time::{Duration, Instant};

/// How soon the right to remove is renewed: well before it ends.
const RENEW: Duration = Duration::from_secs(5);

/// Invalidates a namespace's cached scores, on every worker at once.
#[derive(Debug, Args)]
#[command(after_help = "\
The next jobs of the namespace are scored again; its named entries and rankings are removed from Redis, a thousand at a time,
before the command ends. Scores don't go stale by themselves: use it if a model was replaced under its old version, or if a bug
wrote wrong entries.

The invalidation is stored in Postgres first: where that is out of reach, nothing is invalidated and the command fails. Where Redis
is out of reach, or the removal is cut short, the invalidation stands: workers learn of it from Postgres within a second, and one of
them removes the entries as soon as it can.

Examples:
  kiln invalidate feed
  kiln invalidate feed --json")]
pub(super) struct Arguments {
    /// The namespace; jobs that name none are in their model's.
    namespace: String,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    let namespace = arguments.namespace;
    if !name::is_name(&namespace) {
        bail!("namespace: {}", name::EXPECTED_NAME);
    }
    let store = parts::postgres(&settings)?;
    let redis = parts::redis(&settings, Metrics::new())?;
    let nothing = "nothing is invalidated: postgres, which is to know of it first, fails";
    store.migrate().await.context(nothing)?;
    let invalidated = cache::invalidate(&store, Some(&redis), &namespace).await;
    let Invalidation { stamp, unheard } = invalidated.context(nothing)?;
    actor::note(&store, ActionKind::Invalidate, &namespace).await;
    let one = Removable {
        namespace,
        stamp,
        is_first: true,
    };
    let removed = match unheard {
        None => remove(&store, &redis, &one).await,
        // What other servers of a cluster have is removed all the same, and again once all have heard of it.
        Some(reason) => {
            let mut removal = redis.removal(&one.namespace, None);
            while redis.is_cluster() && !removal.done && removal.step().await.is_ok() {}
            Err(anyhow!("{reason}"))
        }
    };
    let namespace = one.namespace;
    if let Err(reason) = &removed {
        eprintln!(
            "kiln: redis at {}: {reason}; {namespace} is invalidated all the same, and a worker removes its named entries and \
             rankings as soon as it can",
            redis.host()
        );
    }
    let removed = removed.ok();
    if arguments.json {
        reported!("{}", json!({"namespace": namespace, "removed": removed}));
    } else if let Some(removed) = removed {
        reported!(
            "{namespace} is invalidated: its next jobs are scored again; {removed} named entries and rankings are removed"
        );
    } else {
        reported!("{namespace} is invalidated: its next jobs are scored again");
    }
    Ok(Exit::Ok)
}

/// Removes what readers found; says how many entries.
async fn remove(store: &PostgresStore, redis: &RedisCache, one: &Removable) -> anyhow::Result<u64> {
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template(
        "{spinner} {pos} entries removed, {per_sec}",
    )?);
    let run = redis.server_run().await;
    let mut removal = redis.removal(&one.namespace, None);
    let mut renewed = Instant::now();
    while !removal.done {
        removal.step().await.map_err(|e| anyhow!(e))?;
        bar.set_position(removal.removed);
        if renewed.elapsed() > RENEW {
            renewed = Instant::now();
            let _others_may_join = store.renew_removal(one).await;
        }
    }
    bar.finish_and_clear();
    // Where this isn't noted, a worker does it once more.
    if let Ok(run) = run {
        let _again = store.note_removed(one, &run).await;
    }
    Ok(removal.removed)
}
