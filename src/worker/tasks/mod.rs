//! What a worker does beside its jobs, a file each.

pub(super) mod audit;
pub(super) mod callbacks;
pub(super) mod controls;
pub(super) mod costs;
pub(super) mod days;
pub(super) mod depths;
pub(super) mod fleet;
pub(super) mod health;
pub(super) mod heat;
pub(super) mod hints;
pub(super) mod invalidations;
pub(super) mod lanes;
pub(super) mod models;
mod namespaces;
pub(super) mod news;
pub(super) mod shadow;
pub(super) mod timings;
pub(super) mod warming;
