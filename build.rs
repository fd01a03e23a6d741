//! Tells the program what only its build knows, for `kiln --version --json`: its features, its target, and its commit where `KILN_COMMIT`
//! names one. The history isn't asked: every commit would build the program anew.

#![allow(clippy::expect_used, reason = "a build fails where it stands")]

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=KILN_COMMIT");
    let commit = env::var("KILN_COMMIT").unwrap_or_default();
    let is_commit = commit.len() >= 7 && commit.bytes().all(|b| b.is_ascii_hexdigit());
    assert!(
        commit.is_empty() || is_commit,
        "KILN_COMMIT: expected a commit's hexadecimal digits, at least 7"
    );
    let mut features: Vec<String> = env::vars()
        .filter_map(|(name, _)| Some(name.strip_prefix("CARGO_FEATURE_")?.to_owned()))
        .filter(|name| name != "DEFAULT")
        .map(|name| name.to_ascii_lowercase().replace('_', "-"))
        .collect();
    features.sort();
    let target = env::var("TARGET").expect("cargo names the target");
    // `cargo run` hands these on to the program, where a name of Kiln's own would be a setting.
    println!("cargo::rustc-env=BUILT_COMMIT={commit}");
    println!("cargo::rustc-env=BUILT_FEATURES={}", features.join(","));
    println!("cargo::rustc-env=BUILT_TARGET={target}");
}
