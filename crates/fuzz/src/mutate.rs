//! What becomes of an input: its bytes changed, and, where it is a text, its words.

use crate::{case::NUMBERS, random::Random};

/// Words that stand in a quoted text's place.
const QUOTED: [&str; 20] = [
    r#""""#,
    r#""a""#,
    r#""\u0000""#,
    r#""\ud800""#,
    r#""\udc00\ud800""#,
    r#""\ud83d\ude00""#,
    r#""\uD83D""#,
    r#""\x""#,
    r#""\u00e9""#,
    "\"e\u{301}\"",
    "\"\u{e9}\"",
    "\"\u{feff}\"",
    "\"\0\"",
    "\"\u{7f}\"",
    "\"\n\"",
    r#""`x`""#,
    r#""a`, expected b""#,
    r#""true""#,
    r#""1""#,
    r#""2026-11-20T12:00:00Z""#,
];
/// Words that stand in any word's place.
const WORDS: [&str; 16] = [
    "null", "true", "false", "{}", "[]", "[", "]", "{", "}", ",", ":", "=", "\n", "[[", "-", "\\",
];
/// Bytes that lie on a border of something.
const BYTES: [u8; 16] = [
    0, 1, 7, 8, 0x20, 0x22, 0x2c, 0x5c, 0x7f, 0x80, 0xbf, 0xc0, 0xed, 0xf4, 0xfe, 0xff,
];
const WHOLE: [u64; 10] = [
    0,
    1,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// Makes another input of one, with parts of a second one, of `max` bytes at most.
pub(crate) fn mutate(
    random: &mut Random,
    input: &[u8],
    other: &[u8],
    words: &[&[u8]],
    max: usize,
) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(4) {
        match random.below(5) {
            0 | 1 => change_bytes(random, &mut bytes, other),
            2 => insert_word(random, &mut bytes, words),
            _ => change_words(random, &mut bytes, words),
        }
    }
    bytes.truncate(max);
    bytes
}

fn change_bytes(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = random.below(bytes.len());
    let longest = if random.one_in(4) { 64 } else { 4 };
    let length = 1 + random.below(longest);
    let end = (at + length).min(bytes.len());
    match random.below(9) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 if at < bytes.len() => bytes[at] = *random.pick(&BYTES),
        2 if at < bytes.len() => bytes[at] = random.draw() as u8,
        3 => {
            bytes.drain(at..end);
        }
        4 => {
            let part = bytes[at..end].to_vec();
            let to = random.below(bytes.len() + 1);
            bytes.splice(to..to, part);
        }
        5 => {
            let number = *random.pick(&WHOLE);
            let width = 1 << random.below(4);
            let mut written = number.to_be_bytes();
            if random.one_in(2) {
                written.reverse();
                written[width.min(8)..].fill(0);
                overwrite(bytes, at, &written[..width]);
            } else {
                overwrite(bytes, at, &written[8 - width..]);
            }
        }
        6 if !other.is_empty() => {
            let from = random.below(other.len());
            let to = (from + 1 + random.below(64)).min(other.len());
            bytes.splice(at..end, other[from..to].iter().copied());
        }
        7 => bytes.truncate(at),
        // Many of the same: depth, long lists, long names.
        _ if random.one_in(4) => {
            let part = bytes[at..end].to_vec();
            let times = 1 << random.below(10);
            bytes.splice(at..at, part.repeat(times));
        }
        _ => {}
    }
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    for (slot, byte) in bytes.iter_mut().skip(at).zip(with) {
        *slot = *byte;
    }
}

fn insert_word(random: &mut Random, bytes: &mut Vec<u8>, words: &[&[u8]]) {
    let at = random.below(bytes.len() + 1);
    let word = any_word(random, words);
    bytes.splice(at..at, word);
}

fn any_word(random: &mut Random, words: &[&[u8]]) -> Vec<u8> {
    match random.below(4) {
        0 if !words.is_empty() => random.pick(words).to_vec(),
        1 => random.pick(&NUMBERS).as_bytes().to_vec(),
        2 => random.pick(&QUOTED).as_bytes().to_vec(),
        _ => random.pick(&WORDS).as_bytes().to_vec(),
    }
}

/// Changes a text word by word: a number becomes another number, a quoted text another one.
fn change_words(random: &mut Random, bytes: &mut Vec<u8>, words: &[&[u8]]) {
    let spans = spans(bytes);
    if spans.is_empty() {
        return;
    }
    let (from, to) = *random.pick(&spans);
    let is_number = bytes[from].is_ascii_digit() || bytes[from] == b'-';
    match random.below(8) {
        0 => {
            bytes.drain(from..to);
        }
        1 => {
            let word = bytes[from..to].to_vec();
            bytes.splice(from..from, word);
        }
        2 | 3 => {
            // A run of words to another place: a field given twice, an object in an object.
            let first = random.below(spans.len());
            let last = (first + random.below(12)).min(spans.len() - 1);
            let part = bytes[spans[first].0..spans[last].1].to_vec();
            bytes.splice(to..to, part);
        }
        4 => {
            let word = any_word(random, words);
            bytes.splice(from..to, word);
        }
        5 if is_number => {
            let mut number = (random.draw() >> random.below(64)).to_string();
            if random.one_in(3) {
                number = format!("{:e}", f64::from_bits(random.draw()));
            }
            bytes.splice(from..to, number.into_bytes());
        }
        _ => {
            let words: &[&str] = if is_number {
                &NUMBERS
            } else if bytes[from] == b'"' {
                &QUOTED
            } else {
                &WORDS
            };
            let word = *random.pick(words);
            bytes.splice(from..to, word.bytes());
        }
    }
}

/// Where words stand: quoted texts, runs of letters and digits, single other bytes.
fn spans(bytes: &[u8]) -> Vec<(usize, usize)> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-+".contains(&byte) || byte > 127;
    let (mut spans, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let from = at;
        at += 1;
        if bytes[from] == b'"' {
            while at < bytes.len() && bytes[at] != b'"' {
                at += if bytes[at] == b'\\' { 2 } else { 1 };
            }
            at = (at + 1).min(bytes.len());
        } else if is_word(bytes[from]) {
            while at < bytes.len() && is_word(bytes[at]) {
                at += 1;
            }
        } else if bytes[from].is_ascii_whitespace() {
            continue;
        }
        spans.push((from, at));
    }
    spans
}

/// Smaller inputs than a failing one, the smallest first that may still fail: halves, quarters, and single bytes left out.
pub(crate) fn smaller(input: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let mut size = input.len();
    let sizes = std::iter::from_fn(move || {
        size /= 2;
        (size > 0).then_some(size)
    });
    sizes.flat_map(move |size| {
        (0..input.len()).step_by(size).map(move |at| {
            let mut less = input[..at].to_vec();
            less.extend_from_slice(input.get(at + size..).unwrap_or_default());
            less
        })
    })
}
