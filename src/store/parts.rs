//! Owns how a batch is cut into statements, and what becomes of its jobs when one of them isn't stored.
//!
//! Promises that a statement holds no more than [`MAX_STATEMENT_BYTES`] unless a single job does, that one job's row costs its batchmates a
//! bounded number of limits and never their own rows, and that a job is given up only if it is alone, twice, that the database refuses its row
//! while it takes others of the same kinds, or runs into its limit while others are stored. Where nobody's rows are, it is the database that is slow
//! or refuses all, and the job goes on being repeated.

use super::StoreError;
use crate::{backoff::Backoff, cut::cut};
use std::{collections::VecDeque, ops::Range, time::Duration};

/// What a statement may hold, in bytes of its rows.
pub const MAX_STATEMENT_BYTES: usize = 8 << 20;
/// Tries alone, while others are stored or would be, after which a job is given up.
const TRIES_ALONE: u32 = 2;
/// Until a row is tried again that is refused while others wouldn't be.
const AGAIN: Duration = Duration::from_millis(20);

/// Some of a batch's jobs, for one statement.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    jobs: Range<usize>,
    /// How often the jobs' statement was cut in two.
    depth: u32,
    /// How often it ran into its limit alone while others were stored.
    late_alone: u32,
    /// How often it was refused alone while others weren't.
    refused_alone: u32,
    /// How many others like it had been stored when it was first refused, with others or alone.
    like: Option<u64>,
}

impl Part {
    fn new(jobs: Range<usize>) -> Self {
        Self {
            jobs,
            depth: 0,
            late_alone: 0,
            refused_alone: 0,
            like: None,
        }
    }

    /// Some of its jobs.
    fn of(&self, jobs: Range<usize>) -> Self {
        Self {
            depth: self.depth + 1,
            ..Self::new(jobs)
        }
    }

    fn halves(&self) -> [Self; 2] {
        let middle = self.jobs.start + self.jobs.len() / 2;
        [
            self.of(self.jobs.start..middle),
            self.of(middle..self.jobs.end),
        ]
    }
}

/// What became of a part that wasn't stored.
#[derive(Debug, PartialEq, Eq)]
enum Unstored {
    /// Its jobs come again, in smaller parts or the same.
    Later,
    /// A single job that doesn't come again: its index.
    Never(usize),
}

/// A batch's jobs that aren't stored yet. A part that fails goes behind the others, so that these don't wait for it.
#[derive(Debug)]
struct Parts {
    waiting: VecDeque<Part>,
    /// Whether a part ran into its limit.
    any_late: bool,
    /// Whether one has been stored since: the database stores, but not everything.
    stored_since: bool,
}

impl Parts {
    /// The jobs of which each adds so many bytes to a statement.
    fn new(bytes: impl IntoIterator<Item = usize>, max_bytes: usize) -> Self {
        let waiting = cut(bytes, usize::MAX, max_bytes).into_iter();
        Self {
            waiting: waiting.map(Part::new).collect(),
            any_late: false,
            stored_since: false,
        }
    }

    fn next(&mut self) -> Option<Part> {
        self.waiting.pop_front()
    }

    fn stored(&mut self) {
        self.stored_since |= self.any_late;
    }

    /// The database refuses a part: each half has its own answer. `is_alone` says whether it takes another row of the same kinds; `like` counts
    /// the batches with rows of the kinds of these jobs' that were stored so far.
    fn refused(
        &mut self,
        mut part: Part,
        is_alone: bool,
        like: impl Fn(Range<usize>) -> u64,
    ) -> Unstored {
        if part.jobs.len() > 1 {
            let halves = part.halves().map(|half| Part {
                // From now on, and of its own kinds, which may be fewer.
                like: Some(like(half.jobs.clone())),
                ..half
            });
            self.waiting.extend(halves);
            return Unstored::Later;
        }
        let now = like(part.jobs.clone());
        let others_stored = now > *part.like.get_or_insert(now);
        // A rule may have gone between the two answers, and a moment's trouble may look like one.
        part.refused_alone += u32::from(is_alone || others_stored);
        if part.refused_alone >= TRIES_ALONE {
            return Unstored::Never(part.jobs.start);
        }
        self.waiting.push_back(part);
        Unstored::Later
    }

    /// A part ran into its limit; `others_stored` says whether another batch was stored meanwhile.
    fn late(&mut self, mut part: Part, others_stored: bool) -> Unstored {
        let others_stored = others_stored || self.stored_since;
        self.any_late = true;
        if part.jobs.len() > 1 {
            // Where others are stored it is one of these: the sooner each is alone, the sooner the rest is done. Where nobody's
            // are, the database is slow, and many small statements don't make it faster.
            if part.depth > 0 && others_stored {
                let alone = part.jobs.clone().map(|job| part.of(job..job + 1));
                self.waiting.extend(alone);
            } else {
                self.waiting.extend(part.halves());
            }
            return Unstored::Later;
        }
        part.late_alone += u32::from(others_stored);
        if part.late_alone >= TRIES_ALONE {
            return Unstored::Never(part.jobs.start);
        }
        self.waiting.push_back(part);
        Unstored::Later
    }
}

/// How a batch's rows are written, some of its jobs at a time.
pub struct Writing<I, K, L> {
    /// Writes the rows of some of them in one statement.
    pub insert: I,
    /// Says whether the database takes rows of the same kinds that nothing is wrong with.
    pub takes: K,
    /// Counts the batches with rows of those kinds that this process has stored.
    pub like: L,
}

/// Stores a batch of jobs, of which each adds so many `bytes` to a statement, one part after the other. `stored` counts what this process has
/// stored in all. Says of each job what `insert` said, or why it isn't stored.
pub async fn in_parts<T, W, A>(
    bytes: Vec<usize>,
    mut backoff: Backoff,
    stored: impl Fn() -> u64,
    writing: Writing<
        impl Fn(Range<usize>) -> W,
        impl Fn(Range<usize>) -> A,
        impl Fn(Range<usize>) -> u64,
    >,
) -> Vec<Result<T, String>>
where
    W: Future<Output = Result<Vec<T>, StoreError>>,
    A: Future<Output = Result<(), StoreError>>,
{
    let missing = || Err("no row came back".to_owned());
    let mut answers: Vec<Result<T, String>> = bytes.iter().map(|_| missing()).collect();
    let mut parts = Parts::new(bytes, MAX_STATEMENT_BYTES);
    let mut has_said = false;
    while let Some(part) = parts.next() {
        let before = stored();
        let error = match (writing.insert)(part.jobs.clone()).await {
            Ok(values) => {
                parts.stored();
                let own = answers.iter_mut().skip(part.jobs.start);
                for (answer, value) in own.take(part.jobs.len()).zip(values) {
                    *answer = Ok(value);
                }
                continue;
            }
            Err(error) => error,
        };
        let reason = error.to_string();
        let jobs = part.jobs.len();
        let is_refused = matches!(error, StoreError::Refused(_) | StoreError::Objected(_));
        let is_alone = is_refused && (writing.takes)(part.jobs.clone()).await.is_ok();
        if !is_alone && !std::mem::replace(&mut has_said, true) {
            let what = match is_refused {
                true => "the database refuses rows, and may refuse any",
                false => "storing took too long",
            };
            tracing::warn!(
                jobs,
                reason,
                "{what}; it is repeated, in parts where it can be cut"
            );
        }
        if jobs == 1 {
            // One that will be given up holds up the others of its batch no longer than a rule takes to go.
            let wait = if is_alone { AGAIN } else { backoff.next_wait() };
            tokio::time::sleep(wait).await;
        }
        let unstored = match is_refused {
            true => parts.refused(part, is_alone, &writing.like),
            false => parts.late(part, stored() > before),
        };
        if let Unstored::Never(job) = unstored
            && let Some(answer) = answers.get_mut(job)
        {
            *answer = Err(reason);
        }
    }
    answers
}

#[cfg(test)]
mod tests;
