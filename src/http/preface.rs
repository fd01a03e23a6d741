//! Tells HTTP/1 from HTTP/2 by a connection's first bytes.
//!
//! Promises that what was read to know it is read again by whoever serves the connection, and that one byte which isn't the preface's is enough. Refuses to
//! switch later: neither by `Upgrade: h2c` nor by anything else.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// What a client sends first that knows that HTTP/2 is spoken (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    Http2,
}

/// A stream whose first bytes were read, and are read again.
pub(super) struct Rewound<S> {
    stream: S,
    bytes: [u8; PREFACE.len()],
    /// How many of them there are, and how many were read again.
    length: usize,
    again: usize,
}

/// Reads as much of a stream as it takes to know what is spoken on it.
pub(super) async fn version<S: AsyncRead + Unpin>(
    mut stream: S,
) -> io::Result<(Version, Rewound<S>)> {
    let mut bytes = [0; PREFACE.len()];
    let mut length = 0;
    while bytes != *PREFACE {
        let (seen, rest) = bytes.split_at_mut(length);
        if !PREFACE.starts_with(seen) {
            break;
        }
        match stream.read(rest).await? {
            0 => break,
            read => length += read,
        }
    }
    let version = match bytes == *PREFACE {
        true => Version::Http2,
        false => Version::Http1,
    };
    let rewound = Rewound {
        stream,
        bytes,
        length,
        again: 0,
    };
    Ok((version, rewound))
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.bytes.get(self.again..self.length).unwrap_or_default();
        if left.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let count = left.len().min(buffer.remaining());
        buffer.put_slice(left.get(..count).unwrap_or_default());
        self.again += count;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncWriteExt, duplex};

    #[tokio::test]
    async fn what_is_spoken_is_known_by_the_first_bytes_which_are_read_again() {
        let whole = [&PREFACE[..], b"and more"].concat();
        for (sent, version) in [
            (&whole[..], Version::Http2),
            (PREFACE, Version::Http2),
            (b"GET / HTTP/1.1\r\n\r\n", Version::Http1),
            (b"PRI * HTTP/2.0\r\n\r\nSN", Version::Http1),
            (b"PRI * HTTP/1.1\r\n\r\n", Version::Http1),
            (b"POST / HTTP/1.1\r\n\r\n", Version::Http1),
            (b"P", Version::Http1),
            (b"", Version::Http1),
        ] {
            for step in [1, 7, 64] {
                let (mut theirs, ours) = duplex(step);
                let send = async {
                    theirs.write_all(sent).await.expect("sent");
                    theirs.shutdown().await.expect("ended");
                };
                let take = async {
                    let (found, mut rewound) = super::version(ours).await.expect("bytes");
                    let mut all = Vec::new();
                    rewound.read_to_end(&mut all).await.expect("bytes");
                    (found, all)
                };
                let ((), found) = tokio::join!(send, take);
                assert_eq!(found, (version, sent.to_vec()), "{step} at a time");
            }
        }
    }

    #[tokio::test]
    async fn one_byte_that_is_not_the_prefaces_is_enough() {
        let (mut theirs, ours) = duplex(64);
        theirs.write_all(b"G").await.expect("sent");
        let (found, _) = version(ours).await.expect("bytes");
        assert_eq!(found, Version::Http1, "and no second one came");
    }
}
