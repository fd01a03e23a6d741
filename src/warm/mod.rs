//! Decides what to warm, and posts jobs for it.
//!
//! Flow: the [`folder`] of [`schedule`] files says what to warm and when; [`due`] says which runs are due; a run ([`run`]) reads
//! its [`source`], skips what is fresh ([`gather`]), chooses by benefit and cost ([`plan`]), and posts in portions for as long as its budget lasts
//! ([`portion`], [`outbox`], [`posting`]). Between runs, what probably is asked for next is had ready ([`ahead`]).

pub mod ahead;
pub mod carry;
pub mod cron;
mod depths;
pub mod due;
pub mod folder;
mod follow;
pub mod gather;
pub mod hot_inputs;
pub mod hot_source;
mod known;
mod outbox;
pub mod plan;
mod portion;
mod posting;
mod queue;
pub mod rollover;
pub mod run;
mod scan;
pub mod schedule;
pub mod simulate;
pub mod source;
mod turns;
