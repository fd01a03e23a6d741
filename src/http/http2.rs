//! Serves one HTTP/2 connection, as clients begin it that know it is spoken (h2c), within what an HTTP/1 one may hold.
//!
//! Promises that its requests together hold no more than so many connections would; that it ends when nothing is asked on it, when its client takes no
//! answer or gives up too many; that nothing of it goes on once it is cut; and that a request has one name, as over HTTP/1. Refuses tunnels and pushes.

use super::{
    permits::{HEAD_BYTES, Taken, refused},
    problem::Problem,
    streams::{Limits, Open, PIECE_BYTES, Pieces, Streams, Verdict},
    unread::Unsent,
};
use crate::redact::Redact;
use axum::{
    Router,
    http::{HeaderValue, Method, Request, Response, header},
    response::IntoResponse,
};
use hyper::{
    body::Incoming, rt::Executor, server::conn::http2, service::Service, service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{convert::Infallible, pin::pin};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Requests that may be under way on one connection.
pub(super) const STREAMS: u32 = 32;
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
    let streams = Streams::new(taken.seats);
    let tasks = Tasks::default();
    let _ends_them = tasks.alive.clone().drop_guard();
    let (routes, known) = (TowerToHyperService::new(taken.routes), streams.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let (open, is_admitted) = known.begin(request.uri().path());
        answer(routes.clone(), open, is_admitted, request)
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
    let mut leaving = None;
    let ended = loop {
        tokio::select! {
            ended = serving.as_mut() => break ended,
            () = taken.closing.cancelled(), if leaving.is_none() => {
                leaving = Some(Instant::now());
                serving.as_mut().graceful_shutdown();
            }
            _ = look.tick() => {}
            () = streams.changed() => {}
        }
        match streams.judge(limits, leaving, unsent.is_any()) {
            Verdict::Stay => {}
            Verdict::Leave => {
                leaving = Some(Instant::now());
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

/// Answers a request, which holds what it holds until its answer is gone.
async fn answer(
    routes: TowerToHyperService<Router>,
    open: Open,
    is_admitted: bool,
    request: Request<Incoming>,
) -> Result<Response<Pieces>, Infallible> {
    let response = match named(request) {
        Ok(request) if is_admitted => routes.call(request).await?,
        Ok(_) => refused(),
        Err(problem) => problem.into_response(),
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

/// Runs the requests of a connection for as long as it lives.
#[derive(Clone, Default)]
struct Tasks {
    all: TaskTracker,
    alive: CancellationToken,
}

impl<F> Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        let alive = self.alive.clone();
        self.all.spawn(alive.run_until_cancelled_owned(future));
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
