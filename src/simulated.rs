//! Owns what a simulation changes within Kiln's own code: the model, and what is broken on purpose to see that it is noticed.
//!
//! Promises that in every build but that of the tests nothing is changed, at no cost. Time and randomness are the clock's.

#[cfg(test)]
#[cfg(feature = "faults")]
mod world;

#[cfg(all(test, feature = "faults"))]
pub use world::{Chance, World, log, output, score};

/// A break of one of the promises that the simulation checks, for its own test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// A frame that settles a delivery is sent twice.
    SettlesTwice,
    /// A job is acknowledged beside its reply and dead letter.
    AcknowledgesFirst,
    /// A job counts as stored without having been.
    SkipsRows,
    /// A job that comes again is as new as its last delivery.
    ForgetsAcceptance,
    /// A repeat is answered with its own run's result.
    AnswersAnew,
    /// What a job holds isn't given back.
    LeaksBytes,
    /// Jobs whose last input was scored aren't heard of any more.
    LosesWaiters,
    /// An input takes the row of another one.
    SwapsRows,
}

/// Whether Kiln is broken that way.
#[cfg(not(all(test, feature = "faults")))]
#[inline(always)]
pub const fn is_mutated(_mutation: Mutation) -> bool {
    false
}

/// Whether Kiln is broken that way on this thread.
#[cfg(all(test, feature = "faults"))]
pub fn is_mutated(mutation: Mutation) -> bool {
    World::mutation() == Some(mutation)
}
