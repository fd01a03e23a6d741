//! Owns which model scores inputs that name none. Refuses inputs for which no model, or more than one, could be meant.

use anyhow::bail;
use kiln_model::{InputKind, Registry};
use std::collections::BTreeMap;

/// The version that a reference means now: a run uses one. A model that the registry doesn't know may be `active` elsewhere; otherwise the
/// reference stays as it is.
pub(super) fn pinned(
    registry: &Registry,
    active: &BTreeMap<String, String>,
    reference: &str,
) -> String {
    match (registry.resolve(reference), active.get(reference)) {
        (Ok(model), _) => format!("{}@{}", model.info().name, model.info().version),
        (Err(_), Some(version)) => format!("{reference}@{version}"),
        (Err(_), None) => reference.to_owned(),
    }
}

/// Refuses a model that is named and isn't there, before anything is opened to be written.
pub(super) fn must_know(registry: &Registry, named: Option<&str>) -> anyhow::Result<()> {
    let Some(reference) = named else {
        return Ok(());
    };
    match registry.resolve(reference) {
        Ok(_) => Ok(()),
        Err(unknown) => bail!("--model {reference}: {unknown}"),
    }
}

/// The only active model that takes such an input.
pub(super) fn choose(registry: &Registry, input: &str) -> anyhow::Result<String> {
    let features = serde_json::from_str::<serde_json::Value>(input)
        .is_ok_and(|value| value.get("features").is_some());
    let kind = if features { "features" } else { "text" };
    let fits = |input: &InputKind| matches!(input, InputKind::Features { .. }) == features;
    let active: Vec<String> = registry
        .list()
        .into_iter()
        .filter(|m| m.active && fits(&m.info.input))
        .map(|m| m.info.name)
        .collect();
    match active.as_slice() {
        [one] => Ok(pinned(registry, &BTreeMap::new(), one)),
        [] => bail!("no model takes `{kind}`{}", refused(registry)),
        many => bail!(
            "several models take `{kind}`: choose one of {} with --model",
            many.join(", ")
        ),
    }
}

fn refused(registry: &Registry) -> String {
    registry
        .problems()
        .iter()
        .map(|p| format!("\n  refused: {p}"))
        .collect()
}
