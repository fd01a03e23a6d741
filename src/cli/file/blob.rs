//! Owns where a file's bytes come from: this machine's disk, or a store elsewhere.

use super::remote::Object;
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

/// A file that was opened, which may be read anywhere and by many at once.
#[derive(Clone)]
pub enum Blob {
    File(Arc<File>),
    Object(Arc<Object>),
}

impl Blob {
    /// How many bytes it has; nothing where it is a pipe or a device.
    pub fn size(&self) -> Option<u64> {
        match self {
            Self::File(file) => {
                let about = file.metadata().ok()?;
                about.is_file().then_some(about.len())
            }
            Self::Object(object) => Some(object.bytes()),
        }
    }

    /// Reads what comes at an offset, as much as there is room for.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read_at(buffer, offset),
            Self::Object(object) => object.read_at(buffer, offset),
        }
    }

    /// Fills a buffer with what comes at an offset.
    #[cfg_attr(
        not(feature = "parquet"),
        expect(dead_code, reason = "only tables are read by offset")
    )]
    pub fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            let read = self.read_at(buffer, offset)?;
            let (_, rest) = buffer.split_at_mut(read);
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buffer = rest;
            offset += read as u64;
        }
        Ok(())
    }

    /// Reads on from an offset, by one reader at a time.
    pub fn reader(&self, from: u64) -> io::Result<Box<dyn Read + Send>> {
        match self {
            Self::File(file) => {
                let mut file = file.try_clone()?;
                // A pipe can't go anywhere, and is read as it comes.
                if self.size().is_some() {
                    file.seek(SeekFrom::Start(from))?;
                }
                Ok(Box::new(file))
            }
            Self::Object(object) => Ok(Box::new(object.reader(from))),
        }
    }
}

/// Whether a name is an address of a store elsewhere.
pub fn is_remote(path: &Path) -> bool {
    let schemes = ["s3://", "gs://", "az://", "http://", "https://"];
    let name = path.to_str().unwrap_or_default();
    schemes.iter().any(|scheme| name.starts_with(scheme))
}
