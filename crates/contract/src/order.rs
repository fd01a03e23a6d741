//! Owns how new a word on a reader's key is: what its producer says, or else the moment at which a worker first accepted the job.
//!
//! Promises that every order that is written can be read, in as many bytes whatever it says, so that a script in Redis finds it
//! at the end of an entry without parsing JSON. Words whose producers say how new they are, in the same way, compare by what they say,
//! and then by their acceptance; all others have nothing but their acceptance in common. Pure.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};
use std::borrow::Cow;

/// Largest sequence number.
pub const MAX_SEQUENCE: u64 = i64::MAX as u64;
/// Latest moment, in microseconds since 1970: in the year 2286, the last one of sixteen digits.
const MAX_MICROS: u64 = 9_999_999_999_999_999;
/// What was expected of an `as_of`.
pub const EXPECTED_AS_OF: &str =
    "expected an RFC 3339 time from 1970 to 2286, or a whole number from 0 to 9223372036854775807";

/// Digits of a value, and of a moment of acceptance.
const VALUE_DIGITS: usize = 19;
const ACCEPTED_DIGITS: usize = 16;
/// Characters of a written order: its kind, its value, a dash and its acceptance.
pub const ORDER_CHARS: usize = 1 + VALUE_DIGITS + 1 + ACCEPTED_DIGITS;
/// What stands before the order at the end of an entry's JSON, and what after it.
const BEFORE: &[u8] = b"\"order\":\"";
const AFTER: &[u8] = b"\"}";

/// A moment to the microsecond, from 1970 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(u64);

impl Moment {
    /// So many microseconds after 1970; what is out of range becomes the nearest moment in it.
    pub fn from_micros(micros: i64) -> Self {
        Self(u64::try_from(micros).unwrap_or_default().min(MAX_MICROS))
    }

    /// An instant, cut to its microseconds.
    pub fn of(at: DateTime<Utc>) -> Self {
        Self::from_micros(at.timestamp_micros())
    }

    /// Microseconds since 1970.
    pub fn micros(self) -> u64 {
        self.0
    }

    /// Reads RFC 3339; nothing where it is something else, or out of range.
    pub fn parse(text: &str) -> Option<Self> {
        let at = DateTime::parse_from_rfc3339(text).ok()?;
        let micros = u64::try_from(at.timestamp_micros()).ok()?;
        (micros <= MAX_MICROS).then_some(Self(micros))
    }

    /// In RFC 3339, in UTC with microseconds.
    pub fn rfc3339(self) -> String {
        let at = i64::try_from(self.0).ok();
        let at = at.and_then(DateTime::from_timestamp_micros);
        let at = at.unwrap_or_default();
        at.to_rfc3339_opts(SecondsFormat::Micros, true)
    }
}

/// Longest text of a moment: every entry of its job holds it. RFC 3339 lets a second have any number of digits.
const MAX_MOMENT_BYTES: usize = 40;

/// How new a job says that its word is, by its producer's clock or by a count of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AsOf<'a> {
    /// A row's version, or another number that only grows.
    Sequence(u64),
    /// A moment, and the text that gave it.
    Moment {
        /// The moment.
        at: Moment,
        /// As the producer wrote it.
        text: Cow<'a, str>,
    },
}

impl<'a> AsOf<'a> {
    /// A sequence number, where it is in range.
    pub fn sequence(number: u64) -> Option<Self> {
        (number <= MAX_SEQUENCE).then_some(Self::Sequence(number))
    }

    /// A moment in RFC 3339, where the text is one, of [`MAX_MOMENT_BYTES`] at most.
    pub fn moment(text: impl Into<Cow<'a, str>>) -> Option<Self> {
        let text = text.into();
        if text.len() > MAX_MOMENT_BYTES {
            return None;
        }
        let at = Moment::parse(&text)?;
        Some(Self::Moment { at, text })
    }

    /// Reads what a command line says: a number, or RFC 3339.
    pub fn parse(text: &'a str) -> Option<Self> {
        match text.parse() {
            Ok(number) => Self::sequence(number),
            Err(_) => Self::moment(text),
        }
    }

    /// The same with nothing borrowed.
    pub fn into_owned(self) -> AsOf<'static> {
        match self {
            Self::Sequence(number) => AsOf::Sequence(number),
            Self::Moment { at, text } => AsOf::Moment {
                at,
                text: Cow::Owned(text.into_owned()),
            },
        }
    }
}

impl Serialize for AsOf<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Sequence(number) => serializer.serialize_u64(*number),
            Self::Moment { text, .. } => serializer.serialize_str(text),
        }
    }
}

/// What an order's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A number that the producer gave.
    Sequence,
    /// Microseconds since 1970: given by the producer, or those of the acceptance.
    Moment,
}

impl Kind {
    fn letter(self) -> char {
        match self {
            Self::Sequence => 's',
            Self::Moment => 't',
        }
    }
}

/// How new a word is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    kind: Kind,
    value: u64,
    accepted: Moment,
}

impl Order {
    /// The order of a job that says `as_of`, or nothing, and was accepted then.
    pub fn new(as_of: Option<&AsOf<'_>>, accepted: Moment) -> Self {
        let (kind, value) = match as_of {
            Some(AsOf::Sequence(number)) => (Kind::Sequence, (*number).min(MAX_SEQUENCE)),
            Some(AsOf::Moment { at, .. }) => (Kind::Moment, at.micros()),
            None => (Kind::Moment, accepted.micros()),
        };
        Self {
            kind,
            value,
            accepted,
        }
    }

    /// What its value is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The sequence number, or microseconds since 1970.
    pub fn value(&self) -> u64 {
        self.value
    }

    /// When a worker first accepted its job.
    pub fn accepted(&self) -> Moment {
        self.accepted
    }

    /// Whether it says nothing but when it was accepted.
    pub fn is_plain(&self) -> bool {
        self.kind == Kind::Moment && self.value == self.accepted.micros()
    }

    /// Whether a word of this order is newer than one of another. Neither is newer than the other where both are the same word.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        if self.kind == other.kind && !self.is_plain() && !other.is_plain() {
            (self.value, self.accepted) > (other.value, other.accepted)
        } else {
            self.accepted > other.accepted
        }
    }

    /// The order that stands after a word of this one came to a key with the order `stands`; nothing where that is as new, or newer.
    /// What has no order is the oldest of all. A word that says nothing of itself continues what it replaces: whatever was older than
    /// that, as its producer says, stays older.
    pub fn over(&self, stands: Option<&Self>) -> Option<Self> {
        match stands {
            Some(stands) if !self.is_newer_than(stands) => None,
            Some(stands) if self.is_plain() && !stands.is_plain() => Some(Self {
                accepted: self.accepted,
                ..*stands
            }),
            _ => Some(*self),
        }
    }

    /// The same word, known to have been accepted by `moment` already.
    pub fn accepted_by(&self, moment: Moment) -> Self {
        let accepted = self.accepted.min(moment);
        let value = if self.is_plain() {
            accepted.micros()
        } else {
            self.value
        };
        Self {
            kind: self.kind,
            value,
            accepted,
        }
    }

    /// As it is written: [`ORDER_CHARS`] characters.
    pub fn encode(&self) -> String {
        let (letter, value, accepted) = (self.kind.letter(), self.value, self.accepted.micros());
        format!("{letter}{value:0VALUE_DIGITS$}-{accepted:0ACCEPTED_DIGITS$}")
    }

    /// Reads what [`Order::encode`] wrote.
    pub fn decode(text: &str) -> Option<Self> {
        let number = |digits: &str| -> Option<u64> {
            let all = digits.bytes().all(|b| b.is_ascii_digit());
            all.then(|| digits.parse().ok()).flatten()
        };
        if text.len() != ORDER_CHARS || !text.is_ascii() {
            return None;
        }
        let (kind, rest) = text.split_at_checked(1)?;
        let (value, accepted) = rest.split_once('-')?;
        let kind = match kind {
            "s" => Kind::Sequence,
            "t" => Kind::Moment,
            _ => return None,
        };
        if value.len() != VALUE_DIGITS {
            return None;
        }
        let value = number(value).filter(|value| *value <= MAX_SEQUENCE)?;
        let accepted = Moment(number(accepted)?);
        Some(Self {
            kind,
            value,
            accepted,
        })
    }

    /// The order at the end of what stands under a reader's key; nothing in an entry of a release that wrote none.
    pub fn of_entry(json: &[u8]) -> Option<Self> {
        let text = json.strip_suffix(AFTER)?;
        let (before, text) = text.split_at_checked(text.len().checked_sub(ORDER_CHARS)?)?;
        if !before.ends_with(BEFORE) {
            return None;
        }
        Self::decode(std::str::from_utf8(text).ok()?)
    }

    /// Writes another order over the one at the end of an entry.
    pub fn rewrite(json: &mut [u8], change: impl FnOnce(Self) -> Self) {
        let Some(order) = Self::of_entry(json) else {
            return;
        };
        let written = change(order).encode();
        let end = json.len() - AFTER.len();
        if let Some(text) = json.get_mut(end - ORDER_CHARS..end) {
            text.copy_from_slice(written.as_bytes());
        }
    }
}

impl Serialize for Order {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.encode())
    }
}

#[cfg(test)]
mod tests;
