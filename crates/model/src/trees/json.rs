//! JSON, with the numbers that XGBoost writes besides (`NaN`, `Infinity`).

use super::fault::Fault;
use super::pull::{MAX_NESTING, Pull};

/// A JSON text that is read from its beginning.
pub(super) struct Json<'a> {
    text: &'a str,
    at: usize,
    /// For each object and array around: whether nothing of it was read yet.
    open: Vec<bool>,
}

impl<'a> Json<'a> {
    pub fn new(bytes: &'a [u8]) -> Result<Self, Fault> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            Fault::new("", format!("is not UTF-8 at byte {}", error.valid_up_to()))
        })?;
        Ok(Self {
            text,
            at: 0,
            open: Vec::new(),
        })
    }

    fn wrong(&self, expected: &str) -> Fault {
        Fault::new("", format!("expected {expected} at byte {}", self.at))
    }

    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = bytes.get(self.at) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    fn take(&mut self, byte: u8, expected: &str) -> Result<(), Fault> {
        if self.peek() != Some(byte) {
            return Err(self.wrong(expected));
        }
        self.at += 1;
        Ok(())
    }

    fn enter(&mut self, byte: u8, expected: &str) -> Result<(), Fault> {
        self.take(byte, expected)?;
        if self.open.len() >= MAX_NESTING {
            return Err(Fault::new("", format!("lies deeper than {MAX_NESTING}")));
        }
        self.open.push(true);
        Ok(())
    }

    /// Whether what was entered last goes on.
    fn goes_on(&mut self, end: u8, expected: &str) -> Result<bool, Fault> {
        if self.peek() == Some(end) {
            self.at += 1;
            self.open.pop();
            return Ok(false);
        }
        match self.open.last_mut() {
            Some(is_first) if *is_first => *is_first = false,
            _ => self.take(b',', expected)?,
        }
        Ok(true)
    }

    /// What a text is written as, with its quotes.
    fn quoted(&mut self) -> Result<&'a str, Fault> {
        self.take(b'"', "a text")?;
        let (from, bytes) = (self.at - 1, self.text.as_bytes());
        loop {
            match bytes.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => self.at += 2,
                Some(_) => self.at += 1,
                None => return Err(self.wrong("the end of a text")),
            }
        }
        self.at += 1;
        Ok(self.text.get(from..self.at).unwrap_or_default())
    }

    fn word(&mut self) -> &'a str {
        self.peek();
        let rest = self.text.get(self.at..).unwrap_or_default();
        let is_end = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.'));
        let word = rest.split(is_end).next().unwrap_or_default();
        self.at += word.len();
        word
    }

    fn number<T: std::str::FromStr>(&mut self) -> Result<T, Fault> {
        let from = self.at;
        let word = self.word();
        let begins = word.trim_start_matches('-');
        let is_number = begins.starts_with(|c: char| c.is_ascii_digit())
            || matches!(begins, "NaN" | "Infinity");
        let number = is_number.then(|| word.parse().ok()).flatten();
        number.ok_or_else(|| {
            self.at = from;
            self.wrong("a number")
        })
    }
}

impl Pull for Json<'_> {
    fn object(&mut self) -> Result<(), Fault> {
        self.enter(b'{', "an object")
    }

    fn key(&mut self) -> Result<Option<String>, Fault> {
        if !self.goes_on(b'}', "a comma or the object's end")? {
            return Ok(None);
        }
        let key = self.text()?;
        self.take(b':', "a colon")?;
        Ok(Some(key))
    }

    fn array(&mut self) -> Result<(), Fault> {
        self.enter(b'[', "an array")
    }

    fn element(&mut self) -> Result<bool, Fault> {
        self.goes_on(b']', "a comma or the array's end")
    }

    fn is_text(&mut self) -> bool {
        self.peek() == Some(b'"')
    }

    fn text(&mut self) -> Result<String, Fault> {
        let quoted = self.quoted()?;
        serde_json::from_str(quoted).map_err(|_| self.wrong("a text"))
    }

    fn double(&mut self) -> Result<f64, Fault> {
        self.number()
    }

    fn float(&mut self) -> Result<f32, Fault> {
        self.number()
    }

    fn whole(&mut self) -> Result<i64, Fault> {
        let from = self.at;
        match self.word() {
            "true" => Ok(1),
            "false" => Ok(0),
            word => word.parse().map_err(|_| {
                self.at = from;
                self.wrong("a whole number")
            }),
        }
    }

    fn skip(&mut self) -> Result<(), Fault> {
        let mut ends = Vec::new();
        loop {
            match self.peek() {
                Some(byte @ (b'{' | b'[')) => {
                    if ends.len() >= MAX_NESTING {
                        return Err(Fault::new("", format!("lies deeper than {MAX_NESTING}")));
                    }
                    ends.push(if byte == b'{' { b'}' } else { b']' });
                    self.at += 1;
                }
                Some(b'"') => {
                    self.quoted()?;
                }
                Some(b',' | b':') if !ends.is_empty() => self.at += 1,
                Some(byte) if ends.last() == Some(&byte) => {
                    ends.pop();
                    self.at += 1;
                }
                _ if self.word().is_empty() => return Err(self.wrong("a value")),
                _ => {}
            }
            if ends.is_empty() {
                return Ok(());
            }
        }
    }

    fn end(&mut self) -> Result<(), Fault> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.wrong("the end of the file")),
        }
    }
}
