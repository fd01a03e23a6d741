//! Tables that were made to do harm: values that their packing repeats, dictionaries without end, schemas without bottom. Each costs one line,
//! or its rows, in bounded memory.

use std::fs::{self, File};
use std::io::Write;
use std::process::Stdio;
use std::sync::Arc;

use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, DictionaryArray, FixedSizeBinaryArray, Int32Array, Int64Array, ListArray,
    RecordBatch, StringArray, TimestampSecondArray,
};
use arrow_buffer::OffsetBuffer;
use arrow_ipc::{CompressionType, writer::IpcWriteOptions, writer::StreamWriter};
use arrow_schema::{DataType, Field, Fields, Schema};
use parquet::basic::{Compression, Encoding};
use parquet::file::properties::{WriterProperties, WriterVersion};

use crate::columnar::{arrow_stream, batch, refused, write_parquet};
use crate::files::{command, peak_mib, rows};
use crate::harness::eventually;
use crate::harness::shell::Shell;

/// As much as a table may take, with what Kiln itself does.
const MAX_MIB: u64 = 400;

fn short_texts(count: usize) -> ArrayRef {
    let texts = (0..count).map(|n| Some(format!("text {n}")));
    Arc::new(texts.collect::<StringArray>())
}

/// Runs a command that must succeed in bounded memory.
fn bounded(shell: &Shell, words: &[&str], code: i32) {
    let mut child = command(shell, words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut peak = 0;
    let ended = loop {
        peak = peak.max(peak_mib(&child));
        if let Some(ended) = child.try_wait().expect("our child") {
            break ended;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    };
    let err = std::io::read_to_string(child.stderr.take().expect("a pipe")).expect("text");
    assert_eq!(ended.code(), Some(code), "{words:?}: {err}");
    assert!(peak < MAX_MIB, "{words:?}: {peak} MiB");
}

#[tokio::test]
async fn values_that_their_packing_repeats_are_bounded_before_they_are_made() {
    let shell = Shell::bare();
    let path = |name: &str| shell.folder.join(name);
    // A list of texts, each of which is the one before it: a page of some bytes.
    let long = "a".repeat(1 << 20);
    let values = (0..260)
        .map(|_| Some(long.as_str()))
        .collect::<StringArray>();
    let item = Arc::new(Field::new("item", DataType::Utf8, true));
    let list = ListArray::new(
        item,
        OffsetBuffer::from_lengths([260]),
        Arc::new(values),
        None,
    );
    let shared = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_writer_version(WriterVersion::PARQUET_2_0)
        .set_encoding(Encoding::DELTA_BYTE_ARRAY)
        .set_compression(Compression::ZSTD(Default::default()))
        .set_data_page_size_limit(1 << 30)
        .set_write_batch_size(1 << 20)
        .build();
    let table = batch(vec![("text", short_texts(1)), ("tags", Arc::new(list))]);
    write_parquet(&path("shared.parquet"), &table, shared);
    drop(table);
    refused(
        &shell,
        &["score", "shared.parquet", "--keep-columns", "-o", "x.jsonl"],
        "what is read together of it takes more than 201326592 bytes: name fewer columns",
    );

    // Bytes of a fixed length, of which a dictionary holds one: 600 MiB of rows.
    let one = vec![7_u8; 1 << 20];
    let repeated = |count: usize| {
        FixedSizeBinaryArray::try_from_iter((0..count).map(|_| one.as_slice())).expect("bytes")
    };
    let properties = WriterProperties::builder()
        .set_dictionary_page_size_limit(4 << 20)
        .set_compression(Compression::ZSTD(Default::default()))
        .build();
    let file = File::create(path("fixed.parquet")).expect("a file");
    let table = batch(vec![
        ("text", short_texts(100)),
        ("raw", Arc::new(repeated(100))),
    ]);
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, table.schema(), Some(properties))
        .expect("a writer");
    for _ in 0..6 {
        writer.write(&table).expect("rows");
    }
    writer.close().expect("a footer");
    drop(table);
    bounded(
        &shell,
        &[
            "score",
            "fixed.parquet",
            "--keep-columns",
            "-o",
            "fixed.out.parquet",
        ],
        0,
    );
}

#[tokio::test]
async fn dictionaries_of_arrow_are_bounded_together() {
    let shell = Shell::bare();
    let keys = || Int32Array::from(vec![0]);
    let mut columns = vec![("text", short_texts(1))];
    let names = ["a", "b", "c", "d"];
    for name in names {
        let value = StringArray::from(vec!["x".repeat(60 << 20)]);
        let dictionary = DictionaryArray::<Int32Type>::new(keys(), Arc::new(value));
        columns.push((name, Arc::new(dictionary)));
    }
    let table = batch(columns);
    let options = IpcWriteOptions::default()
        .try_with_compression(Some(CompressionType::ZSTD))
        .expect("a version that packs");
    let mut writer =
        StreamWriter::try_new_with_options(Vec::new(), &table.schema(), options).expect("a writer");
    writer.write(&table).expect("rows");
    let stream = writer.into_inner().expect("a stream");
    drop(table);
    assert!(stream.len() < 1 << 20);
    fs::write(shell.folder.join("in.arrows"), stream).expect("a file");
    refused(
        &shell,
        &["score", "in.arrows", "--keep-columns", "-o", "x.jsonl"],
        "a batch and the dictionaries claim ",
    );
}

#[tokio::test]
async fn schemas_are_bounded_in_depth_and_names_are_shown_in_one_line() {
    let shell = Shell::bare();
    let path = |name: &str| shell.folder.join(name);
    // Each column of the schema a group with the next one in it.
    let levels = 100_000_u32;
    let mut footer = vec![0x15, 0x02, 0x19, 0xfc];
    let mut left = levels;
    while left >= 0x80 {
        footer.push(left as u8 | 0x80);
        left >>= 7;
    }
    footer.push(left as u8);
    for _ in 0..levels {
        footer.extend([0x48, 0x01, b'a', 0x15, 0x02, 0x00]);
    }
    footer.extend([0x16, 0x00, 0x19, 0x0c, 0x00]);
    let mut file = b"PAR1".to_vec();
    file.extend(&footer);
    file.extend((footer.len() as u32).to_le_bytes());
    file.extend(b"PAR1");
    fs::write(path("deep.parquet"), file).expect("a file");
    refused(
        &shell,
        &["score", "deep.parquet"],
        "deep.parquet: its columns are more than 64 levels deep",
    );

    let deep = (0..200).fold(DataType::Int32, |of, _| {
        DataType::Struct(Fields::from(vec![Field::new("a", of, true)]))
    });
    let schema = Schema::new(vec![Field::new("text", deep, true)]);
    let writer = StreamWriter::try_new(Vec::new(), &schema).expect("a writer");
    fs::write(path("deep.arrows"), writer.into_inner().expect("a stream")).expect("a file");
    refused(
        &shell,
        &["score", "deep.arrows"],
        "it is damaged, or has too many columns, or too deep ones",
    );

    let name = format!("a\nb{}", "c".repeat(100_000));
    let mut columns = vec![("text", short_texts(3)), (name.as_str(), short_texts(3))];
    let names: Vec<String> = (0..500).map(|n| format!("n{n}")).collect();
    columns.extend(names.iter().map(|name| (name.as_str(), short_texts(3))));
    let table = batch(columns);
    fs::write(path("names.arrows"), arrow_stream(&table)).expect("a file");
    let said = shell
        .kiln(&["score", "names.arrows", "--text-column", "nope"])
        .await
        .with(1);
    assert!(
        said.err.lines().count() == 1 && said.err.len() < 1_000,
        "{}",
        said.err
    );
    assert!(said.err.contains("and 482 more"), "{}", said.err);
}

#[tokio::test]
async fn what_the_library_panics_at_is_one_clear_line() {
    let shell = Shell::bare();
    let path = shell.folder.join("keys.parquet");
    let raw = (0..300).map(|n| if n == 0 { *b"aaaa" } else { *b"bbbb" });
    let raw = FixedSizeBinaryArray::try_from_iter(raw).expect("bytes");
    let table = batch(vec![("raw", Arc::new(raw)), ("text", short_texts(300))]);
    let properties = WriterProperties::builder()
        .set_compression(Compression::UNCOMPRESSED)
        .build();
    write_parquet(&path, &table, properties);
    // The second of the dictionary's values, 292 times: by a key that it doesn't have.
    let mut bytes = fs::read(&path).expect("a file");
    let run = bytes.windows(3).position(|part| part == [0xc8, 0x04, 0x01]);
    bytes[run.expect("a run of keys") + 2] = 0x7f;
    fs::write(&path, bytes).expect("a file");
    refused(
        &shell,
        &["score", "keys.parquet", "--keep-columns", "-o", "x.parquet"],
        "keys.parquet: row group 1, after row 0: it is damaged",
    );
}

#[tokio::test]
async fn times_that_no_calendar_has_keep_all_their_digits() {
    let shell = Shell::bare();
    let at = TimestampSecondArray::from(vec![0, 9_007_199_254_740_993]);
    let table = batch(vec![("text", short_texts(2)), ("at", Arc::new(at))]);
    fs::write(shell.folder.join("in.arrows"), arrow_stream(&table)).expect("a file");
    shell
        .kiln(&["score", "in.arrows", "--keep-columns", "-o", "out.jsonl"])
        .await
        .with(0);
    let text = fs::read_to_string(shell.folder.join("out.jsonl")).expect("an output");
    assert!(text.contains("\"at\":9007199254740993,"), "{text}");
    assert_eq!(
        rows(&shell.folder.join("out.jsonl"))[0]["at"],
        "1970-01-01T00:00:00"
    );
}

#[tokio::test]
async fn two_columns_of_one_name_are_refused_and_a_report_that_cant_be_written_before_the_work() {
    let shell = Shell::bare();
    let twice = RecordBatch::try_new(
        Arc::new(Schema::new(vec![
            Field::new("text", DataType::Utf8, true),
            Field::new("a", DataType::Int64, true),
            Field::new("a", DataType::Int64, true),
        ])),
        vec![
            short_texts(1),
            Arc::new(Int64Array::from(vec![1])),
            Arc::new(Int64Array::from(vec![2])),
        ],
    );
    let twice = twice.expect("a batch");
    assert_eq!(twice.num_columns(), 3);
    fs::write(shell.folder.join("twice.arrows"), arrow_stream(&twice)).expect("a file");
    for output in ["x.parquet", "x.jsonl"] {
        refused(
            &shell,
            &["score", "twice.arrows", "--keep-columns", "-o", output],
            "two columns of the output would be called `a`",
        );
    }
    shell.write("in.jsonl", &["{\"text\": \"a\"}".to_owned()]);
    refused(
        &shell,
        &[
            "score",
            "in.jsonl",
            "-o",
            "x.jsonl",
            "--report",
            "none/report.json",
        ],
        "none/report.json can't be written",
    );
    assert!(!shell.folder.join("kiln.db").exists());
}

#[tokio::test]
async fn an_output_that_cant_be_completed_leaves_nothing_behind() {
    let shell = Shell::bare();
    let mut child = command(&shell, &["score", "-", "-o", "out.jsonl"])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let mut pipe = child.stdin.take().expect("a pipe");
    writeln!(pipe, "{{\"text\": \"a\"}}").expect("it is read");
    let partial = shell.folder.join("out.jsonl.partial");
    eventually("the output is begun", crate::files::PATIENCE, || async {
        partial.exists().then_some(())
    })
    .await;
    // Something else has its name by now.
    fs::create_dir(shell.folder.join("out.jsonl")).expect("a folder");
    drop(pipe);
    assert_eq!(child.wait().expect("our child").code(), Some(1));
    assert!(!partial.exists());
}

#[tokio::test]
async fn whole_jobs_of_many_inputs_are_charged_as_many() {
    let shell = Shell::bare();
    let lines: Vec<String> = (0..60)
        .map(|line| {
            let inputs: Vec<String> = (0..4_000)
                .map(|n| format!("{{\"text\":\"{n} {line}\"}}"))
                .collect();
            format!(
                "{{\"job_id\":\"{line}\",\"model\":\"fault\",\"inputs\":[{}]}}",
                inputs.join(",")
            )
        })
        .collect();
    shell.write("in.jsonl", &lines);
    bounded(&shell, &["score", "in.jsonl", "-o", "out.jsonl"], 0);
}
