//! Scores what is hot with a version before it is switched to.
//!
//! Promises that readers see nothing of it: the jobs pin the version and go to the warming queue. Refuses to switch: it says
//! how warm the version is, and how its scores differ.

use crate::{
    amqp::{confirm::PublishOutcome, message, topology::Topology},
    cache::RedisCache,
    cli::post::Post,
    clock,
    config::Settings,
    heat::SharedHeat,
    parts,
    store::{KnownInput, PostgresStore},
    warm::rollover::{Shift, compare},
};
use anyhow::bail;
use futures_util::{StreamExt, stream::FuturesUnordered};
use indicatif::{ProgressBar, ProgressStyle};
use kiln_contract::job::{JobWriter, OnError, write};
use kiln_contract::key::{self, EntryPrefix, InputHash};
use std::{collections::HashMap, time::Duration};

/// Inputs of one posted job.
const PIECE: usize = 64;
/// Inputs looked up in one statement or round trip.
const CHUNK: usize = 500;
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
) -> anyhow::Result<Vec<(InputHash, f64)>> {
    let heat = SharedHeat::new(redis);
    let now_ms = clock::now().timestamp_millis();
    let mut rates: HashMap<InputHash, f64> = HashMap::new();
    for space in heat.scopes().await.unwrap_or_default() {
        if space.model != wanted.name {
            continue;
        }
        for (input, rate) in heat
            .hot(&space, now_ms)
            .await
            .map(|hot| hot.inputs)
            .unwrap_or_default()
        {
            *rates.entry(input).or_default() += rate;
        }
    }
    if rates.is_empty() {
        let last = store.last_scored(wanted.name, 2_000).await?;
        rates.extend(last.into_iter().map(|input| (input, 1.0)));
    }
    let mut hot: Vec<(InputHash, f64)> = rates.into_iter().collect();
    hot.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    Ok(hot)
}

/// Share of the requests for these inputs that finds an entry of the new version.
async fn share(
    redis: &RedisCache,
    wanted: &Wanted<'_>,
    hot: &[(InputHash, f64)],
) -> anyhow::Result<f64> {
    let prefix = EntryPrefix::new(wanted.name, wanted.new);
    let (mut there, mut all) = (0.0, 0.0);
    for chunk in hot.chunks(CHUNK) {
        let keys: Vec<Vec<u8>> = chunk.iter().map(|(input, _)| prefix.key(input)).collect();
        let Some(lives) = redis.ttls(&keys).await else {
            bail!("redis doesn't answer");
        };
        for ((_, rate), life) in chunk.iter().zip(lives) {
            all += rate;
            there += if life.is_some() { *rate } else { 0.0 };
        }
    }
    Ok(if all > 0.0 { there / all } else { 1.0 })
}

/// Posts jobs that pin the new version, the hottest inputs first.
async fn post(
    settings: &Settings,
    store: &PostgresStore,
    wanted: &Wanted<'_>,
    hot: &[(InputHash, f64)],
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
        let hashes: Vec<&[u8]> = chunk.iter().map(|(input, _)| input.as_slice()).collect();
        let mut known = store.inputs(wanted.name, &hashes).await?;
        let inputs: Vec<String> = chunk
            .iter()
            .filter_map(|(input, _)| input_text(known.remove(input.as_slice())?))
            .collect();
        for piece in inputs.chunks(PIECE) {
            let body = body(wanted.name, wanted.new, piece);
            let mut id = hex::encode(key::hash_body(&body));
            id.truncate(32);
            let message = message::job(&topology.warm, &format!("activate-{id}"), body);
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

/// A job that pins the version. Its id follows from its bytes: the order of its fields never changes.
fn body(model: &str, version: &str, inputs: &[String]) -> Vec<u8> {
    let mut job = JobWriter::new();
    job.json_inputs(inputs.iter().map(String::as_str));
    job.model(&format!("{model}@{version}")).namespace(model);
    job.on_error(OnError::Skip);
    job.finish()
}

fn input_text(known: KnownInput) -> Option<String> {
    match (known.text, known.features) {
        (Some(text), _) => Some(write::input(|input| {
            input.text(&text);
            if let Some(pair) = &known.text_pair {
                input.text_pair(pair);
            }
        })),
        (None, Some(features)) => {
            // Ids follow from the digits, too: they are those of 64-bit floats.
            let wide: Vec<f64> = features.into_iter().map(f64::from).collect();
            Some(write::input(|input| {
                input.features(&wide);
            }))
        }
        (None, None) => None,
    }
}

async fn shift(
    store: &PostgresStore,
    wanted: &Wanted<'_>,
    hot: &[(InputHash, f64)],
) -> anyhow::Result<Option<Shift>> {
    let Some(old) = wanted.old else {
        return Ok(None);
    };
    let mut pairs = Vec::new();
    for chunk in hot.chunks(CHUNK) {
        let hashes: Vec<&[u8]> = chunk.iter().map(|(input, _)| input.as_slice()).collect();
        pairs.extend(
            store
                .score_pairs(wanted.name, old, wanted.new, &hashes)
                .await?,
        );
    }
    Ok(compare(&pairs))
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

    #[test]
    fn the_bytes_of_a_job_never_change() {
        let known =
            |text: Option<&str>, pair: Option<&str>, features: Option<Vec<f32>>| KnownInput {
                key: None,
                text: text.map(str::to_owned),
                text_pair: pair.map(str::to_owned),
                features,
            };
        let inputs: Vec<String> = [
            known(Some("a \"b\" ☃"), None, None),
            known(Some("q"), Some("p"), None),
            known(None, None, Some(vec![0.1, 2.0, 1e20])),
            known(None, None, None),
        ]
        .into_iter()
        .filter_map(input_text)
        .collect();
        let body = body("m", "2", &inputs);
        assert_eq!(
            String::from_utf8(body).expect("UTF-8"),
            r#"{"inputs":[{"text":"a \"b\" ☃"},{"text":"q","text_pair":"p"},{"features":[0.10000000149011612,2.0,1.0000000200408773e+20]}],"model":"m@2","namespace":"m","on_error":"skip"}"#
        );
    }
}
