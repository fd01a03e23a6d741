//! Owns scoring a file over the fleet: jobs are cut by what they cost, posted a bounded number at a time, and their replies collected.
//!
//! Promises that a job's id follows from its run, its place and its content, so that a worker answers a repeat from its row; that no reply is
//! let go before its rows are as durable as the output is; and that a broker which is away for a while costs nothing but time.

mod answer;
mod cost;
mod end;
mod journal;
mod link;
mod quiet;
mod recover;
mod replies;
mod session;
mod spot;

pub(super) use cost::known as known_costs;
pub(super) use end::{Early, Ended, Watch};
pub(super) use journal::{Journal, remove as remove_journal};
pub(super) use spot::Place;

use super::{answer::Answer, item::Position};
use crate::{cli::submit::Queue, config::Settings, parts, pipeline::Outcome};
use anyhow::{Context, bail};
use clap::Args;
use indicatif::ProgressBar;
use kiln_contract::{
    failure::Code,
    job::{self, Job, JobWriter, MAX_INPUTS, OnError},
    key, name,
};
use kiln_model::{Registry, Task};
use link::{Ask, Control, Link};
use serde::{Deserialize, Serialize};
use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

/// Jobs without an answer at once, if nothing else is said.
const IN_FLIGHT: u16 = 64;
/// Most that may be said.
const MAX_IN_FLIGHT: u16 = 500;
/// Bytes of bodies without an answer at once.
const MAX_BODY_BYTES: usize = 64 << 20;
/// Bytes that may be in hand of all blocks.
const MAX_IN_HAND: usize = 128 << 20;
/// Replies that are kept at the broker until their rows are durable.
const WINDOW: usize = 700;
/// Jobs of one block whose replies are kept so: the window always has room for a block's.
const HELD_OF_BLOCK: usize = 200;
/// Rows of a block at least, where the file has them.
const MIN_ROWS: usize = 64;
/// What one permit of bytes stands for.
const PERMIT_BYTES: usize = 1 << 10;

/// What is said of jobs that are posted.
#[derive(Debug, Clone, Default, Args)]
pub(in crate::cli) struct JobArguments {
    /// Jobs that wait or are in progress at once [default: 64].
    #[arg(long, value_name = "JOBS", value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_IN_FLIGHT)))]
    pub in_flight: Option<u16>,
    /// The namespace for inputs, and in `kiln submit` for jobs that name none [default: the model's name].
    #[arg(long, value_parser = namespace)]
    pub namespace: Option<String>,
    /// Store named entries for inputs with a key.
    #[arg(long)]
    pub named: bool,
    /// Inputs per job at the most [default: as many as are expected to take a second of model time; without --output 100].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_INPUTS as i64))]
    pub inputs_per_job: Option<u16>,
    /// The queue [default: jobs].
    #[arg(long, value_enum)]
    pub queue: Option<Queue>,
}

fn namespace(text: &str) -> Result<String, String> {
    if name::is_name(text) {
        Ok(text.to_owned())
    } else {
        Err(name::EXPECTED_NAME.into())
    }
}

impl JobArguments {
    /// Whether anything is said.
    pub fn are_given(&self) -> bool {
        self.in_flight.is_some()
            || self.namespace.is_some()
            || self.named
            || self.inputs_per_job.is_some()
            || self.queue.is_some()
    }
}

/// What a manifest keeps of a run over the fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct RunMark {
    /// What its jobs, its queue of replies and its cancellation go by.
    pub name: String,
    /// What inputs cost, by the binary logarithm of their units, as it was when the run began: the same rows make the same jobs.
    pub costs: Vec<(u8, f64)>,
}

/// Whether jobs are still posted.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Running,
    Cancelled,
    /// It can't go on, and why.
    Failed(String),
}

/// A fleet that scores. Clones are the same.
#[derive(Clone)]
pub(super) struct Fleet(Arc<Inner>);

struct Inner {
    run: String,
    registry: Arc<Registry>,
    arguments: JobArguments,
    costs: cost::Costs,
    max_body_bytes: usize,
    jobs: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    window: Arc<Semaphore>,
    /// Whether replies are kept until their rows are durable.
    holds: bool,
    asks: mpsc::Sender<Ask>,
    control: mpsc::Sender<Control>,
    state: watch::Receiver<State>,
    /// Where the block before the next one says that its jobs are all admitted.
    before: Mutex<Option<oneshot::Receiver<()>>>,
}

/// What a fleet is opened with.
pub(super) struct Opening<'a> {
    pub settings: &'a Settings,
    pub registry: Arc<Registry>,
    pub arguments: &'a JobArguments,
    pub mark: &'a RunMark,
    /// The output, where a later run can go on from what is there of it.
    pub resumable: Option<&'a Path>,
    /// How far its rows are durable.
    pub kept: Position,
    pub bar: ProgressBar,
}

/// A block's turn to have its jobs admitted.
pub(super) struct Turn {
    before: Option<oneshot::Receiver<()>>,
    _after: oneshot::Sender<()>,
}

impl Turn {
    /// Waits until the blocks before have had theirs.
    pub async fn wait(mut self) -> Self {
        if let Some(before) = self.before.take() {
            // It is dropped without a word.
            let _over = before.await;
        }
        self
    }
}

/// The right to post a job.
pub(super) struct Admitted(Option<OwnedSemaphorePermit>);

impl Fleet {
    /// Connects to the broker, and begins or goes on with a run.
    pub async fn open(opening: Opening<'_>) -> anyhow::Result<Self> {
        let Opening {
            settings,
            registry,
            arguments,
            mark,
            resumable,
            kept,
            bar,
        } = opening;
        let journal = resumable.map(Journal::open);
        let journal = journal
            .transpose()
            .context("the list of posted jobs can't be written")?;
        let queue = arguments.queue.unwrap_or(Queue::Jobs);
        let (asks, asked) = mpsc::channel(1);
        let (control, controlled) = mpsc::channel(16);
        let (sender, state) = watch::channel(State::Running);
        let store = settings
            .database
            .url
            .is_some()
            .then(|| parts::postgres(settings))
            .transpose()?;
        let link = Link::new(settings, &mark.name, queue, store, (journal, kept), bar)?;
        let session = link.open_session().await?;
        #[expect(
            clippy::disallowed_methods,
            reason = "its end is awaited through its controls"
        )]
        tokio::spawn(link.run(session, asked, controlled, sender));
        let in_flight = usize::from(arguments.in_flight.unwrap_or(IN_FLIGHT));
        Ok(Self(Arc::new(Inner {
            run: mark.name.clone(),
            registry,
            arguments: arguments.clone(),
            costs: cost::Costs::new(&mark.costs),
            max_body_bytes: settings.intake.max_body_bytes,
            jobs: Arc::new(Semaphore::new(in_flight)),
            bytes: Arc::new(Semaphore::new(MAX_BODY_BYTES / PERMIT_BYTES)),
            window: Arc::new(Semaphore::new(WINDOW)),
            holds: resumable.is_some(),
            asks,
            control,
            state,
            before: Mutex::default(),
        })))
    }

    /// The models that are known here.
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// Bytes that may be in hand of all blocks.
    pub fn max_in_hand(&self) -> usize {
        MAX_IN_HAND
    }

    /// Jobs without an answer at once.
    pub fn max_in_flight(&self) -> usize {
        usize::from(self.0.arguments.in_flight.unwrap_or(IN_FLIGHT))
    }

    /// Rows of a block at most.
    pub fn max_rows(&self) -> usize {
        let max = self.0.arguments.inputs_per_job;
        // Whole jobs, so that a block's end makes no job smaller.
        max.map_or(MAX_INPUTS, |max| {
            usize::from(max) * MIN_ROWS.div_ceil(usize::from(max).max(1))
        })
    }

    /// Jobs without an answer now.
    pub fn in_flight(&self) -> usize {
        self.max_in_flight()
            .saturating_sub(self.0.jobs.available_permits())
    }

    /// The run's name.
    pub fn run(&self) -> &str {
        &self.0.run
    }

    /// Where inputs of so many bytes each are cut into jobs.
    pub fn cut(&self, sizes: &[usize]) -> Vec<usize> {
        let max = self.0.arguments.inputs_per_job;
        self.0.costs.cut(sizes, max.map(usize::from))
    }

    /// The next block's turn.
    pub fn turn(&self) -> Turn {
        let (after, next) = oneshot::channel();
        let before = &self.0.before;
        let before = before
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .replace(next);
        Turn {
            before,
            _after: after,
        }
    }

    /// Admits a block's job.
    pub async fn admit(&self, number: usize) -> Admitted {
        if !self.0.holds || number >= HELD_OF_BLOCK {
            return Admitted(None);
        }
        // It is never closed.
        Admitted(self.0.window.clone().acquire_owned().await.ok())
    }

    /// The body of a job over inputs; its id is its message's.
    pub fn body<'t>(
        &self,
        model: &str,
        texts: impl Iterator<Item = &'t str>,
        detail: bool,
    ) -> Vec<u8> {
        let mut job = JobWriter::new();
        job.model(model);
        if let Some(namespace) = &self.0.arguments.namespace {
            job.namespace(namespace);
        }
        if self.0.arguments.named {
            job.named(true);
        }
        job.on_error(OnError::Skip).detail(detail);
        job.json_inputs(texts);
        job.finish()
    }

    /// Has a job scored. `own` is the id that its body gives. What its body alone shows to be no job isn't posted.
    pub async fn score(
        &self,
        spot: Place,
        admitted: Option<Admitted>,
        body: Vec<u8>,
        own: Option<String>,
    ) -> anyhow::Result<Answer> {
        let key = spot.key(&self.0.run, &key::hash_body(&body));
        let id = own.filter(|id| job::is_job_id(id));
        let id = id.unwrap_or_else(|| key.clone());
        if body.len() > self.0.max_body_bytes {
            let rejection = job::too_large(body.len(), self.0.max_body_bytes);
            return Ok(answer::rejected(Some(id), rejection));
        }
        let labels = match Job::parse(&body, Some(&id)) {
            Ok(job) => self.labels(&job.model),
            Err(bad) => return Ok(answer::rejected(bad.job_id, bad.rejection)),
        };
        let permits = (body.len().min(MAX_BODY_BYTES) / PERMIT_BYTES).max(1);
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        let held = (
            self.0.jobs.clone().acquire_owned().await.ok(),
            self.0.bytes.clone().acquire_many_owned(permits).await.ok(),
        );
        let (sender, receiver) = oneshot::channel();
        let ask = Ask {
            key,
            id,
            body,
            window: admitted.and_then(|admitted| admitted.0),
            held,
            answer: sender,
        };
        if self.0.asks.send(ask).await.is_err() {
            return Err(self.over());
        }
        match receiver.await {
            Ok(reply) => {
                let answer = reply.read(labels.as_deref())?;
                match &answer.outcome {
                    Outcome::Rejected { rejection, .. } if rejection.code == Code::Cancelled => {
                        Err(Ended::Cancelled.into())
                    }
                    _ => Ok(answer),
                }
            }
            Err(_) => Err(self.over()),
        }
    }

    /// A classifier's labels in its order, where it is known here.
    fn labels(&self, model: &str) -> Option<Vec<String>> {
        let model = self.0.registry.resolve(model).ok()?;
        match &model.info().task {
            Task::Classification { labels } => Some(labels.clone()),
            _ => None,
        }
    }

    /// Why no answer comes any more.
    fn over(&self) -> anyhow::Error {
        match &*self.0.state.borrow() {
            State::Failed(reason) => anyhow::anyhow!(reason.clone()),
            State::Cancelled => Ended::Cancelled.into(),
            State::Running => anyhow::anyhow!("the connection to the broker has ended"),
        }
    }

    /// Lets go of the replies whose rows are durable.
    pub fn kept(&self, end: Position) {
        // Where nobody listens now, the next mark says it as well.
        let _later = self.0.control.try_send(Control::Kept(end));
    }

    /// Says goodbye; `is_over` where nothing of the run is wanted any more.
    pub async fn end(&self, is_over: bool) -> anyhow::Result<()> {
        let (done, ended) = oneshot::channel();
        let control = Control::End { is_over, done };
        if self.0.control.send(control).await.is_err() {
            return Ok(());
        }
        match tokio::time::timeout(link::GOODBYE, ended).await {
            Ok(_) => Ok(()),
            Err(_) => bail!("the broker doesn't answer any more"),
        }
    }
}
