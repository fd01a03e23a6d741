//! Owns which inputs go to a version that has a share of its model's inputs.
//!
//! Promises that it follows from the key (or else the input), the model's name and the share alone, so that it is the same everywhere
//! and every time; and that a larger share keeps what a smaller one had.

use crate::key::InputHash;
use sha2::{Digest, Sha256};
use std::fmt;

/// A whole, in the parts that a share is counted in.
const WHOLE: u32 = 1_000_000;
/// Digits of a share behind the point of a number from 0 to 1.
const DIGITS: usize = 6;
/// Tags that keep keys and inputs apart: the first byte that is hashed.
const KEY: &[u8] = b"k";
const INPUT: &[u8] = b"i";

/// What a share must look like.
pub const EXPECTED_SHARE: &str =
    "expected a percentage from 0% to 100%, such as 10%, or a number below 1, such as 0.1";

/// A share of a model's inputs, in whole millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Share(u32);

impl Share {
    /// No input.
    pub const NONE: Self = Self(0);
    /// Every input.
    pub const ALL: Self = Self(WHOLE);

    /// So many millionths; nothing of more than there are.
    pub fn from_millionths(millionths: i64) -> Option<Self> {
        let millionths = u32::try_from(millionths).ok()?;
        (millionths <= WHOLE).then_some(Self(millionths))
    }

    /// What `10%`, `12.5 %` or `0.1` say; nothing of what isn't from 0 to 100 %, or is finer than a millionth. A bare 1 could mean 1 % as
    /// well as all, and means neither.
    pub fn parse(text: &str) -> Option<Self> {
        match text.trim().strip_suffix('%') {
            Some(percentage) => Self::of_digits(percentage.trim_end(), DIGITS - 2),
            None => Self::of_digits(text.trim(), DIGITS).filter(|share| *share < Self::ALL),
        }
    }

    /// A number with at most so many digits behind its point, which there stand for millionths.
    fn of_digits(text: &str, behind: usize) -> Option<Self> {
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
        let is_short = (1..=3).contains(&whole.len()) && part.len() <= behind;
        if !is_short || !is_number(whole) || !is_number(part) || text.ends_with('.') {
            return None;
        }
        Self::from_millionths(format!("{whole}{part:0<behind$}").parse().ok()?)
    }

    /// In millionths.
    pub fn millionths(self) -> u32 {
        self.0
    }

    /// As a number from 0 to 1.
    pub fn ratio(self) -> f64 {
        f64::from(self.0) / f64::from(WHOLE)
    }

    /// Whether what stands there goes to the version that has this share.
    pub fn takes(self, point: Point) -> bool {
        let millionth = (u128::from(point.0) * u128::from(WHOLE)) >> u64::BITS;
        millionth < u128::from(self.0)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / 10_000, self.0 % 10_000);
        match part {
            0 => write!(f, "{whole} %"),
            _ => {
                let part = format!("{part:04}");
                write!(f, "{whole}.{} %", part.trim_end_matches('0'))
            }
        }
    }
}

/// Where an input of a model stands among all, evenly spread: the first eight bytes, the highest first, of a SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point(u64);

impl Point {
    /// Of a key: of `k`, the model's name, a zero byte and the key.
    pub fn of_key(model: &str, key: &str) -> Self {
        Self::hash(KEY, model, key.as_bytes())
    }

    /// Of an input without one: of `i`, the model's name, a zero byte and the hash of the input.
    pub fn of_input(model: &str, input: &InputHash) -> Self {
        Self::hash(INPUT, model, input)
    }

    /// Of an input of a job: by the key of its job's ranking, whose scores are to compare, or else its own, or else by itself.
    pub fn of(
        model: &str,
        rank: Option<&str>,
        key: Option<&str>,
        input: impl FnOnce() -> InputHash,
    ) -> Self {
        match rank.or(key) {
            Some(key) => Self::of_key(model, key),
            None => Self::of_input(model, &input()),
        }
    }

    fn hash(tag: &[u8], model: &str, what: &[u8]) -> Self {
        let hash = Sha256::new_with_prefix(tag)
            .chain_update(model)
            .chain_update([0])
            .chain_update(what)
            .finalize();
        let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(hash);
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::hash_text;
    use proptest::prelude::*;

    fn share(text: &str) -> Share {
        Share::parse(text).unwrap()
    }

    #[test]
    fn a_share_is_read_exactly_or_not_at_all() {
        let is = |text: &str, millionths: u32, shown: &str| {
            let share = Share::parse(text).unwrap();
            assert_eq!(
                (share.millionths(), share.to_string().as_str()),
                (millionths, shown),
                "{text}"
            );
        };
        is("10%", 100_000, "10 %");
        is(" 0.1 ", 100_000, "10 %");
        is("12.5 %", 125_000, "12.5 %");
        is("0.000001", 1, "0.0001 %");
        is("0%", 0, "0 %");
        is("0", 0, "0 %");
        is("100%", 1_000_000, "100 %");
        is("99.9999%", 999_999, "99.9999 %");
        for text in [
            "",
            "%",
            "1",
            "1.0",
            "10",
            "100.1%",
            "101%",
            "-1%",
            "+1%",
            "1e-1",
            "0.0000001",
            "0.00001%",
            "nan",
            ".5",
            "5.%",
            "0.",
            "10%%",
            "1_0%",
            "１０%",
            "99999999999999999999%",
        ] {
            assert_eq!(Share::parse(text), None, "{text:?}");
        }
        assert_eq!(Share::from_millionths(-1), None);
        assert_eq!(Share::from_millionths(1_000_001), None);
    }

    /// What other programs reckon as well.
    #[test]
    fn a_point_is_the_beginning_of_a_plain_sha256() {
        let bytes = |point: Point| point.0.to_be_bytes();
        let of = |text: &[u8]| <[u8; 32]>::from(Sha256::digest(text));
        assert_eq!(
            bytes(Point::of_key("ranker", "item:7")),
            of(b"kranker\0item:7")[..8]
        );
        let input = hash_text("I love this!", None);
        let text = [b"isentiment\0".as_slice(), &input].concat();
        assert_eq!(bytes(Point::of_input("sentiment", &input)), of(&text)[..8]);
        let fixed = ["a", "b", "item:7", "review:42", ""].map(|key| Point::of_key("ranker", key).0);
        assert_eq!(fixed, FIXED);
    }

    const FIXED: [u64; 5] = [
        11_583_425_098_220_797_032,
        18_186_217_081_780_345_261,
        8_504_470_777_680_658_108,
        6_621_193_604_129_178_799,
        17_736_944_396_011_007_779,
    ];

    #[test]
    fn a_share_begins_with_the_first_point_and_ends_before_the_next_millionth() {
        let second = Point((u64::MAX / 1_000_000) + 1);
        let one = Share::from_millionths(1).unwrap();
        assert!(!Share::NONE.takes(Point(0)));
        assert!(one.takes(Point(0)) && !one.takes(second));
        assert!(Share::ALL.takes(Point(u64::MAX)));
        assert_eq!((share("12.5%").ratio(), Share::ALL.ratio()), (0.125, 1.0));
    }

    #[test]
    fn a_share_of_the_keys_is_near_the_share() {
        for (text, low, high) in [("10%", 9_700, 10_300), ("50%", 49_500, 50_500)] {
            let keys = (0..100_000).map(|n| Point::of_key("ranker", &format!("item:{n}")));
            let taken = keys.filter(|point| share(text).takes(*point)).count();
            assert!((low..=high).contains(&taken), "{text}: {taken}");
        }
        let keys = || (0..1_000).map(|n| Point::of_key("ranker", &n.to_string()));
        assert!(keys().all(|point| Share::ALL.takes(point)));
        assert!(!keys().any(|point| Share::NONE.takes(point)));
        // Who is among the first of one model isn't of another.
        let both = keys().zip((0..1_000).map(|n| Point::of_key("other", &n.to_string())));
        let both = both.filter(|(a, b)| share("10%").takes(*a) && share("10%").takes(*b));
        assert!(both.count() < 40);
    }

    #[test]
    fn a_ranking_goes_before_a_key_and_a_key_before_the_input() {
        let hash = || hash_text("x", None);
        let of = |rank, key| Point::of("m", rank, key, hash);
        assert_eq!(of(Some("page"), Some("a")), Point::of_key("m", "page"));
        assert_eq!(of(None, Some("a")), Point::of_key("m", "a"));
        assert_eq!(of(None, None), Point::of_input("m", &hash()));
        assert_ne!(Point::of_key("m", "a"), Point::of_key("ma", ""));
    }

    proptest! {
        #[test]
        fn a_larger_share_keeps_what_a_smaller_one_had(key in "\\PC{0,40}", a in 0u32..=1_000_000, b in 0u32..=1_000_000) {
            let (small, large) = (Share(a.min(b)), Share(a.max(b)));
            let point = Point::of_key("m", &key);
            prop_assert!(!small.takes(point) || large.takes(point));
            prop_assert_eq!(Share::parse(&small.to_string()), Some(small));
        }
    }
}
