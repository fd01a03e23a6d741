//! Owns how many bytes are in hand: bodies, inputs and outputs of every job from its delivery to its end.
//!
//! Promises that what a job holds is given back with it, however it ends, and that a job with large outputs waits for room for
//! them before they are computed. Refuses to wait for bodies: whoever takes jobs in asks for room first.

use crate::simulated::{Mutation, is_mutated};
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
    /// Half of the whole is for large outputs: a quarter of that while they are looked up, and the rest while they are scored. Those who
    /// wait for it hold bodies alone.
    looked_up: Outputs,
    scored: Outputs,
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
        Arc::new(Self {
            max,
            taken: AtomicUsize::new(0),
            freed: Notify::new(),
            looked_up: Outputs::new(max / 8),
            scored: Outputs::new(max / 8 * 3),
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

    /// Reserves large outputs for as long as they are looked up.
    pub(super) async fn reserve(&self, bytes: usize) -> Reserved {
        let permit = self.looked_up.reserve(bytes).await;
        Reserved::new(bytes, true, [permit, None])
    }

    /// The part that one lane may have of the outputs that are scored: half, so that a slow one leaves room for others.
    pub(super) fn lane_outputs(&self) -> Outputs {
        Outputs::new(self.scored.bytes() / 2)
    }

    /// Reserves large outputs for as long as they are scored, of what their lane may have and of what all may.
    pub(super) async fn reserve_in(&self, lane: &Outputs, bytes: usize) -> Reserved {
        let part = bytes.min(lane.bytes());
        let own = lane.reserve(part).await;
        Reserved::new(bytes, false, [own, self.scored.reserve(part).await])
    }

    /// The same where there is room now.
    pub(super) fn try_reserve_in(&self, lane: &Outputs, bytes: usize) -> Option<Reserved> {
        let part = bytes.min(lane.bytes());
        let own = lane.try_reserve(part)?;
        let all = self.scored.try_reserve(part)?;
        Some(Reserved::new(bytes, false, [Some(own), Some(all)]))
    }
}

/// Room for outputs, taken in the order of asking.
#[derive(Debug)]
pub struct Outputs {
    permits: Arc<Semaphore>,
    max: u32,
}

impl Outputs {
    fn new(bytes: usize) -> Self {
        let max = (bytes / PERMIT_BYTES).clamp(1, Semaphore::MAX_PERMITS >> 1);
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        Self {
            permits: Arc::new(Semaphore::new(max as usize)),
            max,
        }
    }

    fn bytes(&self) -> usize {
        self.max as usize * PERMIT_BYTES
    }

    /// What is more than all that there is takes it all.
    fn permits(&self, bytes: usize) -> u32 {
        let permits = u32::try_from(bytes / PERMIT_BYTES).unwrap_or(u32::MAX);
        permits.clamp(1, self.max)
    }

    async fn reserve(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let permits = self.permits(bytes);
        // Nobody closes it.
        self.permits.clone().acquire_many_owned(permits).await.ok()
    }

    fn try_reserve(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let permits = self.permits(bytes);
        self.permits.clone().try_acquire_many_owned(permits).ok()
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
        if is_mutated(Mutation::LeaksBytes) {
            return;
        }
        for budget in self.budget.iter().flat_map(|budget| budget.chain()) {
            let before = budget.taken.fetch_sub(self.bytes(), Ordering::Relaxed);
            if before >= budget.max {
                budget.freed.notify_waiters();
            }
        }
    }
}

/// Room for large outputs of one job.
#[derive(Debug)]
pub struct Reserved {
    /// How many there are, and whether the room is for looking them up alone.
    pub(super) bytes: usize,
    pub(super) is_for_look_up: bool,
    #[expect(dead_code, reason = "held for its drop")]
    permits: [Option<OwnedSemaphorePermit>; 2],
}

impl Reserved {
    fn new(bytes: usize, is_for_look_up: bool, permits: [Option<OwnedSemaphorePermit>; 2]) -> Self {
        Self {
            bytes,
            is_for_look_up,
            permits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use kiln_fuzz::{Task, every_order, step};

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

    /// Whoever waits for room is woken, and all that was taken comes back, in every order of steps.
    #[test]
    fn in_every_order_what_was_taken_comes_back_and_who_waits_is_woken() {
        let runs = every_order(100_000, |orders| {
            let whole = Budget::new(2 * (BYTES_PER_JOB + 1));
            let part = whole.part(BYTES_PER_JOB);
            let job = |of: &Arc<Budget>| -> Task<'_> {
                let of = of.clone();
                Box::pin(async move {
                    let held = of.take(1);
                    step().await;
                    held.grow(2);
                    step().await;
                })
            };
            let waiter: Task<'_> = Box::pin(async {
                step().await;
                whole.room().await;
                assert!(whole.has_room());
            });
            // Whoever goes away while it holds something gives it back.
            let tasks = vec![job(&whole), job(&part), waiter];
            assert_eq!(orders.run(tasks, Some(1)), 0, "somebody waits for ever");
            assert_eq!((whole.taken(), part.taken()), (0, 0));
        });
        assert!(runs > 100, "{runs}");
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
        let budget = Budget::new(1 << 23);
        let all = budget.reserve(usize::MAX).await;
        assert!(budget.reserve(1).now_or_never().is_none());
        drop(all);
        let _half = budget.reserve(512 << 10).await;
        assert!(budget.reserve(512 << 10).now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_lane_that_has_all_of_its_outputs_leaves_room_for_others_and_for_look_ups() {
        let budget = Budget::new(1 << 23);
        let (slow, quick) = (budget.lane_outputs(), budget.lane_outputs());
        let _all = budget.reserve_in(&slow, usize::MAX).await;
        assert!(budget.try_reserve_in(&slow, 1).is_none());
        assert!(budget.reserve_in(&slow, 1).now_or_never().is_none());
        assert!(budget.try_reserve_in(&quick, usize::MAX).is_some());
        assert!(budget.reserve(usize::MAX).now_or_never().is_some());
    }
}
