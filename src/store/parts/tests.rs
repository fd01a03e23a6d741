//! A database in memory: how it answers to statements of some jobs, and what becomes of these.

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
        let like = |_| stored();
        let writing = Writing {
            insert,
            takes,
            like,
        };
        in_parts(bytes, backoff(), stored, writing).await
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
    assert!(database.statements() <= 14, "{}", database.statements());
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
async fn what_is_cut_off_from_rows_of_more_kinds_is_compared_with_its_own() {
    // Rows of all kinds of the batch were stored seldom, those of one job's alone often: before.
    let tries = RefCell::new(0);
    let insert = async |jobs: Range<usize>| {
        *tries.borrow_mut() += 1;
        match *tries.borrow() {
            100.. => Ok(jobs.collect()),
            _ => Err(StoreError::Refused("no".into())),
        }
    };
    let takes = async |_| Err(StoreError::Unavailable("none".into()));
    let writing = Writing {
        insert,
        takes,
        like: |jobs: Range<usize>| if jobs.len() > 1 { 1 } else { 1_000 },
    };
    let answers = in_parts(vec![100; 2], backoff(), || 0, writing).await;
    assert_eq!(answers, [Ok(0), Ok(1)]);
}

#[tokio::test]
async fn who_stores_other_kinds_of_rows_says_nothing_of_one_that_is_refused() {
    let tries = RefCell::new(0);
    let insert = async |_| {
        *tries.borrow_mut() += 1;
        match *tries.borrow() {
            100 => Ok(vec![()]),
            _ => Err(StoreError::Refused("no".into())),
        }
    };
    let takes = async |_| Err(StoreError::Unavailable("none".into()));
    let stored = || *tries.borrow();
    let like = |_| 7;
    let writing = Writing {
        insert,
        takes,
        like,
    };
    let answers = in_parts(vec![100], backoff(), stored, writing).await;
    assert_eq!(answers, [Ok(())]);
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
    let stored = || *others.borrow();
    let like = |_| stored();
    let writing = Writing {
        insert,
        takes,
        like,
    };
    let answers = in_parts(vec![100], backoff(), stored, writing).await;
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
