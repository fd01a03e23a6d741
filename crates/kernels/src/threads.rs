//! The threads that share one forward pass.

use rayon::{ThreadPoolBuilder, prelude::*};
use std::cell::Cell;

thread_local! {
    static STAYS: Cell<bool> = const { Cell::new(false) };
}

/// Has passes that the calling thread asks for run on it alone from now on, and on no pool: their priority is its own then.
pub fn stay_here() {
    STAYS.set(true);
}

/// A pool of threads that share a pass. Passes that are asked for at the same time share the pool.
#[derive(Debug)]
pub struct ThreadPool {
    pool: rayon::ThreadPool,
}

impl ThreadPool {
    /// Starts the threads, called `name-0` and so on; 0 starts as many as the machine grants this process. Each calls `begin` first.
    ///
    /// # Errors
    /// If a thread can't be started.
    pub fn start(name: &'static str, threads: usize, begin: fn()) -> std::io::Result<Self> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(move |i| format!("{name}-{i}"))
            .start_handler(move |_| begin())
            .build()
            .map_err(std::io::Error::other)?;
        Ok(Self { pool })
    }

    /// How many threads there are.
    pub fn count(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs `work` on one of the threads, from where it may use the others; or here, where the calling thread [stays](stay_here).
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        if STAYS.get() {
            return work();
        }
        self.pool.install(work)
    }
}

/// Whether a step is shared between threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// This thread does it all: others have work of their own.
    Alone,
    /// The pool's threads take pieces.
    Shared,
}

impl Sharing {
    /// Calls `work` with each piece of `size` elements and its number.
    pub fn each_piece<T: Send>(
        self,
        all: &mut [T],
        size: usize,
        work: impl Fn(usize, &mut [T]) + Sync + Send,
    ) {
        let size = size.max(1);
        match self {
            Sharing::Alone => all
                .chunks_mut(size)
                .enumerate()
                .for_each(|(i, piece)| work(i, piece)),
            Sharing::Shared => all
                .par_chunks_mut(size)
                .enumerate()
                .for_each(|(i, piece)| work(i, piece)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn a_thread_that_stays_runs_its_passes_itself() {
        let pool = ThreadPool::start("kiln-test", 1, || ()).unwrap();
        let here = || thread::current().id();
        assert_ne!(pool.run(here), here());
        let named = thread::Builder::new().name("stays".to_owned());
        let stayed = named.spawn(move || {
            stay_here();
            (pool.run(here), here())
        });
        let (ran, own) = stayed.unwrap().join().unwrap();
        assert_eq!(ran, own);
    }
}
