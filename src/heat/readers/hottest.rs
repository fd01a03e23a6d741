//! Owns what is told of readers: which names are read, and how often.
//!
//! Promises to copy no more under the lock, for which batches wait, than one namespace's part of what is told.

use super::{Name, NamedRate, Names, Readers};
use crate::heat::{moment, pace::Now};

impl Names {
    /// The names that somebody reads, with their reads a second.
    fn read(&self, now: &Now) -> impl Iterator<Item = (f64, &Name)> {
        let rated = self.all.iter();
        let rated = rated.map(|name| (name.rate(now, &self.trust), name));
        rated.filter(|(rate, _)| *rate > 0.0)
    }
}

impl Readers {
    /// Every namespace with a name that somebody reads, in order.
    pub fn namespaces(&self) -> Vec<String> {
        let at = Now::new(self.now());
        self.with(|inner| {
            let all = inner.namespaces.iter();
            let read = all.filter(|(_, names)| names.read(&at).next().is_some());
            read.map(|(namespace, _)| namespace.clone()).collect()
        })
    }

    /// The reads a second of each name of a namespace, the most first; none that nobody reads.
    pub fn rates(&self, namespace: &str) -> Vec<f64> {
        let at = Now::new(self.now());
        let mut rates: Vec<f64> = self.with(|inner| {
            let names = inner.namespaces.get(namespace).into_iter();
            let read = names.flat_map(|names| names.read(&at));
            read.map(|(rate, _)| rate).collect()
        });
        rates.sort_by(|a, b| b.total_cmp(a));
        rates
    }

    /// The `top` names of a namespace that are read most at `now`, in seconds since the beginning, the fastest first; none that nobody reads.
    /// `now_ms` is the time of day then.
    pub fn hottest_at(&self, namespace: &str, top: usize, now: f64, now_ms: i64) -> Vec<NamedRate> {
        let at = Now::new(now);
        let mut hot: Vec<NamedRate> = self.with(|inner| {
            let names = inner.namespaces.get(namespace).into_iter();
            let read = names.flat_map(|names| names.read(&at));
            let mut read: Vec<(f64, &Name)> = read.collect();
            // Batches wait for this lock: only what is reported is copied under it, and it is sorted outside.
            if top < read.len() {
                read.select_nth_unstable_by(top, |(a, one), (b, other)| {
                    b.total_cmp(a).then_with(|| one.name.cmp(&other.name))
                });
                read.truncate(top);
            }
            let copied = read.into_iter().map(|(rate, name)| NamedRate {
                name: name.name.clone(),
                input: name.input,
                written_ms: moment(now_ms, now - name.written),
                rate,
                counted: name.hints.is_some(),
            });
            copied.collect()
        });
        hot.sort_by(|a, b| b.rate.total_cmp(&a.rate).then_with(|| a.name.cmp(&b.name)));
        hot
    }
}
