//! Owns where the leaders of new queues are: a queue's leader is on the node by which it was declared, so that is another one each time.
//!
//! Refuses to say so in the queue's arguments: those of queues that exist can't be changed, and the broker's own placing counts all queues,
//! however little goes through them.

use super::{connection::Broker, declare::TopologyError, topology::QueueSpec};
use lapin::Connection;
use std::time::Duration;

/// Longest goodbye to the broker.
const GOODBYE: Duration = Duration::from_millis(200);

/// The addresses of a broker, in turn.
pub struct Spread {
    brokers: Vec<Broker>,
    next: usize,
}

impl Spread {
    /// Begins with one of the addresses, by number.
    pub fn from(broker: &Broker, first: usize) -> Self {
        Self {
            brokers: broker.each(),
            next: first,
        }
    }

    /// Declares a queue that isn't there yet by the next address; by this connection where none answers.
    pub async fn declare(
        &mut self,
        queue: &QueueSpec,
        connection: &Connection,
        timeout: Duration,
    ) -> Result<(), TopologyError> {
        while let Some(index) = self.next.checked_rem(self.brokers.len()) {
            let Some(broker) = self.brokers.get(index) else {
                break;
            };
            match broker.connect("declare").await {
                Ok(own) => {
                    self.next = index + 1;
                    let declared = queue.declare(&own, timeout).await;
                    let closing = own.close(200, "declared".into());
                    let _gone_counts_too = tokio::time::timeout(GOODBYE, closing).await;
                    return declared;
                }
                // None of the further queues waits for it again.
                Err(_) => drop(self.brokers.remove(index)),
            }
        }
        queue.declare(connection, timeout).await
    }
}
