//! Owns the numbers of models and namespaces: asked of the file once.

use ahash::RandomState;
use rusqlite::{Connection, OptionalExtension, params};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// A model's name and version.
pub(super) type ModelName = (String, String);

/// The numbers that are known.
#[derive(Default)]
pub(super) struct Names {
    models: Mutex<HashMap<ModelName, i64, RandomState>>,
    namespaces: Mutex<HashMap<String, i64, RandomState>>,
}

const FIND_MODEL: &str = "SELECT id FROM models WHERE model = ?1 AND version = ?2";
const ADD_MODEL: &str = "INSERT OR IGNORE INTO models (model, version) VALUES (?1, ?2)";
const FIND_NAMESPACE: &str = "SELECT id FROM namespaces WHERE namespace = ?1";
const ADD_NAMESPACE: &str = "INSERT OR IGNORE INTO namespaces (namespace) VALUES (?1)";

impl Names {
    /// A model version's number, where it is known.
    pub fn model(&self, name: &ModelName) -> Option<i64> {
        let models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        models.get(name).copied()
    }

    pub fn note_model(&self, name: ModelName, number: i64) {
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        models.insert(name, number);
    }

    /// A namespace's number, where it is known.
    pub fn namespace(&self, name: &str) -> Option<i64> {
        let known = &self.namespaces;
        let known = known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(name).copied()
    }

    pub fn note_namespace(&self, name: String, number: i64) {
        let known = &self.namespaces;
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(name, number);
    }
}

/// A model version's number; nothing where the file has none of its scores.
pub(super) fn find_model(
    connection: &Connection,
    (model, version): &ModelName,
) -> rusqlite::Result<Option<i64>> {
    let mut find = connection.prepare_cached(FIND_MODEL)?;
    find.query_row(params![model, version], |row| row.get(0))
        .optional()
}

/// The number that a model version has from now on.
pub(super) fn add_model(
    connection: &Connection,
    (model, version): &ModelName,
) -> rusqlite::Result<i64> {
    connection.execute(ADD_MODEL, params![model, version])?;
    connection.query_row(FIND_MODEL, params![model, version], |row| row.get(0))
}

/// The number that a namespace has from now on.
pub(super) fn add_namespace(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.execute(ADD_NAMESPACE, [name])?;
    connection.query_row(FIND_NAMESPACE, [name], |row| row.get(0))
}
