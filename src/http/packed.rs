//! Unpacks requests' bodies, and packs answers: gzip and zstd.
//!
//! Promises that a body is no larger once it is unpacked than a plain one may be, whatever it says of itself, and that neither is done on the port's
//! own thread where it takes long. What watches the worker is answered as it is: nothing keeps that waiting.

use super::{accepted, apart::apart, permits::PROBED, problem::Problem};
use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{MatchedPath, Request},
    http::{HeaderMap, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};
use http_body_util::BodyExt;
use std::{
    io::{self, Read, Write},
    ops::RangeInclusive,
};

/// Answers that are packed, in bytes: little is won of smaller ones, and the time that a larger one takes would be others'.
const PACKED: RangeInclusive<u64> = 1_024..=8 << 20;
/// Level of both: the fastest.
const LEVEL: u32 = 1;
/// Largest window that is kept of a zstd body, as a power of two: RFC 9659 has no larger ones over HTTP.
const WINDOW_LOG: u32 = 23;

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Gzip,
    Zstd,
}

impl Packing {
    /// How a request's body is packed, if it is.
    pub(super) fn of(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let mut said = headers.get_all(header::CONTENT_ENCODING).iter();
        let Some(first) = said.next() else {
            return Ok(None);
        };
        let name = first.to_str().unwrap_or_default().trim();
        let is = |one: &str| name.eq_ignore_ascii_case(one);
        match said.next() {
            None if is("gzip") || is("x-gzip") => Ok(Some(Self::Gzip)),
            None if is("zstd") => Ok(Some(Self::Zstd)),
            None if is("identity") => Ok(None),
            _ => Err(Problem::bad_encoding()),
        }
    }

    /// What a client wants an answer packed by; zstd where it wants both alike, as it takes less time.
    fn wanted(headers: &HeaderMap) -> Option<Self> {
        let gzip = accepted::encoding(headers, "gzip");
        let zstd = accepted::encoding(headers, "zstd");
        match (gzip, zstd) {
            (0, 0) => None,
            _ if gzip > zstd => Some(Self::Gzip),
            _ => Some(Self::Zstd),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// A body as it was before it was packed.
    pub(super) async fn unpack(self, body: Bytes, limit: usize) -> Result<Bytes, Problem> {
        if body.is_empty() {
            return Ok(body);
        }
        // A small body may unpack to a large one.
        apart(usize::MAX, move || self.unpacked(&body, limit)).await
    }

    fn unpacked(self, body: &[u8], limit: usize) -> Result<Bytes, Problem> {
        let mut plain = Vec::new();
        // One more byte shows that there are too many.
        let max = (limit as u64).saturating_add(1);
        let read = match self {
            Self::Gzip => MultiGzDecoder::new(body).take(max).read_to_end(&mut plain),
            Self::Zstd => unpack_zstd(body, max, &mut plain),
        };
        if plain.len() > limit {
            let expected = format!(
                "expected at most {limit} bytes once it is unpacked (of a job's body: `intake.max_body_bytes`)"
            );
            return Err(Problem::too_large(expected));
        }
        match read {
            Ok(_) => {
                plain.shrink_to_fit();
                Ok(plain.into())
            }
            // What the library says may be of the body.
            Err(_) => Err(Problem::invalid(
                header::CONTENT_ENCODING.as_str(),
                format!("the body isn't whole {}", self.name()),
            )),
        }
    }

    fn packed(self, body: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip => {
                let mut packer = GzEncoder::new(Vec::new(), Compression::new(LEVEL));
                packer.write_all(body)?;
                packer.finish()
            }
            Self::Zstd => zstd::bulk::compress(body, LEVEL as i32),
        }
    }
}

fn unpack_zstd(body: &[u8], max: u64, plain: &mut Vec<u8>) -> io::Result<usize> {
    let mut decoder = zstd::Decoder::with_buffer(body)?;
    decoder.window_log_max(WINDOW_LOG)?;
    decoder.take(max).read_to_end(plain)
}

/// Packs an answer for a client that takes it so.
pub(super) async fn pack(request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>();
    let is_probe = path.is_some_and(|path| PROBED.contains(&path.as_str()));
    let wanted = Packing::wanted(request.headers());
    let response = next.run(request).await;
    let size = response.body().size_hint().exact();
    let Some(size) = size.filter(|size| PACKED.contains(size)) else {
        return response;
    };
    if is_probe || !is_packable(response.headers()) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let by = HeaderValue::from_static("accept-encoding");
    parts.headers.append(header::VARY, by);
    let Some(packing) = wanted else {
        return Response::from_parts(parts, body);
    };
    let Ok(whole) = body.collect().await else {
        return Problem::unavailable("the answer can't be written").into_response();
    };
    let plain = whole.to_bytes();
    let kept = plain.clone();
    let work = move || Ok(packing.packed(&plain).ok());
    let packed = apart(usize::try_from(size).unwrap_or(usize::MAX), work).await;
    match packed {
        Ok(Some(packed)) if packed.len() < kept.len() => {
            let name = HeaderValue::from_static(packing.name());
            parts.headers.insert(header::CONTENT_ENCODING, name);
            parts.headers.remove(header::CONTENT_LENGTH);
            Response::from_parts(parts, Body::from(packed))
        }
        _ => Response::from_parts(parts, Body::from(kept)),
    }
}

/// Whether an answer is a text that nobody has packed yet.
fn is_packable(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let is_text = kind.starts_with("text/") || kind.starts_with("application/json");
    is_text && !headers.contains_key(header::CONTENT_ENCODING)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Packing; 2] = [Packing::Gzip, Packing::Zstd];

    fn status(unpacked: Result<Bytes, Problem>) -> Result<usize, u16> {
        unpacked
            .map(|bytes| bytes.len())
            .map_err(|problem| problem.status_code())
    }

    #[test]
    fn what_is_packed_comes_back_and_no_more_of_it_than_may() {
        for packing in BOTH {
            let plain = b"{\"model\": \"sentiment\"}".repeat(500);
            let packed = packing.packed(&plain).expect("packed");
            assert!(packed.len() < plain.len() / 10);
            let limit = plain.len();
            let back = packing.unpacked(&packed, limit).expect("unpacked");
            assert_eq!(back, plain);
            assert_eq!(status(packing.unpacked(&packed, limit - 1)), Err(413));
            // Two after one another are one.
            let twice = [packed.clone(), packed.clone()].concat();
            assert_eq!(status(packing.unpacked(&twice, 2 * limit)), Ok(2 * limit));
            for bad in [
                &packed[..packed.len() - 1],
                &packed[1..],
                b"{}",
                &[0xff; 40],
            ] {
                assert_eq!(
                    status(packing.unpacked(bad, limit)),
                    Err(400),
                    "{packing:?}"
                );
            }
        }
    }

    #[test]
    fn a_bomb_is_told_by_its_limit_in_bounded_memory() {
        for packing in BOTH {
            let bomb = packing.packed(&vec![0; 64 << 20]).expect("packed");
            assert!(bomb.len() < 1 << 20, "{}", bomb.len());
            let limit = 1 << 16;
            let refused = packing.unpacked(&bomb, limit).expect_err("too large");
            assert_eq!(refused.status_code(), 413);
            assert!(format!("{refused:?}").contains("65536"), "{refused:?}");
        }
        // A frame that wants a window of 512 MiB for nothing.
        let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x98, 0x01, 0x00, 0x00];
        assert_eq!(status(Packing::Zstd.unpacked(&window, 1 << 20)), Err(400));
    }

    #[test]
    fn one_packing_is_known_by_its_name() {
        let of = |said: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in said {
                let value = value.parse().expect("a header");
                headers.append(header::CONTENT_ENCODING, value);
            }
            Packing::of(&headers).map_err(|problem| problem.status_code())
        };
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["identity"]), Ok(None));
        assert_eq!(of(&["GZip"]), Ok(Some(Packing::Gzip)));
        assert_eq!(of(&["zstd"]), Ok(Some(Packing::Zstd)));
        for bad in [
            &["br"][..],
            &["gzip, gzip"],
            &["gzip", "zstd"],
            &[""],
            &["deflate"],
        ] {
            assert_eq!(of(bad), Err(415), "{bad:?}");
        }
    }

    #[test]
    fn an_answer_is_packed_as_its_client_wants_most() {
        let wanted = |said: &'static str| {
            let mut headers = HeaderMap::new();
            let value = HeaderValue::from_static(said);
            headers.insert(header::ACCEPT_ENCODING, value);
            Packing::wanted(&headers)
        };
        assert_eq!(wanted("gzip, deflate, br, zstd"), Some(Packing::Zstd));
        assert_eq!(wanted("gzip, zstd;q=0.9"), Some(Packing::Gzip));
        assert_eq!(wanted("gzip"), Some(Packing::Gzip));
        for none in ["br", "identity", "", "gzip;q=0, zstd;q=0", "*;q=0"] {
            assert_eq!(wanted(none), None, "{none}");
        }
    }
}
