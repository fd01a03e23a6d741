//! Owns what becomes of one block: its lines are parsed, its inputs scored through the engine, its results written out in memory.
//!
//! Promises that blocks are worked on independently of each other, and that a bad row costs only itself.

use super::{
    answer::Answer,
    fleet::{Admitted, Place, Turn},
    item::{BadRow, Input, Pick, Position},
    lines::unread,
    parsed::Parsed,
    parts::{Part, parts},
    render::{Layout, Out, Piece},
    result::{ResultRow, named},
    scorer::{Scorer, Which},
    table::Batch,
    tally::Tally,
};
use crate::{cli::file::Format, pipeline::Outcome};
use anyhow::{bail, ensure};
use futures_util::{StreamExt, future::BoxFuture, stream};
use kiln_contract::{failure::Code, result};
use serde_json::value::RawValue;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// What all blocks share.
pub(super) struct Shared {
    pub scorer: Scorer,
    pub run_id: String,
    pub detail: bool,
    pub pick: Option<Pick>,
    pub layout: Layout,
    /// Whether bad rows go elsewhere, and not into the output.
    pub quarantines: bool,
    /// Whether the longest inputs are named.
    pub reports: bool,
}

/// What became of a block.
pub(super) struct Done {
    /// The output, part by part.
    pub out: Vec<Piece>,
    pub bad: Vec<BadRow>,
    pub tally: Tally,
    pub end: Position,
    _held: Option<OwnedSemaphorePermit>,
}

/// Inputs of one job that fail one by one before it is taken that all do: the run ends.
const MAX_FAILURES: usize = 32;

/// What a part adds to its block.
struct Written {
    out: Out,
    bad: Vec<BadRow>,
    tally: Tally,
    /// Inputs that couldn't be scored by themselves.
    failures: usize,
}

impl Written {
    fn bad(&mut self, bad: BadRow) {
        self.tally.bad_rows += 1;
        self.bad.push(bad);
    }
}

/// Works on a block. `model` scores its inputs.
pub(super) async fn work(
    parsed: Parsed,
    number: usize,
    model: String,
    (shared, turn): (Arc<Shared>, Option<Turn>),
) -> anyhow::Result<Done> {
    let Parsed {
        bytes,
        items,
        batch,
        end,
        held,
    } = parsed;
    let parts = parts(&shared.scorer, &items, &bytes);
    let context = Context {
        shared: &shared,
        bytes: &bytes,
        batch: batch.as_ref(),
        model: &model,
        number,
        file: end.file,
    };
    let context = &context;
    let turn = match turn {
        Some(turn) => Some(turn.wait().await),
        None => None,
    };
    let scorer = &shared.scorer;
    let mut begun = Vec::with_capacity(parts.len());
    for (part, rows) in parts.into_iter().enumerate() {
        let admitted = match rows {
            Part::Bad(_) => None,
            Part::Inputs(_) | Part::Job { .. } => scorer.admit(part).await,
        };
        begun.push(context.part(part, rows, admitted));
    }
    drop(turn);
    let written = stream::iter(begun).buffered(scorer.jobs_of_block());
    let mut written = std::pin::pin!(written);
    let mut done = Done {
        out: Vec::new(),
        bad: Vec::new(),
        tally: Tally::default(),
        end,
        _held: held,
    };
    while let Some(part) = written.next().await {
        let Written {
            out, bad, tally, ..
        } = part?;
        done.out.push(out.finish(batch.as_ref())?);
        done.bad.extend(bad);
        done.tally.merge(&tally);
    }
    Ok(done)
}

struct Context<'a> {
    shared: &'a Shared,
    bytes: &'a [u8],
    batch: Option<&'a Batch>,
    model: &'a str,
    number: usize,
    /// Which of the files it is of.
    file: usize,
}

impl Context<'_> {
    /// Nothing written yet.
    fn begin(&self) -> Written {
        let model = self.shared.scorer.registry().resolve(self.model).ok();
        Written {
            out: self
                .shared
                .layout
                .begin(model.as_ref().map(|model| model.info())),
            bad: Vec::new(),
            tally: Tally::default(),
            failures: 0,
        }
    }

    /// Which job it is that begins on a line.
    fn which(&self, id: String, line: u64, admitted: Option<Admitted>) -> Which {
        let spot = Place {
            file: self.file,
            line,
        };
        Which { id, spot, admitted }
    }

    async fn part(
        &self,
        part: usize,
        rows: Part<'_>,
        admitted: Option<Admitted>,
    ) -> anyhow::Result<Written> {
        let mut written = self.begin();
        match rows {
            Part::Bad(bad) => written.bad(bad.clone()),
            Part::Job { line, body } => {
                let which = self.which(String::new(), line, admitted);
                self.job(which, body, &mut written).await?;
            }
            Part::Inputs(inputs) => {
                let id = format!("{}-{}-{part}", self.shared.run_id, self.number);
                let begun = self.inputs(&id, admitted, &inputs, &mut written);
                if begun.await?.is_none() {
                    return Ok(written);
                }
                // A line that reads as JSON at first sight and isn't: it costs itself, not its neighbours.
                let mut written = self.begin();
                let mut fit = Vec::with_capacity(inputs.len());
                for input in inputs {
                    match unread(input.line, self.text(input)) {
                        Some(bad) => written.bad(BadRow {
                            row: Some(self.row(input)),
                            ..bad
                        }),
                        None => fit.push(input),
                    }
                }
                self.halves(format!("{id}-again"), fit, &mut written)
                    .await?;
                return Ok(written);
            }
        }
        Ok(written)
    }

    fn text<'a>(&'a self, input: &'a Input) -> &'a str {
        input.json.text(self.bytes)
    }

    /// An input's row as it stands in its file.
    fn row(&self, input: &Input) -> String {
        let row = input.row.as_ref().unwrap_or(&input.json);
        row.text(self.bytes).to_owned()
    }

    /// Scores inputs of which not all may be scored together: those that can't be are found by halves, and cost themselves alone.
    fn halves<'b>(
        &'b self,
        id: String,
        mut inputs: Vec<&'b Input>,
        written: &'b mut Written,
    ) -> BoxFuture<'b, anyhow::Result<()>> {
        Box::pin(async move {
            if inputs.is_empty() {
                return Ok(());
            }
            let Some(problem) = self.inputs(&id, None, &inputs, written).await? else {
                return Ok(());
            };
            if let [input] = inputs.as_slice() {
                written.failures += 1;
                if written.failures > MAX_FAILURES && written.tally.rows == 0 {
                    bail!("line {}: {problem}; none before it was scored", input.line);
                }
                written.bad(BadRow {
                    line: input.line,
                    column: None,
                    problem,
                    row: Some(self.row(input)),
                });
                return Ok(());
            }
            let rest = inputs.split_off(inputs.len() / 2);
            self.halves(format!("{id}-0"), inputs, written).await?;
            self.halves(format!("{id}-1"), rest, written).await
        })
    }

    /// Scores inputs; says why the job as such wasn't taken, if it wasn't.
    async fn inputs(
        &self,
        id: &str,
        admitted: Option<Admitted>,
        inputs: &[&Input],
        written: &mut Written,
    ) -> anyhow::Result<Option<String>> {
        let texts = inputs.iter().map(|input| self.text(input));
        let line = inputs.first().map_or(0, |input| input.line);
        let which = self.which(id.to_owned(), line, admitted);
        let scorer = &self.shared.scorer;
        let scored = scorer.inputs(which, self.model, texts, self.shared.detail);
        let Answer { outcome, counts } = scored.await?;
        match outcome {
            Outcome::Done { result, .. } => {
                written.tally.count(&counts.unwrap_or_default());
                let results: Vec<&RawValue> = serde_json::from_str(&result.results)?;
                ensure!(
                    results.len() == inputs.len(),
                    "line {line}: a reply to other inputs"
                );
                if let Out::Text(out) = &mut written.out {
                    out.reserve(result.results.len() + results.len());
                }
                for (input, raw) in inputs.iter().zip(results) {
                    self.result(input, raw.get(), written)?;
                }
                if self.shared.reports {
                    for input in inputs {
                        let bytes = self.text(input).len();
                        written.tally.note_length(bytes, input.line);
                    }
                    self.expect(inputs, written);
                }
            }
            // No row is at fault there.
            Outcome::Rejected { rejection, .. } if rejection.code == Code::UnknownModel => {
                bail!("{rejection}")
            }
            Outcome::Rejected { rejection, .. } => return Ok(Some(rejection.to_string())),
            Outcome::Retry { reason, .. } => return Ok(Some(reason)),
            Outcome::Postponed { .. } | Outcome::Moved(_) | Outcome::Abandoned => {
                bail!("the model threads have stopped")
            }
        }
        Ok(None)
    }

    fn result(&self, input: &Input, raw: &str, written: &mut Written) -> anyhow::Result<()> {
        let mut row: ResultRow<'_> = serde_json::from_str(raw)?;
        let unplaced = row.unplaced(raw);
        let raw = unplaced.as_deref().unwrap_or(raw);
        if unplaced.is_some() {
            row = serde_json::from_str(raw)?;
        }
        if let Some((field, message)) = row.problem() {
            written.bad(BadRow {
                line: input.line,
                column: Some(field.clone()).filter(|field| !field.is_empty()),
                problem: named(&field, &message),
                row: Some(self.row(input)),
            });
            if self.shared.quarantines {
                return Ok(());
            }
            written.tally.error_rows += 1;
        }
        row.count(&mut written.tally, self.shared.reports);
        written.tally.rows += 1;
        let layout = &self.shared.layout;
        layout.result(&mut written.out, raw, &row, Some(input), self.batch);
        Ok(())
    }

    /// Says of the longest inputs what their model is expected to take for each.
    fn expect(&self, inputs: &[&Input], written: &mut Written) {
        let Ok(model) = self.shared.scorer.registry().resolve(self.model) else {
            return;
        };
        for long in &mut written.tally.longest {
            let input = inputs.iter().find(|input| input.line == long.line);
            let value = input
                .and_then(|input| serde_json::from_str::<serde_json::Value>(self.text(input)).ok());
            let Some(value) = value else { continue };
            let text = |name: &str| value.get(name).and_then(serde_json::Value::as_str);
            long.seconds = model.expected_seconds(text("text").map(|one| (one, text("text_pair"))));
        }
    }

    /// Runs a whole job.
    async fn job(&self, which: Which, body: &str, written: &mut Written) -> anyhow::Result<()> {
        let line = which.spot.line;
        let replies = self.shared.layout.format == Format::Jsonl;
        if self.shared.layout.shape.is_some() {
            written.bad(BadRow {
                line,
                column: None,
                problem: "a whole job has no row in a table: write --format jsonl".to_owned(),
                row: Some(body.to_owned()),
            });
            return Ok(());
        }
        let Answer { outcome, counts } = self.shared.scorer.job(which, body).await?;
        let bad = |problem: String| BadRow {
            line,
            column: None,
            problem,
            row: Some(body.to_owned()),
        };
        match outcome {
            Outcome::Done { job_id, result, .. } => {
                written.tally.count(&counts.unwrap_or_default());
                let results: Vec<&RawValue> = serde_json::from_str(&result.results)?;
                for raw in results {
                    let row: ResultRow<'_> = serde_json::from_str(raw.get())?;
                    if let Some((field, message)) = row.problem() {
                        written.bad(BadRow {
                            column: Some(field.clone()).filter(|field| !field.is_empty()),
                            row: None,
                            ..bad(named(&field, &message))
                        });
                        written.tally.error_rows += 1;
                    }
                    row.count(&mut written.tally, self.shared.reports);
                    written.tally.rows += 1;
                    if !replies {
                        let layout = &self.shared.layout;
                        layout.result(&mut written.out, raw.get(), &row, None, None);
                    }
                }
                if replies {
                    written.out.extend(&result::ok_reply(&job_id, &result));
                    written.out.extend(b"\n");
                }
            }
            Outcome::Rejected { job_id, rejection } => {
                written.bad(bad(rejection.to_string()));
                if replies && !self.shared.quarantines {
                    let job_id = job_id.unwrap_or_default();
                    let reply = result::rejected_reply(&job_id, &rejection);
                    written.out.extend(&reply);
                    written.out.extend(b"\n");
                }
            }
            Outcome::Retry { reason, .. } => written.bad(bad(reason)),
            Outcome::Postponed { .. } | Outcome::Moved(_) | Outcome::Abandoned => {
                bail!("the model threads have stopped")
            }
        }
        Ok(())
    }
}
