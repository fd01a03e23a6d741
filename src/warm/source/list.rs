//! A list in the schedule itself.

use super::{BadSource, InputSpec, Item, Row, RowSource, SourceError};
use futures_util::{StreamExt, stream, stream::BoxStream};
use serde::Deserialize;

/// Bad inputs that are reported at once.
const MAX_BAD: usize = 32;

/// `kind = "static"`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListSpec {
    inputs: Vec<InputSpec>,
}

impl ListSpec {
    /// Its rows.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        let inputs = self.inputs.iter();
        inputs.filter_map(|input| input.clone().into_row().ok())
    }

    pub(super) fn check(&self) -> Result<(), Vec<BadSource>> {
        if self.inputs.is_empty() {
            let bad = BadSource::new("inputs", "expected at least one input");
            return Err(vec![bad]);
        }
        let inputs = self.inputs.iter().enumerate();
        let bad = inputs.filter_map(|(index, input)| {
            let problem = input.clone().into_row().err()?;
            Some(BadSource::new(format!("inputs[{index}]"), problem))
        });
        let bad: Vec<BadSource> = bad.take(MAX_BAD).collect();
        match bad.is_empty() {
            true => Ok(()),
            false => Err(bad),
        }
    }
}

/// The rows of a list.
pub struct ListSource(Vec<Result<Row, String>>);

impl ListSource {
    pub(super) fn new(spec: &ListSpec) -> Self {
        Self(spec.inputs.iter().map(|i| i.clone().into_row()).collect())
    }
}

impl RowSource for ListSource {
    fn rows(&self) -> BoxStream<'_, Result<Item, SourceError>> {
        stream::iter(self.0.iter().enumerate().map(|(index, row)| {
            Ok(match row {
                Ok(row) => Item::Row(row.clone()),
                Err(problem) => Item::Bad(format!("input {}: {problem}", index + 1)),
            })
        }))
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_list_is_a_source() {
        let spec: ListSpec = toml::from_str(
            r#"inputs = [
                { key = "a", group = "g", text = "one ☃ \"'; --" },
                { text = "two", text_pair = "pair" },
                { text_pair = "alone" },
                { key = "c", features = [0.5, -2.0] },
                { key = "d", group = "g", text = "" },
            ]"#,
        )
        .expect("a list");
        let bad = spec.check().expect_err("one is bad");
        let fields: Vec<&str> = bad.iter().map(|bad| bad.field.as_str()).collect();
        assert_eq!(fields, ["inputs[2]"]);
        super::super::conformance::check(&ListSource::new(&spec)).await;
    }
}
