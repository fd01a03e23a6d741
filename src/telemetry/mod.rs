//! What operators see: metrics, a day's figures, logs and traces.

pub mod causes;
pub mod logs;
pub mod metrics;
pub mod otlp;
pub mod recent;
pub mod timings;
pub mod trace;
pub mod window;

/// Names this worker among others: its host and process.
pub fn worker_name() -> String {
    named(std::process::id())
}

/// Names the process that this one runs suspects for, and says that it is not that one.
pub fn suspects_name() -> String {
    format!("{}/suspects", named(std::os::unix::process::parent_id()))
}

fn named(process: u32) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{process}", host.trim())
}
