//! A Kiln worker as an operator runs it: the real binary, settings in its environment, logs on its standard error.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fs, thread};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::sandbox;
use super::{PATIENCE, eventually, eventually_equals};

const SHOWN_LINES: usize = 80;

/// What a worker is started with.
#[derive(Clone)]
pub struct Settings {
    variables: BTreeMap<String, String>,
    models: Vec<String>,
    allowed: Vec<String>,
    any_trouble: bool,
    program: PathBuf,
    /// The address that it listens on.
    host: String,
}

impl Settings {
    /// The three servers; the `fault` model; quick retries, so that a test sees the end of them.
    pub fn new(amqp_url: &str, redis_url: &str, database_url: &str) -> Self {
        let settings = Self {
            variables: BTreeMap::new(),
            models: Vec::new(),
            allowed: Vec::new(),
            any_trouble: false,
            program: env!("CARGO_BIN_EXE_kiln").into(),
            host: "127.0.0.1".to_owned(),
        };
        settings
            .set("KILN_AMQP_URL", amqp_url)
            .set("KILN_REDIS_URL", redis_url)
            .set("KILN_DATABASE_URL", database_url)
            .set("KILN_LOG__FORMAT", "json")
            .set("KILN_RETRY__DELAYS_MS", "[100,200]")
            .set("KILN_RETRY__MAX_TRIES", "3")
            .models(&["fault"])
    }

    /// Nothing but these variables, as a container has them; only the number of the port and the folder of models are the test's own.
    pub fn only(mut variables: BTreeMap<String, String>) -> Self {
        variables.remove("KILN_MODELS_DIR");
        let addr = variables.remove("KILN_HTTP_ADDR").expect("an address");
        let (host, _) = addr.rsplit_once(':').expect("a port");
        Self {
            host: host.to_owned(),
            variables,
            models: Vec::new(),
            allowed: Vec::new(),
            any_trouble: false,
            program: env!("CARGO_BIN_EXE_kiln").into(),
        }
    }

    /// One more environment variable, or another value for one.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The models it is given, of those that the repository ships or keeps for its tests.
    pub fn models(mut self, names: &[&str]) -> Self {
        self.models = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    /// Another release's binary.
    pub fn program(mut self, program: &Path) -> Self {
        self.program = program.to_owned();
        self
    }

    /// A WARN or ERROR line that contains `text` is expected.
    pub fn allow(mut self, text: &str) -> Self {
        self.allowed.push(text.to_owned());
        self
    }

    /// Servers will fail under it: any WARN or ERROR line is expected.
    pub fn expect_trouble(mut self) -> Self {
        self.any_trouble = true;
        self
    }

    /// Starts the worker and doesn't wait for it.
    pub fn spawn(self) -> Worker {
        let folder = sandbox::folder("worker");
        let models = folder.join("models");
        for name in &self.models {
            copy_folder(&model_folder(name), &models.join(name));
        }
        let http_port = sandbox::free_port();
        let mut command = sandbox::clean_command(&self.program, &folder);
        command
            .arg("run")
            .env("KILN_HTTP_ADDR", format!("{}:{http_port}", self.host))
            .env("KILN_MODELS_DIR", &models)
            .envs(&self.variables);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the worker's binary starts");
        let lines = Arc::default();
        capture(child.stdout.take().expect("a pipe"), Arc::clone(&lines));
        capture(child.stderr.take().expect("a pipe"), Arc::clone(&lines));
        Worker {
            http_port,
            folder,
            child: Mutex::new(child),
            lines,
            settings: self,
        }
    }

    /// Starts the worker and waits until it is ready.
    pub async fn start(self) -> Worker {
        let worker = self.spawn();
        worker.wait_ready().await;
        worker
    }
}

/// A running worker; killed when dropped, and the drop fails the test where the log holds unexpected trouble.
pub struct Worker {
    pub http_port: u16,
    folder: PathBuf,
    child: Mutex<Child>,
    lines: Arc<Mutex<Vec<String>>>,
    settings: Settings,
}

/// What a worker holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub rss_kib: usize,
    /// Open files, sockets among them.
    pub handles: usize,
    pub sockets: usize,
    pub tasks: usize,
}

/// An answer of the HTTP port.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// The status line and headers, in lower case.
    pub head: String,
    pub body: String,
}

impl Answer {
    /// The body as JSON; null where it isn't.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

impl Worker {
    /// Waits until `/readyz` answers 200; fails at once where the worker has ended.
    pub async fn wait_ready(&self) {
        eventually("the worker is ready", PATIENCE, || async {
            let ended = self.ended();
            assert!(
                ended.is_none(),
                "the worker ended before it was ready: {}",
                ended.unwrap_or_default()
            );
            self.is_ready().await.then_some(())
        })
        .await;
    }

    /// Waits until `/readyz` answers, and not with 200.
    pub async fn wait_not_ready(&self) {
        eventually("the worker says that it is not ready", PATIENCE, || async {
            matches!(self.get("/readyz").await, Some((status, _)) if status != 200).then_some(())
        })
        .await;
    }

    pub async fn is_ready(&self) -> bool {
        matches!(self.get("/readyz").await, Some((200, _)))
    }

    /// A GET on the worker's HTTP port: the status and the body, or `None` where nobody answers.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        let answer = self.ask("GET", path, &[], b"").await?;
        Some((answer.status, answer.body))
    }

    /// One request on the worker's HTTP port, or `None` where nobody answers.
    pub async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Option<Answer> {
        ask(self.http_port, method, path, headers, body).await
    }

    /// The sum of all series of `name` that carry `labels`, which may carry others too; 0 where there is none.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let series = self.metrics().await;
        let matching = series.iter().filter(|(series, _)| {
            let (metric, rest) = series.split_once('{').unwrap_or((series, ""));
            metric == name
                && labels
                    .iter()
                    .all(|(label, value)| rest.contains(&format!("{label}=\"{value}\"")))
        });
        matching.map(|(_, value)| value).sum()
    }

    /// Waits until it has so many jobs in hand.
    pub async fn wait_in_hand(&self, jobs: usize) {
        let what = "jobs in the worker's hands";
        eventually_equals(what, PATIENCE, jobs as f64, || {
            self.metric("kiln_jobs_in_hand", &[])
        })
        .await;
    }

    /// All of `/metrics`, by series as it is written there.
    pub async fn metrics(&self) -> BTreeMap<String, f64> {
        let page = eventually("the worker's metrics", PATIENCE, || self.get("/metrics")).await;
        assert_eq!(page.0, 200, "/metrics answers {}", page.0);
        let lines = page.1.lines().filter(|line| !line.starts_with('#'));
        lines
            .filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(s, v)| Some((s.to_owned(), v.parse().ok()?)))
            .collect()
    }

    /// Waits for a line of its output that `wanted` accepts, and gives it.
    pub async fn wait_for_line(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        eventually(what, PATIENCE, || async {
            self.lines().into_iter().find(|line| wanted(line))
        })
        .await
    }

    /// All that it wrote so far, standard output and standard error as they came.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("no panic while locked").clone()
    }

    /// What it holds of the machine and of its runtime now.
    pub async fn usage(&self) -> Usage {
        let pid = self.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let rss = rss.and_then(|rss| rss.trim().strip_suffix(" kB"));
        let files = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten();
        let links = files
            .flatten()
            .filter_map(|file| fs::read_link(file.path()).ok());
        let links: Vec<PathBuf> = links.collect();
        Usage {
            rss_kib: rss.and_then(|rss| rss.trim().parse().ok()).unwrap_or(0),
            handles: links.len(),
            sockets: links
                .iter()
                .filter(|link| link.to_string_lossy().starts_with("socket:"))
                .count(),
            tasks: self.metric("kiln_tasks", &[]).await as usize,
        }
    }

    pub fn pid(&self) -> i32 {
        self.child.lock().expect("no panic while locked").id() as i32
    }

    /// The processes that work for it now, without its own.
    pub fn other_processes(&self) -> Vec<i32> {
        let mut all = sandbox::processes_under(&self.folder);
        all.retain(|pid| *pid != self.pid() && sandbox::is_running(*pid));
        all
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        self.ended().is_none()
    }

    /// Asks it to stop in good order.
    pub fn terminate(&self) {
        sandbox::signal(&[self.pid()], libc::SIGTERM);
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill(&self) {
        let mut child = self.child.lock().expect("no panic while locked");
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Stops the process in its tracks: its connections stay open.
    pub fn pause(&self) {
        sandbox::signal(&[self.pid()], libc::SIGSTOP);
    }

    /// Ends [`Worker::pause`].
    pub fn resume(&self) {
        sandbox::signal(&[self.pid()], libc::SIGCONT);
    }

    /// Waits until it has ended.
    pub async fn wait_exit(&self, deadline: Duration) -> ExitStatus {
        eventually("the worker ends", deadline, || async {
            self.child
                .lock()
                .expect("no panic while locked")
                .try_wait()
                .expect("the worker is our child")
        })
        .await
    }

    /// How long it took from the signal to its last line, by its own log.
    pub fn stop_took(&self) -> Duration {
        let at = |message: &str| {
            let lines = self.lines();
            let line = lines.iter().find(|line| line.contains(message));
            let line = line.unwrap_or_else(|| panic!("no line says {message}"));
            let line: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
            let at = line["timestamp"].as_str().expect("a timestamp");
            chrono::DateTime::parse_from_rfc3339(at).expect("a timestamp")
        };
        let took = at("\"stopped\"") - at("stopping: no new jobs and requests");
        took.to_std().expect("the end comes last")
    }

    /// SIGTERM, and the exit status must be 0.
    pub async fn stop(&self) {
        self.terminate();
        let status = self.wait_exit(PATIENCE).await;
        assert!(
            status.success(),
            "a worker that is asked to stop exits with 0, not {status}"
        );
    }

    /// Fails where the log holds a WARN or ERROR line, or a panic, that the test did not expect.
    pub fn expect_clean_log(&self) {
        let lines = self.lines();
        let unexpected: Vec<&String> = lines
            .iter()
            .filter(|line| is_trouble(line) && !self.allows(line))
            .collect();
        assert!(
            unexpected.is_empty(),
            "the worker's log holds trouble that the test did not expect: {unexpected:#?}"
        );
    }

    fn allows(&self, line: &str) -> bool {
        // How long a statement takes on a busy machine says nothing of the worker.
        if line.contains("slow statement") {
            return true;
        }
        self.settings.any_trouble || self.settings.allowed.iter().any(|text| line.contains(text))
    }

    fn ended(&self) -> Option<String> {
        let status = self
            .child
            .lock()
            .expect("no panic while locked")
            .try_wait()
            .expect("the worker is our child");
        status.map(|status| match status.signal() {
            Some(signal) => format!("killed by signal {signal}"),
            None => status.to_string(),
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Ok(child) = self.child.get_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
        if thread::panicking() {
            let lines = self
                .lines
                .lock()
                .map(|lines| lines.clone())
                .unwrap_or_default();
            let skipped = lines.len().saturating_sub(SHOWN_LINES);
            eprintln!("the worker's output, without its first {skipped} lines:");
            lines
                .iter()
                .skip(skipped)
                .for_each(|line| eprintln!("  {line}"));
        } else {
            self.expect_clean_log();
        }
    }
}

/// Reads lines until the worker closes its end; the thread ends with it.
fn capture(pipe: impl Read + Send + 'static, lines: Arc<Mutex<Vec<String>>>) {
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            lines.lock().expect("no panic while locked").push(line);
        }
    });
}

fn is_trouble(line: &str) -> bool {
    match serde_json::from_str::<Value>(line) {
        Ok(record) => matches!(record["level"].as_str(), Some("WARN" | "ERROR")),
        Err(_) => line.contains("panicked at"),
    }
}

/// The folder of a model that the repository ships or keeps for its tests.
pub fn model_folder(name: &str) -> PathBuf {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let places = [
        repository.join("tests/fixtures/models"),
        repository.join("models"),
    ];
    let found = places
        .iter()
        .map(|place| place.join(name))
        .find(|folder| folder.is_dir());
    found.unwrap_or_else(|| panic!("there is no model {name} under {places:?}"))
}

/// Copies a folder with all that is in it.
pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the worker's folder is writable");
    for entry in fs::read_dir(from).expect("a model's folder").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a copy of a model's file");
        }
    }
}

/// One request on a port of this machine, or `None` where nobody answers.
pub async fn ask(
    port: u16,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Option<Answer> {
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let request = [head.as_bytes(), b"\r\n", body].concat();
        stream.write_all(&request).await.ok()?;
        let mut answer = Vec::new();
        // Some servers leave the connection open though they were asked not to.
        while !is_whole(&answer) && stream.read_buf(&mut answer).await.ok()? > 0 {}
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let (head, body) = (head.to_lowercase(), body.to_owned());
        Some(Answer {
            status: head.split(' ').nth(1)?.parse().ok()?,
            body: if head.contains("transfer-encoding: chunked") {
                unchunked(&body)?
            } else {
                body
            },
            head,
        })
    };
    timeout(Duration::from_secs(15), exchange)
        .await
        .ok()
        .flatten()
}

/// Whether an answer has as long a body as it says.
fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|w| w == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .and_then(|text| text.trim().parse::<usize>().ok());
    length.is_some_and(|length| answer.len() >= end + 4 + length)
}

/// A body that came in chunks, each behind its length.
fn unchunked(mut body: &str) -> Option<String> {
    let mut whole = String::new();
    loop {
        let (length, rest) = body.split_once("\r\n")?;
        let length = usize::from_str_radix(length.trim(), 16).ok()?;
        if length == 0 {
            return Some(whole);
        }
        whole.push_str(rest.get(..length)?);
        body = rest.get(length..)?.strip_prefix("\r\n")?;
    }
}
