//! Owns what a worker knows of its own parts: which of them work, and why one doesn't.
//!
//! Promises one log line when a part stops working and one when it works again, however often it is told.

use crate::telemetry::metrics::{Metrics, Server};
use std::sync::{Arc, Mutex, PoisonError};

/// What must work before a worker is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The worker itself: it has started and doesn't stop.
    Worker,
    Models,
    Postgres,
    Migrations,
    Broker,
    Redis,
}

impl Part {
    const ALL: [Self; 6] = [
        Self::Worker,
        Self::Models,
        Self::Postgres,
        Self::Migrations,
        Self::Broker,
        Self::Redis,
    ];

    /// As it stands in logs and in `/readyz`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Models => "models",
            Self::Postgres => "postgres",
            Self::Migrations => "migrations",
            Self::Broker => "broker",
            Self::Redis => "redis",
        }
    }

    fn server(self) -> Option<Server> {
        match self {
            Self::Postgres => Some(Server::Postgres),
            Self::Broker => Some(Server::Broker),
            Self::Redis => Some(Server::Redis),
            Self::Worker | Self::Models | Self::Migrations => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Unknown,
    Up,
    Down(String),
}

/// The parts of one worker.
#[derive(Debug, Clone)]
pub struct Health {
    parts: Arc<Mutex<[State; 6]>>,
    metrics: Metrics,
}

impl Health {
    /// Nothing is known to work yet.
    pub fn new(metrics: Metrics) -> Self {
        Self {
            parts: Arc::new(Mutex::new(std::array::from_fn(|_| State::Unknown))),
            metrics,
        }
    }

    /// Notes that a part works.
    pub fn up(&self, part: Part) {
        if let State::Down(_) = self.change(part, State::Up) {
            tracing::info!(part = part.as_str(), "works again");
        }
    }

    /// Notes that a part doesn't work, and why. Logs the first time, not each time.
    pub fn down(&self, part: Part, reason: &str) {
        match self.change(part, State::Down(reason.to_owned())) {
            State::Down(_) => {}
            State::Unknown => {
                tracing::warn!(part = part.as_str(), reason, "waiting for it to work")
            }
            State::Up => tracing::warn!(
                part = part.as_str(),
                reason,
                "stopped working; waiting for it"
            ),
        }
    }

    /// Notes that the worker stops, as it was asked to: from now on it isn't ready, and no log line calls that a fault.
    pub fn stopping(&self) {
        self.change(Part::Worker, State::Down("it is stopping".to_owned()));
    }

    fn change(&self, part: Part, state: State) -> State {
        if let Some(server) = part.server() {
            self.metrics.server(server, state == State::Up);
        }
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts
            .get_mut(part as usize)
            .map_or(State::Unknown, |slot| std::mem::replace(slot, state))
    }

    /// What doesn't work, with why; nothing where the worker is ready.
    pub fn missing(&self) -> Vec<(Part, String)> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        Part::ALL
            .into_iter()
            .zip(parts.iter())
            .filter_map(|(part, state)| match state {
                State::Up => None,
                State::Unknown if part == Part::Worker => Some((part, "it is starting".to_owned())),
                State::Unknown => Some((part, "not tried yet".to_owned())),
                State::Down(reason) => Some((part, reason.clone())),
            })
            .collect()
    }

    /// Whether a part works.
    pub fn is_up(&self, part: Part) -> bool {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.get(part as usize) == Some(&State::Up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_every_part_works() {
        let health = Health::new(Metrics::new());
        assert_eq!(health.missing().len(), Part::ALL.len());
        for part in Part::ALL {
            health.up(part);
        }
        assert!(health.missing().is_empty());
        health.down(Part::Redis, "refused");
        assert_eq!(health.missing(), [(Part::Redis, "refused".to_owned())]);
        assert!(!health.is_up(Part::Redis) && health.is_up(Part::Broker));
    }
}
