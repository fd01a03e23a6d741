//! Owns the unconfirmed messages of one channel: the one place where all its confirms are collected.
//!
//! Promises to look at every confirm that completed before one that it reports, which [`Returns`] rests on: a confirm that completes
//! rings before any later one completes, and everything that rang is looked at before anything is decided.

use super::{
    publish_outcome::PublishOutcome,
    returns::{Answer, Returns},
};
use futures_util::task::AtomicWaker;
use std::{
    collections::{HashMap, hash_map::Entry},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Wake, Waker},
};

/// The numbers of the messages whose confirms want to be looked at, in the order in which they said so.
#[derive(Debug, Default)]
struct Rung {
    numbers: Mutex<Vec<u64>>,
    task: AtomicWaker,
}

impl Rung {
    fn push(&self, number: u64) {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.push(number);
    }

    fn take(&self) -> Vec<u64> {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut numbers)
    }
}

/// Rings for one message.
struct Bell {
    number: u64,
    rung: Arc<Rung>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.push(self.number);
        self.rung.task.wake();
    }
}

/// How messages ended, or why their ends will never be known.
pub(super) type Ended<E> = Vec<(u64, Result<PublishOutcome, E>)>;

/// The unconfirmed messages of one channel, each with the future of its confirm.
#[derive(Debug)]
pub(super) struct Confirms<F> {
    open: HashMap<u64, (F, Waker)>,
    rung: Arc<Rung>,
    returns: Returns,
}

impl<F> Default for Confirms<F> {
    fn default() -> Self {
        Self {
            open: HashMap::new(),
            rung: Arc::default(),
            returns: Returns::default(),
        }
    }
}

impl<F, E> Confirms<F>
where
    F: Future<Output = Result<Answer, E>> + Unpin,
    E: Clone,
{
    /// Takes a message's confirm, whose number is higher than all before. Such futures are first polled in the order of their numbers.
    pub(super) fn add(&mut self, number: u64, confirm: F) {
        let rung = self.rung.clone();
        let bell = Waker::from(Arc::new(Bell { number, rung }));
        self.open.insert(number, (confirm, bell));
        self.returns.published(number);
        self.rung.push(number);
    }

    /// The messages that have ended since. A confirm that fails means that the channel is gone: no outcome is waited for then that
    /// isn't certain.
    pub(super) fn poll_ended(&mut self, context: &Context<'_>) -> Poll<Ended<E>> {
        self.rung.task.register(context.waker());
        let mut answers = Vec::new();
        let mut ended = Vec::new();
        let mut failure = None;
        loop {
            let rung = self.rung.take();
            if rung.is_empty() {
                break;
            }
            for number in rung {
                let Entry::Occupied(mut open) = self.open.entry(number) else {
                    continue;
                };
                let (confirm, bell) = open.get_mut();
                match Pin::new(confirm).poll(&mut Context::from_waker(bell)) {
                    Poll::Pending => continue,
                    Poll::Ready(Ok(answer)) => answers.push((number, answer)),
                    Poll::Ready(Err(error)) => {
                        failure.get_or_insert_with(|| error.clone());
                        ended.push((number, Err(error)));
                    }
                }
                open.remove();
            }
        }
        let certain = self.returns.answered(&answers);
        ended.extend(certain.into_iter().map(|(number, how)| (number, Ok(how))));
        if let Some(error) = failure {
            let uncertain = self.returns.give_up();
            ended.extend(uncertain.map(|number| (number, Err(error.clone()))));
        }
        if ended.is_empty() {
            Poll::Pending
        } else {
            Poll::Ready(ended)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use tokio::sync::oneshot;

    type Made = Confirms<futures_util::future::BoxFuture<'static, Result<Answer, String>>>;

    fn add(confirms: &mut Made, number: u64) -> oneshot::Sender<Result<Answer, String>> {
        let (sender, receiver) = oneshot::channel();
        confirms.add(number, async { receiver.await.expect("an answer") }.boxed());
        sender
    }

    fn look(confirms: &mut Made) -> Ended<String> {
        let context = Context::from_waker(Waker::noop());
        match confirms.poll_ended(&context) {
            Poll::Ready(mut ended) => {
                ended.sort_by_key(|(number, _)| *number);
                ended
            }
            Poll::Pending => Vec::new(),
        }
    }

    #[test]
    fn what_completed_earlier_is_looked_at_first() {
        let mut confirms = Made::default();
        let senders: Vec<_> = (1..=3).map(|n| add(&mut confirms, n)).collect();
        assert!(look(&mut confirms).is_empty());
        let [first, second, third] = <[_; 3]>::try_from(senders).expect("three");
        let answer = |carried| {
            Ok(Answer {
                taken: true,
                carried,
            })
        };
        // The third one's return is handed to the second, which completes first; nobody looks before both are there.
        second.send(answer(Some(3))).expect("it waits");
        third.send(answer(None)).expect("it waits");
        assert_eq!(
            look(&mut confirms),
            [
                (2, Ok(PublishOutcome::Confirmed)),
                (3, Ok(PublishOutcome::Unroutable))
            ]
        );
        first.send(answer(None)).expect("it waits");
        assert_eq!(
            look(&mut confirms),
            [(1, Ok(PublishOutcome::Confirmed))],
            "a slow one holds nobody up, and ends as well"
        );
    }

    #[test]
    fn what_is_uncertain_when_the_channel_goes_is_lost() {
        let mut confirms = Made::default();
        let (first, second) = (add(&mut confirms, 1), add(&mut confirms, 2));
        let carries_the_first = Answer {
            taken: true,
            carried: Some(1),
        };
        second.send(Ok(carries_the_first)).expect("it waits");
        assert!(look(&mut confirms).is_empty(), "its own may follow");
        first.send(Err("gone".to_owned())).expect("it waits");
        let gone = || Err("gone".to_owned());
        assert_eq!(look(&mut confirms), [(1, gone()), (2, gone())]);
    }
}
