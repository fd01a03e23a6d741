//! Owns which runs are cancelled, as the database said last, and what that means for a job on arrival.
//!
//! Promises that only a job which says that it belongs to a run is looked at, and that without the database jobs run as ever.

use crate::amqp::delivery::Delivery;
use kiln_contract::failure::{Code, Rejection};
use std::{collections::BTreeSet, sync::Arc};
use tokio::sync::watch;

/// The runs that are cancelled; clones are the same.
#[derive(Debug, Clone)]
pub(super) struct CancelledRuns(Arc<watch::Sender<BTreeSet<String>>>);

impl Default for CancelledRuns {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(BTreeSet::new())))
    }
}

impl CancelledRuns {
    /// Takes what the database says.
    pub fn set(&self, runs: &BTreeSet<String>) {
        self.0.send_if_modified(|known| {
            let is_news = known != runs;
            if is_news {
                known.clone_from(runs);
            }
            is_news
        });
    }

    /// The rejection of a job of a run that is cancelled.
    pub fn verdict(&self, delivery: &Delivery) -> Option<Rejection> {
        let run = delivery.run()?;
        self.0.borrow().contains(&run).then(|| {
            let message = "its run was cancelled before a worker took it";
            Rejection::new(Code::Cancelled, "", message)
        })
    }
}
