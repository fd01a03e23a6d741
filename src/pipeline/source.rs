//! Owns a job on its way through the pipeline: who has it run, what its message says of it, and what admission made of it.
//!
//! Promises that whatever a caller doesn't say has one meaning: a first try, arrived now, that may be tried again. Refuses
//! to judge: that is for admission.

use super::{
    arriving::Arriving,
    budget::{Held, Reserved},
    in_hand::{InHandId, InHandIds},
    index::SourceIndex,
    input_counts::InputCounts,
    outcome::Outcome,
};
use crate::{
    clock,
    simulated::{Mutation, is_mutated},
    store::CallbackTo,
};
use kiln_contract::failure::Rejection;
use kiln_contract::job::Job;
use kiln_contract::order::Moment;
use kiln_contract::split::Point;
use kiln_model::Serving;
use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, OnceLock},
    time::Instant,
};
use tokio::sync::oneshot;

/// How far apart copies of a job come at the same time.
const AT_ONCE_MICROS: u64 = 1_000_000;

/// Who has a job run, and is told how it ended. Dropped without that, the job was abandoned: whoever has it run must be able to
/// have it run again.
pub trait JobOwner: Send + Sync + 'static {
    /// The job's body.
    fn body(&self) -> &[u8];

    /// The job's id in the message's properties.
    fn message_id(&self) -> Option<&str> {
        None
    }

    /// Whether nobody waits for the job any more, so that it needn't run.
    fn is_abandoned(&self) -> bool {
        false
    }

    /// The job has ended.
    fn ended(self: Box<Self>, ended: Ended);
}

/// How a job ended.
#[derive(Debug)]
pub struct Ended {
    pub outcome: Outcome,
    /// How its inputs got their scores, and when.
    pub counts: InputCounts,
    /// When it was taken up.
    pub begun: Instant,
    /// When a worker first accepted it, where that was asked for.
    pub accepted: Option<Moment>,
    /// Its part of what may be in hand, until whatever follows from its end is done.
    pub held: Option<(Held, Option<Reserved>)>,
}

/// Which jobs of a namespace go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Warming: after everything that somebody waits for.
    Warming,
    Normal,
    /// Somebody waits for the answer: an HTTP request, or a message of priority 5 to 9.
    First,
}

/// One job as it comes in. It changes hands often, and so lies where it is.
pub struct JobSource(Box<Parts>);

/// What is known of a job as it comes in.
pub struct Parts {
    owner: Box<dyn JobOwner>,
    pub(super) received: Instant,
    /// When a worker first accepted it, as its message says, and as was found out.
    accepted_before: Option<Moment>,
    accepted: OnceLock<Moment>,
    /// Tries made before this one.
    pub(super) tries: u32,
    /// Whether a failure that may pass leads to another try.
    pub(super) may_retry: bool,
    /// Whether it may be moved to a lane's queue.
    pub(super) may_move: bool,
    /// Whether it is given back, to come again, rather than run where its lane isn't served or has no room.
    pub(super) may_postpone: bool,
    pub(super) urgency: Urgency,
    /// Where all of its inputs stand among those that two versions share, whatever they say themselves.
    pub(super) stands_at: Option<Point>,
    /// When it is of no use any more.
    pub(super) expires: Option<Instant>,
    /// Why it is rejected unseen: the broker gave it up, or it killed workers.
    pub(super) given_up: Option<Rejection>,
    /// Its lane, where it came from one's queue and isn't there yet.
    pub(super) arriving: Option<Arriving>,
    /// The API key that posted it.
    pub(super) posted_by: Option<Arc<str>>,
    /// Where its end is posted to, once that is known and allowed.
    callback: OnceLock<Callback>,
    /// Its part of what may be in hand.
    pub(super) held: Held,
    /// The same for outputs that are large.
    pub(super) reserved: Option<Reserved>,
    /// Its id among those in hand, once that is known.
    in_hand: OnceLock<InHandId>,
}

/// Where a job's end is posted to: its `callback_url`, and that one's host as the settings list it.
pub(super) struct Callback {
    pub url: Box<str>,
    pub host: Box<str>,
}

impl Deref for JobSource {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl DerefMut for JobSource {
    fn deref_mut(&mut self) -> &mut Parts {
        &mut self.0
    }
}

impl std::fmt::Debug for JobSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JobSource({} bytes)", self.body().len())
    }
}

impl JobSource {
    /// A job that was received now, at its first try.
    pub fn new(owner: impl JobOwner) -> Self {
        Self(Box::new(Parts {
            owner: Box::new(owner),
            received: clock::received(),
            accepted_before: None,
            accepted: OnceLock::new(),
            tries: 0,
            may_retry: true,
            may_move: false,
            may_postpone: false,
            urgency: Urgency::Normal,
            stands_at: None,
            expires: None,
            given_up: None,
            arriving: None,
            posted_by: None,
            callback: OnceLock::new(),
            held: Held::default(),
            reserved: None,
            in_hand: OnceLock::new(),
        }))
    }

    /// A job whose end is heard at the receiver. It isn't tried again, nor moved.
    pub fn awaited(
        body: impl Into<Vec<u8>>,
        message_id: Option<String>,
    ) -> (Self, oneshot::Receiver<Ended>) {
        let (sender, receiver) = oneshot::channel();
        let owner = Awaited {
            body: body.into(),
            message_id,
            sender,
        };
        (Self::new(owner), receiver)
    }

    /// Sets when it was received.
    pub fn received_at(mut self, received: Instant) -> Self {
        self.received = received;
        self
    }

    /// Says that a worker had accepted it by then, whichever that was.
    pub fn accepted_by(mut self, accepted: Option<Moment>) -> Self {
        self.accepted_before = accepted;
        self
    }

    /// Sets how often it was tried before.
    pub fn with_tries(mut self, tries: u32) -> Self {
        self.tries = tries;
        self
    }

    /// Makes this try its last: its caller has no way to retry it.
    pub fn without_retry(mut self) -> Self {
        self.may_retry = false;
        self
    }

    /// Allows it to be moved to a lane's queue.
    pub fn movable(mut self, may_move: bool) -> Self {
        self.may_move = may_move;
        self
    }

    /// Allows it to be given back, to come again, where its lane isn't served or has no room.
    pub fn postponable(mut self, may_postpone: bool) -> Self {
        self.may_postpone = may_postpone;
        self
    }

    /// Says how urgent it is.
    pub fn with_urgency(mut self, urgency: Urgency) -> Self {
        self.urgency = urgency;
        self
    }

    /// Says where all of its inputs stand among those that two versions share, so that one version scores all of them.
    pub fn standing_at(mut self, point: Option<Point>) -> Self {
        self.stands_at = point;
        self
    }

    /// Says when it is of no use any more.
    pub fn expires_at(mut self, at: Option<Instant>) -> Self {
        self.expires = at;
        self
    }

    /// Sets why it is rejected unseen.
    pub fn given_up(mut self, rejection: Option<Rejection>) -> Self {
        self.given_up = rejection;
        self
    }

    /// Says that it comes from a lane's queue.
    pub fn arriving(mut self, arriving: Arriving) -> Self {
        self.arriving = Some(arriving);
        self
    }

    /// Says which API key posted it.
    pub fn posted_by(mut self, key: Option<Arc<str>>) -> Self {
        self.posted_by = key;
        self
    }

    /// Gives it the part that it has of what may be in hand.
    pub fn holding(mut self, held: Held) -> Self {
        self.held = held;
        self
    }

    /// Its body.
    pub fn body(&self) -> &[u8] {
        self.owner.body()
    }

    pub(super) fn message_id(&self) -> Option<&str> {
        self.owner.message_id()
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.owner.is_abandoned()
    }

    /// Whether its entries that are in the cache have their TTL refreshed, as a warming job's have.
    pub(super) fn refreshes_ttl(&self) -> bool {
        self.urgency == Urgency::Warming
    }

    /// When a worker first accepted it, as far as is known.
    pub(super) fn accepted(&self) -> Moment {
        if let Some(accepted) = self.accepted.get() {
            return *accepted;
        }
        let here = clock::moment(self.received);
        self.accepted_before.map_or(here, |before| before.min(here))
    }

    /// Whether it was asked for when a worker first accepted it.
    pub(super) fn is_dated(&self) -> bool {
        self.accepted.get().is_some()
    }

    /// Notes when a worker first accepted it, whatever it says itself.
    pub(super) fn note_accepted(&self, accepted: Moment) {
        let accepted = match is_mutated(Mutation::ForgetsAcceptance) {
            true => clock::moment(self.received),
            false if self.is_beside(accepted) => accepted,
            false => accepted.min(self.accepted()),
        };
        // Looked up again, it hears the same.
        let _known = self.accepted.set(accepted);
    }

    /// Whether that is the acceptance of another copy, which came at the same time: the later one may be the first to be known. All of them are
    /// as old as that says, or the job's words would have two ages.
    fn is_beside(&self, accepted: Moment) -> bool {
        let (here, there) = (self.accepted().micros(), accepted.micros());
        self.accepted_before.is_none() && (here..here + AT_ONCE_MICROS).contains(&there)
    }

    /// Notes that it is in hand, until it ends.
    pub(super) fn note_in_hand(&self, ids: &Arc<InHandIds>, job_id: &str) {
        let posted_by = self.posted_by.as_deref();
        self.in_hand.get_or_init(|| ids.note(job_id, posted_by));
    }

    /// Notes where its end is posted to.
    pub(super) fn note_callback(&self, callback: Callback) {
        // Looked at again, its body says the same.
        let _known = self.callback.set(callback);
    }

    /// Where its end is posted to.
    pub(super) fn callback(&self) -> Option<CallbackTo<'_>> {
        let callback = self.callback.get()?;
        Some(CallbackTo {
            url: &callback.url,
            host: &callback.host,
        })
    }

    /// Tells its owner how it ended.
    pub(super) fn end(self, outcome: Outcome, counts: InputCounts, begun: Instant) {
        let parts = *self.0;
        parts.owner.ended(Ended {
            outcome,
            counts,
            begun,
            accepted: parts.accepted.get().copied(),
            held: Some((parts.held, parts.reserved)),
        });
    }
}

/// Somebody who waits for one job.
struct Awaited {
    body: Vec<u8>,
    message_id: Option<String>,
    sender: oneshot::Sender<Ended>,
}

impl JobOwner for Awaited {
    fn body(&self) -> &[u8] {
        &self.body
    }

    fn message_id(&self) -> Option<&str> {
        self.message_id.as_deref()
    }

    fn is_abandoned(&self) -> bool {
        self.sender.is_closed()
    }

    fn ended(self: Box<Self>, ended: Ended) {
        // Who has gone meanwhile doesn't want to know.
        let _unheard = self.sender.send(ended);
    }
}

/// A job that passed every check that needs no server.
#[derive(Debug)]
pub(super) struct AdmittedJob<'a> {
    /// Which job of the batch it is.
    pub index: SourceIndex,
    pub source: &'a JobSource,
    pub job: Job<'a>,
    /// The version that it names, or else the active one and the one that a share of its inputs goes to.
    pub serving: Serving,
    pub body_sha256: [u8; 32],
    /// TTL of its entries.
    pub ttl_seconds: u64,
    /// Whether it asks for a longer one than entries have without its asking.
    pub outlives: bool,
}
