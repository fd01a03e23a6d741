//! Owns what is asked for right after what: for each input of a namespace those that followed it within the next requests of the same
//! session, or of all where nobody says whose they are.
//!
//! Promises bounded memory whatever is asked for, and that only what followed with confidence is named: a guess costs as much as an input that
//! is needed. Counts fade as requests come, so that what no longer follows is forgotten.

use ahash::RandomState;
use hashbrown::HashTable;
use kiln_contract::key::InputHash;
use rand::Rng;
use std::collections::HashMap;

/// Bytes that one namespace may take.
pub const MAX_BYTES: usize = 2 << 20;
/// What follows within so many requests counts.
const WINDOW: usize = 2;
/// Followers that are held of one input.
const FOLLOWERS: usize = 2;
/// An input must have been asked for so often before anything is said of it.
const MIN_ASKED: f32 = 3.0;
/// How probable a follower must be.
const MIN_PROBABILITY: f32 = 0.6;
/// At so many requests for an input all its counts are halved.
const FADE_AT: f32 = 32.0;
/// Sessions whose latest requests are held.
const MAX_SESSIONS: usize = 4_096;
/// Inputs that are drawn, of which the one that was asked for least makes room.
const LOTS: usize = 8;

/// An input that probably comes next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Follower {
    pub input: InputHash,
    /// Of being asked for within the next few requests, 0 to 1.
    pub probability: f64,
}

/// One input with what followed it.
#[derive(Debug, Clone)]
struct Slot {
    input: InputHash,
    asked: f32,
    followers: [(InputHash, f32); FOLLOWERS],
}

/// The latest requests of a session, the newest first.
type Recent = [Option<InputHash>; WINDOW];

/// What follows what in one namespace.
#[derive(Debug)]
pub struct Follow {
    slots: Vec<Slot>,
    by_input: HashTable<u32>,
    hasher: RandomState,
    max_slots: usize,
    sessions: HashMap<u64, Recent, RandomState>,
    everybody: Recent,
}

impl Default for Follow {
    fn default() -> Self {
        Self::new(MAX_BYTES)
    }
}

impl Follow {
    /// Of at most so many bytes.
    pub fn new(max_bytes: usize) -> Self {
        // The table has a byte beside each of its buckets: a power of two that is up to 16/7 of what it holds, and twice that once those
        // that were removed have taken the places of others.
        let each = size_of::<Slot>() + 5 * (size_of::<u32>() + 1);
        let sessions = MAX_SESSIONS * 2 * (size_of::<(u64, Recent)>() + 1);
        Self {
            slots: Vec::new(),
            by_input: HashTable::new(),
            hasher: RandomState::new(),
            max_slots: (max_bytes.saturating_sub(sessions) / each).max(1),
            sessions: HashMap::default(),
            everybody: Recent::default(),
        }
    }

    /// Notes a request, of a session where one is known, and says what probably follows.
    pub fn asked(
        &mut self,
        input: &InputHash,
        session: Option<u64>,
        rng: &mut impl Rng,
    ) -> Vec<Follower> {
        let recent = self.recent(session);
        let before = *recent;
        if before.first() == Some(&Some(*input)) {
            // Asked for again: nothing new follows.
            return Vec::new();
        }
        recent.rotate_right(1);
        if let Some(newest) = recent.first_mut() {
            *newest = Some(*input);
        }
        for earlier in before.iter().flatten().filter(|earlier| *earlier != input) {
            if let Some(slot) = self.slot(earlier) {
                slot.followed_by(input);
            }
        }
        let index = match self.index_of(input) {
            Some(index) => index,
            None => self.admit(input, rng),
        };
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return Vec::new();
        };
        slot.ask();
        slot.confident()
    }

    /// Whether anything is known of an input.
    pub fn holds(&self, input: &InputHash) -> bool {
        self.index_of(input).is_some()
    }

    fn recent(&mut self, session: Option<u64>) -> &mut Recent {
        let Some(session) = session else {
            return &mut self.everybody;
        };
        if self.sessions.len() >= MAX_SESSIONS && !self.sessions.contains_key(&session) {
            // Sessions are short: all that go on are known again with their next request.
            self.sessions.clear();
        }
        self.sessions.entry(session).or_default()
    }

    fn index_of(&self, input: &InputHash) -> Option<u32> {
        let slots = &self.slots;
        let is_it = |index: &u32| {
            slots
                .get(*index as usize)
                .is_some_and(|s| s.input == *input)
        };
        let hash = self.hasher.hash_one(input);
        self.by_input.find(hash, is_it).copied()
    }

    fn slot(&mut self, input: &InputHash) -> Option<&mut Slot> {
        let index = self.index_of(input)?;
        self.slots.get_mut(index as usize)
    }

    /// Makes a slot for an input: the one of several that was asked for least makes room.
    fn admit(&mut self, input: &InputHash, rng: &mut impl Rng) -> u32 {
        let slot = Slot {
            input: *input,
            asked: 0.0,
            followers: [([0; 32], 0.0); FOLLOWERS],
        };
        let index = if self.slots.len() < self.max_slots {
            self.slots.push(slot);
            self.slots.len() as u32 - 1
        } else {
            let asked = |index: &usize| self.slots.get(*index).map_or(0.0, |slot| slot.asked);
            let drawn = (0..LOTS).map(|_| rng.random_range(0..self.max_slots));
            let rarest = drawn.min_by(|a, b| asked(a).total_cmp(&asked(b)));
            let index = rarest.unwrap_or_default();
            if let Some(old) = self.slots.get_mut(index) {
                let hash = self.hasher.hash_one(old.input);
                let found = self
                    .by_input
                    .find_entry(hash, |other| *other as usize == index);
                if let Ok(found) = found {
                    found.remove();
                }
                *old = slot;
            }
            index as u32
        };
        let (slots, hasher) = (&self.slots, &self.hasher);
        let of = |index: &u32| {
            let slot = slots.get(*index as usize);
            slot.map_or(0, |slot| hasher.hash_one(slot.input))
        };
        let hash = hasher.hash_one(input);
        self.by_input.insert_unique(hash, index, of);
        index
    }

    /// Bytes that it takes, about.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        let table = self.by_input.allocation_size();
        let sessions = self.sessions.capacity() * 8 / 7 * (size_of::<(u64, Recent)>() + 1);
        self.slots.len() * size_of::<Slot>() + table + sessions
    }
}

impl Slot {
    fn ask(&mut self) {
        self.asked += 1.0;
        if self.asked > FADE_AT {
            self.asked /= 2.0;
            self.followers
                .iter_mut()
                .for_each(|(_, count)| *count /= 2.0);
        }
    }

    fn followed_by(&mut self, input: &InputHash) {
        let known = self
            .followers
            .iter_mut()
            .find(|(own, count)| own == input && *count > 0.0);
        if let Some((_, count)) = known {
            *count += 1.0;
            return;
        }
        let rarest = self.followers.iter_mut().min_by(|a, b| a.1.total_cmp(&b.1));
        if let Some(rarest) = rarest {
            if rarest.1 <= 1.0 {
                *rarest = (*input, 1.0);
            } else {
                rarest.1 -= 0.5;
            }
        }
    }

    fn confident(&self) -> Vec<Follower> {
        if self.asked < MIN_ASKED {
            return Vec::new();
        }
        let followers = self.followers.iter().filter(|(_, count)| *count > 0.0);
        let probable = followers.map(|(input, count)| Follower {
            input: *input,
            // Half a count less: of a few requests chance alone would make a pattern.
            probability: f64::from(((count - 0.5) / self.asked).clamp(0.0, 1.0)),
        });
        let min = f64::from(MIN_PROBABILITY);
        probable.filter(|one| one.probability >= min).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_contract::key::hash_text;
    use rand::{SeedableRng, rngs::StdRng};

    fn key(n: usize) -> InputHash {
        hash_text(&n.to_string(), None)
    }

    #[test]
    fn what_follows_is_known_after_a_few_times_and_chance_is_not() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut follow = Follow::default();
        let mut last = Vec::new();
        for n in 0..20 {
            for input in [1, 2, 1_000 + n, 2_000 + n, 3_000 + n] {
                let found = follow.asked(&key(input), None, &mut rng);
                if input == 1 {
                    last = found;
                } else {
                    assert!(found.is_empty(), "{n}: {input}");
                }
            }
            assert_eq!(last.is_empty(), n < 3, "{n}");
        }
        assert_eq!(last.len(), 1);
        assert_eq!(last[0].input, key(2));
        assert!(last[0].probability > 0.9);
        // Another one follows from now on.
        for n in 0..200 {
            for input in [1, 3, 4_000 + n, 5_000 + n, 6_000 + n] {
                follow.asked(&key(input), None, &mut rng);
            }
        }
        let found = follow.asked(&key(1), None, &mut rng);
        assert_eq!((found.len(), found[0].input), (1, key(3)));
    }

    #[test]
    fn sessions_are_followed_apart() {
        let mut rng = StdRng::seed_from_u64(2);
        let (mut apart, mut together) = (Follow::default(), Follow::default());
        let mut found = (0, 0);
        for n in 0..2_000usize {
            // Every session reads 1, 2, 3 and so on; others come between at random.
            let session = rng.random_range(0..40u64);
            let input = key(n * 7 % 5 + 10 * session as usize);
            found.1 += together.asked(&input, None, &mut rng).len();
            for step in [0, 1] {
                let input = key(5_000 + 2 * session as usize + step);
                found.0 += apart.asked(&input, Some(session), &mut rng).len();
            }
        }
        assert!(found.0 > 1_500 && found.1 < 100, "{found:?}");
    }

    #[test]
    fn it_stays_within_its_bytes_whatever_comes() {
        let mut rng = StdRng::seed_from_u64(3);
        let mut follow = Follow::new(1 << 20);
        for n in 0..60_000 {
            let session = (n % 3 > 0).then_some(n as u64 / 5);
            follow.asked(&key(n), session, &mut rng);
            if n % 2 == 0 {
                follow.asked(&key(n % 10), None, &mut rng);
            }
        }
        assert!(follow.bytes() <= 1 << 20, "{}", follow.bytes());
        assert_eq!(follow.by_input.len(), follow.slots.len());
        for (index, slot) in follow.slots.iter().enumerate() {
            assert_eq!(follow.index_of(&slot.input), Some(index as u32));
        }
    }
}
