//! Owns making the broker's frames readable for the client library, whatever producers wrote into their properties.
//!
//! A broker passes short texts on as it got them, and tables as deep as they came. The client library gives its whole connection up over
//! a short text that isn't UTF-8, and its stack overflows on a deep table: one message would end every worker that it is delivered to.
//!
//! Pure. Promises that a frame keeps its length, that each byte which isn't part of a UTF-8 text becomes [`SUBSTITUTE`], and that a table
//! or array beyond [`DEPTH`] becomes a string of bytes. What has no such fault isn't touched; neither is what can't be read at all.

mod stream;

pub(super) use stream::{Silence, connect};

/// Stands for a byte that isn't part of a text: the control character that is there for that.
pub const SUBSTITUTE: char = '\u{1a}';
/// Tables and arrays within each other that are kept.
const DEPTH: usize = 32;
/// Properties that a content header may have.
const PROPERTIES: u16 = 14;

/// The frames of methods and of content headers, which hold short texts and tables.
const METHOD: u8 = 1;
const HEADER: u8 = 2;
/// Bytes before a frame's payload: its kind, channel and length.
const FRAME_HEAD: usize = 7;
/// Bytes of a frame around its payload.
const FRAME_AROUND: usize = FRAME_HEAD + 1;
/// The class whose methods carry what producers wrote, and those methods.
const BASIC: u16 = 60;
const RETURN: u16 = 50;
const DELIVER: u16 = 60;
const GET_OK: u16 = 71;

/// What becomes of the bytes from a frame's beginning on.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// A frame of so many bytes, which is to be here as a whole.
    Whole(usize),
    /// A frame of so many bytes, which may pass in pieces.
    Passing(usize),
}

/// What kind of frame begins here; nothing where that can't be seen yet.
fn part(bytes: &[u8]) -> Option<Part> {
    let [kind, _, _, a, b, c, d] = *bytes.first_chunk::<FRAME_HEAD>()?;
    let bytes = u32::from_be_bytes([a, b, c, d]) as usize + FRAME_AROUND;
    Some(match kind {
        METHOD | HEADER => Part::Whole(bytes),
        _ => Part::Passing(bytes),
    })
}

/// Makes a whole frame readable.
fn screen(frame: &mut [u8]) {
    let kind = frame.first().copied();
    let end = frame.len().saturating_sub(1);
    let Some(rest) = frame.get_mut(FRAME_HEAD..end) else {
        return;
    };
    let payload = Payload { rest };
    let _unreadable_stays_as_it_is = match kind {
        Some(HEADER) => payload.content_header(),
        Some(METHOD) => payload.method(),
        _ => None,
    };
}

/// What is left to read of a frame's payload, or of a table in it.
struct Payload<'a> {
    rest: &'a mut [u8],
}

impl<'a> Payload<'a> {
    fn take(&mut self, count: usize) -> Option<&'a mut [u8]> {
        let (taken, rest) = std::mem::take(&mut self.rest).split_at_mut_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.take(count).map(|_| ())
    }

    fn byte(&mut self) -> Option<&'a mut u8> {
        self.take(1)?.first_mut()
    }

    fn number<const BYTES: usize>(&mut self) -> Option<[u8; BYTES]> {
        self.take(BYTES)?.first_chunk().copied()
    }

    /// The class, a weight, the body's size, and those properties of fourteen that a word of flags says are there.
    fn content_header(mut self) -> Option<()> {
        let class = u16::from_be_bytes(self.number()?);
        self.skip(10)?;
        if class != BASIC {
            return None;
        }
        let flags = u16::from_be_bytes(self.number()?);
        // The first one is the highest bit: content type and encoding, headers, delivery mode, priority, correlation id, reply to,
        // expiration, message id, timestamp, type, user, app, cluster.
        for property in 0..PROPERTIES {
            if flags & (1 << (15 - property)) == 0 {
                continue;
            }
            match property {
                2 => self.container()?.table(1)?,
                3 | 4 => self.skip(1)?,
                9 => self.skip(8)?,
                _ => self.short_text()?,
            }
        }
        Some(())
    }

    fn method(mut self) -> Option<()> {
        let class = u16::from_be_bytes(self.number()?);
        let method = u16::from_be_bytes(self.number()?);
        match (class, method) {
            // A consumer's tag, a delivery's tag and whether it came before; an exchange and a routing key.
            (BASIC, DELIVER) => {
                self.short_text()?;
                self.skip(9)?;
            }
            (BASIC, GET_OK) => self.skip(9)?,
            // A reply's code and text.
            (BASIC, RETURN) => {
                self.skip(2)?;
                self.short_text()?;
            }
            _ => return None,
        }
        self.short_text()?;
        self.short_text()
    }

    fn short_text(&mut self) -> Option<()> {
        let length = *self.byte()?;
        substitute(self.take(length.into())?);
        Some(())
    }

    /// What a length of four bytes stands before.
    fn container(&mut self) -> Option<Payload<'a>> {
        let length = u32::from_be_bytes(self.number()?);
        let rest = self.take(usize::try_from(length).ok()?)?;
        Some(Payload { rest })
    }

    fn skip_container(&mut self) -> Option<()> {
        self.container().map(|_| ())
    }

    /// Names, each with a value.
    fn table(mut self, depth: usize) -> Option<()> {
        while !self.rest.is_empty() {
            self.short_text()?;
            self.value(depth)?;
        }
        Some(())
    }

    fn array(mut self, depth: usize) -> Option<()> {
        while !self.rest.is_empty() {
            self.value(depth)?;
        }
        Some(())
    }

    /// A value under its type, as RabbitMQ knows them.
    fn value(&mut self, depth: usize) -> Option<()> {
        let kind = self.byte()?;
        match *kind {
            b'V' => {}
            b't' | b'b' | b'B' => self.skip(1)?,
            b's' | b'u' | b'U' => self.skip(2)?,
            b'i' | b'I' | b'f' => self.skip(4)?,
            b'D' => self.skip(5)?,
            b'l' | b'L' | b'd' | b'T' => self.skip(8)?,
            b'S' | b'x' => self.skip_container()?,
            b'F' | b'A' if depth == DEPTH => {
                *kind = b'x';
                self.skip_container()?;
            }
            b'F' => self.container()?.table(depth + 1)?,
            b'A' => self.container()?.array(depth + 1)?,
            _ => return None,
        }
        Some(())
    }
}

/// Puts [`SUBSTITUTE`] for each byte that isn't part of a UTF-8 text.
fn substitute(mut text: &mut [u8]) {
    while let Err(error) = std::str::from_utf8(text) {
        let wrong = text.get_mut(error.valid_up_to()..).unwrap_or_default();
        let length = error.error_len().unwrap_or(wrong.len());
        let Some((wrong, rest)) = wrong.split_at_mut_checked(length) else {
            return;
        };
        wrong.fill(SUBSTITUTE as u8);
        text = rest;
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
