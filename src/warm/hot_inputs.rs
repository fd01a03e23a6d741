//! Owns what is asked of a model's hot inputs before its version changes: how many of the requests would find an entry, how scores differ, and
//! the jobs that score them with the new version.
//!
//! Promises that readers see nothing of such a job: it pins its version and names no key. Refuses to switch anything.

use super::rollover::{Shift, compare};
use crate::{
    cache::RedisCache,
    clock,
    heat::SharedHeat,
    store::{KnownInput, PostgresStore, StoreError},
};
use kiln_contract::{
    job::{JobWriter, OnError, write},
    key::{self, EntryPrefix, InputHash},
};
use std::collections::HashMap;

/// Inputs of one job.
const PIECE: usize = 64;
/// Inputs looked up in one statement or round trip.
pub const CHUNK: usize = 500;

/// An input with its requests a second.
pub type Asked = (InputHash, f64);

/// A job as it is posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedJob {
    pub id: String,
    pub body: Vec<u8>,
    pub inputs: usize,
}

/// The hot inputs of a model, over all workers and namespaces, those that are requested most first.
pub async fn hot_inputs(redis: &RedisCache, model: &str) -> Vec<Asked> {
    let heat = SharedHeat::new(redis);
    let now_ms = clock::now().timestamp_millis();
    let mut rates: HashMap<InputHash, f64> = HashMap::new();
    for space in heat.scopes().await.unwrap_or_default() {
        if space.model != model {
            continue;
        }
        let hot = heat.hot(&space, now_ms).await;
        for (input, rate) in hot.map(|hot| hot.inputs).unwrap_or_default() {
            *rates.entry(input).or_default() += rate;
        }
    }
    sorted(rates.into_iter())
}

/// The hottest first; of equal ones always the same.
pub fn sorted(inputs: impl Iterator<Item = Asked>) -> Vec<Asked> {
    let mut hot: Vec<Asked> = inputs.collect();
    hot.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    hot
}

/// Share of the requests for these inputs that finds an entry of a version; nothing where Redis doesn't answer.
pub async fn warm_share(
    redis: &RedisCache,
    (model, version): (&str, &str),
    hot: &[Asked],
) -> Option<f64> {
    let prefix = EntryPrefix::new(model, version);
    let (mut there, mut all) = (0.0, 0.0);
    for chunk in hot.chunks(CHUNK) {
        let keys: Vec<Vec<u8>> = chunk.iter().map(|(input, _)| prefix.key(input)).collect();
        for ((_, rate), life) in chunk.iter().zip(redis.ttls(&keys).await?) {
            all += rate;
            there += if life.is_some() { *rate } else { 0.0 };
        }
    }
    Some(if all > 0.0 { there / all } else { 1.0 })
}

/// How a version's scores differ from another's, of those inputs that both scored; nothing where there are none.
pub async fn shift(
    store: &PostgresStore,
    model: &str,
    (old, new): (&str, &str),
    hot: &[Asked],
) -> Result<Option<Shift>, StoreError> {
    let mut pairs = Vec::new();
    for chunk in hot.chunks(CHUNK) {
        let hashes: Vec<&[u8]> = chunk.iter().map(|(input, _)| input.as_slice()).collect();
        pairs.extend(store.score_pairs(model, old, new, &hashes).await?);
    }
    Ok(compare(&pairs))
}

/// The jobs that score some inputs with a version; of those that are stored.
pub async fn pinned_jobs(
    store: &PostgresStore,
    (model, version): (&str, &str),
    chunk: &[Asked],
) -> Result<Vec<PinnedJob>, StoreError> {
    let hashes: Vec<&[u8]> = chunk.iter().map(|(input, _)| input.as_slice()).collect();
    let mut known = store.inputs(model, &hashes).await?;
    let inputs: Vec<String> = chunk
        .iter()
        .filter_map(|(input, _)| input_text(known.remove(input.as_slice())?))
        .collect();
    let jobs = inputs.chunks(PIECE).map(|piece| {
        let body = body(model, version, piece);
        let mut id = hex::encode(key::hash_body(&body));
        id.truncate(32);
        PinnedJob {
            id: format!("activate-{id}"),
            body,
            inputs: piece.len(),
        }
    });
    Ok(jobs.collect())
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

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn what_is_hottest_comes_first() {
        let all = [([1; 32], 2.0), ([2; 32], 5.0), ([0; 32], 2.0)];
        let hot = sorted(all.into_iter());
        let first: Vec<u8> = hot.iter().map(|(input, _)| input[0]).collect();
        assert_eq!(first, [2, 0, 1]);
    }
}
