//! The changes that were posted and aren't served yet: how old each is, by the clock of the database that it comes from.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};
use tokio::time::Instant;

/// A job that was posted.
struct Posted {
    position: i64,
    /// When its rows were read.
    read: Instant,
    /// How old each change was then whose age counts, in seconds.
    ages: Vec<f64>,
}

/// Every change that waits.
#[derive(Default)]
pub(super) struct Waiting {
    jobs: HashMap<String, Posted>,
    /// How many jobs wait at each position.
    positions: BTreeMap<i64, usize>,
}

impl Waiting {
    pub(super) fn add(&mut self, id: String, position: i64, read: Instant, ages: Vec<f64>) {
        let posted = Posted {
            position,
            read,
            ages,
        };
        if self.jobs.insert(id, posted).is_none() {
            *self.positions.entry(position).or_default() += 1;
        }
    }

    /// Takes a job out that has ended: the ages of its changes by now, in seconds.
    pub(super) fn end(&mut self, id: &str, now: Instant) -> Vec<f64> {
        let Some(posted) = self.jobs.remove(id) else {
            return Vec::new();
        };
        if let Some(count) = self.positions.get_mut(&posted.position) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.positions.remove(&posted.position);
            }
        }
        let since = now.duration_since(posted.read).as_secs_f64();
        posted.ages.iter().map(|age| age + since).collect()
    }

    pub(super) fn ids(&self) -> Vec<&str> {
        self.jobs.keys().map(String::as_str).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// How long the one has waited that was read first.
    pub(super) fn longest(&self, now: Instant) -> Duration {
        let each = self.jobs.values();
        let each = each.map(|posted| now.duration_since(posted.read));
        each.max().unwrap_or_default()
    }

    /// Up to which position everything is served, if everything that isn't posted lies after `floor`.
    pub(super) fn served_to(&self, floor: i64) -> i64 {
        let first = self.positions.first_key_value();
        first.map_or(floor, |(position, _)| floor.min(position.saturating_sub(1)))
    }

    /// Age of the oldest change, in seconds; 0 where none waits.
    pub(super) fn oldest(&self, now: Instant) -> f64 {
        let each = self.jobs.values().map(|posted| {
            // Of others it counts since when they were read.
            let oldest = posted.ages.iter().copied().fold(0.0, f64::max);
            oldest + now.duration_since(posted.read).as_secs_f64()
        });
        each.fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_holds_back_the_position_and_grows_older() {
        let (mut waiting, start) = (Waiting::default(), Instant::now());
        let later = start + Duration::from_secs(5);
        assert_eq!((waiting.served_to(9), waiting.oldest(later)), (9, 0.0));
        waiting.add("a".into(), 4, start, vec![1.0, 2.0]);
        waiting.add("b".into(), 4, start, vec![]);
        waiting.add("b".into(), 4, start, vec![]);
        waiting.add("c".into(), 20, start, vec![0.5]);
        assert_eq!(
            (waiting.served_to(9), waiting.oldest(later), waiting.len()),
            (3, 7.0, 3)
        );
        assert_eq!(waiting.end("a", later), [6.0, 7.0]);
        assert_eq!(waiting.served_to(9), 3);
        assert!(waiting.end("b", later).is_empty() && waiting.end("b", later).is_empty());
        assert_eq!((waiting.served_to(9), waiting.served_to(30)), (9, 19));
        assert_eq!(waiting.oldest(later), 5.5);
        assert_eq!(waiting.longest(later), Duration::from_secs(5));
        waiting.end("c", later);
        assert!(waiting.is_empty());
    }
}
