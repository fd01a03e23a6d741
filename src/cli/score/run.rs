//! Owns a run from its beginning to its end: what is opened, what flows, what is said at last.

mod marks;
mod opened;

use super::{
    FileArguments, JobArguments,
    begin::{fit_rows, start},
    block::Block,
    errors::{Errors, OnError},
    fleet::Watch,
    flow::Flow,
    item::Position,
    manifest::{self, Manifest},
    model::must_know,
    models::Wanted,
    output::{Closed, Output},
    part::Part,
    progress::Marks,
    render::Layout,
    resume::{begin, give_up},
    scorer::Scorer,
    source::Source,
    summary::{self, Facts, Report},
    work::{Done, Shared},
};
use crate::{
    cli::{Exit, file::Format},
    clock,
    config::Settings,
    store::StoreError,
};
use anyhow::Context;
use futures_util::{StreamExt, future::OptionFuture, stream};
use indicatif::ProgressBar;
use kiln_model::Model;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicUsize},
    time::{Duration, Instant},
};
use tokio::{runtime::Handle, sync::mpsc};

/// Blocks that wait for their turn; those in hand are bounded in bytes.
const AHEAD: usize = 2;

/// How often a run over the fleet looks whether a mark is due though nothing was written.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

/// What a run has open.
struct Run {
    scorer: Scorer,
    shared: Arc<Shared>,
    bar: ProgressBar,
    max_rows: Arc<AtomicUsize>,
    output: Option<PathBuf>,
    files: usize,
    /// The file of scores.
    database: PathBuf,
    begun: Instant,
    /// How far it has come.
    manifest: Manifest,
    /// Where an earlier run stopped.
    from: Option<Position>,
}

/// Runs over the files; over the fleet, where it is said how jobs are posted.
pub(super) async fn run(
    arguments: &Arc<FileArguments>,
    jobs: Option<&JobArguments>,
    on_error: OnError,
    settings: &Settings,
) -> anyhow::Result<Exit> {
    let begun = Instant::now();
    let (source, layout, report) = opened::input(arguments, on_error).await?;
    let output = arguments.output.as_deref().map(real);
    let quarantine = arguments.quarantine.as_deref().map(real);
    let models = opened::models(settings, jobs.is_some()).await?;
    let named = arguments.model.as_deref().filter(|_| jobs.is_none());
    must_know(models.registry(), named)?;
    let paths = (output.as_deref(), quarantine.as_deref());
    let about = (&models, jobs);
    let manifest = begin(arguments, on_error, &source, paths, about);
    let from = (manifest.end != Position::default()).then_some(manifest.end);
    let about = (source, layout, manifest);
    let opened = opened::outputs(arguments, on_error, paths, about).await?;
    let (mut sink, mut errors, (source, layout, mut manifest)) = opened;
    let known = paths.0.filter(|_| source.identity.is_some());
    let resumable = known.filter(|_| may_resume(&sink, &errors));
    marks::name_parts(&mut sink, on_error, resumable.is_some())?;
    let wanted = Wanted {
        settings,
        jobs,
        layout: &layout,
        output: known.filter(|_| sink.partial().is_some()),
        resumable: resumable.filter(|_| sink.may_resume_within()),
        quarantine: paths.1,
        bar: &source.bar,
    };
    let scorer = models.scorer(&wanted, &mut manifest).await;
    let scorer = scorer.inspect_err(|_| give_up(&errors, output.as_deref()))?;
    match from {
        Some(from) => say_resumed(from, &source),
        None => sink.begin(&layout.header())?,
    }
    let mut run = Run {
        shared: Arc::new(shared(arguments, on_error, &source, layout, &scorer)),
        bar: source.bar.clone(),
        max_rows: Arc::new(AtomicUsize::new(scorer.max_rows())),
        scorer,
        output: output.clone(),
        files: source.inputs.count(),
        database: settings.embedded.path.clone(),
        begun,
        manifest,
        from,
    };
    let mut marks = resumable.map(|output| Marks::new(output, &run.scorer));
    let flowed = run.flow(source, &mut marks, &mut sink, &mut errors).await;
    if let Err(error) = flowed {
        let ended = run.end_early(error, marks, &mut sink, &mut errors).await;
        give_up(&errors, output.as_deref());
        return run.closed_or(ended, report, errors);
    }
    let parts = match run.complete(sink, &mut errors) {
        Ok(parts) => parts,
        Err(error) => return run.closed_or(Err(error), report, errors),
    };
    output.as_deref().map(manifest::remove);
    run.scorer.forget(output.as_deref()).await;
    run.end(report, arguments, (output.as_deref(), parts), &errors)
}

/// What all blocks of a run share.
fn shared(
    arguments: &FileArguments,
    on_error: OnError,
    source: &Source,
    layout: Layout,
    scorer: &Scorer,
) -> Shared {
    Shared {
        scorer: scorer.clone(),
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

fn may_resume(sink: &Output, errors: &Errors) -> bool {
    sink.may_resume() && errors.quarantine.as_ref().is_none_or(Part::may_resume)
}

fn say_resumed(from: Position, source: &Source) {
    let file = source.inputs.get(from.file).unwrap_or(Path::new("-"));
    let (row, lines) = (source.format.row(), from.lines);
    eprintln!("goes on after {row} {lines} of {}", file.display());
}

/// What a path leads to: a link's file is replaced, not the link.
fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
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
        let flow = Flow::new(
            self.bar.clone(),
            sender,
            self.max_rows.clone(),
            self.scorer.max_in_hand(),
        );
        let from = self.manifest.end;
        if let Some(model) = self.manifest.model.clone() {
            self.fit_rows(&model);
        }
        let reader = tokio::task::spawn_blocking(move || source.read(from, &flow));
        let blocks = stream::unfold(receiver, async |mut r| r.recv().await.map(|b| (b, r)));
        let blocks = blocks.enumerate();
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
        let mut done = std::pin::pin!(blocks.map(begin).buffered(self.scorer.blocks()));
        let mut watch = self.scorer.watch();
        loop {
            let block = tokio::select! {
                biased;
                Some(ended) = OptionFuture::from(watch.as_mut().map(Watch::ended)) => return Err(ended),
                block = done.next() => block,
                () = tokio::time::sleep(BETWEEN_LOOKS), if watch.is_some() => {
                    self.mark(marks, output, errors).await?;
                    continue;
                }
            };
            let Some(block) = block else { break };
            let (model, mut block): (Option<String>, Done) = block?;
            self.stored(self.scorer.check())?;
            if self.manifest.model.is_none() {
                self.manifest.model = model;
            }
            let before = self.before(&block, output, errors)?;
            errors.take(&self.bar, block.end.file, block.bad)?;
            if errors.inputs.count() > 1 {
                block.tally.of_file(errors.inputs.get(block.end.file));
            }
            self.manifest.tally.merge(&block.tally);
            self.manifest.end = block.end;
            for results in &block.out {
                output.add(results)?;
            }
            self.after(before, output, errors)?;
            self.say_rate();
            self.mark(marks, output, errors).await?;
        }
        reader.await.context("the reading thread panicked")??;
        self.last_mark(marks, output, errors).await?;
        let flushed = self.scorer.flush().await;
        self.stored(flushed)
    }

    /// Ends a run that came to no end: one that was cancelled or asked to stop keeps what it has.
    async fn end_early(
        &mut self,
        error: anyhow::Error,
        marks: Option<Marks>,
        output: &mut Output,
        errors: &mut Errors,
    ) -> anyhow::Result<Exit> {
        self.bar.finish_and_clear();
        // What was stored stays stored, whatever ended the run.
        let _ = self.scorer.flush().await;
        let Some(mut early) = self.scorer.early(&error) else {
            if let Some(mut marks) = marks {
                let _ = marks.wait().await;
            }
            self.scorer.leave(errors.failed).await;
            return Err(error);
        };
        let is_cancelled = early.is_cancelled();
        if is_cancelled {
            // Whoever starts it again goes on as another run.
            self.manifest.fleet = None;
        }
        if let Some(mut marks) = marks {
            let kept = async {
                marks.keep(&self.now(), output, errors).await?;
                marks.wait().await.map(|()| marks.kept().lines)
            };
            early.note_kept(kept.await);
        }
        early.say(&self.scorer, self.output.as_deref()).await
    }

    fn model(&self) -> Option<Arc<Model>> {
        let model = self.manifest.model.as_deref();
        model.and_then(|model| self.scorer.registry().resolve(model).ok())
    }

    /// Gives what was written its names; says how many parts there are, where the output is split.
    fn complete(&self, sink: Output, errors: &mut Errors) -> anyhow::Result<Option<u32>> {
        let model = self.model();
        let parts = sink.finish(model.as_ref().map(|model| model.info()))?;
        errors.quarantine.take().map_or(Ok(()), Part::finish)?;
        Ok(parts)
    }

    /// Ends a run; where nobody reads its results any more, what it has put aside and counted so far is kept.
    fn closed_or(
        &self,
        ended: anyhow::Result<Exit>,
        report: Report,
        mut errors: Errors,
    ) -> anyhow::Result<Exit> {
        match ended {
            Err(error) if error.is::<Closed>() => {}
            ended => return ended,
        }
        errors.quarantine.take().map_or(Ok(()), Part::finish)?;
        let facts = self.facts((None, None), &errors);
        report.write(&self.manifest.tally, &facts, self.scorer.engine())?;
        Ok(self.exit())
    }

    /// Names the file of scores where it takes no more.
    fn stored(&self, stored: Result<(), StoreError>) -> anyhow::Result<()> {
        stored.with_context(|| format!("{} can't be written", self.database.display()))
    }

    fn fit_rows(&self, model: &str) {
        fit_rows(&self.scorer, model, &self.max_rows);
    }

    fn say_rate(&self) {
        if !self.bar.is_hidden() {
            let rate = self.manifest.tally.inputs() as f64 / self.elapsed().as_secs_f64();
            let files = match self.files {
                1 => String::new(),
                all => format!("file {} of {all}  ", self.manifest.end.file + 1),
            };
            let waiting = match &self.scorer {
                Scorer::Here { .. } => String::new(),
                Scorer::Fleet(fleet) => format!("  {} jobs in flight", fleet.in_flight()),
            };
            self.bar
                .set_message(format!("{files}{rate:.0} inputs/s{waiting}"));
        }
    }

    fn elapsed(&self) -> Duration {
        // What stands in a manifest may be anything.
        let before = Duration::try_from_secs_f64(self.manifest.seconds).unwrap_or_default();
        self.begun.elapsed().saturating_add(before)
    }

    fn end(
        &self,
        report: Report,
        arguments: &FileArguments,
        output: (Option<&Path>, Option<u32>),
        errors: &Errors,
    ) -> anyhow::Result<Exit> {
        self.bar.finish_and_clear();
        let tally = &self.manifest.tally;
        let facts = self.facts(output, errors);
        report.write(tally, &facts, self.scorer.engine())?;
        if !arguments.json {
            errors.lines.print_rest();
        }
        summary::print(tally, &facts, arguments.json);
        Ok(self.exit())
    }

    fn exit(&self) -> Exit {
        match self.manifest.tally.bad_rows {
            0 => Exit::Ok,
            _ => Exit::Partial,
        }
    }

    fn facts<'a>(
        &'a self,
        (output, parts): (Option<&'a Path>, Option<u32>),
        errors: &'a Errors,
    ) -> Facts<'a> {
        Facts {
            parts,
            files: &errors.inputs,
            output,
            model: self.manifest.model.as_deref(),
            elapsed: self.elapsed(),
            resumed_after: self.from,
        }
    }
}
