//! `kiln models list` and `kiln models inspect`: which versions serve, which are refused and why, and all of one version.

use super::{follow, gives, open, quantise, resolve, shadow, takes};
use crate::{cli::Exit, config::Settings};
use clap::Args;
use comfy_table::{Table, presets};
use kiln_contract::split::Share;
use kiln_model::{ListedModel, Problem, Registry, Task, Training, quantisation_cost};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::{fs, io, path::Path};

/// Lists the versions in the models folder: those that serve, and those that are refused, with the reason.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  kiln models list --json")]
pub(super) struct ListArguments {
    /// Print one JSON object per line.
    #[arg(long)]
    json: bool,
}

/// Shows one version in full.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  kiln models inspect sentiment@1.0.0")]
pub(super) struct InspectArguments {
    /// The model's name, or name@version.
    model: String,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn list(arguments: ListArguments, settings: Settings) -> anyhow::Result<Exit> {
    let registry = open(&settings).await?;
    follow(&registry, &settings).await;
    let (models, problems) = (registry.list(), registry.problems());
    let size_of = |model: &ListedModel| {
        let folder = settings
            .models
            .dir
            .join(&model.info.name)
            .join(&model.info.version);
        size(&folder).unwrap_or(0)
    };
    if arguments.json {
        for model in &models {
            println!(
                "{}",
                json!({"model": model.info, "active": model.active, "share": model.share.map(Share::ratio), "shadow": shadow::share(&settings, &model.info), "bytes": size_of(model), "memory_bytes": memory_of(&registry, model)})
            );
        }
        for problem in &problems {
            println!(
                "{}",
                json!({"problem": problem.to_string(), "name": problem.model, "version": problem.version})
            );
        }
    } else {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header([
            "model",
            "version",
            "active",
            "architecture",
            "takes",
            "gives",
            "parameters",
            "weights",
            "MB",
            "MB in memory",
        ]);
        for model in &models {
            let info = &model.info;
            table.add_row([
                info.name.clone(),
                info.version.clone(),
                match (model.active, model.share, shadow::share(&settings, info)) {
                    (true, ..) => "yes".to_owned(),
                    (false, Some(share), _) => format!("{share} of the inputs"),
                    (false, None, Some(share)) => format!("shadow of {:.0} %", 100.0 * share),
                    (false, None, None) => String::new(),
                },
                info.architecture.clone(),
                takes(info.input),
                gives(&info.task, info.output_width),
                info.parameters.to_string(),
                info.weights.name().to_owned(),
                megabytes(size_of(model)),
                memory_of(&registry, model).map_or_else(String::new, megabytes),
            ]);
        }
        println!("{table}");
        print_problems(&problems);
    }
    Ok(if problems.is_empty() {
        Exit::Ok
    } else {
        Exit::Failed
    })
}

/// Bytes of a version's weights in memory.
fn memory_of(registry: &Registry, model: &ListedModel) -> Option<u64> {
    let reference = format!("{}@{}", model.info.name, model.info.version);
    registry.resolve(&reference).ok()?.memory_bytes()
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e6)
}

fn print_problems(problems: &[Problem]) {
    for problem in problems {
        eprintln!("refused: {problem}");
    }
}

pub(super) async fn inspect(
    arguments: InspectArguments,
    settings: Settings,
) -> anyhow::Result<Exit> {
    let registry = open(&settings).await?;
    follow(&registry, &settings).await;
    let model = resolve(&registry, &arguments.model)?;
    let info = model.info();
    let listed = registry.list().into_iter();
    let mut its = listed.filter(|listed| listed.info == *info);
    let (active, share) = its
        .next()
        .map_or((false, None), |its| (its.active, its.share));
    let folder = settings.models.dir.join(&info.name).join(&info.version);
    let files = files(&folder)?;
    let cost = quantisation_cost(&folder)?;
    let shadow = shadow::shown(&settings, info, active).await;
    if arguments.json {
        let files: Vec<_> = files
            .iter()
            .map(|(name, bytes, sha256)| json!({"file": name, "bytes": bytes, "sha256": sha256}))
            .collect();
        println!(
            "{}",
            json!({"model": info, "active": active, "share": share.map(Share::ratio), "memory_bytes": model.memory_bytes(), "files": files, "quantised": cost, "shadow": shadow})
        );
        return Ok(Exit::Ok);
    }
    let mut rows = vec![
        ("model", format!("{}@{}", info.name, info.version)),
        (
            "active",
            match share {
                Some(share) => format!("no; {share} of the inputs go to it"),
                None if active => "yes".to_owned(),
                None => "no".to_owned(),
            },
        ),
        ("architecture", info.architecture.clone()),
        ("takes", takes(info.input)),
        ("gives", gives(&info.task, info.output_width)),
    ];
    if let Task::Classification { labels } = &info.task {
        rows.push(("labels", labels.join(", ")));
    }
    if info.max_text_bytes > 0 {
        rows.push(("longest text", format!("{} bytes", info.max_text_bytes)));
    }
    if let Some(seconds) = info.ttl_seconds {
        rows.push(("entries live", format!("{seconds} s")));
    }
    rows.push(("parameters", info.parameters.to_string()));
    rows.push(("weights", info.weights.name().to_owned()));
    let memory = model.memory_bytes();
    rows.extend(memory.map(|bytes| ("in memory", format!("{bytes} bytes of weights"))));
    rows.extend(cost.iter().flat_map(quantise::rows));
    rows.extend(shadow.iter().flat_map(shadow::rows));
    rows.extend(info.training.iter().flat_map(|training| trained(training)));
    rows.push(("golden inputs", info.golden.to_string()));
    for (name, bytes, sha256) in files {
        rows.push(("file", format!("{name}, {bytes} bytes, SHA-256 {sha256}")));
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    for (name, value) in rows {
        table.add_row([name.to_owned(), value]);
    }
    println!("{table}");
    Ok(Exit::Ok)
}

/// How a version was trained, as rows of names and values.
fn trained(training: &Training) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        (
            "trained on",
            format!(
                "{} rows, {} to {}",
                training.rows, training.from, training.to
            ),
        ),
        ("training took", format!("{} s", training.training_seconds)),
        (
            "evaluation took",
            format!("{} s", training.evaluation_seconds),
        ),
    ];
    let metrics = training.metrics.iter();
    rows.extend(metrics.map(|(name, figure)| ("evaluation", format!("{name} {figure}"))));
    rows
}

/// Bytes of a folder's files.
fn size(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        bytes += fs::metadata(entry?.path())?.len();
    }
    Ok(bytes)
}

/// Name, bytes and SHA-256 of a folder's files, by name.
fn files(folder: &Path) -> io::Result<Vec<(String, u64, String)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.path().is_file() {
            let bytes = fs::read(entry.path())?;
            let name = entry.file_name().to_string_lossy().into_owned();
            files.push((
                name,
                bytes.len() as u64,
                hex::encode(Sha256::digest(&bytes)),
            ));
        }
    }
    files.sort();
    Ok(files)
}
