//! Owns which formats files have. Pure.

use super::packed::Packing;
use std::path::Path;

/// The file's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Jsonl,
    Csv,
    Tsv,
    /// In builds with the feature `parquet`.
    Parquet,
    /// Arrow's file or, through standard input and output, its stream. In builds with the feature `parquet`.
    Arrow,
}

impl Format {
    /// By a file's name, beside how it is packed.
    pub fn of_name(path: &Path) -> Option<Self> {
        let inner = match Packing::of_name(path) {
            Packing::Plain => path.extension()?.to_owned(),
            Packing::Gzip | Packing::Zstd => Path::new(path.file_stem()?).extension()?.to_owned(),
        };
        match inner.to_str()? {
            "csv" => Some(Self::Csv),
            "tsv" | "tab" => Some(Self::Tsv),
            "jsonl" | "ndjson" | "json" => Some(Self::Jsonl),
            "parquet" | "pq" => Some(Self::Parquet),
            "arrow" | "arrows" | "feather" | "ipc" => Some(Self::Arrow),
            _ => None,
        }
    }

    /// What stands between two columns.
    pub fn delimiter(self) -> u8 {
        match self {
            Self::Tsv => b'\t',
            _ => b',',
        }
    }

    /// Whether its columns have types.
    pub fn is_table(self) -> bool {
        matches!(self, Self::Parquet | Self::Arrow)
    }

    /// What its rows are counted as.
    pub fn row(self) -> &'static str {
        if self.is_table() { "row" } else { "line" }
    }
}
