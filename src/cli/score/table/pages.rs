//! Owns how pages of a Parquet file are read: each column by itself, from its own offset, within bounds.
//!
//! Promises that no page is unpacked which claims more than its bound, its column chunk or the file has, or that unpacks to more than it
//! claims.

use super::{
    MAX_PAGE_BYTES, MAX_UNPACKED_BYTES,
    header::{HEADER_BYTES, Header},
};
use ::parquet::{
    arrow::arrow_reader::RowGroups,
    basic::{Compression, Encoding},
    column::page::{Page, PageIterator, PageMetadata, PageReader},
    errors::Result,
    file::{
        metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData},
        reader::{ChunkReader, Length},
        serialized_reader::SerializedPageReader,
    },
};
use bytes::Bytes;
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::FileExt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
};

/// Bytes of a page whose texts share their beginnings: each may be as long as all that came before it.
const MAX_SHARED_BYTES: usize = 8 << 20;
/// Values that lists may hold of the rows that are read at once.
const MAX_LIST_VALUES: i64 = 32 << 20;
/// How many times as long gzip's output is as its input, at most.
const GZIP_RATIO: usize = 1_032;

/// What the readers of a file share.
#[derive(Debug, Default)]
pub(super) struct Bounds {
    /// Bytes that are unpacked now.
    held: AtomicUsize,
    /// Values of lists that were read since the last rows came.
    pub list_values: AtomicI64,
    problem: Mutex<Option<String>>,
}

impl Bounds {
    /// What was found to be over its bound.
    pub fn problem(&self) -> Option<String> {
        let problem = self.problem.lock();
        problem.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn refuse(&self, problem: String) -> io::Error {
        let mut known = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        known.get_or_insert(problem);
        io::ErrorKind::InvalidData.into()
    }
}

/// A row group whose pages are read within bounds.
pub(super) struct BoundedGroup {
    pub file: Arc<File>,
    pub metadata: Arc<ParquetMetaData>,
    pub group: usize,
    pub bounds: Arc<Bounds>,
}

impl RowGroups for BoundedGroup {
    fn num_rows(&self) -> usize {
        let rows = self.metadata.row_group(self.group).num_rows();
        usize::try_from(rows).unwrap_or_default()
    }

    fn column_chunks(&self, column: usize) -> Result<Box<dyn PageIterator>> {
        let group = self.metadata.row_group(self.group);
        let chunk = group.column(column);
        let chunk_of = State {
            file: self.file.clone(),
            bounds: self.bounds.clone(),
            name: chunk.column_path().string(),
            compression: chunk.compression(),
            claimed: usize::try_from(chunk.uncompressed_size()).unwrap_or_default(),
            header: Mutex::new(Header::default()),
            dictionary: AtomicUsize::new(0),
            page: AtomicUsize::new(0),
        };
        let pages = BoundedPages::new(chunk_of, chunk, self.num_rows())?;
        Ok(Box::new(One(Some(Box::new(pages)))))
    }

    fn row_groups(&self) -> Box<dyn Iterator<Item = &RowGroupMetaData> + '_> {
        Box::new(std::iter::once(self.metadata.row_group(self.group)))
    }

    fn metadata(&self) -> &ParquetMetaData {
        &self.metadata
    }
}

/// The pages of one column chunk, as the iterator that readers want.
struct One(Option<Box<dyn PageReader>>);

impl Iterator for One {
    type Item = Result<Box<dyn PageReader>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.take().map(Ok)
    }
}

impl PageIterator for One {}

/// Pages whose claims are looked at before anybody takes them at their word.
struct BoundedPages {
    pages: SerializedPageReader<Chunk>,
    chunk: Arc<State>,
    is_list: bool,
}

impl BoundedPages {
    fn new(chunk: State, about: &ColumnChunkMetaData, rows: usize) -> Result<Self> {
        let chunk = Arc::new(chunk);
        let reader = Arc::new(Chunk(chunk.clone()));
        Ok(Self {
            pages: SerializedPageReader::new(reader, about, rows, None)?,
            chunk,
            is_list: about.column_descr().max_rep_level() > 0,
        })
    }

    fn check(&self, page: Page) -> Result<Page> {
        let (values, bytes) = (page.num_values(), page.buffer().len());
        if page.is_dictionary_page() && values as usize > bytes {
            let what = format!("is a dictionary that claims {values} values in {bytes} bytes");
            return Err(self.chunk.refuse(&what).into());
        }
        if page.encoding() == Encoding::DELTA_BYTE_ARRAY && bytes > MAX_SHARED_BYTES {
            let what = format!(
                "has {bytes} bytes of texts that share their beginnings, and may have {MAX_SHARED_BYTES}"
            );
            return Err(self.chunk.refuse(&what).into());
        }
        if self.is_list {
            let read = &self.chunk.bounds.list_values;
            let before = read.fetch_add(values.into(), Ordering::Relaxed);
            if before.saturating_add(values.into()) > MAX_LIST_VALUES {
                let what = format!("brings a list to more than {MAX_LIST_VALUES} values");
                return Err(self.chunk.refuse(&what).into());
            }
        }
        Ok(page)
    }
}

impl Iterator for BoundedPages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for BoundedPages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.pages.get_next_page()?;
        page.map(|page| self.check(page)).transpose()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.pages.at_record_boundary()
    }
}

/// One column chunk, and what of it is in memory.
struct State {
    file: Arc<File>,
    bounds: Arc<Bounds>,
    name: String,
    compression: Compression,
    /// Bytes that all its pages claim together.
    claimed: usize,
    /// The header that was read last.
    header: Mutex<Header>,
    /// Bytes that its dictionary and its page hold now.
    dictionary: AtomicUsize,
    page: AtomicUsize,
}

impl State {
    fn refuse(&self, what: &str) -> io::Error {
        let name = &self.name;
        self.bounds
            .refuse(format!("a page of column `{name}` {what}"))
    }

    /// Looks at what a page claims, before it is unpacked.
    fn admit(&self, header: Header) -> io::Result<()> {
        let unpacked = header.unpacked;
        if unpacked > MAX_PAGE_BYTES || header.packed > MAX_PAGE_BYTES {
            let claimed = unpacked.max(header.packed);
            return Err(self.refuse(&format!(
                "claims {claimed} bytes, and may have {MAX_PAGE_BYTES}"
            )));
        }
        if unpacked > self.claimed {
            return Err(self.refuse("claims more bytes than all pages of its row group together"));
        }
        let held = match header.is_dictionary() {
            true => &self.dictionary,
            false => &self.page,
        };
        let before = held.swap(unpacked, Ordering::Relaxed);
        let all = &self.bounds.held;
        all.fetch_sub(before, Ordering::Relaxed);
        if all.fetch_add(unpacked, Ordering::Relaxed) + unpacked > MAX_UNPACKED_BYTES {
            let problem =
                format!("pages that are read together claim more than {MAX_UNPACKED_BYTES} bytes");
            return Err(self.bounds.refuse(problem));
        }
        let mut known = self.header.lock().unwrap_or_else(PoisonError::into_inner);
        *known = header;
        Ok(())
    }

    /// Gzip alone is unpacked to whatever it holds: it is looked at first how much that is.
    fn check_gzip(&self, packed: &[u8]) -> io::Result<()> {
        let header = *self.header.lock().unwrap_or_else(PoisonError::into_inner);
        let is_small = packed.len().saturating_mul(GZIP_RATIO) <= MAX_PAGE_BYTES / 8;
        if !matches!(self.compression, Compression::GZIP(_)) || is_small || header.is_plain {
            return Ok(());
        }
        let claimed = header.unpacked.saturating_sub(header.levels) as u64;
        let unpacker =
            flate2::bufread::MultiGzDecoder::new(packed.get(header.levels..).unwrap_or_default());
        let unpacked = io::copy(&mut unpacker.take(claimed + 1), &mut io::sink())?;
        match unpacked > claimed {
            true => Err(self.refuse("unpacks to more than it claims")),
            false => Ok(()),
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let held = self.dictionary.load(Ordering::Relaxed) + self.page.load(Ordering::Relaxed);
        self.bounds.held.fetch_sub(held, Ordering::Relaxed);
    }
}

/// The bytes of one column chunk.
struct Chunk(Arc<State>);

impl Length for Chunk {
    fn len(&self) -> u64 {
        self.0.file.metadata().map_or(0, |about| about.len())
    }
}

impl ChunkReader for Chunk {
    type T = HeaderReader;

    fn get_read(&self, start: u64) -> Result<HeaderReader> {
        Ok(HeaderReader {
            bytes: BufReader::with_capacity(HEADER_BYTES, At(self.0.file.clone(), start)),
            chunk: self.0.clone(),
            is_known: false,
        })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        if length > MAX_PAGE_BYTES {
            return Err(self.0.refuse("is over its bound").into());
        }
        let mut bytes = vec![0; length];
        self.0.file.read_exact_at(&mut bytes, start)?;
        self.0.check_gzip(&bytes)?;
        Ok(bytes.into())
    }
}

/// Reads a page's header, once it was looked at.
struct HeaderReader {
    bytes: BufReader<At>,
    chunk: Arc<State>,
    is_known: bool,
}

impl Read for HeaderReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !std::mem::replace(&mut self.is_known, true) {
            let header = Header::read(self.bytes.fill_buf()?);
            let header = header.ok_or_else(|| self.chunk.refuse("has no header"))?;
            self.chunk.admit(header)?;
        }
        self.bytes.read(buffer)
    }
}

/// A file from an offset on, whatever others read of it meanwhile.
struct At(Arc<File>, u64);

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read_at(buffer, self.1)?;
        self.1 += read as u64;
        Ok(read)
    }
}
