//! A web server that takes callbacks, on a port of its own, in plaintext or encrypted, and answers by the path.

use std::fs;
use std::sync::{Arc, Mutex};

use hmac::{Hmac, Mac};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::Value;
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{ServerConfig, crypto::ring};

use super::certificates::Certificates;
use super::{PATIENCE, eventually};

/// What callbacks are signed with where a test says nothing else.
pub const SECRET: &str = "a secret of thirty-two characters";

/// What came to a receiver.
#[derive(Clone)]
pub struct Posted {
    pub path: String,
    pub delivery: String,
    pub body: String,
    signature: String,
}

impl Posted {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    /// Checks the signature as a receiver does.
    pub fn expect_signed(&self) {
        self.expect_signed_by(SECRET);
    }

    /// The same for a receiver with another secret.
    pub fn expect_signed_by(&self, secret: &str) {
        let (seconds, signed) = self.signature.split_once(",v1=").expect("two parts");
        let seconds = seconds.strip_prefix("t=").expect("a moment");
        let moment: i64 = seconds.parse().expect("seconds");
        let age = chrono::Utc::now().timestamp() - moment;
        assert!((0..=60).contains(&age), "{age} s old");
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key");
        mac.update(format!("{seconds}.{}.{}", self.delivery, self.body).as_bytes());
        let signed = hex::decode(signed).expect("hexadecimal digits");
        mac.verify_slice(&signed).expect("the signature");
    }
}

/// The receiver. It ends with its test's runtime.
pub struct Receiver {
    name: &'static str,
    port: u16,
    posted: Arc<Mutex<Vec<Posted>>>,
    is_silent: Arc<Mutex<bool>>,
}

impl Receiver {
    pub async fn start() -> Self {
        Self::with("127.0.0.1", None).await
    }

    /// One that speaks TLS as `localhost`, with one of these certificates.
    pub async fn encrypted(certificates: &Certificates, name: &str) -> Self {
        let read = |kind: &str| {
            fs::read(certificates.path(&format!("{name}.{kind}"))).expect("a certificate's file")
        };
        let chain = CertificateDer::pem_slice_iter(&read("pem"))
            .collect::<Result<Vec<_>, _>>()
            .expect("certificates");
        let key = PrivateKeyDer::from_pem_slice(&read("key")).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a certificate");
        Self::with("localhost", Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn with(name: &'static str, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let receiver = Self {
            name,
            port: listener.local_addr().expect("an address").port(),
            posted: Arc::default(),
            is_silent: Arc::default(),
        };
        let (posted, is_silent) = (receiver.posted.clone(), receiver.is_silent.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(take(stream, tls.clone(), posted.clone(), is_silent.clone()));
            }
        });
        receiver
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn host(&self) -> String {
        format!("{}:{}", self.name, self.port)
    }

    pub fn url(&self, path: &str) -> String {
        let scheme = match self.name {
            "localhost" => "https",
            _ => "http",
        };
        format!("{scheme}://{}{path}", self.host())
    }

    /// Whether it never answers from now on.
    pub fn set_silent(&self, is_silent: bool) {
        *self.is_silent.lock().expect("no panic") = is_silent;
    }

    /// How many came.
    pub fn count(&self) -> usize {
        self.posted.lock().expect("no panic").len()
    }

    /// What came to a path.
    pub fn at(&self, path: &str) -> Vec<Posted> {
        let posted = self.posted.lock().expect("no panic");
        posted
            .iter()
            .filter(|one| one.path == path)
            .cloned()
            .collect()
    }

    pub async fn wait_for(&self, path: &str, count: usize) -> Vec<Posted> {
        eventually(path, PATIENCE, || async {
            Some(self.at(path)).filter(|all| all.len() >= count)
        })
        .await
    }
}

async fn take(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    posted: Arc<Mutex<Vec<Posted>>>,
    silent: Arc<Mutex<bool>>,
) {
    let Some(tls) = tls else {
        return serve(stream, posted, silent).await;
    };
    if let Ok(stream) = tls.accept(stream).await {
        serve(stream, posted, silent).await;
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    posted: Arc<Mutex<Vec<Posted>>>,
    silent: Arc<Mutex<bool>>,
) {
    let mut bytes = Vec::new();
    let one = loop {
        let mut more = [0; 4096];
        let read = stream.read(&mut more).await.unwrap_or_default();
        bytes.extend_from_slice(&more[..read]);
        if let Some(one) = whole(&bytes) {
            break one;
        }
        if read == 0 {
            return;
        }
    };
    let path = one.path.clone();
    let count = {
        let mut posted = posted.lock().expect("no panic");
        posted.push(one);
        posted.iter().filter(|one| one.path == path).count()
    };
    let is_silent = *silent.lock().expect("no panic");
    if is_silent {
        // It never answers, until the other side goes.
        let _gone = stream.read(&mut [0; 16]).await;
        return;
    }
    let status = match path.as_str() {
        "/flaky" if count == 1 => "500 Oops",
        "/moved" if count == 1 => "302 Found\r\nlocation: /elsewhere",
        "/gone" => "410 Gone",
        "/never" => "500 Oops",
        _ => "204 No Content",
    };
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
    let _gone = stream.write_all(answer.as_bytes()).await;
    let _gone = stream.shutdown().await;
}

/// A request that is there as a whole.
fn whole(bytes: &[u8]) -> Option<Posted> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let field = |name: &str| {
        let mut lines = head.lines();
        lines.find_map(|line| line.strip_prefix(name).map(str::to_owned))
    };
    let length: usize = field("content-length: ")?.parse().ok()?;
    let body = bytes.get(end..end + length)?;
    assert_eq!(field("content-type: ").as_deref(), Some("application/json"));
    Some(Posted {
        path: head.split(' ').nth(1).expect("a path").to_owned(),
        delivery: field("kiln-delivery: ").expect("an id"),
        signature: field("kiln-signature: ").expect("a signature"),
        body: String::from_utf8(body.to_vec()).expect("UTF-8"),
    })
}
