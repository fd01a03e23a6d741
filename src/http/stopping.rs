//! How the port stops: new work is refused while what is in hand is answered, and the connections are closed last.

use super::{Shared, problem::Problem};
use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Paths that answer for as long as the process lives: whoever watches the worker sees it stop.
const ALWAYS: [&str; 5] = ["/livez", "/readyz", "/metrics", "/health", "/version"];

/// How far the port has stopped.
#[derive(Debug, Clone)]
pub(super) struct Stopping {
    /// New work is refused.
    pub refusing: CancellationToken,
    /// Connections are closed as soon as they are idle, and no further ones are taken.
    pub closing: CancellationToken,
    in_hand: watch::Sender<usize>,
}

impl Default for Stopping {
    fn default() -> Self {
        Self {
            refusing: CancellationToken::new(),
            closing: CancellationToken::new(),
            in_hand: watch::channel(0).0,
        }
    }
}

impl Stopping {
    /// Waits until every request in hand has its answer.
    pub(super) async fn idle(&self) {
        let mut in_hand = self.in_hand.subscribe();
        // The sender is ours: it can't be gone.
        let _open = in_hand.wait_for(|requests| *requests == 0).await;
    }
}

/// A request in hand.
struct InHand(watch::Sender<usize>);

impl InHand {
    fn new(stopping: &Stopping) -> Self {
        stopping.in_hand.send_modify(|requests| *requests += 1);
        Self(stopping.in_hand.clone())
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.send_modify(|requests| *requests -= 1);
    }
}

/// Counts requests in hand, and refuses new ones once the worker stops.
pub(super) async fn guard(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>();
    if path.is_some_and(|path| ALWAYS.contains(&path.as_str())) {
        return next.run(request).await;
    }
    // Counted before it is known whether it is refused: who waits for none to be left misses no request that was let through.
    let _in_hand = InHand::new(&shared.stopping);
    if shared.stopping.refusing.is_cancelled() {
        let mut refused = Problem::unavailable("the worker is stopping").into_response();
        let close = HeaderValue::from_static("close");
        refused.headers_mut().insert(header::CONNECTION, close);
        return refused;
    }
    next.run(request).await
}
