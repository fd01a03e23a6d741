//! Owns how a batch is cut into statements, and what becomes of its jobs when one of them isn't stored.
//!
//! Promises that a statement holds no more than [`MAX_STATEMENT_BYTES`] unless a single job does, that one job's row costs its batchmates a
//! bounded number of limits and never their own rows, and that a job is given up only if the database refuses its row and would take another, or
//! if it is refused or runs into its limit alone, twice, while others are stored. Where nobody's rows are, it is the database that is slow or
//! refuses all rows, and the job goes on being repeated.

use super::StoreError;
use crate::{backoff::Backoff, cut::cut};
use std::{collections::VecDeque, ops::Range};

/// What a statement may hold, in bytes of its rows.
pub const MAX_STATEMENT_BYTES: usize = 8 << 20;
/// Tries alone, while others are stored, after which a job that runs into its limit is given up.
const TRIES_ALONE: u32 = 2;

/// Some of a batch's jobs, for one statement.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    jobs: Range<usize>,
    /// How often the jobs' statement was cut in two.
    depth: u32,
    /// How often it ran into its limit alone while others were stored.
    late_alone: u32,
}

impl Part {
    fn halves(self) -> [Self; 2] {
        let middle = self.jobs.start + self.jobs.len() / 2;
        let half = |jobs| Self {
            jobs,
            depth: self.depth + 1,
            late_alone: 0,
        };
        [half(self.jobs.start..middle), half(middle..self.jobs.end)]
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
    /// Whether a part ran into its limit, or was refused as any other would be.
    any_late: bool,
    /// Whether one has been stored since: the database stores, but not everything.
    stored_since: bool,
}

impl Parts {
    /// The jobs of which each adds so many bytes to a statement.
    fn new(bytes: impl IntoIterator<Item = usize>, max_bytes: usize) -> Self {
        let waiting = cut(bytes, usize::MAX, max_bytes).into_iter();
        let waiting = waiting.map(|jobs| Part {
            jobs,
            depth: 0,
            late_alone: 0,
        });
        Self {
            waiting: waiting.collect(),
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

    /// The database refuses a part: each half has its own answer.
    fn refused(&mut self, part: Part) -> Unstored {
        if part.jobs.len() <= 1 {
            return Unstored::Never(part.jobs.start);
        }
        self.waiting.extend(part.halves());
        Unstored::Later
    }

    /// A part ran into its limit, or was refused as any other would be; `others_stored` says whether another batch was stored meanwhile.
    fn late(&mut self, mut part: Part, others_stored: bool) -> Unstored {
        let others_stored = others_stored || self.stored_since;
        self.any_late = true;
        if part.jobs.len() > 1 {
            // Where others are stored it is one of these: the sooner each is alone, the sooner the rest is done. Where nobody's
            // are, the database is slow, and many small statements don't make it faster.
            if part.depth > 0 && others_stored {
                let alone = part.jobs.map(|job| Part {
                    jobs: job..job + 1,
                    depth: part.depth + 1,
                    late_alone: 0,
                });
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

/// Stores a batch of jobs, of which each adds so many `bytes` to a statement: `insert` writes some of them in one, and is called for one part after
/// the other. `stored` counts what this process has stored in all; `takes` says whether the database would take rows of the same kinds that nothing is
/// wrong with. Says of each job what `insert` said, or why it isn't stored.
pub async fn in_parts<T, W, A>(
    bytes: Vec<usize>,
    mut backoff: Backoff,
    stored: impl Fn() -> u64,
    insert: impl Fn(Range<usize>) -> W,
    takes: impl Fn(Range<usize>) -> A,
) -> Vec<Result<T, String>>
where
    W: Future<Output = Result<Vec<T>, StoreError>>,
    A: Future<Output = Result<(), StoreError>>,
{
    let missing = || Err("no row came back".to_owned());
    let mut answers: Vec<Result<T, String>> = bytes.iter().map(|_| missing()).collect();
    let mut parts = Parts::new(bytes, MAX_STATEMENT_BYTES);
    while let Some(part) = parts.next() {
        let before = stored();
        let error = match insert(part.jobs.clone()).await {
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
        let is_objection = matches!(error, StoreError::Refused(_) | StoreError::Objected(_));
        let unstored = if is_objection && takes(part.jobs.clone()).await.is_ok() {
            parts.refused(part)
        } else {
            if !parts.any_late {
                let what = match is_objection {
                    true => "the database refuses every row",
                    false => "storing took too long",
                };
                tracing::warn!(
                    jobs,
                    reason,
                    "{what}; it is repeated, in parts where it can be cut"
                );
            }
            if jobs == 1 {
                tokio::time::sleep(backoff.next_wait()).await;
            }
            parts.late(part, stored() > before)
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
mod tests {
    use super::*;
    use std::{cell::RefCell, collections::BTreeSet, time::Duration};

    fn backoff() -> Backoff {
        Backoff::new(Duration::ZERO, Duration::ZERO)
    }

    /// A database: how it answers to a statement of these jobs.
    struct Database<A: Fn(&Range<usize>, usize) -> Option<StoreError>> {
        answer: A,
        /// Whether it takes rows that nothing is wrong with.
        takes: bool,
        statements: RefCell<Vec<Range<usize>>>,
        stored: RefCell<BTreeSet<usize>>,
    }

    impl<A: Fn(&Range<usize>, usize) -> Option<StoreError>> Database<A> {
        fn new(answer: A) -> Self {
            Self {
                answer,
                takes: true,
                statements: RefCell::default(),
                stored: RefCell::default(),
            }
        }

        async fn store(&self, bytes: Vec<usize>) -> Vec<Result<usize, String>> {
            let stored = || self.stored.borrow().len() as u64;
            let insert = |jobs: Range<usize>| async {
                let earlier = self.statements.borrow().len();
                self.statements.borrow_mut().push(jobs.clone());
                match (self.answer)(&jobs, earlier) {
                    Some(error) => Err(error),
                    None => {
                        self.stored.borrow_mut().extend(jobs.clone());
                        Ok(jobs.collect())
                    }
                }
            };
            let takes = async |_| match self.takes {
                true => Ok(()),
                false => Err(StoreError::Unavailable("none".into())),
            };
            in_parts(bytes, backoff(), stored, insert, takes).await
        }

        fn statements(&self) -> usize {
            self.statements.borrow().len()
        }
    }

    fn late() -> Option<StoreError> {
        Some(StoreError::TimedOut("late".into()))
    }

    fn refused() -> Option<StoreError> {
        Some(StoreError::Refused("no".into()))
    }

    fn unstored(answers: &[Result<usize, String>]) -> Vec<usize> {
        let failed = |(job, answer): (usize, &Result<usize, String>)| match answer {
            Ok(value) => {
                assert_eq!(*value, job, "each job has its own answer");
                None
            }
            Err(_) => Some(job),
        };
        answers.iter().enumerate().filter_map(failed).collect()
    }

    #[tokio::test]
    async fn a_batch_that_is_stored_is_one_statement() {
        let database = Database::new(|_, _| None);
        assert!(unstored(&database.store(vec![100; 64]).await).is_empty());
        assert_eq!(database.statements(), 1);
        assert!(database.store(Vec::new()).await.is_empty());
        assert_eq!(database.statements(), 1, "nothing is no statement");
    }

    #[tokio::test]
    async fn a_statement_has_its_bytes_and_one_job_may_exceed_them() {
        let database = Database::new(|_, _| None);
        let half = MAX_STATEMENT_BYTES / 2;
        let bytes = vec![half, half, 1, 3 * half, 1];
        assert!(unstored(&database.store(bytes).await).is_empty());
        let statements = database.statements.borrow().clone();
        assert_eq!(statements, [0..2, 2..3, 3..4, 4..5]);
    }

    #[tokio::test]
    async fn a_row_that_is_refused_costs_only_its_job() {
        let database = Database::new(|jobs, _| jobs.contains(&37).then(refused).flatten());
        assert_eq!(unstored(&database.store(vec![100; 64]).await), [37]);
        assert!(database.statements() <= 13, "{}", database.statements());
    }

    #[tokio::test]
    async fn no_row_is_given_up_while_every_row_is_refused() {
        for objection in [StoreError::Refused, StoreError::Objected] {
            let mut database =
                Database::new(|_, earlier| (earlier < 500).then(|| objection("no".into())));
            database.takes = false;
            assert!(unstored(&database.store(vec![100; 64]).await).is_empty());
        }
    }

    #[tokio::test]
    async fn a_row_that_is_refused_beside_others_is_given_up_whatever_else_would_be_refused() {
        // A rule that rows of these jobs keep, and the row doesn't that the database is asked with.
        let mut database = Database::new(|jobs, _| jobs.contains(&37).then(refused).flatten());
        database.takes = false;
        assert_eq!(unstored(&database.store(vec![100; 64]).await), [37]);
    }

    #[tokio::test]
    async fn a_row_that_takes_too_long_is_given_up_once_others_are_stored() {
        let late_statements = RefCell::new(0);
        let database = Database::new(|jobs, _| {
            *late_statements.borrow_mut() += u32::from(jobs.contains(&37));
            jobs.contains(&37).then(late).flatten()
        });
        assert_eq!(unstored(&database.store(vec![100; 64]).await), [37]);
        // The batch, a half, and twice alone.
        assert_eq!(*late_statements.borrow(), 4);
    }

    #[tokio::test]
    async fn while_nothing_is_stored_nothing_is_given_up() {
        let database = Database::new(|_, earlier| (earlier < 500).then(late).flatten());
        assert!(unstored(&database.store(vec![100; 64]).await).is_empty());
        let alone = Database::new(|_, earlier| (earlier < 50).then(late).flatten());
        assert!(unstored(&alone.store(vec![100]).await).is_empty());
        assert_eq!(alone.statements(), 51);
    }

    #[tokio::test]
    async fn one_alone_is_given_up_while_other_batches_are_stored() {
        let (tries, others) = (RefCell::new(0), RefCell::new(0));
        let insert = |_| async {
            *tries.borrow_mut() += 1;
            // Others are stored during the third try and later.
            *others.borrow_mut() += u64::from(*tries.borrow() >= 3);
            Err::<Vec<()>, _>(StoreError::TimedOut("late".into()))
        };
        let takes = async |_| Ok(());
        let answers = in_parts(vec![100], backoff(), || *others.borrow(), insert, takes).await;
        assert_eq!(answers, [Err("late".to_owned())]);
        assert_eq!(*tries.borrow(), 4);
    }

    #[tokio::test]
    async fn those_that_can_be_stored_are_before_one_is_tried_again() {
        let database = Database::new(|jobs, _| jobs.contains(&0).then(late).flatten());
        assert_eq!(unstored(&database.store(vec![100; 8]).await), [0]);
        let statements = database.statements.borrow();
        let first_alone = statements.iter().position(|jobs| *jobs == (0..1));
        let again = statements.iter().rposition(|jobs| *jobs == (0..1));
        let between = first_alone.expect("a try")..again.expect("another");
        let rest: BTreeSet<usize> = statements[..between.end]
            .iter()
            .filter(|jobs| !jobs.contains(&0))
            .flat_map(Clone::clone)
            .collect();
        assert_eq!(rest, (1..8).collect());
    }

    #[tokio::test]
    async fn a_slow_database_gets_fewer_larger_statements_than_a_poisoned_batch() {
        // Every statement of more than 16 jobs is too much.
        let database = Database::new(|jobs, _| (jobs.len() > 16).then(late).flatten());
        assert!(unstored(&database.store(vec![100; 64]).await).is_empty());
        assert_eq!(database.statements(), 7, "64, twice 32, four times 16");
    }
}
