//! A private pgbouncer before a Postgres of the harness: transaction mode, few server connections, and no setting that makes it lenient.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tokio::time::timeout;

use crate::harness::postgres::{Postgres, give_to_server_user, server_command_at};
use crate::harness::{PATIENCE, eventually, sandbox};

/// Where Debian's package has it.
const PROGRAM: &str = "/usr/sbin/pgbouncer";
/// Server connections for each database: fewer than its clients have.
const SERVERS: u32 = 3;

/// Runs until it is dropped.
pub struct Pgbouncer {
    pub port: u16,
    folder: PathBuf,
    running: Child,
}

impl Pgbouncer {
    /// Starts one, and returns when a query gets through.
    pub async fn start(postgres: &Postgres) -> Self {
        let (port, folder) = (sandbox::free_port(), sandbox::folder("pgbouncer"));
        give_to_server_user(&folder);
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = trust\nauth_file = {users}\npool_mode = transaction\ndefault_pool_size = {SERVERS}\nmax_client_conn = 200\n\
             logfile = {log}\npidfile = {pid}\n",
            postgres.port,
            users = folder.join("users").display(),
            log = folder.join("log").display(),
            pid = folder.join("pid").display(),
        );
        fs::write(folder.join("users"), "\"kiln\" \"\"\n").expect("its users");
        fs::write(folder.join("settings.ini"), settings).expect("its settings");
        let running = server_command_at(Path::new(PROGRAM), &folder)
            .arg("-q")
            .arg(folder.join("settings.ini"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("pgbouncer is not installed: see scripts/test");
        let started = Self {
            port,
            folder,
            running,
        };
        eventually("pgbouncer answers", PATIENCE, async || {
            let connect = connect(port, "postgres");
            timeout(Duration::from_secs(2), connect).await.ok()?.ok()
        })
        .await;
        started
    }
}

impl Drop for Pgbouncer {
    fn drop(&mut self) {
        let _ = self.running.kill();
        let _ = self.running.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Connects as strictly as the pooler wants it.
pub async fn connect(port: u16, database: &str) -> sqlx::Result<PgConnection> {
    let url = format!("postgres://kiln@127.0.0.1:{port}/{database}?sslmode=disable");
    let options: sqlx::postgres::PgConnectOptions = url.parse()?;
    PgConnection::connect_with(&options.extra_float_digits(None)).await
}
