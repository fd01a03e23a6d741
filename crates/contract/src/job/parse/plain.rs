//! The quick pass over the bodies that nearly all producers send: objects of known fields, texts without escapes, numbers of the usual
//! lengths. It costs about a third of the general pass.
//!
//! Promises that what it reads is what the general pass reads. Refuses to judge: a body that it doesn't know is left to that pass,
//! with nothing said about it.

use super::{
    Inputs, RawJob,
    digits::{
        HIGH, MAX_DIGITS, ONES, POWERS, WHOLE_POWERS, add_up, count_digits, signed, small_float,
    },
    values::model_problem,
};
use crate::{
    job::{
        Content, Input, MAX_INPUTS, MAX_TTL_SECONDS, OnError, Rank, callback_url_problem,
        fields::{Field, InputField, JobField, RankField},
        key_problem,
    },
    name,
    order::{AsOf, MAX_SEQUENCE},
};
use std::borrow::Cow;

/// Inputs for which there is room before the body says how many there are.
const ROOM_INPUTS: usize = 8;
/// About how many bytes of a body one number takes.
const BYTES_PER_NUMBER: usize = 7;
/// Numbers for which there is room at most before they are there.
const MAX_ROOM: usize = 4096;

/// Bytes that a number of the usual look is looked for in.
const WINDOW: usize = 12;

/// Reads a body; nothing where the general pass is to read it.
pub(super) fn job(body: &[u8]) -> Option<RawJob<'_>> {
    let mut reader = Reader { body, at: 0 };
    let job = reader.job()?;
    reader.skip_space();
    (reader.at == body.len()).then_some(job)
}

struct Reader<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    #[inline]
    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    /// The next eight bytes; zeros beyond the end.
    #[inline]
    fn word(&self) -> u64 {
        let rest = self.body.get(self.at..).unwrap_or_default();
        if let Some(word) = rest.first_chunk() {
            return u64::from_le_bytes(*word);
        }
        let mut word = [0; 8];
        word.iter_mut()
            .zip(rest)
            .for_each(|(slot, byte)| *slot = *byte);
        u64::from_le_bytes(word)
    }

    #[inline]
    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    /// Whether this byte comes next, which is then behind.
    #[inline]
    fn passes(&mut self, byte: u8) -> bool {
        self.skip_space();
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Option<()> {
        self.passes(byte).then_some(())
    }

    /// The name of the next field of an object whose fields so far are `seen`; `Some(None)` at its end.
    #[inline]
    fn field<F: Field>(&mut self, seen: &mut u32) -> Option<Option<F>> {
        if self.passes(b'}') {
            return Some(None);
        }
        if *seen != 0 {
            self.expect(b',')?;
        }
        let field = F::find(self.string()?)?;
        if *seen & field.bit() != 0 {
            return None;
        }
        *seen |= field.bit();
        self.expect(b':')?;
        Some(Some(field))
    }

    fn job(&mut self) -> Option<RawJob<'a>> {
        let mut job = RawJob::default();
        let mut seen = 0;
        self.expect(b'{')?;
        while let Some(field) = self.field(&mut seen)? {
            match field {
                JobField::JobId => job.job_id = Some(self.checked(|_| true)?),
                JobField::Model => {
                    job.model = Some(self.checked(|text| model_problem(text).is_none())?);
                }
                JobField::Namespace => job.namespace = Some(self.checked(name::is_name)?),
                JobField::Inputs => job.inputs = Some(self.inputs()?),
                JobField::Named => job.named = self.truth()?,
                JobField::Rank => job.rank = Some(self.rank()?),
                JobField::TtlSeconds => job.ttl_seconds = Some(self.whole(MAX_TTL_SECONDS)?),
                JobField::OnError => job.on_error = OnError::find(self.string()?)?,
                JobField::Detail => job.detail = self.truth()?,
                JobField::AsOf => job.as_of = Some(self.as_of()?),
                JobField::CallbackUrl => {
                    let url = self.checked(|url| callback_url_problem(url).is_none())?;
                    job.callback_url = Some(url);
                }
            }
        }
        Some(job)
    }

    fn as_of(&mut self) -> Option<AsOf<'a>> {
        self.skip_space();
        if self.peek() == Some(b'"') {
            AsOf::moment(self.string()?)
        } else {
            self.whole(MAX_SEQUENCE).and_then(AsOf::sequence)
        }
    }

    fn rank(&mut self) -> Option<Rank<'a>> {
        let (mut key, mut top) = (None, None);
        let mut seen = 0;
        self.expect(b'{')?;
        while let Some(field) = self.field(&mut seen)? {
            match field {
                RankField::Key => key = Some(self.key()?),
                RankField::Top => top = Some(self.whole(MAX_INPUTS as u64)? as usize),
            }
        }
        Some(Rank { key: key?, top })
    }

    fn inputs(&mut self) -> Option<Inputs<'a>> {
        let left = self.body.len().saturating_sub(self.at);
        let mut inputs = Inputs {
            list: Vec::with_capacity(ROOM_INPUTS),
            features: Vec::new(),
        };
        self.expect(b'[')?;
        loop {
            let input = self.input(&mut inputs.features, left)?;
            inputs.list.push(input);
            if inputs.list.len() > MAX_INPUTS {
                return None;
            }
            if !self.passes(b',') {
                break;
            }
        }
        self.expect(b']')?;
        Some(inputs)
    }

    fn input(&mut self, features: &mut Vec<f32>, left: usize) -> Option<Input<'a>> {
        let (mut key, mut text, mut pair, mut range) = (None, None, None, None);
        let mut remove = false;
        let mut seen = 0;
        self.expect(b'{')?;
        while let Some(field) = self.field(&mut seen)? {
            match field {
                InputField::Key => key = Some(self.key()?),
                InputField::Text => text = Some(self.checked(|_| true)?),
                InputField::TextPair => pair = Some(self.checked(|_| true)?),
                InputField::Features => {
                    if features.capacity() == 0 {
                        features.reserve((left / BYTES_PER_NUMBER).min(MAX_ROOM));
                    }
                    let from = features.len();
                    self.features(features)?;
                    range = Some(from..features.len());
                }
                InputField::Remove => remove = self.truth()?,
            }
        }
        let content = match (text, pair, range) {
            (None, None, None) if remove && key.is_some() => Content::Removal,
            _ if remove => return None,
            (Some(text), pair, None) => Content::Text { text, pair },
            (None, None, Some(range)) => Content::Features(range),
            _ => return None,
        };
        Some(Input { key, content })
    }

    fn features(&mut self, features: &mut Vec<f32>) -> Option<()> {
        self.expect(b'[')?;
        if self.passes(b']') {
            return Some(());
        }
        loop {
            self.usual_numbers(features);
            self.skip_space();
            features.push(self.number_or_null()?);
            if !self.passes(b',') {
                return self.expect(b']');
            }
            self.skip_space();
        }
    }

    /// Numbers that look as most do, each with the comma behind it: as far as they go.
    #[inline]
    fn usual_numbers(&mut self, features: &mut Vec<f32>) {
        let mut rest = self.body.get(self.at..).unwrap_or_default();
        while let Some(window) = rest.first_chunk()
            && let Some((value, length)) = usual_number(window)
            && let Some(after) = rest.get(length..)
        {
            features.push(value);
            rest = after;
        }
        self.at = self.body.len() - rest.len();
    }

    fn number_or_null(&mut self) -> Option<f32> {
        let rest = self.body.get(self.at..)?;
        if !rest.starts_with(b"null") {
            return self.number();
        }
        self.at += 4;
        Some(f32::NAN)
    }

    fn truth(&mut self) -> Option<bool> {
        self.skip_space();
        let rest = self.body.get(self.at..)?;
        let (value, length) = if rest.starts_with(b"true") {
            (true, 4)
        } else if rest.starts_with(b"false") {
            (false, 5)
        } else {
            return None;
        };
        self.at += length;
        Some(value)
    }

    fn key(&mut self) -> Option<Cow<'a, str>> {
        self.checked(|key| key_problem(key).is_none())
    }

    #[inline]
    fn checked(&mut self, is_good: impl Fn(&str) -> bool) -> Option<Cow<'a, str>> {
        let text = self.string()?;
        is_good(text).then_some(Cow::Borrowed(text))
    }

    /// A text without escapes or control characters.
    #[inline]
    fn string(&mut self) -> Option<&'a str> {
        self.expect(b'"')?;
        let from = self.at;
        loop {
            // Zeros beyond the end count as control characters.
            let word = self.word();
            let is_zero = |x: u64| x.wrapping_sub(ONES) & !x & HIGH;
            let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
            let ends = is_zero(word ^ (ONES * 0x22)) | is_zero(word ^ (ONES * 0x5c)) | control;
            if ends == 0 {
                self.at += 8;
                continue;
            }
            self.at += ends.trailing_zeros() as usize / 8;
            if self.peek() != Some(b'"') {
                return None;
            }
            let text = self.body.get(from..self.at)?;
            self.at += 1;
            return std::str::from_utf8(text).ok();
        }
    }

    /// A whole number from 1 on.
    fn whole(&mut self, max: u64) -> Option<u64> {
        self.skip_space();
        let (value, digits) = self.digits(0, 0)?;
        let is_plain = digits > 0 && !matches!(self.peek(), Some(b'.' | b'e' | b'E'));
        let has_zero = digits > 1 && value < *WHOLE_POWERS.get(digits - 1)?;
        (is_plain && !has_zero && (1..=max).contains(&value)).then_some(value)
    }

    /// A number as a 32-bit float, as the general pass rounds it: to a 64-bit float first, unless it is whole.
    fn number(&mut self) -> Option<f32> {
        let is_negative = self.peek() == Some(b'-');
        self.at += usize::from(is_negative);
        let starts_with_zero = self.peek() == Some(b'0');
        let (whole, count) = self.digits(0, 0)?;
        if count == 0 || (starts_with_zero && count > 1) {
            return None;
        }
        let (mut significand, mut exponent, mut is_whole) = (whole, 0, true);
        if self.peek() == Some(b'.') {
            self.at += 1;
            let (value, all) = self.digits(whole, count)?;
            if all == count {
                return None;
            }
            (significand, exponent, is_whole) = (value, count as i32 - all as i32, false);
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            let is_below = self.peek() == Some(b'-');
            self.at += usize::from(is_below || self.peek() == Some(b'+'));
            let (power, digits) = self.digits(0, 0)?;
            if digits == 0 || power > 64 {
                return None;
            }
            exponent += if is_below {
                -(power as i32)
            } else {
                power as i32
            };
            is_whole = false;
        }
        let narrow = if is_whole {
            significand as f32
        } else {
            let power = *POWERS.get(exponent.unsigned_abs() as usize)?;
            let wide = significand as f64;
            (if exponent < 0 {
                wide / power
            } else {
                wide * power
            }) as f32
        };
        narrow.is_finite().then(|| signed(narrow, is_negative))
    }

    /// Adds the digits that come next behind the `count` digits of `value`; nothing where they are too many together.
    #[inline]
    fn digits(&mut self, mut value: u64, mut count: usize) -> Option<(u64, usize)> {
        loop {
            let word = self.word() ^ (ONES * 0x30);
            let here = count_digits(word);
            count += here;
            if count > MAX_DIGITS {
                return None;
            }
            if here > 0 {
                value = value * WHOLE_POWERS.get(here)? + add_up(word, here);
                self.at += here;
            }
            if here < 8 {
                return Some((value, count));
            }
        }
    }
}

/// A number of one digit, a point and at most six decimals (five behind a sign), and the bytes that it takes with the comma and the space
/// behind it: eight bytes hold all that has to be looked at together.
#[inline]
fn usual_number(window: &[u8; WINDOW]) -> Option<(f32, usize)> {
    let word = u64::from_le_bytes(*window.first_chunk()?);
    let is_negative = word & 0xff == u64::from(b'-');
    let unsigned = word >> (8 * u32::from(is_negative));
    let first = (unsigned & 0xff) ^ 0x30;
    if first > 9 || unsigned >> 8 & 0xff != u64::from(b'.') {
        return None;
    }
    let decimals = (unsigned >> 16) ^ (ONES * 0x30);
    let count = count_digits(decimals) & 7;
    let comma = usize::from(is_negative) + 2 + count;
    if count == 0 || window.get(comma) != Some(&b',') {
        return None;
    }
    let significand = first * WHOLE_POWERS.get(count)? + add_up(decimals, count);
    let narrow = (small_float(significand) / POWERS.get(count)?) as f32;
    let is_space = window.get(comma + 1) == Some(&b' ');
    let length = comma + 1 + usize::from(is_space);
    Some((signed(narrow, is_negative), length))
}
