//! The HTTP port: a thin face over what the other rooms know, on a thread and runtime of its own, so that
//! health answers while the worker is busy.

mod health;

use crate::health::Health;
use axum::{Router, routing::get};
use metrics_exporter_prometheus::PrometheusHandle;
use std::{
    net::{SocketAddr, TcpListener},
    time::Duration,
};
use tokio::sync::oneshot;

/// How often the recorder forgets what it need not keep.
const UPKEEP: Duration = Duration::from_secs(5);

/// Why the port can't be served.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("setting `http.addr`: {addr} can't be listened on: {reason}")]
    Bind {
        addr: SocketAddr,
        reason: std::io::Error,
    },
    #[error("the HTTP thread could not be started: {0}")]
    Thread(std::io::Error),
}

/// What the routes show.
#[derive(Clone)]
pub struct Shown {
    pub health: Health,
    pub metrics: PrometheusHandle,
}

/// The port in service.
pub struct Served {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Says why the thread ended, should it.
    pub ended: oneshot::Receiver<String>,
}

/// Binds the address and serves it until the process ends.
pub fn serve(addr: SocketAddr, shown: Shown) -> Result<Served, HttpError> {
    let bind = |reason| HttpError::Bind { addr, reason };
    let listener = TcpListener::bind(addr).map_err(bind)?;
    listener.set_nonblocking(true).map_err(bind)?;
    let addr = listener.local_addr().map_err(bind)?;
    let (sender, ended) = oneshot::channel();
    let run = move || {
        let reason = match blocking(listener, shown) {
            Ok(()) => "it stopped serving".to_owned(),
            Err(error) => error.to_string(),
        };
        // Nobody listens any more once the worker is on its way out.
        let _unheard = sender.send(reason);
    };
    std::thread::Builder::new()
        .name("kiln-http".into())
        .spawn(run)
        .map_err(HttpError::Thread)?;
    Ok(Served { addr, ended })
}

fn blocking(listener: TcpListener, shown: Shown) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async move {
        let upkeep = shown.metrics.clone();
        let upkeep = async move {
            let mut tick = tokio::time::interval(UPKEEP);
            loop {
                tick.tick().await;
                upkeep.run_upkeep();
            }
        };
        let listener = tokio::net::TcpListener::from_std(listener)?;
        tokio::select! {
            result = async { axum::serve(listener, routes(shown)).await } => result,
            () = upkeep => Ok(()),
        }
    })
}

fn routes(shown: Shown) -> Router {
    Router::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .with_state(shown)
}
