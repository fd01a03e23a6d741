//! Owns reading Arrow files (Feather, version 2) batch by batch, as their footers list them.
//!
//! Promises that nothing is read, nor unpacked, that claims more than its bound.

use super::{
    ipc_schema,
    message::{CONTINUATION_MARKER, Dictionaries, check_length},
};
use crate::{cli::file::Blob, redact::Redact};
use anyhow::{Context, anyhow, bail};
use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::{Block, reader::FileDecoder};
use arrow_schema::Schema;
use std::{collections::VecDeque, io, sync::Arc};

const MAGIC: &[u8] = b"ARROW1";
/// Bytes of a footer.
const MAX_FOOTER_BYTES: u32 = 64 << 20;
/// Where values of any type may begin.
const ALIGNMENT: usize = 64;

/// A file that was opened.
pub(super) struct ArrowFile {
    file: Blob,
    bytes: u64,
    schema: Arc<Schema>,
    decoder: FileDecoder,
    dictionaries: VecDeque<Block>,
    held: Dictionaries,
    batches: VecDeque<Block>,
    position: u64,
}

/// Whether a file is one, whose start says so.
pub(super) fn is_one(file: &Blob) -> bool {
    let mut start = [0; MAGIC.len()];
    file.size().is_some() && file.read_exact_at(&mut start, 0).is_ok() && start == *MAGIC
}

impl ArrowFile {
    /// Reads the footer.
    pub fn open(file: Blob) -> anyhow::Result<Self> {
        let bytes = file.size().context("it is no file")?;
        let mut end = [0; 10];
        let at = bytes.checked_sub(20).context("it was cut")? + 10;
        file.read_exact_at(&mut end, at).map_err(unreadable)?;
        let [a, b, c, d, magic @ ..] = end;
        if magic != MAGIC {
            bail!("it doesn't end as an Arrow file: it was cut");
        }
        let length = u32::from_le_bytes([a, b, c, d]);
        if u64::from(length) > bytes - 20 || length > MAX_FOOTER_BYTES {
            bail!(
                "its footer claims {length} bytes, of {bytes} in all and {MAX_FOOTER_BYTES} at most"
            );
        }
        let mut footer = vec![0; length as usize];
        let start = at - u64::from(length);
        file.read_exact_at(&mut footer, start).map_err(unreadable)?;
        let damaged = || anyhow!("its footer can't be read: the file is damaged");
        let footer = ipc_schema::footer(&footer).ok_or_else(damaged)?;
        let schema = footer.schema().ok_or_else(damaged)?;
        if !schema.endianness().equals_to_target_endianness() {
            bail!("its numbers are written from their other end, which isn't read");
        }
        let schema = arrow_ipc::convert::try_fb_to_schema(schema).map_err(|_| damaged())?;
        let schema = Arc::new(schema);
        Ok(Self {
            decoder: FileDecoder::new(schema.clone(), footer.version()),
            dictionaries: footer
                .dictionaries()
                .into_iter()
                .flatten()
                .copied()
                .collect(),
            batches: footer
                .recordBatches()
                .into_iter()
                .flatten()
                .copied()
                .collect(),
            file,
            held: Dictionaries::default(),
            bytes,
            schema,
            position: 0,
        })
    }

    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Reads these columns alone.
    pub fn reading(mut self, columns: &[usize]) -> Self {
        self.decoder = self.decoder.with_projection(columns.to_vec());
        self
    }

    /// Bytes of the file that were read.
    pub fn position(&self) -> u64 {
        self.position
    }

    pub fn next_batch(&mut self) -> anyhow::Result<Option<RecordBatch>> {
        // What the library says may quote a row.
        let damaged = "a batch is damaged, or has a text that isn't UTF-8";
        while let Some(block) = self.dictionaries.pop_front() {
            let bytes = self.block(&block)?;
            let read = self.decoder.read_dictionary(&block, &bytes);
            read.ok().context(damaged)?;
        }
        while let Some(block) = self.batches.pop_front() {
            let bytes = self.block(&block)?;
            let read = self.decoder.read_record_batch(&block, &bytes);
            if let Some(batch) = read.ok().context(damaged)? {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }

    /// The bytes of a message: its head and its body.
    fn block(&mut self, block: &Block) -> anyhow::Result<Buffer> {
        let (head, body) = check_length(block.metaDataLength().into(), block.bodyLength())?;
        let start = u64::try_from(block.offset()).unwrap_or(u64::MAX);
        let end = start
            .checked_add(head + body)
            .filter(|end| *end <= self.bytes);
        self.position = end.context("a batch lies beyond the end of the file: was it cut?")?;
        // Values begin where processors want them: otherwise they are copied once more.
        let before = (head as usize).next_multiple_of(ALIGNMENT) - head as usize;
        let mut bytes = vec![0; before + (head + body) as usize];
        let (_, own) = bytes.split_at_mut(before);
        self.file.read_exact_at(own, start).map_err(unreadable)?;
        let (head, body) = own.split_at(head as usize);
        let framed = match head.starts_with(&CONTINUATION_MARKER) {
            true => head.get(8..),
            false => head.get(4..),
        };
        let message = ipc_schema::message(framed.unwrap_or_default());
        let message = message.context("it is damaged: a message can't be read")?;
        self.held.admit(&message, body)?;
        Ok(Buffer::from_vec(bytes).slice(before))
    }
}

fn unreadable(error: io::Error) -> anyhow::Error {
    anyhow!("it can't be read: {}", error.redacted())
}
