//! One case: the bytes that it is made of, what it may cost, and what it says of itself.

use crate::random::hash;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Longest text of a refusal, in bytes: it is shown in logs, replies and headers.
const MAX_REFUSAL_BYTES: usize = 1_200;

/// Texts that readers stumble over.
const TEXTS: [&str; 22] = [
    "",
    "a",
    "kiln",
    "\u{feff}",
    "\0",
    "\u{1}\u{1f}\u{7f}",
    "\"\\/",
    "\u{e9}",
    "e\u{301}",
    "\u{1f469}\u{200d}\u{1f680}",
    "\u{202e}x",
    "\u{ffff}",
    "\u{10ffff}",
    "\u{130}",
    "\u{fb01}",
    "\r\n",
    "`x`",
    "a`, expected b",
    "null",
    "{}",
    "x:y",
    " \u{a0}\u{2003}",
];

/// Numbers as JSON may write them, and as it may not.
pub(crate) const NUMBERS: [&str; 34] = [
    "0",
    "-0",
    "-0.0",
    "1",
    "-1",
    "01",
    "+1",
    "1.",
    ".5",
    "1.5",
    "1e0",
    "1E+2",
    "1e-2",
    "1e999",
    "-1e999",
    "1e-999",
    "0e999999999999",
    "3.4028235e38",
    "3.4028236e38",
    "1e-46",
    "9007199254740993",
    "16777217",
    "255",
    "256",
    "65536",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775809",
    "18446744073709551615",
    "18446744073709551616",
    "0.30000001192092896",
    "NaN",
    "Infinity",
];

/// What one run is given, and what it says. Bytes that are asked for beyond the last one are zero, so that a shorter input is a
/// simpler case.
#[derive(Debug)]
pub struct Case<'b> {
    bytes: &'b [u8],
    at: usize,
    /// Bytes that may be held at once: so many, and so many for each byte of what is read.
    memory: (usize, usize),
    shape: u64,
    peak: usize,
}

impl<'b> Case<'b> {
    pub(crate) fn new(bytes: &'b [u8], memory: (usize, usize)) -> Self {
        Self {
            bytes,
            at: 0,
            memory,
            shape: 0,
            peak: 0,
        }
    }

    /// All of the input, for targets that read it as it is.
    pub fn bytes(&self) -> &'b [u8] {
        self.bytes
    }

    /// What wasn't asked for yet.
    pub fn rest(&mut self) -> &'b [u8] {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        self.at = self.bytes.len();
        rest
    }

    /// Whether anything is left: what builds lists stops where not.
    pub fn goes_on(&self) -> bool {
        self.at < self.bytes.len()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let byte = self.bytes.get(self.at).copied().unwrap_or_default();
        self.at += 1;
        byte
    }

    /// The next eight bytes as a number.
    pub fn word(&mut self) -> u64 {
        (0..8).fold(0, |word, _| word << 8 | u64::from(self.byte()))
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        let wide = if end > 256 {
            usize::from(self.byte()) << 8 | usize::from(self.byte())
        } else {
            usize::from(self.byte())
        };
        wide.checked_rem(end).unwrap_or_default()
    }

    /// Whether something that happens once in so many times does; never where nothing is left.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == times - 1
    }

    /// One of some.
    pub fn pick<'t, T>(&mut self, all: &'t [T]) -> &'t T {
        &all[self.below(all.len())]
    }

    /// A text: one of those that readers stumble over, a few characters, or a long one.
    pub fn text(&mut self) -> String {
        match self.byte() % 8 {
            0..4 => (*self.pick(&TEXTS)).to_owned(),
            4 => "long ".repeat(self.below(120)),
            5 => format!("{}{}", self.pick(&TEXTS), self.pick(&TEXTS)),
            _ => {
                let count = self.below(12);
                let mut text = String::new();
                for _ in 0..count {
                    text.push(char::from(b' ' + self.byte() % 95));
                }
                text
            }
        }
    }

    /// A number as JSON may write it, and now and then as it may not.
    pub fn number(&mut self) -> String {
        match self.byte() % 4 {
            0 => (*self.pick(&NUMBERS)).to_owned(),
            1 => f32::from_bits(self.word() as u32).to_string(),
            2 => format!("{:e}", f64::from_bits(self.word())),
            _ => {
                let (whole, part) = (self.word() as i16, self.word() >> (self.byte() % 64));
                format!("{whole}.{part}")
            }
        }
    }

    /// Reads `input` bytes with `read`, and fails where that holds more memory at once than the target allows for so many, or where it
    /// takes far more in all: what is bounded is work, not time.
    pub fn bounded<T>(&mut self, input: usize, read: impl FnOnce() -> T) -> T {
        let mut result = None;
        let used = allocation_counter::measure(|| {
            result = Some(catch_unwind(AssertUnwindSafe(read)));
        });
        let result = match result {
            Some(Ok(result)) => result,
            Some(Err(panic)) => resume_unwind(panic),
            None => unreachable!("it was measured"),
        };
        let (peak, total) = (used.bytes_max as usize, used.bytes_total as usize);
        self.peak = self.peak.max(peak);
        let allowed = self.memory.0 + self.memory.1 * input;
        assert!(
            peak <= allowed,
            "held {peak} bytes at once for {input} bytes of input, {allowed} are allowed"
        );
        assert!(
            total <= allowed * 16,
            "took {total} bytes in all for {input} bytes of input, {} are allowed",
            allowed * 16
        );
        self.mix(&(64 - used.count_total.leading_zeros()).to_le_bytes());
        result
    }

    /// Says what became of the case: with it, an input is like others or the first of its kind. Numbers don't count.
    pub fn saw(&mut self, what: &str) {
        let mut shape = Vec::with_capacity(what.len());
        for byte in what.bytes().take(256) {
            let byte = if byte.is_ascii_digit() { b'0' } else { byte };
            if byte != b'0' || shape.last() != Some(&b'0') {
                shape.push(byte);
            }
        }
        self.mix(&shape);
    }

    /// The same of a refusal, whose text must be fit to be shown: neither empty nor long, without control characters.
    pub fn refused(&mut self, why: &str) {
        assert!(!why.is_empty(), "refused without a reason");
        let bytes = why.len();
        assert!(
            bytes <= MAX_REFUSAL_BYTES,
            "a refusal of {bytes} bytes: {}",
            why.chars().take(200).collect::<String>()
        );
        assert!(
            !why.chars().any(char::is_control),
            "a refusal with control characters: {why:?}"
        );
        self.saw(why);
    }

    fn mix(&mut self, bytes: &[u8]) {
        self.shape = hash(self.shape.rotate_left(7), bytes);
    }

    /// The hash of all that was said, and the bytes that were held at once.
    pub(crate) fn outcome(&self) -> (u64, usize) {
        (self.shape, self.peak)
    }
}
