//! A private Redis server without persistence: what was in it is gone after a restart.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{AsyncConnectionConfig, Client, FromRedisValue, RedisResult};

use super::certificates::Certificates;
use super::sandbox;
use super::{PATIENCE, eventually};

/// One server; stopped until [`Redis::start`], and killed when dropped.
pub struct Redis {
    pub port: u16,
    /// Where it speaks TLS, once [`Redis::encrypt`] was called.
    pub tls_port: Option<u16>,
    folder: PathBuf,
    running: Mutex<Option<Child>>,
}

impl Redis {
    /// Takes a folder and a port, and starts nothing.
    pub fn prepare() -> Self {
        Self {
            port: sandbox::free_port(),
            tls_port: None,
            folder: sandbox::folder("redis"),
            running: Mutex::default(),
        }
    }

    /// Has the server speak TLS on a port of its own, from its start on, and want a certificate of whoever connects there.
    pub fn encrypt(&mut self, certificates: &Certificates) {
        certificates.give("server", &self.folder);
        self.tls_port = Some(sandbox::free_port());
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

    /// Starts the server, empty, on its port and returns when it answers.
    pub async fn start(&self) {
        let port = self.port.to_string();
        let mut command = sandbox::clean_command("redis-server", &self.folder);
        command.args([
            "--port",
            &port,
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--io-threads",
            "1",
        ]);
        command.arg("--dir").arg(&self.folder);
        if let Some(port) = self.tls_port {
            command.arg("--tls-port").arg(port.to_string());
            for (option, file) in [
                ("cert", "tls.pem"),
                ("key", "tls.key"),
                ("ca-cert", "tls-ca.pem"),
            ] {
                let path = self.folder.join(file);
                command.arg(format!("--tls-{option}-file")).arg(path);
            }
        }
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
        assert!(before.is_none(), "Redis is running already");
        eventually("Redis answers", PATIENCE, || async {
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

    /// Stops the process in its tracks: connections stay open and nothing answers.
    pub fn pause(&self) {
        sandbox::signal(&self.pids(), libc::SIGSTOP);
    }

    /// Ends [`Redis::pause`].
    pub fn resume(&self) {
        sandbox::signal(&self.pids(), libc::SIGCONT);
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

    /// Runs one command on a connection of its own, and panics where it fails.
    pub async fn command<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.ask(words)
            .await
            .unwrap_or_else(|error| panic!("redis {words:?}: {error}"))
    }

    /// Like [`Redis::command`], for a key that is not text.
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

    /// A new connection, which lives on its own.
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
        let info: String = self.command(&["INFO", "stats"]).await;
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|value| value.trim_end().parse().ok())
            .unwrap_or_else(|| panic!("no statistic {name}"))
    }

    pub async fn connection(&self) -> RedisResult<MultiplexedConnection> {
        let limit = Some(Duration::from_secs(5));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(limit)
            .set_response_timeout(limit);
        Client::open(self.url())?
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        let mut command = ::redis::Cmd::new();
        for word in words {
            command.arg(word);
        }
        command.query_async(&mut self.connection().await?).await
    }

    fn pids(&self) -> Vec<i32> {
        let running = self.running.lock().expect("no panic while locked");
        running.iter().map(|child| child.id() as i32).collect()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
