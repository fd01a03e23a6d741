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
    /// Takes a request in; nothing where it is refused.
    fn enter(&self) -> Option<InHand> {
        // Counted before it is known whether it is refused: who waits for none to be left misses no request that was let through.
        let in_hand = InHand::new(self);
        (!self.refusing.is_cancelled()).then_some(in_hand)
    }

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
    let Some(_in_hand) = shared.stopping.enter() else {
        let mut refused = Problem::unavailable("the worker is stopping").into_response();
        let close = HeaderValue::from_static("close");
        refused.headers_mut().insert(header::CONNECTION, close);
        return refused;
    };
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_fuzz::{Task, every_order, step};
    use std::{
        cell::Cell,
        panic::{AssertUnwindSafe, catch_unwind},
    };

    /// Asks first whether it is refused, and counts itself a step later.
    async fn hasty(stopping: &Stopping) -> Option<InHand> {
        let refused = stopping.refusing.is_cancelled();
        step().await;
        (!refused).then(|| InHand::new(stopping))
    }

    /// A stop ends once every request that was let in is answered, and lets in none afterwards, in every order of two requests and a stop, one of
    /// the requests given up anywhere.
    fn explored(is_hasty: bool) -> usize {
        every_order(10_000, |orders| {
            let (stopping, is_idle) = (Stopping::default(), Cell::new(false));
            let request = || -> Task<'_> {
                Box::pin(async {
                    let in_hand = match is_hasty {
                        true => hasty(&stopping).await,
                        false => stopping.enter(),
                    };
                    if in_hand.is_some() {
                        assert!(!is_idle.get(), "after the last one");
                        step().await;
                        assert!(!is_idle.get(), "unanswered");
                    }
                })
            };
            let stop: Task<'_> = Box::pin(async {
                stopping.refusing.cancel();
                stopping.idle().await;
                is_idle.set(true);
            });
            let tasks = vec![request(), request(), stop];
            assert_eq!(orders.run(tasks, Some(0)), 0, "somebody waits for ever");
            assert!(is_idle.get());
        })
    }

    #[test]
    fn in_every_order_a_stop_waits_for_the_requests_that_were_let_in() {
        let orders = explored(false);
        assert!(orders > 20, "{orders}");
        let found = catch_unwind(AssertUnwindSafe(|| explored(true)));
        assert!(found.is_err(), "a request that is counted late is found");
    }
}
