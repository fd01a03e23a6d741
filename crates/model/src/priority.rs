//! Lowers the priority of threads that run for long: what answers at once comes first where there are fewer processors than work.
//!
//! Refuses to fail: where the system doesn't allow it, all threads are alike.

/// How far such threads stand back, as `nice` counts.
const LONG: i32 = 10;
/// The same of a thread whose work nobody waits for: as far as there is.
const LAST: i32 = 19;

/// Lowers the priority of the calling thread.
pub(crate) fn stand_back() {
    set(LONG);
}

/// Lowers it below that of all others.
pub(crate) fn stand_last() {
    set(LAST);
}

#[cfg(target_os = "linux")]
fn set(niceness: i32) {
    // On Linux no process at all means the calling thread alone.
    let _as_it_is = rustix::process::setpriority_process(None, niceness);
}

/// Elsewhere it would be that of the whole process.
#[cfg(not(target_os = "linux"))]
fn set(_niceness: i32) {}
