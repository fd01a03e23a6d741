//! Owns what is asked of one server in a round trip, and what its refusals mean.

use redis::{
    Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, ServerErrorKind,
    aio::MultiplexedConnection,
};
use std::{
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
};

/// What is asked in one round trip.
#[derive(Debug)]
pub(in crate::cache) struct Question {
    asks: Asks,
    is_sent: AtomicBool,
}

#[derive(Debug)]
enum Asks {
    One(Cmd),
    Many(Pipeline),
}

impl From<Cmd> for Question {
    fn from(command: Cmd) -> Self {
        Self::new(Asks::One(command))
    }
}

impl From<Pipeline> for Question {
    fn from(pipeline: Pipeline) -> Self {
        Self::new(Asks::Many(pipeline))
    }
}

impl Question {
    fn new(asks: Asks) -> Self {
        Self {
            asks,
            is_sent: AtomicBool::new(false),
        }
    }

    pub(super) async fn send<T: FromRedisValue>(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<T, RedisError> {
        self.is_sent.store(true, Ordering::Relaxed);
        match &self.asks {
            Asks::One(command) => command.query_async(connection).await,
            Asks::Many(pipeline) => pipeline.query_async(connection).await,
        }
    }

    /// Why it has no answer.
    pub(super) fn unanswered(&self, error: RedisError) -> Unanswered {
        match self.is_sent.load(Ordering::Relaxed) {
            true => Unanswered::Failed(error),
            false => Unanswered::Unsent(error),
        }
    }
}

/// Whether a question may be sent a second time while the first may still have its effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cache) enum Again {
    Yes,
    No,
}

/// Why a question has no answer.
#[derive(Debug, Clone)]
pub(in crate::cache) enum Unanswered {
    /// It wasn't asked: every connection rests.
    Skipped,
    /// Nor was it here: no connection could be made.
    Unsent(RedisError),
    Failed(RedisError),
}

impl Unanswered {
    /// What went wrong, where something was tried.
    pub fn error(&self) -> Option<&RedisError> {
        match self {
            Self::Skipped => None,
            Self::Unsent(error) | Self::Failed(error) => Some(error),
        }
    }

    /// Whether the server may have done, or may do yet, one of the commands of a round trip that have these numbers.
    pub fn may_be_done(&self, mut commands: Range<usize>) -> bool {
        let Self::Failed(error) = self else {
            return false;
        };
        match error.clone().into_server_errors() {
            Some(refusals) => commands.any(|n| refusals.iter().all(|(refused, _)| *refused != n)),
            None => true,
        }
    }
}

/// Whether the server itself says no, such as for want of memory: it is there.
pub(in crate::cache) fn is_refusal(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension)
}

/// What a server says that isn't the one that takes writes, or not yet: a primary that became a replica, a replica whose primary is away,
/// a server that reads its data from its disk, a primary that has lost its replicas and is to take no writes without them.
const NO_PRIMARY: [&str; 4] = ["READONLY", "MASTERDOWN", "LOADING", "NOREPLICAS"];

pub(super) fn is_no_primary(error: &RedisError) -> bool {
    has_code(error, &NO_PRIMARY)
}

fn has_code(error: &RedisError, codes: &[&str]) -> bool {
    let refusals = error.clone().into_server_errors();
    let is_one = |code: &str| codes.contains(&code);
    refusals.is_some_and(|all| all.iter().any(|(_, error)| is_one(error.code())))
}

/// Whether the server doesn't know a script by its hash, or not any more.
pub(super) fn is_unknown_script(error: &RedisError) -> bool {
    has_code(error, &["NOSCRIPT"])
}

/// Whether a question on several keys can't be answered while their slot moves.
pub(super) fn is_try_again(error: &RedisError) -> bool {
    has_code(error, &["TRYAGAIN"])
}

/// Whether a failure in a cluster is one after which another server may own the slot.
pub(super) fn may_have_moved(error: &RedisError) -> bool {
    !is_refusal(error) || has_code(error, &["MOVED", "CLUSTERDOWN"]) || is_no_primary(error)
}

/// Where a cluster says that a question is to go, and whether only this once.
pub(super) fn redirection(error: &RedisError) -> Option<(String, bool)> {
    let (address, _) = error.redirect_node()?;
    let is_once = error.kind() == ErrorKind::Server(ServerErrorKind::Ask);
    Some((address.to_owned(), is_once))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> RedisError {
        let value = redis::parse_redis_value(text.as_bytes());
        let answered = value.and_then(redis::Value::extract_error);
        answered.expect_err("an error")
    }

    #[test]
    fn only_what_was_sent_and_not_refused_may_be_done() {
        let late = || RedisError::from((ErrorKind::Io, "late"));
        let question = Question::from(redis::cmd("PING"));
        assert!(!question.unanswered(late()).may_be_done(0..1));
        question.is_sent.store(true, Ordering::Relaxed);
        assert!(question.unanswered(late()).may_be_done(0..1));
        assert!(!Unanswered::Skipped.may_be_done(0..1));
        let full = || said("-OOM command not allowed when used memory > 'maxmemory'.\r\n");
        assert!(!question.unanswered(full()).may_be_done(0..1));
        assert!(question.unanswered(full()).may_be_done(0..2), "one of two");
    }

    #[test]
    fn what_a_cluster_says_is_what_it_means() {
        let moved = said("-MOVED 3999 127.0.0.1:6381\r\n");
        assert_eq!(
            redirection(&moved),
            Some(("127.0.0.1:6381".to_owned(), false))
        );
        let ask = said("-ASK 3999 127.0.0.1:6381\r\n");
        assert_eq!(redirection(&ask), Some(("127.0.0.1:6381".to_owned(), true)));
        for (text, moves) in [
            ("-CLUSTERDOWN Hash slot not served\r\n", true),
            (
                "-READONLY You can't write against a read only replica.\r\n",
                true,
            ),
            ("-LOADING Redis is loading the dataset in memory\r\n", true),
            (
                "-TRYAGAIN Multiple keys request during rehashing of slot\r\n",
                false,
            ),
            (
                "-OOM command not allowed when used memory > 'maxmemory'.\r\n",
                false,
            ),
        ] {
            assert_eq!(redirection(&said(text)), None, "{text}");
            assert_eq!(may_have_moved(&said(text)), moves, "{text}");
            assert_eq!(is_try_again(&said(text)), text.starts_with("-TRYAGAIN"));
        }
        assert!(may_have_moved(&RedisError::from((ErrorKind::Io, "late"))));
    }
}
