//! Owns the words for how a part is, and for how the whole worker is.

/// How a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PartState {
    /// Nothing was reported yet.
    Unknown,
    Works,
    /// It fails, and jobs end all the same.
    Degraded,
    /// Jobs that are taken don't end.
    Down,
}

impl PartState {
    /// As it stands in `/health`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Works => "works",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

/// How the worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    /// Ready, and without something.
    Degraded,
    NotReady,
}

impl Readiness {
    /// As it stands in `/readyz`, in `/health`, on the page and in `kiln doctor`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::NotReady => "not ready",
        }
    }
}
