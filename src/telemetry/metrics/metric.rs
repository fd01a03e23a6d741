//! Owns what a metric is: its name, kind, unit, labels and help text, and the series that follow from them.
//!
//! Promises that a series has the labels that its metric declares, and no others.

use metrics::{
    Counter, Gauge, Histogram, SharedString, Unit, counter, describe_counter, describe_gauge,
    describe_histogram, gauge, histogram,
};

/// How a metric counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// What a label's values are.
#[derive(Debug, Clone, Copy)]
pub enum Values {
    /// Each with its meaning.
    Listed(fn() -> Vec<(&'static str, &'static str)>),
    /// Names from manifests or settings: what they name.
    Named(&'static str),
}

/// One label of a metric.
#[derive(Debug, Clone, Copy)]
pub struct Label {
    pub name: &'static str,
    pub values: Values,
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    /// What it counts or measures.
    pub unit: &'static str,
    pub help: &'static str,
    pub labels: &'static [Label],
    /// Upper bounds of a histogram's buckets; empty for the other kinds.
    pub buckets: &'static [f64],
}

pub(super) const fn counter(name: &'static str, unit: &'static str, help: &'static str) -> Metric {
    Metric {
        name,
        kind: Kind::Counter,
        unit,
        help,
        labels: &[],
        buckets: &[],
    }
}

pub(super) const fn gauge(name: &'static str, unit: &'static str, help: &'static str) -> Metric {
    Metric {
        kind: Kind::Gauge,
        ..counter(name, unit, help)
    }
}

pub(super) const fn histogram(
    name: &'static str,
    unit: &'static str,
    buckets: &'static [f64],
    help: &'static str,
) -> Metric {
    Metric {
        kind: Kind::Histogram,
        buckets,
        ..counter(name, unit, help)
    }
}

/// The unit that is reported to the recorder, too.
const SECONDS: &str = "seconds";

impl Metric {
    pub(super) const fn by(self, labels: &'static [Label]) -> Self {
        Self { labels, ..self }
    }

    /// Gives the recorder its help text and unit.
    pub(super) fn describe(&self) {
        match self.kind {
            Kind::Counter => describe_counter!(self.name, self.help),
            Kind::Gauge => describe_gauge!(self.name, self.help),
            Kind::Histogram if self.unit == SECONDS => {
                describe_histogram!(self.name, Unit::Seconds, self.help)
            }
            Kind::Histogram => describe_histogram!(self.name, self.help),
        }
    }

    /// The labels of the series with these values, which are in the order of the declared labels.
    fn labels<const N: usize>(&self, values: [SharedString; N]) -> Vec<metrics::Label> {
        debug_assert_eq!(N, self.labels.len(), "{} has other labels", self.name);
        let labels = self.labels.iter().zip(values);
        labels
            .map(|(label, value)| metrics::Label::new(label.name, value))
            .collect()
    }

    /// The labels of every series, in the order of the values; one without labels where none are declared.
    fn series(&self) -> Vec<Vec<metrics::Label>> {
        let mut all = vec![Vec::new()];
        for label in self.labels {
            let values = match label.values {
                Values::Listed(values) => values(),
                Values::Named(_) => Vec::new(),
            };
            let longer = all.iter().flat_map(|series| {
                values.iter().map(|(value, _)| {
                    let mut series: Vec<metrics::Label> = series.clone();
                    series.push(metrics::Label::from_static_parts(label.name, value));
                    series
                })
            });
            all = longer.collect();
        }
        all
    }

    pub(super) fn counter<const N: usize>(&self, values: [SharedString; N]) -> Counter {
        debug_assert_eq!(self.kind, Kind::Counter, "{}", self.name);
        counter!(self.name, self.labels(values))
    }

    pub(super) fn gauge<const N: usize>(&self, values: [SharedString; N]) -> Gauge {
        debug_assert_eq!(self.kind, Kind::Gauge, "{}", self.name);
        gauge!(self.name, self.labels(values))
    }

    pub(super) fn histogram<const N: usize>(&self, values: [SharedString; N]) -> Histogram {
        debug_assert_eq!(self.kind, Kind::Histogram, "{}", self.name);
        histogram!(self.name, self.labels(values))
    }

    /// One handle for each combination of the listed values, in their order.
    pub(super) fn counters(&self) -> Vec<Counter> {
        let series = self.series().into_iter();
        series.map(|labels| counter!(self.name, labels)).collect()
    }

    /// As [`Metric::counters`].
    pub(super) fn gauges(&self) -> Vec<Gauge> {
        let series = self.series().into_iter();
        series.map(|labels| gauge!(self.name, labels)).collect()
    }

    /// As [`Metric::counters`].
    pub(super) fn histograms(&self) -> Vec<Histogram> {
        let series = self.series().into_iter();
        series.map(|labels| histogram!(self.name, labels)).collect()
    }
}
