//! Owns what a failed statement means for whoever asked.

/// Why a write or read failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database can't be reached or can't work now: the same call may succeed later.
    #[error("{0}")]
    Unavailable(String),
    /// The server undid this write for another one's sake (a deadlock, say): the same call succeeds as a rule.
    #[error("{0}")]
    Contended(String),
    /// The statement ran into its limit and is over, or is ended before anything else is asked: the same call may succeed later, or it may
    /// be too much for one statement.
    #[error("{0}")]
    TimedOut(String),
    /// A trigger, a policy or damaged data raised an error, which may be of this data alone: then the same call fails again.
    #[error("{0}")]
    Objected(String),
    /// The database refuses this data: the same call fails again.
    #[error("{0}")]
    Refused(String),
}

impl StoreError {
    /// Whether the same call may succeed later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Contended(_) | Self::TimedOut(_) | Self::Objected(_) => {
                true
            }
            Self::Refused(_) => false,
        }
    }

    /// Whether another connection may have another answer.
    pub(super) fn may_pass_elsewhere(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Objected(_))
    }
}
