//! A private authority, and the certificates of servers and clients that it and a stranger have signed.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

use super::sandbox;

/// The files, deleted when dropped.
pub struct Certificates {
    folder: PathBuf,
}

/// An authority.
struct Authority(Issuer<'static, KeyPair>);

impl Certificates {
    /// `ca`, and `other-ca` that signs for nobody; `server` and `expired` for the name `localhost` alone; `client` and, of the
    /// other authority, `stranger`.
    pub fn new() -> Self {
        let folder = sandbox::folder("certificates");
        let write = |name: &str, text: &str| fs::write(folder.join(name), text).expect("a file");
        let authority = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).expect("no names");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, name);
            let key = KeyPair::generate().expect("a key");
            let own = params.self_signed(&key).expect("a certificate");
            write(&format!("{name}.pem"), &own.pem());
            Authority(Issuer::new(params, key))
        };
        let (ca, other) = (authority("ca"), authority("other-ca"));
        let signed = |by: &Authority, name: &str, host: &str, last_year: i32| {
            let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a name");
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(last_year, 1, 1);
            let key = KeyPair::generate().expect("a key");
            let pem = params.signed_by(&key, &by.0).expect("a certificate").pem();
            write(&format!("{name}.pem"), &pem);
            write(&format!("{name}.key"), &key.serialize_pem());
        };
        signed(&ca, "server", "localhost", 2200);
        signed(&ca, "expired", "localhost", 2021);
        signed(&ca, "client", "kiln", 2200);
        signed(&other, "stranger", "kiln", 2200);
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Copies a certificate and its key to where a server reads them.
    pub fn give(&self, name: &str, folder: &Path) {
        for kind in ["pem", "key"] {
            let from = self.path(&format!("{name}.{kind}"));
            fs::copy(from, folder.join(format!("tls.{kind}"))).expect("a copy");
        }
        fs::copy(self.path("ca.pem"), folder.join("tls-ca.pem")).expect("a copy");
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}
