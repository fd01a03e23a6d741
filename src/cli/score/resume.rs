//! Owns where a run begins, at its files' start or where the same run was killed, and what one that fails leaves to go on from.

use super::{
    FileArguments, JobArguments,
    errors::{Errors, OnError},
    fleet::remove_journal,
    manifest::{self, Manifest},
    model::pinned,
    models::Models,
    source::Source,
};
use kiln_model::Registry;
use std::path::Path;

/// Where the run begins: at the file's start, or where the same run was killed.
pub(super) fn begin(
    arguments: &FileArguments,
    on_error: OnError,
    source: &Source,
    (output, quarantine): (Option<&Path>, Option<&Path>),
    (models, jobs): (&Models, Option<&JobArguments>),
) -> Manifest {
    let (registry, chosen) = (models.registry(), models.active());
    let mut run = serde_json::json!({
        "input": source.identity,
        "input_format": format!("{:?}", source.format),
        "format": format!("{:?}", arguments.output_format()),
        "model": arguments.model,
        "columns": [&arguments.text_column, &arguments.text_pair_column, &arguments.key_column],
        "features": arguments.feature_columns,
        "features_by_name": arguments.features_by_name,
        "keep": arguments.keep_columns,
        "quarantine": quarantine.map(|path| path.display().to_string()),
        "detail": arguments.detail,
        "report": arguments.report.is_some(),
        "on_error": format!("{on_error:?}"),
        "active": active(arguments, registry),
    });
    if let (Some(jobs), Some(fields)) = (jobs, run.as_object_mut()) {
        let said = serde_json::json!([jobs.namespace, jobs.named, jobs.inputs_per_job]);
        fields.insert("fleet".to_owned(), said);
    }
    if let (Some(limits), Some(fields)) = (arguments.limits(), run.as_object_mut()) {
        let said = serde_json::json!([limits.rows, limits.bytes]);
        fields.insert("split".to_owned(), said);
    }
    let known = output.and_then(|output| Manifest::read(output, &run, quarantine));
    let known = known.filter(|known| {
        // Another version is active by now: its scores don't stand beside those of the one before.
        let model = known.model.as_deref().map(|model| {
            let name = model.split('@').next().unwrap_or(model);
            let reference = arguments.model.as_deref().unwrap_or(name);
            pinned(registry, &chosen, reference) == model
        });
        model.unwrap_or(true)
    });
    let mut manifest = known.unwrap_or_else(|| Manifest::new(run));
    if manifest.model.is_none() {
        let named = arguments.model.as_deref();
        manifest.model = named.map(|model| pinned(registry, &chosen, model));
    }
    manifest
}

/// The versions that whole jobs of a file are scored with, where it isn't said which model scores all.
fn active(arguments: &FileArguments, registry: &Registry) -> Option<Vec<String>> {
    if arguments.model.is_some() {
        return None;
    }
    let all = registry.list().into_iter();
    let active = all.filter(|model| model.active);
    let mut names: Vec<String> = active
        .map(|model| format!("{}@{}", model.info.name, model.info.version))
        .collect();
    names.sort_unstable();
    Some(names)
}

/// Leaves what a later run can go on from, and nothing else: what isn't completed goes by itself without a manifest.
pub(super) fn give_up(errors: &Errors, output: Option<&Path>) {
    let Some(output) = output else {
        return;
    };
    if errors.failed {
        manifest::remove(output);
    }
    if !manifest::path(output).exists() {
        remove_journal(output);
    }
}
