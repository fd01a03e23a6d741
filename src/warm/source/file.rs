//! A file of inputs, one JSON object per line.

use super::{BadSource, InputSpec, Item, MAX_ROW_BYTES, RowSource, SourceError};
use crate::redact::Redact;
use futures_util::{StreamExt, stream, stream::BoxStream};
use kiln_contract::redact::json_line;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

/// `kind = "file"`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSpec {
    path: PathBuf,
}

impl FileSpec {
    pub(super) fn check(&mut self, folder: &Path) -> Result<(), BadSource> {
        if self.path.as_os_str().is_empty() {
            return Err(BadSource::new("path", "expected the path of a JSONL file"));
        }
        // A file that doesn't exist yet fails its runs, not the schedule.
        self.path = folder.join(&self.path);
        Ok(())
    }
}

/// The rows of a file, read again for each run.
pub struct FileSource(PathBuf);

impl FileSource {
    pub(super) fn new(spec: &FileSpec) -> Self {
        Self(spec.path.clone())
    }
}

struct Reading {
    reader: BufReader<tokio::fs::File>,
    line: u64,
    buffer: Vec<u8>,
}

impl RowSource for FileSource {
    fn rows(&self) -> BoxStream<'_, Result<Item, SourceError>> {
        let open = async move {
            let opening = async {
                // Opening what nobody writes would keep a thread for good.
                if !tokio::fs::metadata(&self.0).await?.is_file() {
                    return Err(std::io::Error::other("it is no file"));
                }
                tokio::fs::File::open(&self.0).await
            };
            let file = opening.await.map_err(|e| self.failed(&e))?;
            let state = Some(Reading {
                reader: BufReader::new(file),
                line: 0,
                buffer: Vec::new(),
            });
            Ok(stream::unfold(state, move |state| async move {
                let mut reading = state?;
                match reading.next().await {
                    Ok(Some(item)) => Some((Ok(item), Some(reading))),
                    Ok(None) => None,
                    Err(error) => Some((Err(self.failed(&error)), None)),
                }
            }))
        };
        stream::once(open)
            .flat_map(|opened| match opened {
                Ok(rows) => rows.boxed(),
                Err(error) => stream::iter([Err(error)]).boxed(),
            })
            .boxed()
    }
}

impl FileSource {
    fn failed(&self, error: &std::io::Error) -> SourceError {
        SourceError(format!("{}: {}", self.0.display(), error.redacted()))
    }
}

impl Reading {
    /// The next line that isn't empty.
    async fn next(&mut self) -> std::io::Result<Option<Item>> {
        loop {
            self.buffer.clear();
            let max = MAX_ROW_BYTES as u64 + 1;
            let read = (&mut self.reader)
                .take(max)
                .read_until(b'\n', &mut self.buffer)
                .await?;
            if read == 0 {
                return Ok(None);
            }
            self.line += 1;
            if read as u64 == max && self.buffer.last() != Some(&b'\n') {
                self.skip_line().await?;
                let problem = format!("line {}: longer than {MAX_ROW_BYTES} bytes", self.line);
                return Ok(Some(Item::Bad(problem)));
            }
            let line = self.buffer.trim_ascii();
            if line.is_empty() {
                continue;
            }
            let row = serde_json::from_slice::<InputSpec>(line)
                .map_err(|e| json_line(&e))
                .and_then(InputSpec::into_row);
            return Ok(Some(match row {
                Ok(row) => Item::Row(row),
                Err(problem) => Item::Bad(format!("line {}: {problem}", self.line)),
            }));
        }
    }

    async fn skip_line(&mut self) -> std::io::Result<()> {
        loop {
            let bytes = self.reader.fill_buf().await?;
            let (used, ended) = match bytes.iter().position(|b| *b == b'\n') {
                Some(at) => (at + 1, true),
                None => (bytes.len(), bytes.is_empty()),
            };
            self.reader.consume(used);
            if ended {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_a_source() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rows.jsonl");
        let lines = concat!(
            r#"{"key":"a","group":"g","text":"one ☃ \"'; --"}"#,
            "\n",
            r#"{"text":"two","text_pair":"pair"}"#,
            "\n",
            r#"{"text":"two","textpair":"pair"}"#,
            "\n\n",
            r#"{"key":"c","features":[0.5,-2]}"#,
            "\r\n",
            r#"{"key":"d","group":"g","text":""}"#,
        );
        std::fs::write(&path, lines).expect("written");
        let mut spec = FileSpec {
            path: "rows.jsonl".into(),
        };
        spec.check(folder.path()).expect("a path");
        let source = FileSource::new(&spec);
        super::super::conformance::check(&source).await;

        std::fs::write(
            &path,
            format!("{}\n{{\"text\":\"x\"}}", "y".repeat(3 * MAX_ROW_BYTES)),
        )
        .expect("written");
        let items: Vec<_> = source.rows().collect().await;
        assert!(
            matches!(&items[0], Ok(Item::Bad(problem)) if problem.starts_with("line 1: longer")),
            "{items:?}"
        );
        assert!(matches!(&items[1], Ok(Item::Row(_))) && items.len() == 2);
        std::fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink("/dev/zero", &path).expect("a link");
        let items: Vec<_> = source.rows().collect().await;
        assert!(
            matches!(items.as_slice(), [Err(SourceError(problem))] if problem.ends_with("it is no file")),
            "{items:?}"
        );
        std::fs::remove_file(&path).expect("removed");
        let items: Vec<_> = source.rows().collect().await;
        assert!(
            matches!(items.as_slice(), [Err(SourceError(problem))] if problem.contains("rows.jsonl")),
            "{items:?}"
        );
    }
}
