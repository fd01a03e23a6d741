//! `kiln score` on Parquet and Arrow: columns keep their types, readers of other projects read what it writes, and a file that lies gets
//! one line.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use arrow_array::builder::{Int64Builder, MapBuilder, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Decimal128Array, DictionaryArray, DurationNanosecondArray,
    Float64Array, Int64Array, ListArray, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow_ipc::reader::FileReader;
use arrow_ipc::writer::{FileWriter, StreamWriter};
use arrow_schema::{DataType, TimeUnit};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Encoding};
use parquet::file::properties::{WriterProperties, WriterVersion};
use serde_json::{Value, json};

use crate::files::{PATIENCE, a_run_is_killed, command, peak_mib, rows};
use crate::harness::sandbox;
use crate::harness::shell::Shell;
use crate::replies::put_embedder;

/// What is unpacked at once, and what Kiln itself takes.
const MAX_MIB: u64 = 400;
const MODELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models");

pub fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, one)| (name, one, true)),
    )
    .expect("a batch")
}

fn texts(of: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(of.to_vec()))
}

pub fn write_parquet(path: &Path, batch: &RecordBatch, properties: WriterProperties) {
    let file = File::create(path).expect("a file");
    let mut writer =
        ArrowWriter::try_new(file, batch.schema(), Some(properties)).expect("a writer");
    writer.write(batch).expect("rows");
    writer.close().expect("a footer");
}

fn in_groups_of(rows: usize) -> WriterProperties {
    WriterProperties::builder()
        .set_max_row_group_row_count(Some(rows))
        .build()
}

pub fn arrow_stream(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).expect("a writer");
    writer.write(batch).expect("rows");
    writer.into_inner().expect("a stream")
}

pub fn arrow_file(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = FileWriter::try_new(Vec::new(), &batch.schema()).expect("a writer");
    writer.write(batch).expect("rows");
    writer.into_inner().expect("a file")
}

/// Rows of many types, the texts as a dictionary.
fn reviews() -> RecordBatch {
    let text = ["I love this!", "Terrible.", "Fine by me."];
    let of = |n: usize| text[n % 3];
    let body: DictionaryArray<Int32Type> = (0..900).map(|n| Some(of(n))).collect();
    let price = Decimal128Array::from_iter_values((0..900).map(|n| n * 5));
    let at = TimestampMicrosecondArray::from_iter_values((0..900).map(|n| n * 1_000_000));
    let tags = (0..900).map(|n| Some((0..n % 3).map(|tag| Some(tag as f32)).collect::<Vec<_>>()));
    batch(vec![
        ("id", Arc::new(Int64Array::from_iter_values(0..900))),
        ("body", Arc::new(body)),
        (
            "price",
            Arc::new(price.with_precision_and_scale(9, 2).expect("a decimal")),
        ),
        ("at", Arc::new(at.with_timezone("UTC"))),
        (
            "tags",
            Arc::new(ListArray::from_iter_primitive::<
                arrow_array::types::Float32Type,
                _,
                _,
            >(tags)),
        ),
        (
            "flag",
            Arc::new(BooleanArray::from(
                (0..900)
                    .map(|n| (n % 7 > 0).then_some(n % 2 == 0))
                    .collect::<Vec<_>>(),
            )),
        ),
        (
            "score",
            Arc::new(Float64Array::from_iter_values((0..900).map(f64::from))),
        ),
    ])
}

fn read(path: &Path) -> RecordBatch {
    let file = File::open(path).expect("an output");
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("a footer");
    let mut reader = reader.with_batch_size(1 << 20).build().expect("a reader");
    let batch = reader.next().expect("rows").expect("rows");
    assert!(reader.next().is_none());
    batch
}

#[tokio::test]
async fn columns_keep_their_types_from_and_to_parquet_and_arrow() {
    let shell = Shell::bare().set("KILN_MODELS_DIR", MODELS);
    let whole = reviews();
    write_parquet(&shell.folder.join("in.parquet"), &whole, in_groups_of(250));
    fs::write(shell.folder.join("in.arrow"), arrow_file(&whole)).expect("a file");
    let columns = [
        "--text-column",
        "body",
        "--key-column",
        "id",
        "--keep-columns",
    ];
    let score = async |input: &str, output: &str| {
        let mut words = vec!["score", input, "-o", output];
        words.extend(columns);
        shell.kiln(&words).await.with(0);
    };
    score("in.parquet", "out.parquet").await;
    score("in.arrow", "out.jsonl").await;
    let out = read(&shell.folder.join("out.parquet"));
    let schema = out.schema();
    let names: Vec<&str> = schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    assert_eq!(
        names,
        [
            "price",
            "at",
            "tags",
            "flag",
            "input_score",
            "key",
            "label",
            "score",
            "cached",
            "error"
        ]
    );
    for kept in ["price", "at", "tags", "flag"] {
        assert_eq!(
            out.column_by_name(kept),
            whole.column_by_name(kept),
            "{kept}"
        );
    }
    assert_eq!(
        out.column_by_name("input_score"),
        whole.column_by_name("score")
    );
    let zoned = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    assert_eq!(
        schema.field_with_name("at").expect("a field").data_type(),
        &zoned
    );
    let keys: StringArray = (0..900).map(|n| Some(n.to_string())).collect();
    assert_eq!(
        out.column_by_name("key").expect("keys").as_ref(),
        &keys as &dyn arrow_array::Array
    );
    // The same rows from Arrow, as text.
    let lines = rows(&shell.folder.join("out.jsonl"));
    let expected = json!({"price": 0.1, "at": "1970-01-01T00:00:02Z", "tags": [0.0, 1.0], "flag": true, "input_score": 2.0, "key": "2"});
    for (name, value) in expected.as_object().expect("an object") {
        assert_eq!(&lines[2][name], value, "{name}");
    }
    let labels = out.column_by_name("label").expect("labels").clone();
    let labels = labels
        .as_any()
        .downcast_ref::<StringArray>()
        .expect("texts")
        .clone();
    let both = labels
        .iter()
        .zip(&lines)
        .all(|(label, line)| label == line["label"].as_str());
    assert!(both && lines.len() == 900);
}

#[tokio::test]
async fn durations_and_maps_go_through_as_they_are() {
    let shell = Shell::bare();
    let took = DurationNanosecondArray::from(vec![Some(90_061_000_000_000), None]);
    let mut tags = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    tags.keys().append_value("a");
    tags.values().append_value(1);
    tags.append(true).expect("a map");
    tags.append(true).expect("a map");
    let whole = batch(vec![
        ("text", texts(&[Some("one"), Some("two")])),
        ("took", Arc::new(took)),
        ("tags", Arc::new(tags.finish())),
    ]);
    fs::write(shell.folder.join("in.arrow"), arrow_file(&whole)).expect("a file");
    write_parquet(&shell.folder.join("in.parquet"), &whole, in_groups_of(250));
    for (input, output) in [
        ("in.arrow", "out.arrow"),
        ("in.parquet", "out.parquet"),
        ("in.arrow", "from.parquet"),
    ] {
        shell
            .kiln(&["score", input, "-o", output, "--keep-columns"])
            .await
            .with(0);
        let path = shell.folder.join(output);
        let out = if output == "out.arrow" {
            let file = File::open(&path).expect("an output");
            let mut reader = FileReader::try_new(file, None).expect("a footer");
            reader.next().expect("rows").expect("rows")
        } else {
            read(&path)
        };
        assert_eq!(out.column_by_name("took"), whole.column_by_name("took"));
        let tags = out.column_by_name("tags").expect("tags").as_map();
        assert_eq!(tags.keys().as_string::<i32>().value(0), "a", "{output}");
        assert_eq!(tags.value_offsets(), [0, 1, 1], "{output}");
    }
    // As text, a duration is the number of its units; a map has no form.
    let said = shell
        .kiln(&["score", "in.arrow", "--keep-columns=took"])
        .await
        .with(0);
    assert_eq!(
        said.lines()[0]["took"],
        json!(90_061_000_000_000_i64),
        "{}",
        said.out
    );
    let said = shell
        .kiln(&["score", "in.arrow", "--keep-columns"])
        .await
        .with(1);
    assert!(
        said.err.contains("column `tags` is of type Map"),
        "{}",
        said.err
    );
}

#[tokio::test]
async fn an_arrow_stream_goes_through_standard_input_and_output() {
    let shell = Shell::bare().set("KILN_MODELS_DIR", MODELS);
    let mut child = command(
        &shell,
        &[
            "score",
            "-",
            "--input-format",
            "arrow",
            "--format",
            "arrow",
            "--text-column",
            "body",
        ],
    )
    .stdin(Stdio::piped())
    .stdout(Stdio::piped())
    .stderr(Stdio::null())
    .spawn()
    .expect("the binary starts");
    let mut pipe = child.stdin.take().expect("a pipe");
    pipe.write_all(&arrow_stream(&reviews()))
        .expect("it is read");
    drop(pipe);
    let ended = child.wait_with_output().expect("our child");
    assert!(ended.status.success());
    let reader = arrow_ipc::reader::StreamReader::try_new(ended.stdout.as_slice(), None);
    let rows = reader
        .expect("a stream")
        .map(|batch| batch.expect("rows").num_rows());
    assert_eq!(rows.sum::<usize>(), 900);
}

#[tokio::test]
async fn features_come_from_a_list_or_from_columns_and_embeddings_in_three_widths() {
    let models = sandbox::folder("models");
    put_embedder(&models, 64);
    let shell = Shell::bare().set("KILN_MODELS_DIR", models.to_str().expect("a path"));
    let pairs = vec![
        Some(vec![Some(1.0), Some(2.0)]),
        Some(vec![Some(3.0), Some(f64::NAN)]),
        None,
    ];
    let list = ListArray::from_iter_primitive::<arrow_array::types::Float64Type, _, _>(pairs);
    let table = batch(vec![
        ("v", Arc::new(list)),
        ("a", Arc::new(Int64Array::from(vec![1, 2, 3]))),
        (
            "b",
            Arc::new(Float64Array::from(vec![Some(1.0), Some(2.0), None])),
        ),
    ]);
    write_parquet(&shell.folder.join("in.parquet"), &table, in_groups_of(10));
    let said = shell
        .kiln(&["score", "in.parquet", "--feature-columns", "v"])
        .await
        .with(3);
    assert_eq!(said.lines().len(), 1);
    assert!(
        said.err
            .contains("row 2: column `v` is no finite number\nrow 3: column `v` is null\n"),
        "{}",
        said.err
    );
    let said = shell
        .kiln(&["score", "in.parquet", "--feature-columns", "a,b"])
        .await
        .with(3);
    assert_eq!(said.lines().len(), 2);
    assert!(
        said.err.contains("row 3: column `b` is null\n"),
        "{}",
        said.err
    );
    shell
        .kiln(&[
            "score",
            "in.parquet",
            "--feature-columns",
            "a,b",
            "-o",
            "out.parquet",
            "--embedding-type",
            "int8",
        ])
        .await
        .with(3);
    let out = read(&shell.folder.join("out.parquet"));
    assert!(
        out.column_by_name("embedding_scale").is_some() && out.column_by_name("label").is_none()
    );
}

#[tokio::test]
async fn a_row_of_a_table_that_cant_be_used_costs_itself_alone() {
    let shell = Shell::bare();
    // Bytes that say of themselves that they are text.
    let bytes = batch(vec![
        ("key", texts(&[Some("a"), Some("b"), None, Some("d")])),
        (
            "text",
            Arc::new(BinaryArray::from_opt_vec(vec![
                Some(b"fine"),
                Some(b"M\xfcller"),
                Some(b"good"),
                None,
            ])),
        ),
    ]);
    write_parquet(&shell.folder.join("in.parquet"), &bytes, in_groups_of(2));
    let score = [
        "score",
        "in.parquet",
        "-o",
        "out.arrow",
        "--quarantine",
        "bad.jsonl",
    ];
    let said = shell.kiln(&score).await.with(3);
    assert!(
        said.err
            .contains("row 2: column `text` is not UTF-8\nrow 4: column `text` is null\n"),
        "{}",
        said.err
    );
    let bad = rows(&shell.folder.join("bad.jsonl"));
    let said: Vec<(&Value, &Value, &Value)> = bad
        .iter()
        .map(|bad| (&bad["line"], &bad["column"], &bad["row"]))
        .collect();
    assert_eq!(
        said,
        [
            (
                &json!(2),
                &json!("text"),
                &json!({"key": "b", "text": null})
            ),
            (
                &json!(4),
                &json!("text"),
                &json!({"key": "d", "text": null})
            ),
        ]
    );
    let whole = fs::read(shell.folder.join("out.arrow")).expect("an output");
    let reader = arrow_ipc::reader::FileReader::try_new(std::io::Cursor::new(whole), None);
    let reader = reader.expect("a file");
    assert_eq!(reader.schema().fields().len(), 4);
    let rows = reader.map(|batch| batch.expect("rows").num_rows());
    assert_eq!(rows.sum::<usize>(), 2);
    // A file without rows has columns.
    let none = bytes.slice(0, 0);
    write_parquet(&shell.folder.join("none.parquet"), &none, in_groups_of(2));
    shell
        .kiln(&["score", "none.parquet", "-o", "none.out.parquet"])
        .await
        .with(0);
    let none = File::open(shell.folder.join("none.out.parquet")).expect("an output");
    let none = ParquetRecordBatchReaderBuilder::try_new(none).expect("a footer");
    assert_eq!(none.schema().fields().len(), 5);
}

#[tokio::test]
async fn a_run_over_parquet_that_is_killed_goes_on_where_it_stopped() {
    let shell = Shell::bare();
    let count = 400_000;
    let table = batch(vec![
        (
            "key",
            Arc::new(
                (0..count)
                    .map(|n| Some(format!("r{n}")))
                    .collect::<StringArray>(),
            ),
        ),
        (
            "text",
            Arc::new(
                (0..count)
                    .map(|n| Some(format!("text {n}")))
                    .collect::<StringArray>(),
            ),
        ),
    ]);
    write_parquet(
        &shell.folder.join("in.parquet"),
        &table,
        in_groups_of(70_000),
    );
    drop(table);
    a_run_is_killed(&shell, "in.parquet", "out.jsonl");
    let text = fs::read_to_string(shell.folder.join("out.jsonl")).expect("an output");
    let keys = text
        .lines()
        .map(|line| line.split('"').nth(3).expect("a key"));
    let expected: Vec<String> = (0..count).map(|n| format!("r{n}")).collect();
    assert!(
        keys.eq(expected.iter().map(String::as_str)),
        "a row is missing, double or elsewhere"
    );
}

/// Runs a command that must end with one line, in bounded memory.
pub fn refused(shell: &Shell, words: &[&str], line: &str) {
    let mut child = command(shell, words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let (mut peak, begun) = (0, std::time::Instant::now());
    let ended = loop {
        peak = peak.max(peak_mib(&child));
        if let Some(ended) = child.try_wait().expect("our child") {
            break ended;
        }
        assert!(begun.elapsed() < PATIENCE, "{words:?} doesn't end");
        std::thread::sleep(std::time::Duration::from_millis(2));
    };
    let err = std::io::read_to_string(child.stderr.take().expect("a pipe")).expect("text");
    assert_eq!(ended.code(), Some(1), "{words:?}: {err}");
    assert!(
        err.contains(line) && err.lines().count() == 1,
        "{words:?}: {err}"
    );
    assert!(peak < MAX_MIB, "{words:?}: {peak} MiB");
}

/// A file's bytes with the last occurrence of some replaced by as many others.
fn replaced(bytes: &[u8], what: &[u8], by: &[u8]) -> Vec<u8> {
    let at = bytes
        .windows(what.len())
        .rposition(|part| part == what)
        .expect("it is there");
    let mut bytes = bytes.to_vec();
    bytes[at..at + by.len()].copy_from_slice(by);
    bytes
}

#[tokio::test]
async fn hostile_tables_get_one_clear_line_in_bounded_memory() {
    let shell = Shell::bare();
    let path = |name: &str| shell.folder.join(name);
    let table = batch(vec![
        (
            "text",
            Arc::new(
                (0..5_000)
                    .map(|n| Some(format!("text {n}")))
                    .collect::<StringArray>(),
            ) as _,
        ),
        ("n", Arc::new(Int64Array::from_iter_values(0..5_000))),
    ]);
    let zstd = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .build();
    write_parquet(&path("whole.parquet"), &table, zstd);
    let whole = fs::read(path("whole.parquet")).expect("a file");
    let put = |name: &str, bytes: &[u8]| fs::write(path(name), bytes).expect("a file");
    put("empty.parquet", b"");
    refused(
        &shell,
        &["score", "empty.parquet"],
        "empty.parquet is no Parquet file: it has 0 bytes",
    );
    put("other.parquet", b"{\"text\": \"a line of JSON\"}\n");
    refused(
        &shell,
        &["score", "other.parquet"],
        "it doesn't begin as one",
    );
    put("cut.parquet", &whole[..whole.len() / 2]);
    refused(&shell, &["score", "cut.parquet"], "it was cut");
    let mut footer = whole.clone();
    let at = footer.len() - 8;
    footer[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    put("footer.parquet", &footer);
    refused(
        &shell,
        &["score", "footer.parquet"],
        "its footer claims 4294967295 bytes",
    );
    // A page whose header claims a million bytes.
    let mut page = whole.clone();
    let header = page
        .windows(3)
        .position(|part| part == [0x15, 0x00, 0x15])
        .expect("a page");
    page[header + 3..header + 6].copy_from_slice(&[0xfe, 0xff, 0x7f]);
    put("page.parquet", &page);
    refused(
        &shell,
        &["score", "page.parquet"],
        "claims more bytes than all pages of its row group together",
    );
    put(
        "body.parquet",
        &replaced(
            &whole,
            b"text 4999",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ),
    );
    let said = shell
        .kiln(&["score", "body.parquet", "-o", "body.jsonl"])
        .await
        .with(3);
    assert!(
        said.err.contains("row 5000: column `text` is not UTF-8"),
        "{}",
        said.err
    );
    refused(
        &shell,
        &["score", "whole.parquet", "--text-column", "n"],
        "column `n` is of type Int64, not text",
    );
    refused(
        &shell,
        &["score", "whole.parquet", "--text-column", "nope"],
        "no column `nope`; there are: text, n",
    );
    let mut child = command(&shell, &["score", "-", "--input-format", "parquet"]);
    let said = child
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts");
    assert!(String::from_utf8_lossy(&said.stderr).contains("--input-format arrow"));

    // Rows that a footer claims and nothing holds.
    claims_rows(&shell, &table);
    // A page of gzip that unpacks to far more than it claims, and texts that grow out of each other.
    let gzip = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_compression(Compression::GZIP(Default::default()))
        .set_data_page_size_limit(64 << 20)
        .build();
    let long = "a".repeat(1 << 20);
    let bomb = batch(vec![(
        "text",
        Arc::new(
            (0..60)
                .map(|_| Some(long.as_str()))
                .collect::<StringArray>(),
        ) as _,
    )]);
    write_parquet(&path("gzip.parquet"), &bomb, gzip);
    shell
        .kiln(&["score", "gzip.parquet", "-o", "gzip.jsonl"])
        .await
        .with(3);
    // The size that the page of gzip claims, in as many bytes as before.
    let mut lie = fs::read(path("gzip.parquet")).expect("a file");
    let header = lie
        .windows(3)
        .position(|part| part == [0x15, 0x00, 0x15])
        .expect("a page");
    lie[header + 3..header + 7].copy_from_slice(&[0x80, 0x89, 0x80, 0x00]);
    put("lie.parquet", &lie);
    refused(
        &shell,
        &["score", "lie.parquet"],
        "unpacks to more than it claims",
    );
    let shared = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_writer_version(WriterVersion::PARQUET_2_0)
        .set_encoding(Encoding::DELTA_BYTE_ARRAY)
        .build();
    write_parquet(&path("shared.parquet"), &bomb, shared);
    shell
        .kiln(&["score", "shared.parquet", "-o", "shared.jsonl"])
        .await
        .with(3);

    let file = arrow_file(&table);
    put("cut.arrow", &file[..file.len() - 3]);
    refused(&shell, &["score", "cut.arrow"], "it was cut");
    // What a footer lists, and where it is not.
    put("half.arrow", &file[..file.len() / 2]);
    refused(&shell, &["score", "half.arrow"], "it was cut");
    put("other.arrow", b"PAR1 or anything else");
    refused(
        &shell,
        &["score", "other.arrow"],
        "no Arrow file or stream: it doesn't begin as one",
    );
    put("empty.arrow", b"");
    refused(
        &shell,
        &["score", "empty.arrow"],
        "no Arrow file or stream: it is empty",
    );
    let mut head = arrow_stream(&table);
    head[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    put("head.arrow", &head);
    refused(
        &shell,
        &["score", "head.arrow"],
        "a message's head claims 4294967295 bytes",
    );
    // The length of the body, in the head of the second message.
    let mut body = arrow_stream(&table);
    let (length, after) = body_length(&body);
    let at = body[after..]
        .windows(8)
        .position(|part| part == length.to_le_bytes())
        .expect("a length");
    body[after + at..after + at + 8].copy_from_slice(&(1_i64 << 40).to_le_bytes());
    put("body.arrow", &body);
    refused(
        &shell,
        &["score", "body.arrow"],
        "a batch claims 1099511627776 bytes, and may have 201326592",
    );
    put(
        "utf8.arrow",
        &replaced(&file, b"text 4999", b"text \xff\xff\xff\xff"),
    );
    refused(
        &shell,
        &["score", "utf8.arrow", "-o", "x.jsonl"],
        "a text that isn't UTF-8",
    );
    assert!(!path("x.jsonl").exists());
}

/// The bytes of the body of a stream's first batch, and where its message begins.
fn body_length(stream: &[u8]) -> (i64, usize) {
    let word =
        |at: usize| u32::from_le_bytes(stream[at..at + 4].try_into().expect("4 bytes")) as usize;
    let second = 8 + word(4);
    let head = &stream[second + 8..second + 8 + word(second + 4)];
    let message = arrow_ipc::root_as_message(head).expect("a message");
    (message.bodyLength(), second)
}

fn claims_rows(shell: &Shell, table: &RecordBatch) {
    use parquet::file::metadata::{ParquetMetaDataReader, ParquetMetaDataWriter};
    let from = shell.folder.join("whole.parquet");
    let file = File::open(&from).expect("a file");
    let metadata = ParquetMetaDataReader::new()
        .parse_and_finish(&file)
        .expect("a footer");
    let bytes = fs::read(&from).expect("a file");
    let footer = u32::from_le_bytes(
        bytes[bytes.len() - 8..bytes.len() - 4]
            .try_into()
            .expect("4 bytes"),
    );
    for (claimed, says_columns, line) in [
        (
            1_i64 << 31,
            false,
            "row group 1 claims 2147483648 rows, and may have 1073741824",
        ),
        (6_000, false, "6000 rows are claimed, and 5000 values"),
        (
            6_000,
            true,
            "row group 1, after row 5000: it claims 6000 rows, and holds 5000",
        ),
    ] {
        let group = metadata.row_group(0).clone();
        let columns = group.columns().iter().map(|column| {
            let column = column.clone().into_builder();
            let column = if says_columns {
                column.set_num_values(claimed)
            } else {
                column
            };
            column.build().expect("a column")
        });
        let columns = columns.collect();
        let group = group
            .into_builder()
            .set_num_rows(claimed)
            .set_column_metadata(columns)
            .build()
            .expect("a row group");
        let claims = metadata
            .clone()
            .into_builder()
            .set_row_groups(vec![group])
            .build();
        let mut file = bytes[..bytes.len() - 8 - footer as usize].to_vec();
        ParquetMetaDataWriter::new(&mut file, &claims)
            .finish()
            .expect("a footer");
        fs::write(shell.folder.join("claims.parquet"), &file).expect("a file");
        refused(
            shell,
            &["score", "claims.parquet", "-o", "claims.jsonl"],
            line,
        );
    }
    assert_eq!(table.num_rows(), 5_000);
}

#[tokio::test]
async fn pandas_polars_and_duckdb_write_what_is_read_and_read_what_is_written() {
    let models = sandbox::folder("models");
    put_embedder(&models, 64);
    for link in ["sentiment", "feed-ranker"] {
        std::os::unix::fs::symlink(format!("{MODELS}/{link}"), models.join(link)).expect("a link");
    }
    let shell = Shell::bare().set("KILN_MODELS_DIR", models.to_str().expect("a path"));
    let python = |what: &str| {
        let program = std::env::var("CLIENTS_PYTHON").expect("CLIENTS_PYTHON: see scripts/test");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/columnar/readers.py");
        let ended = Command::new(program)
            .arg(script)
            .arg(what)
            .arg(&shell.folder)
            .output();
        let ended = ended.expect("Python");
        assert!(
            ended.status.success(),
            "{}",
            String::from_utf8_lossy(&ended.stderr)
        );
    };
    python("write");
    for (input, name) in [
        ("pandas.parquet", "pandas"),
        ("pandas.feather", "feather"),
        ("polars.parquet", "polars"),
        ("polars.arrow", "arrow"),
        ("polars.arrows", "arrows"),
        ("duckdb.parquet", "duckdb"),
    ] {
        for end in ["parquet", "arrow"] {
            let output = format!("{name}.out.{end}");
            let words = [
                "score",
                input,
                "-o",
                &output,
                "--model",
                "sentiment",
                "--key-column",
                "id",
                "--keep-columns=id,at,price,part",
                "--detail",
            ];
            let words = words.map(|word| match word {
                "--keep-columns=id,at,price,part" if name == "polars" => {
                    "--keep-columns=id,at,price,part,tags"
                }
                word => word,
            });
            let said = shell.kiln(&words).await.with(3);
            assert!(
                said.err.starts_with("row 2: column `text` is null\n"),
                "{}",
                said.err
            );
        }
    }
    shell.write(
        "in.csv",
        &["a,b".to_owned(), "1,2".to_owned(), "3,4".to_owned()],
    );
    for kind in ["float32", "float16", "int8"] {
        let output = format!("{kind}.parquet");
        shell
            .kiln(&[
                "score",
                "in.csv",
                "-o",
                &output,
                "--model",
                "embedder",
                "--embedding-type",
                kind,
            ])
            .await
            .with(0);
    }
    python("read");
}
