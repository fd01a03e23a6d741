//! Owns the files of [Swagger UI](https://github.com/swagger-api/swagger-ui) that a browser needs to show an API: half a megabyte, packed.
//!
//! Pure.

use flate2::read::GzDecoder;
use std::io::{self, Read};

/// A file, packed by gzip.
#[derive(Debug, Clone, Copy)]
pub struct File {
    /// What it holds, as `Content-Type`.
    pub kind: &'static str,
    /// Its bytes as gzip.
    pub packed: &'static [u8],
}

impl File {
    /// Its bytes as they were, two megabytes at most. An error is one of the packing.
    pub fn plain(&self) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        GzDecoder::new(self.packed).read_to_end(&mut plain)?;
        Ok(plain)
    }
}

macro_rules! packed {
    ($kind:expr, $name:literal) => {
        Some(File {
            kind: $kind,
            packed: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".gz")),
        })
    };
}

const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// A file by its name; nothing where there is none.
pub fn file(name: &str) -> Option<File> {
    match name {
        "favicon-32x32.png" => packed!("image/png", "favicon-32x32.png"),
        "index.css" => packed!(STYLE, "index.css"),
        "swagger-ui.css" => packed!(STYLE, "swagger-ui.css"),
        "swagger-ui-bundle.js" => packed!(SCRIPT, "swagger-ui-bundle.js"),
        "swagger-ui-standalone-preset.js" => packed!(SCRIPT, "swagger-ui-standalone-preset.js"),
        _ => None,
    }
}
