//! Owns what a channel's answers mean: for each message its own, and for the connection what is left of them.
//!
//! Promises that what the broker has confirmed isn't published again for what came to nothing beside it: every answer is taken before the
//! connection is given up.

use super::{outbox::Outbox, wire::Cause};
use crate::amqp::confirms::Ended;
use std::time::Instant;

/// Takes the answers to messages that were written beside each other. Says whether their channel is closed; an error is why the connection
/// is lost.
pub(super) fn beside_each_other(
    outbox: &mut Outbox,
    ended: Ended<lapin::Error>,
    now: Instant,
) -> Result<bool, lapin::Error> {
    let (mut closed, mut lost) = (None, None);
    for (number, how) in ended {
        match how.map_err(Cause::from) {
            Ok(outcome) => outbox.answered(number, outcome, now),
            Err(Cause::Closed(closing)) => closed = Some(closing),
            Err(Cause::Unsent) => outbox.unsent(number),
            Err(Cause::Lost(error)) => lost = Some(error),
        }
    }
    if let Some(closing) = &closed {
        outbox.main_closed(closing, now);
    }
    lost.map_or(Ok(closed.is_some()), Err)
}

/// Takes the answers to messages that were tried alone. An error is why the connection is lost.
pub(super) fn alone(
    outbox: &mut Outbox,
    ended: Ended<lapin::Error>,
    now: Instant,
) -> Result<(), lapin::Error> {
    let mut lost = None;
    for (number, how) in ended {
        match how.map_err(Cause::from) {
            Ok(outcome) => outbox.answered(number, outcome, now),
            Err(Cause::Closed(closing)) => outbox.alone_failed(number, Some(&closing), now),
            Err(Cause::Unsent) => outbox.alone_failed(number, None, now),
            Err(Cause::Lost(error)) => lost = Some(error),
        }
    }
    lost.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::super::{
        entry::{End, Entry},
        outbox::Policy,
    };
    use super::*;
    use crate::{
        amqp::{message::Message, publish_outcome::PublishOutcome::Confirmed},
        telemetry::metrics::Metrics,
    };
    use lapin::{
        BasicProperties, ErrorKind,
        protocol::{AMQPError, AMQPErrorKind, AMQPSoftError},
    };
    use std::time::Duration;
    use tokio::sync::oneshot;

    /// An outbox with so many messages for one queue, and their ends.
    fn outbox(messages: u8) -> (Outbox, Vec<oneshot::Receiver<End>>) {
        let policy = Policy {
            must_arrive: true,
            patience: Duration::from_secs(5),
        };
        let mut outbox = Outbox::new(policy, Metrics::new());
        let ends = (0..messages).map(|number| {
            let (end, ended) = oneshot::channel();
            let message = Message::new("q".into(), vec![number; 8], BasicProperties::default());
            outbox.push(Entry::new(message, end));
            ended
        });
        let ends = ends.collect();
        (outbox, ends)
    }

    fn lost() -> lapin::Error {
        ErrorKind::MissingHeartbeatError.into()
    }

    fn written(outbox: &mut Outbox, now: Instant) -> Vec<u64> {
        let next = std::iter::from_fn(|| outbox.next(now));
        next.map(|message| message.number).collect()
    }

    #[test]
    fn what_was_confirmed_beside_a_loss_is_not_published_again() {
        let now = Instant::now();
        let (mut outbox, mut ends) = outbox(3);
        assert_eq!(written(&mut outbox, now), [1, 2, 3]);
        // Failures come before answers, and may come between them.
        let ended = vec![
            (2, Err(lost())),
            (1, Ok(Confirmed)),
            (4, Err(lost())),
            (3, Ok(Confirmed)),
        ];
        assert!(beside_each_other(&mut outbox, ended, now).is_err());
        outbox.lost(now);
        assert_eq!(written(&mut outbox, now), [4], "the second alone");
        let ends = ends.iter_mut().map(|end| end.try_recv().ok());
        let arrived = Some(End::Sent);
        assert_eq!(ends.collect::<Vec<_>>(), [arrived, None, arrived]);
    }

    #[test]
    fn what_was_confirmed_after_its_trial_is_not_published_again_for_a_loss() {
        let now = Instant::now();
        let (mut outbox, mut ends) = outbox(2);
        assert_eq!(written(&mut outbox, now), [1, 2]);
        let closing = || {
            let kind = AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED);
            ErrorKind::ProtocolError(AMQPError::new(kind, "no".into())).into()
        };
        let closed = vec![(1, Err(closing())), (2, Err(closing()))];
        let closed = beside_each_other(&mut outbox, closed, now);
        assert!(closed.is_ok_and(|closed| closed), "both are suspects");
        let tried = outbox.next_suspect().expect("the first");
        outbox.cleared(now);
        let other = outbox.next_suspect().expect("the second");
        let ended = vec![(other.number, Err(lost())), (tried.number, Ok(Confirmed))];
        assert!(alone(&mut outbox, ended, now).is_err());
        outbox.lost(now);
        let again = outbox.next_suspect().map(|message| message.body);
        assert_eq!(again, Some(other.body));
        assert!(written(&mut outbox, now).is_empty());
        let ends = ends.iter_mut().map(|end| end.try_recv().ok());
        assert_eq!(ends.collect::<Vec<_>>(), [Some(End::Sent), None]);
    }
}
