//! Owns how pages of a Parquet file are read: each column by itself, from its own offset, within bounds.
//!
//! Promises that no page is unpacked which claims more than its bound, its column chunk or the file has, or that unpacks to more than it
//! claims.

use super::{
    MAX_PAGE_BYTES, MAX_UNPACKED_BYTES, clipped,
    header::{HEADER_BYTES, Header},
    values,
};
use crate::cli::file::Blob;
use ::parquet::{
    arrow::arrow_reader::RowGroups,
    basic::Compression,
    column::page::{Page, PageIterator, PageMetadata, PageReader},
    errors::Result,
    file::{
        metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData},
        reader::{ChunkReader, Length},
        serialized_reader::SerializedPageReader,
    },
    schema::types::ColumnDescPtr,
};
use bytes::Bytes;
use std::{
    io::{self, BufRead, BufReader, Read},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// How many times as long gzip's output is as its input, at most.
const GZIP_RATIO: usize = 1_032;

/// What the readers of a file share.
#[derive(Debug, Default)]
pub(super) struct Bounds {
    /// Bytes that are in memory of what is unpacked, and of what is made of it before rows come.
    held: AtomicUsize,
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

    /// Holds so many bytes more.
    fn hold(&self, bytes: usize) -> io::Result<()> {
        let before = self.held.fetch_add(bytes, Ordering::Relaxed);
        match before.saturating_add(bytes) > MAX_UNPACKED_BYTES {
            true => Err(self.refuse(format!(
                "what is read together of it takes more than {MAX_UNPACKED_BYTES} bytes: name fewer columns, as --keep-columns=a,b, or write smaller pages"
            ))),
            false => Ok(()),
        }
    }

    fn drop_held(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A row group whose pages are read within bounds.
pub(super) struct BoundedGroup {
    pub file: Blob,
    pub metadata: Arc<ParquetMetaData>,
    pub group: usize,
    pub bounds: Arc<Bounds>,
    /// Bytes of values that pages brought which are over, and whose rows haven't come.
    pub brought: Arc<AtomicUsize>,
}

impl BoundedGroup {
    /// Rows came, and are worked on: what they were made of is no more.
    pub fn rows_came(&self) {
        let over = self.brought.swap(0, Ordering::Relaxed);
        self.bounds.drop_held(over);
    }
}

impl Drop for BoundedGroup {
    fn drop(&mut self) {
        self.rows_came();
    }
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
            brought: self.brought.clone(),
            name: clipped(&chunk.column_path().string()),
            compression: chunk.compression(),
            claimed: usize::try_from(chunk.uncompressed_size()).unwrap_or_default(),
            header: Mutex::new(Header::default()),
            dictionary: AtomicUsize::new(0),
            page: AtomicUsize::new(0),
            packed: AtomicUsize::new(0),
            values: AtomicUsize::new(0),
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
    column: ColumnDescPtr,
}

impl BoundedPages {
    fn new(chunk: State, about: &ColumnChunkMetaData, rows: usize) -> Result<Self> {
        let chunk = Arc::new(chunk);
        let reader = Arc::new(Chunk(chunk.clone()));
        Ok(Self {
            pages: SerializedPageReader::new(reader, about, rows, None)?,
            chunk,
            column: about.column_descr_ptr(),
        })
    }

    fn check(&self, page: Page) -> Result<Page> {
        if page.is_dictionary_page() {
            let count = page.num_values() as usize;
            let more = values::of_dictionary(count, page.buffer().len(), &self.column);
            let more = more.map_err(|what| self.chunk.refuse(&what))?;
            self.chunk.dictionary.fetch_add(more, Ordering::Relaxed);
            self.chunk.bounds.hold(more)?;
            return Ok(page);
        }
        let bytes = values::brought(&page, &self.column);
        let bytes =
            bytes.ok_or_else(|| self.chunk.refuse("has texts whose lengths can't be read"))?;
        self.chunk.hold_values(bytes)?;
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
        self.chunk.unpacked();
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
    file: Blob,
    bounds: Arc<Bounds>,
    brought: Arc<AtomicUsize>,
    name: String,
    compression: Compression,
    /// Bytes that all its pages claim together.
    claimed: usize,
    /// The header that was read last.
    header: Mutex<Header>,
    /// Bytes that its dictionary and its page hold now, and the page as it is packed.
    dictionary: AtomicUsize,
    page: AtomicUsize,
    packed: AtomicUsize,
    /// Bytes of values that its page brings, whichever rows they are of.
    values: AtomicUsize,
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
        self.bounds.drop_held(before);
        self.unpacked();
        self.packed.store(header.packed, Ordering::Relaxed);
        self.bounds.hold(unpacked + header.packed)?;
        let mut known = self.header.lock().unwrap_or_else(PoisonError::into_inner);
        *known = header;
        Ok(())
    }

    /// Its page is unpacked: what it was packed as is no more.
    fn unpacked(&self) {
        self.bounds
            .drop_held(self.packed.swap(0, Ordering::Relaxed));
    }

    /// Holds what the values of another page take: those of the page before may be without their rows still.
    fn hold_values(&self, bytes: usize) -> io::Result<()> {
        let before = self.values.swap(bytes, Ordering::Relaxed);
        self.brought.fetch_add(before, Ordering::Relaxed);
        self.bounds.hold(bytes)
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
        let each = [&self.dictionary, &self.page, &self.packed, &self.values];
        let held = each.iter().map(|held| held.load(Ordering::Relaxed));
        self.bounds.drop_held(held.sum());
    }
}

/// The bytes of one column chunk.
struct Chunk(Arc<State>);

impl Length for Chunk {
    fn len(&self) -> u64 {
        self.0.file.size().unwrap_or_default()
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

/// The bytes of a whole file, for its footer.
pub(super) struct Whole(pub Blob);

impl Length for Whole {
    fn len(&self) -> u64 {
        self.0.size().unwrap_or_default()
    }
}

impl ChunkReader for Whole {
    type T = BufReader<At>;

    fn get_read(&self, start: u64) -> Result<BufReader<At>> {
        Ok(BufReader::with_capacity(
            HEADER_BYTES,
            At(self.0.clone(), start),
        ))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let mut bytes = vec![0; length];
        self.0.read_exact_at(&mut bytes, start)?;
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
pub(super) struct At(Blob, u64);

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read_at(buffer, self.1)?;
        self.1 += read as u64;
        Ok(read)
    }
}
