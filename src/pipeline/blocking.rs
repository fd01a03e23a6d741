//! Owns running what takes long where it doesn't hold up other tasks of the runtime.

use tokio::runtime::{Handle, RuntimeFlavor};

/// What reads or writes more bytes than this is long: a millisecond or so.
const BLOCKING_BYTES: usize = 1 << 18;

/// Runs what reads or writes about so many bytes of JSON.
pub(super) fn blocking<T>(bytes: usize, run: impl FnOnce() -> T) -> T {
    if bytes > BLOCKING_BYTES && may_block() {
        tokio::task::block_in_place(run)
    } else {
        run()
    }
}

/// A runtime of one thread has no other tasks to hold up but its own, and refuses.
fn may_block() -> bool {
    Handle::try_current()
        .is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread)
}
