//! Owns one look through the dead letters.
//!
//! Promises that it is bounded in letters and time, that it is the only one of this worker, and that whatever isn't removed goes back to the queue. Nobody
//! else gets the letters meanwhile. The queue counts deliveries and drops nothing for their number.

use crate::{
    amqp::{
        dead_letters::{DeadLetterError, DeadLetterScan},
        letter::Letter,
    },
    http::{SharedState, api_state::ApiState, problem::Problem},
};
use lapin::message::Delivery;
use serde::Deserialize;
use std::{
    borrow::Cow,
    collections::BTreeSet,
    time::{Duration, Instant},
};
use tokio::sync::OwnedSemaphorePermit;

/// Looks that are made at once.
pub(in crate::http) const AT_ONCE: usize = 1;
/// Letters that one look takes and puts back, at the most, and for how long it goes on.
const MAX_LOOKED: u32 = 10_000;
const LOOK: Duration = Duration::from_secs(5);
/// Longest text of a header that is shown, in characters.
const SHOWN: usize = 500;

/// What letters are meant.
#[derive(Debug, Default, Clone)]
pub(super) struct Meant {
    pub ids: Option<BTreeSet<String>>,
    pub id_prefix: Option<String>,
    pub code: Option<String>,
    pub model: Option<String>,
}

impl Meant {
    pub fn means(&self, letter: &Letter, model: Option<&str>) -> bool {
        let id = letter.job_id.as_deref();
        self.code
            .as_ref()
            .is_none_or(|code| letter.code.as_ref() == Some(code))
            && self
                .model
                .as_deref()
                .is_none_or(|wanted| model == Some(wanted))
            && self
                .ids
                .as_ref()
                .is_none_or(|ids| id.is_some_and(|id| ids.contains(id)))
            && self
                .id_prefix
                .as_ref()
                .is_none_or(|prefix| id.is_some_and(|id| id.starts_with(prefix.as_str())))
    }
}

/// The model that a body names, where that can be read.
fn model_of(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        model: Option<Cow<'a, str>>,
    }
    let named: Named<'_> = serde_json::from_slice(body).ok()?;
    Some(shorten(&named.model?))
}

pub(super) fn shorten(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// What a letter says of itself, and the model that its job names.
pub(super) fn read(delivery: &Delivery) -> (Letter, Option<String>) {
    let letter = Letter::read(&delivery.properties, delivery.data.len());
    (letter, model_of(&delivery.data))
}

impl From<DeadLetterError> for Problem {
    fn from(error: DeadLetterError) -> Self {
        Self::unavailable(format!("dead letters: {error}"))
    }
}

/// The right to look at them, once nobody else of this worker does.
pub(super) async fn turn(shared: &SharedState) -> Result<OwnedSemaphorePermit, Problem> {
    let limit = shared.state()?.limit() / 5;
    let turn = tokio::time::timeout(limit, shared.dead.clone().acquire_owned()).await;
    // Nobody closes it.
    let turn = turn.ok().and_then(Result::ok);
    turn.ok_or_else(|| Problem::unavailable("somebody else looks through the dead letters now"))
}

/// Works with the letters on the worker's runtime, alone.
pub(super) async fn with_letters<T, W>(
    shared: &SharedState,
    work: impl FnOnce(ApiState) -> W,
) -> Result<T, Problem>
where
    T: Send + 'static,
    W: Future<Output = Result<T, DeadLetterError>> + Send + 'static,
{
    let state = shared.state()?;
    let _turn = turn(shared).await?;
    Ok(state.run_on_worker(work(state.clone())).await??)
}

/// A look through the letters that ends in time.
pub(super) struct Look {
    pub scan: DeadLetterScan,
    begun: Instant,
    limit: Duration,
}

impl Look {
    /// Opens the queue.
    pub async fn open(state: &ApiState) -> Result<Self, DeadLetterError> {
        let begun = Instant::now();
        Ok(Self {
            scan: DeadLetterScan::open(&state.broker, &state.topology.dead, MAX_LOOKED).await?,
            begun,
            limit: LOOK.min(state.limit() / 2),
        })
    }

    /// The next letter; nothing once all were seen, or the time is over.
    pub async fn next(&mut self) -> Result<Option<Delivery>, DeadLetterError> {
        if self.begun.elapsed() > self.limit {
            return Ok(None);
        }
        self.scan.next().await
    }

    /// Puts them back; how many there were, and how many were looked at.
    pub async fn close(self) -> Result<(u32, u32), DeadLetterError> {
        let (waiting, looked_at) = (self.scan.waiting, self.scan.seen);
        self.scan.close().await?;
        Ok((waiting, looked_at))
    }
}
