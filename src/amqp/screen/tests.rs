//! Frames as brokers send them, with what producers may write into them; and streams of them, cut anywhere.

use super::{
    stream::{Screened, Watch},
    *,
};
use futures_io::AsyncRead;
use futures_util::future::poll_fn;
use proptest::prelude::*;
use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

const BODY: u8 = 3;
const TEXT: &[u8] = b"plain";
const BINARY: &[u8] = b"a\xff\xfe\xc3\xa9\xe2\x82";
const SCREENED: &[u8] = b"a\x1a\x1a\xc3\xa9\x1a\x1a";

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload");
    [&[kind, 0, 1], &length.to_be_bytes()[..], payload, &[0xce]].concat()
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("a short text")], text].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("a length");
    [&length.to_be_bytes()[..], bytes].concat()
}

/// A content header with every property, whose texts are all the same, and with a table.
fn header(text: &[u8], table: &[u8]) -> Vec<u8> {
    let text = short(text);
    let start = [&[0, 60, 0, 0][..], &7u64.to_be_bytes(), &[0xff, 0xfc]].concat();
    let middle = [text.clone(), text.clone(), long(table), vec![2, 5]].concat();
    let ends = [text.repeat(4), vec![0xff; 8], text.repeat(4)].concat();
    frame(HEADER, &[start, middle, ends].concat())
}

/// A table with a value of each type under a name.
fn table(name: &[u8]) -> Vec<u8> {
    let values: [&[u8]; 18] = [
        b"t\x01",
        b"b\xff",
        b"B\xff",
        b"s\xff\xfe",
        b"u\xff\xfe",
        b"U\xff\xfe",
        b"I\xff\xff\xff\xff",
        b"i\xff\xff\xff\xff",
        b"l\xff\xff\xff\xff\xff\xff\xff\xff",
        b"L\xff\xff\xff\xff\xff\xff\xff\xff",
        b"f\xff\xff\xff\xff",
        b"d\xff\xff\xff\xff\xff\xff\xff\xff",
        b"D\x02\xff\xff\xff\xff",
        b"S\0\0\0\x02\xff\xfe",
        b"x\0\0\0\x02\xff\xfe",
        b"T\xff\xff\xff\xff\xff\xff\xff\xff",
        b"V",
        b"A\0\0\0\x03Vb\xff",
    ];
    let entries = values.iter().map(|value| [&short(name), *value].concat());
    let mut table = entries.collect::<Vec<_>>().concat();
    let inner = [short(name), b"V".to_vec()].concat();
    table.extend([short(name), b"F".to_vec(), long(&inner)].concat());
    table
}

fn screened(mut frame: Vec<u8>) -> Vec<u8> {
    screen(&mut frame);
    frame
}

#[test]
fn texts_of_every_property_and_name_become_readable_and_nothing_else_changes() {
    let frame = header(BINARY, &table(BINARY));
    assert_eq!(screened(frame), header(SCREENED, &table(SCREENED)));
    let good = header(TEXT, &table(TEXT));
    assert_eq!(screened(good.clone()), good);
}

#[test]
fn so_do_those_of_deliveries_and_returned_messages() {
    let method = |method: u8, before: &[u8], text: &[u8]| {
        let texts = short(text).repeat(2);
        frame(METHOD, &[&[0, 60, 0, method], before, &texts].concat())
    };
    let tag = |text: &[u8]| [short(text), vec![0xff; 9]].concat();
    let code = |text: &[u8]| [vec![0xff; 2], short(text)].concat();
    for (number, binary, screens) in [
        (60, tag(BINARY), tag(SCREENED)),
        (71, vec![0xff; 9], vec![0xff; 9]),
        (50, code(BINARY), code(SCREENED)),
    ] {
        let expected = method(number, &screens, SCREENED);
        assert_eq!(screened(method(number, &binary, BINARY)), expected);
    }
    let other = method(10, &[], BINARY);
    assert_eq!(screened(other.clone()), other);
}

/// Tables or arrays within each other.
fn nested(kind: u8, depth: usize) -> Vec<u8> {
    let name: &[u8] = if kind == b'F' { b"\x01n" } else { b"" };
    let mut value = b"V".to_vec();
    for _ in 0..depth {
        value = [&[kind], &long(&[name, &value].concat())[..]].concat();
    }
    [b"\x01n".to_vec(), value].concat()
}

#[test]
fn what_is_too_deep_becomes_bytes() {
    for kind in *b"FA" {
        let shallow = header(TEXT, &nested(kind, DEPTH - 1));
        assert_eq!(screened(shallow.clone()), shallow);
        let deep = header(TEXT, &nested(kind, 10_000));
        let cut = screened(deep.clone());
        let changed = deep.iter().zip(&cut).filter(|(before, now)| before != now);
        assert_eq!(changed.collect::<Vec<_>>(), [(&kind, &b'x')]);
    }
}

#[test]
fn what_cannot_be_read_stays_as_it_is() {
    for payload in [&[][..], &[0], &[0, 60, 0], &[0xff; 40]] {
        for kind in [METHOD, HEADER] {
            let frame = frame(kind, payload);
            assert_eq!(screened(frame.clone()), frame);
        }
    }
    let unknown = header(TEXT, b"\x01nZ\xff\xfe");
    assert_eq!(screened(unknown.clone()), unknown);
    assert_eq!(screened(Vec::new()), Vec::<u8>::new());
}

/// What a socket gives, piece by piece.
struct Pieces(VecDeque<Vec<u8>>);

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        room: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Some(mut piece) = self.0.pop_front() else {
            return Poll::Ready(Ok(0));
        };
        let count = piece.len().min(room.len());
        room[..count].copy_from_slice(&piece[..count]);
        if count < piece.len() {
            self.0.push_front(piece.split_off(count));
        }
        Poll::Ready(Ok(count))
    }
}

/// What comes through, read with so much room each time.
async fn through(bytes: &[u8], piece: usize, room: usize) -> Vec<u8> {
    let pieces = bytes.chunks(piece).map(<[u8]>::to_vec).collect();
    let mut stream = Screened::new(Pieces(pieces), None);
    let (mut all, mut room) = (Vec::new(), vec![0; room]);
    loop {
        let read = poll_fn(|context| Pin::new(&mut stream).poll_read(context, &mut room)).await;
        match read.expect("pieces never fail") {
            0 => return all,
            count => all.extend_from_slice(&room[..count]),
        }
    }
}

#[tokio::test]
async fn a_stream_is_screened_however_it_is_cut() {
    let large = vec![b'n'; 200_000];
    let stream = |text: &[u8]| {
        let header = header(text, &table(text));
        let beat = frame(8, &[]);
        let big = super::tests::header(text, &[&b"\x01nS"[..], &long(&large)].concat());
        let body = frame(BODY, b"\x02\xff\x01");
        [
            &header,
            &body,
            &beat,
            &big,
            &frame(BODY, &large),
            &header,
            &beat,
        ]
        .map(|f| f.clone())
        .concat()
    };
    let (binary, expected) = (stream(BINARY), stream(SCREENED));
    for (piece, room) in [
        (usize::MAX, 1 << 22),
        (1, 1 << 22),
        (7, 100),
        (1_000, 3),
        (70_000, 64),
    ] {
        assert!(
            through(&binary, piece, room).await == expected,
            "{piece} {room}"
        );
    }
}

/// A broker that sends a heartbeat now and then, and at last none.
struct Beats(Vec<Pin<Box<tokio::time::Sleep>>>);

impl AsyncRead for Beats {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        room: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Some(next) = self.0.first_mut() else {
            return Poll::Pending;
        };
        std::task::ready!(next.as_mut().poll(context));
        drop(self.0.remove(0));
        let beat = frame(8, &[]);
        room[..beat.len()].copy_from_slice(&beat);
        Poll::Ready(Ok(beat.len()))
    }
}

#[tokio::test]
async fn a_stream_on_which_nothing_comes_fails_and_one_with_heartbeats_does_not() {
    let beats = [40, 80, 120].map(|at| Box::pin(tokio::time::sleep(Duration::from_millis(at))));
    let noted = Arc::new(Mutex::new(Vec::new()));
    let heard = noted.clone();
    let silence = Silence {
        limit: Duration::from_millis(60),
        noted: Arc::new(move |why: &str| heard.lock().expect("a list").push(why.to_owned())),
    };
    let mut stream = Screened::new(Beats(beats.into()), Some(Watch::new(Some(silence))));
    let (mut read, mut room) = (0, [0; 64]);
    let error = loop {
        match poll_fn(|context| Pin::new(&mut stream).poll_read(context, &mut room)).await {
            Ok(count) => read += count,
            Err(error) => break error,
        }
    };
    assert_eq!(read, 3 * frame(8, &[]).len());
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(*noted.lock().expect("a list"), [error.to_string()]);
}

proptest! {
    /// Nothing is lost, added or held back for ever of whatever a broker sends in whole frames.
    #[test]
    fn every_byte_of_whole_frames_comes_through(
        frames in prop::collection::vec((0u8..10, prop::collection::vec(any::<u8>(), 0..80)), 0..20),
        piece in 1usize..100,
        room in 1usize..100,
    ) {
        let frames = frames.iter().map(|(kind, payload)| frame(*kind, payload));
        let frames = frames.collect::<Vec<_>>();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let all = runtime.block_on(through(&frames.concat(), piece, room));
        prop_assert_eq!(all, frames.into_iter().map(screened).collect::<Vec<_>>().concat());
    }
}
