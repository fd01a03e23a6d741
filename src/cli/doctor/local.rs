//! What `kiln doctor` looks at on this machine: settings, models, the HTTP address and the embedded database.
//!
//! Promises to create nothing: a file that isn't there isn't made by looking.

use super::check::Check;
use crate::{
    config::{Loaded, Settings},
    health::Readiness,
    redact::Redact,
};
use kiln_model::{InputKind, ListedModel, PairRule, Registry};
use std::{
    fs,
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const HTTP: &str = "http address";
const MODELS: &str = "models";
const EMBEDDED: &str = "embedded database";
/// Longest wait for whoever holds the HTTP address.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 16 << 10;

/// Where the settings came from. That they can be used is known: otherwise the command would have ended.
pub(super) fn settings(loaded: &Loaded) -> Check {
    let set = loaded
        .effective()
        .iter()
        .filter(|s| s.source.starts_with("environment"))
        .count();
    let file = match &loaded.file {
        Some(file) => file.display().to_string(),
        None => "no file".into(),
    };
    Check::ok(
        "settings",
        format!("{file}; {set} settings from the environment"),
    )
}

/// Every version with its golden inputs, and everything that is wrong in the models' folder; and the models, where they could be opened.
pub(super) async fn models(settings: &Settings) -> (Vec<Check>, Option<Arc<Registry>>) {
    let models = settings.models.clone();
    let dir = models.dir.display().to_string();
    // Loading runs every golden input: as long as that takes, and never on the runtime's threads.
    let opened = tokio::task::spawn_blocking(move || Registry::open(&models)).await;
    let registry = match opened {
        Ok(Ok(registry)) => registry,
        Ok(Err(error)) => {
            let check = Check::fail(MODELS, error.to_string(), "correct the setting");
            return (vec![check], None);
        }
        Err(error) => {
            let check = Check::fail(MODELS, error.redacted(), "report this as a bug");
            return (vec![check], None);
        }
    };
    let mut checks: Vec<Check> = registry.list().iter().map(served).collect();
    for replaced in registry.replaced_backends() {
        let repair = "mend the device or its driver, or choose another backend in models.backend and models.backends";
        checks.push(Check::warn(MODELS, replaced, repair));
    }
    for problem in registry.problems() {
        let repair = match problem.may_pass {
            true => {
                "make room for it, or wait: a running worker tries it again after 30 s, and then less and less often, down to every 8 min"
            }
            false => "fix or remove it; a running worker sees within 2 s that its files changed",
        };
        let (name, advice) = match (&problem.model, &problem.version) {
            (Some(model), Some(version)) => (format!("model {model}@{version}"), repair),
            (Some(model), None) => (format!("model {model}"), repair),
            _ => (
                MODELS.to_owned(),
                "name the models' folder with KILN_MODELS_DIR",
            ),
        };
        checks.push(Check::fail(name, problem.to_string(), advice));
    }
    if registry.list().is_empty() && registry.problems().is_empty() {
        let advice = "put a model there, or name another folder with KILN_MODELS_DIR";
        checks.push(Check::fail(MODELS, format!("none in {dir}"), advice));
    }
    (checks, Some(registry))
}

fn served(model: &ListedModel) -> Check {
    let info = &model.info;
    let takes = match info.input {
        InputKind::Text { pair } => match pair {
            PairRule::None => "text".to_owned(),
            PairRule::Optional => "text or pairs of texts".to_owned(),
            PairRule::Required => "pairs of texts".to_owned(),
        },
        InputKind::Features { count } => format!("{count} features"),
    };
    let active = if model.active { ", active" } else { "" };
    Check::ok(
        format!("model {}@{}", info.name, info.version),
        format!(
            "{} of {takes}, {} golden inputs hold{active}",
            info.architecture, info.golden
        ),
    )
}

/// Whether the address is free, or held by a worker.
pub(super) async fn http(settings: &Settings) -> Check {
    let addr = settings.http.addr;
    match TcpListener::bind(addr) {
        Ok(_) => Check::ok(HTTP, format!("{addr} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let mut there = addr;
            if there.ip().is_unspecified() {
                there.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
            }
            match tokio::time::timeout(PATIENCE, is_worker(there)).await {
                Ok(Ok(true)) => worker(addr, there).await,
                _ => Check::warn(
                    HTTP,
                    format!("{addr} is held by another program"),
                    "stop that one, or choose another address with KILN_HTTP_ADDR",
                ),
            }
        }
        Err(error) => Check::fail(
            HTTP,
            format!("{addr}: {}", error.redacted()),
            "choose an address of this machine with KILN_HTTP_ADDR",
        ),
    }
}

/// Whether Kiln's liveness answers there.
async fn is_worker(addr: SocketAddr) -> std::io::Result<bool> {
    let answer = get(addr, "/livez").await?;
    Ok(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nok\n"))
}

/// What the worker there says of itself, in its own words.
async fn worker(addr: SocketAddr, there: SocketAddr) -> Check {
    let answer = tokio::time::timeout(PATIENCE, get(there, "/readyz")).await;
    let answer = answer.ok().and_then(Result::ok).unwrap_or_default();
    let said = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let said: Vec<&str> = said.lines().collect();
    let found = match said.as_slice() {
        [] => format!("{addr} is held by a running worker, which doesn't say whether it is ready"),
        said => format!("{addr} is held by a running worker: {}", said.join("; ")),
    };
    if said == [Readiness::Ready.as_str()] {
        Check::ok(HTTP, found)
    } else {
        let advice = "see `GET /health` there, and ops/runbook.md: KilnNotReady, KilnDegraded";
        Check::warn(HTTP, found, advice)
    }
}

/// What is answered to a GET, head and body.
async fn get(addr: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(addr).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The SQLite file, which is used where no database is configured.
pub(super) fn embedded(settings: &Settings) -> Option<Check> {
    if settings.database.url.is_some() {
        return None;
    }
    let path = &settings.embedded.path;
    Some(match writable(path) {
        Ok(true) => Check::ok(EMBEDDED, format!("{} is there", path.display())),
        Ok(false) => Check::ok(
            EMBEDDED,
            format!("{} is created when it is needed", path.display()),
        ),
        Err(problem) => Check::fail(
            EMBEDDED,
            format!("{}: {problem}", path.display()),
            "name another file with KILN_EMBEDDED__PATH",
        ),
    })
}

/// Whether the file is there; an error where it, or its folder, can't be written.
fn writable(path: &Path) -> Result<bool, String> {
    match fs::OpenOptions::new().read(true).append(true).open(path) {
        Ok(_) => return Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error.redacted()),
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let about = fs::metadata(folder).map_err(|e| format!("its folder: {}", e.redacted()))?;
    if !about.is_dir() {
        return Err("its folder is a file".into());
    }
    if about.permissions().readonly() {
        return Err("its folder can't be written".into());
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::check::Status;

    #[test]
    fn the_embedded_file_is_looked_at_and_not_made() {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("kiln.db");
        assert_eq!(writable(&file), Ok(false));
        assert!(!file.exists());
        fs::write(&file, b"").expect("write");
        assert_eq!(writable(&file), Ok(true));
        assert!(writable(&dir.path().join("no/kiln.db")).is_err());
        assert!(writable(&file.join("kiln.db")).is_err());
    }

    #[tokio::test]
    async fn an_address_is_free_or_held() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut settings = Settings::default();
        settings.http.addr = listener.local_addr().expect("its address");
        listener.set_nonblocking(true).expect("a setting");
        let stranger = tokio::net::TcpListener::from_std(listener).expect("the listener");
        let held = tokio::join!(http(&settings), async {
            // A program that closes each connection at once.
            drop(stranger.accept().await);
        });
        assert_eq!(held.0.status, Status::Warn, "{:?}", held.0);
        drop(stranger);
        assert_eq!(http(&settings).await.status, Status::Ok);
    }
}
