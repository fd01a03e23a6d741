//! Owns how many bytes are in hand: bodies, inputs and outputs of every job from its delivery to its end.
//!
//! Promises that what a job holds is given back with it, however it ends, and that a job with large outputs waits for room for
//! them before they are computed. Refuses to wait for bodies: whoever takes jobs in asks for room first.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Outputs of more bytes than this are reserved before they are computed.
pub const LARGE_OUTPUTS: usize = 1 << 20;
/// Bytes that a value of an output row takes until its job ends: twice as a float, as JSON in the result, in the reply and on its
/// way to the database.
pub const BYTES_PER_OUTPUT: usize = 44;
/// Bytes that a job takes for each byte of its body: the body, what is parsed of it, and a copy while it waits.
pub const BYTES_PER_BODY_BYTE: usize = 3;
/// Bytes that a job takes whatever it says.
const BYTES_PER_JOB: usize = 2 << 10;
/// What one permit of the reservations stands for.
const PERMIT_BYTES: usize = 1 << 10;

/// The bytes in hand of one process.
#[derive(Debug)]
pub struct Budget {
    max: usize,
    taken: AtomicUsize,
    freed: Notify,
    /// Half of the whole is for large outputs: those who wait for it hold bodies alone, and those who have it wait for nobody.
    outputs: Arc<Semaphore>,
    outputs_max: u32,
    /// What this is a part of.
    whole: Option<Arc<Budget>>,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(max: usize) -> Arc<Self> {
        Self::within(max, None)
    }

    /// A part of this one, of so many bytes: what is taken of it is taken of the whole as well.
    pub fn part(self: &Arc<Self>, max: usize) -> Arc<Self> {
        Self::within(max, Some(self.clone()))
    }

    fn within(max: usize, whole: Option<Arc<Self>>) -> Arc<Self> {
        let outputs = (max / 2 / PERMIT_BYTES).clamp(1, Semaphore::MAX_PERMITS >> 1);
        let outputs_max = u32::try_from(outputs).unwrap_or(u32::MAX);
        Arc::new(Self {
            max,
            taken: AtomicUsize::new(0),
            freed: Notify::new(),
            outputs: Arc::new(Semaphore::new(outputs_max as usize)),
            outputs_max,
            whole,
        })
    }

    /// Its own bytes.
    pub fn max(&self) -> usize {
        self.max
    }

    /// Takes what a body of so many bytes needs.
    pub fn take(self: &Arc<Self>, body_bytes: usize) -> Held {
        let held = Held {
            budget: Some(self.clone()),
            bytes: AtomicUsize::new(0),
        };
        held.grow(BYTES_PER_JOB + BYTES_PER_BODY_BYTE * body_bytes);
        held
    }

    /// Bytes in hand.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether a further job may be taken in. One job by itself always may, however large.
    pub fn has_room(&self) -> bool {
        self.chain().all(|budget| budget.taken() < budget.max)
    }

    /// This one, and what it is a part of.
    fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |budget| budget.whole.as_deref())
    }

    /// Waits until a further job may be taken in.
    pub async fn room(&self) {
        loop {
            let freed = self.freed.notified();
            if self.has_room() {
                return;
            }
            freed.await;
        }
    }

    /// Reserves large outputs. Those that are larger than all that there is take it all.
    pub(super) async fn reserve(&self, bytes: usize) -> Reserved {
        let permits = u32::try_from(bytes / PERMIT_BYTES).unwrap_or(u32::MAX);
        let permits = permits.clamp(1, self.outputs_max);
        let permit = self.outputs.clone().acquire_many_owned(permits).await;
        // Nobody closes it.
        Reserved(permit.ok())
    }
}

/// What one job holds of the budget.
#[derive(Debug, Default)]
pub struct Held {
    budget: Option<Arc<Budget>>,
    bytes: AtomicUsize,
}

impl Held {
    /// Takes more, without waiting.
    pub(super) fn grow(&self, bytes: usize) {
        if let Some(budget) = &self.budget {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
            for budget in budget.chain() {
                budget.taken.fetch_add(bytes, Ordering::Relaxed);
            }
        }
    }

    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for budget in self.budget.iter().flat_map(|budget| budget.chain()) {
            let before = budget.taken.fetch_sub(self.bytes(), Ordering::Relaxed);
            if before >= budget.max {
                budget.freed.notify_waiters();
            }
        }
    }
}

/// Room for large outputs.
#[derive(Debug)]
pub struct Reserved(
    #[expect(dead_code, reason = "held for its drop")] Option<OwnedSemaphorePermit>,
);

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn what_jobs_hold_returns_with_them() {
        let budget = Budget::new(10_000);
        let (one, two) = (budget.take(1_000), budget.take(1_000));
        assert!(!budget.has_room());
        assert!(budget.room().now_or_never().is_none());
        one.grow(500);
        let room = budget.room();
        tokio::pin!(room);
        assert!(room.as_mut().now_or_never().is_none());
        drop(one);
        room.await;
        drop(two);
        assert_eq!(budget.taken(), 0);
    }

    #[test]
    fn a_part_takes_of_the_whole_and_leaves_the_others_the_rest() {
        let whole = Budget::new(100_000);
        let part = whole.part(50_000);
        let mine = part.take(20_000);
        assert_eq!(part.taken(), whole.taken());
        assert!(!part.has_room() && whole.has_room());
        let others = whole.take(20_000);
        drop(mine);
        assert_eq!(part.taken(), 0);
        assert!(part.has_room());
        let more = whole.take(20_000);
        assert!(!part.has_room(), "the whole has none");
        drop((others, more));
        assert_eq!(whole.taken(), 0);
    }

    #[tokio::test]
    async fn large_outputs_wait_for_one_another_and_one_alone_always_goes() {
        let budget = Budget::new(1 << 20);
        let all = budget.reserve(usize::MAX).await;
        assert!(budget.reserve(1).now_or_never().is_none());
        drop(all);
        let _half = budget.reserve(256 << 10).await;
        assert!(budget.reserve(256 << 10).now_or_never().is_some());
    }
}
