//! Owns requests to replay. [`log`](super::log) reads them, [`synthetic`](super::synthetic) generates them.

use super::rates::TrueRates;

/// A request: seconds since the trace began, and the key's number.
pub type Request = (f64, u32);

/// A request as a log has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Logged {
    /// Seconds since any start.
    pub at: f64,
    /// The key's number.
    pub key: u32,
    /// The number of whoever asked, where the log says.
    pub session: Option<u32>,
}

/// Requests, with the number of keys that they name.
#[derive(Debug, Clone)]
pub struct RequestTrace {
    pub requests: Vec<Request>,
    /// The session of each request; empty where none is known.
    pub sessions: Vec<Option<u32>>,
    pub keys: usize,
    /// Seconds.
    pub length: f64,
    /// The true rates, if it was generated.
    pub truth: Option<TrueRates>,
}

impl RequestTrace {
    /// Requests in any order; nothing without any.
    pub fn new(mut logged: Vec<Logged>, keys: usize) -> Option<Self> {
        logged.sort_by(|a, b| a.at.total_cmp(&b.at));
        let (first, last) = (logged.first()?.at, logged.last()?.at);
        let sessions = logged.iter().map(|one| one.session);
        let has_sessions = logged.iter().any(|one| one.session.is_some());
        Some(Self {
            sessions: sessions.filter(|_| has_sessions).collect(),
            requests: logged.iter().map(|one| (one.at - first, one.key)).collect(),
            keys,
            length: (last - first).max(1.0),
            truth: None,
        })
    }

    /// The session of a request, by its index.
    pub fn session(&self, index: usize) -> Option<u32> {
        self.sessions.get(index).copied().flatten()
    }
}
