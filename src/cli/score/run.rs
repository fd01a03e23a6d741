//! Owns a run from its beginning to its end: what is opened, what flows, what is said at last.

use super::{
    Arguments,
    begin::{MAX_ROWS, fit_rows, start},
    block::Block,
    errors::{Errors, OnError},
    flow::Flow,
    item::Position,
    layout::layout,
    manifest::{self, Manifest},
    model::{must_know, pinned},
    output::{Closed, Output, Part},
    progress::Marks,
    render::Layout,
    source::{Source, open},
    summary::{self, Facts, Report},
    work::{Done, Shared},
};
use crate::{
    cli::{Exit, file::Format},
    clock,
    config::Settings,
    parts::{self, Embedded},
    pipeline::Engine,
    store::StoreError,
};
use anyhow::Context;
use futures_util::{StreamExt, stream};
use indicatif::ProgressBar;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicUsize},
    time::{Duration, Instant},
};
use tokio::{runtime::Handle, sync::mpsc};

/// Blocks that wait for their turn; those in hand are bounded in bytes.
const AHEAD: usize = 2;

/// What a run has open.
struct Run {
    engine: Arc<Engine>,
    embedded: Embedded,
    shared: Arc<Shared>,
    bar: ProgressBar,
    max_rows: Arc<AtomicUsize>,
    files: usize,
    /// The file of scores.
    database: PathBuf,
    begun: Instant,
    /// How far it has come.
    manifest: Manifest,
    /// Where an earlier run stopped.
    from: Option<Position>,
}

pub(super) async fn run(
    arguments: &Arguments,
    on_error: OnError,
    settings: &Settings,
) -> anyhow::Result<Exit> {
    let begun = Instant::now();
    let mut source = open(arguments)?;
    let layout = layout(arguments, on_error, &source)?;
    source.with_layout(&layout);
    let report = Report::open(arguments.report.as_deref())?;
    let output = arguments.output.as_deref().map(real);
    let quarantine = arguments.quarantine.as_deref().map(real);
    let embedded = parts::embedded(settings, said_once()).await?;
    let engine = Arc::new(embedded.engine(settings)?);
    if let Some(model) = &arguments.model {
        must_know(engine.registry(), model)?;
    }
    let manifest = begin(
        arguments,
        on_error,
        &source,
        output.as_deref(),
        quarantine.as_deref(),
        &engine,
    );
    let from = (manifest.end != Position::default()).then_some(manifest.end);
    let mut sink = Output::open(output.as_deref(), manifest.output_bytes, &layout)?;
    let kept = (manifest.quarantine_bytes, output.as_deref());
    let mut errors = Errors::open(on_error, &source, quarantine.as_deref(), kept)?;
    match from {
        Some(from) => eprintln!(
            "goes on after {} {} of {}",
            source.format.row(),
            from.lines,
            source
                .inputs
                .get(from.file)
                .unwrap_or(Path::new("-"))
                .display()
        ),
        None => sink.write(&layout.header())?,
    }
    let mut run = Run {
        shared: Arc::new(shared(arguments, on_error, &source, layout, &engine)),
        bar: source.bar.clone(),
        max_rows: Arc::new(AtomicUsize::new(MAX_ROWS)),
        engine,
        embedded,
        files: source.inputs.count(),
        database: settings.embedded.path.clone(),
        begun,
        manifest,
        from,
    };
    let is_resumable = source.identity.is_some()
        && sink.may_resume()
        && errors.quarantine.as_ref().is_none_or(Part::may_resume);
    let marks = output.as_deref().filter(|_| is_resumable);
    let mut marks = marks.map(|output| Marks::new(output, &run.embedded.store));
    let flowed = run.flow(source, &mut marks, &mut sink, &mut errors).await;
    if flowed.is_err() {
        let failed = output.as_deref().filter(|_| errors.failed);
        run.halt(&mut marks, failed).await;
    }
    let completed = flowed.and_then(|()| run.complete(sink, &mut errors));
    run.end(completed, report, arguments, output.as_deref(), errors)
}

/// What all blocks of a run share.
fn shared(
    arguments: &Arguments,
    on_error: OnError,
    source: &Source,
    layout: Layout,
    engine: &Arc<Engine>,
) -> Shared {
    Shared {
        engine: engine.clone(),
        run_id: format!(
            "score-{}-{:08x}",
            clock::now().timestamp_millis(),
            rand::random::<u32>()
        ),
        detail: arguments.detail,
        pick: arguments.pick().filter(|_| source.format == Format::Jsonl),
        layout,
        quarantines: on_error == OnError::Quarantine,
        reports: arguments.report.is_some(),
    }
}

/// Says once that the file's scores are brought into a new form.
fn said_once() -> impl FnMut(u64, u64) + Send + 'static {
    let mut is_said = false;
    move |_, all| {
        if !std::mem::replace(&mut is_said, true) {
            eprintln!("brings {all} scores of an earlier release into a new form, once");
        }
    }
}

/// What a path leads to: a link's file is replaced, not the link.
fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Where the run begins: at the file's start, or where the same run was killed.
fn begin(
    arguments: &Arguments,
    on_error: OnError,
    source: &Source,
    output: Option<&Path>,
    quarantine: Option<&Path>,
    engine: &Engine,
) -> Manifest {
    let run = serde_json::json!({
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
        "active": active(arguments, engine),
    });
    let known = output.and_then(|output| Manifest::read(output, &run, quarantine));
    let known = known.filter(|known| {
        // Another version is active by now: its scores don't stand beside those of the one before.
        let model = known.model.as_deref().map(|model| {
            let name = model.split('@').next().unwrap_or(model);
            let reference = arguments.model.as_deref().unwrap_or(name);
            pinned(engine.registry(), reference) == model
        });
        model.unwrap_or(true)
    });
    if known.is_none() {
        // What another run left is no place to go on from once this one has written there.
        output.map(manifest::remove);
    }
    let mut manifest = known.unwrap_or_else(|| Manifest::new(run));
    if manifest.model.is_none() {
        let named = arguments.model.as_deref();
        manifest.model = named.map(|model| pinned(engine.registry(), model));
    }
    manifest
}

/// The versions that whole jobs of a file are scored with, where it isn't said which model scores all.
fn active(arguments: &Arguments, engine: &Engine) -> Option<Vec<String>> {
    if arguments.model.is_some() {
        return None;
    }
    let all = engine.registry().list().into_iter();
    let active = all.filter(|model| model.active);
    let mut names: Vec<String> = active
        .map(|model| format!("{}@{}", model.info.name, model.info.version))
        .collect();
    names.sort_unstable();
    Some(names)
}

impl Run {
    /// Reads, works and writes, all at the same time, until the file's end.
    async fn flow(
        &mut self,
        source: Source,
        marks: &mut Option<Marks>,
        output: &mut Output,
        errors: &mut Errors,
    ) -> anyhow::Result<()> {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let flow = Flow::new(self.bar.clone(), sender, self.max_rows.clone());
        let from = self.manifest.end;
        if let Some(model) = self.manifest.model.clone() {
            self.fit_rows(&model);
        }
        let reader = tokio::task::spawn_blocking(move || source.read(from, &flow));
        let blocks = stream::unfold(receiver, async |mut r| r.recv().await.map(|b| (b, r)));
        let blocks = blocks.enumerate();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut model = self.manifest.model.clone();
        let (shared, runtime) = (self.shared.clone(), Handle::current());
        let max_rows = self.max_rows.clone();
        let begin = |(number, block): (usize, Block)| {
            let begun = start(number, block, &mut model, &shared, &runtime, &max_rows);
            async move {
                match begun {
                    Ok((model, work)) => Ok((model, work.await.context("a block was lost")??)),
                    Err(error) => Err(error),
                }
            }
        };
        let mut done = std::pin::pin!(blocks.map(begin).buffered(2 * cores + 4));
        while let Some(block) = done.next().await {
            let (model, mut block): (Option<String>, Done) = block?;
            self.stored(self.embedded.store.check())?;
            if self.manifest.model.is_none() {
                self.manifest.model = model;
            }
            errors.take(&self.bar, block.end.file, block.bad)?;
            if errors.inputs.count() > 1 {
                block.tally.of_file(errors.inputs.get(block.end.file));
            }
            self.manifest.tally.merge(&block.tally);
            self.manifest.end = block.end;
            for results in &block.out {
                output.add(results)?;
            }
            self.say_rate();
            if let Some(marks) = marks {
                let mut manifest = self.manifest.clone();
                manifest.seconds += self.begun.elapsed().as_secs_f64();
                marks.mark(&manifest, output, errors).await?;
            }
        }
        reader.await.context("the reading thread panicked")??;
        if let Some(marks) = marks {
            marks.wait().await?;
        }
        let flushed = self.embedded.store.flush().await;
        self.stored(flushed)
    }

    /// Lets what is under way come to its end. A run that a bad row has ended, with this output, is none to go on from.
    async fn halt(&self, marks: &mut Option<Marks>, failed: Option<&Path>) {
        self.bar.finish_and_clear();
        // What was stored stays stored, whatever ended the run.
        let _ = self.embedded.store.flush().await;
        if let Some(marks) = marks {
            let _ = marks.wait().await;
        }
        failed.map(manifest::remove);
    }

    /// Gives what was written its names.
    fn complete(&self, sink: Output, errors: &mut Errors) -> anyhow::Result<()> {
        let model = self.manifest.model.as_deref();
        let model = model.and_then(|model| self.engine.registry().resolve(model).ok());
        sink.finish(model.as_ref().map(|model| model.info()))?;
        errors.quarantine.take().map_or(Ok(()), Part::finish)
    }

    /// Ends a run whose results nobody reads any more: what it has put aside and counted so far is kept.
    fn closed(&self, report: Report, mut errors: Errors) -> anyhow::Result<Exit> {
        errors.quarantine.take().map_or(Ok(()), Part::finish)?;
        report.write(
            &self.manifest.tally,
            &self.facts(None, &errors),
            &self.engine,
        )?;
        Ok(self.exit())
    }

    /// Names the file of scores where it takes no more.
    fn stored(&self, stored: Result<(), StoreError>) -> anyhow::Result<()> {
        stored.with_context(|| format!("{} can't be written", self.database.display()))
    }

    fn fit_rows(&self, model: &str) {
        fit_rows(&self.engine, model, &self.max_rows);
    }

    fn say_rate(&self) {
        if !self.bar.is_hidden() {
            let rate = self.manifest.tally.inputs() as f64 / self.elapsed().as_secs_f64();
            let files = match self.files {
                1 => String::new(),
                all => format!("file {} of {all}  ", self.manifest.end.file + 1),
            };
            self.bar.set_message(format!("{files}{rate:.0} inputs/s"));
        }
    }

    fn elapsed(&self) -> Duration {
        // What stands in a manifest may be anything.
        let before = Duration::try_from_secs_f64(self.manifest.seconds).unwrap_or_default();
        self.begun.elapsed().saturating_add(before)
    }

    fn end(
        &self,
        completed: anyhow::Result<()>,
        report: Report,
        arguments: &Arguments,
        output: Option<&Path>,
        errors: Errors,
    ) -> anyhow::Result<Exit> {
        match completed {
            Err(error) if error.is::<Closed>() => return self.closed(report, errors),
            completed => completed?,
        }
        output.map(manifest::remove);
        self.bar.finish_and_clear();
        let tally = &self.manifest.tally;
        let facts = self.facts(output, &errors);
        report.write(tally, &facts, &self.engine)?;
        if !arguments.json {
            errors.lines.print_rest();
        }
        summary::print(tally, facts.elapsed, arguments.json);
        Ok(self.exit())
    }

    fn exit(&self) -> Exit {
        match self.manifest.tally.bad_rows {
            0 => Exit::Ok,
            _ => Exit::Partial,
        }
    }

    fn facts<'a>(&'a self, output: Option<&'a Path>, errors: &'a Errors) -> Facts<'a> {
        Facts {
            files: &errors.inputs,
            output,
            model: self.manifest.model.as_deref(),
            elapsed: self.elapsed(),
            resumed_after: self.from,
        }
    }
}
