//! Decides what follows when a message isn't taken: for how long it is tried, and what its queue is known for from then on. Pure.
//!
//! Promises that a reply ends after a bounded effort, that a message which must arrive never ends for what may pass, and that one
//! refusal says nothing of a queue: RabbitMQ also refuses the first message of a channel where the queue's leader is slow to answer.

use super::entry::End;
use std::time::Duration;

/// Tries of a message whose queue isn't known to refuse any, until it is.
const TRIES: u32 = 3;
/// Wait after the first refused try, and one more of it after each further one: half a second in all.
const REST: Duration = Duration::from_millis(150);
/// AMQP's reply code for what isn't allowed.
const ACCESS_REFUSED: u16 = 403;
/// AMQP's reply code for what the broker's state or settings don't allow.
const PRECONDITION_FAILED: u16 = 406;

/// Why a queue doesn't take messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// It refuses them, for instance because it is full and rejects what comes.
    Full,
    /// There is none of its name.
    Gone,
    /// The broker closes the channel on which they are published.
    Closing,
    /// It doesn't confirm them.
    Silent,
}

impl Why {
    /// As it stands in logs.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Full => "it refuses messages: it may be full",
            Self::Gone => "there is no such queue",
            Self::Closing => "the broker refuses what is published to it",
            Self::Silent => "it doesn't confirm messages",
        }
    }
}

/// What a queue is known for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Taking,
    Refusing(Why),
}

/// What the broker said when it closed a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Closing {
    pub code: u16,
    pub text: String,
}

impl Closing {
    /// Whether the user lacks the right to publish.
    pub(super) fn is_denial(&self) -> bool {
        self.code == ACCESS_REFUSED
    }

    /// The largest message that the broker takes, where it closed the channel because one of `bytes` was larger.
    pub(super) fn max_bytes(&self, bytes: usize) -> Option<usize> {
        if self.code != PRECONDITION_FAILED || !self.text.contains("message size") {
            return None;
        }
        let digits = |word: &str| word.trim_matches(|c: char| !c.is_ascii_digit()).parse();
        let last = self.text.split_whitespace().last();
        let named: Option<usize> = last.and_then(|word| digits(word).ok());
        let max = named.filter(|max| *max < bytes);
        Some(max.unwrap_or(bytes.saturating_sub(1)))
    }
}

/// Why a message wasn't taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The broker gave it back.
    Returned,
    /// Its queue refused it.
    Refused,
    /// The broker closed the channel because of it.
    Closed,
    /// It wasn't confirmed in time, though others were.
    Unconfirmed,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    End(End),
    /// It is tried again after this time.
    Rest(Duration),
    /// It stays the first of its queue's messages, which are tried one by one until the queue takes one.
    First,
}

/// What follows for a message and for its queue, if that is now known for something; `tries` were refused before.
pub(super) fn after(
    must_arrive: bool,
    standing: Standing,
    tries: u32,
    failure: Failure,
) -> (Next, Option<Why>) {
    let why = match failure {
        Failure::Returned => Why::Gone,
        Failure::Refused => Why::Full,
        Failure::Closed => Why::Closing,
        Failure::Unconfirmed => Why::Silent,
    };
    if failure == Failure::Refused && standing == Standing::Taking && tries + 1 < TRIES {
        return (Next::Rest(REST * (tries + 1)), None);
    }
    if must_arrive {
        return (Next::First, Some(why));
    }
    let end = match failure {
        Failure::Returned => End::Unroutable,
        Failure::Refused | Failure::Closed => End::Refused,
        Failure::Unconfirmed => End::Unconfirmed,
    };
    (Next::End(end), Some(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILURES: [Failure; 4] = [
        Failure::Returned,
        Failure::Refused,
        Failure::Closed,
        Failure::Unconfirmed,
    ];

    #[test]
    fn a_refused_message_is_tried_again_where_its_queue_took_the_one_before() {
        let (taking, full) = (Standing::Taking, Standing::Refusing(Why::Full));
        let rest = |ms| Next::Rest(Duration::from_millis(ms));
        for (must_arrive, last) in [(false, Next::End(End::Refused)), (true, Next::First)] {
            let tries: Vec<(Next, Option<Why>)> = (0..3)
                .map(|tries| after(must_arrive, taking, tries, Failure::Refused))
                .collect();
            let known = (last, Some(Why::Full));
            assert_eq!(tries, [(rest(150), None), (rest(300), None), known]);
        }
        let known = after(false, full, 0, Failure::Refused);
        assert_eq!(known, (Next::End(End::Refused), Some(Why::Full)));
        for failure in [Failure::Returned, Failure::Closed, Failure::Unconfirmed] {
            let (next, why) = after(false, taking, 0, failure);
            assert!(
                matches!(next, Next::End(_)) && why.is_some(),
                "{failure:?}: {next:?}"
            );
        }
    }

    #[test]
    fn what_must_arrive_does_not_end() {
        let full = Standing::Refusing(Why::Full);
        for failure in FAILURES {
            for (standing, tries) in [(full, 0), (Standing::Taking, 3), (full, 1_000)] {
                let (next, why) = after(true, standing, tries, failure);
                assert_eq!(next, Next::First);
                assert!(why.is_some());
            }
        }
    }

    #[test]
    fn the_brokers_limit_is_read_from_what_it_says() {
        let said = |code, text: &str| Closing {
            code,
            text: text.to_owned(),
        };
        let text =
            "PRECONDITION_FAILED - message size 20480 is larger than configured max size 16384";
        assert_eq!(said(406, text).max_bytes(20_480), Some(16_384));
        let vague = said(
            406,
            "PRECONDITION_FAILED - message size is beyond all measure",
        );
        assert_eq!(vague.max_bytes(20_480), Some(20_479), "smaller ones may do");
        assert_eq!(said(406, text).max_bytes(16_384), Some(16_383));
        let other = said(406, "PRECONDITION_FAILED - invalid expiration '1'");
        assert_eq!(other.max_bytes(20_480), None);
        assert_eq!(said(403, "ACCESS_REFUSED").max_bytes(1), None);
        assert!(said(403, "ACCESS_REFUSED").is_denial());
        assert!(!other.is_denial());
    }
}
