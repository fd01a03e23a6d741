//! Cuts texts into buckets: what trains an `ngram-text` model and what serves it share this file.

use crate::manifest::NgramShape;

/// Buckets that a buffer keeps room for; what a longer text takes is given back.
const KEPT_BUCKETS: usize = 1 << 16;

/// Cuts texts into buckets.
///
/// A word is a run of letters and digits with the apostrophes inside it; every other visible character is a word of its
/// own. A run of 1 to `word_ngrams` neighbouring words is one feature, and so is, within `<word>` (the word with its
/// boundary marks), every run of `min_chars` to `max_chars` characters. A feature's bucket is the 32-bit FNV-1a hash
/// of a byte for its kind (`w` or `c`) and its bytes in UTF-8, words joined by single spaces, modulo `buckets`.
#[derive(Debug, Clone, Copy)]
pub struct Featuriser {
    shape: NgramShape,
}

/// Buffers that go from one text to the next.
#[derive(Debug, Default)]
pub(super) struct Features {
    /// The text's words, joined by single spaces.
    joined: String,
    /// A word between its boundary marks.
    marked: String,
    buckets: Vec<u32>,
}

impl Featuriser {
    /// A featuriser of that shape, whose `buckets` must not be 0.
    pub fn new(shape: NgramShape) -> Self {
        Self { shape }
    }

    /// Every feature's bucket, a feature as often as it occurs; none for a text without words.
    pub fn buckets(&self, text: &str) -> Vec<u32> {
        let mut features = Features::default();
        self.cut(text, &mut features);
        features.buckets
    }

    /// The same, in buffers that are used again.
    pub(super) fn cut<'a>(&self, text: &str, features: &'a mut Features) -> &'a [u32] {
        let Features {
            joined,
            marked,
            buckets,
        } = features;
        buckets.clear();
        buckets.shrink_to(KEPT_BUCKETS);
        joined.clear();
        for word in words(text) {
            if !joined.is_empty() {
                joined.push(' ');
            }
            joined.push_str(word);
        }
        let mut rest = joined.as_bytes();
        while !rest.is_empty() {
            rest = self.push_word_runs(rest, buckets);
        }
        if self.shape.max_chars > 0 {
            for word in joined.split(' ').filter(|word| !word.is_empty()) {
                marked.clear();
                marked.push('<');
                marked.push_str(word);
                marked.push('>');
                self.push_char_runs(marked.as_bytes(), buckets);
            }
        }
        buckets
    }

    /// The runs that begin with the first of these words, which are joined by single spaces; gives the words after it.
    fn push_word_runs<'a>(&self, words: &'a [u8], buckets: &mut Vec<u32>) -> &'a [u8] {
        let mut after_first = None;
        let mut hash = WORDS;
        let mut rest = words;
        for _ in 0..self.shape.word_ngrams {
            let end = rest.iter().position(|&byte| byte == b' ');
            let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
            hash = fnv(hash, word);
            buckets.push(hash % self.shape.buckets);
            let Some((space, after)) = after.split_first() else {
                return after_first.unwrap_or_default();
            };
            after_first.get_or_insert(after);
            hash = fnv_byte(hash, *space);
            rest = after;
        }
        after_first.unwrap_or_default()
    }

    /// The runs of characters of a word between its boundary marks, in UTF-8.
    fn push_char_runs(&self, marked: &[u8], buckets: &mut Vec<u32>) {
        let mut rest = marked;
        while let Some((&first, after)) = rest.split_first() {
            if begins_char(first) {
                self.push_char_runs_from_first(rest, buckets);
            }
            rest = after;
        }
    }

    fn push_char_runs_from_first(&self, marked: &[u8], buckets: &mut Vec<u32>) {
        let mut hash = CHARS;
        let mut chars = 0;
        let mut bytes = marked.iter().copied().peekable();
        while let Some(byte) = bytes.next() {
            hash = fnv_byte(hash, byte);
            if !bytes.peek().is_none_or(|&next| begins_char(next)) {
                continue;
            }
            chars += 1;
            if chars >= self.shape.min_chars {
                buckets.push(hash % self.shape.buckets);
            }
            if chars == self.shape.max_chars {
                return;
            }
        }
    }
}

const FNV_START: u32 = 0x811c_9dc5;
const FNV_PRIME: u32 = 0x0100_0193;
/// What the hashes of words begin with.
const WORDS: u32 = fnv_byte(FNV_START, b'w');
/// What the hashes of characters begin with.
const CHARS: u32 = fnv_byte(FNV_START, b'c');

fn fnv(hash: u32, bytes: &[u8]) -> u32 {
    bytes.iter().copied().fold(hash, fnv_byte)
}

const fn fnv_byte(hash: u32, byte: u8) -> u32 {
    (hash ^ byte as u32).wrapping_mul(FNV_PRIME)
}

/// Whether a byte of UTF-8 is a character's first.
fn begins_char(byte: u8) -> bool {
    byte & 0b1100_0000 != 0b1000_0000
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c.is_control());
        let first = rest.chars().next()?;
        let mut end = first.len_utf8();
        if first.is_alphanumeric() {
            let mut chars = rest.char_indices().skip(1).peekable();
            while let Some((at, c)) = chars.next() {
                let inside = is_apostrophe(c)
                    && chars
                        .peek()
                        .is_some_and(|(_, after)| after.is_alphanumeric());
                if !c.is_alphanumeric() && !inside {
                    break;
                }
                end = at + c.len_utf8();
            }
        }
        let (word, after) = rest.split_at(end);
        rest = after;
        Some(word)
    })
}

fn is_apostrophe(c: char) -> bool {
    matches!(c, '\'' | '’')
}

#[cfg(test)]
mod tests;
