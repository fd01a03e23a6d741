//! Owns the settings of logs and traces.

use serde::{Deserialize, Serialize};

/// The shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    Json,
    Text,
}

/// Log lines.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Shape of the lines; `auto` is text on a terminal and JSON elsewhere.
    pub format: LogFormat,
    /// Levels in the syntax of tracing's `EnvFilter`, such as `info,kiln=debug`.
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Auto,
            filter: "info,lapin=off".into(),
        }
    }
}

/// Traces of jobs, for an OpenTelemetry collector.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Trace {
    /// A collector's endpoint for OTLP over HTTP, such as `http://127.0.0.1:4318`; nothing is traced if absent.
    pub endpoint: Option<String>,
    /// Share of the jobs to trace, 0 to 1, unless their producers decide (by the header `traceparent`).
    pub share: f64,
}

impl Default for Trace {
    fn default() -> Self {
        Self {
            endpoint: None,
            share: 0.01,
        }
    }
}
