//! Owns how much one round trip to Redis may be, and how long its answer may take.
//!
//! Promises that nothing is late because it is large: the time grows with the bytes, and with what was sent before it on the same connection.

use crate::cut::cut;
use std::{ops::Range, time::Duration};

/// Keys of one round trip.
const MAX_KEYS: usize = 2_048;
/// Bytes of one round trip, request and answer; one that is a single value may have more.
pub(in crate::cache) const MAX_BYTES: usize = 1 << 20;
/// Bytes of a round trip from which on it is large.
const LARGE_BYTES: usize = 128 << 10;
/// Bytes a second that Redis and the network between are trusted to carry, at a time when others want them, too: 10 MiB.
const BYTES_A_MS: usize = (10 << 20) / 1_000;
/// Keys a second that Redis is trusted to look up.
const KEYS_A_MS: usize = 100;
/// What was sent before adds no more time than so many bytes take.
const MAX_AHEAD: usize = 8 << 20;
/// What a command and its answer have beside key and value.
const FRAME_BYTES: usize = 32;

/// How much one round trip is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::cache) struct Size {
    pub keys: usize,
    pub bytes: usize,
}

impl Size {
    /// A command whose size doesn't matter.
    pub const SMALL: Self = Self {
        keys: 1,
        bytes: 128,
    };

    /// Whether it would hold up small ones behind it.
    pub fn is_large(self) -> bool {
        self.bytes > LARGE_BYTES
    }

    /// How long its answer may take if a small one's may take `base`, with so many bytes before it on the same connection.
    pub fn limit(self, base: Duration, ahead: usize) -> Duration {
        let bytes = self.bytes.saturating_add(ahead.min(MAX_AHEAD));
        let more = bytes / BYTES_A_MS + self.keys / KEYS_A_MS;
        base + Duration::from_millis(more as u64)
    }
}

/// Some of the keys that are asked for, in one round trip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub keys: Range<usize>,
    pub size: Size,
}

/// The round trips for keys of which each takes so many bytes, there and back.
pub(super) fn parts(bytes: &[usize]) -> Vec<Part> {
    let bytes: Vec<usize> = bytes.iter().map(|bytes| bytes + FRAME_BYTES).collect();
    let runs = cut(bytes.iter().copied(), MAX_KEYS, MAX_BYTES).into_iter();
    runs.map(|keys| {
        let size = Size {
            keys: keys.len(),
            bytes: bytes.get(keys.clone()).into_iter().flatten().sum(),
        };
        Part { keys, size }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Duration = Duration::from_millis(500);

    #[test]
    fn a_small_answer_has_the_base_and_a_large_one_more() {
        assert_eq!(Size::SMALL.limit(BASE, 0), BASE);
        let embeddings = Size {
            keys: 512,
            bytes: 1 << 20,
        };
        assert_eq!(embeddings.limit(BASE, 0), BASE + Duration::from_millis(105));
        let behind = embeddings.limit(BASE, 1 << 20);
        assert_eq!(behind, BASE + Duration::from_millis(205));
        assert!(Size::SMALL.limit(BASE, usize::MAX) < 3 * BASE, "bounded");
    }

    #[test]
    fn what_is_too_much_for_one_round_trip_is_several() {
        assert!(parts(&[]).is_empty());
        let [one] = parts(&[100; 2_048]).try_into().expect("one round trip");
        assert_eq!(one.keys, 0..2_048);
        assert!(one.size.is_large());
        assert_eq!(parts(&[100; 2_049]).len(), 2, "by keys");
        let embeddings = parts(&[1_600; 4_096]);
        assert!((6..9).contains(&embeddings.len()), "{}", embeddings.len());
        assert!(embeddings.iter().all(|part| part.size.bytes <= MAX_BYTES));
        let huge = parts(&[10, 5 << 20, 10]);
        assert_eq!(huge.len(), 3, "a huge one goes alone");
    }
}
