//! Owns the inputs that are being scored right now in this process, so that one asked for by two batches at
//! once is scored once.
//!
//! Promises that a claim ends: with its rows, or by being dropped, and that those who wait hear of either.

use ahash::RandomState;
use kiln_contract::key::InputHash;
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// A loaded model version's identity within the process, the latest invalidation known to who asks, and an input. What was
/// begun before an invalidation is never shared with those who come after it.
type FlightKey = (usize, u64, InputHash);

/// Rows of one claim, in its order.
type LandedRows = Arc<Vec<f32>>;

/// Where a row will be: which of a claim's rows, and how to hear of them.
#[derive(Debug, Clone)]
struct Pending {
    rows: watch::Receiver<Option<LandedRows>>,
    index: usize,
}

/// Every input in flight. Bounded by the batches in flight.
#[derive(Debug, Default)]
pub struct Flights {
    pending: Mutex<HashMap<FlightKey, Pending, RandomState>>,
}

/// What a batch must do about its misses.
#[derive(Debug)]
pub struct Claims<T> {
    /// Those that this batch scores.
    pub own: Vec<T>,
    /// Those that another batch is scoring, with where to wait.
    pub others: Vec<(T, Waiting)>,
    /// Holds the claim on `own`.
    pub flight: Flight,
}

/// A claim on inputs. Dropping it without [`Flight::land`] tells those who wait to score for themselves.
#[derive(Debug)]
pub struct Flight {
    flights: Arc<Flights>,
    keys: Vec<FlightKey>,
    rows: watch::Sender<Option<LandedRows>>,
}

/// A wait for another batch's row.
#[derive(Debug)]
pub struct Waiting(Pending);

impl Flights {
    fn pending(&self) -> MutexGuard<'_, HashMap<FlightKey, Pending, RandomState>> {
        // The map is sound after a panic elsewhere: every change to it is one call.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims those inputs of `model`, each with its stamp and what the caller knows it by, that nobody scores yet.
    pub fn claim<T>(
        self: &Arc<Self>,
        model: usize,
        inputs: impl IntoIterator<Item = (T, u64, InputHash)>,
    ) -> Claims<T> {
        let (sender, receiver) = watch::channel(None);
        let mut claims = Claims {
            own: Vec::new(),
            others: Vec::new(),
            flight: Flight {
                flights: self.clone(),
                keys: Vec::new(),
                rows: sender,
            },
        };
        let mut pending = self.pending();
        for (item, stamp, input) in inputs {
            match pending.entry((model, stamp, input)) {
                Entry::Occupied(entry) => claims.others.push((item, Waiting(entry.get().clone()))),
                Entry::Vacant(entry) => {
                    entry.insert(Pending {
                        rows: receiver.clone(),
                        index: claims.own.len(),
                    });
                    claims.own.push(item);
                    claims.flight.keys.push((model, stamp, input));
                }
            }
        }
        claims
    }

    /// Whether nothing is in flight.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.pending().is_empty()
    }
}

impl Flight {
    /// Hands the rows of the claimed inputs, in the order of [`Claims::own`], to those who wait.
    pub fn land(self, rows: Vec<f32>) -> LandedRows {
        let rows = Arc::new(rows);
        self.rows.send_replace(Some(rows.clone()));
        rows
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut pending = self.flights.pending();
        for key in &self.keys {
            pending.remove(key);
        }
    }
}

impl Waiting {
    /// The row of `width` values, or nothing where the other batch failed.
    pub async fn row(mut self, width: usize) -> Option<Vec<f32>> {
        let landed = self.0.rows.wait_for(Option::is_some).await.ok()?;
        let start = self.0.index * width;
        landed
            .as_ref()?
            .get(start..start + width)
            .map(<[f32]>::to_vec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(range: std::ops::Range<u8>) -> impl Iterator<Item = (usize, u64, InputHash)> {
        range.enumerate().map(|(index, i)| (index, 0, [i; 32]))
    }

    #[test]
    fn nobody_shares_what_was_begun_before_an_invalidation() {
        let flights = Arc::new(Flights::default());
        let before = flights.claim(1, hashes(0..1));
        let after = flights.claim(1, [(0, 7, [0; 32])]);
        assert_eq!((before.own, after.own), (vec![0], vec![0]));
        drop((before.flight, after.flight));
        assert!(flights.is_empty());
    }

    #[tokio::test]
    async fn an_input_asked_twice_is_scored_once() {
        let flights = Arc::new(Flights::default());
        let first = flights.claim(1, hashes(0..4));
        let second = flights.claim(1, hashes(2..6));
        let other_model = flights.claim(2, hashes(0..1));
        assert_eq!((first.own, second.own), (vec![0, 1, 2, 3], vec![2, 3]));
        assert_eq!(other_model.own, [0]);
        let waiting: Vec<_> = second
            .others
            .into_iter()
            .map(|(_, w)| tokio::spawn(w.row(2)))
            .collect();
        first
            .flight
            .land(vec![0.0, 0.1, 1.0, 1.1, 2.0, 2.1, 3.0, 3.1]);
        let mut rows = Vec::new();
        for task in waiting {
            rows.push(task.await.expect("joins"));
        }
        assert_eq!(rows, [Some(vec![2.0, 2.1]), Some(vec![3.0, 3.1])]);
        drop((second.flight, other_model.flight));
        assert!(flights.is_empty());
    }

    #[tokio::test]
    async fn those_who_wait_hear_of_a_failure() {
        let flights = Arc::new(Flights::default());
        let first = flights.claim(1, hashes(0..1));
        let second = flights.claim(1, hashes(0..1));
        drop(first.flight);
        for (_, waiting) in second.others {
            assert_eq!(waiting.row(1).await, None);
        }
        assert_eq!(flights.claim(1, hashes(0..1)).own, [0], "free again");
    }
}
