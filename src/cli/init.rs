//! `kiln init`: what a folder begins with: settings, a schedule, and servers for compose.
//!
//! Promises to overwrite nothing: a file that is there stays as it is, and is named. Refuses to add a compose file beside another one, whose place it would take.

use super::Exit;
use anyhow::{Context, bail};
use clap::Args;
use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

const SETTINGS: &str = include_str!("init/kiln.toml");
const SCHEDULE: &str = include_str!("init/schedule.toml");
const COMPOSE: &str = include_str!("init/compose.yaml");

/// The line of the settings that names the folder of models.
const MODELS: &str = "# dir = \"models\"";
/// Where models are looked for if the settings name no folder.
const USUAL_MODELS: &str = "models";
/// Names that compose looks for by itself; the first one is written.
const COMPOSE_FILES: [&str; 4] = [
    "compose.yaml",
    "compose.yml",
    "docker-compose.yml",
    "docker-compose.yaml",
];

/// Writes what a folder begins with: commented settings, a schedule that is switched off, and a compose file with the servers.
#[derive(Debug, Args)]
#[command(after_help = "\
Writes kiln.toml, schedules/example.toml and compose.yaml. Needs neither settings nor servers.
A file that is there is never written to: it is named, the others are written, and the exit code is 3.

Examples:
  kiln init
  kiln init shop --models /srv/models")]
pub(super) struct Arguments {
    /// The folder; it is created where it is missing.
    #[arg(default_value = ".", value_name = "FOLDER")]
    folder: PathBuf,
    /// The folder of models that the settings are to name [default: models, in the folder].
    #[arg(long, value_name = "DIR")]
    models: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let folder = &arguments.folder;
    let settings = settings(arguments.models.as_deref())?;
    let compose = COMPOSE_FILES
        .into_iter()
        .find(|name| folder.join(name).symlink_metadata().is_ok())
        .unwrap_or(COMPOSE_FILES[0]);
    let mut written = Vec::new();
    for (name, text) in [
        ("kiln.toml", settings.as_str()),
        ("schedules/example.toml", SCHEDULE),
        (compose, COMPOSE),
    ] {
        let path = folder.join(name);
        let shown = path.display();
        let is_new = write_new(&path, text).with_context(|| format!("{shown} can't be written"));
        written.push((is_new?, path));
    }
    // Said once all is there, whoever listens.
    let mut exit = Exit::Ok;
    for (is_new, path) in &written {
        let shown = path.display();
        if *is_new {
            reported!("{shown}");
        } else {
            eprintln!("kiln: {shown} is there already, and stays as it is");
            exit = Exit::Partial;
        }
    }
    eprintln!("\nNext, in {}:", folder.display());
    if arguments.models.is_none() && !folder.join(USUAL_MODELS).is_dir() {
        eprintln!("  a folder `models`         or another one, in kiln.toml: models.dir");
    }
    eprintln!("  docker compose up -d      the servers, open to this machine only");
    eprintln!("  kiln schedules check      what is wrong with the schedule, and when it would run");
    eprintln!("  kiln doctor               what is missing");
    eprintln!("  kiln run                  the worker");
    Ok(exit)
}

/// The settings, with the folder of models where one is given.
fn settings(models: Option<&Path>) -> anyhow::Result<String> {
    let Some(models) = models else {
        return Ok(SETTINGS.to_owned());
    };
    // Commands may be started elsewhere.
    let models = std::path::absolute(models).context("the folder of models")?;
    let Some(text) = models.to_str() else {
        bail!("--models: expected a path in UTF-8");
    };
    let quoted = toml::Value::String(text.to_owned()).to_string();
    Ok(SETTINGS.replacen(MODELS, &format!("dir = {quoted}"), 1))
}

/// Writes a file that isn't there; `false`: it is, and was left alone. What can't be written whole isn't left behind.
fn write_new(path: &Path, text: &str) -> std::io::Result<bool> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = match File::create_new(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(error),
    };
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all());
    if written.is_err() {
        let _removed = fs::remove_file(path);
    }
    written.map(|()| true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn init(folder: &Path, models: Option<&str>) -> Exit {
        let arguments = Arguments {
            folder: folder.to_owned(),
            models: models.map(PathBuf::from),
        };
        run(&arguments).expect("files")
    }

    #[test]
    fn what_is_there_stays_as_it_is() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().join("new");
        assert_eq!(init(&folder, None), Exit::Ok);
        let files = ["kiln.toml", "schedules/example.toml", "compose.yaml"];
        for name in files {
            fs::write(folder.join(name), "mine").expect("a file");
        }
        assert_eq!(init(&folder, Some("/srv/models")), Exit::Partial);
        fs::remove_file(folder.join(files[1])).expect("it was there");
        fs::rename(folder.join(files[2]), folder.join("docker-compose.yml")).expect("a file");
        assert_eq!(init(&folder, None), Exit::Partial);
        let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
        assert_eq!(read(files[0]).as_deref(), Some("mine"));
        assert_eq!(read(files[1]).as_deref(), Some(SCHEDULE));
        assert_eq!(read("docker-compose.yml").as_deref(), Some("mine"));
        // Compose would take this one instead.
        assert_eq!(read(files[2]), None);
        // A link that leads nowhere isn't followed.
        fs::remove_file(folder.join(files[0])).expect("it was there");
        let elsewhere = home.path().join("elsewhere");
        std::os::unix::fs::symlink(&elsewhere, folder.join(files[0])).expect("a link");
        assert_eq!(init(&folder, None), Exit::Partial);
        assert!(!elsewhere.exists());
    }

    #[test]
    fn the_settings_are_taken_and_their_comments_are_the_defaults() {
        let home = tempfile::tempdir().expect("a folder");
        let odd = "/srv/my \"models\"";
        assert_eq!(init(home.path(), Some(odd)), Exit::Ok);
        let file = home.path().join("kiln.toml");
        let loaded = config::load(Some(&file), []).expect("settings");
        assert_eq!(loaded.settings.models.dir, Path::new(odd));
        assert_eq!(SETTINGS.matches(MODELS).count(), 1);
        let example = include_str!("../../kiln.example.toml");
        let mut names = 0;
        let mut uncommented = String::new();
        for line in SETTINGS.lines() {
            let bare = line.strip_prefix("# ").unwrap_or_default();
            let is_setting = bare
                .split_once(" = ")
                .is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
            if is_setting {
                assert!(example.lines().any(|one| one == line), "{line}");
                names += 1;
            }
            let is_table = bare.starts_with('[') && bare.ends_with(']');
            let taken = is_setting || is_table;
            uncommented.push_str(if taken { bare } else { line });
            uncommented.push('\n');
        }
        assert!(names > 8, "{names}");
        fs::write(&file, uncommented).expect("a file");
        config::load(Some(&file), []).expect("settings");
    }
}
