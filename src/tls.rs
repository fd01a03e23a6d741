//! Owns what connections to the servers are encrypted with: the files that settings name, and their contents.
//!
//! Promises that a certificate or key which can't be used is reported with its setting and file, and that new ones are used
//! from the next connection on, since they are replaced while workers run. Keys are never shown.

use crate::redact::Redact;
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use redis::{ClientTlsConfig, TlsCertificates};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

/// Whom an encrypted connection trusts, and its own identity. The files may be replaced while workers run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSettings {
    /// Certificates of the authorities to trust, in PEM; the system's authorities if absent.
    pub ca_file: Option<PathBuf>,
    /// This worker's certificate with its chain, in PEM, if the server asks for one.
    pub cert_file: Option<PathBuf>,
    /// The certificate's private key, in PEM, without a passphrase.
    pub key_file: Option<PathBuf>,
}

/// A file that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("setting `{setting}`: {problem}")]
pub struct TlsError {
    pub setting: String,
    pub problem: String,
}

/// The files' contents.
#[derive(Default)]
pub struct Tls {
    authorities: Option<Vec<u8>>,
    /// A certificate with its chain, and its key.
    identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// Reads the files that `settings` name; `server` is the part of the settings that they belong to.
    pub fn read(server: &str, settings: &TlsSettings) -> Result<Self, TlsError> {
        let file = |name: &str, path: &Path| {
            std::fs::read(path).map_err(|e| wrong(server, name, path, &e.redacted()))
        };
        let certificates = |name: &str, path: &Path| {
            let pem = file(name, path)?;
            let mut all = CertificateDer::pem_slice_iter(&pem).peekable();
            if all.peek().is_none() || all.any(|one| one.is_err()) {
                let expected = "expected certificates in PEM";
                return Err(wrong(server, name, path, expected));
            }
            Ok(pem)
        };
        let authorities = match &settings.ca_file {
            Some(path) => Some(certificates("ca_file", path)?),
            None => None,
        };
        let identity = match (&settings.cert_file, &settings.key_file) {
            (None, None) => None,
            (Some(cert), Some(key)) => {
                let chain = certificates("cert_file", cert)?;
                let pem = file("key_file", key)?;
                if PrivateKeyDer::from_pem_slice(&pem).is_err() {
                    let expected = "expected a private key in PEM, without a passphrase";
                    return Err(wrong(server, "key_file", key, expected));
                }
                Some((chain, pem))
            }
            (Some(_), None) => return Err(lacks(server, "key_file")),
            (None, Some(_)) => return Err(lacks(server, "cert_file")),
        };
        Ok(Self {
            authorities,
            identity,
        })
    }

    /// For the broker's client.
    pub fn amqp(self) -> OwnedTLSConfig {
        OwnedTLSConfig {
            identity: self
                .identity
                .map(|(pem, key)| OwnedIdentity::PKCS8 { pem, key }),
            cert_chain: self
                .authorities
                .map(|pem| String::from_utf8_lossy(&pem).into_owned()),
        }
    }

    /// For clients of HTTP.
    pub fn client(self) -> Result<ClientConfig, String> {
        let mut roots = RootCertStore::empty();
        match &self.authorities {
            Some(pem) => {
                let all = CertificateDer::pem_slice_iter(pem).flatten();
                roots.add_parsable_certificates(all);
            }
            // One that is broken isn't trusted, and the others are.
            None => {
                let all = rustls_native_certs::load_native_certs().certs;
                roots.add_parsable_certificates(all);
            }
        }
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|_| "no version of TLS can be used".to_owned())?
            .with_root_certificates(roots);
        let Some((chain, key)) = &self.identity else {
            return Ok(config.with_no_client_auth());
        };
        let chain = CertificateDer::pem_slice_iter(chain).flatten().collect();
        let key = PrivateKeyDer::from_pem_slice(key);
        let key = key.map_err(|_| "expected a private key in PEM".to_owned())?;
        let config = config.with_client_auth_cert(chain, key);
        config.map_err(|_| "the certificate and its key don't go together".to_owned())
    }

    /// For Redis's client.
    pub fn redis(self) -> TlsCertificates {
        TlsCertificates {
            client_tls: self
                .identity
                .map(|(client_cert, client_key)| ClientTlsConfig {
                    client_cert,
                    client_key,
                }),
            root_cert: self.authorities,
        }
    }
}

fn wrong(server: &str, name: &str, path: &Path, problem: &str) -> TlsError {
    TlsError {
        setting: format!("{server}.tls.{name}"),
        problem: format!("{}: {problem}", path.display()),
    }
}

fn lacks(server: &str, name: &str) -> TlsError {
    TlsError {
        setting: format!("{server}.tls.{name}"),
        problem: "expected a file: a certificate and its key go together".to_owned(),
    }
}

/// For the database's client, which reads the files itself whenever it connects. An authority without a mode in the URL means
/// that the server must prove who it is.
pub fn postgres(options: PgConnectOptions, url: &str, settings: &TlsSettings) -> PgConnectOptions {
    let mut options = options;
    if let Some(path) = &settings.ca_file {
        options = options.ssl_root_cert(path);
        if !url.contains("sslmode=") && !url.contains("ssl-mode=") {
            options = options.ssl_mode(PgSslMode::VerifyFull);
        }
    }
    if let (Some(cert), Some(key)) = (&settings.cert_file, &settings.key_file) {
        options = options.ssl_client_cert(cert).ssl_client_key(key);
    }
    options
}

/// What is wrong with an encrypted connection, in an operator's words, after what the client's library says.
pub fn explain(error: String) -> String {
    let says = |what: &[&str]| what.iter().any(|one| error.contains(one));
    let words = if says(&["UnknownIssuer", "BadSignature"]) {
        "the server's certificate is from an authority that isn't trusted: see tls.ca_file"
    } else if says(&[
        "NotValidForName",
        "not valid for name",
        "not valid for any names",
    ]) {
        "the server's certificate is for another name than the URL's"
    } else if says(&["certificate expired", "peer certificate: Expired"]) {
        "the server's certificate has expired"
    } else if says(&["CertificateRequired", "certificate required"]) {
        "the server wants a certificate: see tls.cert_file and tls.key_file"
    } else if says(&[
        "UnknownCA",
        "unknown ca",
        "CertificateUnknown",
        "BadCertificate",
    ]) {
        "the server doesn't take the certificate in tls.cert_file"
    } else if says(&[
        "InvalidContentType",
        "does not support TLS",
        "speaks plaintext there",
    ]) {
        "the server speaks plaintext there, and TLS was asked for"
    } else {
        return error;
    };
    format!("{words} ({error})")
}
