//! Owns which suspect is next.
//!
//! Pure. Promises that one whose runs were cut short waits for those that have none behind them, so that workers which are killed for
//! other reasons don't make the same innocent pay each time, and that one whose model can't be loaded waits for all others.

use std::collections::VecDeque;

/// What a suspect has behind it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct History {
    /// How often its model couldn't be loaded.
    pub unserved: u32,
    /// Runs that it didn't finish, on any worker; none where that isn't known yet.
    pub runs: Option<u32>,
}

/// Those that wait.
#[derive(Debug)]
pub(super) struct Queue<T>(VecDeque<(History, T)>);

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Queue<T> {
    pub fn push(&mut self, history: History, item: T) {
        self.0.push_back((history, item));
    }

    /// The next one: of those with the least behind them, the one that came first.
    pub fn take(&mut self) -> Option<(History, T)> {
        let next = self.0.iter().enumerate();
        let (next, _) = next.min_by_key(|(_, (history, _))| *history)?;
        self.0.remove(next)
    }

    /// Drops those that aren't to be kept; says how many.
    pub fn retain(&mut self, keep: impl Fn(&T) -> bool) -> usize {
        let before = self.0.len();
        self.0.retain(|(_, item)| keep(item));
        before - self.0.len()
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_with_nothing_behind_them_go_first() {
        let mut queue = Queue::default();
        let known = |unserved, runs| History {
            unserved,
            runs: Some(runs),
        };
        for (history, item) in [
            (known(0, 2), "cut short twice"),
            (known(1, 0), "not served"),
            (known(0, 0), "first"),
            (known(0, 1), "cut short"),
            (known(0, 0), "second"),
            (History::default(), "unknown"),
        ] {
            queue.push(history, item);
        }
        assert_eq!(queue.len(), 6);
        let order: Vec<&str> = std::iter::from_fn(|| queue.take())
            .map(|(_, item)| item)
            .collect();
        assert_eq!(
            order,
            [
                "unknown",
                "first",
                "second",
                "cut short",
                "cut short twice",
                "not served"
            ]
        );
    }

    #[test]
    fn those_that_are_not_kept_are_counted() {
        let mut queue = Queue::default();
        (0..5).for_each(|item| queue.push(History::default(), item));
        assert_eq!(queue.retain(|item| item % 2 == 1), 3);
        assert_eq!(
            (queue.len(), queue.take()),
            (2, Some((History::default(), 1)))
        );
        queue.clear();
        assert_eq!((queue.len(), queue.take()), (0, None));
    }
}
