//! `kiln config`: the effective settings, each with where it came from.
//!
//! Promises to show no credentials.

use super::Exit;
use crate::config::Loaded;
use clap::Args;
use comfy_table::{Table, presets};

/// Shows the effective settings and where each came from. Credentials are left out.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  KILN_INTAKE__PREFETCH=200 kiln config")]
pub(super) struct Arguments {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: Arguments, loaded: Loaded) -> anyhow::Result<Exit> {
    let effective = loaded.effective();
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&effective)?);
        return Ok(Exit::Ok);
    }
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_header(["SETTING", "VALUE", "FROM"]);
    for setting in effective {
        table.add_row([setting.name, setting.value.to_string(), setting.source]);
    }
    println!("{table}");
    Ok(Exit::Ok)
}
