//! Scores what is hot with a version before it is switched to.
//!
//! Promises that readers see nothing of it: the jobs pin the version and go to the warming queue. Refuses to switch: it says
//! how warm the version is, and how its scores differ.

use crate::{
    amqp::{confirm::PublishOutcome, message, topology::Topology},
    cache::RedisCache,
    cli::post::Post,
    config::Settings,
    parts,
    store::PostgresStore,
    warm::{
        hot_inputs::{self, Asked, CHUNK},
        rollover::Shift,
    },
};
use anyhow::{Context, bail};
use futures_util::{StreamExt, stream::FuturesUnordered};
use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;

/// How long workers are waited for that don't have the version yet: they look at their folder every two seconds, and say every five what they have.
const LOADING: Duration = Duration::from_secs(30);
/// How often the entries are looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(300);

/// What is wanted before a switch.
pub(super) struct Wanted<'a> {
    pub name: &'a str,
    /// The version that serves now, if it is known.
    pub old: Option<&'a str>,
    pub new: &'a str,
    /// Share of requests that should find an entry, 0 to 1.
    pub share: f64,
    pub limit: Duration,
}

/// How it went.
pub(super) struct Warmed {
    /// Hot inputs.
    pub inputs: usize,
    /// Share of the requests for them that finds an entry now.
    pub share: f64,
    /// How the scores differ, where some can be compared.
    pub shift: Option<Shift>,
}

/// Scores the hot inputs with the new version until enough are there or the time is up.
pub(super) async fn warm(
    settings: &Settings,
    store: &PostgresStore,
    wanted: &Wanted<'_>,
) -> anyhow::Result<Warmed> {
    let redis = parts::redis_at_hand(settings).await?;
    let hot = hot(&redis, store, wanted).await?;
    let bar = ProgressBar::new(1_000);
    bar.set_style(ProgressStyle::with_template(
        "{bar:40} {percent}% of requests would hit, {msg} inputs",
    )?);
    bar.set_message(hot.len().to_string());
    let mut share = share(&redis, wanted, &hot).await?;
    if share < wanted.share {
        wait_for_workers(store, wanted).await?;
        post(settings, store, wanted, &hot).await?;
        let begun = tokio::time::Instant::now();
        while share < wanted.share && begun.elapsed() < wanted.limit {
            tokio::time::sleep(POLL_INTERVAL).await;
            share = self::share(&redis, wanted, &hot).await?;
            bar.set_position((share * 1_000.0) as u64);
        }
    }
    bar.finish_and_clear();
    Ok(Warmed {
        inputs: hot.len(),
        share,
        shift: shift(store, wanted, &hot).await?,
    })
}

/// Waits until every worker that has the model has the new version, since it would reject jobs that pin one that it lacks.
async fn wait_for_workers(store: &PostgresStore, wanted: &Wanted<'_>) -> anyhow::Result<()> {
    let new = format!("{}@{}", wanted.name, wanted.new);
    let begun = tokio::time::Instant::now();
    loop {
        let workers = store.workers().await?;
        let lacking = workers
            .iter()
            .find(|worker| worker.is_there() && lacks(&worker.figures.loaded, wanted.name, &new));
        let Some(worker) = lacking else {
            return Ok(());
        };
        if begun.elapsed() > LOADING {
            eprintln!("kiln: the worker {} doesn't have {new}", worker.name);
            return Ok(());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Whether a worker has the model, and not this version of it.
fn lacks(loaded: &[String], name: &str, version: &str) -> bool {
    let mut versions = loaded
        .iter()
        .filter(|one| one.split_once('@').is_some_and(|(of, _)| of == name))
        .peekable();
    versions.peek().is_some() && versions.all(|one| one != version)
}

/// The hot inputs of the model with their requests a second. Where workers tell of none, those that were scored last.
async fn hot(
    redis: &RedisCache,
    store: &PostgresStore,
    wanted: &Wanted<'_>,
) -> anyhow::Result<Vec<Asked>> {
    let hot = hot_inputs::hot_inputs(redis, wanted.name).await;
    if !hot.is_empty() {
        return Ok(hot);
    }
    let last = store.last_scored(wanted.name, 2_000).await?;
    Ok(hot_inputs::sorted(
        last.into_iter().map(|input| (input, 1.0)),
    ))
}

/// Share of the requests for these inputs that finds an entry of the new version.
async fn share(redis: &RedisCache, wanted: &Wanted<'_>, hot: &[Asked]) -> anyhow::Result<f64> {
    let share = hot_inputs::warm_share(redis, (wanted.name, wanted.new), hot).await;
    share.context("redis doesn't answer")
}

/// Posts jobs that pin the new version, the hottest inputs first.
async fn post(
    settings: &Settings,
    store: &PostgresStore,
    wanted: &Wanted<'_>,
    hot: &[Asked],
) -> anyhow::Result<()> {
    let post = Post::open(parts::broker(settings)?, "activate").await?;
    let topology = Topology::new(&settings.queues, &settings.retry);
    if !post.knows(&topology.warm).await? {
        bail!(
            "there is no queue `{}`: is a worker running?",
            topology.warm
        );
    }
    let mut confirms = FuturesUnordered::new();
    for chunk in hot.chunks(CHUNK) {
        for job in hot_inputs::pinned_jobs(store, (wanted.name, wanted.new), chunk).await? {
            let message = message::job(&topology.warm, &job.id, job.body);
            confirms.push(post.send(&message).await?.settle());
        }
        while let Some(outcome) = confirms.next().await {
            if outcome? != PublishOutcome::Confirmed {
                bail!("the broker doesn't take jobs for `{}` now", topology.warm);
            }
        }
    }
    post.close().await;
    Ok(())
}

async fn shift(
    store: &PostgresStore,
    wanted: &Wanted<'_>,
    hot: &[Asked],
) -> anyhow::Result<Option<Shift>> {
    let Some(old) = wanted.old else {
        return Ok(None);
    };
    Ok(hot_inputs::shift(store, wanted.name, (old, wanted.new), hot).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_worker_that_has_the_model_can_lack_a_version() {
        let loaded = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert!(lacks(&loaded(&["m@1", "other@2"]), "m", "m@2"));
        assert!(!lacks(&loaded(&["m@1", "m@2"]), "m", "m@2"));
        assert!(!lacks(&loaded(&["other@1"]), "m", "m@2"));
        assert!(!lacks(&[], "m", "m@2"));
    }
}
