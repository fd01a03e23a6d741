//! Owns recording what the audit beside jobs found: a few a second at the utmost, so that no handle is kept.

use super::{AuditFinding, Metrics, catalogue::*};
use std::time::Duration;

impl Metrics {
    /// Counts what an audit found in a namespace, every finding with its number. The caller bounds the namespaces to those that the settings
    /// or models name.
    pub fn audited(&self, namespace: &str, found: impl IntoIterator<Item = (AuditFinding, u64)>) {
        for (finding, count) in found {
            let labels = [namespace.to_owned().into(), finding.as_str().into()];
            AUDIT_FINDINGS.counter(labels).increment(count);
        }
    }

    /// Records how long an audit's steps took.
    pub fn audit_took(&self, spent: Duration) {
        AUDIT_DURATION.histogram([]).record(spent);
    }

    /// Sets the share of what readers of a namespace find that is to be young enough.
    pub fn max_age_objective(&self, namespace: &str, share: f64) {
        MAX_AGE_OBJECTIVE
            .gauge([namespace.to_owned().into()])
            .set(share);
    }
}
