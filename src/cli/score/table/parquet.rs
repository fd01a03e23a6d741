//! Owns reading Parquet files: what their footers claim is looked at first, then row groups are read, several at a time where they are small.
//!
//! Promises rows in the file's order, and that what a footer claims is either true or ends the run.

use super::{
    MAX_PAGE_BYTES, Wanted, cells, clipped,
    decode::{Decoding, Group},
    footer,
    pages::{Bounds, Whole},
    plan::Plan,
    rows::{Piece, Taker},
};
use crate::cli::{file::Blob, score::item::Position};
use ::parquet::{
    arrow::{FieldLevels, ProjectionMask, parquet_to_arrow_field_levels, parquet_to_arrow_schema},
    basic::{Compression, Repetition, Type as Physical},
    file::metadata::{
        ColumnChunkMetaData, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader,
    },
    schema::types::{SchemaDescriptor, Type, TypePtr},
};
use anyhow::{Context, anyhow, bail};
use arrow_schema::{DataType, Field, Fields, Schema};
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
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
/// Pieces of a row group that wait for those before it.
const PIECES_AHEAD: usize = 2;
/// A file that was opened.
pub(in super::super) struct Parquet {
    file: Blob,
    bytes: u64,
    metadata: Arc<ParquetMetaData>,
    levels: FieldLevels,
    plan: Arc<Plan>,
    /// The leaves of the columns that are read.
    leaves: Vec<usize>,
}

impl Parquet {
    /// Reads and checks the footer.
    pub fn open(shown: &str, file: &Blob, wanted: &Wanted<'_>) -> anyhow::Result<Self> {
        let unreadable = || format!("{shown} can't be read");
        let bytes = file.size().with_context(unreadable)?;
        check_footer(shown, file, bytes)?;
        let damaged = || anyhow!("{shown}: its footer can't be read: the file is damaged");
        let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Skip);
        let metadata = reader
            .parse_and_finish(&Whole(file.clone()))
            .map_err(|_| damaged())?;
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
            file: file.clone(),
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
                let name = clipped(&chunk.column_path().string());
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
        let mut groups = Vec::new();
        for (group, rows) in rows.enumerate() {
            if before + rows > from.lines {
                groups.push(Group {
                    number: group,
                    first: before,
                    rows,
                    skipped: from.lines,
                });
            }
            before += rows;
        }
        let bounds = Arc::new(Bounds::default());
        let max_rows = || flow.max_rows();
        let decoding = Decoding {
            file: &self.file,
            metadata: &self.metadata,
            levels: &self.levels,
            leaves: &self.leaves,
            plan: &self.plan,
            bounds: &bounds,
            max_rows: &max_rows,
        };
        let decoding = &decoding;
        thread::scope(|scope| {
            let mut ahead = VecDeque::new();
            let mut next = groups.iter();
            let mut start = || next.next().map(|group| begin(scope, decoding, *group));
            ahead.extend((0..self.at_once()).map_while(|_| start()));
            for group in &groups {
                let Some(pieces) = ahead.pop_front() else {
                    return Ok(());
                };
                for piece in pieces {
                    let piece = piece.with_context(|| shown.to_owned())?;
                    let read = self.bytes.saturating_mul(piece.end());
                    if !piece.send(flow) {
                        return Ok(());
                    }
                    flow.note(read / all);
                }
                flow.note(self.bytes.saturating_mul(group.first + group.rows) / all);
                ahead.extend(start());
            }
            Ok(())
        })
    }
}

/// Begins to read a row group, on a thread of its own.
fn begin<'s>(
    scope: &'s Scope<'s, '_>,
    decoding: &'s Decoding<'_>,
    group: Group,
) -> Receiver<anyhow::Result<Piece>> {
    let (sender, receiver) = sync_channel(PIECES_AHEAD);
    scope.spawn(move || decoding.run(group, &sender));
    receiver
}

fn not_read(packing: &str) -> String {
    format!("packed with {packing}: snappy, gzip, zstd and LZ4_RAW are read")
}

/// Looks at a file's ends, and at what its footer claims.
fn check_footer(shown: &str, file: &Blob, bytes: u64) -> anyhow::Result<()> {
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
    let mut claims = vec![0; footer as usize];
    file.read_exact_at(&mut claims, bytes - 8 - u64::from(footer))
        .with_context(unreadable)?;
    footer::check(&claims).with_context(|| shown.to_owned())
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
