//! Owns which connection to Redis is used next, and which are left alone for a while.
//!
//! Promises that a round trip which fails costs its own connection a rest, and the others one only if none of them has proved
//! meanwhile that Redis answers. Pure: time is passed in.

use std::time::Duration;

/// Time since the process began to use Redis.
pub(super) type Since = Duration;

/// Why a round trip failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failed {
    /// No answer came in time. Whoever has answered since this moment is there.
    Late { proof_since: Since },
    /// The connection broke.
    Broken,
    /// No connection could be made: those that aren't open needn't try either.
    Refused,
}

#[derive(Debug, Clone, Default)]
struct State {
    is_open: bool,
    /// Bytes that were asked for and are not answered yet.
    in_flight: usize,
    /// Until when it is left alone.
    rests_until: Since,
    last_answer: Option<Since>,
}

/// What is known of every connection.
#[derive(Debug)]
pub(super) struct Breaker {
    states: Vec<State>,
    cooldown: Duration,
    /// The rest after a connection that couldn't be made.
    refused: Duration,
    /// Which of equals is next.
    next: usize,
}

impl Breaker {
    /// So many connections, none of them open yet.
    pub fn new(connections: usize, cooldown: Duration) -> Self {
        Self {
            states: vec![State::default(); connections.max(1)],
            cooldown,
            refused: cooldown,
            next: 0,
        }
    }

    /// The same, with another rest after a connection that couldn't be made.
    pub fn with_refused(mut self, rest: Duration) -> Self {
        self.refused = rest;
        self
    }

    /// Whether every connection rests.
    pub fn is_closed(&self, now: Since) -> bool {
        self.states.iter().all(|state| state.rests_until > now)
    }

    /// The connection with the fewest bytes in flight, an open one first, among those that don't rest and aren't `other_than`.
    pub fn choose(&mut self, now: Since, other_than: Option<usize>) -> Option<usize> {
        let count = self.states.len();
        let next = self.next;
        let ready = self.states.iter().enumerate();
        let ready =
            ready.filter(|(index, state)| state.rests_until <= now && Some(*index) != other_than);
        let chosen = ready.min_by_key(|(index, state)| {
            (
                state.in_flight,
                !state.is_open,
                (index + count - next) % count,
            )
        });
        let index = chosen.map(|(index, _)| index)?;
        self.next = (index + 1) % count;
        Some(index)
    }

    /// The same whatever rests: the one whose rest ends first.
    pub fn choose_any(&mut self, now: Since) -> usize {
        self.choose(now, None).unwrap_or_else(|| {
            let all = self.states.iter().enumerate();
            all.min_by_key(|(_, state)| state.rests_until)
                .map_or(0, |(index, _)| index)
        })
    }

    /// Notes that so many bytes are asked for; returns how many were before.
    pub fn sent(&mut self, index: usize, bytes: usize) -> usize {
        let state = self.states.get_mut(index);
        state.map_or(0, |state| {
            let ahead = state.in_flight;
            state.in_flight += bytes;
            ahead
        })
    }

    /// Notes that so many bytes are answered, or given up.
    pub fn done(&mut self, index: usize, bytes: usize) {
        if let Some(state) = self.states.get_mut(index) {
            state.in_flight = state.in_flight.saturating_sub(bytes);
        }
    }

    /// Notes an answer, be it a refusal.
    pub fn answered(&mut self, index: usize, now: Since) {
        if let Some(state) = self.states.get_mut(index) {
            state.is_open = true;
            state.last_answer = Some(now);
        }
    }

    /// Notes a failure.
    pub fn failed(&mut self, index: usize, now: Since, failed: Failed) {
        let rest = match failed {
            Failed::Refused => self.refused,
            Failed::Broken | Failed::Late { .. } => self.cooldown,
        };
        let rests_until = now + rest;
        let proved = match failed {
            Failed::Late { proof_since } => self.states.iter().enumerate().any(|(other, state)| {
                other != index
                    && state
                        .last_answer
                        .is_some_and(|answer| answer >= proof_since)
            }),
            Failed::Broken | Failed::Refused => true,
        };
        for (other, state) in self.states.iter_mut().enumerate() {
            let with_it = !proved || (failed == Failed::Refused && !state.is_open);
            if other == index || with_it {
                state.rests_until = rests_until;
            }
            if other == index {
                state.is_open = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOLDOWN: Duration = Duration::from_secs(1);

    fn at(ms: u64) -> Since {
        Duration::from_millis(ms)
    }

    fn breaker(open: usize) -> Breaker {
        let mut breaker = Breaker::new(4, COOLDOWN);
        (0..open).for_each(|index| breaker.answered(index, at(0)));
        breaker
    }

    #[test]
    fn idle_ones_take_turns_and_busy_ones_are_avoided() {
        let mut breaker = breaker(4);
        let turns: Vec<_> = (0..5).map(|_| breaker.choose(at(1), None)).collect();
        assert_eq!(turns, [Some(0), Some(1), Some(2), Some(3), Some(0)]);
        assert_eq!(breaker.sent(1, 1 << 20), 0);
        let turns: Vec<_> = (0..4).map(|_| breaker.choose(at(1), None)).collect();
        assert_eq!(turns, [Some(2), Some(3), Some(0), Some(2)]);
        (0..4).for_each(|index| {
            breaker.sent(index, 1_000);
        });
        breaker.sent(3, 10);
        breaker.done(1, 1 << 20);
        assert_ne!(breaker.choose(at(1), None), Some(3));
        assert_eq!(breaker.sent(1, 5), 1_000, "what is before it");
    }

    #[test]
    fn a_new_connection_is_made_only_when_the_open_ones_are_busy() {
        let mut breaker = breaker(1);
        assert_eq!(breaker.choose(at(1), None), Some(0));
        assert_eq!(breaker.choose(at(1), None), Some(0));
        breaker.sent(0, 100);
        assert_eq!(breaker.choose(at(1), None), Some(1));
    }

    #[test]
    fn a_late_answer_costs_only_its_connection_where_another_has_answered() {
        let mut breaker = breaker(4);
        breaker.answered(2, at(800));
        let late = Failed::Late {
            proof_since: at(750),
        };
        breaker.failed(0, at(1_000), late);
        assert!(!breaker.is_closed(at(1_000)));
        let turns: Vec<_> = (0..4).map(|_| breaker.choose(at(1_001), None)).collect();
        assert_eq!(turns, [Some(1), Some(2), Some(3), Some(1)]);
        // Rested, it is made anew when another one is needed.
        (1..4).for_each(|index| {
            breaker.sent(index, 10);
        });
        assert_eq!(breaker.choose(at(2_000), None), Some(0));
    }

    #[test]
    fn a_late_answer_costs_all_where_nobody_has_answered_since() {
        let mut breaker = breaker(4);
        breaker.answered(2, at(700));
        let late = Failed::Late {
            proof_since: at(750),
        };
        breaker.failed(0, at(1_000), late);
        assert!(breaker.is_closed(at(1_999)));
        assert_eq!(breaker.choose(at(1_999), None), None);
        assert!(breaker.choose(at(2_000), None).is_some(), "it may be back");
    }

    #[test]
    fn an_only_connection_speaks_for_redis() {
        let mut breaker = Breaker::new(1, COOLDOWN);
        breaker.answered(0, at(900));
        let proof_since = at(750);
        breaker.failed(0, at(1_000), Failed::Late { proof_since });
        assert!(breaker.is_closed(at(1_500)));
        assert_eq!(breaker.choose_any(at(1_500)), 0, "somebody has to ask");
    }

    #[test]
    fn a_break_costs_one_and_a_refusal_those_that_would_have_to_be_made() {
        let mut breaker = breaker(2);
        breaker.failed(0, at(10), Failed::Broken);
        assert_eq!(breaker.choose(at(11), None), Some(1));
        breaker.sent(1, 10);
        assert_eq!(breaker.choose(at(11), None), Some(2));
        breaker.failed(2, at(11), Failed::Refused);
        assert_eq!(breaker.choose(at(12), None), Some(1), "it is open");
        assert_eq!(breaker.choose(at(12), Some(1)), None);
        breaker.failed(1, at(12), Failed::Broken);
        assert!(breaker.is_closed(at(13)));
    }

    #[test]
    fn who_has_others_to_ask_rests_less_after_a_refusal() {
        let mut breaker = Breaker::new(2, COOLDOWN).with_refused(COOLDOWN / 4);
        breaker.failed(0, at(10), Failed::Refused);
        assert!(breaker.is_closed(at(259)) && !breaker.is_closed(at(260)));
        breaker.failed(0, at(300), Failed::Broken);
        assert_eq!(breaker.choose(at(301), Some(1)), None, "a whole rest");
    }

    #[test]
    fn a_server_that_refuses_connections_is_left_alone_at_once() {
        let mut breaker = Breaker::new(4, COOLDOWN);
        breaker.failed(0, at(10), Failed::Refused);
        assert!(breaker.is_closed(at(1_009)));
    }
}
