//! How much memory a protobuf message will take, before it is decoded: an empty message of two bytes becomes hundreds, and a number of one
//! byte eight.
//!
//! Promises that what is decoded afterwards has the shape that ONNX gives it, no subgraphs, and little more than its file's bytes.
//! Field numbers are those of onnx.proto3.

use std::mem::size_of;

use tract_onnx::pb;

use super::Fault;

/// The kinds of message that are looked into.
#[derive(Clone, Copy)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    /// A pair of texts, or a text and a number.
    Pair,
    /// Small messages of names, types and shapes, which nest others.
    Leaf,
}

/// A message's bytes once it is decoded, without what it points at.
const fn own_bytes(kind: Kind) -> usize {
    match kind {
        Kind::Model => size_of::<pb::ModelProto>(),
        Kind::Graph => size_of::<pb::GraphProto>(),
        Kind::Node => size_of::<pb::NodeProto>(),
        Kind::Attribute => size_of::<pb::AttributeProto>(),
        Kind::Tensor => size_of::<pb::TensorProto>(),
        Kind::Pair => size_of::<pb::StringStringEntryProto>(),
        Kind::Leaf => size_of::<pb::ValueInfoProto>(),
    }
}

/// What a field of a message holds.
enum Field {
    Message(Kind),
    /// Whole numbers, each of which takes eight bytes in memory.
    Numbers,
    /// Strings, raw bytes, floats: as many as in the file, or twice that while they are read.
    Bytes,
    /// What isn't taken.
    Refused(&'static str),
}

fn field(kind: Kind, number: u64) -> Field {
    match (kind, number) {
        (Kind::Model, 7) => Field::Message(Kind::Graph),
        (Kind::Model, 20) => Field::Refused("holds training graphs, which are not taken"),
        (Kind::Model, 25) => Field::Refused(
            "holds functions of its own, which are not taken; export it with functions inlined",
        ),
        (Kind::Graph, 1) => Field::Message(Kind::Node),
        (Kind::Graph, 5) => Field::Message(Kind::Tensor),
        (Kind::Graph, 15) | (Kind::Attribute, 22 | 23) => {
            Field::Refused("holds sparse tensors, which are not taken")
        }
        (Kind::Node, 5) => Field::Message(Kind::Attribute),
        (Kind::Attribute, 5 | 10) => Field::Message(Kind::Tensor),
        (Kind::Attribute, 6 | 11) => {
            Field::Refused("holds a graph within a graph (If, Loop or Scan), which is not taken")
        }
        (Kind::Tensor, 1 | 5 | 7 | 11) | (Kind::Attribute, 8) => Field::Numbers,
        (Kind::Model, 8 | 14) | (Kind::Tensor, 13) => Field::Message(Kind::Pair),
        (Kind::Graph, 11..=14) | (Kind::Attribute, 15) | (Kind::Tensor, 3) => {
            Field::Message(Kind::Leaf)
        }
        _ => Field::Bytes,
    }
}

/// What a value takes beside its own bytes: a string's or a list's head.
const HEAD_BYTES: usize = 24;
/// Small messages nest a few messages more, of at most so many times their bytes.
const NESTED: usize = 64;

/// Bytes that the file takes once it is decoded.
///
/// # Errors
/// Where it isn't protobuf, is cut, or holds what isn't taken.
pub(super) fn decoded_bytes(file: &[u8]) -> Result<u64, Fault> {
    message(Kind::Model, file)
}

fn message(kind: Kind, bytes: &[u8]) -> Result<u64, Fault> {
    let mut total = own_bytes(kind) as u64;
    let mut rest = bytes;
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        let field = field(kind, key >> 3);
        if let Field::Refused(why) = field {
            return Err(Fault::new(why));
        }
        let taken = match key & 7 {
            0 => {
                varint(&mut rest)?;
                16
            }
            1 => cut(&mut rest, 8)?.len() * 2,
            5 => cut(&mut rest, 4)?.len() * 2,
            2 => {
                let length = usize::try_from(varint(&mut rest)?).unwrap_or(usize::MAX);
                let inner = cut(&mut rest, length)?;
                match field {
                    Field::Message(Kind::Leaf) => own_bytes(Kind::Leaf) + inner.len() * NESTED,
                    Field::Message(kind) => {
                        total = total.saturating_add(message(kind, inner)?);
                        0
                    }
                    Field::Numbers => HEAD_BYTES + inner.len() * 8,
                    Field::Bytes | Field::Refused(_) => HEAD_BYTES + inner.len(),
                }
            }
            _ => return Err(Fault::new("is no ONNX file, or is damaged")),
        };
        total = total.saturating_add(taken as u64);
    }
    Ok(total)
}

fn cut<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], Fault> {
    match rest.split_at_checked(length) {
        Some((cut, after)) => {
            *rest = after;
            Ok(cut)
        }
        None => Err(Fault::new("is no ONNX file, or is cut")),
    }
}

fn varint(rest: &mut &[u8]) -> Result<u64, Fault> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = cut(rest, 1)?.first().copied().unwrap_or(0);
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Fault::new("is no ONNX file, or is damaged"))
}
