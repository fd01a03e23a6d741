//! Owns a run from its beginning to its end: what is opened, what flows, what is said at last.

use super::{
    Arguments,
    block::Block,
    errors::{Errors, OnError},
    flow::Flow,
    item::Position,
    layout::layout,
    manifest::{self, Manifest},
    model::{choose, pinned},
    output::{Output, Part},
    parsed::Parsed,
    progress::Marks,
    source::{Source, identity, open},
    summary::{self, Facts},
    work::{Done, Shared, work},
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
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{runtime::Handle, sync::mpsc};

/// Blocks that wait for their turn; those in hand are bounded in bytes.
const AHEAD: usize = 2;
/// Rows of one block: as many as a job may have.
const MAX_ROWS: usize = kiln_contract::job::MAX_INPUTS;
/// Bytes of outputs that a block may take on its way, by which blocks of models with wide outputs are smaller.
const OUTPUT_BYTES: usize = 8 << 20;
/// What a value of an output takes on its way: as a number twice, and as text twice.
const BYTES_PER_OUTPUT: usize = 44;

/// What a run has open.
struct Run {
    engine: Arc<Engine>,
    embedded: Embedded,
    shared: Arc<Shared>,
    bar: ProgressBar,
    max_rows: Arc<AtomicUsize>,
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
    let source = open(arguments)?;
    let layout = layout(arguments, on_error, &source)?;
    let output = arguments.output.as_deref().map(real);
    let quarantine = arguments.quarantine.as_deref().map(real);
    let embedded = parts::embedded(settings, said_once()).await?;
    let engine = Arc::new(embedded.engine(settings)?);
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
    let kept = manifest.quarantine_bytes;
    let mut errors = Errors::open(on_error, &source, quarantine.as_deref(), kept)?;
    match from {
        Some(from) => eprintln!(
            "goes on after {} {} of {}",
            source.format.row(),
            from.lines,
            source.path.display()
        ),
        None => sink.write(&layout.header())?,
    }
    let mut run = Run {
        shared: Arc::new(Shared {
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
        }),
        bar: source.bar.clone(),
        max_rows: Arc::new(AtomicUsize::new(MAX_ROWS)),
        engine,
        embedded,
        database: settings.embedded.path.clone(),
        begun,
        manifest,
        from,
    };
    let is_resumable = source.about.is_some()
        && sink.may_resume()
        && errors.quarantine.as_ref().is_none_or(Part::may_resume);
    let marks = output.as_deref().filter(|_| is_resumable);
    let marks = marks.map(|output| Marks::new(output, &run.embedded.store));
    if let Err(error) = run.flow(source, marks, &mut sink, &mut errors).await {
        run.bar.finish_and_clear();
        // What was stored stays stored, whatever ended the run.
        let _ = run.embedded.store.flush().await;
        give_up(sink, errors, output.as_deref());
        return Err(error);
    }
    run.complete(sink, &mut errors)?;
    output.as_deref().map(manifest::remove);
    run.end(arguments, output.as_deref(), &errors)
}

/// Leaves what a later run can go on from, and nothing else.
fn give_up(sink: Output, errors: Errors, output: Option<&Path>) {
    let Some(output) = output else {
        return;
    };
    if errors.failed {
        manifest::remove(output);
    }
    if !manifest::path(output).exists() {
        sink.discard();
        if let Some(part) = errors.quarantine {
            part.discard();
        }
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
        "input": source.about.as_ref().map(|about| identity(&source.path, about)),
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
        mut marks: Option<Marks>,
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
            let (model, block): (Option<String>, Done) = block?;
            self.stored(self.embedded.store.check())?;
            if self.manifest.model.is_none() {
                self.manifest.model = model;
            }
            for results in &block.out {
                output.add(results)?;
            }
            errors.take(&self.bar, block.bad)?;
            self.manifest.tally.merge(&block.tally);
            self.manifest.end = block.end;
            self.say_rate();
            if let Some(marks) = &mut marks {
                let mut manifest = self.manifest.clone();
                manifest.seconds += self.begun.elapsed().as_secs_f64();
                marks.mark(&manifest, output, errors).await?;
            }
        }
        reader.await.context("the reading thread panicked")??;
        if let Some(marks) = &mut marks {
            marks.wait().await?;
        }
        let flushed = self.embedded.store.flush().await;
        self.stored(flushed)
    }

    /// Gives what was written its names.
    fn complete(&self, sink: Output, errors: &mut Errors) -> anyhow::Result<()> {
        let model = self.manifest.model.as_deref();
        let model = model.and_then(|model| self.engine.registry().resolve(model).ok());
        sink.finish(model.as_ref().map(|model| model.info()))?;
        if let Some(part) = errors.quarantine.take() {
            part.finish()?;
        }
        Ok(())
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
            self.bar.set_message(format!("{rate:.0} inputs/s"));
        }
    }

    fn elapsed(&self) -> Duration {
        // What stands in a manifest may be anything.
        let before = Duration::try_from_secs_f64(self.manifest.seconds).unwrap_or_default();
        self.begun.elapsed().saturating_add(before)
    }

    fn end(
        &self,
        arguments: &Arguments,
        output: Option<&Path>,
        errors: &Errors,
    ) -> anyhow::Result<Exit> {
        self.bar.finish_and_clear();
        let tally = &self.manifest.tally;
        let facts = Facts {
            file: &arguments.file,
            output,
            model: self.manifest.model.as_deref(),
            elapsed: self.elapsed(),
            resumed_after: self.from.map(|from| from.lines),
        };
        if let Some(path) = &arguments.report {
            summary::report(path, tally, &facts, &self.engine)?;
        }
        if !arguments.json {
            errors.lines.print_rest();
        }
        summary::print(tally, facts.elapsed, arguments.json);
        Ok(match tally.bad_rows {
            0 => Exit::Ok,
            _ => Exit::Partial,
        })
    }
}

/// Smaller blocks for wide outputs.
fn fit_rows(engine: &Engine, model: &str, max_rows: &AtomicUsize) {
    if let Ok(model) = engine.registry().resolve(model) {
        let row = BYTES_PER_OUTPUT * model.info().output_width.max(1);
        max_rows.store((OUTPUT_BYTES / row).clamp(64, MAX_ROWS), Ordering::Relaxed);
    }
}

type Begun = (
    Option<String>,
    tokio::task::JoinHandle<anyhow::Result<Done>>,
);

/// Begins to work on a block. The first one with inputs says which model is meant, where none was named.
fn start(
    number: usize,
    block: Block,
    model: &mut Option<String>,
    shared: &Arc<Shared>,
    runtime: &Handle,
    max_rows: &AtomicUsize,
) -> anyhow::Result<Begun> {
    let shared = shared.clone();
    if let Some(known) = model.clone() {
        let named = Some(known.clone());
        let work = runtime.spawn(async move {
            let parsed = Parsed::new(block, shared.pick.as_ref());
            work(parsed, number, known, shared).await
        });
        return Ok((named, work));
    }
    let parsed = Parsed::new(block, shared.pick.as_ref());
    if let Some(input) = parsed.first_input() {
        let chosen = choose(shared.engine.registry(), input)?;
        fit_rows(&shared.engine, &chosen, max_rows);
        *model = Some(chosen);
    }
    let named = model.clone();
    let known = named.clone().unwrap_or_default();
    Ok((named, runtime.spawn(work(parsed, number, known, shared))))
}
