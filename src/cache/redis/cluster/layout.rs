//! Owns what a cluster says of itself: which of its servers has which slots.
//!
//! Promises to take any answer for what it is worth: what isn't understood has no slots. Pure: no I/O.

use crate::cache::redis::source::join;
use kiln_contract::slot::SLOTS;
use redis::Value;

/// The owner of a slot that nobody has.
const NOBODY: u16 = u16::MAX;

/// Which of its primaries has which slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cache) struct Layout {
    /// By slot, the number of its primary.
    owners: Vec<u16>,
    pub primaries: Vec<Primary>,
}

/// A server that takes writes for some slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cache) struct Primary {
    /// Host and port.
    pub address: String,
    /// How many follow it.
    pub replicas: usize,
    /// A slot of it.
    pub slot: u16,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            owners: vec![NOBODY; SLOTS.into()],
            primaries: Vec::new(),
        }
    }
}

impl Layout {
    /// From an answer to `CLUSTER SLOTS` of the server at `asked`, host and port.
    pub fn read(answer: &Value, asked: &str) -> Self {
        let mut layout = Self::default();
        let ranges = match answer {
            Value::Array(ranges) => ranges.as_slice(),
            _ => &[],
        };
        for range in ranges {
            layout.add(range, asked);
        }
        layout
    }

    fn add(&mut self, range: &Value, asked: &str) -> Option<()> {
        let Value::Array(range) = range else {
            return None;
        };
        let [first, last, primary, replicas @ ..] = range.as_slice() else {
            return None;
        };
        let (first, last) = (number(first)?, number(last)?);
        let slots = usize::from(first)..=usize::from(last);
        // A server without a slot that there is would be one to ask, and to count, for nothing.
        self.owners
            .get(slots.clone())
            .filter(|all| !all.is_empty())?;
        let address = address(primary, asked)?;
        let known = self.primaries.iter().position(|one| one.address == address);
        let index = known.unwrap_or_else(|| {
            self.primaries.push(Primary {
                address,
                replicas: replicas.len(),
                slot: first,
            });
            self.primaries.len() - 1
        });
        let owners = self.owners.get_mut(slots)?;
        owners.fill(u16::try_from(index).ok()?);
        Some(())
    }

    /// The number of a slot's primary.
    #[inline]
    pub fn owner(&self, slot: u16) -> Option<usize> {
        let owner = self.owners.get(usize::from(slot)).copied()?;
        (owner != NOBODY).then_some(usize::from(owner))
    }

    /// Slots that nobody has.
    pub fn unserved(&self) -> usize {
        self.owners.iter().filter(|owner| **owner == NOBODY).count()
    }

    /// Whether it has no server at all.
    pub fn is_empty(&self) -> bool {
        self.primaries.is_empty()
    }

    /// Primaries that have taken the slots of one that is none any more: where it was, and where it is.
    pub fn moves(&self, before: &Self) -> Vec<(String, String)> {
        let has = |layout: &Self, address: &str| {
            let mut all = layout.primaries.iter();
            all.any(|one| one.address == address)
        };
        let new = self.primaries.iter();
        let new = new.filter(|one| !has(before, &one.address));
        let moved = new.filter_map(|one| {
            let old = before.primaries.get(before.owner(one.slot)?)?;
            (!has(self, &old.address)).then(|| (old.address.clone(), one.address.clone()))
        });
        moved.collect()
    }
}

fn number(value: &Value) -> Option<u16> {
    match value {
        Value::Int(number) => u16::try_from(*number).ok(),
        _ => None,
    }
}

/// Host and port of a server; a host that isn't said is the one that was asked.
fn address(server: &Value, asked: &str) -> Option<String> {
    let Value::Array(server) = server else {
        return None;
    };
    let [host, Value::Int(port), ..] = server.as_slice() else {
        return None;
    };
    let host = match host {
        Value::BulkString(host) => std::str::from_utf8(host).ok()?,
        Value::SimpleString(host) => host,
        _ => "",
    };
    let host = match host {
        "?" => return None,
        "" => asked.rsplit_once(':').map_or(asked, |(host, _)| host),
        host => host,
    };
    Some(join(host, &port.to_string()))
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    fn server(host: &str, port: i64) -> Value {
        let id = Value::BulkString(b"id".to_vec());
        let host = Value::BulkString(host.as_bytes().to_vec());
        Value::Array(vec![host, Value::Int(port), id, Value::Array(Vec::new())])
    }

    fn range(first: i64, last: i64, servers: Vec<Value>) -> Value {
        let mut range = vec![Value::Int(first), Value::Int(last)];
        range.extend(servers);
        Value::Array(range)
    }

    fn three(third: i64) -> Layout {
        let answer = Value::Array(vec![
            range(0, 5_460, vec![server("h", 1), server("h", 11)]),
            range(5_461, 10_922, vec![server("h", 2)]),
            range(10_923, 16_000, vec![server("h", third)]),
            range(16_001, 16_382, vec![server("h", 1)]),
        ]);
        Layout::read(&answer, "x:9")
    }

    #[test]
    fn each_slot_has_its_primary_and_some_have_none() {
        let layout = three(3);
        let owner = |slot| {
            let owner = layout.owner(slot)?;
            Some(layout.primaries[owner].address.as_str())
        };
        assert_eq!(owner(0), Some("h:1"));
        assert_eq!(owner(10_922), Some("h:2"));
        assert_eq!(owner(16_382), Some("h:1"));
        assert_eq!((owner(16_383), layout.unserved()), (None, 1));
        let replicas: Vec<usize> = layout.primaries.iter().map(|one| one.replicas).collect();
        assert_eq!(replicas, [1, 0, 0]);
    }

    #[test]
    fn a_host_that_is_not_said_is_the_one_that_was_asked() {
        let nobody = Value::Array(vec![Value::Nil, Value::Int(5)]);
        let answer = Value::Array(vec![
            range(0, 1, vec![nobody]),
            range(2, 3, vec![server("", 6)]),
            range(4, 5, vec![server("::1", 7)]),
            range(6, 7, vec![server("?", 7)]),
            range(8, 40_000, vec![server("h", 7)]),
            range(9, 8, vec![server("h", 8)]),
            Value::Nil,
        ]);
        let layout = Layout::read(&answer, "asked:1");
        let all: Vec<&str> = layout.primaries.iter().map(|one| &*one.address).collect();
        assert_eq!(all, ["asked:5", "asked:6", "[::1]:7"]);
        assert_eq!(layout.unserved(), usize::from(SLOTS) - 6);
        assert!(Layout::read(&Value::Okay, "x:1").is_empty());
    }

    #[test]
    fn a_primary_that_takes_over_is_seen_and_slots_that_move_are_none() {
        let moves = |to: i64, from: i64| three(to).moves(&three(from));
        assert!(moves(3, 3).is_empty());
        assert_eq!(moves(13, 3), [("h:3".to_owned(), "h:13".to_owned())]);
        assert!(moves(2, 3).is_empty(), "it had slots before");
        assert!(three(3).moves(&Layout::default()).is_empty());
    }
}
