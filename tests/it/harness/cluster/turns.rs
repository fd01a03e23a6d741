//! Faults that take turns: one at a time for each server's cluster and for the workers, whoever chooses when.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::mpsc;

use super::fleet::Breaks;

/// How often each fault struck.
pub type Faults = RefCell<BTreeMap<String, usize>>;

/// Whose turn it is to be struck: one fault at a time.
pub struct Turns {
    send: Cell<Option<mpsc::UnboundedSender<u64>>>,
    receive: Cell<Option<mpsc::UnboundedReceiver<u64>>>,
    busy: Cell<bool>,
}

impl Turns {
    pub fn new() -> Self {
        let (send, receive) = mpsc::unbounded_channel();
        Self {
            send: Cell::new(Some(send)),
            receive: Cell::new(Some(receive)),
            busy: Cell::new(false),
        }
    }

    /// Strikes once more, by this seed.
    pub fn next(&self, seed: u64) {
        self.busy.set(true);
        let send = self.send.take();
        if let Some(send) = &send {
            let _gone = send.send(seed);
        }
        self.send.set(send);
    }

    /// Whether it is being struck or healed now.
    pub fn is_busy(&self) -> bool {
        self.busy.get()
    }

    /// There will be no more.
    pub fn end(&self) {
        self.send.set(None);
    }

    /// Does one fault after the other until the end, and counts them.
    pub async fn run(&self, what: &mut impl Breaks, faults: &Faults, say: &dyn Fn(String)) {
        let mut turns = self.receive.take().expect("it runs once");
        while let Some(seed) = turns.recv().await {
            let fault = what.fault(&mut StdRng::seed_from_u64(seed), say).await;
            *faults.borrow_mut().entry(fault).or_default() += 1;
            self.busy.set(false);
        }
    }
}
