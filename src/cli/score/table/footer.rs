//! Owns what the footer of a Parquet file claims, before the library makes anything of it. Pure.
//!
//! Promises that neither the depth of a schema nor what a footer becomes in memory follows what somebody has written there.

use super::{MAX_DEPTH, ipc_schema, thrift::Thrift};
use anyhow::{Context, bail};
use base64::prelude::{BASE64_STANDARD, Engine};

/// Bytes that a footer becomes in memory.
const MAX_BYTES: usize = 128 << 20;
/// Bytes of all columns' paths: each has the names of the groups that it is in.
const MAX_PATH_BYTES: usize = 16 << 20;
/// Bytes that a column of a row group becomes, a column of the schema, and an element of any other list.
const CHUNK_BYTES: usize = 640;
const COLUMN_BYTES: usize = 640;
const ELEMENT_BYTES: usize = 24;
/// Under what the schema's own form is kept.
const ARROW_SCHEMA: &[u8] = b"ARROW:schema";

/// What is counted of a footer.
#[derive(Default)]
struct Claims {
    columns: usize,
    paths: usize,
    groups: usize,
    chunks: usize,
    elements: usize,
}

/// Looks at a footer.
pub(super) fn check(bytes: &[u8]) -> anyhow::Result<()> {
    let damaged = "its footer can't be read: the file is damaged";
    let mut thrift = Thrift { bytes };
    let (mut claims, mut id) = (Claims::default(), 0);
    while let Some(kind) = thrift.field(&mut id).context(damaged)? {
        let counted = match (id, kind) {
            (2, Thrift::LIST) => {
                let depth = claims.schema(&mut thrift).context(damaged)?;
                if depth > MAX_DEPTH {
                    bail!("its columns are more than {MAX_DEPTH} levels deep");
                }
                Some(())
            }
            (4, Thrift::LIST) => claims.row_groups(&mut thrift),
            (5, Thrift::LIST) => match pairs(&mut thrift) {
                Some(pairs) => {
                    claims.elements += pairs.len();
                    check_arrow(&pairs)?;
                    Some(())
                }
                None => None,
            },
            (_, kind) => claims.other(&mut thrift, kind),
        };
        counted.context(damaged)?;
        claims.check(bytes.len())?;
    }
    Ok(())
}

impl Claims {
    /// Looks at what it becomes.
    fn check(&self, footer: usize) -> anyhow::Result<()> {
        if self.paths > MAX_PATH_BYTES {
            bail!("its columns' names take more than {MAX_PATH_BYTES} bytes together");
        }
        let bytes = CHUNK_BYTES * (self.chunks + self.groups)
            + COLUMN_BYTES * self.columns
            + ELEMENT_BYTES * self.elements
            + footer;
        if bytes > MAX_BYTES {
            bail!(
                "its footer lists {} columns of {} row groups, which take {bytes} bytes, and may take {MAX_BYTES}: write larger row groups",
                self.chunks,
                self.groups
            );
        }
        Ok(())
    }

    fn other(&mut self, thrift: &mut Thrift<'_>, kind: u8) -> Option<()> {
        self.elements += thrift.skip(kind)?;
        Some(())
    }

    /// Goes over the schema, whose groups stand before what is in them; gives its depth.
    fn schema(&mut self, thrift: &mut Thrift<'_>) -> Option<usize> {
        let (count, kind) = thrift.list()?;
        let mut open: Vec<(i64, usize)> = Vec::new();
        let mut deepest = 0;
        for _ in 0..count {
            let (name, children) = self.column(thrift, kind)?;
            while open.last().is_some_and(|(left, _)| *left <= 0) {
                open.pop();
            }
            let above = match open.last_mut() {
                Some((left, path)) => {
                    *left -= 1;
                    *path
                }
                None => 0,
            };
            let path = above + name + ELEMENT_BYTES;
            self.columns += 1;
            self.paths = self.paths.checked_add(path)?;
            deepest = deepest.max(open.len());
            if deepest > MAX_DEPTH || self.paths > MAX_PATH_BYTES {
                return Some(deepest);
            }
            if children > 0 {
                open.push((children, path));
            }
        }
        Some(deepest)
    }

    /// A column of the schema: the length of its name, and how many are in it.
    fn column(&mut self, thrift: &mut Thrift<'_>, kind: u8) -> Option<(usize, i64)> {
        if kind != Thrift::STRUCT {
            return None;
        }
        let (mut id, mut name, mut children) = (0, 0, 0);
        while let Some(kind) = thrift.field(&mut id)? {
            match (id, kind) {
                (4, Thrift::BINARY) => name = thrift.binary()?.len(),
                (5, Thrift::I32) => children = thrift.number()?,
                (4 | 5, _) => return None,
                _ => self.elements += thrift.skip(kind)?,
            }
        }
        Some((name, children))
    }

    fn row_groups(&mut self, thrift: &mut Thrift<'_>) -> Option<()> {
        let (count, kind) = thrift.list()?;
        for _ in 0..count {
            if kind != Thrift::STRUCT {
                return None;
            }
            self.groups += 1;
            let mut id = 0;
            while let Some(kind) = thrift.field(&mut id)? {
                if (id, kind) == (1, Thrift::LIST) {
                    let (count, kind) = thrift.list()?;
                    self.chunks += count;
                    for _ in 0..count {
                        self.other(thrift, kind)?;
                    }
                } else {
                    self.other(thrift, kind)?;
                }
            }
        }
        Some(())
    }
}

/// Names and values that a footer holds.
fn pairs<'a>(thrift: &mut Thrift<'a>) -> Option<Vec<(&'a [u8], &'a [u8])>> {
    let (count, kind) = thrift.list()?;
    let mut pairs = Vec::new();
    for _ in 0..count {
        if kind != Thrift::STRUCT {
            return None;
        }
        let (mut id, mut pair) = (0, (&[][..], &[][..]));
        while let Some(kind) = thrift.field(&mut id)? {
            match (id, kind) {
                (1, Thrift::BINARY) => pair.0 = thrift.binary()?,
                (2, Thrift::BINARY) => pair.1 = thrift.binary()?,
                _ => return None,
            }
        }
        pairs.push(pair);
    }
    Some(pairs)
}

/// Looks at the schema in Arrow's form, where there is one.
fn check_arrow(pairs: &[(&[u8], &[u8])]) -> anyhow::Result<()> {
    let own = pairs.iter().filter(|(name, _)| *name == ARROW_SCHEMA);
    for (_, value) in own {
        let bytes = BASE64_STANDARD.decode(value).unwrap_or_default();
        let framed = bytes.get(8..).filter(|_| bytes.starts_with(&[0xff; 4]));
        if ipc_schema::message(framed.unwrap_or(&bytes)).is_none() {
            bail!(
                "its footer holds columns in Arrow's form that can't be read, or too many of them"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A footer with groups that hold one group each, so many levels deep, each with such a name.
    fn nested(levels: u8, name: &[u8]) -> Vec<u8> {
        let mut footer = vec![0x15, 0x02, 0x19, 0xfc];
        footer.push(levels);
        for _ in 0..levels {
            footer.push(0x48);
            assert!(name.len() < 128);
            footer.push(name.len() as u8);
            footer.extend(name);
            footer.extend([0x15, 0x02, 0x00]);
        }
        footer.push(0x00);
        footer
    }

    #[test]
    fn a_schema_is_bounded_in_depth_and_in_what_its_names_become() {
        assert!(check(&nested(20, b"a")).is_ok());
        let problem = check(&nested(100, b"a"))
            .expect_err("it is deep")
            .to_string();
        assert_eq!(problem, "its columns are more than 64 levels deep");
        assert!(check(&nested(20, b"a")[..30]).is_err(), "it was cut");
        // Row groups of empty columns: three bytes each become far more.
        let mut many = vec![0x49, 0xfc, 0xa0, 0x8d, 0x06];
        for _ in 0..100_000 {
            many.extend([0x19, 0x4c, 0x00, 0x00, 0x00, 0x00, 0x00]);
        }
        many.push(0x00);
        let problem = check(&many).expect_err("too many").to_string();
        assert!(
            problem.starts_with("its footer lists 400000 columns of 100000 row groups"),
            "{problem}"
        );
    }
}
