//! Owns which columns and form the output of a run has. Refuses what no output can be.

use super::{
    FileArguments,
    errors::OnError,
    item::Keep,
    render::{Layout, has_known_columns},
    result::{EmbeddingType, kept_name},
    source::Source,
    table::Shape,
};
use crate::cli::file::{Format, Packing};
use anyhow::bail;
use std::collections::HashSet;

/// The layout that is asked for.
pub(super) fn layout(
    arguments: &FileArguments,
    on_error: OnError,
    source: &Source,
) -> anyhow::Result<Layout> {
    let format = arguments.output_format();
    let keep = arguments.keep();
    let packing = arguments.output.as_deref().map(Packing::of_name);
    if format == Format::Parquet && packing.is_some_and(|packing| packing != Packing::Plain) {
        bail!("a Parquet file packs its own pages: name the output without .gz or .zst");
    }
    if !has_known_columns(&keep, source.format, format) {
        bail!(
            "the columns of lines aren't known before the last one: name them, as --keep-columns=a,b, or write --format jsonl"
        );
    }
    let kept = match format {
        // Each line has its own.
        Format::Jsonl => Vec::new(),
        _ => source.kept()?,
    };
    let is_known = format != Format::Jsonl || keep != Keep::Others || source.is_file();
    if is_known {
        check_names(&source.kept()?, format, arguments.embedding_type)?;
    }
    let shape = format.is_table().then(|| {
        let errors = on_error == OnError::Skip;
        let embedding = arguments.embedding_type.unwrap_or_default();
        Shape::new(&kept, source.table(), arguments.detail, errors, embedding)
    });
    Ok(Layout {
        format,
        kept,
        shape: shape.transpose()?,
    })
}

/// Looks at the kept columns' names in the output: whoever reads it finds a column by its name.
fn check_names(
    kept: &[String],
    format: Format,
    embedding: Option<EmbeddingType>,
) -> anyhow::Result<()> {
    let mut names = HashSet::new();
    if format.is_table() && embedding == Some(EmbeddingType::Int8) {
        names.insert("embedding_scale".to_owned());
    }
    for column in kept {
        let name = kept_name(column);
        if !names.insert(name.clone()) {
            bail!(
                "two columns of the output would be called `{name}`: name those to keep, as --keep-columns=a,b, or give one another name in the input"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_columns_of_an_output_have_one_name() {
        let check = |kept: &[&str], format, embedding| {
            let kept: Vec<String> = kept.iter().map(|name| (*name).to_owned()).collect();
            check_names(&kept, format, embedding).is_ok()
        };
        let int8 = Some(EmbeddingType::Int8);
        assert!(check(&["a", "b", "label"], Format::Csv, None));
        assert!(!check(&["a", "a"], Format::Csv, None));
        assert!(!check(&["input_label", "label"], Format::Jsonl, None));
        assert!(check(&["embedding_scale"], Format::Parquet, None));
        assert!(!check(&["embedding_scale"], Format::Parquet, int8));
        assert!(check(&["embedding_scale"], Format::Csv, int8));
    }
}
