//! Settings files that nobody thought of: what is refused names the setting, and no password is shown.

use super::*;
use kiln_fuzz::Target;

/// A password that stands in each file.
const PASSWORD: &str = "c4n4ry";

#[test]
fn fuzz_settings() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("kiln.toml");
    Target::new("settings")
        .memory(8 << 20, 1_024)
        .runs(2_000)
        .words(&[
            "[amqp]\n",
            "[postgres]\n",
            "[redis]\n",
            "[intake]\n",
            "[[http.keys]]\n",
            "url = \"amqp://u:c4n4ry@h/%2f\"",
            "url = \"postgres://u:c4n4ry@h,i/db?x=y\"",
            "url = [\"redis://:c4n4ry@h\", \"redis://:c4n4ry@i\"]",
            "prefetch = ",
            "delays_ms = [",
            "listen = ",
            "= 1979-05-27T07:32:00Z",
            "= inf",
            "'c4n4ry'",
        ])
        .run(|case| {
            let bytes = case.bytes();
            std::fs::write(&path, bytes).expect("a file");
            match case.bounded(bytes.len(), || load(Some(&path), [])) {
                Ok(loaded) => {
                    case.saw("settings");
                    let shown = serde_json::to_string(&loaded.effective()).expect("JSON");
                    let debug = format!("{loaded:?}");
                    let said = String::from_utf8_lossy(bytes);
                    // As a password it is hidden; elsewhere, it may be anybody's word.
                    if said.matches(PASSWORD).count() == said.matches(":c4n4ry@").count() {
                        assert!(
                            !shown.contains(PASSWORD) && !debug.contains(PASSWORD),
                            "{shown}"
                        );
                    }
                }
                Err(refused) => {
                    let said = refused.to_string();
                    assert!(!said.contains(PASSWORD), "{said}");
                    case.refused(&said.replace(&path.display().to_string(), "kiln.toml"));
                }
            }
        });
}
