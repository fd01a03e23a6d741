//! Owns what a message of Arrow claims. Pure.

use super::MAX_UNPACKED_BYTES;
use anyhow::bail;
use arrow_ipc::{Message, RecordBatch};
use std::collections::BTreeMap;

/// What a message begins with.
pub(super) const CONTINUATION_MARKER: [u8; 4] = [0xff; 4];
/// Bytes of a message's head, which lists its buffers.
pub(super) const MAX_HEAD_BYTES: u64 = 16 << 20;

/// Rows of a batch.
const MAX_ROWS: i64 = 1 << 30;

/// Looks at what a message claims of its own length, before it is read.
pub(super) fn check_length(head: i64, body: i64) -> anyhow::Result<(u64, u64)> {
    let (Ok(head), Ok(body)) = (u64::try_from(head), u64::try_from(body)) else {
        bail!("it is damaged: a message has no length");
    };
    if head > MAX_HEAD_BYTES {
        bail!("a message's head claims {head} bytes, and may have {MAX_HEAD_BYTES}");
    }
    if body > MAX_UNPACKED_BYTES as u64 {
        bail!("a batch claims {body} bytes, and may have {MAX_UNPACKED_BYTES}: write smaller ones");
    }
    Ok((head, body))
}

/// What the dictionaries of a file or stream hold, each by its number.
#[derive(Default)]
pub(super) struct Dictionaries(BTreeMap<i64, u64>);

impl Dictionaries {
    /// Looks at a message before it is unpacked: what its packed buffers claim, beside the dictionaries that stay.
    pub fn admit(&mut self, message: &Message<'_>, body: &[u8]) -> anyhow::Result<()> {
        let dictionary = message.header_as_dictionary_batch();
        let batch = match &dictionary {
            Some(dictionary) => dictionary.data(),
            None => message.header_as_record_batch(),
        };
        let Some(batch) = batch else {
            return Ok(());
        };
        let own = unpacked(&batch, body)?;
        let others = self
            .0
            .values()
            .fold(0, |all: u64, one| all.saturating_add(*one));
        let all = own.saturating_add(others);
        if all > MAX_UNPACKED_BYTES as u64 {
            bail!(
                "a batch and the dictionaries claim {all} bytes, packed and unpacked, and may have {MAX_UNPACKED_BYTES}: write smaller ones"
            );
        }
        if let Some(dictionary) = dictionary {
            let held = self.0.entry(dictionary.id()).or_default();
            *held = match dictionary.isDelta() {
                true => held.saturating_add(own),
                false => own,
            };
        }
        Ok(())
    }
}

/// What a batch takes, packed and unpacked.
fn unpacked(batch: &RecordBatch<'_>, body: &[u8]) -> anyhow::Result<u64> {
    let is_packed = batch.compression().is_some();
    if batch.length() > MAX_ROWS {
        bail!(
            "a batch claims {} rows, and may have {MAX_ROWS}",
            batch.length()
        );
    }
    let mut unpacked = body.len() as u64;
    for buffer in batch.buffers().into_iter().flatten() {
        let at = usize::try_from(buffer.offset()).unwrap_or(usize::MAX);
        let length = usize::try_from(buffer.length()).unwrap_or(usize::MAX);
        let Some(bytes) = body.get(at..at.saturating_add(length)) else {
            bail!("it is damaged: a batch's values lie outside of it");
        };
        let claimed = bytes.first_chunk().filter(|_| is_packed);
        let claimed = claimed.map_or(0, |bytes| i64::from_le_bytes(*bytes));
        // One that wasn't worth packing says -1.
        unpacked = unpacked.saturating_add(u64::try_from(claimed).unwrap_or_default());
    }
    Ok(unpacked)
}
