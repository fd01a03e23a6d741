//! Takes what a browser needs out of Swagger UI's archive, a thirtieth of what lies in it, and packs each file by itself.

#![allow(clippy::expect_used, reason = "a build fails where it stands")]

use flate2::{Compression, write::GzEncoder};
use std::{
    env, fs,
    io::{self, Cursor, Write},
    path::PathBuf,
};
use utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED;
use zip::ZipArchive;

const FILES: [&str; 5] = [
    "favicon-32x32.png",
    "index.css",
    "swagger-ui.css",
    "swagger-ui-bundle.js",
    "swagger-ui-standalone-preset.js",
];

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let folder = PathBuf::from(env::var_os("OUT_DIR").expect("cargo names a folder"));
    let mut archive = ZipArchive::new(Cursor::new(SWAGGER_UI_VENDORED))?;
    for name in FILES {
        let end = format!("/dist/{name}");
        let path = archive
            .file_names()
            .filter(|path| path.ends_with(&end))
            .min_by_key(|path| path.len())
            .expect("the archive has it")
            .to_owned();
        let mut packed = GzEncoder::new(Vec::new(), Compression::best());
        io::copy(&mut archive.by_name(&path)?, &mut packed)?;
        let mut file = fs::File::create(folder.join(format!("{name}.gz")))?;
        file.write_all(&packed.finish()?)?;
    }
    Ok(())
}
