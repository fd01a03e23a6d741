//! Owns of which kinds rows are, how often rows of which kinds were stored together, and of which kinds the database refuses all.
//!
//! Promises that rows count for others' only where they have all of their kinds, and are known to have been written.

use super::{Batch, RejectedRow};
use kiln_contract::result::Finished;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Of which kinds a write's rows are, and a run whose jobs' model time is among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kinds {
    all: u8,
    pub run: Option<i64>,
}

impl Kinds {
    pub const FINISHED: u8 = 1;
    pub const RESULTS: u8 = 2;
    pub const SCORES: u8 = 4;
    pub const SERVED: u8 = 8;
    pub const POSTERS: u8 = 16;
    pub const CALLBACKS: u8 = 32;
    pub const SPENT: u8 = 64;
    pub const REJECTED: u8 = 128;
    /// Of these, a statement may write none although it has some.
    const PERHAPS: u8 = Self::SERVED | Self::CALLBACKS | Self::SPENT;

    pub fn of(batch: &Batch<'_>) -> Self {
        let kinds = [
            (Self::FINISHED, true),
            (Self::RESULTS, !batch.is_ledger),
            (Self::SCORES, !batch.scores.is_empty()),
            (Self::SERVED, !batch.served.is_empty()),
            (Self::POSTERS, !batch.posters.is_empty()),
            (Self::CALLBACKS, !batch.callbacks.is_empty()),
            (Self::SPENT, !batch.spent.is_empty()),
        ];
        let there = kinds.into_iter().filter(|(_, is_there)| *is_there);
        Self {
            all: there.fold(0, |all, (kind, _)| all | kind),
            run: batch.spent.first().map(|spent| spent.of.run),
        }
    }

    /// The same of rejections.
    pub fn of_rejections(rows: &[RejectedRow<'_>]) -> Self {
        let kinds = [
            (Self::REJECTED, true),
            (
                Self::POSTERS,
                rows.iter().any(|row| !row.posters.is_empty()),
            ),
            (
                Self::CALLBACKS,
                rows.iter().any(|row| row.callback.is_some()),
            ),
        ];
        let there = kinds.into_iter().filter(|(_, is_there)| *is_there);
        Self {
            all: there.fold(0, |all, (kind, _)| all | kind),
            run: None,
        }
    }

    pub fn has(self, kind: u8) -> bool {
        self.all & kind != 0
    }
}

/// The model, version and namespace of a job that was stored.
pub(super) type Names = [String; 3];

#[derive(Debug, Default)]
struct State {
    /// How often rows of these kinds were stored together.
    stored: BTreeMap<u8, u64>,
    /// What was refused when it was last asked, and how often rows of its kinds had been stored by then.
    refused: Option<(Kinds, u64)>,
    names: Option<Arc<Names>>,
}

impl State {
    /// How often rows of all these kinds were stored, as far as that is known: of some kinds only a sample says whether they are.
    fn like(&self, kinds: Kinds) -> u64 {
        if kinds.has(Kinds::PERHAPS) {
            return 0;
        }
        let with = self.stored.iter();
        let with = with.filter(|(all, _)| *all & kinds.all == kinds.all);
        with.map(|(_, count)| count).sum()
    }
}

/// What this process has stored, by kinds, and of which kinds the database refuses rows.
#[derive(Debug, Default)]
pub(super) struct Taken(Mutex<State>);

impl Taken {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A batch was stored; `is_new` says whether each of its jobs was new.
    pub fn batch(&self, batch: &Batch<'_>, is_new: bool) {
        let first = batch.jobs.first().filter(|_| is_new);
        let names = first.map(|job| {
            let Finished {
                model,
                version,
                namespace,
                ..
            } = job.done;
            [model, version, namespace]
        });
        let mut state = self.state();
        *state.stored.entry(Kinds::of(batch).all).or_default() += 1;
        let known = state.names.as_deref();
        if let Some(names) = names
            && known.is_none_or(|known| known.iter().ne(names))
        {
            state.names = Some(Arc::new(names.map(Clone::clone)));
        }
    }

    /// Rejections were stored.
    pub fn rejections(&self, kinds: Kinds) {
        *self.state().stored.entry(kinds.all).or_default() += 1;
    }

    /// How many batches of rows of all these kinds were stored.
    pub fn like(&self, kinds: Kinds) -> u64 {
        self.state().like(kinds)
    }

    /// How many batches of jobs were stored.
    pub fn batches(&self) -> u64 {
        self.like(Kinds {
            all: Kinds::FINISHED,
            run: None,
        })
    }

    /// The names of a job that was stored.
    pub fn names(&self) -> Option<Arc<Names>> {
        self.state().names.clone()
    }

    /// Notes whether a sample of these kinds was refused.
    pub fn asked(&self, kinds: Kinds, is_refused: bool) {
        let mut state = self.state();
        if is_refused {
            state.refused = Some((kinds, state.like(kinds)));
        } else {
            state.refused.take_if(|(refused, _)| *refused == kinds);
        }
    }

    /// The kinds of which the last sample was refused, and nothing has been stored since.
    pub fn refused(&self) -> Option<Kinds> {
        let state = self.state();
        let (kinds, before) = state.refused?;
        (state.like(kinds) == before).then_some(kinds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(all: u8) -> Kinds {
        Kinds { all, run: None }
    }

    fn stored(taken: &Taken, all: u8) {
        *taken.state().stored.entry(all).or_default() += 1;
    }

    #[test]
    fn what_is_refused_is_so_until_it_is_stored_with_whatever_else() {
        let taken = Taken::default();
        let scores = Kinds::FINISHED | Kinds::SCORES;
        stored(&taken, scores);
        taken.asked(kinds(scores), true);
        stored(&taken, Kinds::FINISHED);
        stored(&taken, Kinds::REJECTED);
        assert_eq!(taken.refused(), Some(kinds(scores)));
        taken.asked(kinds(Kinds::FINISHED), false);
        assert_eq!(
            taken.refused(),
            Some(kinds(scores)),
            "that says nothing of it"
        );
        stored(&taken, scores | Kinds::POSTERS);
        assert_eq!(taken.refused(), None);
        assert_eq!((taken.like(kinds(scores)), taken.batches()), (2, 3));
    }

    #[test]
    fn of_rows_that_may_not_have_been_written_only_a_sample_says_that_they_are_taken() {
        let taken = Taken::default();
        let served = Kinds::FINISHED | Kinds::SERVED;
        taken.asked(kinds(served), true);
        stored(&taken, served);
        assert_eq!((taken.like(kinds(served)), taken.batches()), (0, 1));
        assert_eq!(taken.refused(), Some(kinds(served)));
        taken.asked(kinds(served), false);
        assert_eq!(taken.refused(), None);
    }
}
