//! Opens what a run reads, scores with and writes, apart from the thread that hears a signal: whoever is at the other end of a pipe or of a network may let it
//! wait for ever.

use crate::{
    cli::score::{
        FileArguments,
        errors::{Errors, OnError},
        item::Position,
        layout::layout,
        manifest::{self, Manifest},
        models::Models,
        output::Output,
        render::Layout,
        source::{Source, open},
        summary::Report,
    },
    config::Settings,
};
use anyhow::Context;
use std::{path::Path, sync::Arc};
use tokio::runtime::Handle;

/// Opens something. What is opened after nobody waits for it any more is dropped, as a run does that stops.
async fn apart<T: Send + 'static>(
    open: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let opened = tokio::task::spawn_blocking(open).await;
    opened.context("the opening thread panicked")?
}

/// The files, how their results are written, and the report.
pub(super) async fn input(
    arguments: &Arc<FileArguments>,
    on_error: OnError,
) -> anyhow::Result<(Source, Layout, Report)> {
    let arguments = arguments.clone();
    apart(move || {
        let mut source = open(&arguments)?;
        let layout = layout(&arguments, on_error, &source)?;
        source.with_layout(&layout);
        let report = Report::open(arguments.report.as_deref())?;
        Ok((source, layout, report))
    })
    .await
}

/// The models, whose golden inputs are passed.
pub(super) async fn models(settings: &Settings, is_fleet: bool) -> anyhow::Result<Models> {
    let (settings, runtime) = (settings.clone(), Handle::current());
    apart(move || runtime.block_on(Models::open(&settings, is_fleet))).await
}

/// What a run is about.
type About = (Source, Layout, Manifest);

/// The output and the quarantine; gives back what the run is about.
pub(super) async fn outputs(
    arguments: &Arc<FileArguments>,
    on_error: OnError,
    (output, quarantine): (Option<&Path>, Option<&Path>),
    about: About,
) -> anyhow::Result<(Output, Errors, About)> {
    let arguments = arguments.clone();
    let output = output.map(Path::to_owned);
    let quarantine = quarantine.map(Path::to_owned);
    apart(move || {
        let (source, layout, manifest) = &about;
        let paths = (output.as_deref(), quarantine.as_deref());
        let sink = Output::open(paths.0, arguments.limits(), manifest, layout)?;
        let is_new = manifest.end == Position::default();
        if is_new && manifest.fleet.is_none() && manifest.split.is_none() {
            // What another run left is no place to go on from. It is this one's to remove only where nobody else writes the output.
            paths.0.map(manifest::remove);
        }
        let errors = Errors::open(on_error, source, paths, manifest.quarantine_bytes)?;
        Ok((sink, errors, about))
    })
    .await
}
