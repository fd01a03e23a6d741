//! Cron expressions against crontab's rules, clock changes, and a year of runs of another implementation.

use super::*;
use chrono_tz::{America, Asia, Australia, Europe, UTC};
use serde::Deserialize;
use sha2::{Digest, Sha256};

fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("an instant")
}

fn runs(expression: &str, zone: Tz, from: &str, until: &str) -> Vec<String> {
    let cron = Cron::parse(expression).expect("a cron expression");
    let until = at(until);
    let mut last = at(from);
    std::iter::from_fn(|| {
        last = cron.next_after(last, zone).filter(|next| *next < until)?;
        Some(last.format("%dT%H:%M:%S").to_string())
    })
    .collect()
}

#[test]
fn five_fields_mean_what_crontab_means_by_them() {
    let week = |e: &str| runs(e, UTC, "2026-11-15T12:00:00Z", "2026-11-23T12:00:00Z");
    // 2026-11-15 is a Sunday.
    assert_eq!(week("0 5 * * 0"), ["22T05:00:00"]);
    assert_eq!(week("0 5 * * 7"), week("0 5 * * sun"));
    assert_eq!(
        week("0 5 * * 1-2"),
        ["16T05:00:00", "17T05:00:00", "23T05:00:00"]
    );
    assert_eq!(
        week("0 5 * * 5-7"),
        ["20T05:00:00", "21T05:00:00", "22T05:00:00"]
    );
    // Either will do where both are given; a star with a step restricts together with the other.
    assert_eq!(week("0 5 18 * 5"), ["18T05:00:00", "20T05:00:00"]);
    assert_eq!(week("0 5 */2 * 5"), Vec::<String>::new());
    assert_eq!(week("0 5 */2 * 6"), ["21T05:00:00"]);
    assert_eq!(week("30 0 5 18 * fri"), ["18T05:00:30", "20T05:00:30"]);
    assert_eq!(week("0 0 5 18 * ? 2027"), Vec::<String>::new());
    assert_eq!(week("@weekly"), ["22T00:00:00"]);
    assert_eq!(
        runs(
            "*/25 3,4 * * *",
            UTC,
            "2026-11-15T03:30:00Z",
            "2026-11-16T00:00:00Z"
        ),
        ["15T03:50:00", "15T04:00:00", "15T04:25:00", "15T04:50:00"]
    );
    assert_eq!(
        runs(
            "0 0 29 2 *",
            UTC,
            "2025-01-01T00:00:00Z",
            "2032-01-01T00:00:00Z"
        )
        .len(),
        1
    );
}

#[test]
fn a_skipped_hour_loses_no_run() {
    // Berlin: 02:00 CET becomes 03:00 CEST at 01:00 UTC.
    let spring = |e: &str| {
        runs(
            e,
            Europe::Berlin,
            "2027-03-27T22:59:59Z",
            "2027-03-28T03:00:00Z",
        )
    };
    assert_eq!(spring("30 2 * * *"), ["28T01:00:00"]);
    assert_eq!(
        spring("*/20 2,3 * * *"),
        ["28T01:00:00", "28T01:20:00", "28T01:40:00"]
    );
    assert_eq!(spring("0 3 * * *"), ["28T01:00:00"]);
    assert_eq!(
        spring("30 * * * *"),
        ["27T23:30:00", "28T00:30:00", "28T01:30:00", "28T02:30:00"]
    );
    // Lord Howe moves by half an hour.
    assert_eq!(
        runs(
            "15 2 * * *",
            Australia::Lord_Howe,
            "2027-10-02T00:00:00Z",
            "2027-10-03T00:00:00Z"
        ),
        ["02T15:30:00"]
    );
}

#[test]
fn a_repeated_hour_doubles_no_run() {
    // Berlin: 03:00 CEST becomes 02:00 CET at 01:00 UTC.
    let autumn = |e: &str| {
        runs(
            e,
            Europe::Berlin,
            "2027-10-30T22:30:00Z",
            "2027-10-31T03:00:00Z",
        )
    };
    assert_eq!(autumn("30 2 * * *"), ["31T00:30:00"]);
    assert_eq!(autumn("0 3 * * *"), ["31T02:00:00"]);
    assert_eq!(
        autumn("30 * * * *"),
        ["30T23:30:00", "31T00:30:00", "31T01:30:00", "31T02:30:00"]
    );
    // Asked in the middle of the second pass.
    assert_eq!(
        runs(
            "*/20 2,4 * * *",
            Europe::Berlin,
            "2027-10-31T01:10:00Z",
            "2027-10-31T03:30:00Z"
        ),
        ["31T03:00:00", "31T03:20:00"]
    );
    assert_eq!(
        runs(
            "30 1 * * *",
            America::New_York,
            "2027-11-06T00:00:00Z",
            "2027-11-08T12:00:00Z"
        ),
        ["06T05:30:00", "07T05:30:00", "08T06:30:00"]
    );
}

#[test]
fn the_last_run_is_found_backwards() {
    let last = |e: &str, zone, until: &str| {
        let until = at(until);
        let cron = Cron::parse(e).expect("a cron expression");
        cron.last_before(until, until - Duration::days(800), zone)
            .map(|t| t.to_rfc3339())
    };
    let berlin = Europe::Berlin;
    assert_eq!(
        last("30 2 * * *", berlin, "2027-03-28T12:00:00Z").as_deref(),
        Some("2027-03-28T01:00:00+00:00")
    );
    assert_eq!(
        last("0 0 1 1 *", Asia::Kolkata, "2027-06-01T00:00:00Z").as_deref(),
        Some("2026-12-31T18:30:00+00:00")
    );
    assert_eq!(
        last("* * * * * *", berlin, "2027-06-01T00:00:07Z").as_deref(),
        Some("2027-06-01T00:00:07+00:00")
    );
    assert_eq!(
        last("0 0 0 1 1 * 2020", berlin, "2027-06-01T00:00:07Z"),
        None
    );
}

#[test]
fn what_is_no_cron_expression_is_told_by_field() {
    for (expression, reported) in [
        ("", "found 0"),
        ("* * * *", "found 4"),
        ("61 * * * *", "minute `61`: expected 0 to 59"),
        ("* 24 * * *", "hour `24`"),
        ("* * 0 * *", "day of the month `0`"),
        ("* * * foo *", "month `foo`"),
        ("* * * * 8", "day of the week `8`"),
        ("* * * * fri-mon", "day of the week `fri-mon`"),
        ("*/0 * * * *", "minute `*/0`"),
        ("* * * * * * 2026-x", "not a cron expression"),
        ("@reboot", "at_start"),
        ("@often", "@hourly"),
    ] {
        let error = Cron::parse(expression).expect_err(expression);
        assert!(error.contains(reported), "{expression}: {error}");
    }
}

#[derive(Deserialize)]
struct Case {
    expression: String,
    zone: String,
    runs: usize,
    sha256: String,
    near_changes: Vec<i64>,
}

/// Against another implementation: `tests/cron/make.py` says which, and wrote the file.
#[test]
fn a_year_of_runs_is_that_of_another_implementation() {
    let cases: Vec<Case> =
        serde_json::from_str(include_str!("../../../tests/cron/year.json")).expect("the fixture");
    assert!(cases.len() >= 60);
    for case in cases {
        let cron = Cron::parse(&case.expression).expect("a cron expression");
        let zone: Tz = case.zone.parse().expect("a zone");
        let (mut last, end) = (at("2026-12-31T23:59:59Z"), at("2028-01-01T00:00:00Z"));
        let mut instants = Vec::new();
        while let Some(next) = cron.next_after(last, zone).filter(|next| *next < end) {
            instants.push(next.timestamp());
            last = next;
        }
        let name = format!("{} in {}", case.expression, case.zone);
        let lacking: Vec<&i64> = case
            .near_changes
            .iter()
            .filter(|t| !instants.contains(t))
            .collect();
        assert!(lacking.is_empty(), "{name}: lacks {lacking:?}");
        assert_eq!(instants.len(), case.runs, "{name}");
        let lines: String = instants.iter().map(|t| format!("{t}\n")).collect();
        assert_eq!(hex::encode(Sha256::digest(lines)), case.sha256, "{name}");
    }
}
