//! `kiln key`: an API key, and the settings that know only its hash.
//!
//! Promises to write the key nowhere: standard output is the only place that has it.

use super::Exit;
use anyhow::bail;
use clap::{Args, ValueEnum};
use kiln_contract::name::{NAME_RULE, is_name};
use rand::Rng;
use sha2::{Digest, Sha256};

/// Creates an API key: prints it once, with the settings that hold only its hash.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kiln key shop --scopes read,score --requests-per-second 200
  kiln key grafana --scopes read
  kiln key operators --scopes read:all,admin")]
pub(super) struct Arguments {
    /// Name of its owner in settings and logs.
    name: String,
    /// What it may do.
    #[arg(long, value_delimiter = ',', required = true)]
    scopes: Vec<Scope>,
    /// Requests per second that it may make.
    #[arg(long, value_name = "COUNT")]
    requests_per_second: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scope {
    /// Look at how workers do, and at the jobs that the key has posted.
    Read,
    /// Look at everything: everybody's jobs, dead letters and what readers find as well.
    #[value(name = "read:all")]
    ReadAll,
    /// Score, post jobs, send hints.
    Score,
    /// Pause, warm, invalidate.
    Admin,
}

impl Scope {
    fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::ReadAll => "read:all",
            Self::Score => "score",
            Self::Admin => "admin",
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    if !is_name(&arguments.name) {
        bail!("expected a name of {NAME_RULE}");
    }
    let secret: [u8; 32] = rand::rng().random();
    let key = format!("kiln_{}", hex::encode(secret));
    let scopes: Vec<String> = arguments
        .scopes
        .iter()
        .map(|scope| format!("\"{}\"", scope.as_str()))
        .collect();
    // The key goes to standard output by itself, so that a script can keep it.
    println!("{key}");
    eprintln!("\nIt is shown only now. For kiln.toml:\n");
    eprintln!("[http.keys.{}]", arguments.name);
    eprintln!("sha256 = \"{}\"", hex::encode(Sha256::digest(&key)));
    eprintln!("scopes = [{}]", scopes.join(", "));
    if let Some(count) = arguments.requests_per_second {
        eprintln!("requests_per_second = {count}");
    }
    Ok(Exit::Ok)
}
