//! Decides what to have ready, and posts jobs for it.
//!
//! Flow: the [`folder`] of [`schedule`] files says what may be warmed and when; [`due`] says which runs are due; a run
//! reads its [`source`].

pub mod cron;
pub mod due;
pub mod folder;
pub mod schedule;
pub mod source;
