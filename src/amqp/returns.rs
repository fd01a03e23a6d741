//! Owns which message was returned: lapin hands a returned message to whichever confirm completes next, not to its own.
//!
//! Promises that no message counts as taken while its own return may still be handed out. It rests on two facts. RabbitMQ returns a
//! message before it confirms it, and returns messages in the order in which they were published. And lapin queues what is returned
//! and gives each confirm that completes the first of that queue: so as many are handed out as messages have completed, and whoever
//! is given none knows that the queue was empty. Pure.

use super::publish_outcome::PublishOutcome;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// What lapin said of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    /// Whether the broker acknowledged it.
    pub taken: bool,
    /// The number of the returned message that its confirm carried: some message's, seldom its own.
    pub carried: Option<u64>,
}

/// The messages of one channel, numbered in the order of publishing.
#[derive(Debug, Default)]
pub(super) struct Returns {
    /// Published, and not confirmed yet.
    open: BTreeSet<u64>,
    /// Handed out as returned, and not confirmed yet.
    returned: HashSet<u64>,
    /// The last one of those that were handed out.
    last_returned: u64,
    /// Confirmed with another's return, while their own may still wait in lapin's queue; whether the broker acknowledged them.
    undecided: BTreeMap<u64, bool>,
}

impl Returns {
    /// Notes a message that is being published.
    pub(super) fn published(&mut self, number: u64) {
        self.open.insert(number);
    }

    /// Takes the answers that were seen together, and gives the messages whose outcome is certain now. The caller promises that it
    /// has seen every confirm that completed before one of these.
    pub(super) fn answered(&mut self, answers: &[(u64, Answer)]) -> Vec<(u64, PublishOutcome)> {
        for (number, answer) in answers {
            self.open.remove(number);
            if let Some(returned) = answer.carried {
                self.returned.insert(returned);
                self.last_returned = self.last_returned.max(returned);
            }
        }
        let mut certain = Vec::with_capacity(answers.len());
        // These completed before any of the new answers: where one of the new ones found the queue empty, it holds none of theirs.
        let was_empty = answers.iter().any(|(_, answer)| answer.carried.is_none());
        for (number, taken) in std::mem::take(&mut self.undecided) {
            self.decide(number, taken, was_empty, &mut certain);
        }
        for (number, answer) in answers {
            self.decide(
                *number,
                answer.taken,
                answer.carried.is_none(),
                &mut certain,
            );
        }
        certain
    }

    /// The messages whose outcome will never be certain: their channel is gone.
    pub(super) fn give_up(&mut self) -> impl Iterator<Item = u64> + use<> {
        std::mem::take(&mut self.undecided).into_keys()
    }

    fn decide(
        &mut self,
        number: u64,
        taken: bool,
        was_empty: bool,
        certain: &mut Vec<(u64, PublishOutcome)>,
    ) {
        let none_before = || self.open.first().is_none_or(|first| *first > number);
        let outcome = if self.returned.remove(&number) {
            PublishOutcome::Unroutable
        } else if was_empty || self.last_returned > number || none_before() {
            if taken {
                PublishOutcome::Confirmed
            } else {
                PublishOutcome::Refused
            }
        } else {
            self.undecided.insert(number, taken);
            return;
        };
        certain.push((number, outcome));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    const fn answer(carried: Option<u64>) -> Answer {
        Answer {
            taken: true,
            carried,
        }
    }

    fn published(count: u64) -> Returns {
        let mut returns = Returns::default();
        (1..=count).for_each(|number| returns.published(number));
        returns
    }

    #[test]
    fn a_return_is_its_own_messages_whichever_confirm_carries_it() {
        use PublishOutcome::{Confirmed, Refused, Unroutable};
        // The second is returned, and the first is confirmed with it.
        let mut returns = published(2);
        assert_eq!(
            returns.answered(&[(1, answer(Some(2)))]),
            [(1, Confirmed)],
            "its own would have come first"
        );
        assert_eq!(returns.answered(&[(2, answer(None))]), [(2, Unroutable)]);
        // Both are returned, and a confirm of both takes them in the order of a hash map.
        let mut returns = published(2);
        let both = [(2, answer(Some(1))), (1, answer(Some(2)))];
        assert_eq!(returns.answered(&both), [(2, Unroutable), (1, Unroutable)]);
        let nack = Answer {
            taken: false,
            carried: None,
        };
        assert_eq!(published(1).answered(&[(1, nack)]), [(1, Refused)]);
    }

    #[test]
    fn a_message_that_carries_an_earlier_ones_return_waits_for_its_own() {
        use PublishOutcome::{Confirmed, Unroutable};
        // Whether the second is returned as well shows only with the first one's confirm.
        let mut returns = published(3);
        assert_eq!(returns.answered(&[(2, answer(Some(1)))]), []);
        assert_eq!(
            returns.answered(&[(1, answer(Some(2)))]),
            [(2, Unroutable), (1, Unroutable)]
        );
        let mut returns = published(3);
        assert_eq!(returns.answered(&[(2, answer(Some(1)))]), []);
        assert_eq!(
            returns.answered(&[(1, answer(None))]),
            [(2, Confirmed), (1, Unroutable)]
        );
        let mut returns = published(3);
        assert_eq!(returns.answered(&[(2, answer(Some(1)))]), []);
        assert_eq!(returns.give_up().collect::<Vec<_>>(), [2]);
    }

    /// lapin and RabbitMQ: confirms that complete in any order, each with the first of the returned messages that wait.
    struct Client {
        waiting: VecDeque<u64>,
        completed: Vec<(u64, Answer)>,
    }

    proptest! {
        /// Whatever the order of returns, confirms and looks at them, each message gets its own outcome, once, and before the last
        /// confirm at the latest.
        #[test]
        fn every_message_gets_its_own_outcome(
            routable in prop::collection::vec(any::<bool>(), 1..40),
            taken in prop::collection::vec(any::<bool>(), 40),
            choices in prop::collection::vec((0usize..64, 0usize..64, 0u8..3), 200),
        ) {
            let count = routable.len() as u64;
            let fate = |number: u64| (routable[number as usize - 1], taken[number as usize - 1]);
            let mut returns = Returns::default();
            let mut client = Client { waiting: VecDeque::new(), completed: Vec::new() };
            let (mut sent, mut open, mut seen) = (0, Vec::new(), Vec::new());
            let mut unreturned: VecDeque<u64> = VecDeque::new();
            let mut choices = choices.into_iter().cycle();
            while sent < count || !open.is_empty() || !client.completed.is_empty() {
                let (what, which, look) = choices.next().expect("it cycles");
                if what % 3 == 0 && sent < count {
                    sent += 1;
                    returns.published(sent);
                    open.push(sent);
                    if !fate(sent).0 {
                        unreturned.push_back(sent);
                    }
                } else if what % 3 == 1 {
                    // Returned in the order of publishing.
                    client.waiting.extend(unreturned.pop_front());
                } else if !open.is_empty() {
                    let number = open[which % open.len()];
                    // Returned before it is confirmed.
                    if !unreturned.contains(&number) {
                        open.retain(|other| *other != number);
                        let carried = client.waiting.pop_front();
                        let taken = !fate(number).0 || fate(number).1;
                        client.completed.push((number, Answer { taken, carried }));
                    }
                }
                if look == 0 || (sent == count && open.is_empty()) {
                    let mut answers = std::mem::take(&mut client.completed);
                    if which % 2 == 0 {
                        answers.reverse();
                    }
                    seen.extend(returns.answered(&answers));
                }
            }
            prop_assert!(client.waiting.is_empty());
            seen.sort_by_key(|(number, _)| *number);
            let expected: Vec<(u64, PublishOutcome)> = (1..=count).map(|number| {
                let outcome = match fate(number) {
                    (false, _) => PublishOutcome::Unroutable,
                    (true, true) => PublishOutcome::Confirmed,
                    (true, false) => PublishOutcome::Refused,
                };
                (number, outcome)
            }).collect();
            prop_assert_eq!(seen, expected);
        }
    }
}
