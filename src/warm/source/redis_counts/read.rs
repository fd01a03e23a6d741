//! Reads a sorted set from the top, or a stream from its end.

use super::Counted;
use crate::cache::KeyReader;
use redis::Value;
use std::collections::{HashMap, HashSet};

/// Members or entries of one answer before it is known how large they are, and then at the utmost.
const FIRST_PAGE: usize = 8;
const MAX_PAGE: usize = 250;
/// Bytes of one answer if nothing in it is larger than what came before.
const PAGE_BYTES: usize = 4 << 20;
/// Bytes of the distinct members that are read. Further ones of a stream aren't counted.
const MAX_DISTINCT_BYTES: usize = 64 << 20;
/// What a distinct member takes besides its bytes.
const OVERHEAD_BYTES: usize = 64;

const STRANGE: &str = "an answer that isn't one to the question";

/// How many members or entries to ask for at once.
#[derive(Default)]
struct Pages {
    read: usize,
    /// Bytes of the largest one, with all that comes with it.
    largest: usize,
}

impl Pages {
    /// Twice as many as ever at the utmost, since those that follow may be larger.
    fn next(&self) -> usize {
        match self.read {
            0 => FIRST_PAGE,
            read => {
                (PAGE_BYTES / self.largest.max(1)).clamp(1, MAX_PAGE.min(read.saturating_mul(2)))
            }
        }
    }

    fn take(&mut self, bytes: usize) {
        self.read += 1;
        self.largest = self.largest.max(bytes);
    }
}

/// The members of the highest scores. One that moves while pages are read is taken once.
pub(super) async fn sorted_set(
    mut reader: KeyReader,
    key: &str,
    top: usize,
    per_seconds: f64,
) -> Result<Vec<Counted>, String> {
    let mut all: Vec<Counted> = Vec::new();
    let mut seen = HashSet::new();
    let (mut first, mut bytes, mut pages) = (0, 0, Pages::default());
    while first < top {
        let wanted = pages.next().min(top - first);
        let mut ask = redis::cmd("ZREVRANGE");
        ask.arg(key)
            .arg(first)
            .arg(first + wanted - 1)
            .arg("WITHSCORES");
        let pairs = pairs(reader.ask(&ask).await?)?;
        let found = pairs.len();
        for (member, score) in pairs {
            let score = number(&score).filter(|score| score.is_finite() && *score >= 0.0);
            pages.take(member.len());
            if seen.insert(member.clone()) {
                bytes += member.len() + OVERHEAD_BYTES;
                let rate = score.map(|score| score / per_seconds);
                all.push(Counted { member, rate });
            }
        }
        if bytes > MAX_DISTINCT_BYTES {
            return Err("its members take more than 64 MiB; lower `top`".to_owned());
        }
        first += wanted;
        if found < wanted {
            break;
        }
    }
    Ok(all)
}

/// How a stream's entries are counted.
pub(super) struct Counting<'a> {
    pub field: &'a [u8],
    pub window_seconds: u64,
    pub limit_entries: usize,
    pub top: usize,
}

/// The members that occur in the latest entries the oftenest. Where there are more entries in the window than are read, the window is
/// as long as those.
pub(super) async fn stream(
    mut reader: KeyReader,
    key: &str,
    counting: &Counting<'_>,
) -> Result<Vec<Counted>, String> {
    let now_ms = clock_ms(&mut reader).await?;
    let start_ms = now_ms.saturating_sub(counting.window_seconds.saturating_mul(1_000));
    let mut counts = Counts::default();
    let mut end = "+".to_owned();
    let (mut pages, mut oldest_ms) = (Pages::default(), start_ms);
    loop {
        let rest = counting.limit_entries.saturating_sub(pages.read);
        let wanted = pages.next().min(rest);
        if wanted == 0 {
            // The rest of the window isn't counted.
            break;
        }
        let mut ask = redis::cmd("XREVRANGE");
        ask.arg(key)
            .arg(&end)
            .arg(start_ms)
            .arg("COUNT")
            .arg(wanted);
        let entries = array(reader.ask(&ask).await?)?;
        let found = entries.len();
        for entry in entries {
            let (id, fields) = entry_parts(entry)?;
            oldest_ms = milliseconds(&id).unwrap_or(oldest_ms);
            end = format!("({id}");
            let sizes = fields.iter().map(|(name, value)| name.len() + value.len());
            pages.take(sizes.sum());
            let member = fields.into_iter().find(|(name, _)| name == counting.field);
            if let Some((_, member)) = member {
                counts.add(member);
            }
        }
        if found < wanted {
            oldest_ms = start_ms;
            break;
        }
    }
    let seconds = (now_ms.saturating_sub(oldest_ms) as f64 / 1e3).max(1.0);
    Ok(counts.top(counting.top, seconds))
}

/// How often each member occurred, and when it was met first.
#[derive(Default)]
struct Counts {
    by_member: HashMap<Vec<u8>, (u64, usize)>,
    bytes: usize,
}

impl Counts {
    fn add(&mut self, member: Vec<u8>) {
        if let Some((count, _)) = self.by_member.get_mut(&member) {
            *count += 1;
            return;
        }
        let bytes = self.bytes + member.len() + OVERHEAD_BYTES;
        if bytes <= MAX_DISTINCT_BYTES {
            self.bytes = bytes;
            let number = self.by_member.len();
            self.by_member.insert(member, (1, number));
        }
    }

    fn top(self, top: usize, seconds: f64) -> Vec<Counted> {
        let mut all: Vec<_> = self.by_member.into_iter().collect();
        all.sort_by_key(|(_, (count, number))| (std::cmp::Reverse(*count), *number));
        all.truncate(top);
        let counted = all.into_iter().map(|(member, (count, _))| Counted {
            member,
            rate: Some(count as f64 / seconds),
        });
        counted.collect()
    }
}

/// The server's clock, in milliseconds since 1970.
async fn clock_ms(reader: &mut KeyReader) -> Result<u64, String> {
    let answer = array(reader.ask(&redis::cmd("TIME")).await?)?;
    let parts: Option<Vec<u64>> = answer.iter().map(whole).collect();
    match parts.as_deref() {
        Some([seconds, micros]) => Ok(seconds.saturating_mul(1_000).saturating_add(micros / 1_000)),
        _ => Err(STRANGE.to_owned()),
    }
}

fn array(value: Value) -> Result<Vec<Value>, String> {
    match value {
        Value::Array(values) => Ok(values),
        Value::Nil => Ok(Vec::new()),
        _ => Err(STRANGE.to_owned()),
    }
}

fn bytes(value: Value) -> Result<Vec<u8>, String> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        Value::SimpleString(text) => Ok(text.into_bytes()),
        Value::Double(number) => Ok(number.to_string().into_bytes()),
        Value::Int(number) => Ok(number.to_string().into_bytes()),
        _ => Err(STRANGE.to_owned()),
    }
}

/// Members with their scores, or fields with their values.
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Two by two, whether the answer nests them or not.
fn pairs(value: Value) -> Result<Pairs, String> {
    let mut pairs = Vec::new();
    let mut values = array(value)?.into_iter();
    while let Some(first) = values.next() {
        let (one, other) = match first {
            Value::Array(both) => match <[Value; 2]>::try_from(both) {
                Ok([one, other]) => (one, other),
                Err(_) => return Err(STRANGE.to_owned()),
            },
            one => (one, values.next().ok_or_else(|| STRANGE.to_owned())?),
        };
        pairs.push((bytes(one)?, bytes(other)?));
    }
    Ok(pairs)
}

fn entry_parts(entry: Value) -> Result<(String, Pairs), String> {
    match <[Value; 2]>::try_from(array(entry)?) {
        Ok([id, fields]) => {
            let id = String::from_utf8(bytes(id)?).map_err(|_| STRANGE.to_owned())?;
            Ok((id, pairs(fields)?))
        }
        Err(_) => Err(STRANGE.to_owned()),
    }
}

fn milliseconds(id: &str) -> Option<u64> {
    id.split('-').next()?.parse().ok()
}

fn number(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        Value::BulkString(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn what_occurs_oftenest_comes_first_and_the_first_met_before_its_equals() {
        let mut counts = Counts::default();
        for member in ["b", "a", "c", "a", "d", "d"] {
            counts.add(member.into());
        }
        let top = counts.top(3, 2.0);
        let shown: Vec<_> = top
            .iter()
            .map(|one| (one.member.as_slice(), one.rate))
            .collect();
        let expected: [(&[u8], _); 3] = [(b"a", Some(1.0)), (b"d", Some(1.0)), (b"b", Some(0.5))];
        assert_eq!(shown, expected);
    }

    #[test]
    fn distinct_members_are_counted_as_far_as_there_is_room() {
        let mut counts = Counts::default();
        let large = |letter: u8| vec![letter; MAX_DISTINCT_BYTES / 2];
        counts.add(large(b'a'));
        counts.add(large(b'b'));
        counts.add(b"c".to_vec());
        counts.add(large(b'a'));
        let top = counts.top(9, 1.0);
        let rates: Vec<_> = top.iter().map(|one| (one.member.len(), one.rate)).collect();
        assert_eq!(rates, [(MAX_DISTINCT_BYTES / 2, Some(2.0)), (1, Some(1.0))]);
    }

    #[test]
    fn an_answer_is_as_long_as_what_came_before_lets_it_be() {
        let mut pages = Pages::default();
        assert_eq!(pages.next(), FIRST_PAGE);
        (0..8).for_each(|_| pages.take(100));
        assert_eq!(pages.next(), 16);
        (0..500).for_each(|_| pages.take(100));
        assert_eq!(pages.next(), MAX_PAGE);
        pages.take(PAGE_BYTES / 10);
        assert_eq!(pages.next(), 10);
        pages.take(5 << 20);
        assert_eq!(pages.next(), 1);
    }

    #[test]
    fn an_answer_of_another_shape_is_refused() {
        let flat = Value::Array(vec![bulk("a"), bulk("1.5")]);
        let nested = Value::Array(vec![Value::Array(vec![bulk("a"), Value::Double(1.5)])]);
        let expected = vec![(b"a".to_vec(), b"1.5".to_vec())];
        assert_eq!(pairs(flat), Ok(expected.clone()));
        assert_eq!(pairs(nested), Ok(expected));
        for strange in [
            Value::Int(3),
            Value::Array(vec![bulk("a")]),
            Value::Array(vec![Value::Array(vec![])]),
            Value::Array(vec![bulk("a"), Value::Nil]),
        ] {
            assert!(pairs(strange.clone()).is_err(), "{strange:?}");
            assert!(entry_parts(Value::Int(1)).is_err());
        }
        assert_eq!(milliseconds("17-3"), Some(17));
        assert_eq!(number(b"inf"), Some(f64::INFINITY));
    }
}
