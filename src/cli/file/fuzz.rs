//! CSV and JSONL that nobody thought of: cut anywhere, resumed anywhere, the same rows come.

use super::*;
use kiln_contract::job::Job;
use kiln_fuzz::{Case, Target};
use std::io::{self, BufReader, Read};

/// Gives a few bytes at a time.
struct Dribble<'a> {
    bytes: &'a [u8],
    max: usize,
}

impl Read for Dribble<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let count = self.max.min(room.len()).min(self.bytes.len());
        let (now, later) = self.bytes.split_at(count);
        room[..count].copy_from_slice(now);
        self.bytes = later;
        Ok(count)
    }
}

/// The rows of a file as text, and where the file goes on after each.
fn rows<R: std::io::BufRead>(lines: &mut CsvLines<R>) -> Vec<(String, (u64, u64))> {
    let mut all = Vec::new();
    while let Some(row) = lines.next_row() {
        let row = row.expect("bytes can be read");
        let input = row.input.map_err(|problem| problem.to_string());
        all.push((format!("{} {input:?}", row.line), lines.position()));
    }
    all
}

fn columns(case: &mut Case<'_>) -> Columns {
    let name = |case: &mut Case<'_>| case.one_in(4).then(|| "a".to_owned());
    Columns {
        text: name(case),
        text_pair: None,
        key: name(case),
        features: (0..case.below(2)).map(|_| "b".to_owned()).collect(),
        by_name: case.one_in(3),
    }
}

fn check_csv(case: &mut Case<'_>, columns: &Columns, bytes: &[u8], delimiter: u8) {
    let read = case.bounded(bytes.len(), || {
        let mut lines = CsvLines::new(bytes, columns, delimiter)?;
        Ok::<_, HeaderError>(rows(&mut lines))
    });
    let whole = match read {
        Ok(whole) => whole,
        Err(refused) => return case.refused(&refused.to_string()),
    };
    case.saw(&format!("{} rows", whole.len().min(4)));
    for (row, _) in &whole {
        case.saw(row);
    }
    let max = 1 + case.below(7);
    let dribble = BufReader::with_capacity(1 + max, Dribble { bytes, max });
    let mut lines = CsvLines::new(dribble, columns, delimiter).expect("a header");
    assert_eq!(rows(&mut lines), whole, "read {max} bytes at a time");
    // A run that was stopped goes on behind any row.
    for (at, (_, (done, from))) in whole.iter().enumerate().take(8) {
        let header = CsvLines::new(bytes, columns, delimiter).expect("a header");
        let rest = bytes.get(*from as usize..).expect("a position in the file");
        let mut resumed = header.resume(rest, delimiter, *done, *from);
        let rest: Vec<String> = rows(&mut resumed).into_iter().map(|(row, _)| row).collect();
        let expected: Vec<String> = whole[at + 1..].iter().map(|(row, _)| row.clone()).collect();
        assert_eq!(rest, expected, "from byte {from}");
    }
}

const SEEDS: [&[u8]; 6] = [
    b"key,text\nr1,\"I love, this\"\nr2,\n",
    b"\xef\xbb\xbfkey,text\r\n\"a\"\"b\",\"x\ny\"\r\n",
    b"key,a,b\ni1,1,2.5\ni2,x,1\ni3,nan,1\ni4,1\n",
    b"a;b\n\n\n1;2",
    b"text\n\"open",
    b"a,b,key\n1e999,-0,\xff\n",
];

#[test]
fn fuzz_csv() {
    Target::new("csv")
        .seeds(&SEEDS)
        .memory(1 << 20, 512)
        .words(&[
            "\"", "\"\"", "\r\n", "\r", ",", "\t", "\u{feff}", "key", "text", "inf", "1e39", "\0",
        ])
        .run(|case| {
            let bytes = case.bytes();
            let delimiter = *case.pick(b",,,\t");
            check_csv(case, &Columns::default(), bytes, delimiter);
        });
}

/// Cells that are quoted, split and strange, under columns that are named.
#[test]
fn fuzz_csv_built() {
    Target::new("csv_built").memory(1 << 20, 512).run(|case| {
        let columns = columns(case);
        let end = *case.pick(&["\n", "\r\n", "\r"]);
        let mut file = String::new();
        if case.one_in(6) {
            file.push('\u{feff}');
        }
        file.push_str(case.pick::<&str>(&[
            "a,b,key",
            "a,b",
            "key,text",
            "\"a\",b",
            "text,text_pair,a",
            "",
        ]));
        file.push_str(end);
        while case.goes_on() && file.len() < 4_000 {
            for at in 0..1 + case.below(4) {
                if at > 0 {
                    file.push(',');
                }
                let cell = if case.one_in(2) {
                    case.number()
                } else {
                    case.text()
                };
                match case.below(4) {
                    0 => file.push_str(&format!("\"{}\"", cell.replace('"', "\"\""))),
                    1 => file.push_str(&format!("\"{cell}\"x")),
                    2 => file.push_str(&format!("{cell}\"")),
                    _ => file.push_str(&cell),
                }
            }
            file.push_str(end);
        }
        check_csv(case, &columns, file.as_bytes(), b',');
    });
}

/// What a line is to `kiln submit`: an input or a job that the contract's reader takes apart, or a bad line.
#[test]
fn fuzz_jsonl() {
    let seeds: [&[u8]; 4] = [
        b"{\"text\":\"a\"}\n\n{\"text\":\"b\"}\nnope\n[1]\n{\"job_id\":\"j\",\"inputs\":[]}\n",
        b"\xef\xbb\xbf{\"text\":\"a\"}\r\n{\"key\":1,\"features\":[1,2]}",
        b"{\"inputs\":1,\"inputs\":2}\n{\"\\u0069nputs\":[]}",
        b"{\"text\":\xff}\n",
    ];
    Target::new("jsonl")
        .seeds(&seeds)
        .memory(1 << 20, 512)
        .words(&[
            "\n",
            "{\"text\":\"",
            "\"inputs\":",
            "{\"key\":",
            "\u{feff}",
            "\r\n",
        ])
        .run(|case| {
            let bytes = case.bytes();
            let pieces = case.bounded(bytes.len(), || -> Vec<Piece> {
                Pieces::jsonl(bytes, 3).collect()
            });
            let mut last = 0;
            for piece in &pieces {
                let line = match piece {
                    Piece::Inputs(inputs) => {
                        case.saw("inputs");
                        assert!((1..=3).contains(&inputs.len()));
                        let texts = inputs.iter().map(|(_, text)| text.as_str());
                        let body = job_body("j", "m", texts, false);
                        let job = Job::parse(&body, None).expect("bad inputs are skipped");
                        assert_eq!(job.inputs.len(), inputs.len());
                        inputs
                            .iter()
                            .map(|(line, _)| *line)
                            .max()
                            .unwrap_or_default()
                    }
                    Piece::Job { line, body } => {
                        case.saw("a job");
                        if let Err(refused) = Job::parse(body.as_bytes(), Some("j")) {
                            case.saw(&refused.rejection.message);
                        }
                        *line
                    }
                    Piece::Bad(bad) => {
                        case.refused(&bad.problem);
                        bad.line
                    }
                };
                assert!(line > last, "line {line} after line {last}");
                last = line;
            }
        });
}
