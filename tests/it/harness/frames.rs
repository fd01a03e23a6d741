//! HTTP/2 a frame at a time, for clients that do what no library does.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::PATIENCE;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const ROOM: u8 = 8;
pub const CONTINUATION: u8 = 9;
/// The setting that says how much may come of an answer before its client says more.
pub const WINDOW: u16 = 4;
pub const REFUSED: u32 = 7;
pub const CANCELLED: u32 = 8;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// What came.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The code of an end.
    pub fn code(&self) -> u32 {
        let at = usize::from(self.kind == GOAWAY) * 4;
        let code = self.payload.get(at..at + 4).expect("a code");
        u32::from_be_bytes(code.try_into().expect("four bytes"))
    }
}

/// A client's connection.
pub struct Frames(pub TcpStream);

impl Frames {
    /// Says that HTTP/2 is spoken, and with which settings.
    pub async fn open(port: u16, settings: &[(u16, u32)]) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        // What its owner doesn't read is to be noticed soon.
        socket.set_recv_buffer_size(4_096).expect("a small buffer");
        let address = ([127, 0, 0, 1], port).into();
        let mut frames = Self(socket.connect(address).await.expect("a connection"));
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        frames.0.write_all(preface).await.expect("a preface");
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend_from_slice(&name.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        let sent = frames.send(SETTINGS, 0, 0, &payload).await;
        sent.expect("the settings");
        frames
    }

    pub async fn send(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> io::Result<()> {
        self.0.write_all(&frame(kind, flags, stream, payload)).await
    }

    /// Sends bytes as they are.
    pub async fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }

    /// Asks for a path; `stream` is odd, and larger than those before.
    pub async fn get(&mut self, stream: u32, path: &str) -> io::Result<()> {
        self.0.write_all(&get(stream, path)).await
    }

    pub async fn ping(&mut self) -> io::Result<()> {
        self.send(PING, 0, 0, &[7; 8]).await
    }

    /// Waits until all that was sent before is known there; says whether the connection still is.
    pub async fn is_heard(&mut self) -> bool {
        self.heard().await.is_some()
    }

    /// The same, with what comes until then; nothing if the connection ends.
    pub async fn heard(&mut self) -> Option<Vec<Frame>> {
        self.ping().await.ok()?;
        let search = async {
            let mut came = Vec::new();
            loop {
                let frame = self.next().await?;
                if frame.kind == PING && frame.flags == ACK {
                    return Some(came);
                }
                came.push(frame);
            }
        };
        let heard = timeout(PATIENCE, search).await;
        heard.expect("it comes, or the connection ends")
    }

    /// The next frame; nothing at the connection's end.
    pub async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]);
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).await.ok()?;
        Some(Frame {
            kind,
            flags,
            stream: u32::from_be_bytes(stream),
            payload,
        })
    }

    /// The first frame that is wanted; nothing if the connection ends before.
    pub async fn wait_for(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        let search = async {
            loop {
                let frame = self.next().await?;
                if wanted(&frame) {
                    return Some(frame);
                }
            }
        };
        timeout(PATIENCE, search)
            .await
            .expect("it comes, or the connection ends")
    }

    /// All that comes until the connection's end.
    pub async fn until_the_end(&mut self, deadline: Duration) -> Vec<Frame> {
        let read = async {
            let mut all = Vec::new();
            while let Some(frame) = self.next().await {
                all.push(frame);
            }
            all
        };
        timeout(deadline, read).await.expect("the connection ends")
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame");
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A request as a frame.
pub fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &fields(path))
}

/// The same, given up at once.
pub fn get_and_reset(stream: u32, path: &str) -> Vec<u8> {
    let reset = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    [get(stream, path), reset].concat()
}

/// A request's fields, by the static table and as plain text.
pub fn fields(path: &str) -> Vec<u8> {
    let mut fields = vec![0x82, 0x86];
    for (name, value) in [(0x04, path), (0x01, "localhost")] {
        fields.push(name);
        fields.push(u8::try_from(value.len()).expect("a short value"));
        fields.extend_from_slice(value.as_bytes());
    }
    fields
}
