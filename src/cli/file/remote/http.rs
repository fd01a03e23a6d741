//! Owns the HTTP that object stores are spoken to with: hyper and the TLS that the rest of Kiln has.
//!
//! Promises that every wait has a deadline, and that what is known of an error afterwards is its kind alone.

use crate::{redact::Redact, tls};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    Request, Uri,
    body::{Body, Frame},
    header::{HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
        HttpResponseBody, HttpService,
    },
};
use rustls_pki_types::ServerName;
use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    runtime::Handle,
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::{TlsConnector, rustls::ClientConfig};

/// Waits for a connection, for an answer, and for more of its body.
const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(60);
const IDLE: Duration = Duration::from_secs(30);
/// Pieces of a body that wait to be read.
const FRAMES: usize = 4;

/// What went wrong last.
#[derive(Debug, Default)]
pub(super) struct Problem(Mutex<Option<String>>);

impl Problem {
    pub fn last(&self) -> Option<String> {
        let last = self.0.lock();
        last.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, what: String) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(what);
    }

    fn failed(&self, kind: HttpErrorKind, what: String) -> HttpError {
        self.note(what);
        // The library may log what it is given.
        HttpError::new(kind, io::Error::from(io::ErrorKind::Other))
    }
}

/// Makes requests, each on a connection of its own.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    tls: Arc<ClientConfig>,
    problem: Arc<Problem>,
}

impl Connector {
    pub fn new(problem: Arc<Problem>) -> anyhow::Result<Self> {
        let tls = tls::Tls::default().client().map_err(anyhow::Error::msg)?;
        Ok(Self {
            tls: Arc::new(tls),
            problem,
        })
    }

    async fn connect(&self, uri: &Uri) -> Result<Box<dyn Wire>, String> {
        let host = uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_encrypted = uri.scheme_str() == Some("https");
        let port = uri
            .port_u16()
            .unwrap_or(if is_encrypted { 443 } else { 80 });
        let connected = timeout(CONNECT, TcpStream::connect((host, port))).await;
        let stream = match connected {
            Ok(connected) => connected.map_err(|error| error.redacted())?,
            Err(_) => return Err("no connection in time".to_owned()),
        };
        if !is_encrypted {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|_| "its host is no name for TLS".to_owned())?;
        let connector = TlsConnector::from(self.tls.clone());
        match timeout(CONNECT, connector.connect(name, stream)).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => Err(tls::explain(error.redacted())),
            Err(_) => Err("no connection in time".to_owned()),
        }
    }

    async fn ask(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let failed = |kind, what: String| self.problem.failed(kind, what);
        let (mut parts, body) = request.into_parts();
        let stream = self.connect(&parts.uri).await;
        let stream = stream.map_err(|what| failed(HttpErrorKind::Connect, what))?;
        let cut = |_| failed(HttpErrorKind::Request, "the connection was cut".to_owned());
        let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (mut sender, connection) = shaken.await.map_err(cut)?;
        // It ends with the answer's body, or with whoever reads it.
        Handle::current().spawn(connection);
        if let Some(authority) = parts.uri.authority()
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            parts.headers.entry(HOST).or_insert(host);
        }
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        parts.uri = path.parse().unwrap_or_default();
        let answer = timeout(
            ANSWER,
            sender.send_request(Request::from_parts(parts, body)),
        )
        .await;
        let answer =
            answer.map_err(|_| failed(HttpErrorKind::Timeout, "no answer in time".to_owned()))?;
        let (parts, mut body) = answer.map_err(cut)?.into_parts();
        if parts.status.is_client_error() || parts.status.is_server_error() {
            self.problem
                .note(format!("status {}", parts.status.as_u16()));
        }
        let (frames, received) = mpsc::channel(FRAMES);
        let problem = self.problem.clone();
        Handle::current().spawn(async move {
            // As long as the answer is read, its connection is.
            let _sender = sender;
            loop {
                let frame =
                    match timeout(IDLE, body.frame()).await {
                        Ok(None) => return,
                        Ok(Some(Ok(frame))) => match frame.into_data() {
                            Ok(bytes) => Ok(bytes),
                            Err(_) => continue,
                        },
                        Ok(Some(Err(_))) => Err(problem.failed(
                            HttpErrorKind::Interrupted,
                            "the connection was cut".to_owned(),
                        )),
                        Err(_) => Err(problem
                            .failed(HttpErrorKind::Timeout, "no more came in time".to_owned())),
                    };
                let is_over = frame.is_err();
                if frames.send(frame).await.is_err() || is_over {
                    return;
                }
            }
        });
        let body = HttpResponseBody::new(Frames(received));
        Ok(HttpResponse::from_parts(parts, body))
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

impl HttpService for Connector {
    fn call<'s, 'a>(
        &'s self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'a>>
    where
        's: 'a,
        Self: 'a,
    {
        Box::pin(self.ask(request))
    }
}

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<W: AsyncRead + AsyncWrite + Send + Unpin> Wire for W {}

/// An answer's body as it comes.
struct Frames(mpsc::Receiver<Result<Bytes, HttpError>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let frame = self.0.poll_recv(context);
        frame.map(|frame| frame.map(|bytes| bytes.map(Frame::data)))
    }
}
