//! How many tests run beside each other: those that wait for their turn cost nothing, so that there may be far more of their threads than cores, and a
//! test whose servers are many holds up only its like.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use tokio::sync::{Semaphore, SemaphorePermit};

/// Two cores stand one more broker beside the shared one.
static OWN_BROKERS: Semaphore = Semaphore::const_new(1);
/// And so many tests on that: most of their time, they wait for something.
static BESIDE: Semaphore = Semaphore::const_new(4);

thread_local! {
    /// The turn of the test that this thread runs.
    static TURN: RefCell<Weak<Turn>> = RefCell::default();
}

/// A test's turn; over when it is dropped with all that the test runs on.
pub struct Turn(#[allow(dead_code, reason = "it is held")] SemaphorePermit<'static>);

/// The turn of a test with a broker of its own.
pub async fn own_turn() -> Arc<Turn> {
    taken(&OWN_BROKERS).await
}

/// The turn that the test has already, or else one beside others. Nobody who has one waits for another one of these.
pub async fn shared_turn() -> Arc<Turn> {
    match TURN.with_borrow(Weak::upgrade) {
        Some(turn) => turn,
        None => taken(&BESIDE).await,
    }
}

async fn taken(places: &'static Semaphore) -> Arc<Turn> {
    let turn = Arc::new(Turn(places.acquire().await.expect("never closed")));
    TURN.set(Arc::downgrade(&turn));
    turn
}
