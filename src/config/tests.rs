//! Settings from files and the environment: what is taken, what is refused, and what is said of it.

use super::{
    loaded::flatten,
    names::{FREE_TABLES, RENAMED},
    *,
};
use crate::secret::Secret;

fn from_env(pairs: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    load(
        None,
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned())),
    )
}

#[test]
fn environment_reaches_every_kind_of_setting() {
    let loaded = from_env(&[
        ("KILN_AMQP_URL", "amqp://u:hunter2@broker/%2f"),
        ("REDIS_URL", "redis://cache/1"),
        ("KILN_INTAKE__PREFETCH", "7"),
        ("KILN_RETRY__DELAYS_MS", "[10, 20]"),
        ("KILN_QUEUES__PREFIX", "42"),
        ("KILN_SERVICE_HOST", "10.0.0.1"),
    ])
    .expect("loads");
    assert_eq!(loaded.settings.intake.prefetch, 7);
    assert_eq!(loaded.settings.retry.delays_ms, [10, 20]);
    assert_eq!(loaded.settings.queues.prefix, "42");
    assert_eq!(
        loaded.settings.redis.url.as_ref().map(Secret::expose),
        Some("redis://cache/1")
    );
    let shown = serde_json::to_string(&loaded.effective()).expect("json");
    assert!(!shown.contains("hunter2"), "{shown}");
    let prefetch = loaded
        .effective()
        .into_iter()
        .find(|e| e.name == "intake.prefetch")
        .expect("listed");
    assert_eq!(
        prefetch.source,
        "environment variable KILN_INTAKE__PREFETCH"
    );
    let drain = loaded
        .effective()
        .into_iter()
        .find(|e| e.name == "drain.limit_seconds")
        .expect("listed");
    assert_eq!(drain.source, "default");
}

#[test]
fn unknown_and_ill_typed_settings_are_named() {
    let unknown = from_env(&[("KILN_INTAKE__PREFECH", "7")])
        .expect_err("unknown")
        .to_string();
    assert!(
        unknown.contains("KILN_INTAKE__PREFECH") && unknown.contains("KILN_INTAKE__PREFETCH"),
        "{unknown}"
    );
    let typed = from_env(&[("KILN_INTAKE__PREFETCH", "many")])
        .expect_err("typed")
        .to_string();
    assert!(
        typed.contains("intake.prefetch") && !typed.contains("many"),
        "{typed}"
    );
    let range = from_env(&[("KILN_INTAKE__PREFETCH", "3000")])
        .expect_err("range")
        .to_string();
    assert!(
        range.contains("intake.prefetch") && range.contains("2000"),
        "{range}"
    );
    let scheme = from_env(&[("KILN_REDIS_URL", "http://:hunter2@x")])
        .expect_err("scheme")
        .to_string();
    assert!(
        scheme.contains("redis://") && !scheme.contains("hunter2"),
        "{scheme}"
    );
}

#[test]
fn a_file_is_checked_against_the_tree() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("kiln.toml");
    std::fs::write(
        &path,
        "[intake]\nprefetch = 5\n[namespaces.feed]\nttl_seconds = 60\n",
    )
    .expect("write");
    let loaded = load(Some(&path), []).expect("loads");
    assert_eq!(loaded.settings.intake.prefetch, 5);
    assert_eq!(loaded.settings.namespaces["feed"].ttl_seconds, Some(60));
    std::fs::write(&path, "[intake]\nbatch_job = 5\n").expect("write");
    let error = load(Some(&path), []).expect_err("unknown").to_string();
    assert!(
        error.contains("intake.batch_job") && error.contains("did you mean `intake.batch_jobs`"),
        "{error}"
    );
    std::fs::write(&path, "intake = [").expect("write");
    assert!(matches!(
        load(Some(&path), []),
        Err(ConfigError::File { .. })
    ));
}

/// The example file names every setting, commented out, with its default.
#[test]
fn the_example_file_is_complete() {
    let example = include_str!("../../kiln.example.toml");
    let mut active = String::new();
    for line in example.lines() {
        let setting = line.strip_prefix("# ").filter(|l| {
            l.starts_with('[')
                || l.split_once(" = ").is_some_and(|(k, _)| {
                    k.chars()
                        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._".contains(c))
                })
        });
        active.push_str(setting.unwrap_or(if line.starts_with('[') { line } else { "" }));
        active.push('\n');
    }
    let table: toml::Table = active.parse().unwrap_or_else(|e| panic!("{e}\n{active}"));
    let example = serde_json::to_value(&table).expect("json");
    let mut named = Vec::new();
    flatten("", &example, &mut named);
    let named: BTreeMap<_, _> = named.into_iter().collect();
    for (name, default) in known_settings() {
        if default.is_null() || FREE_TABLES.contains(&name.as_str()) {
            assert!(
                named.keys().any(|n| n.starts_with(&name)),
                "{name} is missing in kiln.example.toml"
            );
        } else {
            assert_eq!(
                named.get(&name),
                Some(&default),
                "{name} in kiln.example.toml"
            );
        }
    }
}

#[test]
fn a_secret_may_lie_in_a_file_and_a_bad_one_is_told_without_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("amqp");
    let named = path.display().to_string();
    let load = |more: &[(&str, &str)]| {
        let file = ("KILN_AMQP_URL_FILE", named.as_str());
        let variables = [&[file], more].concat();
        let owned = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        load(None, owned).map_err(|e| e.to_string())
    };
    let said = load(&[]).expect_err("no file");
    assert!(
        said.starts_with("KILN_AMQP_URL_FILE: ") && said.contains("amqp: No such file"),
        "{said}"
    );
    std::fs::write(&path, " \n").expect("a file");
    assert!(load(&[]).expect_err("empty").contains("is empty"));
    std::fs::write(&path, "amqp://kiln:hunter2@broker/\n").expect("a file");
    let settings = load(&[]).expect("settings").settings;
    let url = settings.amqp.url.expect("a URL");
    assert_eq!(url.expose(), "amqp://kiln:hunter2@broker/");
    let said = load(&[("KILN_AMQP_URL", "amqp://other/")]).expect_err("both");
    assert!(
        said.contains("KILN_AMQP_URL is set, too") && !said.contains("hunter2"),
        "{said}"
    );
    let database = folder.path().join("shop");
    std::fs::write(&database, "postgres://reader:hunter2@shop/shop").expect("a file");
    let database = database.display().to_string();
    let settings = load(&[("KILN_DATABASES__SHOP__URL_FILE", &database)])
        .expect("settings")
        .settings;
    assert_eq!(
        settings.databases["shop"].url.expose(),
        "postgres://reader:hunter2@shop/shop"
    );
}

#[test]
fn secrets_that_sign_may_lie_in_files_and_one_of_digits_is_text() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("crm");
    std::fs::write(&path, format!("{}\n", "s".repeat(40))).expect("a file");
    let digits = "1".repeat(32);
    let settings = from_env(&[
        ("KILN_CALLBACKS__HOSTS", "[\"a.example\", \"crm.example\"]"),
        ("KILN_CALLBACKS__SECRET", &digits),
        ("KILN_CALLBACKS__RECEIVERS__CRM__HOSTS", "[\"crm.example\"]"),
        (
            "KILN_CALLBACKS__RECEIVERS__CRM__SECRET_FILE",
            &path.display().to_string(),
        ),
    ]);
    let callbacks = settings.expect("settings").settings.callbacks;
    let of = |host: &str| callbacks.secret_of(host).map(|secret| secret.expose());
    assert_eq!(of("a.example"), Some(digits.as_str()));
    assert_eq!(of("crm.example"), Some("s".repeat(40).as_str()));
    let own = from_env(&[
        ("KILN_CALLBACKS__HOSTS", "[\"crm.example\"]"),
        ("KILN_CALLBACKS__RECEIVERS__CRM__HOSTS", "[\"crm.example\"]"),
        ("KILN_CALLBACKS__RECEIVERS__CRM__SECRET", &digits),
    ]);
    let callbacks = own.expect("settings").settings.callbacks;
    assert_eq!(
        callbacks.secret_of("crm.example").map(|one| one.expose()),
        Some(digits.as_str())
    );
    // A namespace may have any name.
    let named = from_env(&[("KILN_NAMESPACES__SECRET", "{ttl_seconds=60}")]);
    let named = named.expect("settings").settings.namespaces;
    assert_eq!(named["secret"].ttl_seconds, Some(60));
}

#[test]
fn certificates_that_cannot_be_used_are_told_before_anything_connects() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let rubbish = file("rubbish.pem", "-----BEGIN RUBBISH-----\n");
    for (variables, says) in [
        (
            vec![("KILN_REDIS__TLS__CA_FILE", "/no/such.pem")],
            "setting `redis.tls.ca_file`: /no/such.pem: No such file",
        ),
        (
            vec![("KILN_DATABASE__TLS__CA_FILE", rubbish.as_str())],
            "rubbish.pem: expected certificates in PEM",
        ),
        (
            vec![("KILN_AMQP__TLS__KEY_FILE", rubbish.as_str())],
            "setting `amqp.tls.cert_file`: expected a file: a certificate and its key go together",
        ),
    ] {
        let owned = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let said = load(None, owned).expect_err(says).to_string();
        assert!(said.contains(says), "{said}");
    }
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let ca = file("ca.pem", &params.self_signed(&key).expect("it").pem());
    let load = |url: &str| {
        let pairs = [
            ("KILN_REDIS__TLS__CA_FILE", ca.as_str()),
            ("KILN_REDIS_URL", url),
        ];
        load(
            None,
            pairs.map(|(name, value)| (name.to_owned(), value.to_owned())),
        )
    };
    assert!(load("rediss://redis/").is_ok());
    let said = load("redis://:hunter2@redis/")
        .expect_err("plaintext")
        .to_string();
    assert!(
        said.contains("expected a URL that starts with rediss://") && !said.contains("hunter2"),
        "{said}"
    );
}

#[test]
fn a_server_may_have_several_addresses_and_none_of_them_is_empty() {
    let file = tempfile::Builder::new().suffix(".toml").tempfile();
    let file = file.expect("a file");
    let text = r#"amqp.url = ["amqp://kiln:one@a/v", "amqps://kiln:two@b/v"]"#;
    std::fs::write(file.path(), text).expect("written");
    let loaded = load(Some(file.path()), []).expect("loads");
    let url = loaded.settings.amqp.url.expect("a URL");
    let hosts: Vec<String> = url.addresses().iter().map(Secret::host).collect();
    assert_eq!(hosts, ["amqp://a/v", "amqps://b/v"]);
    for (url, expected) in [
        ("redis://:hunter2@a,,b/0", "a host before and after"),
        (
            "redis://:hunter2@a,http://b",
            "starts with redis:// or rediss://",
        ),
    ] {
        let said = from_env(&[("KILN_REDIS_URL", url)]).expect_err("refused");
        let said = said.to_string();
        assert!(
            said.contains(expected) && !said.contains("hunter2"),
            "{said}"
        );
    }
}

/// The value of one setting and where it came from.
fn one(loaded: &Loaded, name: &str) -> (serde_json::Value, String) {
    let all = loaded.effective().into_iter();
    let found = all.map(|one| (one.name, one.value, one.source));
    let mut found = found.filter(|(one, ..)| one == name);
    let (_, value, source) = found.next().unwrap_or_else(|| panic!("{name}"));
    (value, source)
}

fn spelt(setting: &str) -> String {
    format!("KILN_{}", setting.to_uppercase().replace('.', "__"))
}

#[test]
fn every_former_name_goes_on_working_in_the_file_and_the_environment() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("kiln.toml");
    for (old, new) in RENAMED {
        std::fs::write(&path, format!("{old} = 71\n")).expect("a file");
        let loaded = load(Some(&path), []).expect(old);
        let file = path.display().to_string();
        assert_eq!(one(&loaded, new), (71.into(), file), "{old} in a file");

        let variable = spelt(old);
        let loaded = from_env(&[(&variable, "72")]).expect(old);
        let source = format!("environment variable {variable}");
        assert_eq!(one(&loaded, new), (72.into(), source.clone()), "{variable}");

        // Whatever they are called there, the environment wins over the file.
        for name in [old, new] {
            std::fs::write(&path, format!("{name} = 71\n")).expect("a file");
            let both = [(variable.clone(), "72".to_owned())];
            let loaded = load(Some(&path), both).expect(old);
            assert_eq!(one(&loaded, new), (72.into(), source.clone()), "{name}");
        }
        let (section, key) = old.split_once('.').expect("a section");
        std::fs::write(&path, format!("[{section}]\n{key} = 71\n")).expect("a file");
        let loaded = load(Some(&path), [(spelt(new), "73".to_owned())]).expect(old);
        assert_eq!(one(&loaded, new).0, 73, "{new} wins");
    }
}

#[test]
fn a_setting_by_both_its_names_is_refused_and_a_typo_of_either_suggests_the_present_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("kiln.toml");
    for (old, new) in RENAMED {
        std::fs::write(&path, format!("{old} = 71\n{new} = 71\n")).expect("a file");
        let said = load(Some(&path), []).expect_err("both").to_string();
        let file = path.display();
        let expected = format!(
            "`{old}` is the former name of `{new}`, and {file} sets both: leave `{old}` out"
        );
        assert_eq!(said, expected);

        let (before, after) = (spelt(old), spelt(new));
        let said = from_env(&[(&before, "72"), (&after, "72")]).expect_err("both");
        let said = said.to_string();
        assert!(said.contains(&before) && said.contains(&after), "{said}");

        for name in [old, new] {
            let typo = name.replacen('c', "ck", 1).replacen("queued", "queud", 1);
            std::fs::write(&path, format!("{typo} = 71\n")).expect("a file");
            let said = load(Some(&path), []).expect_err("unknown").to_string();
            let hint = format!("did you mean `{new}`?");
            assert!(said.contains(&hint), "{typo}: {said}");
            let said = from_env(&[(&spelt(&typo), "71")]).expect_err("unknown");
            let hint = format!("did you mean `{after}`?");
            assert!(said.to_string().contains(&hint), "{typo}: {said}");
        }
    }
    let said = from_env(&[("KILN_AMQP__MAX_BACKOFF_MS", "0")]).expect_err("range");
    assert!(said.to_string().contains("amqp.max_backoff_ms"), "{said}");
}

/// Settings that a file to deploy with gives: what stands behind names that begin with `from`.
fn deployed<'a>(file: &'a str, from: &str) -> Vec<(&'a str, String)> {
    let settings = file.lines().filter_map(|line| {
        let (name, value) = line.trim().split_once(": ")?;
        let value = value.trim_matches('"').to_owned();
        name.starts_with(from).then_some((name, value))
    });
    settings.collect()
}

#[test]
fn what_kiln_is_deployed_with_gives_settings_that_it_takes() {
    let single = include_str!("../../compose.yaml");
    let clusters = include_str!("../../compose.cluster.yaml");
    for (file, at_least) in [(single, 6), (clusters, 3)] {
        let settings = deployed(file, "KILN_");
        assert!(settings.len() >= at_least, "{settings:?}");
        let settings: Vec<(&str, &str)> = settings.iter().map(|(k, v)| (*k, v.as_str())).collect();
        from_env(&settings).unwrap_or_else(|error| panic!("{error}"));
    }
    let kubernetes = include_str!("../../ops/kubernetes/clusters.yaml");
    let secret = deployed(kubernetes, "");
    let url = |name: &str, scheme: &str| {
        let found = secret
            .iter()
            .find(|(key, value)| *key == name && value.starts_with(scheme));
        found.expect(name).1.clone()
    };
    let (amqp, redis) = (url("amqp", "amqp://"), url("redis", "redis://"));
    let database = url("database", "postgres://");
    let pairs = [
        ("KILN_AMQP_URL", amqp.as_str()),
        ("KILN_REDIS_URL", &redis),
        ("KILN_DATABASE_URL", &database),
    ];
    from_env(&pairs).unwrap_or_else(|error| panic!("{error}"));
    // Each address is one that the file has.
    for (name, urls) in deployed(clusters, "KILN_") {
        for address in Secret::new(urls).addresses() {
            let host = address.parts().expect("an address").1;
            let host = host.split(':').next().expect("a host");
            let here = [
                format!("  {host}: {{"),
                format!("  {host}:\n"),
                format!("ipv4_address: {host} "),
            ];
            assert!(
                here.iter().any(|one| clusters.contains(one)),
                "{name}: {host}"
            );
        }
    }
}
