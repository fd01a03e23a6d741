//! Owns what a message of Arrow claims. Pure.

use super::MAX_UNPACKED_BYTES;
use anyhow::bail;
use arrow_ipc::{Message, MessageHeader};

/// What a message begins with.
pub(super) const CONTINUATION_MARKER: [u8; 4] = [0xff; 4];
/// Bytes of a message's head, which lists its buffers.
pub(super) const MAX_HEAD_BYTES: u64 = 16 << 20;

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

/// Looks at what the packed buffers of a batch claim to unpack to.
pub(super) fn check_packed(message: &Message<'_>, body: &[u8]) -> anyhow::Result<()> {
    let batch = match message.header_type() {
        MessageHeader::RecordBatch => message.header_as_record_batch(),
        MessageHeader::DictionaryBatch => {
            let dictionary = message.header_as_dictionary_batch();
            dictionary.and_then(|dictionary| dictionary.data())
        }
        _ => None,
    };
    let Some(batch) = batch.filter(|batch| batch.compression().is_some()) else {
        return Ok(());
    };
    let mut unpacked = body.len() as u64;
    for buffer in batch.buffers().into_iter().flatten() {
        let at = usize::try_from(buffer.offset()).unwrap_or(usize::MAX);
        let bytes = body.get(at..).and_then(<[u8]>::first_chunk);
        let claimed = bytes.map_or(0, |bytes| i64::from_le_bytes(*bytes));
        // One that wasn't worth packing says -1.
        unpacked = unpacked.saturating_add(u64::try_from(claimed).unwrap_or_default());
    }
    match unpacked > MAX_UNPACKED_BYTES as u64 {
        true => bail!(
            "a batch claims {unpacked} bytes, packed and unpacked, and may have {MAX_UNPACKED_BYTES}: write smaller ones"
        ),
        false => Ok(()),
    }
}
