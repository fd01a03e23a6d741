//! What a broker's answer to a published message means.

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishOutcome {
    /// It is in its queue, as safe as the queue is.
    Confirmed,
    /// There is no queue of that name: the broker gave it back.
    Unroutable,
    /// The queue is there and doesn't take it, for instance because it is full and rejects what comes.
    Refused,
}
