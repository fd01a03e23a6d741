//! Owns reading jobs and inputs from a file: JSONL with inputs or whole jobs, CSV or TSV with a header; and how a file is packed.
//!
//! Promises to hold no more than one piece of the file at a time, and that a bad line is reported with its
//! number while the rest goes on. Lines are counted from 1.

mod blob;
mod csv;
mod format;
mod inputs;
mod packed;
mod piece;
mod record;
#[cfg(feature = "remote")]
mod remote;
#[cfg(not(feature = "remote"))]
#[path = "file/no_remote.rs"]
mod remote;

use crate::redact::Redact;
use kiln_contract::job::{JobWriter, OnError};
use kiln_contract::redact;
use serde_json::Value;
use std::io::{BufRead, Read};

#[cfg(test)]
use self::csv::HeaderError;
pub use self::{
    blob::Blob,
    csv::{Columns, CsvEnd, CsvLines, CsvRow, described},
    format::Format,
    inputs::{Asked, Inputs},
    packed::{Packer, Packing, unpack},
    piece::{BadLine, BadLines, LINE_BYTES, Piece},
};

/// What a file of UTF-8 may begin with.
const UTF_8: &[u8] = &[0xef, 0xbb, 0xbf];

/// Bytes of inputs after which a job is cut, whatever their number.
const PIECE_BYTES: usize = 1 << 20;

/// Reads a file piece by piece, with the bytes read so far.
pub struct Pieces<R> {
    lines: Lines<R>,
    /// Inputs of one piece at most.
    max_inputs: usize,
    inputs: Vec<(u64, String)>,
    bytes: usize,
    next: Option<Piece>,
}

enum Lines<R> {
    Jsonl {
        reader: R,
        line: u64,
        is_broken: bool,
    },
    #[cfg(test)]
    Csv(Box<CsvLines<R>>),
}

impl<R: BufRead> Pieces<R> {
    /// JSONL: every line an input, or a whole job (an object with `inputs`).
    pub fn jsonl(reader: R, max_inputs: usize) -> Self {
        Self::new(
            Lines::Jsonl {
                reader,
                line: 0,
                is_broken: false,
            },
            max_inputs,
        )
    }

    /// CSV with a header: what `kiln submit` would make of it.
    #[cfg(test)]
    pub fn csv(reader: R, max_inputs: usize, columns: &Columns) -> Result<Self, HeaderError> {
        Ok(Self::new(
            Lines::Csv(Box::new(CsvLines::new(reader, columns, b',')?)),
            max_inputs,
        ))
    }

    fn new(lines: Lines<R>, max_inputs: usize) -> Self {
        Self {
            lines,
            max_inputs,
            inputs: Vec::new(),
            bytes: 0,
            next: None,
        }
    }

    /// Takes what was gathered; what came after it is next.
    fn cut(&mut self, after: Option<Piece>) -> Option<Piece> {
        self.bytes = 0;
        let inputs = std::mem::take(&mut self.inputs);
        if inputs.is_empty() {
            return after;
        }
        self.next = after;
        Some(Piece::Inputs(inputs))
    }
}

impl<R: BufRead> Iterator for Pieces<R> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        if let Some(piece) = self.next.take() {
            return Some(piece);
        }
        loop {
            match self.lines.next() {
                None => return self.cut(None),
                Some(Piece::Inputs(inputs)) => {
                    self.bytes += inputs.iter().map(|(_, input)| input.len()).sum::<usize>();
                    self.inputs.extend(inputs);
                    if self.inputs.len() >= self.max_inputs || self.bytes >= PIECE_BYTES {
                        return self.cut(None);
                    }
                }
                Some(other) => return self.cut(Some(other)),
            }
        }
    }
}

impl<R: BufRead> Lines<R> {
    /// The next line that isn't empty.
    fn next(&mut self) -> Option<Piece> {
        match self {
            Self::Jsonl {
                is_broken: true, ..
            } => None,
            Self::Jsonl {
                reader,
                line,
                is_broken,
            } => loop {
                let mut bytes = Vec::new();
                *line += 1;
                match reader
                    .by_ref()
                    .take(LINE_BYTES)
                    .read_until(b'\n', &mut bytes)
                {
                    Ok(0) => return None,
                    Ok(n) if n as u64 == LINE_BYTES && bytes.last() != Some(&b'\n') => {
                        let problem = match reader.skip_until(b'\n') {
                            Ok(_) => format!("longer than {LINE_BYTES} bytes"),
                            Err(error) => format!("can't be read: {}", error.redacted()),
                        };
                        return Some(Piece::Bad(BadLine {
                            line: *line,
                            problem,
                        }));
                    }
                    Ok(_) => {
                        let text = match *line {
                            1 => bytes.strip_prefix(UTF_8).unwrap_or(&bytes),
                            _ => bytes.as_slice(),
                        };
                        if !text.trim_ascii().is_empty() {
                            return Some(json_line(*line, text));
                        }
                    }
                    Err(error) => {
                        // The source itself is broken: say so, and end.
                        let problem = format!("can't be read: {}", error.redacted());
                        let bad = Piece::Bad(BadLine {
                            line: *line,
                            problem,
                        });
                        *is_broken = true;
                        return Some(bad);
                    }
                }
            },
            #[cfg(test)]
            Self::Csv(lines) => lines.next(),
        }
    }
}

fn json_line(line: u64, bytes: &[u8]) -> Piece {
    let bad = |problem: String| Piece::Bad(BadLine { line, problem });
    let Ok(text) = std::str::from_utf8(bytes.trim_ascii()) else {
        return bad("not UTF-8".into());
    };
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(object)) if object.contains_key("inputs") => Piece::Job {
            line,
            body: text.to_owned(),
        },
        Ok(Value::Object(_)) => Piece::Inputs(vec![(line, text.to_owned())]),
        Ok(_) => bad("expected a JSON object: an input, or a job".into()),
        Err(error) => bad(format!("not JSON: {}", redact::json_line(&error))),
    }
}

/// The body of a job over inputs that were cut from a file. Bad inputs are skipped, not the job.
pub fn job_body<'t>(
    job_id: &str,
    model: &str,
    inputs: impl IntoIterator<Item = &'t str>,
    detail: bool,
) -> Vec<u8> {
    let mut job = JobWriter::new();
    job.job_id(job_id).model(model).on_error(OnError::Skip);
    job.detail(detail);
    job.json_inputs(inputs);
    job.finish()
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(pairs: &[(u64, &str)]) -> Piece {
        Piece::Inputs(
            pairs
                .iter()
                .map(|(line, text)| (*line, (*text).to_owned()))
                .collect(),
        )
    }

    #[test]
    fn jsonl_is_cut_into_pieces_and_bad_lines_keep_their_numbers() {
        let file = "{\"text\":\"a\"}\n\n{\"text\":\"b\"}\n{\"text\":\"c\"}\nnope\n[1]\n\
                    {\"job_id\":\"j\",\"inputs\":[]}\n{\"text\":\"d\"}";
        let pieces: Vec<Piece> = Pieces::jsonl(file.as_bytes(), 2).collect();
        assert_eq!(
            pieces[0],
            inputs(&[(1, r#"{"text":"a"}"#), (3, r#"{"text":"b"}"#)])
        );
        assert_eq!(pieces[1], inputs(&[(4, r#"{"text":"c"}"#)]));
        assert!(matches!(&pieces[2], Piece::Bad(BadLine { line: 5, .. })));
        assert!(matches!(&pieces[3], Piece::Bad(BadLine { line: 6, .. })));
        assert!(matches!(&pieces[4], Piece::Job { line: 7, .. }));
        assert_eq!(pieces[5], inputs(&[(8, r#"{"text":"d"}"#)]));
        assert_eq!(pieces.len(), 6);
    }

    #[test]
    fn a_mark_at_the_beginning_is_no_part_of_the_first_line() {
        let file = "\u{feff}{\"text\":\"a\"}\n{\"text\":\"b\"}";
        let pieces: Vec<Piece> = Pieces::jsonl(file.as_bytes(), 2).collect();
        assert_eq!(
            pieces,
            [inputs(&[(1, r#"{"text":"a"}"#), (2, r#"{"text":"b"}"#)])]
        );
    }

    #[test]
    fn a_record_with_more_cells_than_the_header_is_bad() {
        let texts = "key,text\na,hello, this part is lost\nb,\"hello, whole\"\n";
        let pieces: Vec<Piece> = Pieces::csv(texts.as_bytes(), 10, &Columns::default())
            .expect("header")
            .collect();
        let bad = BadLine {
            line: 2,
            problem: "has 3 cells, the header 2: is a comma unquoted?".to_owned(),
        };
        let whole = r#"{"key":"b","text":"hello, whole"}"#;
        assert_eq!(pieces, [Piece::Bad(bad), inputs(&[(3, whole)])]);
    }

    #[test]
    fn csv_takes_a_text_column_or_feature_columns() {
        let texts = "key,text\nr1,\"I love, this\"\nr2,\n";
        let pieces: Vec<Piece> = Pieces::csv(texts.as_bytes(), 10, &Columns::default())
            .expect("header")
            .collect();
        let second = r#"{"key":"r2","text":""}"#;
        assert_eq!(
            pieces,
            [inputs(&[
                (2, r#"{"key":"r1","text":"I love, this"}"#),
                (3, second)
            ])]
        );

        let by_name = Columns {
            by_name: true,
            ..Columns::default()
        };
        let named: Vec<Piece> = Pieces::csv("key,b,a\ni1,,2.5\n".as_bytes(), 10, &by_name)
            .expect("header")
            .collect();
        assert_eq!(
            named[0],
            inputs(&[(2, r#"{"features":{"a":2.5},"key":"i1"}"#)])
        );

        let by_place = "key,a,b\ni1,,2.5\n".as_bytes();
        let lacking: Vec<Piece> = Pieces::csv(by_place, 10, &Columns::default())
            .expect("header")
            .collect();
        assert_eq!(
            lacking[0],
            inputs(&[(2, r#"{"features":[null,2.5],"key":"i1"}"#)])
        );

        let numbers = "key,a,b\ni1,1,2.5\ni2,x,1\ni3,nan,1\ni4,1\n";
        let pieces: Vec<Piece> = Pieces::csv(numbers.as_bytes(), 10, &Columns::default())
            .expect("header")
            .collect();
        assert_eq!(
            pieces[0],
            inputs(&[(2, r#"{"features":[1.0,2.5],"key":"i1"}"#)])
        );
        let problems: Vec<&BadLine> = pieces
            .iter()
            .filter_map(|p| {
                if let Piece::Bad(bad) = p {
                    Some(bad)
                } else {
                    None
                }
            })
            .collect();
        assert_eq!(
            problems.iter().map(|b| b.line).collect::<Vec<_>>(),
            [3, 4, 5]
        );
        assert!(problems[0].problem.contains("column `a`"), "{problems:?}");

        let wanted = Columns {
            text: Some("review".into()),
            ..Columns::default()
        };
        let error = Pieces::csv(texts.as_bytes(), 10, &wanted)
            .err()
            .expect("no such column");
        assert_eq!(
            error.to_string(),
            "no column `review`; there are: key, text"
        );
    }

    #[test]
    fn a_cut_job_reads_as_one() {
        let inputs = [r#"{"key":"a","text":"x"}"#, r#"{"text":"y"}"#];
        let body = job_body("id \"1\"", "m@1", inputs, true);
        assert_eq!(
            std::str::from_utf8(&body),
            Ok(
                r#"{"job_id":"id \"1\"","model":"m@1","on_error":"skip","detail":true,"inputs":[{"key":"a","text":"x"},{"text":"y"}]}"#
            )
        );
        let job = kiln_contract::job::Job::parse(&body, None).expect("parses");
        assert_eq!(
            (job.job_id.as_ref(), job.inputs.len(), job.detail),
            ("id \"1\"", 2, true)
        );
    }
}
