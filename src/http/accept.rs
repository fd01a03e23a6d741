//! Takes connections and serves each by itself, within what they may hold.
//!
//! Promises that however many clients hold their connections, whether they send, read or neither, `/livez`, `/readyz` and `/metrics`
//! are answered: a few connections are there for them alone. A client that takes too long to send a request's head or to read its
//! answer is cut.

use super::{problem::Problem, unread::Impatient};
use crate::redact::Redact;
use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Request, Response, header},
    response::IntoResponse,
};
use hyper::{body::Incoming, server::conn::http1, service::Service, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Longest time for a request's headers to arrive.
const HEADERS: Duration = Duration::from_secs(5);
/// Largest request head, in bytes.
const HEAD_BYTES: usize = 16 << 10;
/// Connections beyond those of the settings, for what watches the worker.
const PROBES: usize = 16;
/// Longest time for a probe's headers to arrive, and for it to take a part of its answer: what watches is near and quick.
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// What is served on them.
pub(super) const PROBED: [&str; 3] = ["/livez", "/readyz", "/metrics"];
/// Answers that the kernel holds for one client, in bytes: one that doesn't read is to be noticed, and not to fill the memory.
const SEND_BYTES: u32 = 128 << 10;
/// Connections that the kernel holds until they are taken.
const BACKLOG: u32 = 1_024;

/// Listens on an address.
pub(super) fn listen(addr: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match addr {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A restarted worker doesn't wait for the last connections of the one before it.
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BYTES)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// How many connections there are.
#[derive(Clone)]
struct Permits {
    clients: Arc<Semaphore>,
    probes: Arc<Semaphore>,
}

/// A connection's share of them.
struct Permit {
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
}

impl Permits {
    fn new(clients: usize) -> Self {
        Self {
            clients: Arc::new(Semaphore::new(clients)),
            probes: Arc::new(Semaphore::new(PROBES)),
        }
    }

    /// A permit for the next connection: a client's if there is one.
    async fn next(&self) -> Option<Permit> {
        // Neither is ever closed.
        tokio::select! {
            biased;
            client = self.clients.clone().acquire_owned() => client.ok().map(|held| Permit::new(held, false)),
            probe = self.probes.clone().acquire_owned() => probe.ok().map(|held| Permit::new(held, true)),
        }
    }

    /// Whether a request for this path may be served on a connection; one that was taken for a probe is made a client's if there is
    /// room by now.
    fn admit(&self, permit: &Mutex<Permit>, path: &str) -> bool {
        let mut permit = permit.lock().unwrap_or_else(PoisonError::into_inner);
        if !permit.is_probe || PROBED.contains(&path) {
            return true;
        }
        match self.clients.clone().try_acquire_owned() {
            Ok(held) => {
                *permit = Permit::new(held, false);
                true
            }
            Err(_) => false,
        }
    }
}

/// Takes connections, each served by itself, until the port closes. Returns when all have ended. `limit` is how long an answer may
/// wait for its client.
pub(super) async fn accept(
    listener: TcpListener,
    routes: Router,
    clients: usize,
    limit: Duration,
    closing: CancellationToken,
) {
    let permits = Permits::new(clients);
    let connections = TaskTracker::new();
    let next = async || {
        let accepted = listener.accept().await;
        (accepted, permits.next().await)
    };
    while let Some((accepted, permit)) = closing.run_until_cancelled(next()).await {
        let (stream, permit) = match (accepted, permit) {
            (Ok((stream, _)), Some(permit)) => (stream, permit),
            (_, None) => break,
            // Out of file handles, or a client that was gone at once: neither is mended by haste.
            (Err(error), _) => {
                let error = error.redacted();
                tracing::debug!(error, "a connection could not be taken");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (permits, routes, closing) = (permits.clone(), routes.clone(), closing.clone());
        connections.spawn(serve(stream, permit, permits, routes, limit, closing));
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Serves one connection to its end.
async fn serve(
    stream: TcpStream,
    permit: Permit,
    permits: Permits,
    routes: Router,
    limit: Duration,
    closing: CancellationToken,
) {
    let is_probe = permit.is_probe;
    let (headers, limit) = if is_probe {
        (PROBE_LIMIT, limit.min(PROBE_LIMIT))
    } else {
        (HEADERS, limit)
    };
    let permit = Mutex::new(permit);
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(|request: Request<Incoming>| {
        let served = permits
            .admit(&permit, request.uri().path())
            .then(|| routes.call(request));
        async move {
            match served {
                Some(served) => served.await,
                None => Ok::<_, Infallible>(refused()),
            }
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(headers)
        .max_buf_size(HEAD_BYTES)
        // One request, and it is free for the next.
        .keep_alive(!is_probe)
        .serve_connection(TokioIo::new(Impatient::new(stream, limit)), service);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = closing.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        let error = error.redacted();
        tracing::debug!(error, "a connection ended early");
    }
}

/// The answer where there is room only for what watches the worker.
fn refused() -> Response<Body> {
    let problem = Problem::unavailable("as many connections are open as may be (http.connections)");
    let mut response = problem.into_response();
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    response
}
