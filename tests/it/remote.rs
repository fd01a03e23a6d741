//! `kiln score` of files in a store of S3's protocol and behind HTTP: through cuts, and without a word of what is secret.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::files::PATIENCE;
use crate::harness::sandbox;
use crate::harness::shell::Shell;

const SECRET: &str = "a-secret-that-is-nowhere";

/// A server of S3's protocol, which ends with the test.
struct Store {
    child: Child,
    port: u16,
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn python() -> String {
    std::env::var("CLIENTS_PYTHON").expect("CLIENTS_PYTHON: see scripts/test")
}

impl Store {
    fn start() -> Self {
        let port = sandbox::free_port();
        let child = Command::new(python())
            .args([
                "-m",
                "moto.server",
                "-H",
                "127.0.0.1",
                "-p",
                &port.to_string(),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("moto's server starts");
        let store = Self { child, port };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < PATIENCE, "moto's server doesn't answer");
            thread::sleep(Duration::from_millis(50));
        }
        store
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Puts a folder's files into it; gives an address of `in/a.jsonl` that is signed.
    fn put(&self, folder: &Path) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/remote/put.py");
        let ended = Command::new(python())
            .arg(script)
            .arg(self.url())
            .arg(folder)
            .output();
        let ended = ended.expect("Python");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{said}");
        String::from_utf8(ended.stdout)
            .expect("an address")
            .trim()
            .to_owned()
    }
}

/// Stands before a port, and cuts two connections of three after so many bytes of the answer; gives its own port, and how many it cut.
fn cutting(port: u16, after: usize) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let own = listener.local_addr().expect("an address").port();
    let cuts = Arc::new(AtomicUsize::new(0));
    let counted = cuts.clone();
    thread::spawn(move || {
        for (number, client) in listener.incoming().enumerate() {
            let Ok(client) = client else { return };
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else {
                return;
            };
            let (mut up, mut to) = (
                client.try_clone().expect("a socket"),
                server.try_clone().expect("a socket"),
            );
            thread::spawn(move || std::io::copy(&mut up, &mut to));
            let cuts = counted.clone();
            let limit = if number % 3 == 2 { usize::MAX } else { after };
            thread::spawn(move || {
                let (mut client, mut server) = (client, server);
                let (mut buffer, mut sent) = ([0; 16 << 10], 0);
                while let Ok(read @ 1..) = server.read(&mut buffer) {
                    if sent + read > limit {
                        cuts.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                    sent += read;
                    if client.write_all(&buffer[..read]).is_err() {
                        break;
                    }
                }
                let _ = client.shutdown(Shutdown::Both);
                let _ = server.shutdown(Shutdown::Both);
            });
        }
    });
    (own, cuts)
}

fn on(port: u16) -> Shell {
    Shell::bare()
        .set("AWS_ENDPOINT", &format!("http://127.0.0.1:{port}"))
        .set("AWS_ALLOW_HTTP", "true")
        .set("AWS_REGION", "us-east-1")
        .set("AWS_ACCESS_KEY_ID", "a-key-that-is-nowhere")
        .set("AWS_SECRET_ACCESS_KEY", SECRET)
        .set("KILN_LOG__FILTER", "trace")
}

fn texts(key: &str, count: usize) -> String {
    let filling = "some words more ".repeat(8);
    let line = |n: usize| json!({"key": format!("{key}{n}"), "text": format!("{n} {filling}")});
    (0..count).map(|n| format!("{}\n", line(n))).collect()
}

#[tokio::test]
async fn files_of_a_store_are_scored_as_those_here_though_connections_are_cut() {
    let folder = sandbox::folder("bucket");
    fs::create_dir_all(folder.join("in/deep")).expect("a folder");
    fs::write(folder.join("in/a.jsonl"), texts("a", 40_000)).expect("a file");
    fs::write(folder.join("in/b.jsonl"), texts("b", 10)).expect("a file");
    fs::write(folder.join("in/deep/c.jsonl"), texts("c", 10)).expect("a file");
    fs::write(folder.join("in/notes.txt"), "no rows").expect("a file");
    let store = Store::start();
    store.put(&folder);
    let (port, cuts) = cutting(store.port, 300 << 10);
    let shell = on(port);
    let here = folder.join("in").display().to_string();
    shell
        .kiln(&["score", &here, "--recursive", "-o", "here.jsonl"])
        .await
        .with(0);
    // Scores are found by now, so that only their origin could differ.
    shell
        .kiln(&["score", &here, "--recursive", "-o", "here.jsonl"])
        .await
        .with(0);
    let expected = fs::read(shell.folder.join("here.jsonl")).expect("an output");
    let said = shell
        .kiln(&[
            "score",
            "s3://reviews/in",
            "--recursive",
            "-o",
            "there.jsonl",
        ])
        .await
        .with(0);
    assert!(!said.err.contains(SECRET), "{}", said.err);
    let found = fs::read(shell.folder.join("there.jsonl")).expect("an output");
    assert!(found == expected, "a row is missing, double or elsewhere");
    assert!(cuts.load(Ordering::Relaxed) > 1, "no connection was cut");
    shell
        .kiln(&["score", "s3://reviews/in/*.jsonl", "-o", "some.jsonl"])
        .await
        .with(0);
    let some = fs::read_to_string(shell.folder.join("some.jsonl")).expect("an output");
    assert_eq!(some.lines().count(), 40_010);
}

#[cfg(feature = "parquet")]
#[tokio::test]
async fn tables_of_a_store_are_read_in_parts() {
    use arrow_array::StringArray;
    use parquet::file::properties::WriterProperties;

    let folder = sandbox::folder("bucket");
    let texts = (0..60_000)
        .map(|n| Some(format!("text {n}")))
        .collect::<StringArray>();
    let table = crate::columnar::batch(vec![("text", Arc::new(texts))]);
    let groups = WriterProperties::builder()
        .set_max_row_group_row_count(Some(20_000))
        .build();
    crate::columnar::write_parquet(&folder.join("in.parquet"), &table, groups);
    let stream = crate::columnar::arrow_stream(&table);
    fs::write(folder.join("in.arrows"), stream).expect("a file");
    fs::create_dir_all(folder.join("in")).expect("a folder");
    fs::write(folder.join("in/a.jsonl"), "").expect("a file");
    let store = Store::start();
    store.put(&folder);
    let shell = on(cutting(store.port, 200 << 10).0);
    for (input, output) in [("in.parquet", "a.jsonl"), ("in.arrows", "b.jsonl")] {
        let address = format!("s3://reviews/{input}");
        shell.kiln(&["score", &address, "-o", output]).await.with(0);
        let text = fs::read_to_string(shell.folder.join(output)).expect("an output");
        assert_eq!(text.lines().count(), 60_000);
    }
}

#[tokio::test]
async fn what_is_secret_of_an_address_or_a_store_is_in_no_error_and_no_log() {
    let folder = sandbox::folder("bucket");
    fs::create_dir_all(folder.join("in")).expect("a folder");
    fs::write(folder.join("in/a.jsonl"), texts("a", 100)).expect("a file");
    let store = Store::start();
    let signed = store.put(&folder);
    let shell = on(store.port);
    let (plain, signature) = signed.split_once('?').expect("a signature");
    let said = shell
        .kiln(&["score", &signed, "-o", "out.jsonl"])
        .await
        .with(0);
    assert!(!said.err.contains(signature), "{}", said.err);
    let text = fs::read_to_string(shell.folder.join("out.jsonl")).expect("an output");
    assert_eq!(text.lines().count(), 100);
    let report = [
        "score",
        &signed,
        "-o",
        "out.jsonl",
        "--report",
        "report.json",
    ];
    shell.kiln(&report).await.with(0);
    let report = fs::read_to_string(shell.folder.join("report.json")).expect("a report");
    assert!(
        report.contains(plain) && !report.contains(signature),
        "{report}"
    );

    let gone = format!("{plain}.gone?{signature}");
    let nobody = sandbox::free_port();
    let nobody = format!("http://127.0.0.1:{nobody}/a.jsonl?{signature}");
    for (address, line) in [
        (gone.as_str(), "can't be read: there is none"),
        (
            "s3://reviews/gone.jsonl",
            "s3://reviews/gone.jsonl can't be read: there is none",
        ),
        (
            "s3://reviews/none*.jsonl",
            "s3://reviews/none*.jsonl matches no file",
        ),
        (nobody.as_str(), "tried several times: Connection refused"),
        (
            "s3://key:word@reviews/a.jsonl",
            "an address of a file has no user and password",
        ),
    ] {
        let said = shell.kiln(&["score", address]).await.with(1);
        assert!(said.err.contains(line), "{address}: {}", said.err);
        for secret in [SECRET, "a-key-that-is-nowhere", signature, "key:word"] {
            assert!(!said.err.contains(secret), "{address}: {}", said.err);
        }
    }
}
