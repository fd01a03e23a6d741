//! What a namespace may have of a lane, as the settings say.

/// What a namespace may have of a lane.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// Its part in proportion to others.
    pub weight: f64,
    /// Model seconds a second.
    pub max_seconds_per_second: Option<f64>,
    /// Jobs a second.
    pub max_jobs_per_second: Option<f64>,
}

impl Share {
    /// Whether it has a limit of its own.
    pub fn is_limited(&self) -> bool {
        self.max_seconds_per_second.is_some() || self.max_jobs_per_second.is_some()
    }
}

impl Default for Share {
    fn default() -> Self {
        Self {
            weight: 1.0,
            max_seconds_per_second: None,
            max_jobs_per_second: None,
        }
    }
}
