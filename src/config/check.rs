//! Owns what makes sense of a setting's value, beyond its type.
//!
//! Promises to look at every setting before a socket opens, and to name the one that is refused and what was expected.

mod callbacks;
mod ranges;
mod rules;
mod tls;

use super::{ConfigError, Settings};

/// A whole number and the bounds that it must keep, both inclusive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    pub(super) name: &'static str,
    pub(super) value: u64,
    pub(super) min: u64,
    pub(super) max: u64,
}

impl Range {
    fn check(self) -> Result<(), ConfigError> {
        let Self {
            name,
            value,
            min,
            max,
        } = self;
        if (min..=max).contains(&value) {
            return Ok(());
        }
        let problem = format!("{value} is not within {min} to {max}");
        Err(ConfigError::OutOfRange { name, problem })
    }
}

/// Every bounded number of the settings with its bounds.
pub(super) fn ranges(settings: &Settings) -> Vec<Range> {
    ranges::all(settings)
}

/// Checks every value, and reads the files that connections need.
pub(super) fn check(settings: &Settings) -> Result<(), ConfigError> {
    ranges(settings).into_iter().try_for_each(Range::check)?;
    rules::queues(&settings.queues)?;
    rules::intake(&settings.intake)?;
    rules::cache(&settings.cache)?;
    rules::warm(&settings.warm)?;
    callbacks::check(&settings.callbacks)?;
    rules::audit(settings)?;
    rules::namespaces(&settings.namespaces)?;
    rules::lanes(settings)?;
    rules::shadows(settings)?;
    rules::http(&settings.http)?;
    rules::urls(settings)?;
    rules::trace(&settings.trace)?;
    Ok(tls::check(settings)?)
}
