//! Owns reading Arrow streams message by message, as they come.
//!
//! Promises that no message is read, nor unpacked, that claims more than its bound.

use super::{
    ipc_schema,
    message::{CONTINUATION_MARKER, Dictionaries, check_length},
};
use crate::redact::Redact;
use anyhow::{Context, anyhow, bail};
use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::reader::StreamDecoder;
use arrow_schema::Schema;
use std::io::{self, BufRead, Read};

/// Where values of any type may begin.
const ALIGNMENT: usize = 64;

/// A stream that was opened.
pub(super) struct ArrowStream {
    reader: Box<dyn BufRead + Send>,
    decoder: StreamDecoder,
    dictionaries: Dictionaries,
    /// What of a message is still to be decoded.
    message: Buffer,
}

impl ArrowStream {
    /// Reads which columns it has.
    pub fn open(mut reader: Box<dyn BufRead + Send>) -> anyhow::Result<(Self, Schema)> {
        let start = reader.fill_buf().map_err(unreadable)?;
        if start.is_empty() {
            bail!("no Arrow file or stream: it is empty");
        }
        if start.starts_with(b"ARROW1") {
            bail!(
                "an Arrow file is read from a file alone, and not packed: in a pipe, write a stream"
            );
        }
        if !start.starts_with(&CONTINUATION_MARKER) {
            bail!("no Arrow file or stream: it doesn't begin as one");
        }
        let mut stream = Self {
            reader,
            decoder: StreamDecoder::new(),
            dictionaries: Dictionaries::default(),
            message: Buffer::from(&[]),
        };
        let Some(message) = stream.next()? else {
            bail!("it ends before its columns are named");
        };
        let head = ipc_schema::message(message.get(8..).unwrap_or_default());
        let schema = head.and_then(|head| {
            let schema = head.header_as_schema()?;
            let is_readable = schema.endianness().equals_to_target_endianness();
            let schema = arrow_ipc::convert::try_fb_to_schema(schema).ok();
            schema.filter(|_| is_readable)
        });
        let schema = schema
            .context("its columns can't be read: it is damaged, or has types that aren't known")?;
        stream.message = message;
        Ok((stream, schema))
    }

    pub fn next_batch(&mut self) -> anyhow::Result<Option<RecordBatch>> {
        loop {
            // A message without a body is read with the next one.
            while !self.message.is_empty() {
                let decoded = self.decoder.decode(&mut self.message);
                // What the library says may quote a row.
                let decoded = decoded.ok();
                let decoded =
                    decoded.context("a batch is damaged, or has a text that isn't UTF-8")?;
                if decoded.is_some() {
                    return Ok(decoded);
                }
            }
            match self.next()? {
                Some(message) => self.message = message,
                None => return Ok(None),
            }
        }
    }

    /// The next message whole; nothing at the end.
    fn next(&mut self) -> anyhow::Result<Option<Buffer>> {
        let mut bytes = Vec::new();
        match self.take(&mut bytes, 8)? {
            0 => return Ok(None),
            8 => {}
            _ => bail!("it was cut"),
        }
        let Some(([a, b, c, d], [e, f, g, h])) = halves(&bytes) else {
            bail!("it was cut");
        };
        if [a, b, c, d] != CONTINUATION_MARKER {
            bail!("it is damaged: a message doesn't begin as one");
        }
        let head = u32::from_le_bytes([e, f, g, h]);
        if head == 0 {
            // What comes after a stream's end would be left out without a word.
            if !self.reader.fill_buf().map_err(unreadable)?.is_empty() {
                bail!("more comes after the stream's end: give one stream at a time");
            }
            return Ok(None);
        }
        let (head, _) = check_length(head.into(), 0)?;
        self.add(&mut bytes, head)?;
        let unreadable =
            "a message can't be read: it is damaged, or has too many columns, or too deep ones";
        let message = ipc_schema::message(bytes.get(8..).unwrap_or_default());
        let (head, body) = check_length(head as i64, message.context(unreadable)?.bodyLength())?;
        // Values begin where processors want them: otherwise they are copied once more.
        let start = 8 + head as usize;
        let before = start.next_multiple_of(ALIGNMENT) - start;
        let mut whole = Vec::with_capacity(before + start + body as usize);
        whole.resize(before, 0);
        whole.extend_from_slice(&bytes);
        self.add(&mut whole, body)?;
        let (head, body) = whole.split_at(before + start);
        let message = ipc_schema::message(head.get(before + 8..).unwrap_or_default());
        self.dictionaries
            .admit(&message.context(unreadable)?, body)?;
        Ok(Some(Buffer::from_vec(whole).slice(before)))
    }

    fn add(&mut self, to: &mut Vec<u8>, count: u64) -> anyhow::Result<()> {
        match self.take(to, count)? == count {
            true => Ok(()),
            false => bail!("it was cut"),
        }
    }

    /// Adds so many bytes, as far as there are: as they come, not at once as they are claimed.
    fn take(&mut self, to: &mut Vec<u8>, count: u64) -> anyhow::Result<u64> {
        let read = self.reader.by_ref().take(count).read_to_end(to);
        read.map(|read| read as u64).map_err(unreadable)
    }
}

/// A message's first two words.
fn halves(bytes: &[u8]) -> Option<([u8; 4], [u8; 4])> {
    let (first, rest) = bytes.split_first_chunk()?;
    Some((*first, *rest.first_chunk()?))
}

fn unreadable(error: io::Error) -> anyhow::Error {
    anyhow!("it can't be read: {}", error.redacted())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::StringArray;
    use arrow_ipc::writer::StreamWriter;
    use std::{io::Cursor, sync::Arc};

    fn stream() -> Vec<u8> {
        let texts = Arc::new(StringArray::from(vec!["nice"])) as _;
        let batch = RecordBatch::try_from_iter([("text", texts)]).expect("one column");
        let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).expect("memory");
        writer.write(&batch).expect("memory");
        writer.finish().expect("memory");
        writer.into_inner().expect("memory")
    }

    fn read(bytes: Vec<u8>) -> (usize, Option<String>) {
        let reader = Box::new(Cursor::new(bytes));
        let (mut stream, _) = ArrowStream::open(reader).expect("a stream");
        let mut rows = 0;
        loop {
            match stream.next_batch() {
                Ok(Some(batch)) => rows += batch.num_rows(),
                Ok(None) => return (rows, None),
                Err(error) => return (rows, Some(error.to_string())),
            }
        }
    }

    #[test]
    fn what_comes_after_a_streams_end_is_told_and_not_left_out() {
        assert_eq!(read(stream()), (1, None));
        let (rows, problem) = read([stream(), stream()].concat());
        assert_eq!(rows, 1);
        assert!(problem.is_some_and(|said| said.contains("one stream at a time")));
    }
}
