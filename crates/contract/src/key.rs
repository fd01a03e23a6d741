//! Owns every key that Kiln writes to Redis, and the hash that names an input.
//!
//! Promises that two inputs have the same hash exactly if they are equal after normalisation. No other module builds a
//! Redis key.

use crate::slot;
use sha2::{Digest, Sha256};
use std::sync::LazyLock;

/// SHA-256 of a normalised input.
pub type InputHash = [u8; 32];

/// Tags that keep the kinds of input apart: the first byte that is hashed.
const FEATURES: &[u8] = b"f";
const TEXT: &[u8] = b"t";
const PAIR: &[u8] = b"p";

/// Hash of dense features: their 32-bit floats, little-endian, in order.
#[inline]
pub fn hash_features(features: &[f32]) -> InputHash {
    const CHUNK: usize = 64;
    let mut hasher = Sha256::new_with_prefix(FEATURES);
    let mut bytes = [0u8; CHUNK * 4];
    for chunk in features.chunks(CHUNK) {
        for (slot, value) in bytes.chunks_exact_mut(4).zip(chunk) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
        hasher.update(bytes.get(..chunk.len() * 4).unwrap_or_default());
    }
    hasher.finalize().into()
}

/// Hash of a normalised text, or of a pair of them.
#[inline]
pub fn hash_text(text: &str, pair: Option<&str>) -> InputHash {
    let hasher = match pair {
        None => Sha256::new_with_prefix(TEXT).chain_update(text),
        // The first text's length keeps ("ab", "c") and ("a", "bc") apart.
        Some(pair) => Sha256::new_with_prefix(PAIR)
            .chain_update((text.len() as u64).to_le_bytes())
            .chain_update(text)
            .chain_update(pair),
    };
    hasher.finalize().into()
}

/// SHA-256 of a body: under the same id, the same hash is a repeated job, and another hash is a conflict.
#[inline]
pub fn hash_body(body: &[u8]) -> [u8; 32] {
    Sha256::digest(body).into()
}

/// What every score entry's key starts with.
const ENTRIES: &[u8] = b"kiln:s:";

/// Start of the keys of one model version's score entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryPrefix(Vec<u8>);

impl EntryPrefix {
    /// The prefix for `model` at `version`.
    pub fn new(model: &str, version: &str) -> Self {
        let mut prefix = ENTRIES.to_vec();
        prefix.extend_from_slice(format!("{model}:{version}:").as_bytes());
        Self(prefix)
    }

    /// The key of one score entry: the prefix and the raw bytes of the hash.
    #[inline]
    pub fn key(&self, input: &InputHash) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.0.len() + input.len());
        key.extend_from_slice(&self.0);
        key.extend_from_slice(input);
        key
    }

    /// The prefix itself.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The pattern that matches every score entry.
pub fn all_entries() -> String {
    "kiln:s:*".to_owned()
}

/// The model, the version and the input of a score entry's key; nothing of any other key.
pub fn read_entry(key: &[u8]) -> Option<(&str, &str, InputHash)> {
    let rest = key.strip_prefix(ENTRIES)?;
    let (space, input) = rest.split_last_chunk::<32>()?;
    let space = std::str::from_utf8(space.strip_suffix(b":")?).ok()?;
    let (model, version) = space.split_once(':')?;
    Some((model, version, *input))
}

/// What the key of every named entry and ranking starts with.
const NAMES: &str = "kiln:k:";

/// The pattern that matches every named entry and ranking.
pub fn all_names() -> String {
    "kiln:k:*".to_owned()
}

/// The namespace and the key of a named entry or a ranking; nothing of any other key.
pub fn read_named(key: &[u8]) -> Option<(&str, &str)> {
    let rest = std::str::from_utf8(key).ok()?.strip_prefix(NAMES)?;
    rest.split_once(':')
}

/// The key under which readers find a named entry or a ranking of a namespace.
pub fn named(namespace: &str, key: &str) -> String {
    format!("kiln:k:{namespace}:{key}")
}

/// What a removed entry leaves behind, so that no older word on its key comes back: in the same slot of a Redis Cluster as `entry`, which
/// is what [`named`] gives.
pub fn removed(entry: &str) -> String {
    if slot::tag(entry.as_bytes()).is_some() {
        return format!("kiln:o:{entry}");
    }
    if !entry.contains('}') {
        return format!("kiln:o:{{{entry}}}");
    }
    // No tag of its own, and none that can hold it: another one of the same slot.
    let tag = tag(slot::of_key(entry.as_bytes()));
    format!("kiln:o:{{{tag:x}}}{entry}")
}

/// For each slot a number that is, in hexadecimal, a tag of it.
static TAGS: LazyLock<Vec<u32>> = LazyLock::new(|| {
    let mut tags: Vec<Option<u32>> = vec![None; slot::SLOTS.into()];
    let mut left = tags.len();
    for number in 0.. {
        let slot = slot::of_key(format!("{number:x}").as_bytes());
        if let Some(tag) = tags.get_mut(usize::from(slot))
            && tag.is_none()
        {
            *tag = Some(number);
            left -= 1;
        }
        if left == 0 {
            break;
        }
    }
    tags.into_iter().map(Option::unwrap_or_default).collect()
});

/// A number that is, in hexadecimal, a tag of that slot.
fn tag(slot: u16) -> u32 {
    TAGS.get(usize::from(slot)).copied().unwrap_or_default()
}

/// When a job that wants something shown to readers was first accepted: a repeat of it is no newer.
pub fn accepted(job_id: &str) -> Vec<u8> {
    format!("kiln:a:{job_id}").into_bytes()
}

/// The pattern that matches all of a namespace's named entries and rankings.
pub fn all_named(namespace: &str) -> String {
    format!("kiln:k:{namespace}:*")
}

/// The mark of the latest invalidation of any namespace.
pub fn latest_mark() -> String {
    "kiln:i".to_owned()
}

/// The set of invalidated namespaces whose named entries still have to be removed.
pub fn unremoved() -> String {
    "kiln:u".to_owned()
}

/// The mark of a namespace's latest invalidation.
pub fn mark(namespace: &str) -> String {
    format!("kiln:i:{namespace}")
}

/// The lease on scoring an input: its entry's key with another prefix.
pub fn lease(prefix: &EntryPrefix, input: &InputHash) -> Vec<u8> {
    let entry = prefix.key(input);
    let mut key = b"kiln:l:".to_vec();
    key.extend_from_slice(entry.strip_prefix(ENTRIES).unwrap_or(&entry));
    key
}

/// The set of namespaces for which workers share what is hot.
pub fn heat_index() -> String {
    "kiln:h".to_owned()
}

/// What is hot in one namespace for one model: a hash with one field per worker.
pub fn heat(namespace: &str, model: &str) -> String {
    format!("kiln:h:{namespace}:{model}")
}

/// The set of workers that have no room to watch all that is requested.
pub fn heat_dropped_index() -> String {
    "kiln:hd".to_owned()
}

/// How many requests each worker has dropped: a hash with one field per worker.
pub fn heat_dropped() -> String {
    "kiln:hd:n".to_owned()
}

/// The set of namespaces for which workers share what is read.
pub fn reads_index() -> String {
    "kiln:r".to_owned()
}

/// What is read in one namespace: a hash with one field per worker.
pub fn reads(namespace: &str) -> String {
    format!("kiln:r:{namespace}")
}

/// A key that exists only while the server is being checked; `token` keeps two checks apart.
pub fn trial(token: &str) -> String {
    format!("kiln:trial:{token}")
}

/// The same in a slot of a Redis Cluster.
pub fn trial_in(slot: u16, token: &str) -> String {
    format!("kiln:trial:{{{:x}}}{token}", tag(slot))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn features_hash_alike_exactly_where_equal(a in prop::collection::vec(-1e3f32..1e3, 1..200), at in any::<prop::sample::Index>(), other in -1e3f32..1e3) {
            prop_assert_eq!(hash_features(&a), hash_features(&a.clone()));
            let mut b = a.clone();
            let at = at.index(b.len());
            b[at] = other;
            prop_assert_eq!(a == b, hash_features(&a) == hash_features(&b));
            prop_assert_ne!(hash_features(&a), hash_features(&a[..a.len() - 1]));
        }

        #[test]
        fn pairs_hash_by_where_they_are_cut(text in "\\PC{0,40}", cut in any::<prop::sample::Index>()) {
            let ends: Vec<usize> = text.char_indices().map(|(i, _)| i).chain([text.len()]).collect();
            let cut = ends[cut.index(ends.len())];
            let (a, b) = text.split_at(cut);
            prop_assert_ne!(hash_text(&text, None), hash_text(a, Some(b)));
            if !b.is_empty() {
                prop_assert_ne!(hash_text(a, Some(b)), hash_text(&text, Some("")));
            }
        }
    }

    #[test]
    fn hashing_is_plain_sha256_of_the_tagged_bytes() {
        let values: Vec<f32> = (0..100).map(|i| i as f32 / 7.0).collect();
        let mut bytes = b"f".to_vec();
        bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        assert_eq!(
            hash_features(&values),
            <[u8; 32]>::from(Sha256::digest(&bytes))
        );
        let sha256 = |bytes: &[u8]| <[u8; 32]>::from(Sha256::digest(bytes));
        assert_eq!(hash_text("abc", None), sha256(b"tabc"));
        let pair = b"p\x02\0\0\0\0\0\0\0abc";
        assert_eq!(hash_text("ab", Some("c")), sha256(pair));
        // FIPS 180 gives the first bytes of this one.
        assert_eq!(hash_body(b"abc")[..4], [0xba, 0x78, 0x16, 0xbf]);
        assert_eq!(hash_body(b"abc"), sha256(b"abc"));
    }

    /// The contract's keys are read by others, and all of them by workers of the release before.
    #[test]
    fn every_key_has_the_name_that_others_know() {
        for (key, expected) in [
            (named("reviews", "review:42"), "kiln:k:reviews:review:42"),
            (all_named("reviews"), "kiln:k:reviews:*"),
            (all_names(), "kiln:k:*"),
            (all_entries(), "kiln:s:*"),
            (latest_mark(), "kiln:i"),
            (mark("reviews"), "kiln:i:reviews"),
            (unremoved(), "kiln:u"),
            (heat_index(), "kiln:h"),
            (heat("reviews", "sentiment"), "kiln:h:reviews:sentiment"),
            (heat_dropped_index(), "kiln:hd"),
            (heat_dropped(), "kiln:hd:n"),
            (reads_index(), "kiln:r"),
            (reads("reviews"), "kiln:r:reviews"),
            (trial("x"), "kiln:trial:x"),
        ] {
            assert_eq!(key, expected);
        }
        assert_eq!(accepted("job-1"), b"kiln:a:job-1");
        let (prefix, input) = (EntryPrefix::new("sentiment", "1.0.0"), [0xff; 32]);
        assert_eq!(prefix.as_bytes(), b"kiln:s:sentiment:1.0.0:");
        let with_input = |start: &[u8]| [start, &input].concat();
        let entry = with_input(b"kiln:s:sentiment:1.0.0:");
        assert_eq!(prefix.key(&input), entry);
        let claim = with_input(b"kiln:l:sentiment:1.0.0:");
        assert_eq!(lease(&prefix, &input), claim);
    }

    proptest! {
        #[test]
        fn what_is_removed_leaves_its_mark_in_its_entrys_slot(key in "[a-c{}]{1,12}") {
            let entry = named("n", &key);
            prop_assert_eq!(slot::of_key(removed(&entry).as_bytes()), slot::of_key(entry.as_bytes()));
        }
    }

    #[test]
    fn a_key_is_made_for_a_slot() {
        for slot in [0, 7_000, 16_383] {
            assert_eq!(slot::of_key(trial_in(slot, "x").as_bytes()), slot);
        }
        assert_eq!(removed("kiln:k:n:a"), "kiln:o:{kiln:k:n:a}");
        assert_eq!(removed("kiln:k:n:{a}b"), "kiln:o:kiln:k:n:{a}b");
    }

    #[test]
    fn versions_never_share_an_entry() {
        let hash = hash_text("x", None);
        assert_ne!(
            EntryPrefix::new("m", "1").key(&hash),
            EntryPrefix::new("m", "2").key(&hash)
        );
        assert_eq!(named("feed", "page:1"), "kiln:k:feed:page:1");
    }

    #[test]
    fn keys_are_read_as_they_are_written() {
        let hash = hash_text("x", None);
        let entry = EntryPrefix::new("m", "1.0").key(&hash);
        assert_eq!(read_entry(&entry), Some(("m", "1.0", hash)));
        let name = named("feed", "page:1 ☃");
        assert_eq!(read_named(name.as_bytes()), Some(("feed", "page:1 ☃")));
        assert_eq!(
            (read_named(&entry), read_entry(name.as_bytes())),
            (None, None)
        );
        assert_eq!(
            read_entry(entry.get(..entry.len() - 1).unwrap_or_default()),
            None
        );
    }
}
