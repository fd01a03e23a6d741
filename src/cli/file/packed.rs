//! Owns how a file is packed: plain, gzip or zstd.
//!
//! Promises that what is read is known by its first bytes, whatever its name, and is unpacked as it is read: in bounded memory, however much
//! it unpacks to.

use flate2::{Compression, bufread::MultiGzDecoder, write::GzEncoder};
use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write},
    path::Path,
};

/// What a file's bytes are packed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// Bytes that are read at once.
const BUFFER: usize = 1 << 17;
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Level of gzip and zstd: the fastest ones are half as slow as the rest of the work, at most.
const LEVEL: u32 = 3;

impl Packing {
    /// By a file's name.
    pub fn of_name(path: &Path) -> Self {
        match path.extension().and_then(|end| end.to_str()) {
            Some("gz") => Self::Gzip,
            Some("zst") => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// A file's bytes as they were before they were packed, and what they were packed with.
pub fn unpack(
    source: impl Read + Send + 'static,
) -> io::Result<(Box<dyn BufRead + Send>, Packing)> {
    let mut source = BufReader::with_capacity(BUFFER, source);
    let start = source.fill_buf()?;
    let packing = if start.starts_with(GZIP) {
        Packing::Gzip
    } else if start.starts_with(ZSTD) {
        Packing::Zstd
    } else {
        Packing::Plain
    };
    let unpacked: Box<dyn BufRead + Send> = match packing {
        Packing::Plain => Box::new(source),
        Packing::Gzip => Box::new(BufReader::with_capacity(
            BUFFER,
            MultiGzDecoder::new(source),
        )),
        Packing::Zstd => {
            let decoder = zstd::Decoder::with_buffer(source)?;
            Box::new(BufReader::with_capacity(BUFFER, decoder))
        }
    };
    Ok((unpacked, packing))
}

/// Packs what is written into a file.
pub enum Packer {
    Plain(BufWriter<File>),
    Gzip(Box<GzEncoder<BufWriter<File>>>),
    Zstd(Box<zstd::Encoder<'static, BufWriter<File>>>),
}

impl Packer {
    /// Goes on at the file's position.
    pub fn new(file: File, packing: Packing) -> io::Result<Self> {
        let file = BufWriter::with_capacity(BUFFER, file);
        Ok(match packing {
            Packing::Plain => Self::Plain(file),
            Packing::Gzip => Self::Gzip(Box::new(GzEncoder::new(file, Compression::new(LEVEL)))),
            Packing::Zstd => Self::Zstd(Box::new(zstd::Encoder::new(file, LEVEL as i32)?)),
        })
    }

    /// Bytes of the file by now: of what is packed, those that the packer has let go.
    pub fn bytes(&self) -> io::Result<u64> {
        let file = match self {
            Self::Plain(file) => file,
            Self::Gzip(packer) => packer.get_ref(),
            Self::Zstd(packer) => packer.get_ref(),
        };
        let waiting = file.buffer().len() as u64;
        let mut file: &File = file.get_ref();
        Ok(file.stream_position()? + waiting)
    }

    /// Ends what is packed, and gives the file back with all that was written.
    pub fn finish(self) -> io::Result<File> {
        let file = match self {
            Self::Plain(file) => file,
            Self::Gzip(packer) => packer.finish()?,
            Self::Zstd(packer) => packer.finish()?,
        };
        file.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

impl Write for Packer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.write(bytes),
            Self::Gzip(packer) => packer.write(bytes),
            Self::Zstd(packer) => packer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.flush(),
            Self::Gzip(packer) => packer.flush(),
            Self::Zstd(packer) => packer.flush(),
        }
    }
}
