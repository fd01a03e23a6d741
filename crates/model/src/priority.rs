//! Lowers the priority of threads that run for long: what answers at once comes first where there are fewer processors than work.
//!
//! Refuses to fail: where the system doesn't allow it, all threads are alike.

/// How far such threads stand back, as `nice` counts.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// Lowers the priority of the calling thread.
#[cfg(target_os = "linux")]
pub(crate) fn stand_back() {
    // On Linux no process at all means the calling thread alone.
    let _as_it_is = rustix::process::setpriority_process(None, NICENESS);
}

/// Elsewhere it would be that of the whole process.
#[cfg(not(target_os = "linux"))]
pub(crate) fn stand_back() {}
