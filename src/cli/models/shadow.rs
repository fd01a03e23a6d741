//! What `kiln models` says of versions that score beside the active ones: the settings name them, and the worker on this machine knows how
//! far their scores are from the active version's.

use crate::{cli::worker_api, config::Settings};
use kiln_model::ModelInfo;
use serde::{Deserialize, Serialize};

/// Bytes of an answer that are read.
const MAX_ANSWER: u64 = 4 << 20;

/// A shadow version, as the worker on this machine has it score.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Shadow {
    version: String,
    share: f64,
    trouble: Option<String>,
    scored: u64,
    dropped: u64,
    failed: u64,
    model_seconds: f64,
    compared: usize,
    mean: Option<f64>,
    mean_absolute: Option<f64>,
    max_absolute: Option<f64>,
    rank_correlation: Option<f64>,
    flips: Option<f64>,
}

#[derive(Deserialize)]
struct Listed {
    name: String,
    shadow: Option<Shadow>,
}

/// The share of its model's inputs that a version scores in the background by these settings.
pub(super) fn share(settings: &Settings, info: &ModelInfo) -> Option<f64> {
    let shadow = settings.models.shadow.get(&info.name)?;
    (shadow.version == info.version).then_some(shadow.share)
}

/// Asks the worker on this machine how the model's shadow version differs, where the settings name one and this version is one of the two.
/// Says so where it can't be asked.
pub(super) async fn shown(settings: &Settings, info: &ModelInfo, active: bool) -> Option<Shadow> {
    let own = settings.models.shadow.get(&info.name)?;
    if !active && own.version != info.version {
        return None;
    }
    let addr = worker_api::here(settings.http.addr);
    let asked = tokio::task::spawn_blocking(move || {
        let (status, body) = worker_api::ask(addr, "/v1/models", MAX_ANSWER)?;
        match status {
            200 => Ok(serde_json::from_str::<Vec<Listed>>(&body)?),
            401 | 403 => anyhow::bail!("it wants an API key"),
            _ => anyhow::bail!("it answered with status {status}"),
        }
    });
    let listed = match asked.await.map_err(anyhow::Error::from).and_then(|all| all) {
        Ok(listed) => listed,
        Err(reason) => {
            eprintln!(
                "how `{}` differs isn't shown: the worker at {addr}: {reason:#}",
                own.version
            );
            return None;
        }
    };
    let mut its = listed.into_iter().filter(|one| one.name == info.name);
    its.find_map(|one| one.shadow)
}

/// Its lines.
pub(super) fn rows(shadow: &Shadow) -> Vec<(&'static str, String)> {
    let share = 100.0 * shadow.share;
    let mut rows = vec![(
        "shadow",
        format!("{}, of {share:.1} % of inputs", shadow.version),
    )];
    if let Some(trouble) = &shadow.trouble {
        rows.push(("scores nothing", trouble.clone()));
    }
    rows.push((
        "inputs so far",
        format!(
            "{} scored in {:.1} s, {} dropped, {} failed",
            shadow.scored, shadow.model_seconds, shadow.dropped, shadow.failed
        ),
    ));
    let (Some(mean), Some(absolute)) = (shadow.mean, shadow.mean_absolute) else {
        rows.push(("compared", "nothing yet".to_owned()));
        return rows;
    };
    let largest = shadow.max_absolute.unwrap_or_default();
    rows.push((
        "compared",
        format!("{} inputs, the latest ones", shadow.compared),
    ));
    rows.push((
        "scores differ by",
        format!("{mean:+.4} on average, {absolute:.4} either way, {largest:.4} at most"),
    ));
    let none = || "none".to_owned();
    let correlation = shadow.rank_correlation;
    rows.push((
        "rank correlation",
        correlation.map_or_else(none, |r| format!("{r:.4}")),
    ));
    if let Some(flips) = shadow.flips {
        rows.push(("other labels", format!("{:.2} %", 100.0 * flips)));
    }
    rows
}
