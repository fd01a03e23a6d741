//! A target: which inputs it begins with, how many runs it does, and the loop over them.

use crate::{
    case::Case,
    corpus::{self, Running},
    mutate::{mutate, smaller},
    random::{Random, hash},
};
use std::{
    any::Any,
    collections::HashSet,
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Mutex, Once},
    time::{Duration, Instant, SystemTime},
};

/// Runs of a target, and how many of them a build without optimisation does.
const RUNS: usize = 20_000;
const SLOW_BUILD: usize = 10;
/// Longest input, and the longest one of a long run.
const MAX_BYTES: usize = 2 << 10;
const MAX_LONG_BYTES: usize = 64 << 10;
/// Inputs that are kept in memory.
const MAX_KEPT: usize = 4_096;
/// Smaller inputs that are tried for one that fails.
const SMALLER_TRIES: usize = 4_000;

/// While a failing input is made smaller, its many panics are nobody's to read.
static QUIET: Mutex<()> = Mutex::new(());
/// A backtrace, which the environment may ask for, takes more memory than a case may: a library's panic that is caught would look like a finding.
static WITHOUT_BACKTRACES: Once = Once::new();

/// What a test fuzzes.
#[derive(Debug)]
pub struct Target {
    name: &'static str,
    seeds: Vec<Vec<u8>>,
    words: Vec<&'static [u8]>,
    runs: usize,
    memory: (usize, usize),
    max_bytes: usize,
}

/// What a target did.
#[derive(Debug, Default)]
struct Done {
    runs: usize,
    peak: usize,
    slowest: Duration,
    /// In long runs alone.
    running: Option<Running>,
}

impl Target {
    /// A target of this name, with the seeds that stand in `tests/fuzz` under it.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            seeds: corpus::seeds(name),
            words: Vec::new(),
            runs: RUNS,
            memory: (64 << 10, 64),
            max_bytes: MAX_BYTES,
        }
    }

    /// More seeds.
    pub fn seeds(mut self, seeds: &[&[u8]]) -> Self {
        self.seeds.extend(seeds.iter().map(|seed| seed.to_vec()));
        self
    }

    /// Words that stand in inputs now and then: names of fields, marks of formats.
    pub fn words(mut self, words: &[&'static str]) -> Self {
        self.words.extend(words.iter().map(|word| word.as_bytes()));
        self
    }

    /// How many runs it does in CI, instead of 20,000.
    pub fn runs(mut self, runs: usize) -> Self {
        self.runs = runs;
        self
    }

    /// How many bytes may be held at once: so many, and so many for each byte that is read. 64 KiB and 64 otherwise.
    pub fn memory(mut self, bytes: usize, per_byte: usize) -> Self {
        self.memory = (bytes, per_byte);
        self
    }

    /// The longest input, in bytes, instead of 2 KiB.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Runs the test on all seeds as they are, then on what mutations make of them and of what had a new shape.
    pub fn run(self, test: impl Fn(&mut Case<'_>)) {
        if env::var("KILN_FUZZ_ONLY").is_ok_and(|only| only != self.name) {
            return;
        }
        WITHOUT_BACKTRACES
            .call_once(|| std::panic::set_hook(Box::new(|panic| eprintln!("{panic}"))));
        let seconds = env::var("KILN_FUZZ_SECONDS").ok();
        let seconds = seconds.and_then(|seconds| seconds.parse().ok());
        let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let seed = self.seed(end.is_some());
        let mut random = Random::new(hash(seed, self.name.as_bytes()));
        let folder = env::var_os("KILN_FUZZ_CORPUS").map(|all| PathBuf::from(all).join(self.name));
        let mut kept = self.seeds.clone();
        if let Some(folder) = &folder {
            kept.extend(corpus::files(folder));
        }
        kept.push(Vec::new());
        let mut shapes = HashSet::new();
        let mut done = Done {
            running: end.map(|_| Running::begin(self.name)),
            ..Done::default()
        };
        for input in &kept {
            shapes.insert(self.one(&test, input, &mut done));
        }
        let max = match end {
            Some(_) => self.max_bytes.max(MAX_LONG_BYTES),
            None => self.max_bytes,
        };
        let runs = if cfg!(debug_assertions) {
            self.runs / SLOW_BUILD
        } else {
            self.runs
        };
        loop {
            let is_over = end.map_or(done.runs >= runs, |end| Instant::now() >= end);
            if is_over {
                break;
            }
            let input = self.next(&mut random, &kept, max);
            let shape = self.one(&test, &input, &mut done);
            if shapes.insert(shape) && kept.len() < MAX_KEPT {
                if let Some(folder) = &folder {
                    corpus::keep(folder, &input);
                }
                kept.push(input);
            }
        }
        // The test runner begins a line of its own on the standard output.
        eprintln!(
            "fuzz {}: {} runs from {seed}, {} shapes, at most {} bytes held, the slowest took {:?}",
            self.name,
            done.runs,
            shapes.len(),
            done.peak,
            done.slowest
        );
    }

    fn seed(&self, is_long: bool) -> u64 {
        let given = env::var("KILN_FUZZ_SEED").ok();
        let given = given.and_then(|seed| seed.parse().ok());
        given.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            let now = now.map_or(0, |now| now.as_nanos() as u64);
            if is_long { now } else { 1 }
        })
    }

    fn next(&self, random: &mut Random, kept: &[Vec<u8>], max: usize) -> Vec<u8> {
        // Most inputs are short; a long run takes some long ones.
        let max = if random.one_in(8) {
            max
        } else {
            max.min(self.max_bytes)
        };
        if random.one_in(16) {
            let length = random.below(max.min(256));
            return (0..length).map(|_| random.draw() as u8).collect();
        }
        let (input, other) = (random.pick(kept).clone(), random.pick(kept).clone());
        mutate(random, &input, &other, &self.words, max)
    }

    /// Runs one input; gives its shape. What fails is made smaller, kept and named.
    fn one(&self, test: &impl Fn(&mut Case<'_>), input: &[u8], done: &mut Done) -> u64 {
        if let Some(running) = &mut done.running {
            running.note(input);
        }
        let begun = Instant::now();
        let (shape, peak) = match self.outcome(test, input) {
            Ok(outcome) => outcome,
            Err(panic) => self.report(test, input, &said(panic.as_ref())),
        };
        let took = begun.elapsed();
        done.runs += 1;
        done.peak = done.peak.max(peak);
        done.slowest = done.slowest.max(took);
        shape
    }

    fn outcome(
        &self,
        test: &impl Fn(&mut Case<'_>),
        input: &[u8],
    ) -> Result<(u64, usize), Box<dyn Any + Send>> {
        let mut case = Case::new(input, self.memory);
        catch_unwind(AssertUnwindSafe(|| {
            test(&mut case);
            case.outcome()
        }))
    }

    fn report(&self, test: &impl Fn(&mut Case<'_>), input: &[u8], why: &str) -> ! {
        let small = self.shrink(test, input);
        let path = corpus::keep(&corpus::findings(self.name), &small);
        let shown = String::from_utf8_lossy(&small[..small.len().min(2_000)]).into_owned();
        panic!(
            "fuzz {}: {why}\n{} bytes in {}:\n{}",
            self.name,
            small.len(),
            path.display(),
            shown.escape_debug()
        );
    }

    fn shrink(&self, test: &impl Fn(&mut Case<'_>), input: &[u8]) -> Vec<u8> {
        let _alone = QUIET.lock();
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let (mut small, mut tries) = (input.to_vec(), 0);
        'smaller: while tries < SMALLER_TRIES {
            let candidates: Vec<Vec<u8>> = smaller(&small).take(SMALLER_TRIES).collect();
            for candidate in candidates {
                tries += 1;
                if self.outcome(test, &candidate).is_err() {
                    small = candidate;
                    continue 'smaller;
                }
            }
            break;
        }
        std::panic::set_hook(hook);
        small
    }
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a text").to_owned()
}

#[cfg(test)]
mod tests;
