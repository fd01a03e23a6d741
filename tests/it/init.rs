//! What `kiln init` writes is what the other commands take.

use serde_json::Value;

use crate::harness::shell::Shell;
use crate::harness::stack::Stack;

const MODELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_init_writes_is_accepted_by_the_other_commands() {
    let stack = Stack::shared().await;
    let mut shell = Shell::on(&stack);
    // The file says it.
    shell.variables.remove("KILN_MODELS_DIR");
    let wrote = shell.kiln(&["init", "--models", MODELS]).await.with(0);
    assert_eq!(
        wrote.out.lines().collect::<Vec<_>>(),
        ["./kiln.toml", "./schedules/example.toml", "./compose.yaml"]
    );
    assert!(wrote.err.contains("kiln doctor"), "{}", wrote.err);
    let again = shell.kiln(&["init"]).await.with(3);
    assert_eq!(
        (
            again.out.as_str(),
            again.err.matches("is there already").count()
        ),
        ("", 3)
    );

    let shown = shell.kiln(&["config", "--json"]).await.with(0).out;
    let shown: Vec<Value> = serde_json::from_str(&shown).expect("JSON");
    let setting = |name: &str| {
        let found = shown.iter().find(|one| one["name"] == name);
        found.expect(name)
    };
    assert_eq!(setting("models.dir")["value"], MODELS);
    assert!(
        setting("models.dir")["source"]
            .to_string()
            .contains("kiln.toml")
    );
    let checked = shell.kiln(&["schedules", "check", "--json"]).await.with(0);
    assert_eq!(checked.lines()[0]["schedule"], "example");
    let checks = shell.kiln(&["doctor", "--json"]).await.with(0).checks();
    for name in [
        "settings",
        "rabbitmq",
        "redis",
        "postgres",
        "model sentiment@1.0.0",
    ] {
        assert_eq!(checks[name].0, "ok", "{checks:#?}");
    }
    let wanted = shell.kiln(&["warm", "example", "--dry-run"]).await.with(0);
    assert!(wanted.out.contains("would post"), "{}", wanted.out);
}
