//! Owns the names of the lanes and models that have failed so that their jobs can't end, and why: a bounded list.

use std::collections::BTreeMap;

/// Names that are kept.
const NAMES: usize = 64;
/// Names that are shown with their reasons.
const SHOWN: usize = 3;

/// What has failed.
#[derive(Debug, Default)]
pub(super) struct Failed(BTreeMap<String, String>);

impl Failed {
    /// Notes that a lane has failed.
    pub(super) fn add(&mut self, name: &str, reason: &str) {
        if self.0.len() < NAMES || self.0.contains_key(name) {
            self.0.insert(name.to_owned(), reason.to_owned());
        }
    }

    /// Notes that a lane works.
    pub(super) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// One line for all of them; nothing where there is none.
    pub(super) fn reason(&self) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        let shown = self.0.iter().take(SHOWN);
        let shown: Vec<String> = shown
            .map(|(name, reason)| format!("{name}: {reason}"))
            .collect();
        let more = self.0.len().saturating_sub(SHOWN);
        let more = match more {
            0 => String::new(),
            _ => format!("; and {more} more"),
        };
        Some(shown.join("; ") + &more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_lanes_are_one_line_of_a_bounded_length() {
        let mut failed = Failed::default();
        assert_eq!(failed.reason(), None);
        failed.add("encoder", "its model panics");
        assert_eq!(
            failed.reason().as_deref(),
            Some("encoder: its model panics")
        );
        for n in 0..1_000 {
            failed.add(&format!("lane-{n:04}"), "gone");
        }
        let reason = failed.reason().expect("a reason");
        assert_eq!(
            reason,
            "encoder: its model panics; lane-0000: gone; lane-0001: gone; and 61 more"
        );
        failed.add("encoder", "still");
        assert!(
            failed
                .reason()
                .expect("a reason")
                .starts_with("encoder: still")
        );
        failed.remove("encoder");
        for n in 0..1_000 {
            failed.remove(&format!("lane-{n:04}"));
        }
        assert_eq!(failed.reason(), None);
    }
}
