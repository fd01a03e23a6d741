//! Takes connections and serves each by itself, within what they may hold.
//!
//! Promises that however many clients hold their connections, whether they send, read or neither, `/livez`, `/readyz` and `/metrics`
//! are answered: a few connections are there for them alone. A client that takes too long to send a request's head or to read its
//! answer is cut. HTTP/1 and HTTP/2 are spoken on the same port, by what a client begins with.

use super::{
    http2,
    permits::{HEAD_BYTES, Permits, Seats, Taken, refused, seated},
    preface::{self, Rewound, Version},
    unread::Impatient,
};
use crate::redact::Redact;
use axum::{Router, http::Request};
use hyper::{body::Incoming, server::conn::http1, service::Service, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Longest time for a request's headers to arrive.
const HEADERS: Duration = Duration::from_secs(5);
/// Longest time for a probe's headers to arrive, and for it to take a part of its answer: what watches is near and quick.
const PROBE_LIMIT: Duration = Duration::from_secs(2);
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
        let (headers, limit) = match permit.is_probe() {
            true => (PROBE_LIMIT, limit.min(PROBE_LIMIT)),
            false => (HEADERS, limit),
        };
        let taken = Taken {
            seats: Seats::new(permit, permits.clone()),
            routes: routes.clone(),
            headers,
            limit,
            closing: closing.clone(),
        };
        connections.spawn(serve(stream, taken));
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Serves one connection to its end, by what is spoken on it.
async fn serve(stream: TcpStream, taken: Taken) {
    let first_head = Instant::now() + taken.headers;
    let stream = Impatient::new(stream, taken.limit);
    let unsent = stream.unsent();
    let found = tokio::select! {
        biased;
        found = tokio::time::timeout_at(first_head, preface::version(stream)) => found,
        () = taken.closing.cancelled() => return,
    };
    // What says nothing is cut, and nobody is there to hear of it.
    let Ok(Ok((version, stream))) = found else {
        return;
    };
    match version {
        Version::Http1 => serve_http1(stream, taken, first_head).await,
        Version::Http2 => http2::serve(stream, unsent, taken).await,
    }
}

async fn serve_http1(stream: Rewound<Impatient<TcpStream>>, taken: Taken, first_head: Instant) {
    let (seats, is_heard) = (Arc::new(taken.seats), AtomicBool::new(false));
    let is_probe = seats.is_probe();
    let routes = TowerToHyperService::new(taken.routes);
    let service = service_fn(|request: Request<Incoming>| {
        is_heard.store(true, Ordering::Relaxed);
        let is_admitted = seats.admit(request.uri().path());
        let served = is_admitted.then(|| seated(seats.clone(), routes.call(request)));
        async move {
            match served {
                Some(served) => served.await,
                None => Ok::<_, Infallible>(refused()),
            }
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(taken.headers)
        .max_buf_size(HEAD_BYTES)
        // One request, and it is free for the next.
        .keep_alive(!is_probe)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        // What was read to know what is spoken has had its time.
        () = silent_until(first_head, &is_heard) => return,
        () = taken.closing.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        let error = error.redacted();
        tracing::debug!(error, "a connection ended early");
    }
}

/// Waits until then, and for ever if something was heard by then.
async fn silent_until(then: Instant, is_heard: &AtomicBool) {
    tokio::time::sleep_until(then).await;
    if is_heard.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}
