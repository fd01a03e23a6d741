//! Owns requests to replay: read from a file, or made up with known rates.

use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{collections::HashMap, io};

/// A request: seconds since the trace began, and the key's number.
pub type Request = (f64, u32);

/// How fast each key of a made-up trace is truly asked for.
#[derive(Debug, Clone, Default)]
pub struct TrueRates {
    /// Share of each key in the steady part.
    steady: Vec<f64>,
    /// Keys that are asked for more for a while.
    bursts: Vec<Burst>,
    /// Requests a second of the steady part, and how far that swings over the trace.
    base: f64,
    swing: f64,
    length: f64,
}

#[derive(Debug, Clone)]
struct Burst {
    key: u32,
    from: f64,
    to: f64,
    /// Requests a second at the top.
    top: f64,
    /// Whether it rises and falls, or comes and goes at once.
    gradual: bool,
}

impl Burst {
    fn rate(&self, at: f64) -> f64 {
        if at < self.from || at >= self.to {
            return 0.0;
        }
        if !self.gradual {
            return self.top;
        }
        let share = (at - self.from) / (self.to - self.from);
        self.top * (1.0 - (2.0 * share - 1.0).abs())
    }
}

impl TrueRates {
    fn level(&self, at: f64) -> f64 {
        self.base * (1.0 + self.swing * (std::f64::consts::TAU * at / self.length).sin())
    }

    /// Requests a second for every key at `at`.
    pub fn rates(&self, at: f64) -> Vec<f64> {
        let level = self.level(at);
        let mut rates: Vec<f64> = self.steady.iter().map(|share| share * level).collect();
        for burst in &self.bursts {
            if let Some(rate) = rates.get_mut(burst.key as usize) {
                *rate += burst.rate(at);
            }
        }
        rates
    }
}

/// The kinds of made-up traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// Each key is asked for at its own, constant rate.
    Steady,
    /// Day and night, with trends that rise and fall within an hour.
    Trends,
    /// Crowds of keys that come at once, and go again after ten minutes.
    Flash,
}

/// What a made-up trace looks like.
#[derive(Debug, Clone, Copy)]
pub struct Make {
    pub shape: Shape,
    pub keys: usize,
    /// Requests a second.
    pub rate: f64,
    /// Seconds.
    pub length: f64,
    /// Keys of one crowd.
    pub crowd: usize,
    pub seed: u64,
}

/// Requests with how many keys they name.
#[derive(Debug, Clone)]
pub struct Trace {
    pub requests: Vec<Request>,
    pub keys: usize,
    /// Seconds.
    pub length: f64,
    /// Where it was made up.
    pub truth: Option<TrueRates>,
}

/// Steps in which a made-up trace is drawn, in seconds.
const STEP: f64 = 1.0;

impl Make {
    /// Draws a trace. Keys are asked for in proportion to 1 over their rank.
    pub fn draw(&self) -> Trace {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let all: f64 = (1..=self.keys).map(|rank| 1.0 / rank as f64).sum();
        let mut truth = TrueRates {
            steady: (1..=self.keys)
                .map(|rank| 1.0 / rank as f64 / all)
                .collect(),
            bursts: Vec::new(),
            base: self.rate,
            swing: 0.0,
            length: self.length,
        };
        let mut burst = |truth: &mut TrueRates, from: f64, life: f64, top: f64, gradual: bool| {
            let key = rng.random_range(0..self.keys) as u32;
            truth.bursts.push(Burst {
                key,
                from,
                to: from + life,
                top,
                gradual,
            });
        };
        match self.shape {
            Shape::Steady => {}
            Shape::Trends => {
                truth.swing = 0.5;
                truth.base *= 0.75;
                // A quarter of all requests: three hundred trends at a time, large and small.
                let (life, at_once) = (3_600.0, 300.0);
                let mut rank = 0.0;
                let mut from = -life;
                while from < self.length {
                    rank = rank % at_once + 1.0;
                    let top = 0.5 * self.rate / (rank * 6.3);
                    burst(&mut truth, from, life, top, true);
                    from += life / at_once;
                }
            }
            Shape::Flash => {
                truth.base *= 0.85;
                let mut from = 0.0;
                while from < self.length {
                    for _ in 0..self.crowd {
                        burst(
                            &mut truth,
                            from,
                            600.0,
                            0.15 * self.rate / self.crowd as f64,
                            false,
                        );
                    }
                    from += 600.0;
                }
            }
        }
        let sums: Vec<f64> = truth
            .steady
            .iter()
            .scan(0.0, |sum, share| {
                *sum += share;
                Some(*sum)
            })
            .collect();
        let mut requests = Vec::with_capacity((self.rate * self.length * 1.05) as usize);
        let mut at = 0.0;
        let mut started = 0;
        truth.bursts.sort_by(|a, b| a.from.total_cmp(&b.from));
        let mut live: Vec<usize> = Vec::new();
        while at < self.length {
            let first = requests.len();
            for _ in 0..poisson(truth.level(at) * STEP, &mut rng) {
                let drawn: f64 = rng.random();
                let key = sums.partition_point(|sum| *sum < drawn);
                requests.push((
                    at + rng.random::<f64>() * STEP,
                    key.min(self.keys - 1) as u32,
                ));
            }
            while truth.bursts.get(started).is_some_and(|b| b.from <= at) {
                live.push(started);
                started += 1;
            }
            live.retain(|index| truth.bursts.get(*index).is_some_and(|b| b.to > at));
            for burst in live.iter().filter_map(|index| truth.bursts.get(*index)) {
                for _ in 0..poisson(burst.rate(at) * STEP, &mut rng) {
                    requests.push((at + rng.random::<f64>() * STEP, burst.key));
                }
            }
            if let Some(step) = requests.get_mut(first..) {
                step.sort_by(|a: &Request, b: &Request| a.0.total_cmp(&b.0));
            }
            at += STEP;
        }
        Trace {
            requests,
            keys: self.keys,
            length: self.length,
            truth: Some(truth),
        }
    }
}

/// A draw from Poisson's distribution (Knuth's method, in parts where the mean is large).
fn poisson(mean: f64, rng: &mut impl Rng) -> usize {
    let (mut left, mut drawn) = (mean, 0);
    while left > 0.0 {
        let part = left.min(30.0);
        left -= part;
        let limit = (-part).exp();
        let mut product: f64 = rng.random();
        while product > limit {
            drawn += 1;
            product *= rng.random::<f64>();
        }
    }
    drawn
}

/// What is wrong with a trace's file.
#[derive(Debug, thiserror::Error)]
pub enum BadTrace {
    #[error("line {line}: {problem}")]
    Line { line: u64, problem: String },
    #[error(transparent)]
    Read(#[from] csv::Error),
    #[error("it holds no request")]
    Empty,
}

/// Reads lines of time (seconds, or RFC 3339) and key; a first line `time,key` is passed over. Returns the keys by number, too.
pub fn read(input: impl io::Read) -> Result<(Trace, Vec<String>), BadTrace> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(input);
    let mut numbers: HashMap<String, u32> = HashMap::new();
    let mut names = Vec::new();
    let mut requests: Vec<Request> = Vec::new();
    for (index, record) in reader.records().enumerate() {
        let record = record?;
        let line = record
            .position()
            .map_or(index as u64 + 1, csv::Position::line);
        let wrong = |problem: &str| BadTrace::Line {
            line,
            problem: problem.to_owned(),
        };
        let (Some(time), Some(key)) = (record.get(0), record.get(1)) else {
            return Err(wrong("expected time,key"));
        };
        let seconds = time
            .parse::<f64>()
            .ok()
            .filter(|t| t.is_finite())
            .or_else(|| {
                let at = chrono::DateTime::parse_from_rfc3339(time).ok()?;
                Some(at.timestamp_micros() as f64 / 1e6)
            });
        let Some(seconds) = seconds else {
            if index == 0 {
                continue;
            }
            return Err(wrong(
                "`time`: expected seconds, or a time such as 2026-11-20T12:00:00Z",
            ));
        };
        let number = *numbers.entry(key.to_owned()).or_insert_with(|| {
            names.push(key.to_owned());
            names.len() as u32 - 1
        });
        requests.push((seconds, number));
    }
    requests.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (Some(first), Some(last)) = (requests.first().map(|r| r.0), requests.last().map(|r| r.0))
    else {
        return Err(BadTrace::Empty);
    };
    for request in &mut requests {
        request.0 -= first;
    }
    let trace = Trace {
        requests,
        keys: names.len(),
        length: (last - first).max(1.0),
        truth: None,
    };
    Ok((trace, names))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_up_trace_has_the_rates_that_it_tells() {
        for shape in [Shape::Steady, Shape::Trends, Shape::Flash] {
            let make = Make {
                shape,
                keys: 1_000,
                rate: 100.0,
                length: 7_200.0,
                crowd: 40,
                seed: 5,
            };
            let trace = make.draw();
            assert!(trace.requests.is_sorted_by(|a, b| a.0 <= b.0));
            let expected: f64 = (0..720)
                .map(|n| {
                    trace
                        .truth
                        .as_ref()
                        .expect("made up")
                        .rates(f64::from(n) * 10.0)
                        .iter()
                        .sum::<f64>()
                        * 10.0
                })
                .sum();
            let found = trace.requests.len() as f64;
            assert!(
                (found / expected - 1.0).abs() < 0.02,
                "{shape:?}: {found} of {expected}"
            );
            assert!(
                (expected / 720_000.0 - 1.0).abs() < 0.15,
                "{shape:?}: {expected}"
            );
            assert_eq!(
                trace.requests,
                make.draw().requests,
                "the same seed, the same trace"
            );
        }
    }

    #[test]
    fn a_file_is_read_with_times_of_either_kind() {
        let (trace, names) = read("time,key\n12.5,b\n10,a\n11,b\n".as_bytes()).expect("a trace");
        assert_eq!(trace.requests, [(0.0, 1), (1.0, 0), (2.5, 0)]);
        assert_eq!(names, ["b", "a"]);
        let (trace, _) =
            read("2026-11-20T12:00:00Z,a\n2026-11-20T12:00:01.5Z,a".as_bytes()).expect("a trace");
        assert_eq!(trace.requests, [(0.0, 0), (1.5, 0)]);
        let told = |text: &str| read(text.as_bytes()).expect_err(text).to_string();
        assert!(told("1,a\nsoon,b").starts_with("line 2: `time`"));
        assert!(told("1,a\n2").contains("line 2: expected time,key"));
        assert!(told("time,key").contains("no request"));
    }
}
