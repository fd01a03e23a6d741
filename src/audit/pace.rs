//! Owns how far an audit stands back: it rests after each step, so that it has no more than its share of the time, and asks no model while
//! jobs wait for theirs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How often it is looked whether jobs still wait.
const LOOK: Duration = Duration::from_millis(50);
/// How long one audit waits for models' turns in all, before it leaves out what has none.
const PATIENCE: Duration = Duration::from_secs(10);

/// Says whether jobs wait for models.
pub type Busy = Arc<dyn Fn() -> bool + Send + Sync>;

/// The pace of one audit.
#[derive(Clone)]
pub struct Pace {
    /// Share of the time that it may have, 0 to 1.
    share: f64,
    busy: Option<Busy>,
    /// Model time of one call, in seconds.
    call_seconds: f64,
    /// How long this audit still waits for models' turns.
    patience: Duration,
    /// The longest rest after a step that asks servers: one that was slow once mustn't end auditing.
    max_rest: Duration,
    /// Time that its steps have taken so far.
    spent: Duration,
}

impl std::fmt::Debug for Pace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pace({})", self.share)
    }
}

impl Pace {
    /// Whoever waits for the result of an audit wants it soon.
    pub fn hurried() -> Self {
        Self {
            share: 1.0,
            busy: None,
            call_seconds: 0.5,
            patience: PATIENCE,
            max_rest: Duration::ZERO,
            spent: Duration::ZERO,
        }
    }

    /// Beside jobs, which come first; `max_rest` is the longest rest after a step that asks servers.
    pub fn beside(share: f64, max_rest: Duration, busy: Busy) -> Self {
        Self {
            share: share.clamp(0.0001, 1.0),
            busy: Some(busy),
            call_seconds: 0.01,
            patience: PATIENCE,
            max_rest,
            spent: Duration::ZERO,
        }
    }

    /// The longest model call that it may make, in seconds, unless one input takes longer.
    pub(super) fn call_seconds(&self) -> f64 {
        self.call_seconds
    }

    /// Whether jobs come first.
    pub(super) fn is_beside_jobs(&self) -> bool {
        self.busy.is_some()
    }

    /// Begins another audit, which has its patience anew.
    pub(super) fn begin(&mut self) {
        self.patience = PATIENCE;
    }

    /// Asks servers something, and rests. A failure is given back at once: it ends the audit, and was a wait as a rule.
    pub(super) async fn step<T, E>(
        &mut self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let (done, took) = self.timed(work).await;
        sleep(self.rest_of(took, done.is_ok())).await;
        done
    }

    /// The rest after a step that asked servers.
    fn rest_of(&self, took: Duration, is_ok: bool) -> Duration {
        if is_ok {
            rest(took, self.share).min(self.max_rest)
        } else {
            Duration::ZERO
        }
    }

    /// Asks a model something, and rests, as long as it takes to keep to its share of the time.
    pub(super) async fn call<T>(&mut self, work: impl Future<Output = T>) -> T {
        let (done, took) = self.timed(work).await;
        sleep(rest(took, self.share)).await;
        done
    }

    async fn timed<T>(&mut self, work: impl Future<Output = T>) -> (T, Duration) {
        let begun = Instant::now();
        let done = work.await;
        let took = begun.elapsed();
        self.spent += took;
        (done, took)
    }

    /// Waits until no job waits for a model; says whether that came. All of an audit's waits share its patience.
    pub(super) async fn model_is_free(&mut self) -> bool {
        let Some(busy) = &self.busy else {
            return true;
        };
        let begun = Instant::now();
        let mut is_free = !busy();
        while !is_free && begun.elapsed() < self.patience {
            tokio::time::sleep(LOOK).await;
            is_free = !busy();
        }
        self.patience = self.patience.saturating_sub(begun.elapsed());
        is_free
    }

    /// The time that its steps took since this was last asked.
    pub fn take_spent(&mut self) -> Duration {
        std::mem::take(&mut self.spent)
    }
}

async fn sleep(rest: Duration) {
    if !rest.is_zero() {
        tokio::time::sleep(rest).await;
    }
}

/// The rest after a step, for a share of the time.
fn rest(took: Duration, share: f64) -> Duration {
    took.mul_f64(1.0 / share - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_step_and_its_rest_keep_to_the_share(ms in 0u64..100_000, share in 0.001f64..1.0) {
            let took = Duration::from_millis(ms);
            let all = took + rest(took, share);
            prop_assert!(took.as_secs_f64() <= all.as_secs_f64() * share + 1e-6);
        }
    }

    #[tokio::test]
    async fn no_model_is_asked_while_jobs_wait() {
        let mut pace = Pace::beside(0.02, Duration::ZERO, Arc::new(|| true));
        pace.patience = Duration::ZERO;
        assert!(!pace.model_is_free().await);
        pace.busy = Some(Arc::new(|| false));
        assert!(pace.model_is_free().await);
        assert!(Pace::hurried().model_is_free().await);
    }

    #[tokio::test]
    async fn all_waits_of_one_audit_share_its_patience() {
        let mut pace = Pace::beside(0.02, Duration::ZERO, Arc::new(|| true));
        pace.patience = Duration::from_millis(1);
        assert!(!pace.model_is_free().await);
        assert_eq!(pace.patience, Duration::ZERO);
        pace.begin();
        assert_eq!(pace.patience, PATIENCE);
    }

    #[test]
    fn a_slow_step_rests_no_longer_than_allowed_and_a_failed_one_not_at_all() {
        let max = Duration::from_secs(60);
        let pace = Pace::beside(0.01, max, Arc::new(|| false));
        let timeout = Duration::from_secs(5);
        assert_eq!(pace.rest_of(timeout, false), Duration::ZERO);
        assert_eq!(pace.rest_of(timeout, true), max);
        let short = Duration::from_millis(100);
        assert_eq!(pace.rest_of(short, true), rest(short, 0.01));
    }
}
