//! Owns how many connections, and requests on them, may be held at once, and what one of them may hold.
//!
//! Promises that what watches the worker has some of its own, however many clients there are, that a connection with several requests under way
//! holds as much as so many connections, and that work which outlives its request holds on to what that held.

use super::problem::Problem;
use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Response, header},
    response::IntoResponse,
};
use std::{
    any::Any,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Largest request head, in bytes.
pub(super) const HEAD_BYTES: usize = 16 << 10;
/// Connections beyond those of the settings, for what watches the worker.
const PROBES: usize = 16;
/// What is served on them.
pub(super) const PROBED: [&str; 3] = ["/livez", "/readyz", "/metrics"];

/// How many connections there are.
#[derive(Clone)]
pub(super) struct Permits {
    clients: Arc<Semaphore>,
    probes: Arc<Semaphore>,
}

/// A connection's share of them.
pub(super) struct Permit {
    /// It is for what watches the worker, and nothing else.
    is_probe: bool,
    _held: OwnedSemaphorePermit,
}

impl Permit {
    fn new(held: OwnedSemaphorePermit, is_probe: bool) -> Self {
        Self {
            is_probe,
            _held: held,
        }
    }

    pub(super) fn is_probe(&self) -> bool {
        self.is_probe
    }
}

impl Permits {
    pub(super) fn new(clients: usize) -> Self {
        Self {
            clients: Arc::new(Semaphore::new(clients)),
            probes: Arc::new(Semaphore::new(PROBES)),
        }
    }

    /// A permit for the next connection: a client's if there is one.
    pub(super) async fn next(&self) -> Option<Permit> {
        // Neither is ever closed.
        tokio::select! {
            biased;
            client = self.clients.clone().acquire_owned() => client.ok().map(|held| Permit::new(held, false)),
            probe = self.probes.clone().acquire_owned() => probe.ok().map(|held| Permit::new(held, true)),
        }
    }
}

/// What a connection may hold.
pub(super) struct Seats {
    own: Mutex<Permit>,
    permits: Permits,
}

impl Seats {
    pub(super) fn new(own: Permit, permits: Permits) -> Self {
        Self {
            own: Mutex::new(own),
            permits,
        }
    }

    /// Whether the connection is for what watches the worker.
    pub(super) fn is_probe(&self) -> bool {
        self.own().is_probe
    }

    fn own(&self) -> MutexGuard<'_, Permit> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request for this path may be served on the connection; one that was taken for a probe is made a client's if there is
    /// room by now.
    pub(super) fn admit(&self, path: &str) -> bool {
        let mut own = self.own();
        if !own.is_probe || PROBED.contains(&path) {
            return true;
        }
        match self.another() {
            Some(held) => {
                *own = Permit::new(held, false);
                true
            }
            None => false,
        }
    }

    /// As much as one more connection of a client would hold, if there is room.
    pub(super) fn another(&self) -> Option<OwnedSemaphorePermit> {
        self.permits.clients.clone().try_acquire_owned().ok()
    }
}

/// What a request holds of all this. It is free once nobody has it any more.
pub(super) type Seat = Arc<dyn Any + Send + Sync>;

tokio::task_local! {
    /// That of the request which is served.
    static SEAT: Seat;
}

/// Serves a request with what it holds of the port.
pub(super) async fn seated<T>(held: Seat, serving: impl Future<Output = T>) -> T {
    SEAT.scope(held, serving).await
}

/// What the request that is being served holds, for work that goes on when nobody waits for it any more.
pub(super) fn held() -> Option<Seat> {
    SEAT.try_with(Seat::clone).ok()
}

/// A connection that was taken, and within what it is served.
pub(super) struct Taken {
    pub seats: Seats,
    pub routes: Router,
    /// Longest time for a request's headers to arrive, and without any request.
    pub headers: Duration,
    /// How long an answer may wait for its client.
    pub limit: Duration,
    pub closing: CancellationToken,
}

/// The answer where there is room only for what watches the worker.
pub(super) fn refused() -> Response<Body> {
    let problem = Problem::unavailable(
        "as many connections are open, or requests on them under way, as may be (http.connections)",
    );
    let mut response = problem.into_response();
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    response
}
