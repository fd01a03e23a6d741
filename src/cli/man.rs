//! `kiln man`: a manual page for each command.

use super::Exit;
use anyhow::Context;
use clap::Args;
use std::{fs, path::PathBuf};

/// Writes a manual page for each command into a folder.
#[derive(Debug, Args)]
#[command(after_help = "\
Needs neither settings nor servers. The folder is created where it is missing; pages of the same names are replaced.

Example:
  kiln man --dir /usr/local/share/man/man1")]
pub(super) struct Arguments {
    /// The folder.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let dir = &arguments.dir;
    fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(super::command(), dir))
        .with_context(|| format!("{} can't be written", dir.display()))?;
    println!("the pages are in {}", dir.display());
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let dir = tempfile::tempdir().expect("a folder");
        let arguments = Arguments {
            dir: dir.path().join("man1"),
        };
        run(&arguments).expect("pages");
        for name in ["kiln", "kiln-score", "kiln-dead-replay", "kiln-man"] {
            let page = fs::read_to_string(arguments.dir.join(format!("{name}.1")));
            assert!(page.is_ok_and(|page| page.contains("Example")), "{name}");
        }
    }
}
