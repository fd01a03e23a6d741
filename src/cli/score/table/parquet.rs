//! Owns reading Parquet files: what their footers claim is looked at first, then row groups are read, several at a time where they are small.
//!
//! Promises rows in the file's order, and that what a footer claims is either true or ends the run.

use super::{
    MAX_PAGE_BYTES, Wanted, cells,
    pages::{BoundedGroup, Bounds},
    plan::Plan,
    rows::{self, Taker},
};
use crate::cli::score::item::Position;
use ::parquet::{
    arrow::{
        FieldLevels, ProjectionMask, arrow_reader::ParquetRecordBatchReader,
        parquet_to_arrow_field_levels, parquet_to_arrow_schema,
    },
    basic::{Compression, Encoding, Repetition, Type as Physical},
    file::metadata::{
        ColumnChunkMetaData, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader,
    },
    schema::types::{SchemaDescriptor, Type, TypePtr},
};
use anyhow::{Context, anyhow, bail};
use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Fields, Schema};
use kiln_contract::job::MAX_INPUTS;
use std::{
    collections::VecDeque,
    fs::File,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, Scope},
};

const MAGIC: &[u8] = b"PAR1";
/// Bytes of a footer.
const MAX_FOOTER_BYTES: u32 = 64 << 20;
/// Rows of a row group.
const MAX_GROUP_ROWS: i64 = 1 << 30;
/// Row groups that are read at once, and what they claim together.
const MAX_AT_ONCE: usize = 4;
const MAX_AT_ONCE_BYTES: i64 = MAX_PAGE_BYTES as i64;
/// Rows that are read together where texts share their beginnings: each of them may be as long as its page.
const SHARED_ROWS: usize = 32;
/// Bytes of rows that are read together, by what their row group has on average.
const BATCH_BYTES: usize = 8 << 20;

/// A file that was opened.
pub(in super::super) struct Parquet {
    file: Arc<File>,
    bytes: u64,
    metadata: Arc<ParquetMetaData>,
    levels: FieldLevels,
    plan: Arc<Plan>,
    /// The leaves of the columns that are read.
    leaves: Vec<usize>,
}

impl Parquet {
    /// Reads and checks the footer.
    pub fn open(shown: &str, file: &File, wanted: &Wanted<'_>) -> anyhow::Result<Self> {
        let unreadable = || format!("{shown} can't be read");
        let bytes = file.metadata().with_context(unreadable)?.len();
        check_magic(shown, file, bytes)?;
        let damaged = || anyhow!("{shown}: its footer can't be read: the file is damaged");
        let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Skip);
        let metadata = reader.parse_and_finish(file).map_err(|_| damaged())?;
        let about = metadata.file_metadata();
        let schema = parquet_to_arrow_schema(about.schema_descr(), about.key_value_metadata());
        let schema = schema.map_err(|_| damaged())?;
        let plan = Plan::new(&schema, wanted).with_context(|| shown.to_owned())?;
        let read_as = read_as(about.schema_descr(), &schema, &plan);
        let read_as = read_as.ok_or_else(damaged)?;
        let mask = ProjectionMask::roots(&read_as, plan.read.iter().copied());
        let leaves = 0..read_as.num_columns();
        let leaves: Vec<usize> = leaves.filter(|leaf| mask.leaf_included(*leaf)).collect();
        let levels = parquet_to_arrow_field_levels(&read_as, mask, Some(&hints(&schema, &plan)));
        let table = Self {
            file: Arc::new(file.try_clone().with_context(unreadable)?),
            bytes,
            levels: levels.map_err(|_| damaged())?,
            plan: Arc::new(plan),
            leaves,
            metadata: Arc::new(metadata),
        };
        table.check().with_context(|| shown.to_owned())?;
        Ok(table)
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Looks at what the footer claims of what is read.
    fn check(&self) -> anyhow::Result<()> {
        for (at, group) in self.metadata.row_groups().iter().enumerate() {
            let (number, rows) = (at + 1, group.num_rows());
            if !(0..=MAX_GROUP_ROWS).contains(&rows) {
                bail!("row group {number} claims {rows} rows, and may have {MAX_GROUP_ROWS}");
            }
            for leaf in &self.leaves {
                let chunk = group.columns().get(*leaf);
                let chunk = chunk.with_context(|| format!("row group {number} lacks a column"))?;
                let name = chunk.column_path().string();
                self.check_chunk(chunk, rows)
                    .with_context(|| format!("row group {number}, column `{name}`"))?;
            }
        }
        Ok(())
    }

    fn check_chunk(&self, chunk: &ColumnChunkMetaData, rows: i64) -> anyhow::Result<()> {
        let offsets = [
            Some(chunk.data_page_offset()),
            chunk.dictionary_page_offset(),
        ];
        let is_negative = offsets.iter().flatten().any(|offset| *offset < 0);
        if is_negative || chunk.compressed_size() < 0 || chunk.uncompressed_size() < 0 {
            bail!("its pages are nowhere in the file");
        }
        let (start, length) = chunk.byte_range();
        if start.checked_add(length).is_none_or(|end| end > self.bytes) {
            bail!("its pages lie beyond the end of the file: was it cut?");
        }
        if chunk.column_descr().max_rep_level() == 0 && chunk.num_values() != rows {
            bail!("{rows} rows are claimed, and {} values", chunk.num_values());
        }
        match chunk.compression() {
            Compression::UNCOMPRESSED
            | Compression::SNAPPY
            | Compression::GZIP(_)
            | Compression::ZSTD(_)
            | Compression::LZ4_RAW => Ok(()),
            Compression::BROTLI(_) => bail!("{}", not_read("Brotli")),
            Compression::LZO => bail!("{}", not_read("LZO")),
            Compression::LZ4 => bail!("{}", not_read("the older LZ4")),
        }
    }

    /// Row groups that are read at once.
    fn at_once(&self) -> usize {
        let groups = self.metadata.row_groups().iter();
        let claimed = groups.map(|group| {
            let chunks = self
                .leaves
                .iter()
                .filter_map(|leaf| group.columns().get(*leaf));
            chunks.fold(0_i64, |all, chunk| {
                all.saturating_add(chunk.uncompressed_size())
            })
        });
        let largest = claimed.max().unwrap_or_default().max(1);
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let fit = usize::try_from(MAX_AT_ONCE_BYTES / largest).unwrap_or_default();
        fit.clamp(1, cores.min(MAX_AT_ONCE))
    }

    /// Reads the rows after a position.
    pub fn read(self, from: Position, flow: &impl Taker, shown: &str) -> anyhow::Result<()> {
        let rows = self
            .metadata
            .row_groups()
            .iter()
            .map(|group| group.num_rows() as u64);
        let all = rows.clone().sum::<u64>().max(1);
        let mut before = 0;
        let mut groups = VecDeque::new();
        for (group, rows) in rows.enumerate() {
            if before + rows > from.lines {
                groups.push_back((group, before, rows));
            }
            before += rows;
        }
        let bounds = Arc::new(Bounds::default());
        thread::scope(|scope| {
            let mut ahead = VecDeque::new();
            let mut next = groups.iter();
            let mut start = || next.next().map(|group| self.start(scope, group.0, &bounds));
            ahead.extend((0..self.at_once()).map_while(|_| start()));
            for (group, first, rows) in &groups {
                let Some(batches) = ahead.pop_front() else {
                    return Ok(());
                };
                let mut at = *first;
                for batch in batches {
                    let batch = batch.map_err(|Unreadable| {
                        let what = bounds.problem();
                        let what = what.as_deref().unwrap_or("it is damaged, or cut");
                        anyhow!("{shown}: row group {}, after row {at}: {what}", group + 1)
                    })?;
                    let (number, count) = (at + 1, batch.num_rows() as u64);
                    at += count;
                    if at > first + rows {
                        break;
                    }
                    let skipped = from.lines.saturating_sub(number - 1).min(count);
                    let rest = batch.slice(skipped as usize, (count - skipped) as usize);
                    if !rows::send(&self.plan, &rest, number + skipped, flow) {
                        return Ok(());
                    }
                    flow.note(self.bytes.saturating_mul(at) / all);
                }
                if at != first + rows {
                    bail!(
                        "{shown}: row group {} claims {rows} rows, and holds {}",
                        group + 1,
                        at - first
                    );
                }
                ahead.extend(start());
            }
            Ok(())
        })
    }

    /// Begins to read a row group, on a thread of its own.
    fn start<'s>(
        &'s self,
        scope: &'s Scope<'s, '_>,
        group: usize,
        bounds: &Arc<Bounds>,
    ) -> Receiver<Result<RecordBatch, Unreadable>> {
        let (sender, receiver) = sync_channel(1);
        let group = BoundedGroup {
            file: self.file.clone(),
            metadata: self.metadata.clone(),
            group,
            bounds: bounds.clone(),
        };
        scope.spawn(move || self.decode(&group, &sender));
        receiver
    }

    fn decode(&self, group: &BoundedGroup, sender: &SyncSender<Result<RecordBatch, Unreadable>>) {
        let about = self.metadata.row_group(group.group);
        let chunks = self.leaves.iter();
        let chunks = chunks.filter_map(|leaf| about.columns().get(*leaf));
        let is_shared = |encoding: Encoding| encoding == Encoding::DELTA_BYTE_ARRAY;
        let (mut bytes, mut max) = (0_usize, MAX_INPUTS);
        for chunk in chunks {
            let own = usize::try_from(chunk.uncompressed_size()).unwrap_or_default();
            bytes = bytes.saturating_add(own);
            if chunk.encodings().any(is_shared) {
                max = SHARED_ROWS;
            }
        }
        // Long texts are read fewer at a time: a batch holds all its pages.
        let a_row = bytes / usize::try_from(about.num_rows()).unwrap_or(1).max(1);
        let rows = (BATCH_BYTES / a_row.max(1)).clamp(1, max);
        let reader =
            ParquetRecordBatchReader::try_new_with_row_groups(&self.levels, group, rows, None);
        let Ok(reader) = reader else {
            let _ = sender.send(Err(Unreadable));
            return;
        };
        for batch in reader {
            group.bounds.list_values.store(0, Ordering::Relaxed);
            let batch = batch.map_err(|_| Unreadable);
            let is_over = batch.is_err();
            // Nobody takes what comes after an error, or once the run has ended.
            if sender.send(batch).is_err() || is_over {
                return;
            }
        }
    }
}

/// A row group can't be read on. What the library says of it may quote a row.
struct Unreadable;

fn not_read(packing: &str) -> String {
    format!("packed with {packing}: snappy, gzip, zstd and LZ4_RAW are read")
}

fn check_magic(shown: &str, file: &File, bytes: u64) -> anyhow::Result<()> {
    let unreadable = || format!("{shown} can't be read");
    let (mut head, mut tail) = ([0; 4], [0; 8]);
    if bytes < 12 {
        bail!("{shown} is no Parquet file: it has {bytes} bytes");
    }
    file.read_exact_at(&mut head, 0).with_context(unreadable)?;
    file.read_exact_at(&mut tail, bytes - 8)
        .with_context(unreadable)?;
    if head == *b"PARE" {
        bail!("{shown}: its footer is encrypted, which isn't read");
    }
    if head != MAGIC {
        bail!("{shown} is no Parquet file: it doesn't begin as one");
    }
    let [a, b, c, d, magic @ ..] = tail;
    if magic != MAGIC {
        bail!("{shown} doesn't end as a Parquet file: it was cut");
    }
    let footer = u32::from_le_bytes([a, b, c, d]);
    if u64::from(footer) > bytes - 12 || footer > MAX_FOOTER_BYTES {
        bail!(
            "{shown}: its footer claims {footer} bytes, of {bytes} in all and {MAX_FOOTER_BYTES} at most"
        );
    }
    Ok(())
}

/// The schema by which columns are read: texts as bytes, so that one which isn't UTF-8 costs its row alone.
fn read_as(file: &SchemaDescriptor, schema: &Schema, plan: &Plan) -> Option<SchemaDescriptor> {
    let root = file.root_schema();
    let mut fields: Vec<TypePtr> = root.get_fields().to_vec();
    for at in &plan.read {
        let field = fields.get_mut(*at)?;
        let is_bytes = field.is_primitive() && field.get_physical_type() == Physical::BYTE_ARRAY;
        let info = field.get_basic_info();
        if !is_bytes
            || !cells::is_text(schema.field(*at).data_type())
            || info.repetition() == Repetition::REPEATED
        {
            continue;
        }
        let bytes = Type::primitive_type_builder(field.name(), Physical::BYTE_ARRAY)
            .with_repetition(info.repetition());
        *field = Arc::new(bytes.build().ok()?);
    }
    let root = Type::group_type_builder(root.name()).with_fields(fields);
    Some(SchemaDescriptor::new(Arc::new(root.build().ok()?)))
}

/// The types as which columns are read. Views refer to a page's bytes: what its dictionary holds once is in memory once.
fn hints(schema: &Schema, plan: &Plan) -> Fields {
    let fields = schema.fields().iter().enumerate();
    fields
        .map(|(at, field)| {
            let is_read = plan.read.contains(&at);
            let of = match field.data_type() {
                of if is_read && cells::is_text(of) => DataType::BinaryView,
                of => viewed(of),
            };
            Arc::new(field.as_ref().clone().with_data_type(of))
        })
        .collect()
}

fn viewed(of: &DataType) -> DataType {
    let inner = |field: &Arc<Field>| {
        let of = viewed(field.data_type());
        Arc::new(field.as_ref().clone().with_data_type(of))
    };
    match of {
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
        DataType::Dictionary(_, value) => viewed(value),
        DataType::List(item) => DataType::List(inner(item)),
        DataType::LargeList(item) => DataType::LargeList(inner(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(inner(item), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        other => other.clone(),
    }
}
