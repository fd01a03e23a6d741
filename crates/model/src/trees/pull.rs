//! Reading a tree of values step by step, in whatever notation it is.
//!
//! Promises that nothing is read twice, that depth costs no stack, and that what is kept is never more than a few times what
//! the file holds: lists grow by what was read, not by what is announced.

use super::fault::{Fault, Within};

/// How deep values may lie in each other: the depth of the deepest tree, and what stands around it.
pub(super) const MAX_NESTING: usize = 4_200;

/// A reader of values. Every method reads one thing that must come next.
pub(super) trait Pull {
    /// Enters an object.
    fn object(&mut self) -> Result<(), Fault>;

    /// The next key of the object that was entered last; nothing at its end, which is left.
    fn key(&mut self) -> Result<Option<String>, Fault>;

    /// Enters an array.
    fn array(&mut self) -> Result<(), Fault>;

    /// Whether the array that was entered last has another element; if not, it is left.
    fn element(&mut self) -> Result<bool, Fault>;

    /// Whether a text comes next.
    fn is_text(&mut self) -> bool;

    /// A text.
    fn text(&mut self) -> Result<String, Fault>;

    /// A number, as exact as 64 bits are.
    fn double(&mut self) -> Result<f64, Fault>;

    /// A number, as exact as 32 bits are.
    fn float(&mut self) -> Result<f32, Fault>;

    /// A whole number; true is 1 and false 0.
    fn whole(&mut self) -> Result<i64, Fault>;

    /// Any value, which isn't wanted.
    fn skip(&mut self) -> Result<(), Fault>;

    /// That nothing follows.
    fn end(&mut self) -> Result<(), Fault>;

    /// An array of numbers.
    fn floats(&mut self) -> Result<Vec<f32>, Fault> {
        list(self, Self::float)
    }

    /// An array of whole numbers.
    fn wholes(&mut self) -> Result<Vec<i64>, Fault> {
        list(self, Self::whole)
    }

    /// An array of texts.
    fn texts(&mut self) -> Result<Vec<String>, Fault> {
        list(self, Self::text)
    }
}

fn list<P: Pull + ?Sized, T>(
    pull: &mut P,
    read: impl Fn(&mut P) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    let mut list = Vec::new();
    pull.array()?;
    while pull.element()? {
        let value = read(pull).map_err(|fault| fault.within(&format!("[{}]", list.len())))?;
        list.push(value);
    }
    Ok(list)
}

/// Calls `field` with each key of an object; it reads the value.
pub(super) fn fields<P: Pull>(
    pull: &mut P,
    mut field: impl FnMut(&mut P, &str) -> Result<(), Fault>,
) -> Result<(), Fault> {
    pull.object()?;
    while let Some(key) = pull.key()? {
        field(pull, &key).within(&key)?;
    }
    Ok(())
}

/// A whole number that is written as a text.
pub(super) fn number<P: Pull>(pull: &mut P) -> Result<i64, Fault> {
    if !pull.is_text() {
        return pull.whole();
    }
    let text = pull.text()?;
    text.parse()
        .map_err(|_| Fault::new("", "expected a whole number"))
}
