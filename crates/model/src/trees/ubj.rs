//! Universal Binary JSON, as far as XGBoost writes it: numbers of fixed size, texts, arrays (also typed ones) and objects.

use super::fault::Fault;
use super::pull::{MAX_NESTING, Pull};

/// What surrounds a value.
#[derive(Debug, Clone, Copy)]
enum Open {
    /// An object or an array that ends with a mark.
    Marked,
    /// An array of so many more elements, each with its type or all of this one.
    Counted(u64, Option<u8>),
}

/// A file that is read from its beginning.
pub(super) struct Ubj<'a> {
    bytes: &'a [u8],
    at: usize,
    open: Vec<Open>,
}

/// A number as it was written.
enum Number {
    Whole(i64),
    Float(f32),
    Double(f64),
}

impl<'a> Ubj<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            open: Vec::new(),
        }
    }

    fn wrong(&self, expected: &str) -> Fault {
        Fault::new("", format!("expected {expected} at byte {}", self.at))
    }

    fn peek(&self) -> Option<u8> {
        match self.open.last() {
            Some(Open::Counted(_, Some(mark))) => Some(*mark),
            _ => self.bytes.get(self.at).copied(),
        }
    }

    /// The mark before a value, unless all of its array have the same.
    fn mark(&mut self) -> Option<u8> {
        let mark = self.peek();
        if !matches!(self.open.last(), Some(Open::Counted(_, Some(_)))) {
            self.at += 1;
        }
        mark
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let bytes = self.bytes.get(self.at..).unwrap_or_default();
        let Some(bytes) = bytes.first_chunk::<N>() else {
            return Err(self.wrong("more bytes"));
        };
        self.at += N;
        Ok(*bytes)
    }

    fn number_after(&mut self, mark: Option<u8>) -> Result<Number, Fault> {
        Ok(match mark {
            Some(b'i') => Number::Whole(i8::from_be_bytes(self.fixed()?).into()),
            Some(b'U' | b'C') => Number::Whole(u8::from_be_bytes(self.fixed()?).into()),
            Some(b'I') => Number::Whole(i16::from_be_bytes(self.fixed()?).into()),
            Some(b'l') => Number::Whole(i32::from_be_bytes(self.fixed()?).into()),
            Some(b'L') => Number::Whole(i64::from_be_bytes(self.fixed()?)),
            Some(b'd') => Number::Float(f32::from_be_bytes(self.fixed()?)),
            Some(b'D') => Number::Double(f64::from_be_bytes(self.fixed()?)),
            Some(b'T') => Number::Whole(1),
            Some(b'F') => Number::Whole(0),
            _ => {
                self.at = self.at.saturating_sub(1);
                return Err(self.wrong("a number"));
            }
        })
    }

    fn number(&mut self) -> Result<Number, Fault> {
        let mark = self.mark();
        self.number_after(mark)
    }

    /// A number of bytes or elements, with its mark.
    fn length(&mut self) -> Result<u64, Fault> {
        let mark = self.bytes.get(self.at).copied();
        self.at += 1;
        match self.number_after(mark)? {
            Number::Whole(length) if length >= 0 => Ok(length as u64),
            _ => Err(self.wrong("a length")),
        }
    }

    fn bare_text(&mut self) -> Result<String, Fault> {
        let length = self.length()?;
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let text = usize::try_from(length).ok().and_then(|to| rest.get(..to));
        let Some(text) = text else {
            return Err(self.wrong("a text that the file holds"));
        };
        let owned = std::str::from_utf8(text).map(str::to_owned);
        let owned = owned.map_err(|_| self.wrong("a text of UTF-8"))?;
        self.at += text.len();
        Ok(owned)
    }

    fn enter(&mut self, open: Open) -> Result<(), Fault> {
        if self.open.len() >= MAX_NESTING {
            return Err(Fault::new("", format!("lies deeper than {MAX_NESTING}")));
        }
        self.open.push(open);
        Ok(())
    }

    /// Enters an array whose mark was read.
    fn enter_array(&mut self) -> Result<(), Fault> {
        let mut kind = None;
        if self.bytes.get(self.at) == Some(&b'$') {
            kind = self.bytes.get(self.at + 1).copied();
            // Elements without a byte of their own could be any number of them.
            if !matches!(kind, Some(b'i' | b'U' | b'I' | b'l' | b'L' | b'd' | b'D')) {
                return Err(self.wrong("an array of numbers"));
            }
            self.at += 2;
        }
        if self.bytes.get(self.at) == Some(&b'#') {
            self.at += 1;
            let count = self.length()?;
            return self.enter(Open::Counted(count, kind));
        }
        match kind {
            None => self.enter(Open::Marked),
            Some(_) => Err(self.wrong("the number of elements")),
        }
    }
}

impl Pull for Ubj<'_> {
    fn object(&mut self) -> Result<(), Fault> {
        if self.peek() != Some(b'{') {
            return Err(self.wrong("an object"));
        }
        self.mark();
        self.enter(Open::Marked)
    }

    fn key(&mut self) -> Result<Option<String>, Fault> {
        if self.bytes.get(self.at) == Some(&b'}') {
            self.at += 1;
            self.open.pop();
            return Ok(None);
        }
        self.bare_text().map(Some)
    }

    fn array(&mut self) -> Result<(), Fault> {
        if self.peek() != Some(b'[') {
            return Err(self.wrong("an array"));
        }
        self.mark();
        self.enter_array()
    }

    fn element(&mut self) -> Result<bool, Fault> {
        let goes_on = match self.open.last_mut() {
            Some(Open::Counted(left, _)) => {
                let goes_on = *left > 0;
                *left = left.saturating_sub(1);
                goes_on
            }
            _ if self.bytes.get(self.at) == Some(&b']') => {
                self.at += 1;
                false
            }
            _ => true,
        };
        if !goes_on {
            self.open.pop();
        }
        Ok(goes_on)
    }

    fn is_text(&mut self) -> bool {
        self.peek() == Some(b'S')
    }

    fn text(&mut self) -> Result<String, Fault> {
        if self.peek() != Some(b'S') {
            return Err(self.wrong("a text"));
        }
        self.mark();
        self.bare_text()
    }

    fn double(&mut self) -> Result<f64, Fault> {
        Ok(match self.number()? {
            Number::Whole(x) => x as f64,
            Number::Float(x) => x.into(),
            Number::Double(x) => x,
        })
    }

    fn float(&mut self) -> Result<f32, Fault> {
        Ok(match self.number()? {
            Number::Whole(x) => x as f32,
            Number::Float(x) => x,
            Number::Double(x) => x as f32,
        })
    }

    fn whole(&mut self) -> Result<i64, Fault> {
        match self.number()? {
            Number::Whole(x) => Ok(x),
            Number::Float(_) | Number::Double(_) => Err(self.wrong("a whole number")),
        }
    }

    fn skip(&mut self) -> Result<(), Fault> {
        // What is entered here, and whether it is an object.
        let mut entered: Vec<bool> = Vec::new();
        loop {
            match self.peek() {
                Some(b'{') => {
                    self.object()?;
                    entered.push(true);
                }
                Some(b'[') => {
                    self.array()?;
                    entered.push(false);
                }
                Some(b'S') => {
                    self.text()?;
                }
                Some(b'Z') => {
                    self.mark();
                }
                _ => {
                    self.number()?;
                }
            }
            // To the next value, out of all that ends before it.
            loop {
                let goes_on = match entered.last() {
                    None => return Ok(()),
                    Some(true) => self.key()?.is_some(),
                    Some(false) => self.element()?,
                };
                if goes_on {
                    break;
                }
                entered.pop();
            }
        }
    }

    fn end(&mut self) -> Result<(), Fault> {
        if self.at < self.bytes.len() {
            return Err(self.wrong("the end of the file"));
        }
        Ok(())
    }
}
