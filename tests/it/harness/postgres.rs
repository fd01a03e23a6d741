//! A private Postgres cluster, copied from one template that `initdb` makes once in a test process.
//!
//! It trusts everybody who reaches its loopback port, and does not flush to disk: a killed process loses nothing by
//! that, since what it wrote is with the kernel.

use std::ffi::CStr;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::time::timeout;

use super::certificates::Certificates;
use super::sandbox;
use super::{PATIENCE, eventually};

const USER: &str = "kiln";

/// One cluster; stopped until [`Postgres::start`], and killed with its data when dropped.
pub struct Postgres {
    pub port: u16,
    folder: PathBuf,
    encrypted: bool,
    running: Mutex<Option<Child>>,
}

impl Postgres {
    /// Takes a folder and a port, and starts nothing.
    pub fn prepare() -> Self {
        let folder = sandbox::folder("postgres");
        give_to_server_user(&folder);
        Self {
            port: sandbox::free_port(),
            folder,
            encrypted: false,
            running: Mutex::default(),
        }
    }

    /// Has the cluster speak TLS, from its start on, and want a certificate of whoever connects with it.
    pub fn encrypt(&mut self, certificates: &Certificates) {
        self.show(certificates, "server");
        self.encrypted = true;
    }

    /// Shows another certificate once [`Postgres::reload`] is called.
    pub fn show(&self, certificates: &Certificates, name: &str) {
        certificates.give(name, &self.folder);
        let key = self.folder.join("tls.key");
        give_to_server_user(&key);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("the key's mode");
    }

    /// Has the cluster read its certificate again.
    pub async fn reload(&self) {
        let mut connection = self.connect("postgres").await.expect("the cluster is up");
        connection
            .execute("SELECT pg_reload_conf()")
            .await
            .expect("it reloads");
    }

    /// Starts the cluster on its port and data, and returns when it answers a query. After [`Postgres::kill`] this
    /// replays its log first, as after a crash.
    pub async fn start(&self) {
        let data = self.folder.join("data");
        if !data.exists() {
            let copy = data.clone();
            tokio::task::spawn_blocking(move || copy_template(&copy))
                .await
                .expect("the template's copy");
        }
        if self.encrypted {
            let rules = data.join("pg_hba.conf");
            let before = fs::read_to_string(&rules).expect("the cluster's rules");
            let first = "hostssl all all 127.0.0.1/32 trust clientcert=verify-ca\n";
            fs::write(&rules, format!("{first}{before}")).expect("the cluster's rules");
        }
        let mut command = server_command("postgres", &self.folder);
        if self.encrypted {
            command.args(["-c", "ssl=on"]);
            for (setting, file) in [
                ("cert", "tls.pem"),
                ("key", "tls.key"),
                ("ca", "tls-ca.pem"),
            ] {
                let path = self.folder.join(file);
                command
                    .arg("-c")
                    .arg(format!("ssl_{setting}_file={}", path.display()));
            }
        }
        command
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(&self.folder)
            .args(["-p", &self.port.to_string()]);
        for setting in [
            "listen_addresses=127.0.0.1",
            "fsync=off",
            "shared_buffers=32MB",
            "max_connections=200",
            "max_wal_size=256MB",
            "log_min_messages=warning",
        ] {
            command.args(["-c", setting]);
        }
        let output = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("output"));
        let output = output.expect("the cluster's output file");
        command
            .stdin(Stdio::null())
            .stderr(output.try_clone().expect("a second handle"))
            .stdout(output);
        let child = command.spawn().expect("postgres starts");
        let before = self
            .running
            .lock()
            .expect("no panic while locked")
            .replace(child);
        assert!(before.is_none(), "Postgres is running already");
        eventually("Postgres answers", PATIENCE, || async {
            self.answers().await.then_some(())
        })
        .await;
    }

    /// SIGKILL to the postmaster and every process of its own.
    pub fn kill(&self) {
        sandbox::kill_all_under(&self.folder);
        let child = self.running.lock().expect("no panic while locked").take();
        if let Some(mut child) = child {
            child.wait().expect("the postmaster is our child");
        }
    }

    /// Stops it in good order: its sessions are ended, and a standby that streams has all that there was.
    pub async fn stop(&self) {
        let child = self.running.lock().expect("no panic while locked").take();
        let mut child = child.expect("it runs");
        sandbox::signal(&[child.id() as i32], libc::SIGINT);
        eventually("Postgres stops", PATIENCE, || {
            let ended = child.try_wait().expect("the postmaster is our child");
            async move { ended }
        })
        .await;
    }

    /// Forgets all its data, once it is dead: what starts again has to be given some.
    pub(super) fn clear(&self) {
        let _ = fs::remove_dir_all(self.folder.join("data"));
    }

    /// Stops all its processes in their tracks: connections stay open, new ones are accepted by the kernel, nothing answers.
    pub fn pause(&self) {
        // The postmaster comes first in the list; a child that it forked meanwhile is in the second.
        sandbox::signal(&sandbox::processes_under(&self.folder), libc::SIGSTOP);
        sandbox::signal(&sandbox::processes_under(&self.folder), libc::SIGSTOP);
    }

    /// Ends [`Postgres::pause`].
    pub fn resume(&self) {
        sandbox::signal(&sandbox::processes_under(&self.folder), libc::SIGCONT);
    }

    /// Where its data is, under `data`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Creates an empty database; its name must be a plain lower-case identifier.
    pub async fn add_database(&self, name: &str) {
        let mut connection = self.connect("postgres").await.expect("the cluster is up");
        let statement = AssertSqlSafe(format!("CREATE DATABASE \"{name}\""));
        connection.execute(statement).await.expect("a new database");
    }

    pub fn url(&self, database: &str) -> String {
        self.url_at(self.port, database)
    }

    /// The URL of `database` through another port, a proxy's.
    pub fn url_at(&self, port: u16, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{port}/{database}?sslmode=disable")
    }

    async fn connect(&self, database: &str) -> sqlx::Result<PgConnection> {
        PgConnection::connect(&self.url(database)).await
    }

    async fn answers(&self) -> bool {
        let query = async { self.connect("postgres").await?.execute("SELECT 1").await };
        matches!(timeout(Duration::from_secs(2), query).await, Ok(Ok(_)))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn copy_template(target: &Path) {
    static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
    let template = TEMPLATE.get_or_init(|| {
        let folder = sandbox::folder("postgres-template");
        give_to_server_user(&folder);
        let data = folder.join("data");
        let mut initdb = server_command("initdb", &folder);
        initdb.arg("-D").arg(&data).args([
            "-U",
            USER,
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-locale",
            "--no-sync",
        ]);
        run(initdb);
        data
    });
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(template).arg(target);
    run(copy);
}

pub(super) fn run(mut command: Command) {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A client of the newest installed Postgres.
pub(super) fn server_program(program: &str, home: &Path) -> Command {
    sandbox::clean_command(programs().join(program), home)
}

/// A program of the newest installed Postgres, to be run as a user whom it accepts.
pub(super) fn server_command(program: &str, home: &Path) -> Command {
    server_command_at(&programs().join(program), home)
}

/// Any program that refuses to run as root, to be run as that user.
pub(super) fn server_command_at(program: &Path, home: &Path) -> Command {
    let mut command = sandbox::clean_command(program, home);
    if let Some((user, group)) = server_user() {
        command.uid(user).gid(group);
    }
    command
}

fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let versions = versions.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let found = versions
        .filter(|version| programs_of(*version).join("initdb").exists())
        .max();
    programs_of(found.expect(
        "Postgres is not installed (no /usr/lib/postgresql/*/bin/initdb): see scripts/test",
    ))
}

fn programs_of(version: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/postgresql/{version}/bin"))
}

/// Postgres refuses to run as root: the user and group to become where the tests run as root.
fn server_user() -> Option<(u32, u32)> {
    static FOUND: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        // SAFETY: geteuid has no arguments and cannot fail.
        let root = unsafe { libc::geteuid() } == 0;
        root.then(|| {
            let known = account(c"postgres").or_else(|| account(c"nobody"));
            known.expect("an unprivileged account for Postgres, since the tests run as root")
        })
    })
}

fn account(name: &CStr) -> Option<(u32, u32)> {
    // SAFETY: the name ends in a NUL, the result is read at once and this runs once, under a lock.
    unsafe {
        let entry = libc::getpwnam(name.as_ptr());
        (!entry.is_null()).then(|| ((*entry).pw_uid, (*entry).pw_gid))
    }
}

pub(super) fn give_to_server_user(folder: &Path) {
    if let Some((user, group)) = server_user() {
        chown(folder, Some(user), Some(group)).expect("root may give a folder away");
    }
}
