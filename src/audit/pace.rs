//! Owns how far an audit stands back: it rests after each step, so that it has no more than its share of the time, and asks no model while
//! jobs wait for theirs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How often it is looked whether jobs still wait.
const LOOK: Duration = Duration::from_millis(50);
/// How long a model's turn is waited for before it is left out.
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
    /// How long it waits for a model's turn before it leaves that out.
    patience: Duration,
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
            spent: Duration::ZERO,
        }
    }

    /// Beside jobs, which come first.
    pub fn beside(share: f64, busy: Busy) -> Self {
        Self {
            share: share.clamp(0.0001, 1.0),
            busy: Some(busy),
            call_seconds: 0.01,
            patience: PATIENCE,
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

    /// Does one step, and rests.
    pub(super) async fn step<T>(&mut self, work: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let done = work.await;
        let took = begun.elapsed();
        self.spent += took;
        let rest = rest(took, self.share);
        if !rest.is_zero() {
            tokio::time::sleep(rest).await;
        }
        done
    }

    /// Waits until no job waits for a model; says whether that came.
    pub(super) async fn model_is_free(&self) -> bool {
        let Some(busy) = &self.busy else {
            return true;
        };
        let begun = Instant::now();
        while busy() {
            if begun.elapsed() >= self.patience {
                return false;
            }
            tokio::time::sleep(LOOK).await;
        }
        true
    }

    /// The time that its steps took since this was last asked.
    pub fn take_spent(&mut self) -> Duration {
        std::mem::take(&mut self.spent)
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
        let mut pace = Pace::beside(0.02, Arc::new(|| true));
        pace.patience = Duration::ZERO;
        assert!(!pace.model_is_free().await);
        pace.busy = Some(Arc::new(|| false));
        assert!(pace.model_is_free().await);
        assert!(Pace::hurried().model_is_free().await);
    }
}
