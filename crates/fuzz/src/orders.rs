//! Runs tasks in every order that their steps can have: for code of which several tasks share something.
//!
//! A step goes from one `await` that waits to the next. Tasks run on one thread, so that what a lock guards is one step, as it is for everybody
//! who takes the lock. Promises that each order is run once, the same ones everywhere, and that a task which nobody wakes is told. Refuses to look
//! inside a step: what atomics without a lock may do to each other is not seen.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

/// One of the tasks whose orders are tried.
pub type Task<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Tasks that tasks begin. A clone takes the same ones.
#[derive(Clone, Default)]
pub struct Begun(Rc<RefCell<Vec<Task<'static>>>>);

impl Begun {
    /// Has a task run beside the others from the next step on.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.0.borrow_mut().push(Box::pin(task));
    }
}

/// The choices of one run: which task goes on, and whatever else the test leaves open.
#[derive(Debug, Default)]
pub struct Orders {
    /// What was picked, and of how many.
    path: Vec<(usize, usize)>,
    at: usize,
}

/// Runs a test once for each sequence of choices that it can have; gives how many there are. Fails where there are more than `max`.
pub fn every_order(max: usize, test: impl Fn(&mut Orders)) -> usize {
    let mut orders = Orders::default();
    for run in 1.. {
        assert!(run <= max, "more than {max} orders");
        orders.at = 0;
        test(&mut orders);
        orders.path.truncate(orders.at);
        if !orders.advance() {
            return run;
        }
    }
    unreachable!("it returns with the last order")
}

impl Orders {
    /// One of so many, each of them in some run.
    pub fn pick(&mut self, of: usize) -> usize {
        if self.at == self.path.len() {
            self.path.push((0, of));
        }
        let (picked, known) = self.path[self.at];
        assert_eq!(known, of, "the test chooses by itself");
        self.at += 1;
        picked
    }

    /// Runs tasks until each has ended or nobody wakes it, a step of one after a step of another; `dropped` is the number of one that may be
    /// dropped on its way. Gives how many wait for ever.
    pub fn run(&mut self, tasks: Vec<Task<'_>>, dropped: Option<usize>) -> usize {
        self.run_begun(tasks, &Begun::default(), dropped)
    }

    /// The same with those that they begin, which are numbered on as they come.
    pub fn run_begun<'a>(
        &mut self,
        tasks: Vec<Task<'a>>,
        begun: &Begun,
        mut dropped: Option<usize>,
    ) -> usize {
        let awake = |task: Task<'a>| Some((task, Arc::new(Woken(AtomicBool::new(true)))));
        let mut tasks: Vec<_> = tasks.into_iter().map(awake).collect();
        loop {
            tasks.extend(begun.0.take().into_iter().map(awake));
            let is_ready = |number: &usize| {
                let task: &Option<(Task<'a>, Arc<Woken>)> = &tasks[*number];
                task.as_ref()
                    .is_some_and(|(_, woken)| woken.0.load(Ordering::Relaxed))
            };
            let ready: Vec<usize> = (0..tasks.len()).filter(is_ready).collect();
            if ready.is_empty() {
                return tasks.iter().flatten().count();
            }
            let lives = |number: &usize| tasks.get(*number).is_some_and(Option::is_some);
            let droppable = dropped.filter(lives);
            let picked = self.pick(ready.len() + usize::from(droppable.is_some()));
            let Some(number) = ready.get(picked).copied() else {
                tasks[dropped.take().expect("it was counted")] = None;
                continue;
            };
            let (task, woken) = tasks[number].as_mut().expect("it is ready");
            woken.0.store(false, Ordering::Relaxed);
            let waker = Waker::from(woken.clone());
            let polled = task.as_mut().poll(&mut Context::from_waker(&waker));
            if polled.is_ready() {
                tasks[number] = None;
            }
        }
    }
}

impl Orders {
    /// The next sequence: the last choice that has an alternative takes it.
    fn advance(&mut self) -> bool {
        while let Some((picked, of)) = self.path.pop() {
            if picked + 1 < of {
                self.path.push((picked + 1, of));
                return true;
            }
        }
        false
    }
}

/// Whether a task was woken since its last step.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Lets others go on in between.
pub async fn step() {
    let mut is_over = false;
    std::future::poll_fn(move |context| {
        if std::mem::replace(&mut is_over, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::RefCell, collections::BTreeSet};

    #[test]
    fn each_order_of_steps_is_run_once() {
        let seen = RefCell::new(BTreeSet::new());
        let runs = every_order(1_000, |orders| {
            let said = RefCell::new(String::new());
            let task = |name: char| -> Task<'_> {
                let said = &said;
                Box::pin(async move {
                    said.borrow_mut().push(name);
                    step().await;
                    said.borrow_mut().push(name);
                })
            };
            assert_eq!(orders.run(vec![task('a'), task('b')], None), 0);
            assert!(seen.borrow_mut().insert(said.take()), "once each");
        });
        // Two of each, in any order.
        assert_eq!(runs, 6);
    }

    #[test]
    fn what_a_task_begins_runs_beside_it_and_may_be_dropped() {
        let ends = RefCell::new(BTreeSet::new());
        let runs = every_order(100, |orders| {
            let (begun, said) = (Begun::default(), Rc::new(RefCell::new(String::new())));
            let (begins, says, hears) = (begun.clone(), said.clone(), said.clone());
            let first: Task<'_> = Box::pin(async move {
                begins.spawn(async move { hears.borrow_mut().push('b') });
                step().await;
                says.borrow_mut().push('a');
            });
            assert_eq!(orders.run_begun(vec![first], &begun, Some(1)), 0);
            ends.borrow_mut().insert(said.take());
        });
        // The one that began ends before the other one, behind it, or where that is dropped: before or afterwards.
        assert_eq!(runs, 4);
        let all = ["a", "ab", "ba"].map(str::to_owned);
        assert_eq!(ends.take(), BTreeSet::from(all));
    }

    #[test]
    fn who_waits_for_ever_and_who_is_dropped_is_told() {
        let ends = RefCell::new(BTreeSet::new());
        every_order(100, |orders| {
            let never: Task<'_> = Box::pin(std::future::pending());
            let stuck = orders.run(vec![never, Box::pin(step())], Some(0));
            ends.borrow_mut().insert(stuck);
        });
        assert_eq!(ends.take(), BTreeSet::from([0, 1]));
    }

    #[test]
    #[should_panic(expected = "more than 5 orders")]
    fn more_orders_than_are_wanted_fail() {
        every_order(5, |orders| {
            orders.pick(3);
            orders.pick(3);
        });
    }
}
