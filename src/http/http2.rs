//! Serves one HTTP/2 connection, as clients begin it that know it is spoken (h2c), within what an HTTP/1 one may hold.
//!
//! Promises that its requests together hold no more than so many connections would; that it ends when nothing is asked on it, or its client gives up
//! too many; that an answer which its client doesn't take ends by itself; that nothing of it goes on once it is cut, but what the database was asked;
//! and that a request has one name, as over HTTP/1. Refuses tunnels and pushes, and what comes once it is to end.

use super::{
    permits::{HEAD_BYTES, Taken, refused, seated},
    problem::Problem,
    streams::{Limits, Open, PIECE_BYTES, Pieces, STREAMS, Streams, Verdict},
    unread::Unsent,
};
use crate::redact::Redact;
use axum::{
    Router,
    http::{HeaderValue, Method, Request, Response, header},
    response::IntoResponse,
};
use h2::Reason;
use hyper::{
    body::Incoming, rt::Executor, server::conn::http2, service::Service, service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::MissedTickBehavior,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What may come of bodies before somebody reads them, in bytes: of one request, and of all on a connection.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 128 << 10;
/// Largest frame, in bytes.
const FRAME_BYTES: u32 = 16 << 10;
/// Requests that are reset before they are looked at, and those that break the protocol, until the connection is closed.
const MAX_EARLY_RESETS: usize = 20;
const MAX_BROKEN: usize = 64;
/// How often a connection is looked at while one of its limits passes.
const LOOKS: u32 = 4;

/// Serves a connection to its end.
pub(super) async fn serve(io: impl AsyncRead + AsyncWrite + Unpin, unsent: Unsent, taken: Taken) {
    let limits = Limits {
        idle: taken.headers,
        unread: taken.limit,
        is_for_one: taken.seats.is_probe(),
    };
    let tasks = Tasks::default();
    let _ends_them = tasks.alive.clone().drop_guard();
    let streams = Streams::new(taken.seats, limits, tasks.alive.clone());
    let (routes, known) = (TowerToHyperService::new(taken.routes), streams.clone());
    let begun = tasks.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let open = known.begin(request.uri().path());
        begun.next_ends_by(open.as_ref().map(Open::cut));
        answer(routes.clone(), open, request)
    });
    let serving = http2::Builder::new(tasks.clone())
        .timer(TokioTimer::new())
        .max_concurrent_streams(if limits.is_for_one { 1 } else { STREAMS })
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_BYTES)
        .max_header_list_size(HEAD_BYTES as u32)
        .max_send_buf_size(PIECE_BYTES)
        .max_pending_accept_reset_streams(MAX_EARLY_RESETS)
        .max_local_error_reset_streams(MAX_BROKEN)
        .serve_connection(TokioIo::new(io), service);
    let mut serving = pin!(serving);
    let mut look = tokio::time::interval(limits.idle.min(limits.unread) / LOOKS);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let ended = loop {
        let is_closing = tokio::select! {
            ended = serving.as_mut() => break ended,
            () = taken.closing.cancelled(), if !streams.are_leaving() => true,
            _ = look.tick() => false,
            () = streams.changed() => false,
        };
        let verdict = match streams.judge(unsent.is_any()) {
            Verdict::Stay if is_closing => Verdict::Leave,
            judged => judged,
        };
        match verdict {
            Verdict::Stay => {}
            Verdict::Leave => {
                streams.leave();
                serving.as_mut().graceful_shutdown();
            }
            Verdict::Cut => break Ok(()),
        }
    };
    if let Err(error) = ended {
        let error = error.redacted();
        tracing::debug!(error, "a connection ended early");
    }
}

/// Answers a request, which holds what it holds until its answer is gone. One that comes too late is refused as one that may be sent again.
async fn answer(
    routes: TowerToHyperService<Router>,
    open: Option<Open>,
    request: Request<Incoming>,
) -> Result<Response<Pieces>, h2::Error> {
    let Some(open) = open else {
        return Err(Reason::REFUSED_STREAM.into());
    };
    let response = match (named(request), open.held()) {
        (Ok(request), Some(held)) => {
            let served = seated(held, routes.call(request)).await;
            served.unwrap_or_else(|never| match never {})
        }
        (Ok(_), None) => refused(),
        (Err(problem), _) => problem.into_response(),
    };
    Ok(response.map(|body| Pieces::new(body, open)))
}

/// The request with the name that it was sent to as its `Host`, where HTTP/1 has it.
fn named<B>(mut request: Request<B>) -> Result<Request<B>, Problem> {
    if request.method() == Method::CONNECT {
        return Err(Problem::bad_method());
    }
    let authority = request.uri().authority().map(|name| name.as_str());
    let authority = authority.and_then(|name| HeaderValue::from_str(name).ok());
    let host = request.headers().get(header::HOST);
    match (authority, host) {
        // Of two names, whoever passed the request on may have believed the other one.
        (Some(authority), Some(host)) if authority != host => Err(Problem::invalid(
            "host",
            "expected one name, not another one in Host",
        )),
        (Some(authority), None) => {
            request.headers_mut().insert(header::HOST, authority);
            Ok(request)
        }
        _ => Ok(request),
    }
}

/// Runs the requests of a connection for as long as it lives, and each for as long as it may.
#[derive(Clone, Default)]
struct Tasks {
    all: TaskTracker,
    alive: CancellationToken,
    /// What ends the one that is run next.
    next: Arc<Mutex<Option<CancellationToken>>>,
}

impl Tasks {
    /// The library runs each request right after it was begun.
    fn next_ends_by(&self, cut: Option<CancellationToken>) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = cut;
    }
}

impl<F> Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let cut = next.take().unwrap_or_else(|| self.alive.clone());
        drop(next);
        self.all.spawn(cut.run_until_cancelled_owned(future));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_one_name() {
        let of = |uri: &str, host: Option<&str>| {
            let mut request = Request::get(uri);
            if let Some(host) = host {
                request = request.header(header::HOST, host);
            }
            named(request.body(()).expect("a request")).map(|request| {
                let host = request.headers().get(header::HOST).cloned();
                host.map(|host| host.to_str().expect("text").to_owned())
            })
        };
        let name = |found: Result<Option<String>, Problem>| found.ok().flatten();
        assert_eq!(name(of("http://a:1/", None)).as_deref(), Some("a:1"));
        assert_eq!(name(of("http://a/", Some("a"))).as_deref(), Some("a"));
        assert_eq!(name(of("/", Some("a"))).as_deref(), Some("a"));
        assert_eq!(of("/", None).ok(), Some(None));
        assert_eq!(
            of("http://localhost/", Some("evil.example"))
                .expect_err("two")
                .status_code(),
            400
        );
        let tunnel = Request::connect("evil.example:443").body(());
        let refused = named(tunnel.expect("a request")).expect_err("a tunnel");
        assert_eq!(refused.status_code(), 405);
    }
}
