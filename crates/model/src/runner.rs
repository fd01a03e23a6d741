//! The model threads: two sets for all models, one for passes that are over in a moment and one for those that aren't, a bounded
//! queue before them; and one thread for passes that nobody waits for.
//!
//! Promises that rows come back in order, that a panic or a number that is not finite costs its request and nothing
//! else, that work whose caller has gone is skipped, and that dropping the runner joins its threads. Each thread
//! keeps its arithmetic to itself: the threads are the only parallelism.

mod pass;
mod queue;

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crate::priority;
pub(crate) use pass::panic_message;
use queue::spin_until;
pub(crate) use queue::{Length, Limits, Queue};

/// The threads. Dropping it lets each finish the pass it is in, then joins it.
pub(crate) struct Runner {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

impl Runner {
    pub fn start(threads: usize, limits: Limits) -> std::io::Result<Self> {
        let queue = Arc::new(Queue::new(threads, limits));
        let mut runner = Self {
            queue,
            threads: Vec::with_capacity(threads),
        };
        for (length, name, threads) in [
            (Length::Short, "kiln-model", threads),
            (Length::Long, "kiln-long", threads),
            (Length::Unawaited, "kiln-shadow", 1),
        ] {
            for i in 0..threads {
                let queue = Arc::clone(&runner.queue);
                let thread = thread::Builder::new()
                    .name(format!("{name}-{i}"))
                    .spawn(move || serve(&queue, length))?;
                runner.threads.push(thread);
            }
        }
        Ok(runner)
    }

    /// Where models put their work.
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.queue.stop();
        for thread in self.threads.drain(..) {
            // A model thread catches what it runs; nothing is left to report here.
            let _ = thread.join();
        }
        self.queue.clear();
    }
}

/// A model thread's life.
fn serve(queue: &Queue, length: Length) {
    match length {
        Length::Short => {}
        Length::Long => priority::stand_back(),
        Length::Unawaited => {
            priority::stand_last();
            kiln_kernels::stay_here();
        }
    }
    let _alone = compute_alone();
    while let Some(work) = queue.next(length) {
        let pushed = queue.pushed();
        if !work.is_abandoned() {
            work.run();
            if length == Length::Short {
                spin_until(|| queue.pushed() != pushed);
            }
        }
    }
}

/// Makes this thread a pool of one for the kernels that would otherwise spread over rayon's global pool: with every
/// model thread busy that only adds hand-overs. Without it results are the same, so that a refusal is no error.
fn compute_alone() -> Option<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .use_current_thread()
        .build()
        .ok()
}
