//! Private Redis servers without persistence: what was in one is gone after a restart.

use std::fs;
use std::ops::Deref;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, FromRedisValue, RedisResult};

use super::certificates::Certificates;
use super::sandbox;
use super::{PATIENCE, eventually};

/// One process; stopped until [`Server::start`], and killed when dropped.
pub struct Server {
    pub port: u16,
    pub(super) folder: PathBuf,
    pub(super) arguments: Vec<String>,
    running: Mutex<Option<Child>>,
}

impl Server {
    /// A server without persistence, with these further arguments.
    pub fn prepare(arguments: &[&str]) -> Self {
        let port = sandbox::free_port();
        let port_text = port.to_string();
        let own = [
            "--port",
            &port_text,
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--io-threads",
            "1",
            "--repl-diskless-sync-delay",
            "0",
        ];
        let arguments = own.iter().chain(arguments);
        Self {
            port,
            folder: sandbox::folder("redis"),
            arguments: arguments.map(|one| (*one).to_owned()).collect(),
            running: Mutex::default(),
        }
    }

    /// Starts it, and returns when it answers.
    pub async fn start(&self) {
        let mut command = sandbox::clean_command("redis-server", &self.folder);
        command.args(&self.arguments);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let before = self
            .running
            .lock()
            .expect("no panic while locked")
            .replace(child.expect("redis-server starts"));
        assert!(before.is_none(), "it is running already");
        eventually("it answers", PATIENCE, || async {
            self.ask::<String>(&["PING"]).await.ok()
        })
        .await;
    }

    /// SIGKILL.
    pub fn kill(&self) {
        let child = self.running.lock().expect("no panic while locked").take();
        if let Some(mut child) = child {
            child.kill().expect("the server is ours to kill");
            child.wait().expect("the server is our child");
        }
    }

    /// Stops it in its tracks: connections stay open and nothing answers.
    pub fn pause(&self) {
        sandbox::signal(&self.pids(), libc::SIGSTOP);
    }

    /// Ends [`Server::pause`].
    pub fn resume(&self) {
        sandbox::signal(&self.pids(), libc::SIGCONT);
    }

    pub(super) fn pids(&self) -> Vec<i32> {
        let running = self.running.lock().expect("no panic while locked");
        running.iter().map(|child| child.id() as i32).collect()
    }

    /// A new connection, which lives on its own.
    pub async fn connection(&self) -> RedisResult<MultiplexedConnection> {
        let limit = Some(Duration::from_secs(5));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(limit)
            .set_response_timeout(limit);
        let client = Client::open(format!("redis://{}/0", self.address()))?;
        client
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }

    /// Runs one command on a connection of its own.
    pub async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        let mut command = ::redis::Cmd::new();
        command.arg(words);
        command.query_async(&mut self.connection().await?).await
    }

    /// The same, and panics where it fails.
    pub async fn command<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let answer = self.ask(words).await;
        answer.unwrap_or_else(|error| panic!("redis {words:?}: {error}"))
    }

    /// Whether a text is in its answer to INFO.
    pub async fn says(&self, section: &str, text: &str) -> bool {
        let info = self.ask::<String>(&["INFO", section]).await;
        info.is_ok_and(|info| info.contains(text))
    }

    /// One figure of a section of its INFO.
    pub async fn figure(&self, section: &str, name: &str) -> f64 {
        let info: String = self.command(&["INFO", section]).await;
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|value| value.trim_end().parse().ok())
            .unwrap_or_else(|| panic!("no figure {name}"))
    }

    /// Host and port.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The server of a stack.
pub struct Redis {
    server: Server,
    /// Where it speaks TLS, once [`Redis::encrypt`] was called.
    pub tls_port: Option<u16>,
}

impl Deref for Redis {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Redis {
    /// Takes a folder and a port, and starts nothing.
    pub fn prepare() -> Self {
        Self {
            server: Server::prepare(&[]),
            tls_port: None,
        }
    }

    /// Has the server speak TLS on a port of its own, from its start on, and want a certificate of whoever connects there.
    pub fn encrypt(&mut self, certificates: &Certificates) {
        let server = &mut self.server;
        certificates.give("server", &server.folder);
        let port = sandbox::free_port();
        self.tls_port = Some(port);
        server
            .arguments
            .extend(["--tls-port".to_owned(), port.to_string()]);
        for (option, file) in [
            ("cert", "tls.pem"),
            ("key", "tls.key"),
            ("ca-cert", "tls-ca.pem"),
        ] {
            let path = server.folder.join(file).display().to_string();
            server
                .arguments
                .extend([format!("--tls-{option}-file"), path]);
        }
    }

    /// Shows another certificate to those who connect from now on.
    pub async fn show(&self, certificates: &Certificates, name: &str) {
        let (cert, key) = (format!("{name}.pem"), format!("{name}.key"));
        let (cert, key) = (certificates.text(&cert), certificates.text(&key));
        let change = [
            "CONFIG",
            "SET",
            "tls-cert-file",
            &cert,
            "tls-key-file",
            &key,
        ];
        self.command::<()>(&change).await;
    }

    /// From now on every write is refused for want of memory; reads go on.
    pub async fn fill(&self) {
        self.command::<()>(&["CONFIG", "SET", "maxmemory-policy", "noeviction"])
            .await;
        self.command::<()>(&["CONFIG", "SET", "maxmemory", "1"])
            .await;
    }

    /// Ends [`Redis::fill`].
    pub async fn make_room(&self) {
        self.command::<()>(&["CONFIG", "SET", "maxmemory", "0"])
            .await;
    }

    /// Like [`Server::command`], for a key that is not text.
    pub async fn at<T: FromRedisValue>(&self, verb: &str, key: &[u8], arguments: &[&str]) -> T {
        let mut command = ::redis::cmd(verb);
        command.arg(key).arg(arguments);
        let mut connection = self.connection().await.expect("the server is up");
        let answer = command.query_async(&mut connection).await;
        answer.unwrap_or_else(|error| panic!("redis {verb}: {error}"))
    }

    /// All keys that match `pattern`, sorted. Keys are bytes: Kiln's own are not all text.
    pub async fn keys(&self, pattern: &str) -> Vec<Vec<u8>> {
        let mut keys: Vec<Vec<u8>> = self.command(&["KEYS", pattern]).await;
        keys.sort();
        keys
    }

    /// A value that is JSON.
    pub async fn json(&self, key: &str) -> Option<serde_json::Value> {
        let value: Option<String> = self.command(&["GET", key]).await;
        value.and_then(|text| serde_json::from_str(&text).ok())
    }

    /// Seconds that a key has to live.
    pub async fn life(&self, key: &str) -> i64 {
        self.command(&["TTL", key]).await
    }

    /// One figure of the server's statistics.
    pub async fn statistic(&self, name: &str) -> f64 {
        self.figure("stats", name).await
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }
}
