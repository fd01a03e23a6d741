//! Runs `kiln` as a script does: arguments and settings in; exit code, standard output and standard error out.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;

use super::sandbox;
use super::stack::Stack;

/// A folder to run commands in, and the settings that they get.
pub struct Shell {
    pub folder: PathBuf,
    pub variables: BTreeMap<String, String>,
}

/// How a command ended.
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Shell {
    /// No servers.
    pub fn bare() -> Self {
        let models = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/models");
        let port = sandbox::free_port();
        let shell = Self {
            folder: sandbox::folder("cli"),
            variables: BTreeMap::new(),
        };
        shell
            .set("KILN_MODELS_DIR", models)
            .set("KILN_HTTP_ADDR", &format!("127.0.0.1:{port}"))
    }

    /// The servers of `stack`.
    pub fn on(stack: &Stack) -> Self {
        Self::bare()
            .set("KILN_AMQP_URL", &stack.amqp_url())
            .set("KILN_REDIS_URL", &stack.redis.url())
            .set("KILN_DATABASE_URL", &stack.database_url())
    }

    /// One more environment variable, or another value for one.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Writes a file of lines into the folder.
    pub fn write(&self, name: &str, lines: &[String]) {
        fs::write(self.folder.join(name), lines.join("\n")).expect("the folder is writable");
    }

    /// Runs `kiln` with nothing on its standard input.
    pub async fn kiln(&self, arguments: &[&str]) -> Ended {
        self.kiln_reading(arguments, "").await
    }

    /// Runs `kiln` with a standard output whose reader is gone.
    pub async fn kiln_unread(&self, arguments: &[&str]) -> Ended {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        self.kiln_into(arguments, writer).await
    }

    /// Runs `kiln` with a standard output that has no room, as on a full disk.
    pub async fn kiln_without_room(&self, arguments: &[&str]) -> Ended {
        let full = std::fs::File::options().write(true).open("/dev/full");
        self.kiln_into(arguments, full.expect("a device")).await
    }

    async fn kiln_into(&self, arguments: &[&str], stdout: impl Into<Stdio>) -> Ended {
        let mut command = sandbox::clean_command(env!("CARGO_BIN_EXE_kiln"), &self.folder);
        command
            .args(arguments)
            .envs(&self.variables)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::piped());
        let ended = tokio::task::spawn_blocking(move || command.output().expect("it starts"));
        Ended::of(ended.await.expect("the command's thread"))
    }

    /// Runs `kiln` with `input` on its standard input, which is no terminal.
    pub async fn kiln_reading(&self, arguments: &[&str], input: &str) -> Ended {
        let mut command = sandbox::clean_command(env!("CARGO_BIN_EXE_kiln"), &self.folder);
        command
            .args(arguments)
            .envs(&self.variables)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let input = input.to_owned();
        let ended = tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().expect("the binary starts");
            // Written apart: a command that prints as it reads waits for both ends. One that reads nothing may
            // have ended already.
            let mut stdin = child.stdin.take().expect("a pipe");
            std::thread::spawn(move || stdin.write_all(input.as_bytes()));
            child.wait_with_output().expect("the command is our child")
        })
        .await
        .expect("the command's thread");
        Ended::of(ended)
    }
}

impl Ended {
    fn of(ended: std::process::Output) -> Self {
        Self {
            code: ended.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&ended.stdout).into_owned(),
            err: String::from_utf8_lossy(&ended.stderr).into_owned(),
        }
    }

    /// Fails unless it ended with `code`.
    pub fn with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.out, self.err);
        self
    }

    /// Standard output, a JSON value a line.
    pub fn lines(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        self.out.lines().map(parse).collect()
    }

    /// The checks of `kiln doctor --json`, by name: status, what was found, what to do.
    pub fn checks(&self) -> BTreeMap<String, (String, String, String)> {
        let report: Value = serde_json::from_str(&self.out).expect("JSON");
        let text = |check: &Value, name: &str| check[name].as_str().expect("a text").to_owned();
        let checks = report["checks"].as_array().expect("a list").iter();
        checks
            .map(|c| {
                (
                    text(c, "name"),
                    (text(c, "status"), text(c, "found"), text(c, "advice")),
                )
            })
            .collect()
    }
}
