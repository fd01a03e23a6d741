//! Owns noting what a command did among operators' actions, and by whom.
//!
//! Refuses to fail a command for it: what was done is done.

use crate::{
    config::Settings,
    parts,
    store::{ActionKind, PostgresStore},
};

/// Longest name of a user, in characters.
const NAME: usize = 64;

/// Who runs the command, as the system's environment says.
pub(super) fn user() -> String {
    let user = std::env::var("USER").unwrap_or_default();
    let user: String = user
        .chars()
        .filter(|c| !c.is_control())
        .take(NAME)
        .collect();
    match user.as_str() {
        "" => "command line".to_owned(),
        _ => user,
    }
}

/// Notes what was done.
pub(super) async fn note(store: &PostgresStore, kind: ActionKind, detail: &str) {
    let by = format!("command: {}", user());
    if let Err(error) = store.note_action(&by, kind, detail).await {
        eprintln!("kiln: that isn't noted among the actions: {error}");
    }
}

/// Notes what was done by a command that needs no database, where the settings name one.
pub(super) async fn note_where_set(settings: &Settings, kind: ActionKind, detail: &str) {
    if settings.database.url.is_none() {
        return;
    }
    match parts::postgres(settings) {
        Ok(store) => note(&store, kind, detail).await,
        Err(error) => eprintln!("kiln: that isn't noted among the actions: {error:#}"),
    }
}
