//! Expressions that nobody thought of, in zones with odd clock changes: whenever it is asked, the same runs are due.

use super::*;
use chrono_tz::{America, Antarctica, Asia, Australia, Europe, Pacific, UTC};
use kiln_fuzz::{Case, Target};

const ZONES: [Tz; 10] = [
    UTC,
    Europe::Berlin,
    // Moves by half an hour.
    Australia::Lord_Howe,
    // Left out a whole day in 2011.
    Pacific::Apia,
    America::New_York,
    // Changes at midnight.
    America::Havana,
    Asia::Beirut,
    // Moved by three hours.
    Antarctica::Troll,
    // Changed its offset by 24 minutes.
    Asia::Kathmandu,
    Europe::Dublin,
];

/// Instants around clock changes, and some others.
const INSTANTS: [&str; 12] = [
    "2026-03-29T00:30:00Z",
    "2026-10-25T00:15:00Z",
    "2026-10-25T01:15:00Z",
    "2026-04-04T14:40:00Z",
    "2026-10-03T15:10:00Z",
    "2011-12-30T09:30:00Z",
    "2026-11-01T05:30:00Z",
    "2026-03-08T04:30:00Z",
    "2028-02-28T23:59:59Z",
    "1970-01-01T00:00:00Z",
    "2085-12-31T23:00:00Z",
    "2026-03-29T00:59:59.999999999Z",
];

/// Runs that are looked at, one after the other.
const RUNS: usize = 6;

/// All that must hold of an expression that was taken.
fn check(case: &mut Case<'_>, cron: &Cron) {
    let zone = *case.pick(&ZONES);
    let minutes = case.below(4_000) as i64 - 2_000;
    let nanoseconds = case.below(3) as i64 * 333_333_333;
    let after: DateTime<Utc> = case.pick(&INSTANTS).parse().expect("an instant");
    let after = after + Duration::minutes(minutes) + Duration::nanoseconds(nanoseconds);
    let mut last = after;
    for _ in 0..RUNS {
        let Some(next) = cron.next_after(last, zone) else {
            break;
        };
        assert!(next > last, "{next} after {last}");
        // Whoever asks again before it is due hears the same.
        let between = next.signed_duration_since(last).num_seconds();
        for part in [1, between / 2, between - 1] {
            let asked = last + Duration::seconds(part.clamp(0, between));
            if asked < next {
                let again = cron.next_after(asked, zone);
                assert_eq!(
                    again,
                    Some(next),
                    "`{}` in {zone}, asked at {asked} and at {last}",
                    cron.as_str()
                );
            }
        }
        assert_eq!(
            cron.last_before(next, last, zone),
            Some(next),
            "`{}` in {zone}, back from {next} to {last}",
            cron.as_str()
        );
        last = next;
    }
    case.saw(if last == after { "never" } else { "due" });
}

fn parse(case: &mut Case<'_>, text: &str) {
    match case.bounded(text.len(), || Cron::parse(text)) {
        Ok(cron) => {
            let again = Cron::parse(cron.as_str()).expect("as it was written");
            assert_eq!(again.as_str(), cron.as_str());
            check(case, &cron);
        }
        Err(problem) => case.refused(&problem),
    }
}

#[test]
fn fuzz_cron() {
    let seeds: [&[u8]; 9] = [
        b"*/5 * * * *",
        b"0 0 29 2 *",
        b"30 2 * * sun",
        b"@hourly",
        b"0 0 1,15 * mon-fri",
        b"0 0 5 18 * ? 2027",
        b"59 59 23 31 12 * 2026-2099/3",
        b"*/0 * * * *",
        b"0 0 0 1 1 * 99999999999999999999",
    ];
    Target::new("cron")
        .seeds(&seeds)
        .memory(1 << 20, 512)
        .runs(10_000)
        .max_bytes(256)
        .words(&[
            "*/", "-", ",", "?", "jan", "SUN", "@daily", "L", "#", "2100", "1970",
        ])
        .run(|case| {
            let text = String::from_utf8_lossy(case.bytes()).into_owned();
            parse(case, &text);
        });
}

/// A field: a star, a value, a range, a list or a step, within bounds more often than not.
fn field(case: &mut Case<'_>, min: usize, max: usize) -> String {
    let value = |case: &mut Case<'_>| min + case.below(max - min + 1);
    match case.below(8) {
        0..3 => "*".to_owned(),
        3 => format!("*/{}", case.below(max + 2)),
        4 => {
            let low = value(case);
            format!("{low}-{}", low + case.below(max + 1 - low))
        }
        5 => format!("{},{}", value(case), value(case)),
        6 => format!("{}/{}", value(case), 1 + case.below(20)),
        _ => value(case).to_string(),
    }
}

#[test]
fn fuzz_cron_built() {
    Target::new("cron_built")
        .memory(1 << 20, 512)
        .runs(10_000)
        .run(|case| {
            let mut fields = vec![
                field(case, 0, 59),
                field(case, 0, 23),
                field(case, 1, 31),
                field(case, 1, 12),
                field(case, 0, 7),
            ];
            if case.one_in(4) {
                fields.insert(0, field(case, 0, 59));
                if case.one_in(2) {
                    fields.push(field(case, 2_000, 2_100));
                }
            }
            parse(case, &fields.join(" "));
        });
}
