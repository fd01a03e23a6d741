//! Owns the messages that are unconfirmed, in the order in which they were written. Pure.
//!
//! Promises that a message which isn't confirmed soon leaves its room in the window to others, and that each is seen once when it is
//! late and once when it is overdue.

use super::entry::Entry;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Messages that may be unconfirmed together, without those that are late.
pub(super) const WINDOW: usize = 4 * super::line::SHARE;
/// Bytes of them.
pub(super) const WINDOW_BYTES: usize = 4 * super::line::SHARE_BYTES;
/// Time after which an unconfirmed message is late.
pub(super) const LATE: Duration = Duration::from_millis(250);

/// The channel by which a message is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// Beside others.
    Main,
    /// On the channel for messages that are tried alone.
    Alone,
}

/// A message that was written.
#[derive(Debug)]
pub(super) struct Flight {
    pub entry: Entry,
    pub route: Route,
    pub written: Instant,
    pub is_late: bool,
}

/// All of them, by number.
#[derive(Debug, Default)]
pub(super) struct Flights {
    all: BTreeMap<u64, Flight>,
    /// Of those that aren't late.
    count: usize,
    bytes: usize,
    /// All below were seen when they were late.
    late_to: u64,
    /// All below were seen when they were overdue.
    overdue_to: u64,
}

impl Flights {
    /// Whether the window has room for a message of that size.
    pub(super) fn have_room(&self, bytes: usize) -> bool {
        self.count == 0 || (self.count < WINDOW && self.bytes + bytes <= WINDOW_BYTES)
    }

    pub(super) fn add(&mut self, number: u64, entry: Entry, route: Route, now: Instant) {
        self.count += 1;
        self.bytes += entry.bytes();
        // One that was tried alone has a lower number than others that were written meanwhile.
        self.late_to = self.late_to.min(number);
        self.overdue_to = self.overdue_to.min(number);
        let flight = Flight {
            entry,
            route,
            written: now,
            is_late: false,
        };
        self.all.insert(number, flight);
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<Flight> {
        let flight = self.all.remove(&number)?;
        if !flight.is_late {
            self.count -= 1;
            self.bytes -= flight.entry.bytes();
        }
        Some(flight)
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut Flight> {
        self.all.get_mut(&number)
    }

    /// The numbers of those on a channel.
    pub(super) fn on(&self, route: Route) -> Vec<u64> {
        let on_it = self.all.iter().filter(|(_, flight)| flight.route == route);
        on_it.map(|(number, _)| *number).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Those that are late since the last look; each is marked as such.
    pub(super) fn newly_late(&mut self, now: Instant) -> Vec<u64> {
        let mut late = Vec::new();
        for (number, flight) in self.all.range_mut(self.late_to..) {
            if flight.is_late {
                continue;
            }
            if flight.written + LATE > now {
                break;
            }
            flight.is_late = true;
            self.count -= 1;
            self.bytes -= flight.entry.bytes();
            late.push(*number);
        }
        if let Some(last) = late.last() {
            self.late_to = last + 1;
        }
        late
    }

    /// Those that have been unconfirmed for `patience` since the last look.
    pub(super) fn newly_overdue(&mut self, now: Instant, patience: Duration) -> Vec<u64> {
        let open = self.all.range(self.overdue_to..);
        let overdue: Vec<u64> = open
            .take_while(|(_, flight)| flight.written + patience <= now)
            .map(|(number, _)| *number)
            .collect();
        if let Some(last) = overdue.last() {
            self.overdue_to = last + 1;
        }
        overdue
    }

    /// When the next one will be late or overdue.
    pub(super) fn deadline(&self, patience: Duration) -> Option<Instant> {
        let late = self.all.range(self.late_to..);
        let late = late.map(|(_, flight)| flight).find(|f| !f.is_late);
        let overdue = self.all.range(self.overdue_to..).next();
        let late = late.map(|flight| flight.written + LATE);
        let overdue = overdue.map(|(_, flight)| flight.written + patience);
        late.into_iter().chain(overdue).min()
    }

    /// Starts every one's time anew: the broker took nothing for a while.
    pub(super) fn start_anew(&mut self, now: Instant) {
        for flight in self.all.values_mut() {
            flight.written = now;
        }
        self.overdue_to = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::message::Message;
    use lapin::BasicProperties;
    use tokio::sync::oneshot;

    fn entry(bytes: usize) -> Entry {
        let message = Message::new("q".into(), vec![0; bytes], BasicProperties::default());
        Entry::new(message, oneshot::channel().0)
    }

    #[test]
    fn late_messages_leave_the_window_to_others() {
        let (mut flights, begun) = (Flights::default(), Instant::now());
        for number in 0..WINDOW as u64 {
            assert!(flights.have_room(1));
            flights.add(number, entry(1), Route::Main, begun);
        }
        assert!(!flights.have_room(1));
        assert_eq!(flights.deadline(Duration::from_secs(1)), Some(begun + LATE));
        assert!(flights.newly_late(begun).is_empty());
        assert_eq!(flights.newly_late(begun + LATE).len(), WINDOW);
        assert!(flights.newly_late(begun + 2 * LATE).is_empty(), "seen once");
        assert!(flights.have_room(WINDOW_BYTES));
        assert!(flights.remove(0).is_some_and(|flight| flight.is_late));
        let patience = Duration::from_secs(1);
        assert_eq!(flights.deadline(patience), Some(begun + patience));
        let overdue = flights.newly_overdue(begun + patience, patience);
        assert_eq!(overdue.len(), WINDOW - 1);
        assert!(flights.newly_overdue(begun + patience, patience).is_empty());
        assert_eq!(flights.deadline(patience), None);
    }

    #[test]
    fn the_window_is_bounded_in_bytes_and_takes_one_message_always() {
        let (mut flights, now) = (Flights::default(), Instant::now());
        assert!(flights.have_room(10 * WINDOW_BYTES));
        flights.add(1, entry(WINDOW_BYTES), Route::Main, now);
        assert!(!flights.have_room(1));
        assert!(flights.remove(1).is_some());
        assert!(flights.have_room(1));
        assert_eq!((flights.len(), flights.on(Route::Main).len()), (0, 0));
    }
}
