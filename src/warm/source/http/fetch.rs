//! Fetches one document over HTTP, bounded in bytes, in time and in redirections.
//!
//! Promises that only addresses are connected to that were checked, each time that a name is looked up: neither a redirection nor a name whose
//! address changes leads to a private one. Headers, the client's certificate and the authorities that the schedule trusts are for the origin that
//! it names, until the first redirection away from there: what another origin asks for has none of them, not even back at the first one. An
//! error says nothing that the schedule didn't: no secret, nothing of a server's redirection, nothing that follows a URL's path, nothing of an answer.

use crate::{
    config::Network,
    outbound::{self, Allowed, ConnectError, Wire},
    tls,
};
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Bytes, Incoming},
    client::conn::http1,
    header::{self, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio_rustls::rustls::ClientConfig;
use url::Url;

/// Redirections that are followed.
const MAX_REDIRECTIONS: usize = 5;
/// Addresses of a host that are tried.
const MAX_ADDRESSES: usize = 16;
/// What is said of a host whose addresses may not be connected to.
const PRIVATE: &str = "is at a private address, which warm.private_networks doesn't list";
/// What is said of an encrypted connection to another origin, whose certificate would name it.
const UNTRUSTED: &str = "TLS failed; the schedule's own [source.tls] is for its own origin alone";

/// What is fetched, and within which bounds.
pub(super) struct Fetch {
    pub url: Url,
    /// What the origin is given besides: a credential, for one.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Whom the origin is trusted by, and what it is shown.
    pub tls: Arc<ClientConfig>,
    /// Private networks that may be reached all the same.
    pub listed: Vec<Network>,
    pub max_bytes: usize,
}

/// What one request came to.
enum Answer {
    Body(Vec<u8>),
    Elsewhere(String),
}

/// Where is asked next.
#[derive(Debug, Clone, PartialEq)]
struct Step {
    url: Url,
    /// Whether only the schedule's origin has led there.
    is_own: bool,
}

impl Fetch {
    /// The document's bytes.
    pub(super) async fn get(&self) -> Result<Vec<u8>, String> {
        let own = shown(&self.url);
        let mut step = self.first();
        for count in 0..=MAX_REDIRECTIONS {
            let redirected = if count > 0 {
                "after a redirection: "
            } else {
                ""
            };
            let wrong = |problem: String| format!("{own}: {redirected}{problem}");
            match self.ask(&step).await.map_err(wrong)? {
                Answer::Body(body) => return Ok(body),
                Answer::Elsewhere(location) => {
                    let next = self.redirected(&step, &location);
                    step = next.map_err(|problem| format!("{own}: {problem}"))?;
                }
            }
        }
        Err(format!(
            "{own}: redirected more than {MAX_REDIRECTIONS} times"
        ))
    }

    fn first(&self) -> Step {
        let url = self.url.clone();
        Step { url, is_own: true }
    }

    fn redirected(&self, from: &Step, location: &str) -> Result<Step, String> {
        let to = from.url.join(location);
        let to = to.map_err(|_| "redirected to what is no URL".to_owned())?;
        if let Some(problem) = url_problem(&to) {
            return Err(format!(
                "redirected to a URL that isn't followed: {problem}"
            ));
        }
        if from.url.scheme() == "https" && to.scheme() != "https" {
            return Err("redirected from https to http, which isn't followed".to_owned());
        }
        let is_own = from.is_own && to.origin() == self.url.origin();
        Ok(Step { url: to, is_own })
    }

    async fn ask(&self, step: &Step) -> Result<Answer, String> {
        let stream = self.connect(step).await?;
        let shaken = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.map_err(|e| plain(&e))?;
        let request = self.request(step)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|e| plain(&e))?;
            self.answer(response).await
        };
        let (mut exchange, mut connection) = (Box::pin(exchange), Box::pin(connection));
        tokio::select! {
            biased;
            done = &mut exchange => done,
            // What has come is still there to be read.
            _ended = &mut connection => exchange.await,
        }
    }

    fn request(&self, step: &Step) -> Result<Request<Empty<Bytes>>, String> {
        let url = &step.url;
        let path = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let mut host = url.host_str().unwrap_or_default().to_owned();
        if let Some(port) = url.port() {
            host = format!("{host}:{port}");
        }
        let mut request = Request::builder()
            .uri(path)
            .header(header::HOST, host)
            .header(header::ACCEPT, "application/json, application/x-ndjson")
            .header(header::ACCEPT_ENCODING, "identity")
            .header(header::CONNECTION, "close")
            .header(
                header::USER_AGENT,
                concat!("kiln/", env!("CARGO_PKG_VERSION")),
            );
        if step.is_own {
            for (name, value) in &self.headers {
                request = request.header(name, value);
            }
        }
        let request = request.body(Empty::new());
        request.map_err(|_| "the URL can't be asked for".to_owned())
    }

    async fn answer(&self, response: Response<Incoming>) -> Result<Answer, String> {
        let status = response.status();
        let headers = response.headers();
        let text = |name| {
            headers
                .get(name)
                .and_then(|value: &HeaderValue| value.to_str().ok())
        };
        let moved = [
            StatusCode::MOVED_PERMANENTLY,
            StatusCode::FOUND,
            StatusCode::SEE_OTHER,
            StatusCode::TEMPORARY_REDIRECT,
            StatusCode::PERMANENT_REDIRECT,
        ];
        if moved.contains(&status) {
            let location = text(header::LOCATION).map(str::to_owned);
            let location =
                location.ok_or_else(|| format!("answered {status} without a location"))?;
            return Ok(Answer::Elsewhere(location));
        }
        if !status.is_success() {
            return Err(format!("answered {status}"));
        }
        if text(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
            return Err("the answer is compressed, which wasn't asked for".to_owned());
        }
        let too_large = || format!("the answer is larger than max_bytes = {}", self.max_bytes);
        let mut rest = response.into_body();
        if rest.size_hint().lower() > self.max_bytes as u64 {
            return Err(too_large());
        }
        let mut body = Vec::new();
        while let Some(frame) = rest.frame().await {
            let frame = frame.map_err(|e| plain(&e))?;
            let Some(data) = frame.data_ref() else {
                continue;
            };
            if body.len() + data.len() > self.max_bytes {
                return Err(too_large());
            }
            body.extend_from_slice(data);
        }
        Ok(Answer::Body(body))
    }

    async fn connect(&self, step: &Step) -> Result<Box<dyn Wire>, String> {
        let config = match step.is_own || step.url.scheme() != "https" {
            true => self.tls.clone(),
            false => Arc::new(tls::Tls::default().client()?),
        };
        let allowed = Allowed::PublicAnd(&self.listed);
        let connected = outbound::connect(&step.url, allowed, MAX_ADDRESSES, config).await;
        connected.map_err(|error| match error {
            ConnectError::NoAddress => "has no address".to_owned(),
            ConnectError::Private => PRIVATE.to_owned(),
            ConnectError::Tls(said) if step.is_own => tls::explain(said),
            ConnectError::Tls(_) => UNTRUSTED.to_owned(),
            other => other.to_string(),
        })
    }
}

/// What is wrong with a URL to fetch.
pub(super) fn url_problem(url: &Url) -> Option<&'static str> {
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Some("expected http:// or https:// with a host");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Some("expected no user and password: give credentials under [source.headers]");
    }
    None
}

/// A URL without what may be secret.
pub(super) fn shown(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}"));
    let (host, port) = (url.host_str().unwrap_or_default(), port.unwrap_or_default());
    format!("{}://{host}{port}{}", url.scheme(), url.path())
}

/// What is wrong with a conversation, without what was said in it.
fn plain(error: &hyper::Error) -> String {
    let inner = std::error::Error::source(error);
    let inner = inner.and_then(|inner| inner.downcast_ref::<std::io::Error>());
    let has_ended = inner.is_some_and(|inner| inner.kind() == std::io::ErrorKind::UnexpectedEof);
    let what = if error.is_parse() {
        "the answer is no HTTP"
    } else if error.is_incomplete_message() || has_ended {
        "the connection ended before the answer did"
    } else {
        "the connection failed"
    };
    what.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().expect(text)
    }

    fn fetch(text: &str) -> Fetch {
        Fetch {
            url: url(text),
            headers: vec![(
                header::AUTHORIZATION,
                HeaderValue::from_static("Bearer hunter2"),
            )],
            tls: Arc::new(tls::Tls::default().client().expect("roots")),
            listed: Vec::new(),
            max_bytes: 1_000,
        }
    }

    #[test]
    fn secrets_go_to_the_schedules_origin_alone() {
        let has = |from: &str, to: &[&str]| {
            let fetch = fetch(from);
            let go = |step: Step, to: &&str| fetch.redirected(&step, to).expect(to);
            let step = to.iter().fold(fetch.first(), go);
            let request = fetch.request(&step).expect("a request");
            request.headers().contains_key(header::AUTHORIZATION)
        };
        let (own, other) = ("https://shop.example/top?n=3", "https://other.example/");
        assert!(has(own, &[]) && has(own, &["/other", "https://shop.example:443/"]));
        for other in ["https://shop.example:444/", other] {
            assert!(!has(own, &[other]), "{other}");
            assert!(!has(own, &[other, own]), "what {other} asks for");
        }
        assert!(!has("http://shop.example/", &["https://shop.example/"]));
    }

    #[test]
    fn a_redirection_keeps_to_http_and_to_encryption() {
        let fetch = fetch("https://shop.example/a/top");
        let to = |location: &str| fetch.redirected(&fetch.first(), location);
        assert_eq!(
            to("../b?x=1").map(|step| String::from(step.url)),
            Ok("https://shop.example/b?x=1".to_owned())
        );
        for wrong in [
            "http://shop.example/",
            "file:///etc/passwd",
            "https://a:hunter2@b/",
            "https://",
        ] {
            let said = to(wrong).expect_err(wrong);
            assert!(
                said.contains("redirected") && !said.contains("hunter2"),
                "{said}"
            );
        }
        let shown = shown(&url("https://a:hunter2@b:8/c?token=hunter2#d"));
        assert_eq!(shown, "https://b:8/c");
    }

    #[tokio::test]
    async fn a_private_address_is_refused_however_it_is_written() {
        for host in [
            "127.0.0.1",
            "localhost",
            "[::1]",
            "0x7f.1",
            "2130706433",
            "[::ffff:127.0.0.1]",
            "169.254.169.254",
        ] {
            let fetch = fetch(&format!("http://{host}:1/"));
            let said = fetch.get().await.expect_err(host);
            assert!(said.contains("private address"), "{host}: {said}");
        }
    }
}
