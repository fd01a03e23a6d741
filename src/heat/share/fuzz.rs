//! Reports that nobody thought of, as anything in Redis may be: what counts is sound, what isn't a report counts for nothing.

use super::*;
use crate::heat::hint::Hint;
use kiln_contract::job;
use kiln_fuzz::{Case, Target};

const NOW_MS: i64 = 1_795_176_000_000;

fn sound(rates: impl Iterator<Item = f64>) {
    let mut last = f64::INFINITY;
    for rate in rates {
        assert!(
            rate.is_finite() && rate > 0.0 && rate <= last,
            "{rate} after {last}"
        );
        last = rate;
    }
}

fn check(case: &mut Case<'_>, reports: &[Vec<u8>]) {
    let bytes: usize = reports.iter().map(Vec::len).sum();
    let (inputs, asked) = case.bounded(bytes, || merge(reports, NOW_MS));
    sound(inputs.iter().map(|(_, rate)| *rate));
    assert_eq!(inputs.len(), asked.len());
    let names = case.bounded(bytes, || merge_names(reports, NOW_MS));
    sound(names.iter().map(|one| one.rate));
    for one in &names {
        assert!(
            job::key_problem(&one.name).is_none(),
            "{:?} is no key",
            one.name
        );
    }
    case.saw(&format!(
        "{} inputs {} names",
        inputs.len().min(3),
        names.len().min(3)
    ));
    // The order of the reports is Redis's.
    let reversed: Vec<Vec<u8>> = reports.iter().rev().cloned().collect();
    let (again, last) = merge(&reversed, NOW_MS);
    assert_eq!((again.len(), last), (inputs.len(), asked));
}

fn header(at_ms: i64) -> Vec<u8> {
    (at_ms | LAYOUT).to_le_bytes().to_vec()
}

#[test]
fn fuzz_heat() {
    Target::new("heat").memory(64 << 10, 128).run(|case| {
        let mut reports = Vec::new();
        for _ in 0..1 + case.below(3) {
            let ages = [0, 1_000, 59_999, 60_001, -60_000, i64::MAX, i64::MIN];
            let age = *case.pick(&ages);
            let mut report = header(NOW_MS.saturating_sub(age));
            for _ in 0..case.below(5) {
                match case.below(3) {
                    0 => {
                        report.extend([case.byte() % 3; 32]);
                        report.extend((case.word() as u32).to_le_bytes());
                        report.extend(case.word().to_le_bytes());
                    }
                    1 => {
                        report.extend([case.byte() % 2, case.byte() % 2]);
                        report.extend([case.byte() % 3; 32]);
                        report.extend(case.word().to_le_bytes());
                        let rates = [
                            1.0,
                            0.5,
                            f32::MAX,
                            f32::NAN,
                            -1.0,
                            0.0,
                            f32::INFINITY,
                            1e-45,
                        ];
                        report.extend(case.pick(&rates).to_le_bytes());
                        let name = case.text();
                        let length = match case.one_in(8) {
                            true => case.word() as u16,
                            false => name.len() as u16,
                        };
                        report.extend(length.to_le_bytes());
                        report.extend(name.as_bytes());
                    }
                    _ => report.push(case.byte()),
                }
            }
            reports.push(report);
        }
        check(case, &reports);
    });
}

/// What is written is read.
#[test]
fn fuzz_heat_written() {
    Target::new("heat_written").run(|case| {
        let mut names: Vec<NamedRate> = Vec::new();
        for at in 0..case.below(6) {
            let input = case.one_in(2).then(|| [case.byte(); 32]);
            names.push(NamedRate {
                name: format!("{at}{}", case.text().replace('\0', "")),
                input,
                written_ms: case.word() as i64,
                rate: f64::from(1.0 + f32::from(case.byte())),
                counted: case.one_in(2),
            });
        }
        names.sort_by(|a, b| b.rate.total_cmp(&a.rate).then_with(|| a.name.cmp(&b.name)));
        names.retain(|one| one.name.len() <= job::MAX_KEY_BYTES);
        let report = encode_names(&names, NOW_MS);
        assert_eq!(merge_names(&[report], NOW_MS), names);
    });
}

#[test]
fn fuzz_hint() {
    let seeds: [&[u8]; 2] = [
        br#"{"namespace": "feed", "keys": ["a", "a"], "session": "s1"}"#,
        br#"{"namespace": "feed", "keys": ["\u0000"]}"#,
    ];
    Target::new("hint")
        .seeds(&seeds)
        .words(&["\"keys\":[", "\"session\":", "\"namespace\":"])
        .run(|case| {
            let bytes = case.bytes();
            match case.bounded(bytes.len(), || Hint::parse(bytes)) {
                Ok(hint) => {
                    case.saw("a hint");
                    for key in &hint.keys {
                        assert!(job::key_problem(key).is_none(), "{key:?} is no key");
                    }
                }
                Err(problem) => case.refused(&problem),
            }
        });
}
