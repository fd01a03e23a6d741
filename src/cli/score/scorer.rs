//! Owns where inputs are scored: by the engine in this process, or by the workers of a fleet.

use super::{
    answer::Answer,
    fleet::{Admitted, Early, Fleet, Place, Turn, Watch, remove_journal},
    item::Position,
};
use crate::{
    cli::file::job_body,
    pipeline::{Engine, JobSource, outcome_of},
    store::{SqliteStore, StoreError},
};
use kiln_contract::job::MAX_INPUTS;
use kiln_model::Registry;
use std::{path::Path, sync::Arc};

/// Whole jobs of one block that are worked on at once.
const JOBS_AT_ONCE: usize = 64;
/// Bytes that may be in hand of all blocks here, with what each core adds, and at most. A core that has nothing to do waits for blocks that
/// are in the file's writing or look-ups; with more in hand than this the rate hardly grows, and memory does.
const IN_HAND_HERE: usize = 12 << 20;
const IN_HAND_PER_CORE: usize = 4 << 20;
const MAX_IN_HAND_HERE: usize = 32 << 20;

/// Where inputs are scored. Clones are the same.
#[derive(Clone)]
pub(super) enum Scorer {
    Here {
        engine: Arc<Engine>,
        store: SqliteStore,
    },
    Fleet(Fleet),
}

/// Which job it is: by its name here, by its place over the fleet.
pub(super) struct Which {
    pub id: String,
    pub spot: Place,
    pub admitted: Option<Admitted>,
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

impl Scorer {
    /// The models that are known here.
    pub fn registry(&self) -> &Registry {
        match self {
            Self::Here { engine, .. } => engine.registry(),
            Self::Fleet(fleet) => fleet.registry(),
        }
    }

    /// The engine, where inputs are scored here.
    pub fn engine(&self) -> Option<&Engine> {
        match self {
            Self::Here { engine, .. } => Some(engine),
            Self::Fleet(_) => None,
        }
    }

    /// Bytes that may be in hand of all blocks.
    pub fn max_in_hand(&self) -> usize {
        match self {
            Self::Here { .. } => (IN_HAND_HERE + IN_HAND_PER_CORE * cores()).min(MAX_IN_HAND_HERE),
            Self::Fleet(fleet) => fleet.max_in_hand(),
        }
    }

    /// Blocks that are worked on at once.
    pub fn blocks(&self) -> usize {
        match self {
            Self::Here { .. } => 2 * cores() + 10,
            Self::Fleet(fleet) => fleet.max_in_flight() + 4,
        }
    }

    /// Rows of a block at most: what is written is kept block by block, so that one is no more than a few small jobs.
    pub fn max_rows(&self) -> usize {
        match self {
            Self::Here { .. } => MAX_INPUTS,
            Self::Fleet(fleet) => fleet.max_rows(),
        }
    }

    /// Jobs of one block that are worked on at once.
    pub fn jobs_of_block(&self) -> usize {
        match self {
            Self::Here { .. } => JOBS_AT_ONCE,
            Self::Fleet(fleet) => fleet.max_in_flight(),
        }
    }

    /// Where a block's inputs are cut into jobs; `sizes` are their bytes.
    pub fn cut(&self, sizes: &[usize]) -> Vec<usize> {
        match self {
            Self::Here { .. } => {
                let full = std::iter::repeat_n(MAX_INPUTS, sizes.len() / MAX_INPUTS);
                let rest = Some(sizes.len() % MAX_INPUTS).filter(|rest| *rest > 0);
                full.chain(rest).collect()
            }
            Self::Fleet(fleet) => fleet.cut(sizes),
        }
    }

    /// The next block's turn to post its jobs: to be asked for in the blocks' order.
    pub fn turn(&self) -> Option<Turn> {
        match self {
            Self::Here { .. } => None,
            Self::Fleet(fleet) => Some(fleet.turn()),
        }
    }

    /// Admits a job of a block whose turn it is: the `number`th that goes to workers.
    pub async fn admit(&self, number: usize) -> Option<Admitted> {
        match self {
            Self::Here { .. } => None,
            Self::Fleet(fleet) => Some(fleet.admit(number).await),
        }
    }

    /// Scores inputs of a model.
    pub async fn inputs<'t>(
        &self,
        which: Which,
        model: &str,
        texts: impl Iterator<Item = &'t str>,
        detail: bool,
    ) -> anyhow::Result<Answer> {
        match self {
            Self::Here { engine, .. } => {
                let body = job_body(&which.id, model, texts, detail);
                Ok(here(engine, body).await)
            }
            Self::Fleet(fleet) => {
                let body = fleet.body(model, texts, detail);
                fleet.score(which.spot, which.admitted, body, None).await
            }
        }
    }

    /// Runs a whole job.
    pub async fn job(&self, which: Which, body: &str) -> anyhow::Result<Answer> {
        let bytes = body.as_bytes().to_vec();
        match self {
            Self::Here { engine, .. } => Ok(here(engine, bytes).await),
            Self::Fleet(fleet) => {
                let own = kiln_contract::job::find_id(body.as_bytes());
                let own = own.map(std::borrow::Cow::into_owned);
                fleet.score(which.spot, which.admitted, bytes, own).await
            }
        }
    }

    /// Hears of a run's early end, where it may have one.
    pub fn watch(&self) -> Option<Watch> {
        match self {
            Self::Here { .. } => None,
            Self::Fleet(fleet) => Some(Watch::new(fleet)),
        }
    }

    /// The early end that an error is, where it is one.
    pub fn early(&self, error: &anyhow::Error) -> Option<Early> {
        match self {
            Self::Here { .. } => None,
            Self::Fleet(_) => Early::of(error),
        }
    }

    /// Leaves a fleet whose run has failed; `is_over` where it can't be gone on with.
    pub async fn leave(&self, is_over: bool) {
        if let Self::Fleet(fleet) = self {
            // The broker may be away.
            let _gone = fleet.end(is_over).await;
        }
    }

    /// Forgets what a fleet keeps of a run that is complete.
    pub async fn forget(&self, output: Option<&Path>) {
        if let Self::Fleet(fleet) = self {
            // What stays at the broker goes by itself.
            let _gone = fleet.end(true).await;
            output.map(remove_journal);
        }
    }

    /// Whether what is scored can still be kept.
    pub fn check(&self) -> Result<(), StoreError> {
        match self {
            Self::Here { store, .. } => store.check(),
            Self::Fleet(_) => Ok(()),
        }
    }

    /// Hears that the rows up to a position are durable.
    pub fn kept(&self, end: Position) {
        if let Self::Fleet(fleet) = self {
            fleet.kept(end);
        }
    }

    /// Waits until what was scored is kept.
    pub async fn flush(&self) -> Result<(), StoreError> {
        match self {
            Self::Here { store, .. } => store.flush().await,
            Self::Fleet(_) => Ok(()),
        }
    }
}

async fn here(engine: &Engine, body: Vec<u8>) -> Answer {
    let ended = engine.run(body, None, JobSource::without_retry).await;
    Answer {
        counts: ended.as_ref().map(|ended| ended.counts),
        outcome: outcome_of(ended),
    }
}
