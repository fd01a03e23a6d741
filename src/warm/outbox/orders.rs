//! Every order of a worker that posts a run and of one that takes it over, at whatever step; the first one goes on as long as it hears nothing, or
//! may be killed anywhere; the second one finds the budget spent, or not.
//!
//! What the run counts as its jobs at the end was noted as posted, each of them once, and is what the broker has; nothing is left lying; and
//! whoever was taken over from changes nothing any more. Ways that are wrong are told from the right one. That a due run has one claim, and that
//! it is taken over by one worker alone, is the database's to hold: each is one statement there.

use super::*;
use kiln_fuzz::{Task, every_order, step};
use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

const MAX_ORDERS: usize = 100_000;

/// What may be done wrongly.
#[derive(Clone, Copy, Default)]
struct Wrong {
    /// Jobs are noted as sent after the broker has them.
    notes_sent_late: bool,
    /// Jobs are noted as posted before the broker has them.
    notes_posted_early: bool,
    /// What was sent is taken to be posted.
    trusts_sent: bool,
    /// A write counts whoever has the claim.
    ignores_claim: bool,
}

/// A run's rows, and what the broker has of it.
struct Run {
    token: u64,
    is_posting: bool,
    is_spent: bool,
    /// Its jobs that aren't posted, and whether they were sent.
    posts: BTreeMap<i32, bool>,
    jobs: usize,
    posted: usize,
    at_broker: BTreeSet<i32>,
}

/// What is asked of the servers is done at once; the answer takes a while.
struct StandIn {
    run: Arc<Mutex<Run>>,
    wrong: Wrong,
    token: u64,
}

impl StandIn {
    fn run(&self) -> MutexGuard<'_, Run> {
        self.run.lock().expect("sound")
    }

    /// A write under its claim.
    async fn write(&self, write: impl FnOnce(&mut Run)) -> Result<(), Stopped> {
        {
            let mut run = self.run();
            let is_mine = run.token == self.token || self.wrong.ignores_claim;
            if !run.is_posting || !is_mine {
                return Err(Stopped::Lost);
            }
            write(&mut run);
        }
        step().await;
        Ok(())
    }

    async fn note(&self, posts: &[Post]) -> Result<(), Stopped> {
        let gone = |run: &mut Run, one: &Post| run.posts.remove(&one.piece).is_some();
        self.write(|run| {
            let gone = posts.iter().filter(|one| gone(run, one)).count();
            run.posted += gone;
        })
        .await
    }

    async fn hand_over(&self, posts: &[Post]) {
        let pieces = posts.iter().map(|one| one.piece);
        self.run().at_broker.extend(pieces);
        step().await;
    }
}

impl Outbox for StandIn {
    async fn next(&mut self, are_sent: bool) -> Result<Vec<Post>, Stopped> {
        let posts: Vec<Post> = {
            let run = self.run();
            let wanted = run
                .posts
                .iter()
                .filter(|(_, is_sent)| **is_sent == are_sent);
            let post = |(piece, _): (&i32, &bool)| Post {
                piece: *piece,
                // Each of them goes alone.
                bytes: 5 << 20,
                ..Post::default()
            };
            wanted.map(post).collect()
        };
        if are_sent {
            let is_trusted = self.wrong.trusts_sent;
            return Ok(if is_trusted { Vec::new() } else { posts });
        }
        step().await;
        Ok(posts)
    }

    async fn so_far(&mut self) -> Result<(Outlay, Progress), Stopped> {
        let (mut outlay, mut progress) = (Outlay::default(), Progress::default());
        if self.run().is_spent {
            (outlay.inputs, progress.misses) = (Some(0), 1);
        }
        Ok((outlay, progress))
    }

    async fn room(&mut self) {}

    async fn send(&mut self, posts: &[Post]) -> Result<Vec<Vec<u8>>, Stopped> {
        if self.wrong.notes_sent_late {
            self.hand_over(posts).await;
        }
        if posts
            .iter()
            .any(|one| !self.run().posts.contains_key(&one.piece))
        {
            return Err(Stopped::Lost);
        }
        let sent = posts.iter().map(|one| (one.piece, true));
        self.write(|run| run.posts.extend(sent)).await?;
        Ok(Vec::new())
    }

    async fn publish(&mut self, posts: &[Post], _: Vec<Vec<u8>>) -> Result<(), Stopped> {
        if self.wrong.notes_posted_early {
            self.note(posts).await?;
        }
        if !self.wrong.notes_sent_late {
            self.hand_over(posts).await;
        }
        Ok(())
    }

    async fn note_posted(&mut self, posts: &[Post]) -> Result<(), Stopped> {
        match self.wrong.notes_posted_early {
            true => Ok(()),
            false => self.note(posts).await,
        }
    }

    async fn leave_rest(&mut self, _: &str) -> Result<(), Stopped> {
        self.write(|run| {
            let before = run.posts.len();
            run.posts.retain(|_, is_sent| *is_sent);
            run.jobs -= before - run.posts.len();
        })
        .await
    }

    async fn end(&mut self) -> Result<(), Stopped> {
        self.write(|run| run.is_posting = false).await
    }
}

/// Posts what is left, under a claim.
async fn carry(run: Arc<Mutex<Run>>, wrong: Wrong, token: u64) {
    let mut outbox = StandIn { run, wrong, token };
    let rest = Backoff::new(Duration::ZERO, Duration::ZERO);
    match post_all(&mut outbox, rest).await {
        Ok(()) => assert!(!outbox.run().is_posting),
        Err(Stopped::Lost) => assert!(token < 2, "nobody else has it"),
        Err(other) => panic!("{other}"),
    }
}

/// How many orders there are.
fn explored(wrong: Wrong) -> usize {
    every_order(MAX_ORDERS, |orders| {
        let run = Arc::new(Mutex::new(Run {
            token: 1,
            is_posting: true,
            is_spent: false,
            posts: BTreeMap::from([(0, false), (1, false)]),
            jobs: 2,
            posted: 0,
            at_broker: BTreeSet::new(),
        }));
        let is_spent = orders.pick(2) == 1;
        let first: Task<'_> = Box::pin(carry(run.clone(), wrong, 1));
        let second: Task<'_> = Box::pin(async {
            let is_open = {
                let mut run = run.lock().expect("sound");
                run.is_spent = is_spent;
                run.token += 1;
                run.is_posting
            };
            if is_open {
                carry(run.clone(), wrong, 2).await;
            }
        });
        assert_eq!(orders.run(vec![first, second], Some(0)), 0);
        let run = run.lock().expect("sound");
        assert!(!run.is_posting && run.posts.is_empty(), "left lying");
        assert_eq!(run.posted, run.jobs, "what it counts as its jobs");
        assert_eq!(run.at_broker.len(), run.jobs, "what the broker has");
    })
}

#[test]
fn in_every_order_a_run_that_is_taken_over_posts_what_it_counts_as_its_jobs() {
    let orders = explored(Wrong::default());
    assert!(orders > 300, "{orders}");
}

#[test]
fn wrong_ways_to_post_are_found() {
    let right = Wrong::default();
    let wrong = [
        Wrong {
            notes_sent_late: true,
            ..right
        },
        Wrong {
            notes_posted_early: true,
            ..right
        },
        Wrong {
            trusts_sent: true,
            ..right
        },
        Wrong {
            ignores_claim: true,
            ..right
        },
    ];
    for (number, wrong) in wrong.into_iter().enumerate() {
        let found = catch_unwind(AssertUnwindSafe(|| explored(wrong)));
        assert!(found.is_err(), "{number}");
    }
}
