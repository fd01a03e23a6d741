//! What a fleet and its servers hold, looked at whenever they are at rest, as a table that shows what grows.

use std::fmt::Write as _;
use std::time::Duration;

/// Figures by name, in the order in which they were first looked at.
#[derive(Default)]
pub struct Growth {
    figures: Vec<Figure>,
}

struct Figure {
    name: String,
    /// Hours since the beginning, and what was found then.
    seen: Vec<(f64, f64)>,
}

impl Growth {
    /// Notes what was found so long after the beginning.
    pub fn note(&mut self, at: Duration, name: &str, value: f64) {
        let at = at.as_secs_f64() / 3600.0;
        match self.figures.iter_mut().find(|figure| figure.name == name) {
            Some(figure) => figure.seen.push((at, value)),
            None => self.figures.push(Figure {
                name: name.to_owned(),
                seen: vec![(at, value)],
            }),
        }
    }

    /// A line for each figure: at the start, in the middle, at the end, and what it grows by in an hour.
    pub fn table(&self) -> String {
        let width = self.figures.iter().map(|figure| figure.name.len()).max();
        let width = width.unwrap_or(0);
        let mut table = format!(
            "{:width$}  {:>12}  {:>12}  {:>12}  {:>12}\n",
            "", "start", "middle", "end", "an hour"
        );
        for Figure { name, seen } in &self.figures {
            let value = |at: usize| seen[at].1;
            let (middle, last) = (seen.len() / 2, seen.len() - 1);
            let _ = writeln!(
                table,
                "{name:width$}  {:>12.1}  {:>12.1}  {:>12.1}  {:>+12.1}",
                value(0),
                value(middle),
                value(last),
                slope(seen)
            );
        }
        table
    }
}

/// The slope of the line through the points that has the least squares; 0 where they are all of one moment.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let along: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let across: f64 = points
        .iter()
        .map(|point| (point.0 - x) * (point.1 - y))
        .sum();
    if along > 0.0 { across / along } else { 0.0 }
}

#[test]
fn what_grows_is_seen_and_what_does_not_is_level() {
    let mut growth = Growth::default();
    for minute in 0..=120 {
        let at = Duration::from_secs(60 * minute);
        growth.note(at, "memory", 100.0 + minute as f64);
        growth.note(at, "tasks", 70.0);
    }
    let table = growth.table();
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        lines,
        [
            vec!["start", "middle", "end", "an", "hour"],
            vec!["memory", "100.0", "160.0", "220.0", "+60.0"],
            vec!["tasks", "70.0", "70.0", "70.0", "+0.0"],
        ]
    );
}
