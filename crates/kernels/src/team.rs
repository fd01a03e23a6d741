//! The threads that share one forward pass.

use rayon::{ThreadPool, ThreadPoolBuilder, prelude::*};

/// A pool of threads for kernels. A pass holds all of them.
pub struct Team {
    pool: ThreadPool,
    threads: usize,
}

impl Team {
    /// Starts the threads; `name` tells them from others of the process.
    pub fn start(name: &'static str, threads: usize) -> std::io::Result<Self> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(move |i| format!("{name}-{i}"))
            .build()
            .map_err(std::io::Error::other)?;
        Ok(Self { pool, threads })
    }

    /// How many threads there are.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `work` on one of the threads, from where it may share itself out.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
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
