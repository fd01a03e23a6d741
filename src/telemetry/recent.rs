//! Owns what happened last: a bounded list, the newest first.

use chrono::{DateTime, Utc};
use kiln_contract::failure::Rejection;
use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

/// How many are kept.
const KEPT: usize = 50;

/// A job that was rejected.
#[derive(Debug, Clone)]
pub struct Rejected {
    pub at: DateTime<Utc>,
    pub job_id: String,
    pub queue: &'static str,
    pub rejection: Rejection,
}

/// The last few of something.
#[derive(Debug)]
pub struct Recent<T>(Mutex<VecDeque<T>>);

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Recent<T> {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self(Mutex::new(VecDeque::new()))
    }

    /// Adds one; the oldest makes room.
    pub fn push(&self, one: T) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.truncate(KEPT - 1);
        list.push_front(one);
    }
}

impl<T: Clone> Recent<T> {
    /// All that are kept, the newest first.
    pub fn list(&self) -> Vec<T> {
        let list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_come_first_and_the_oldest_go() {
        let recent = Recent::new();
        (0..1_000).for_each(|n| recent.push(n));
        let list = recent.list();
        assert_eq!((list.len(), list[0], list[49]), (50, 999, 950));
    }
}
