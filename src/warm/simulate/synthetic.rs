//! Generates requests with known rates. The same seed gives the same trace.

use super::{
    rates::{Burst, TrueRates},
    trace::{Request, RequestTrace},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// The kinds of generated traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// Each key is asked for at its own, constant rate.
    Steady,
    /// Day and night, with trends that rise and fall within an hour.
    Trends,
    /// Crowds of keys that come at once, and go again after ten minutes.
    Flash,
}

/// Parameters of a generated trace.
#[derive(Debug, Clone, Copy)]
pub struct Make {
    pub shape: Shape,
    pub keys: usize,
    /// Requests per second.
    pub rate: f64,
    /// Seconds.
    pub length: f64,
    /// Keys of one crowd.
    pub crowd: usize,
    pub seed: u64,
}

/// Steps in which a trace is drawn, in seconds.
const STEP: f64 = 1.0;

impl Make {
    /// Draws a trace. Keys are requested in proportion to 1 over their rank.
    pub fn draw(&self) -> RequestTrace {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let truth = self.truth(&mut rng);
        RequestTrace {
            requests: self.requests(&truth, &mut rng),
            sessions: Vec::new(),
            keys: self.keys,
            length: self.length,
            truth: Some(truth),
        }
    }

    /// The rates, with bursts ordered by their start.
    fn truth(&self, rng: &mut StdRng) -> TrueRates {
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
        match self.shape {
            Shape::Steady => {}
            Shape::Trends => {
                truth.swing = 0.5;
                truth.base *= 0.75;
                truth.bursts = self.trends(rng);
            }
            Shape::Flash => {
                truth.base *= 0.85;
                truth.bursts = self.crowds(rng);
            }
        }
        truth.bursts.sort_by(|a, b| a.from.total_cmp(&b.from));
        truth
    }

    /// A quarter of all requests: three hundred trends at a time, large and small.
    fn trends(&self, rng: &mut StdRng) -> Vec<Burst> {
        let (life, at_once) = (3_600.0, 300.0);
        let mut trends = Vec::new();
        let mut rank = 0.0;
        let mut from = -life;
        while from < self.length {
            rank = rank % at_once + 1.0;
            trends.push(Burst {
                key: rng.random_range(0..self.keys) as u32,
                from,
                to: from + life,
                top: 0.5 * self.rate / (rank * 6.3),
                gradual: true,
            });
            from += life / at_once;
        }
        trends
    }

    /// Crowds that come one after the other, each for ten minutes.
    fn crowds(&self, rng: &mut StdRng) -> Vec<Burst> {
        let life = 600.0;
        let mut crowds = Vec::new();
        let mut from = 0.0;
        while from < self.length {
            for _ in 0..self.crowd {
                crowds.push(Burst {
                    key: rng.random_range(0..self.keys) as u32,
                    from,
                    to: from + life,
                    top: 0.15 * self.rate / self.crowd as f64,
                    gradual: false,
                });
            }
            from += life;
        }
        crowds
    }

    fn requests(&self, truth: &TrueRates, rng: &mut StdRng) -> Vec<Request> {
        let sums: Vec<f64> = truth
            .steady
            .iter()
            .scan(0.0, |sum, share| {
                *sum += share;
                Some(*sum)
            })
            .collect();
        let mut requests = Vec::with_capacity((self.rate * self.length * 1.05) as usize);
        let mut coming = truth.bursts.iter().peekable();
        let mut live: Vec<&Burst> = Vec::new();
        let mut at = 0.0;
        while at < self.length {
            let first = requests.len();
            for _ in 0..poisson(truth.level(at) * STEP, rng) {
                let drawn: f64 = rng.random();
                let key = sums.partition_point(|sum| *sum < drawn);
                requests.push((
                    at + rng.random::<f64>() * STEP,
                    key.min(self.keys - 1) as u32,
                ));
            }
            live.extend(std::iter::from_fn(|| coming.next_if(|b| b.from <= at)));
            live.retain(|burst| burst.to > at);
            for burst in &live {
                for _ in 0..poisson(burst.rate(at) * STEP, rng) {
                    requests.push((at + rng.random::<f64>() * STEP, burst.key));
                }
            }
            if let Some(step) = requests.get_mut(first..) {
                step.sort_by(|a: &Request, b: &Request| a.0.total_cmp(&b.0));
            }
            at += STEP;
        }
        requests
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
}
