//! What is logged of a part that changes.

use super::*;

fn second(second: u64) -> Duration {
    Duration::from_secs(second)
}

#[test]
fn a_change_is_logged_once_and_what_works_from_the_start_never() {
    let mut record = Record::new(PartState::Unknown);
    assert_eq!(record.line(PartState::Works, "", second(1)), None);
    let line = record
        .line(PartState::Down, "refused", second(2))
        .expect("a line");
    assert_eq!(
        (line.before, line.now, line.reason.as_str()),
        (PartState::Works, PartState::Down, "refused")
    );
    for at in 3..1_000 {
        assert_eq!(record.line(PartState::Down, "refused", second(at)), None);
    }
    assert!(record.line(PartState::Works, "", second(1_000)).is_some());
}

#[test]
fn another_reason_is_logged_once_a_minute_at_most() {
    let mut record = Record::new(PartState::Works);
    assert!(record.line(PartState::Down, "0", second(0)).is_some());
    let mut lines = 0;
    for at in 1..=120 {
        let reason = at.to_string();
        lines += u32::from(record.line(PartState::Down, &reason, second(at)).is_some());
    }
    assert_eq!(lines, 2);
}

#[test]
fn another_reason_that_stays_is_logged_at_once_a_few_times() {
    let mut record = Record::new(PartState::Works);
    let mut lines = Vec::new();
    for at in 0..50 {
        let reason = match at {
            0..10 => "the connection was lost",
            10..20 => "a queue isn't there",
            // It changes every five seconds from here on.
            _ if at / 5 % 2 == 0 => "refused",
            _ => "silent",
        };
        let line = record.line(PartState::Down, reason, second(at));
        lines.extend(line.map(|line| (at, line.reason)));
    }
    let lines: Vec<(u64, &str)> = lines.iter().map(|(at, r)| (*at, r.as_str())).collect();
    let expected = [
        (0, "the connection was lost"),
        (12, "a queue isn't there"),
        (22, "refused"),
        (27, "silent"),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn what_flaps_for_a_day_costs_few_lines_and_its_last_state_is_logged() {
    let mut record = Record::new(PartState::Works);
    let (mut lines, mut quiet) = (Vec::new(), 0);
    for at in 0..86_400 {
        let state = if at % 2 == 0 {
            PartState::Down
        } else {
            PartState::Works
        };
        if let Some(line) = record.line(state, "flaps", second(at)) {
            quiet += u32::from(line.is_last);
            lines.push(line);
        }
    }
    assert!(lines.len() <= 6 + 288, "{}", lines.len());
    assert!(quiet > 0 && lines.iter().any(|line| line.unlogged > 100));
    let rest = (86_400..87_000).find_map(|at| record.line(PartState::Down, "flaps", second(at)));
    let rest = rest.map_or(record.state, |line| line.now);
    assert_eq!(rest, PartState::Down);
}
