//! Owns what a seed does: which jobs are posted when, and what happens to servers and workers meanwhile.

use super::jobs::{Job, Posting, REPLIES};
use crate::simulated::Chance;
use std::time::Duration;

/// What happens beside failing answers.
#[derive(Debug, Clone, Copy)]
pub enum Trouble {
    /// Redis starts again: with what it held, or without.
    RestartRedis(bool),
    EvictKeys,
    FreezeRedis(Duration),
    /// Postgres is away for so long.
    StopPostgres(Duration),
    /// Every connection to RabbitMQ breaks.
    RestartBroker,
    /// The first worker is gone, and another one starts.
    Kill,
    /// The last worker stops, and another one starts.
    Stop,
}

/// All of it.
#[derive(Debug)]
pub struct Plan {
    pub jobs: Vec<Job>,
    pub postings: Vec<Posting>,
    /// Jobs that a caller waits for, by their numbers.
    pub calls: Vec<Job>,
    pub nodes: usize,
    /// Each with the time since the one before.
    pub troubles: Vec<(Duration, Trouble)>,
    /// How long answers go on failing after them.
    pub rest: Duration,
    /// What fails of Redis.
    pub redis: Chance,
    /// Whether Redis never fails: then the order of words is known by when they were first accepted.
    pub redis_works: bool,
    pub leases: bool,
    pub batch_jobs: usize,
    pub batches_in_flight: usize,
    /// So that few jobs may be in hand.
    pub max_bytes_in_hand: usize,
}

impl Plan {
    pub fn draw(chance: &Chance) -> Self {
        chance.scale([2, 10, 25][chance.below(3)]);
        let ordered = chance.below(3) == 0;
        let redis_works = !ordered && chance.below(2) == 0;
        let redis = Chance::new(chance.draw(rand::Rng::random));
        redis.scale([2, 10, 25][chance.below(3)]);
        if redis_works {
            redis.calm();
        }
        let count = 4 + chance.below(10);
        let jobs: Vec<Job> = (0..count)
            .map(|number| Job::draw(chance, format!("job-{number}"), ordered.then_some(number)))
            .collect();
        let calls = (0..chance.below(3)).map(|number| {
            Job::draw(
                chance,
                format!("call-{number}"),
                ordered.then_some(50 + number),
            )
        });
        Self {
            calls: calls.collect(),
            postings: postings(chance, &jobs),
            jobs,
            nodes: 1 + chance.below(2),
            troubles: troubles(chance, redis_works),
            rest: chance.millis(500..6_000),
            redis,
            redis_works,
            leases: chance.below(2) == 0,
            batch_jobs: 1 + chance.below(6),
            batches_in_flight: 1 + chance.below(3),
            max_bytes_in_hand: match chance.below(3) {
                0 => 8 << 10,
                _ => 64 << 20,
            },
        }
    }
}

/// Every job, and some of them again.
fn postings(chance: &Chance, jobs: &[Job]) -> Vec<Posting> {
    let mut numbers: Vec<usize> = (0..jobs.len()).collect();
    for _ in 0..chance.below(4) {
        numbers.push(chance.below(jobs.len()));
    }
    let last = numbers.len();
    for at in 0..last {
        numbers.swap(at, chance.below(last));
    }
    let postings = numbers
        .into_iter()
        .enumerate()
        .map(|(number, job)| Posting {
            number,
            job,
            after: match chance.below(3) {
                0 => chance.millis(0..900),
                _ => Duration::ZERO,
            },
            reply_to: match chance.below(12) {
                0 => None,
                1 => Some("replies.full"),
                2 => Some("replies.gone"),
                _ => Some(REPLIES),
            },
            is_changed: chance.below(20) == 0,
        });
    postings.collect()
}

fn troubles(chance: &Chance, redis_works: bool) -> Vec<(Duration, Trouble)> {
    let one = |_| {
        let of_redis = match chance.below(3) {
            0 => Trouble::RestartRedis(chance.below(2) == 0),
            1 => Trouble::EvictKeys,
            _ => Trouble::FreezeRedis(chance.millis(100..4_000)),
        };
        let trouble = match chance.below(8) {
            0..=2 if !redis_works => of_redis,
            3 => Trouble::Stop,
            4 => Trouble::StopPostgres(chance.millis(500..30_000)),
            5 => Trouble::RestartBroker,
            _ => Trouble::Kill,
        };
        (chance.millis(10..2_500), trouble)
    };
    let count = chance.below(4);
    (0..count).map(one).collect()
}
