//! `kiln --version --json`: what was built, for programs that look after many machines.

use serde::Serialize;
use std::ffi::OsString;

/// What a binary is.
#[derive(Debug, Serialize)]
pub(super) struct Built {
    version: &'static str,
    /// Of Kiln's history; nothing where the build wasn't told (`KILN_COMMIT`).
    commit: Option<&'static str>,
    features: Vec<&'static str>,
    target: &'static str,
}

impl Built {
    /// This binary.
    pub(super) fn this() -> Self {
        let features = env!("BUILT_FEATURES").split(',');
        Self {
            version: env!("CARGO_PKG_VERSION"),
            commit: Some(env!("BUILT_COMMIT")).filter(|commit| !commit.is_empty()),
            features: features.filter(|feature| !feature.is_empty()).collect(),
            target: env!("BUILT_TARGET"),
        }
    }

    /// One line of JSON.
    pub(super) fn json(&self) -> String {
        serde_json::json!(self).to_string()
    }
}

/// Whether that is asked, and nothing else. Whoever parses the arguments ends at the first of the two.
pub(super) fn is_asked(mut arguments: impl Iterator<Item = OsString>) -> bool {
    let (Some(one), Some(other), None) = (arguments.next(), arguments.next(), arguments.next())
    else {
        return false;
    };
    let is_version = |text: &OsString| text == "--version" || text == "-V";
    let is_json = |text: &OsString| text == "--json";
    is_version(&one) && is_json(&other) || is_json(&one) && is_version(&other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn it_is_asked_in_either_order_and_alone() {
        for (line, expected) in [
            ("--version --json", true),
            ("--json -V", true),
            ("--version", false),
            ("--json", false),
            ("--version --version", false),
            ("status --json", false),
            ("--version --json --json", false),
        ] {
            let arguments = line.split(' ').map(OsString::from);
            assert_eq!(is_asked(arguments), expected, "{line}");
        }
    }

    #[test]
    fn a_binary_says_what_it_was_built_of() {
        let built: Value = serde_json::from_str(&Built::this().json()).expect("JSON");
        assert_eq!(built["version"], env!("CARGO_PKG_VERSION"));
        let features = built["features"].as_array().expect("a list");
        for (name, is_on) in [
            ("faults", cfg!(feature = "faults")),
            ("parquet", cfg!(feature = "parquet")),
            ("x86-v4", cfg!(feature = "x86-v4")),
        ] {
            assert_eq!(features.contains(&name.into()), is_on, "{name}");
        }
        let target = built["target"].as_str().expect("a text");
        assert!(target.starts_with(std::env::consts::ARCH), "{target}");
        let commit = &built["commit"];
        assert!(commit.is_null() || commit.as_str().is_some_and(|commit| commit.len() >= 7));
    }
}
