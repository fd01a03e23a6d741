//! What `kiln doctor` says of models that score an input in less time than it is looked up, by what both take here and now.
//!
//! Promises to read keys that aren't there, and none that are.

use super::check::Check;
use crate::{
    cache,
    config::{CacheMode, Settings},
};
use kiln_contract::key;
use kiln_model::{InputKind, Registry};
use std::time::Instant;

const NAME: &str = "cache";
/// Inputs of one look-up: about what a batch has under load.
const INPUTS: usize = 256;
/// Look-ups, of which the fastest counts: the others are of a connection that warms up.
const TRIES: usize = 3;
/// A text as those are that are scored in passing: a title, a short comment.
const TEXT_BYTES: usize = 64;

/// Says for which models `cache.mode = "auto"` would pay; nothing where that can't be measured.
pub(super) async fn check(settings: &Settings, registry: &Registry, token: &str) -> Option<Check> {
    let look_up = look_up_seconds(settings, token).await?;
    let text = "x".repeat(TEXT_BYTES);
    let mut cheap = Vec::new();
    for listed in registry.list().into_iter().filter(|model| model.active) {
        let name = &listed.info.name;
        let mode = settings.cache.mode_of(None, name);
        let model = registry.resolve(name).ok()?;
        let input = match listed.info.input {
            InputKind::Text { .. } => Some((text.as_str(), None)),
            InputKind::Features { .. } => None,
        };
        let seconds = model.expected_seconds(input);
        let Some(seconds) = seconds.filter(|seconds| *seconds < look_up) else {
            continue;
        };
        if mode == CacheMode::Always {
            cheap.push(format!("{name} ({:.1} µs)", 1e6 * seconds));
        }
    }
    let took = format!("a look-up takes {:.1} µs an input", 1e6 * look_up);
    if !settings.cache.enabled || cheap.is_empty() {
        return Some(Check::ok(NAME, took));
    }
    let found = format!("{took}, more than these models: {}", cheap.join(", "));
    let advice = "cache.mode = \"auto\" scores them without one; see docs/operating.md, \"What is worth caching\"";
    Some(Check::note(NAME, found, advice))
}

async fn look_up_seconds(settings: &Settings, token: &str) -> Option<f64> {
    let url = settings.redis.url.as_ref()?;
    let found = cache::survey(url, &settings.redis).await.ok()?;
    let primary = found.primaries.first()?;
    let mut connection = cache::connect(primary, &settings.redis).await.ok()?;
    let key = match found.slot(0) {
        Some(slot) => key::trial_in(slot, token),
        None => key::trial(token),
    };
    let mut best: Option<f64> = None;
    for _ in 0..TRIES {
        let mut pipeline = redis::pipe();
        for _ in 0..INPUTS {
            pipeline.cmd("GET").arg(&key);
        }
        let begun = Instant::now();
        let answer = pipeline.query_async::<Vec<Option<Vec<u8>>>>(&mut connection);
        let limit = crate::config::ms(settings.redis.timeout_ms);
        tokio::time::timeout(limit, answer).await.ok()?.ok()?;
        let seconds = begun.elapsed().as_secs_f64() / INPUTS as f64;
        best = Some(best.map_or(seconds, |best| best.min(seconds)));
    }
    best
}
