//! `kiln prune`

use super::Exit;
use crate::{
    app,
    config::Settings,
    store::{SqliteStore, Store},
};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;

/// Deletes old jobs and scores, in bounded batches.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  kiln prune --older-than 30d")]
pub(super) struct Arguments {
    /// Age from which rows go: a number with s, m, h or d.
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Duration,
    /// Rows deleted by one statement.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: u32,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments, settings: Settings) -> anyhow::Result<Exit> {
    let store = match settings.database.url {
        Some(_) => Store::Postgres(app::postgres(&settings)?),
        None => Store::Sqlite(SqliteStore::open(&settings.embedded.path).await?),
    };
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template(
        "{spinner} {pos} rows deleted, {per_sec}",
    )?);
    let (jobs, scores) = store
        .prune(arguments.older_than, arguments.batch, |rows| {
            bar.set_position(rows)
        })
        .await?;
    bar.finish_and_clear();
    if arguments.json {
        println!("{}", serde_json::json!({"jobs": jobs, "scores": scores}));
    } else {
        println!("deleted {jobs} jobs and {scores} scores");
    }
    Ok(Exit::Ok)
}

/// Reads `30d`, `12h`, `5m` or `90s`.
fn age(text: &str) -> Result<Duration, String> {
    let expected = || "expected a number with s, m, h or d, such as 30d".to_owned();
    let unit = text.chars().last().ok_or_else(expected)?;
    let number: u64 = text
        .strip_suffix(unit)
        .and_then(|n| n.parse().ok())
        .ok_or_else(expected)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(expected()),
    };
    // A thousand years: beyond any clock's range, and within the database's.
    number
        .checked_mul(seconds)
        .filter(|s| *s <= 31_536_000_000)
        .map(Duration::from_secs)
        .ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ages() {
        assert_eq!(age("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(age("90s"), Ok(Duration::from_secs(90)));
        for bad in [
            "",
            "d",
            "30",
            "-1d",
            "1.5h",
            "99999999999999999999d",
            "9999999999d",
            "3é",
        ] {
            assert!(age(bad).is_err(), "{bad}");
        }
    }
}
