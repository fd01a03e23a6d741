//! Owns how a file becomes messages: whole jobs as they stand, inputs in jobs of some hundred, each under an
//! id that follows from its content.
//!
//! Promises that the same file with the same options gives the same ids and the same bodies, so that posting
//! it twice scores it once.

use crate::cli::file::{BadLine, Piece};
use kiln_contract::job::{self, JobWriter, OnError};
use kiln_contract::key;
use kiln_contract::redact::json_line;
use serde_json::{Map, Value};

/// What the command line says about jobs.
#[derive(Debug, Clone)]
pub(super) struct Cut {
    /// For inputs, and for whole jobs that name none.
    pub(super) model: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) named: bool,
    pub(super) prefix: String,
}

/// A job to post.
#[derive(Debug, PartialEq)]
pub(super) struct Posting {
    pub(super) id: String,
    pub(super) body: Vec<u8>,
}

/// Why a piece of the file isn't posted.
#[derive(Debug, PartialEq)]
pub(super) enum Unfit {
    Line(BadLine),
    /// The line of an input for which there is no model.
    NoModel(u64),
}

impl Cut {
    /// The job that a piece is.
    pub(super) fn posting(&self, piece: Piece) -> Result<Posting, Unfit> {
        match piece {
            Piece::Bad(bad) => Err(Unfit::Line(bad)),
            Piece::Job { line, body } => self
                .job(body)
                .map_err(|problem| Unfit::Line(BadLine { line, problem })),
            Piece::Inputs(inputs) => self.inputs(&inputs),
        }
    }

    /// A whole job, byte for byte as it stands, after the fields that the command line gives and it lacks.
    fn job(&self, text: String) -> Result<Posting, String> {
        let fields: Map<String, Value> =
            serde_json::from_str(&text).map_err(|e| format!("not JSON: {}", json_line(&e)))?;
        let body = self
            .head(|field| !fields.contains_key(field))
            .finish_before(&text);
        let id = match fields.get("job_id") {
            None => self.id_of(&body),
            Some(Value::String(id)) if job::is_job_id(id) => id.clone(),
            Some(_) => {
                return Err(format!("`job_id`: {}", job::EXPECTED_JOB_ID));
            }
        };
        Ok(Posting { id, body })
    }

    /// A job over inputs. A bad input is skipped, not the job: which inputs share one is the cutting's choice.
    fn inputs(&self, inputs: &[(u64, String)]) -> Result<Posting, Unfit> {
        if self.model.is_none() {
            return Err(Unfit::NoModel(inputs.first().map_or(0, |(line, _)| *line)));
        }
        let mut job = self.head(|_| true);
        job.on_error(OnError::Skip);
        job.json_inputs(inputs.iter().map(|(_, input)| input.as_str()));
        let body = job.finish();
        Ok(Posting {
            id: self.id_of(&body),
            body,
        })
    }

    /// A job with the fields that the command line gives, as far as they are `wanted`.
    fn head(&self, wanted: impl Fn(&str) -> bool) -> JobWriter {
        let mut job = JobWriter::new();
        if let Some(model) = self.model.as_deref().filter(|_| wanted("model")) {
            job.model(model);
        }
        if let Some(namespace) = self.namespace.as_deref().filter(|_| wanted("namespace")) {
            job.namespace(namespace);
        }
        if self.named && wanted("named") {
            job.named(true);
        }
        job
    }

    /// The prefix and 128 bits of the body's hash.
    fn id_of(&self, body: &[u8]) -> String {
        let mut hash = hex::encode(key::hash_body(body));
        hash.truncate(HASH_DIGITS);
        format!("{}{hash}", self.prefix)
    }
}

/// Hexadecimal digits of a hash in an id.
const HASH_DIGITS: usize = 32;

/// Reads the prefix of ids: with the hash behind it, it must still be an id.
pub(super) fn prefix(text: &str) -> Result<String, String> {
    let max = job::MAX_JOB_ID - HASH_DIGITS;
    if text.len() <= max && (text.is_empty() || job::is_job_id(text)) {
        Ok(text.to_owned())
    } else {
        Err(format!("expected at most {max} printable ASCII characters"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::file::{Columns, Pieces};
    use kiln_contract::job::Job;

    fn cut(model: Option<&str>) -> Cut {
        Cut {
            model: model.map(str::to_owned),
            namespace: Some("reviews".into()),
            named: true,
            prefix: "p-".into(),
        }
    }

    fn postings(cut: &Cut, file: &str, inputs: usize) -> Vec<Result<Posting, Unfit>> {
        Pieces::jsonl(file.as_bytes(), inputs)
            .map(|piece| cut.posting(piece))
            .collect()
    }

    #[test]
    fn inputs_become_jobs_whose_ids_follow_their_content() {
        let file = "{\"text\":\"a\"}\n{\"text\":\"b\"}\nnope\n{\"text\":\"c\"}\n";
        let first = postings(&cut(Some("m@1")), file, 2);
        assert_eq!(first, postings(&cut(Some("m@1")), file, 2));
        assert_eq!(first.len(), 3);
        let posting = first[0].as_ref().expect("a job");
        let job = Job::parse(&posting.body, Some(&posting.id)).expect("parses");
        assert_eq!((job.model.as_ref(), job.inputs.len()), ("m@1", 2));
        assert_eq!((job.namespace(), job.named), ("reviews", true));
        assert!(posting.id.starts_with("p-") && posting.id.len() == 2 + HASH_DIGITS);
        assert!(
            matches!(&first[1], Err(Unfit::Line(bad)) if bad.line == 3),
            "{:?}",
            first[1]
        );

        let other = postings(&cut(Some("m@2")), file, 2);
        assert_ne!(other[0].as_ref().expect("a job").id, posting.id);
        // What is appended changes no job that was whole before.
        let longer = postings(&cut(Some("m@1")), &format!("{file}{{\"text\":\"d\"}}\n"), 2);
        assert_eq!(longer[0], first[0]);
    }

    #[test]
    fn the_bytes_and_the_ids_of_jobs_never_change() {
        let file = "{\"text\": \"a ☃\", \"key\":\"k\"}\n{\"features\":[1,0.5]}\n";
        let posted = postings(&cut(Some("m@\"1\"")), file, 2);
        assert_eq!(
            posted,
            [Ok(Posting {
                id: "p-e9893ce6e1c18bd887ae05c4df621f08".into(),
                body: r#"{"model":"m@\"1\"","namespace":"reviews","named":true,"on_error":"skip","inputs":[{"text": "a ☃", "key":"k"},{"features":[1,0.5]}]}"#.into()
            })]
        );
        let plain = Cut {
            namespace: None,
            named: false,
            ..cut(Some("m"))
        };
        let csv = "key,a,b\ni1,1,0.1\n";
        let pieces = Pieces::csv(csv.as_bytes(), 2, &Columns::default()).expect("a header");
        let posted: Vec<_> = pieces.map(|piece| plain.posting(piece)).collect();
        assert_eq!(
            posted,
            [Ok(Posting {
                id: "p-91a6f5c010af4ae0fad2c9276cd4e9fc".into(),
                body: r#"{"model":"m","on_error":"skip","inputs":[{"features":[1.0,0.1],"key":"i1"}]}"#.into()
            })]
        );
        let csv = "text_pair,key,text\np,i1,t \"\"\n";
        let pieces = Pieces::csv(csv.as_bytes(), 2, &Columns::default()).expect("a header");
        let posted: Vec<_> = pieces.map(|piece| plain.posting(piece)).collect();
        assert_eq!(
            posted,
            [Ok(Posting {
                id: "p-6ce3fd360728643596b198820b4fc4e6".into(),
                body: r#"{"model":"m","on_error":"skip","inputs":[{"key":"i1","text":"t \"\"","text_pair":"p"}]}"#.into()
            })]
        );
        let bare = postings(&cut(Some("m")), r#"{"inputs":[{"text":"a"}]}"#, 2);
        assert_eq!(
            bare,
            [Ok(Posting {
                id: "p-367375bbd1a4eadb208342e6c16d18c2".into(),
                body: r#"{"model":"m","namespace":"reviews","named":true,"inputs":[{"text":"a"}]}"#
                    .into()
            })]
        );
    }

    #[test]
    fn whole_jobs_stay_as_they_are_but_for_what_they_lack() {
        let whole = r#"{"job_id":"j1","model":"own","inputs":[{"features":[1e0]}],"namespace":"n","named":false}"#;
        let posted = postings(&cut(Some("m")), whole, 2);
        assert_eq!(
            posted,
            [Ok(Posting {
                id: "j1".into(),
                body: whole.as_bytes().to_vec()
            })]
        );

        let bare = r#"{"inputs":[{"text":"a"}]}"#;
        let posted = postings(&cut(Some("m")), bare, 2);
        let posting = posted[0].as_ref().expect("a job");
        let job = Job::parse(&posting.body, Some(&posting.id)).expect("parses");
        assert_eq!(
            (job.model.as_ref(), job.namespace(), job.named),
            ("m", "reviews", true)
        );
        assert!(posting.id.starts_with("p-"));
    }

    #[test]
    fn what_has_no_usable_id_or_model_is_told_by_line() {
        let posted = postings(
            &cut(None),
            "{\"inputs\":[],\"job_id\":7}\n{\"text\":\"a\"}",
            2,
        );
        assert!(
            matches!(&posted[0], Err(Unfit::Line(bad)) if bad.line == 1 && bad.problem.contains("job_id"))
        );
        assert_eq!(posted[1], Err(Unfit::NoModel(2)));
    }

    #[test]
    fn a_prefix_leaves_room_for_the_hash() {
        assert_eq!(prefix("reviews-"), Ok("reviews-".into()));
        assert_eq!(prefix(""), Ok(String::new()));
        assert!(prefix(&"p".repeat(97)).is_err());
        assert!(prefix("tab\t").is_err());
    }
}
