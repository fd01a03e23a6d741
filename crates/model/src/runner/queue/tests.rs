//! The queue with its threads, under a network that misbehaves for some numbers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use super::*;
use crate::fixtures::wait;
use crate::network::Batch;
use crate::runner::Runner;
use crate::tokens::Tokens;

/// Answers each feature with itself plus one; misbehaves for some numbers.
#[derive(Default)]
struct Odd {
    passes: AtomicUsize,
    threads_seen: Mutex<Vec<usize>>,
    gate: Option<Gate>,
}

/// Holds a pass until the test lets it go.
struct Gate {
    entered: mpsc::Sender<()>,
    leave: Mutex<mpsc::Receiver<()>>,
}

impl Network for Odd {
    fn forward(&self, batch: Batch<'_>) -> Vec<f32> {
        self.passes.fetch_add(1, Ordering::SeqCst);
        self.threads_seen
            .lock()
            .unwrap()
            .push(rayon::current_num_threads());
        let Batch::Features(data) = batch else {
            panic!("features")
        };
        if let Some(gate) = &self.gate {
            gate.entered.send(()).unwrap();
            let _ = gate.leave.lock().unwrap().recv();
        }
        assert!(!data.contains(&-1.0), "minus one");
        if data.contains(&-2.0) {
            std::panic::panic_any(7);
        }
        data.iter()
            .map(|&x| {
                if x == -3.0 {
                    f32::NEG_INFINITY
                } else {
                    x + 1.0
                }
            })
            .collect()
    }

    fn smallest_share(&self) -> usize {
        1
    }
}

fn start(threads: usize, batch_rows: usize, queued_rows: usize) -> std::io::Result<Runner> {
    let limits = Limits {
        batch_rows,
        batch_tokens: 100,
        queued_rows,
    };
    Runner::start(threads, limits)
}

fn rows(data: Vec<f32>) -> Inputs {
    Inputs::Features { width: 1, data }
}

fn odd() -> (Arc<Odd>, Arc<dyn Network>) {
    let odd = Arc::new(Odd::default());
    (Arc::clone(&odd), odd)
}

fn gated() -> (
    Arc<Odd>,
    Arc<dyn Network>,
    mpsc::Receiver<()>,
    mpsc::Sender<()>,
) {
    let (entered, was_entered) = mpsc::channel();
    let (leave, left) = mpsc::channel();
    let odd = Arc::new(Odd {
        gate: Some(Gate {
            entered,
            leave: Mutex::new(left),
        }),
        ..Odd::default()
    });
    (Arc::clone(&odd), odd, was_entered, leave)
}

/// Polls once, with a waker that nobody listens to.
fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
}

#[test]
fn results_come_back_in_order() {
    for (threads, max_rows) in [(1, 1000), (3, 7), (4, 1000), (2, 1)] {
        let runner = start(threads, max_rows, 2000).unwrap();
        let (_, network) = odd();
        for count in [0, 1, 2, 6, 7, 8, 100] {
            let data: Vec<f32> = (0..count).map(|x| x as f32).collect();
            let scored = wait(runner.queue().score(&network, rows(data.clone()), None)).unwrap();
            let expected: Vec<f32> = data.iter().map(|x| x + 1.0).collect();
            assert_eq!(scored.outputs, expected);
            assert_eq!(
                scored.calls.iter().map(|call| call.rows).sum::<usize>(),
                count
            );
            assert!(scored.calls.iter().all(|call| call.rows <= max_rows));
        }
    }
}

#[test]
fn a_panic_costs_its_request_only() {
    let runner = start(1, 100, 100).unwrap();
    let (_, network) = odd();
    let score = |data| wait(runner.queue().score(&network, rows(data), None));
    for (bad, message) in [(-1.0, "minus one"), (-2.0, "no message")] {
        let message = message.to_owned();
        assert_eq!(score(vec![1.0, bad]), Err(ModelError::Panicked { message }));
        assert_eq!(score(vec![1.0]).unwrap().outputs, [2.0]);
    }
}

#[test]
fn an_infinity_is_reported_with_its_row() {
    let runner = start(2, 3, 100).unwrap();
    let (_, network) = odd();
    let mut data = vec![0.0; 20];
    data[13] = -3.0;
    let result = wait(runner.queue().score(&network, rows(data), None));
    assert_eq!(result, Err(ModelError::NotFinite { row: 13 }));
}

#[test]
fn kernels_stay_on_their_thread() {
    let runner = start(2, 10, 100).unwrap();
    let (odd, network) = odd();
    wait(runner.queue().score(&network, rows(vec![0.0; 100]), None)).unwrap();
    assert!(odd.threads_seen.lock().unwrap().iter().all(|&n| n == 1));
}

#[test]
fn abandoned_work_is_skipped() {
    let runner = start(1, 10, 100).unwrap();
    let (holding, network, entered, leave) = gated();
    let mut held = Box::pin(runner.queue().score(&network, rows(vec![1.0]), None));
    assert!(poll_once(held.as_mut()).is_pending());
    entered.recv().unwrap();
    let (skipped, other) = odd();
    {
        let mut second = Box::pin(runner.queue().score(&other, rows(vec![1.0; 30]), None));
        assert!(poll_once(second.as_mut()).is_pending());
    }
    leave.send(()).unwrap();
    assert_eq!(wait(held).unwrap().outputs, [2.0]);
    // Whatever was queued before this has had its turn when it answers.
    let (_, last) = odd();
    wait(runner.queue().score(&last, rows(vec![1.0]), None)).unwrap();
    assert_eq!(skipped.passes.load(Ordering::SeqCst), 0);
    assert_eq!(holding.passes.load(Ordering::SeqCst), 1);
    assert_eq!(runner.queue().capacity.available_permits(), 100);
}

#[test]
fn the_queue_is_bounded() {
    let runner = start(1, 4, 8).unwrap();
    let (_, network, entered, leave) = gated();
    let mut long = Box::pin(runner.queue().score(&network, rows(vec![1.0; 20]), None));
    assert!(poll_once(long.as_mut()).is_pending());
    entered.recv().unwrap();
    assert_eq!(runner.queue().capacity.available_permits(), 0);
    assert_eq!(runner.queue().lock().of(Length::Long).0.len(), 1);
    drop(leave);
    assert_eq!(wait(long).unwrap().outputs, [2.0; 20]);
}

#[test]
fn stopping_answers_everybody_and_joins() {
    let runner = start(1, 4, 8).unwrap();
    let queue = Arc::clone(runner.queue());
    let (_, network, entered, leave) = gated();
    let mut running = Box::pin(queue.score(&network, rows(vec![1.0]), None));
    assert!(poll_once(running.as_mut()).is_pending());
    entered.recv().unwrap();
    let mut waiting = Box::pin(queue.score(&network, rows(vec![2.0; 4]), None));
    assert!(poll_once(waiting.as_mut()).is_pending());
    let mut without_permit = Box::pin(queue.score(&network, rows(vec![2.0; 4]), None));
    assert!(poll_once(without_permit.as_mut()).is_pending());
    drop(leave);
    drop(runner);
    let running = wait(running).map(|scored| scored.outputs);
    assert_eq!(running, Ok(vec![2.0]));
    // The thread may have taken it before it saw that it should stop.
    let waiting = wait(waiting).map(|scored| scored.outputs);
    assert!(waiting == Err(ModelError::Stopped) || waiting == Ok(vec![3.0; 4]));
    assert_eq!(wait(without_permit), Err(ModelError::Stopped));
    assert_eq!(
        wait(queue.score(&network, rows(vec![1.0]), None)),
        Err(ModelError::Stopped)
    );
    assert_eq!(
        queue.score_blocking(&network, rows(vec![1.0])),
        Err(ModelError::Stopped)
    );
}

fn tokens(lengths: &[usize]) -> Inputs {
    let mut tokens = Tokens::default();
    for &length in lengths {
        tokens.push(&vec![1; length], &vec![0; length]);
    }
    Inputs::Tokens(tokens)
}

fn work(inputs: Inputs, waited: Duration) -> Work {
    let (sender, _) = mpsc::sync_channel(1);
    Work {
        network: odd().1,
        range: 0..inputs.len(),
        inputs: Arc::new(inputs),
        since: Instant::now().checked_sub(waited).unwrap(),
        reply: Reply::Blocking(sender),
        permit: None,
    }
}

#[test]
fn short_texts_overtake_long_ones_but_not_for_ever() {
    let mut waiting = Waiting::default();
    for lengths in [&[500, 20][..], &[30], &[7, 8], &[15]] {
        waiting.0.push_back(work(tokens(lengths), Duration::ZERO));
    }
    let order: Vec<usize> =
        std::iter::from_fn(|| waiting.take().map(|work| work.tokens())).collect();
    assert_eq!(order, [15, 15, 30, 520]);
    waiting.0.push_back(work(tokens(&[500]), MAX_OVERTAKEN));
    waiting.0.push_back(work(tokens(&[3]), Duration::ZERO));
    assert_eq!(waiting.take().map(|work| work.tokens()), Some(500));
    waiting.0.push_front(work(rows(vec![1.0]), Duration::ZERO));
    assert_eq!(
        waiting.take().map(|work| work.tokens()),
        Some(0),
        "features keep their order"
    );
}

#[test]
fn a_short_pass_does_not_wait_for_long_ones() {
    let runner = start(1, 4, 100).unwrap();
    let (_, slow, entered, leave) = gated();
    let mut long = Box::pin(runner.queue().score(&slow, rows(vec![1.0]), Some(1.0)));
    assert!(poll_once(long.as_mut()).is_pending());
    entered.recv().unwrap();
    let (_, quick) = odd();
    let scored = runner.queue().score(&quick, rows(vec![1.0]), Some(1e-4));
    assert_eq!(wait(scored).unwrap().outputs, [2.0]);
    assert!(poll_once(long.as_mut()).is_pending());
    drop(leave);
    assert_eq!(wait(long).unwrap().outputs, [2.0]);
}

#[test]
fn passes_keep_to_the_token_budget() {
    let runner = start(2, 4, 100).unwrap();
    let passes = |lengths: &[usize]| runner.queue().passes(&tokens(lengths), usize::MAX);
    assert_eq!(passes(&[40, 40, 40, 10]), [0..2, 2..4]);
    assert_eq!(
        passes(&[300, 1, 99, 1]),
        [0..1, 1..3, 3..4],
        "a long text is a pass by itself"
    );
    assert_eq!(
        passes(&[1; 9]),
        [0..4, 4..8, 8..9],
        "nor more rows than the settings allow"
    );
    assert!(passes(&[]).is_empty());
}

#[test]
fn what_nobody_waits_for_has_a_thread_of_its_own_and_takes_no_room() {
    let runner = start(2, 8, 8).unwrap();
    let queue = runner.queue();
    let (slow, network, entered, leave) = gated();
    let mut unawaited = Box::pin(queue.score_unawaited(&network, rows(vec![1.0; 100])));
    assert!(poll_once(unawaited.as_mut()).is_pending());
    entered.recv().unwrap();
    assert_eq!(queue.capacity.available_permits(), 8);
    let (_, quick) = odd();
    let scored = wait(queue.score(&quick, rows(vec![5.0; 8]), None));
    assert_eq!(scored.unwrap().outputs, [6.0; 8]);
    leave.send(()).unwrap();
    let scored = wait(unawaited).unwrap();
    assert_eq!((scored.outputs.len(), scored.calls.len()), (100, 1));
    assert_eq!(*slow.threads_seen.lock().unwrap(), [1]);
    let failed = wait(queue.score_unawaited(&quick, rows(vec![-1.0])));
    assert!(matches!(failed, Err(ModelError::Panicked { .. })));
}
