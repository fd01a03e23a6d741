//! Owns how fast one key is asked for, estimated over several half-lives side by side, in a few numbers for each key.
//!
//! How far each half-life is trusted is learnt, for a namespace and for each key in it, by how well it has foretold requests of late
//! (averaging of models with forgetting, as in Raftery, Kárný, Ettler: "Online prediction under model uncertainty via dynamic model
//! averaging", Technometrics 52, 2010; a namespace's trust follows its keys' by online EM, as in Cappé, Moulines: "On-line
//! expectation-maximization algorithm for latent data models", Journal of the Royal Statistical Society B 71, 2009). So a steady key
//! is read over hours and a trend over minutes, with nothing to tune.
//!
//! Requests that come in bursts are saved one wait by one refresh, not many. So a request counts for the less the sooner it follows
//! the one before, compared with requests at random: in what half-lives are judged by, and in the rate.

/// Half-lives of the estimates, in seconds; each is four times the one before it.
const HALF_LIVES: [f32; PACES] = [240.0, 960.0, 3_840.0, 15_360.0, 61_440.0];
/// How far each is trusted before it has foretold anything: a key is taken for steady until shown otherwise.
const TRUST: [f32; PACES] = [0.006, 0.02, 0.06, 0.25, 0.664];
/// The half-life with which it is forgotten how well each foretold.
const TRUST_INDEX: usize = 1;
/// How much one request changes what a namespace trusts: slowly, so that chance doesn't.
const LEARNING: f32 = 0.000_2;
/// What a half-life is trusted at the least, so that it can be trusted again.
const MIN_TRUST: f32 = 0.003;
/// A request that follows so soon counts for half, in seconds.
const BURST_HALF_LIFE: f32 = 60.0;
/// The half-life over which it is known how bursty a key is.
const BURST_INDEX: usize = 3;
/// By how much requests may come sooner than at random before they count for less: an estimate lags behind.
const LAG: f32 = 1.25;
/// Slowest pace that counts as one, in requests a second.
const SLOWEST: f32 = 1e-7;

const PACES: usize = 5;

/// How far a namespace trusts each half-life; all together they are 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trust([f32; PACES]);

impl Default for Trust {
    fn default() -> Self {
        Self(TRUST)
    }
}

impl Trust {
    /// Learns from a request that each half-life had foretold so well, as logarithms; the request counts for `weight`.
    fn learn(&mut self, foretold: &[f32; PACES], weight: f32) {
        let shares = shares(&self.0, foretold);
        let rate = LEARNING * weight.min(1.0);
        for (trust, share) in self.0.iter_mut().zip(shares) {
            *trust = (*trust + rate * (share - *trust)).max(MIN_TRUST);
        }
    }
}

/// Shares in proportion to `trust` times what logarithms say.
fn shares(trust: &[f32; PACES], logs: &[f32; PACES]) -> [f32; PACES] {
    let max = logs.iter().copied().fold(f32::MIN, f32::max);
    let mut shares = *trust;
    for (share, log) in shares.iter_mut().zip(logs) {
        *share *= (log - max).exp();
    }
    let all: f32 = shares.iter().sum();
    shares.map(|share| share / all.max(f32::MIN_POSITIVE))
}

/// What fades to by `gap` seconds, for each half-life.
fn fades(gap: f64) -> [f32; PACES] {
    let longest = HALF_LIVES.last().copied().unwrap_or(1.0);
    let mut fade = (-gap / f64::from(longest)).exp2();
    let mut fades = [0.0; PACES];
    for slot in fades.iter_mut().rev() {
        *slot = fade as f32;
        fade = fade.powi(4);
    }
    fades
}

fn mean_life(half_life: f32) -> f32 {
    half_life / std::f32::consts::LN_2
}

/// A moment, with how much of each estimate's past has been seen by then, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Seconds since the sketch began.
    at: f64,
    seen: [f32; PACES],
}

impl Now {
    /// So many seconds after the beginning.
    pub fn new(at: f64) -> Self {
        let mut seen = fades(at.max(0.0));
        for (seen, half_life) in seen.iter_mut().zip(HALF_LIVES) {
            *seen = (mean_life(half_life) * (1.0 - *seen)).max(1.0);
        }
        Self { at, seen }
    }
}

/// How fast one key is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Requests, fading with each half-life, as of `at`.
    sums: [f32; PACES],
    /// The same of one half-life, with less for those that followed soon.
    apart: f32,
    /// Logarithms of how well each estimate has foretold, as of `at`.
    foretold: [f32; PACES],
    /// Seconds since the sketch began.
    at: f64,
}

impl Pace {
    /// Of a key that nobody has asked for.
    pub fn new(now: f64) -> Self {
        Self {
            sums: [0.0; PACES],
            apart: 0.0,
            foretold: [0.0; PACES],
            at: now,
        }
    }

    /// When it was asked for last, in seconds since the sketch began.
    pub fn last(&self) -> f64 {
        self.at
    }

    /// As it stands at a later moment: a time without requests speaks against the estimates that expected some.
    fn moved(&self, now: &Now) -> Self {
        let gap = (now.at - self.at).max(0.0);
        let fades = fades(gap);
        let forget = fades.get(TRUST_INDEX).copied().unwrap_or_default();
        let apart = self.apartness(self.fastest(now));
        let mut moved = *self;
        moved.at = self.at.max(now.at);
        moved.apart *= fades.get(BURST_INDEX).copied().unwrap_or_default();
        for (index, fade) in fades.into_iter().enumerate() {
            let (Some(sum), Some(foretold), Some(half_life), Some(seen)) = (
                moved.sums.get_mut(index),
                moved.foretold.get_mut(index),
                HALF_LIVES.get(index),
                now.seen.get(index),
            ) else {
                continue;
            };
            let faded = *sum * fade;
            // The integral of the estimate over the gap.
            let expected = (*sum - faded) * mean_life(*half_life) / seen;
            *foretold = *foretold * forget - apart * expected;
            *sum = faded;
        }
        moved
    }

    /// Notes `weight` requests. `trust` is the namespace's, which learns from them.
    #[must_use]
    pub fn asked(&self, now: &Now, weight: f32, trust: &mut Trust) -> Self {
        let mut moved = self.moved(now);
        let first = moved.sums.iter().all(|sum| *sum <= 0.0);
        let gap = (now.at - self.at).max(0.0) as f32;
        let apart = if first {
            1.0
        } else {
            1.0 - (-gap / BURST_HALF_LIFE).exp2()
        };
        if !first {
            let counted = weight * (apart / at_random(moved.fastest(now))).min(1.0);
            let estimates = moved.sums.iter().zip(&now.seen);
            for (foretold, (sum, seen)) in moved.foretold.iter_mut().zip(estimates) {
                *foretold += counted * (sum / seen).max(SLOWEST).ln();
            }
            let max = moved.foretold.iter().copied().fold(f32::MIN, f32::max);
            moved.foretold.iter_mut().for_each(|log| *log -= max);
            trust.learn(&moved.foretold, counted);
        }
        moved.sums.iter_mut().for_each(|sum| *sum += weight);
        moved.apart += apart * weight;
        moved
    }

    /// Requests a second: as they would come at random with as many waits to save.
    pub fn rate(&self, now: &Now, trust: &Trust) -> f64 {
        let moved = self.moved(now);
        let shares = shares(&trust.0, &moved.foretold);
        let estimates = moved.sums.iter().zip(&now.seen);
        let rate: f32 = shares
            .iter()
            .zip(estimates)
            .map(|(share, (sum, seen))| share * sum / seen)
            .sum();
        f64::from(rate * moved.apartness(rate))
    }

    /// The estimate that follows changes soonest, in requests a second.
    fn fastest(&self, now: &Now) -> f32 {
        let (sum, seen) = (self.sums.first(), now.seen.first());
        sum.zip(seen).map_or(0.0, |(sum, seen)| sum / seen)
    }

    /// What of its requests counts, 0 to 1, if they come at such a rate: all where they come at random.
    fn apartness(&self, rate: f32) -> f32 {
        match self.sums.get(BURST_INDEX) {
            Some(asked) if *asked > 0.0 => (self.apart / asked / at_random(rate)).min(1.0),
            _ => 1.0,
        }
    }
}

/// What a request counts for in the mean, by how soon it follows the one before, if requests come at random at such a rate.
fn at_random(rate: f32) -> f32 {
    1.0 / (1.0 + rate * mean_life(BURST_HALF_LIFE)) / LAG
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked_at(times: impl Iterator<Item = f64>) -> (Pace, Trust) {
        let (mut pace, mut trust) = (Pace::new(0.0), Trust::default());
        for at in times {
            pace = pace.asked(&Now::new(at), 1.0, &mut trust);
        }
        (pace, trust)
    }

    #[test]
    fn a_burst_counts_as_little_more_than_one_request_and_a_steady_key_as_it_is() {
        let now = Now::new(86_400.0);
        let steady = (1..=144).map(|n| f64::from(n) * 600.0 - 300.0);
        let (pace, trust) = asked_at(steady);
        let rate = pace.rate(&now, &trust) * 600.0;
        assert!((rate - 1.0).abs() < 0.1, "{rate}");
        // As many, a dozen at a time.
        let bursts = (1..=12)
            .flat_map(|n| (0..12).map(move |m| f64::from(n) * 7_200.0 - 3_600.0 + f64::from(m)));
        let (pace, trust) = asked_at(bursts);
        let rate = pace.rate(&now, &trust) * 7_200.0;
        assert!((0.7..3.5).contains(&rate), "{rate}");
    }

    #[test]
    fn a_namespace_learns_which_half_lives_foretell_its_requests() {
        let mut trust = Trust::default();
        // Each key is asked for every two minutes, for a quarter of an hour, and never again.
        for key in 0..400u32 {
            let start = f64::from(key) * 600.0;
            let mut pace = Pace::new(start);
            for n in 0..8 {
                let now = Now::new(start + f64::from(n) * 120.0);
                pace = pace.asked(&now, 1.0, &mut trust);
            }
        }
        let all: f32 = trust.0.iter().sum();
        assert!((all - 1.0).abs() < 0.02, "{all}");
        assert!(
            trust.0[0] > 2.0 * TRUST[0] && trust.0[4] < TRUST[4],
            "{trust:?}"
        );
    }

    #[test]
    fn rates_are_finite_whatever_comes() {
        let mut trust = Trust::default();
        let mut pace = Pace::new(0.0);
        for (at, weight) in [
            (0.0, 1.0),
            (0.0, 1e6),
            (1e-9, 0.0),
            (1e9, 1.0),
            (1e9, f32::MIN_POSITIVE),
            (2.0, 1.0),
        ] {
            pace = pace.asked(&Now::new(at), weight, &mut trust);
            for later in [0.0, at, at + 1e10] {
                assert!(pace.rate(&Now::new(later), &trust).is_finite());
            }
        }
    }
}
