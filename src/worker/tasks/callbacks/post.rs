//! Owns one callback on its way: its host is connected to, it is sent, and the answer's status is heard.
//!
//! Promises that no redirection is followed; that little of an answer is read; that all of it ends in time; and that it is known until when nothing of
//! it has been sent. What it says of a failure has nothing of the URL and nothing of the answer but its status.

use crate::{
    outbound::{self, Allowed, ConnectError},
    redact::Redact,
};
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio_rustls::rustls::ClientConfig;
use url::Url;

/// Addresses of a host that are tried.
const MAX_ADDRESSES: usize = 4;
/// What is read of an answer: its status and headers, and then of its body, in bytes; and the longest wait for that.
const MAX_HEAD_BYTES: usize = 16 << 10;
const MAX_BODY_BYTES: usize = 4 << 10;
const REST: Duration = Duration::from_secs(1);

/// What came of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Delivered,
    /// The receiver wants it no more.
    Gone,
    /// It may be tried again.
    Failed(String),
}

/// What is posted.
pub(super) struct Letter {
    pub url: String,
    /// Whether its host may be at a private address.
    pub may_be_private: bool,
    pub body: Vec<u8>,
    /// The same for every try.
    pub delivery: String,
    pub signature: String,
}

/// Whether something of a letter may have been sent.
#[derive(Debug, Default)]
pub(super) struct Sent(AtomicBool);

impl Sent {
    pub(super) fn is_possible(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Posts a letter, within a time.
pub(super) async fn post(
    letter: Letter,
    tls: Arc<ClientConfig>,
    limit: Duration,
    sent: &Sent,
) -> Answer {
    let answer = tokio::time::timeout(limit, exchange(letter, tls, sent)).await;
    match answer {
        Ok(Ok(status)) => judge(status),
        Ok(Err(reason)) => Answer::Failed(reason),
        Err(_) => Answer::Failed("no answer in time".to_owned()),
    }
}

fn judge(status: StatusCode) -> Answer {
    match status {
        status if status.is_success() => Answer::Delivered,
        StatusCode::GONE => Answer::Gone,
        status if status.is_redirection() => Answer::Failed(format!(
            "answered {}, which isn't followed",
            status.as_u16()
        )),
        status => Answer::Failed(format!("answered {}", status.as_u16())),
    }
}

async fn exchange(
    letter: Letter,
    tls: Arc<ClientConfig>,
    sent: &Sent,
) -> Result<StatusCode, String> {
    let url = Url::parse(&letter.url).map_err(|_| "its URL can't be read".to_owned())?;
    let allowed = match letter.may_be_private {
        true => Allowed::Any,
        false => Allowed::PublicAnd(&[]),
    };
    let connected = outbound::connect(&url, allowed, MAX_ADDRESSES, tls).await;
    let stream = connected.map_err(|error| match error {
        ConnectError::Private => "its host has no address that callbacks.hosts may reach".into(),
        other => other.to_string(),
    })?;
    let request = request(&url, letter)?;
    let shaken = http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await;
    let (mut sender, connection) = shaken.map_err(|e| e.redacted())?;
    let exchange = async {
        sent.begin();
        let response = sender.send_request(request).await;
        let response = response.map_err(|e| e.redacted())?;
        let status = response.status();
        // Whoever is cut off in the middle of a short answer might take that for a failure. What it says is of no use.
        let _rest = tokio::time::timeout(REST, drain(response.into_body())).await;
        Ok(status)
    };
    let (mut exchange, mut connection) = (Box::pin(exchange), Box::pin(connection));
    tokio::select! {
        biased;
        done = &mut exchange => done,
        // What has come is still there to be read.
        _ended = &mut connection => exchange.await,
    }
}

async fn drain(mut body: Incoming) {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read >= MAX_BODY_BYTES {
            return;
        }
    }
}

fn request(url: &Url, letter: Letter) -> Result<Request<Full<Bytes>>, String> {
    let path = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let mut host = url.host_str().unwrap_or_default().to_owned();
    if let Some(port) = url.port() {
        host = format!("{host}:{port}");
    }
    Request::post(path)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close")
        .header(
            header::USER_AGENT,
            concat!("kiln/", env!("CARGO_PKG_VERSION")),
        )
        .header("kiln-delivery", letter.delivery)
        .header("kiln-signature", letter.signature)
        .body(Full::new(Bytes::from(letter.body)))
        .map_err(|_| "its URL can't be asked for".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_judged_by_its_status() {
        let of = |status: u16| judge(StatusCode::from_u16(status).expect("a status"));
        assert_eq!((of(200), of(204)), (Answer::Delivered, Answer::Delivered));
        assert_eq!(of(410), Answer::Gone);
        for status in [301, 308, 400, 404, 429, 500, 503] {
            assert!(matches!(of(status), Answer::Failed(_)), "{status}");
        }
    }
}
