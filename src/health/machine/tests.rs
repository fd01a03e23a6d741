//! Each policy at a clock that the tests own, and what holds for any course of reports.

use super::*;
use crate::telemetry::metrics::HealthPart as Part;
use proptest::prelude::*;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn fails(since: Duration, reason: &str) -> Seen<'_> {
    Seen::Fails {
        since,
        state: PartState::Down,
        reason,
    }
}

/// A part that works at the time 0.
fn working(part: Part) -> Machine {
    let mut machine = Machine::new(Policy::of(part));
    machine.report(Source::Check, Seen::Works, Duration::ZERO);
    assert_eq!(machine.shown().state, PartState::Works);
    machine
}

#[test]
fn what_never_worked_says_why_at_once_and_works_at_once() {
    for part in [Part::Postgres, Part::Broker, Part::Migrations] {
        let mut machine = Machine::new(Policy::of(part));
        assert_eq!(machine.shown().state, PartState::Unknown);
        let line = machine.report(Source::Work, fails(ms(5), "refused"), ms(5));
        assert_eq!(machine.shown().state, PartState::Down);
        assert_eq!(line.expect("a line").reason, "refused");
        let at = ms(60_000);
        machine.report(Source::Work, Seen::Works, at);
        machine.settle(at + ms(3_000));
        assert_eq!(machine.shown().state, PartState::Works);
    }
}

#[test]
fn connections_cut_in_one_moment_are_no_outage() {
    let mut machine = working(Part::Postgres);
    for n in 0..10 {
        machine.report(Source::Work, fails(ms(1_000), "reset"), ms(1_000 + n));
    }
    machine.settle(ms(100_000));
    assert_eq!(
        machine.shown().state,
        PartState::Works,
        "only samples count"
    );
    machine.report(Source::Work, Seen::Works, ms(1_050));
    machine.report(Source::Work, fails(ms(2_000), "reset"), ms(2_000));
    assert_eq!(machine.shown().state, PartState::Works);
}

#[test]
fn a_database_that_refuses_twice_or_once_for_long_is_down() {
    let mut machine = working(Part::Postgres);
    machine.report(Source::Check, fails(ms(1_000), "refused"), ms(1_001));
    assert_eq!(machine.shown().state, PartState::Works);
    machine.report(Source::Check, fails(ms(2_000), "refused"), ms(2_001));
    assert_eq!(machine.shown().state, PartState::Down);

    let mut machine = working(Part::Postgres);
    machine.report(Source::Check, fails(ms(1_000), "no answer"), ms(4_000));
    assert_eq!(machine.shown().state, PartState::Down);
    assert_eq!(machine.shown().since, ms(4_000));
    machine.report(Source::Check, Seen::Works, ms(10_000));
    machine.settle(ms(12_999));
    assert_eq!(machine.shown().state, PartState::Down, "not for sure yet");
    assert_eq!(machine.shown().reason, "no answer");
    machine.settle(ms(13_000));
    assert_eq!(machine.shown().state, PartState::Works);
}

#[test]
fn an_answer_to_a_check_says_nothing_of_work_that_fails() {
    let mut machine = working(Part::Postgres);
    for second in 1..=20 {
        machine.report(Source::Check, Seen::Works, ms(second * 1_000));
        machine.report(
            Source::Work,
            fails(ms(second * 1_000), "no answer"),
            ms(second * 1_000),
        );
    }
    assert_eq!(machine.shown().state, PartState::Down);
    // Nobody tries any more: after a while the checks decide.
    machine.report(Source::Check, Seen::Works, ms(49_999));
    assert_eq!(machine.shown().state, PartState::Down);
    machine.report(Source::Check, Seen::Works, ms(50_000));
    assert_eq!(machine.shown().state, PartState::Works);
}

#[test]
fn work_that_is_done_outweighs_a_check_that_found_no_connection() {
    let mut machine = working(Part::Postgres);
    for second in 1..60 {
        machine.report(
            Source::Check,
            fails(ms(second * 1_000), "in use"),
            ms(second * 1_000 + 800),
        );
        machine.report(Source::Work, Seen::Works, ms(second * 1_000 + 900));
        assert_eq!(machine.shown().state, PartState::Works);
    }
}

#[test]
fn an_event_lasts_until_the_contrary_is_reported() {
    let mut machine = working(Part::Publisher);
    machine.report(Source::Work, fails(ms(1_000), "blocked"), ms(1_000));
    machine.settle(ms(5_999));
    assert_eq!(machine.shown().state, PartState::Works);
    machine.settle(ms(6_000));
    assert_eq!(machine.shown().state, PartState::Down);
    machine.report(Source::Work, Seen::Works, ms(7_000));
    machine.settle(ms(10_000));
    assert_eq!(machine.shown().state, PartState::Works);
}

#[test]
fn a_connection_that_is_back_at_once_was_never_away() {
    let mut machine = working(Part::Broker);
    machine.report(Source::Work, fails(ms(1_000), "reset"), ms(1_000));
    machine.report(Source::Work, Seen::Works, ms(1_400));
    machine.settle(ms(9_000));
    assert_eq!(machine.shown().state, PartState::Works);
    assert!(machine.works_now());
}

#[test]
fn a_part_that_jobs_can_do_without_is_never_down() {
    for part in [Part::Redis, Part::Warming] {
        let mut machine = working(part);
        machine.report(Source::Check, fails(ms(1_000), "refused"), ms(9_000));
        assert_eq!(machine.shown().state, PartState::Degraded, "{part:?}");
    }
}

#[test]
fn what_is_refused_has_lines_of_its_own_and_none_of_health() {
    let mut machine = working(Part::Models);
    let refused = Seen::Fails {
        since: ms(10),
        state: PartState::Degraded,
        reason: "1 version is refused",
    };
    assert_eq!(machine.report(Source::Work, refused, ms(10)), None);
    assert_eq!(machine.shown().state, PartState::Degraded);
    let line = machine.report(Source::Work, fails(ms(20), "no model is loaded"), ms(20));
    assert_eq!(line.expect("a line").reason, "no model is loaded");
    let line = machine.report(Source::Work, refused, ms(30));
    assert_eq!(line.expect("a line").now, PartState::Works);
}

#[test]
fn a_reason_is_one_line() {
    assert_eq!(one_line("  a\n b\t c "), "a b c");
    assert!(one_line(&"long ".repeat(1_000)).chars().count() <= REASON_CHARS + 1);
    assert!(one_line(&"é".repeat(10_000)).chars().count() <= REASON_CHARS + 1);
}

/// A report, and how long after the one before.
fn course() -> impl Strategy<Value = Vec<(u64, bool, bool, u64)>> {
    proptest::collection::vec(
        (0u64..4_000, any::<bool>(), any::<bool>(), 0u64..5_000),
        1..400,
    )
}

proptest! {
    #[test]
    fn no_course_of_reports_flaps_or_floods_the_log(part in 0..Part::ALL.len(), course in course()) {
        let policy = Policy::of(Part::ALL[part]);
        let mut machine = Machine::new(policy);
        let (mut now, mut lines, mut last_down) = (Duration::ZERO, 0u32, None);
        // Before it has ever worked, one success is enough.
        let mut worked = false;
        let mut before = machine.shown().state;
        for (step, works, check, span) in course {
            now += ms(step);
            let source = if check { Source::Check } else { Source::Work };
            let seen = if works { Seen::Works } else { fails(now.saturating_sub(ms(span)), "away") };
            lines += u32::from(machine.report(source, seen, now).is_some());
            let state = machine.shown().state;
            if matches!(state, PartState::Down | PartState::Degraded) {
                if worked {
                    last_down.get_or_insert(now);
                }
                prop_assert!(state == PartState::Degraded || !policy.optional);
            } else if let Some(down) = last_down.take() {
                // An account that is forgotten is no success, and takes longer than one.
                prop_assert!(now - down >= policy.up_after, "{:?} after {:?}", now, down);
            }
            worked |= state == PartState::Works;
            if state != before {
                prop_assert_eq!(machine.shown().since, now);
            }
            before = state;
        }
        let allowed = 6 + now.as_secs() / 300 + 1;
        prop_assert!(u64::from(lines) <= allowed, "{lines} lines in {now:?}");
    }

    #[test]
    fn what_lasts_is_shown(part in 0..Part::ALL.len(), course in course()) {
        let policy = Policy::of(Part::ALL[part]);
        for works in [true, false] {
            let mut machine = Machine::new(policy);
            let mut now = Duration::ZERO;
            for (step, works, check, span) in &course {
                now += ms(*step);
                let source = if *check { Source::Check } else { Source::Work };
                let seen = if *works { Seen::Works } else { fails(now.saturating_sub(ms(*span)), "away") };
                machine.report(source, seen, now);
            }
            // From now on both sources agree, for a minute.
            for _ in 0..60 {
                now += ms(1_000);
                for source in [Source::Check, Source::Work] {
                    let seen = if works { Seen::Works } else { fails(now, "away") };
                    machine.report(source, seen, now);
                }
            }
            let state = machine.shown().state;
            prop_assert_eq!(state == PartState::Works, works, "{:?}", state);
            prop_assert_eq!(machine.works_now(), works);
        }
    }
}
