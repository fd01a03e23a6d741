//! Owns which columns and form the output of a run has. Refuses what no output can be.

use super::{
    Arguments,
    errors::OnError,
    render::{Layout, has_known_columns},
    source::Source,
    table::Shape,
};
use crate::cli::file::{Format, Packing};
use anyhow::bail;

/// The layout that is asked for.
pub(super) fn layout(
    arguments: &Arguments,
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
        _ => source.kept(&keep)?,
    };
    let shape = format.is_table().then(|| {
        let errors = on_error == OnError::Skip;
        let embedding = arguments.embedding_type.unwrap_or_default();
        Shape::new(
            &kept,
            source.table.as_ref(),
            arguments.detail,
            errors,
            embedding,
        )
    });
    Ok(Layout {
        format,
        kept,
        shape: shape.transpose()?,
    })
}
