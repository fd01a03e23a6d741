//! A private RabbitMQ node with a private port mapper (epmd), so that it never meets a node that isn't the test's own.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::certificates::Certificates;
use super::sandbox;
use super::{PATIENCE, eventually};

/// Debian keeps the scripts that don't change the user here; the ones in `/usr/sbin` insist on the system's node.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";
const NODE: &str = "kiln-test";
const LOOPBACK_ONLY: &str = "-kernel inet_dist_use_interface {127,0,0,1}";
/// How a cluster's nodes are told when to count a node as lost that doesn't answer, in seconds: docs/clusters.md says why.
const TICK: &str = "-kernel net_ticktime 8";

/// One node; stopped until [`Broker::start`], and killed with its folder when dropped.
pub struct Broker {
    pub port: u16,
    /// Where it speaks TLS, once [`Broker::encrypt`] was called.
    pub tls_port: Option<u16>,
    folder: PathBuf,
    name: String,
    epmd_port: u16,
    /// Whether it starts the port mapper: that of a cluster is the first node's.
    maps_ports: bool,
    distribution_port: u16,
    control_port: u16,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    epmd: Option<Child>,
    node: Option<Child>,
}

impl Broker {
    /// Takes a folder and ports, and starts nothing.
    pub fn prepare() -> Self {
        Self::named(NODE, sandbox::free_port())
    }

    /// A cluster's nodes, which find each other when they first start. The first one is to be started before the others.
    pub fn prepare_cluster(names: &[&str]) -> Vec<Self> {
        let epmd_port = sandbox::free_port();
        let mut settings = "cluster_formation.peer_discovery_backend = classic_config\n\
                            cluster_partition_handling = pause_minority\n"
            .to_owned();
        for (number, name) in (1..).zip(names) {
            settings.push_str(&format!(
                "cluster_formation.classic_config.nodes.{number} = {name}@localhost\n"
            ));
        }
        let mut nodes = Vec::new();
        for name in names {
            let mut node = Self::named(name, epmd_port);
            node.maps_ports = nodes.is_empty();
            node.add_settings(&settings);
            nodes.push(node);
        }
        nodes
    }

    fn named(name: &str, epmd_port: u16) -> Self {
        let folder = sandbox::folder("rabbitmq");
        let broker = Self {
            port: sandbox::free_port(),
            tls_port: None,
            name: format!("{name}@localhost"),
            epmd_port,
            maps_ports: true,
            distribution_port: sandbox::free_port(),
            control_port: sandbox::free_port(),
            folder,
            running: Mutex::default(),
        };
        broker.write("plugins", "[rabbitmq_consistent_hash_exchange].\n");
        broker.write(
            "rabbitmq.conf",
            &format!(
                "listeners.tcp.1 = 127.0.0.1:{}\nlog.console = false\nlog.file.level = warning\n\
                 disk_free_limit.absolute = 1MB\ndefault_user = guest\ndefault_pass = guest\n",
                broker.port
            ),
        );
        broker.write(".erlang.cookie", "kilntestcookie");
        let cookie = broker.folder.join(".erlang.cookie");
        fs::set_permissions(cookie, fs::Permissions::from_mode(0o400)).expect("the cookie's mode");
        broker
    }

    /// Has the node speak TLS on a port of its own, from its start on, and want a certificate of whoever connects there.
    pub fn encrypt(&mut self, certificates: &Certificates) {
        certificates.give("server", &self.folder);
        let port = sandbox::free_port();
        let mut settings = format!("listeners.ssl.1 = 127.0.0.1:{port}\n");
        for (option, value) in [
            (
                "cacertfile",
                self.folder.join("tls-ca.pem").display().to_string(),
            ),
            (
                "certfile",
                self.folder.join("tls.pem").display().to_string(),
            ),
            ("keyfile", self.folder.join("tls.key").display().to_string()),
            ("verify", "verify_peer".to_owned()),
            ("fail_if_no_peer_cert", "true".to_owned()),
        ] {
            settings.push_str(&format!("ssl_options.{option} = {value}\n"));
        }
        self.add_settings(&settings);
        self.tls_port = Some(port);
    }

    /// Has the node close the channel of whoever publishes a larger message, from its start on.
    pub fn limit_messages(&self, bytes: usize) {
        self.add_settings(&format!("max_message_size = {bytes}\n"));
    }

    /// Starts no plugin.
    pub fn without_plugins(&self) {
        self.write("plugins", "[].\n");
    }

    fn add_settings(&self, more: &str) {
        let file = self.folder.join("rabbitmq.conf");
        let settings = fs::read_to_string(&file).expect("the node's settings");
        self.write("rabbitmq.conf", &format!("{settings}{more}"));
    }

    /// Shows another certificate to those who connect from now on.
    pub async fn show(&self, certificates: &Certificates, name: &str) {
        certificates.give(name, &self.folder);
        self.ctl(&["eval", "ssl:clear_pem_cache()."]).await;
    }

    /// Starts the node on its port and data, and returns when it accepts AMQP.
    pub async fn start(&self) {
        self.spawn();
        eventually("RabbitMQ accepts connections", 3 * PATIENCE, || async {
            self.expect_alive();
            self.accepts().await.then_some(())
        })
        .await;
    }

    /// Has the node write what was declared so far to its disk. RabbitMQ itself keeps a declaration in memory for up
    /// to two seconds: a queue that is younger than that is gone after a kill, with its confirmed messages.
    pub async fn flush_declarations(&self) {
        self.ctl(&["eval", "mnesia:sync_log()."]).await;
    }

    /// Waits until an exchange sends to these queues and to no others.
    pub async fn wait_bound(&self, vhost: &str, exchange: &str, queues: &[String]) {
        let what = format!("{exchange} sends to {queues:?}");
        let from = format!("{exchange}\t");
        eventually(&what, PATIENCE, async || {
            let mut asked = vec!["list_bindings", "-p", vhost, "--no-table-headers"];
            asked.extend(["source_name", "destination_name"]);
            let listed = self.ctl(&asked).await;
            let bound = listed.lines().filter_map(|line| line.strip_prefix(&from));
            let mut bound: Vec<&str> = bound.collect();
            bound.sort_unstable();
            (bound == queues).then_some(())
        })
        .await;
    }

    /// SIGKILL. Call [`Broker::flush_declarations`] first where a queue was declared a moment ago.
    pub fn kill(&self) {
        let node = self
            .running
            .lock()
            .expect("no panic while locked")
            .node
            .take();
        if let Some(mut node) = node {
            node.kill().expect("the node is ours to kill");
            node.wait().expect("the node is our child");
        }
    }

    /// Stops the node in its tracks: its connections stay open, and new ones are accepted and never answered.
    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// Ends [`Broker::freeze`].
    pub fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    fn signal(&self, signal: i32) {
        let running = self.running.lock().expect("no panic while locked");
        let node = running.node.as_ref().expect("the node runs");
        sandbox::signal(&[node.id() as i32], signal);
    }

    /// Stops the node in good order; clients are told that the connection is closed by force.
    pub async fn stop(&self) {
        let node = self
            .running
            .lock()
            .expect("no panic while locked")
            .node
            .take();
        if let Some(mut node) = node {
            sandbox::signal(&[node.id() as i32], libc::SIGTERM);
            eventually("RabbitMQ stops", PATIENCE, || {
                let ended = node.try_wait().expect("the node is our child").is_some();
                async move { ended.then_some(()) }
            })
            .await;
        }
    }

    /// Runs `rabbitmqctl` against this node and gives its output.
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        let mut command = self.command(&Path::new(PROGRAMS).join("rabbitmqctl"));
        command.arg("--quiet").args(arguments).stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output()).await;
        let output = output
            .expect("rabbitmqctl's thread")
            .expect("rabbitmqctl runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "rabbitmqctl {arguments:?}: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        said
    }

    /// Adds a virtual host that the default user may use; its name must need no escaping in a URL.
    pub async fn add_vhost(&self, name: &str) {
        self.ctl(&["add_vhost", name]).await;
        self.ctl(&["set_permissions", "-p", name, "guest", ".*", ".*", ".*"])
            .await;
    }

    /// Raises the memory alarm: connections that publish are blocked from their next message on.
    pub async fn block_publishers(&self) {
        self.ctl(&["set_vm_memory_high_watermark", "absolute", "1"])
            .await;
    }

    /// Clears the memory alarm.
    pub async fn unblock_publishers(&self) {
        self.ctl(&["set_vm_memory_high_watermark", "0.9"]).await;
    }

    /// Has the node hold that its disk is full: the whole cluster takes nothing from those who publish.
    pub async fn fill_disk(&self) {
        self.ctl(&["set_disk_free_limit", "1000000GB"]).await;
    }

    /// Ends [`Broker::fill_disk`].
    pub async fn free_disk(&self) {
        self.ctl(&["set_disk_free_limit", "1MB"]).await;
    }

    /// Whether an AMQP handshake is answered.
    pub async fn accepts(&self) -> bool {
        let handshake = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
            stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
            stream.read_u8().await
        };
        // The first frame of the answer is a method's (1); a refused protocol would be answered with "AMQP".
        matches!(timeout(Duration::from_secs(2), handshake).await, Ok(Ok(1)))
    }

    fn spawn(&self) {
        let mut running = self.running.lock().expect("no panic while locked");
        assert!(running.node.is_none(), "the broker is running already");
        if running.epmd.is_none() && self.maps_ports {
            let mut epmd = self.command(Path::new("epmd"));
            epmd.args([
                "-address",
                "127.0.0.1",
                "-port",
                &self.epmd_port.to_string(),
            ]);
            running.epmd = Some(self.silent(epmd).spawn().expect("epmd starts"));
        }
        let server = Path::new(PROGRAMS).join("rabbitmq-server");
        assert!(
            server.exists(),
            "RabbitMQ is not installed ({} is missing): see scripts/test",
            server.display()
        );
        let mut node = self.silent(self.command(&server));
        // With a shell on its standard input the script becomes the node itself, which ends with its input: it dies
        // with the test process, even where that is killed.
        node.env("RABBITMQ_ALLOW_INPUT", "1").stdin(Stdio::piped());
        node.env(
            "RABBITMQ_SERVER_ERL_ARGS",
            "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none +A 8",
        );
        let arguments = format!("{LOOPBACK_ONLY} {TICK}");
        node.env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", arguments);
        running.node = Some(node.spawn().expect("RabbitMQ starts"));
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = sandbox::clean_command(program, &self.folder);
        command
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_CRASH_DUMP", "/dev/null")
            .env("RABBITMQ_NODENAME", &self.name)
            .env("RABBITMQ_DIST_PORT", self.distribution_port.to_string())
            .env("RABBITMQ_CTL_DIST_PORT_MIN", self.control_port.to_string())
            .env(
                "RABBITMQ_CTL_DIST_PORT_MAX",
                (self.control_port + 20).to_string(),
            )
            .env("RABBITMQ_CTL_ERL_ARGS", LOOPBACK_ONLY)
            .env("RABBITMQ_CONF_ENV_FILE", self.folder.join("no-such-file"))
            .env("RABBITMQ_CONFIG_FILE", self.folder.join("rabbitmq.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", self.folder.join("plugins"))
            .env("RABBITMQ_MNESIA_BASE", self.folder.join("data"))
            .env("RABBITMQ_LOG_BASE", self.folder.join("log"))
            .env("RABBITMQ_PID_FILE", self.folder.join("pid"));
        command
    }

    fn silent(&self, mut command: Command) -> Command {
        let output = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("output"));
        let output = output.expect("the node's output file");
        command
            .stderr(output.try_clone().expect("a second handle"))
            .stdout(output)
            .stdin(Stdio::null());
        command
    }

    fn expect_alive(&self) {
        let mut running = self.running.lock().expect("no panic while locked");
        let ended = running
            .node
            .as_mut()
            .map(|node| node.try_wait().expect("the node is our child"));
        if let Some(Some(status)) = ended {
            let output = fs::read_to_string(self.folder.join("output")).unwrap_or_default();
            panic!("RabbitMQ ended while starting ({status}): {output}");
        }
    }

    fn write(&self, name: &str, text: &str) {
        let mut file = File::create(self.folder.join(name)).expect("a file in the broker's folder");
        file.write_all(text.as_bytes())
            .expect("the broker's folder is writable");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        let epmd = self
            .running
            .lock()
            .ok()
            .and_then(|mut running| running.epmd.take());
        if let Some(mut epmd) = epmd {
            let _ = epmd.kill();
            let _ = epmd.wait();
        }
        sandbox::kill_all_under(&self.folder);
        let _ = fs::remove_dir_all(&self.folder);
    }
}
