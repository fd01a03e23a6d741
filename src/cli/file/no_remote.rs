//! Owns what stands for `remote` in a build without that feature: nothing can be opened, so that there is nothing to read.

use anyhow::bail;
use serde_json::Value;
use std::{
    io,
    path::{Path, PathBuf},
};

/// There is none.
pub enum Object {}

impl Object {
    pub fn open(_address: &str) -> anyhow::Result<Self> {
        missing()
    }

    pub fn matching(_address: &str) -> anyhow::Result<Vec<Self>> {
        missing()
    }

    pub fn under(_address: &str, _wanted: impl Fn(&Path) -> bool) -> anyhow::Result<Vec<Self>> {
        missing()
    }

    pub fn shown(&self) -> PathBuf {
        match *self {}
    }

    pub fn bytes(&self) -> u64 {
        match *self {}
    }

    pub fn identity(&self) -> Value {
        match *self {}
    }

    pub fn problem(&self) -> Option<String> {
        match *self {}
    }

    pub fn read_at(&self, _buffer: &mut [u8], _offset: u64) -> io::Result<usize> {
        match *self {}
    }

    pub fn reader(&self, _from: u64) -> io::Empty {
        match *self {}
    }
}

fn missing<T>() -> anyhow::Result<T> {
    bail!(
        "this build of kiln reads no files of object stores and none by HTTP: that of the image does, and one by `cargo install --features remote`"
    )
}
