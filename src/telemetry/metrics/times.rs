//! Owns what took its time, by the metrics that say so: the times of two servers, and what all histograms of times say at a moment.
//!
//! Promises that reading them costs those who record nothing.

use super::{Metrics, PublisherKind, SECONDS, catalogue::*, metric::Metric};
use crate::telemetry::timings::{Kind, Part, Spread, Timings};
use std::{collections::BTreeMap, time::Duration};

/// Of each metric: the kind of part that its series are, and how such a part's name begins.
const SOURCES: [(&Metric, Kind, &str); 6] = [
    (&JOB_DURATION, Kind::Job, "jobs"),
    (&STAGE_DURATION, Kind::Stage, ""),
    (&MODEL_BATCH_DURATION, Kind::Model, ""),
    (&CACHE_OPERATION_DURATION, Kind::Server, "redis"),
    (&STORE_DURATION, Kind::Server, "postgres"),
    (&PUBLISH_DURATION, Kind::Server, "broker"),
];

/// A histogram of an exposition: its cumulative counts, and the sum.
type Cumulative = ([u64; SECONDS.len() + 1], f64);

impl Metrics {
    /// Records an attempt to store a batch, whatever became of it.
    pub fn stored_in(&self, elapsed: Duration) {
        self.0.store_seconds.record(elapsed);
    }

    /// Records how long a message took from being handed over to its end.
    pub fn published_in(&self, kind: PublisherKind, elapsed: Duration) {
        if let Some(histogram) = self.0.publish_seconds.get(kind as usize) {
            histogram.record(elapsed);
        }
    }
}

/// How long everything took since the start, from what `/metrics` prints.
pub fn timings(exposition: &str) -> Timings {
    let mut read = BTreeMap::<Part, Cumulative>::new();
    for line in exposition.lines() {
        let Some((series, value)) = line.rsplit_once(' ') else {
            continue;
        };
        let Ok(value) = value.parse::<f64>() else {
            continue;
        };
        let source = SOURCES.iter().find_map(|(metric, kind, prefix)| {
            let rest = series.strip_prefix(metric.name)?;
            Some((part(metric, *kind, prefix, rest)?, rest))
        });
        let Some((part, rest)) = source else {
            continue;
        };
        if rest.starts_with("_sum") {
            read.entry(part).or_default().1 = value.max(0.0);
        } else if rest.starts_with("_bucket")
            && let Some(index) = labelled(rest, "le").and_then(bucket)
            && let Some(count) = read.entry(part).or_default().0.get_mut(index)
        {
            *count = value as u64;
        }
    }
    let mut timings = Timings::default();
    for (part, (cumulative, seconds)) in &read {
        timings.add(part, &Spread::from_cumulative(*cumulative, *seconds));
    }
    timings
}

/// The part that a series is of.
fn part(metric: &Metric, kind: Kind, prefix: &str, rest: &str) -> Option<Part> {
    let Some(label) = metric.labels.first() else {
        return Some(Part::new(kind, prefix));
    };
    let value = labelled(rest, label.name)?;
    let name = format!("{prefix} {value}");
    Some(Part::new(kind, name.trim_start()))
}

/// The value of a label.
fn labelled<'a>(series: &'a str, label: &str) -> Option<&'a str> {
    let labels = series.split_once('{')?.1;
    let (_, rest) = labels.split_once(&format!("{label}=\""))?;
    rest.split_once('"').map(|(value, _)| value)
}

/// The bucket of an upper bound.
fn bucket(le: &str) -> Option<usize> {
    if le == "+Inf" {
        return Some(SECONDS.len());
    }
    let bound: f64 = le.parse().ok()?;
    SECONDS.iter().position(|known| *known == bound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

    #[test]
    fn every_histogram_of_times_becomes_a_part() {
        let builder = SOURCES
            .iter()
            .fold(PrometheusBuilder::new(), |builder, one| {
                let name = Matcher::Full(one.0.name.into());
                builder
                    .set_buckets_for_metric(name, one.0.buckets)
                    .expect("buckets")
            });
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let metrics = Metrics::new();
            for ms in [3, 3, 40] {
                metrics.stage(super::super::Stage::Store, Duration::from_millis(ms));
            }
            metrics.job(Duration::from_secs(60));
            metrics.stored_in(Duration::from_millis(30));
            metrics.published_in(PublisherKind::Replies, Duration::from_millis(1));
            let model = "ranker";
            MODEL_BATCH_DURATION.histogram([model.into()]).record(0.002);
            CACHE_OPERATION_DURATION
                .histogram(["get".into()])
                .record(0.0002);
        });
        let read = timings(&handle.render());
        let named: Vec<(&str, &str, u64)> = read
            .iter()
            .filter(|(_, spread)| spread.calls > 0)
            .map(|(part, spread)| (part.kind.as_str(), part.name.as_str(), spread.calls))
            .collect();
        let expected = [
            ("job", "jobs", 1),
            ("stage", "store", 3),
            ("model", "ranker", 1),
            ("server", "broker reply", 1),
            ("server", "postgres", 1),
            ("server", "redis get", 1),
        ];
        assert_eq!(named, expected);
        let store = read.get(&Part::new(Kind::Stage, "store")).expect("a stage");
        assert!((store.seconds - 0.046).abs() < 1e-9);
        let p99 = store.percentile_ms(0.99).expect("one");
        assert!((25.0..=50.0).contains(&p99), "{p99}");
    }

    #[test]
    fn other_lines_are_nobodys() {
        for odd in [
            "",
            "# HELP kiln_stage_duration_seconds x",
            "kiln_stage_duration_seconds_bucket{le=\"0.1\"} 3",
            "kiln_stage_duration_seconds_bucket{stage=\"store\",le=\"0.7\"} 3",
            "kiln_stage_duration_seconds_bucket{stage=\"store\",le=\"0.1\"} many",
            "kiln_other_duration_seconds_sum 3",
        ] {
            let read = timings(odd);
            let all = read.iter().map(|(_, spread)| spread.calls);
            assert_eq!(all.sum::<u64>(), 0, "{odd}");
        }
    }
}
