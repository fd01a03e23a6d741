//! Owns what a follower is that is to be had ready, and what it costs. Pure.

use crate::{
    store::{Post, SpentAhead},
    warm::source::RowContent,
};
use kiln_contract::{
    key::InputHash,
    order::{AsOf, Moment},
};

/// What follows a request is asked for within so many seconds: what lives for longer is ready.
pub(super) const WITHIN_SECONDS: f64 = 1.0;

/// An input that is to be had ready.
#[derive(Debug)]
pub(super) struct Due {
    /// The name that it gets, or else, where jobs go by that, the key that it had.
    pub key: Option<String>,
    pub hash: InputHash,
    pub content: RowContent,
    /// How old its word is.
    pub accepted: Moment,
    /// What its producer said of that.
    pub as_of: Option<AsOf<'static>>,
    pub ttl_seconds: u64,
    /// Whether the model must compute it, and what that is expected to take, in seconds.
    pub computes: bool,
    pub cost: f64,
    /// Whether calls have measured what the version that it goes to takes.
    pub is_measured: bool,
}

impl Due {
    /// What is spent with it.
    pub fn added_to(&self, spent: SpentAhead) -> SpentAhead {
        let computes = i64::from(self.computes);
        SpentAhead {
            inputs: spent.inputs + computes,
            model_seconds: spent.model_seconds + if self.computes { self.cost } else { 0.0 },
            renewals: spent.renewals + 1 - computes,
        }
    }

    /// As a job of a run is known.
    pub fn post(&self, piece: i32, bytes: usize) -> Post {
        Post {
            piece,
            inputs: 1,
            computes: i32::from(self.computes),
            model_seconds: if self.computes { self.cost } else { 0.0 },
            full_seconds: self.cost,
            bytes: i32::try_from(bytes).unwrap_or(i32::MAX),
        }
    }
}
