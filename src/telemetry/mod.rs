//! What operators see: metrics, a day's figures, logs and traces.

pub mod causes;
pub mod logs;
pub mod metrics;
pub mod otlp;
pub mod recent;
pub mod trace;
pub mod window;

/// Names this worker among others: its host and process.
pub fn worker_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", host.trim(), std::process::id())
}
