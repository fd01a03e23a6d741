//! Owns the answer to "what does a reader find under this name, and why": now, from which job and input, how hot, when warmed
//! next; and what was served under it before.
//!
//! Promises to change nothing, and to say what it couldn't find out. Refuses to guess: what a schedule reads when it runs isn't
//! known before.

mod found;
mod job;
mod past;
mod warming;

pub use found::{FoundShown, says};
pub use job::{JobKnown, job};
pub use past::PastShown;
pub use warming::WarmingShown;

use crate::{
    cache::RedisCache,
    config::Settings,
    heat::{HeatScope, SharedHeat},
    store::{Paused, PostgresStore, ServedHistory, ServedPast, StoreError},
    warm::schedule::Schedule,
};
use chrono::{DateTime, Utc};
use kiln_contract::key::{self, InputHash};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;
use warming::NameHeat;

/// Rows of history that are shown where nobody says otherwise, and at the utmost.
pub const HISTORY: u32 = 100;
pub const MAX_HISTORY: u32 = 1_000;

/// About what an entry takes.
const ENTRY_BYTES: usize = 4_096;

/// What is asked.
pub struct Sources<'a> {
    pub store: &'a PostgresStore,
    /// Nothing where the cache is off.
    pub redis: Option<&'a RedisCache>,
    pub settings: &'a Settings,
    pub schedules: &'a [Arc<Schedule>],
    pub paused: &'a [Paused],
    pub now: DateTime<Utc>,
}

/// All that is known of one name.
#[derive(Debug, Serialize, ToSchema)]
pub struct Explanation {
    pub namespace: String,
    pub key: String,
    pub now: FoundShown,
    /// The input of an entry; null for a ranking, or where it isn't known.
    pub input: Option<InputShown>,
    pub heat: HeatShown,
    /// The schedules of its namespace, the next one first.
    pub warming: Vec<WarmingShown>,
    /// What was served, the latest first; cut short at about 8 MiB, and `unknown` says so.
    pub history: Vec<PastShown>,
    /// What couldn't be found out, and why.
    pub unknown: Vec<String>,
}

impl Explanation {
    /// Whether nobody ever served this name, as far as is known.
    pub fn is_empty(&self) -> bool {
        self.now.is_absent() && self.history.is_empty()
    }
}

/// An input, as the table of scores holds it.
#[derive(Debug, Serialize, ToSchema)]
pub struct InputShown {
    /// SHA-256 of the normalised input.
    pub input_sha256: String,
    pub text: Option<String>,
    pub text_pair: Option<String>,
    pub features: Option<Vec<f32>>,
}

/// How often a name is requested, over all workers, of what they reported within the last minute; null where it isn't among what is hot.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct HeatShown {
    /// Reads a second.
    pub reads_per_second: Option<f64>,
    /// 1 for the name of its namespace that is read most.
    pub reads_rank: Option<usize>,
    /// `hints` of readers' services, or `redis`'s own counters.
    pub reads_by: Option<&'static str>,
    /// Requests a second of jobs for its input.
    pub jobs_per_second: Option<f64>,
    /// 1 for the input that is requested most, of its model and namespace.
    pub jobs_rank: Option<usize>,
}

/// Says all that is known of a name.
pub async fn explain(
    sources: &Sources<'_>,
    namespace: &str,
    key: &str,
    max_rows: u32,
) -> Result<Explanation, StoreError> {
    let mut unknown = Vec::new();
    let ServedHistory {
        rows: past,
        is_cut_short,
    } = sources.store.served(namespace, key, max_rows).await?;
    if is_cut_short {
        unknown.push("the older history: it is cut short at 8 MiB".into());
    }
    let now = found(sources, namespace, key, past.first(), &mut unknown).await;
    let input = input(sources.store, &now, past.first(), &mut unknown).await?;
    let hash = input_hash(past.first());
    let model = now
        .model
        .as_deref()
        .or(past.first().map(|past| past.model.as_str()));
    let (heat, of_name) = heat(sources, namespace, key, model.zip(hash), &mut unknown).await;
    let warming = warming::all(sources, namespace, key, of_name.as_ref());
    let is_served = now.is_in_history;
    Ok(Explanation {
        namespace: namespace.to_owned(),
        key: key.to_owned(),
        input,
        heat,
        warming,
        history: past::shown(past, is_served),
        now,
        unknown,
    })
}

/// What a reader finds.
async fn found(
    sources: &Sources<'_>,
    namespace: &str,
    key: &str,
    latest: Option<&ServedPast>,
    unknown: &mut Vec<String>,
) -> FoundShown {
    let Some(redis) = sources.redis else {
        unknown.push("what readers find: the cache is off (`cache.enabled`)".into());
        return FoundShown::unknown();
    };
    let name = [key::named(namespace, key).into_bytes()];
    let value = redis.get(&name, |_| ENTRY_BYTES).await;
    let left = redis.ttls(&name).await;
    let (Some(value), Some(left)) = (value, left) else {
        unknown.push("what readers find: redis doesn't answer".into());
        return FoundShown::unknown();
    };
    let value = value.into_iter().next().flatten();
    let left_ms = left.into_iter().next().flatten();
    let grace_ms = 1_000 * sources.settings.grace_seconds(namespace);
    match value {
        None => FoundShown::absent(),
        Some(value) => FoundShown::of(&value, left_ms, grace_ms, latest, sources.now),
    }
}

/// The hash of the input that a name was last made of; nothing for a ranking.
fn input_hash(latest: Option<&ServedPast>) -> Option<InputHash> {
    let latest = latest.filter(|past| past.items.is_none())?;
    latest.input.as_deref()?.try_into().ok()
}

async fn input(
    store: &PostgresStore,
    now: &FoundShown,
    latest: Option<&ServedPast>,
    unknown: &mut Vec<String>,
) -> Result<Option<InputShown>, StoreError> {
    let (Some(hash), Some(latest)) = (input_hash(latest), latest) else {
        return Ok(None);
    };
    if !now.is_absent() && !now.is_in_history {
        unknown.push("the input: what readers find isn't the latest that the history has".into());
    }
    let mut known = store.inputs(&latest.model, &[hash.as_slice()]).await?;
    let known = known.remove(hash.as_slice());
    if known
        .as_ref()
        .is_none_or(|known| known.text.is_none() && known.features.is_none())
    {
        unknown.push("the input's text or features: `store.inputs` was off when it was scored, or its row is pruned".into());
    }
    let known = known.unwrap_or_default();
    Ok(Some(InputShown {
        input_sha256: hex::encode(hash),
        text: known.text,
        text_pair: known.text_pair,
        features: known.features,
    }))
}

async fn heat(
    sources: &Sources<'_>,
    namespace: &str,
    key: &str,
    input: Option<(&str, InputHash)>,
    unknown: &mut Vec<String>,
) -> (HeatShown, Option<NameHeat>) {
    let mut shown = HeatShown::default();
    let Some(redis) = sources.redis else {
        return (shown, None);
    };
    let shared = SharedHeat::new(redis);
    let now_ms = sources.now.timestamp_millis();
    let Some(read) = shared.read(namespace, now_ms).await else {
        unknown.push("how hot it is: redis doesn't answer".into());
        return (shown, None);
    };
    let mut of_name = NameHeat::default();
    if let Some((index, one)) = read.iter().enumerate().find(|(_, one)| one.name == key) {
        shown.reads_per_second = Some(one.rate);
        shown.reads_rank = Some(index + 1);
        shown.reads_by = Some(if one.counted { "hints" } else { "redis" });
        of_name.rank = Some(index + 1);
        of_name.has_input = one.input.is_some();
    }
    if let Some((model, hash)) = input {
        let scope = HeatScope {
            namespace: namespace.to_owned(),
            model: model.to_owned(),
        };
        let hot = shared.hot(&scope, now_ms).await;
        let inputs = hot.map(|hot| hot.inputs).unwrap_or_default();
        let found = inputs.iter().enumerate().find(|(_, one)| one.0 == hash);
        if let Some((index, (_, rate))) = found {
            shown.jobs_per_second = Some(*rate);
            shown.jobs_rank = Some(index + 1);
        }
    }
    (shown, Some(of_name))
}
