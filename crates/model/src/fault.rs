//! `fault`: a model that misbehaves on request, for the tests of what Kiln promises. Only in builds with the cargo
//! feature `faults`.
//!
//! A text that contains `panic` panics, `abort` ends the process, `nan` is answered with NaN, `sleep:<ms>` is
//! answered that much later, and `full:<path>` panics as long as that file is there; every answer is otherwise a number in [0, 1)
//! made from the text's hash.

use std::path::Path;
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::network::{Batch, Network};

pub(crate) struct Fault;

impl Network for Fault {
    fn forward(&self, batch: Batch<'_>) -> Vec<f32> {
        let Batch::Texts(texts) = batch else {
            unreachable!("rows were checked to be texts")
        };
        texts.iter().map(|row| score(&row.text)).collect()
    }

    fn smallest_share(&self) -> usize {
        1
    }
}

pub(crate) fn score(text: &str) -> f32 {
    if text.contains("panic") {
        panic!("asked to panic");
    }
    if text.contains("abort") {
        std::process::abort();
    }
    if text.contains("nan") {
        return f32::NAN;
    }
    if let Some(millis) = sleep_asked(text) {
        thread::sleep(Duration::from_millis(millis));
    }
    if file_named(text).is_some_and(Path::exists) {
        panic!("no memory is left");
    }
    let digest: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    let [first, second, third, ..] = digest;
    let bits = u32::from_be_bytes([0, first, second, third]);
    bits as f32 / (1u32 << 24) as f32
}

fn file_named(text: &str) -> Option<&Path> {
    let (_, after) = text.split_once("full:")?;
    after.split_whitespace().next().map(Path::new)
}

fn sleep_asked(text: &str) -> Option<u64> {
    let (_, after) = text.split_once("sleep:")?;
    let digits = after.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}
