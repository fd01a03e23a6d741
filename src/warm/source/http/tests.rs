//! What an HTTP source gives for what a server answers, and what it refuses.

use super::*;
use std::time::Instant;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// A server that answers each connection with these bytes, and then ends it, or says nothing more. It ends with its runtime.
async fn server(answer: String, ends: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4_096];
            let _asked = stream.read(&mut request).await;
            let _sent = stream.write_all(answer.as_bytes()).await;
            if !ends {
                open.push(stream);
            }
        }
    });
    format!("http://{address}/top?token=hunter2")
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn source(url: &str, more: &str, private: &[&str]) -> HttpSource {
    let mut spec: HttpSpec = toml::from_str(&format!("url = \"{url}\"\n{more}")).expect("a source");
    spec.check(Path::new("/")).expect("a good one");
    let mut settings = Settings::default();
    settings.warm.private_networks = private.iter().map(|one| (*one).to_owned()).collect();
    HttpSource::new(&spec, &settings).expect("a source")
}

const LISTED: [&str; 1] = ["127.0.0.1"];
const ROWS: [&str; 5] = [
    r#"{"key":"a","group":"g","text":"one ☃ \"'; --"}"#,
    r#"{"text":"two","text_pair":"pair","unknown":1}"#,
    r#"{"text":7}"#,
    r#"{"key":"c","features":[0.5,-2]}"#,
    r#"{"key":"d","group":"g","text":""}"#,
];

async fn refused(answer: String, more: &str) -> String {
    let url = server(answer, true).await;
    let source = source(&url, more, &LISTED);
    let items: Vec<_> = source.rows().collect().await;
    match items.as_slice() {
        [Err(SourceError(said))] => {
            assert!(
                !said.contains("hunter2") && !said.contains("anna"),
                "{said}"
            );
            said.clone()
        }
        _ => panic!("no failure: {items:?}"),
    }
}

#[tokio::test]
async fn a_list_over_http_is_a_source() {
    let list = format!("{{\"data\": {{\"items\": [{}]}}}}", ROWS.join(","));
    let url = server(ok(&list), true).await;
    let json = source(&url, "list = \"/data/items\"", &LISTED);
    super::super::conformance::check(&json).await;
    let url = server(ok(&format!("{}\r\n\n", ROWS.join("\n"))), true).await;
    let lines = source(&url, "format = \"ndjson\"", &LISTED);
    super::super::conformance::check(&lines).await;
}

#[tokio::test]
async fn what_is_no_list_is_refused_without_a_word_of_it() {
    for (answer, more, said) in [
        (ok("anna"), "", "no JSON"),
        (ok("{\"anna\": 1}"), "", "expected a list"),
        (ok("[1, 2, 3]"), "limit_rows = 2", "limit_rows = 2"),
        (
            ok(&"x".repeat(101)),
            "max_bytes = 100",
            "larger than max_bytes = 100",
        ),
        (
            format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(101)),
            "max_bytes = 100",
            "larger than max_bytes = 100",
        ),
        ("HTTP/1.1 503 anna\r\n\r\n".to_owned(), "", "answered 503"),
        (
            "HTTP/1.1 302 Found\r\n\r\n".to_owned(),
            "",
            "without a location",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\nx".to_owned(),
            "",
            "compressed",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[".to_owned(),
            "",
            "ended before",
        ),
        ("anna".to_owned(), "", "127.0.0.1"),
    ] {
        let problem = refused(answer, more).await;
        assert!(problem.contains(said), "{problem}");
    }
}

#[tokio::test]
async fn a_redirection_to_a_private_address_is_not_followed() {
    let inner = server(ok("[{\"text\": \"secret\"}]"), true).await;
    // The same machine by another address, which isn't listed.
    let inner = inner.replace("127.0.0.1", "127.0.0.2");
    let away = format!("HTTP/1.1 302 Found\r\nlocation: {inner}\r\ncontent-length: 0\r\n\r\n");
    let problem = refused(away, "").await;
    assert!(
        problem.contains("after a redirection: is at a private address"),
        "{problem}"
    );
    // Where it leads to isn't the schedule's word.
    assert!(!problem.contains("127.0.0.2"), "{problem}");
    let gone = server("HTTP/1.1 404 Not Found\r\n\r\n".to_owned(), true).await;
    let away = format!(
        "HTTP/1.1 302 Found\r\nlocation: {}\r\n\r\n",
        gone.replace("/top", "/anna")
    );
    let problem = refused(away, "").await;
    assert!(
        problem.contains("/top: after a redirection: answered 404"),
        "{problem}"
    );
    let around = "HTTP/1.1 307 Temporary Redirect\r\nlocation: ?again\r\ncontent-length: 0\r\n\r\n";
    let problem = refused(around.to_owned(), "").await;
    assert!(problem.contains("more than 5 times"), "{problem}");
}

#[tokio::test]
async fn an_answer_that_does_not_end_is_given_up_at_its_limit() {
    let url = server(
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[".to_owned(),
        false,
    )
    .await;
    let source = source(&url, "limit_seconds = 1", &LISTED);
    let begun = Instant::now();
    let items: Vec<_> = source.rows().collect().await;
    assert!(
        matches!(&items[..], [Err(SourceError(said))] if said.contains("limit of 1 s")),
        "{items:?}"
    );
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

/// The same over TLS, with this certificate.
async fn encrypted(answer: String, certificate: &rcgen::CertifiedKey<rcgen::KeyPair>) -> String {
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(certificate.signing_key.serialize_der());
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = tokio_rustls::rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.cert.der().clone()], key.into())
        .expect("a certificate");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut request = vec![0; 4_096];
            let _asked = stream.read(&mut request).await;
            let _sent = stream.write_all(answer.as_bytes()).await;
            let _ended = stream.shutdown().await;
        }
    });
    format!("https://{address}/top")
}

#[tokio::test]
async fn whom_a_schedule_trusts_is_trusted_at_its_own_origin_alone() {
    let own = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("one");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, own.cert.pem()).expect("written");
    let tls = format!("tls = {{ ca_file = \"{}\" }}", path.display());
    let inner = encrypted(ok("[{\"text\": \"one\"}]"), &own).await;
    let items: Vec<_> = source(&inner, &tls, &LISTED).rows().collect().await;
    assert!(matches!(&items[..], [Ok(Item::Row(_))]), "{items:?}");
    let away = format!("HTTP/1.1 302 Found\r\nlocation: {inner}\r\n\r\n");
    let outer = encrypted(away, &own).await;
    let items: Vec<_> = source(&outer, &tls, &LISTED).rows().collect().await;
    let [Err(SourceError(said))] = &items[..] else {
        panic!("it is trusted elsewhere: {items:?}");
    };
    assert!(
        said.contains("after a redirection: TLS failed") && said.starts_with(&outer),
        "{said}"
    );
}

#[test]
fn a_schedule_names_what_is_wrong_with_its_request() {
    let check = |text: &str| {
        let read = toml::from_str::<HttpSpec>(text);
        read.map_err(|e| e.to_string()).and_then(|mut spec| {
            spec.check(Path::new("/etc"))
                .map(|()| spec)
                .map_err(|bad| bad.field)
        })
    };
    let url = "url = \"https://shop.example/\"\n";
    let good = check(&format!("{url}list = \"items\"\n[headers]\nAuthorization = {{ file = \"token\", prefix = \"Bearer \" }}\nAccept-Language = \"en\"")).expect("a source");
    assert_eq!(good.list, "/items");
    assert!(format!("{:?}", good.headers).contains("/etc/token"));
    for (text, field) in [
        ("url = \"ftp://a/\"", "url"),
        ("url = \"shop\"", "url"),
        ("url = \"https://a:b@c/\"", "url"),
        (&format!("{url}list = \"/a~b\""), "list"),
        (&format!("{url}list = \"/a\"\nformat = \"ndjson\""), "list"),
        (&format!("{url}max_bytes = 0"), "max_bytes"),
        (&format!("{url}limit_seconds = 0"), "limit_seconds"),
        (&format!("{url}limit_rows = 0"), "limit_rows"),
        (&format!("{url}per_seconds = -1.0"), "per_seconds"),
        (
            &format!("{url}[headers]\nAuthorization = \"Bearer hunter2\""),
            "headers.Authorization",
        ),
        (&format!("{url}[headers]\nHost = \"a\""), "headers.Host"),
        (
            &format!("{url}[headers]\nA = {{ env = \"KILN_REDIS_URL\" }}"),
            "headers.A",
        ),
        (
            &format!("{url}[headers]\nA = {{ env = \"B\", file = \"c\" }}"),
            "headers.A",
        ),
        (&format!("{url}[headers]\n\"a b\" = \"c\""), "headers.a b"),
    ] {
        assert_eq!(check(text).expect_err(text), field);
    }
}

#[test]
fn a_secret_is_read_when_it_is_used_and_a_wrong_one_is_not_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("token");
    let header = HeaderSource::Secret(SecretSource {
        file: Some(path.clone()),
        env: None,
        prefix: "Bearer ".to_owned(),
    });
    assert!(header.read().expect_err("no file").contains("token"));
    for secret in ["hunter2", "hunter3"] {
        std::fs::write(&path, format!("{secret}\n")).expect("written");
        let value = header.read().expect("a value");
        assert_eq!(
            value.to_str().ok(),
            Some(format!("Bearer {secret}").as_str())
        );
        assert!(!format!("{value:?}").contains("hunter"));
    }
    let secret = |file: &str| {
        HeaderSource::Secret(SecretSource {
            file: Some(file.into()),
            env: None,
            prefix: String::new(),
        })
    };
    let endless = secret("/dev/zero").read().expect_err("no end");
    assert!(endless.ends_with("is no file"), "{endless}");
    std::fs::write(&path, "hun\u{1}ter2").expect("written");
    assert!(
        !header
            .read()
            .expect_err("a control character")
            .contains("hun")
    );
}
