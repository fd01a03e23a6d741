//! Every kernel that this processor has, one level of instructions after the other: whether they give the same bits, and how fast
//! they are. Exits with 1 if the bits differ.
//!
//!     cargo run --release -p kiln-kernels --features x86-v4 --example levels
//!
//! With `--equality`, only whether the bits are the same; with `--encoder LENGTHS`, only how fast encoders are at the best level, the last load
//! being texts of these lengths, separated by commas, in batches of 32.

#![allow(
    clippy::indexing_slicing,
    reason = "a measurement fails where it stands"
)]

use kiln_kernels::{
    Encoder, Finish, Layer, Level, Linear, Norm, PackedLinear, Pooling, QuantisedLinear, Tables,
    Texts, ThreadPool,
};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Instant;

/// Sizes of an encoder of MiniLM's shape.
const HIDDEN: usize = 384;
const BETWEEN: usize = 1536;
const LAYERS: usize = 6;
const HEADS: usize = 12;
const WORDS: usize = 3000;
const THREADS: usize = 2;
/// What weights are rounded to.
const LARGEST: [i8; 2] = [64, 127];
const SECONDS: f64 = 1.5;
const STRETCH_SECONDS: f64 = 0.05;
const MIN_STRETCHES: usize = 3;

/// Numbers that look random, between -1 and 1.
struct Numbers(u64);

impl Numbers {
    fn one(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn many(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.one()).collect()
    }

    fn below(&mut self, count: usize) -> usize {
        (((self.one() + 1.0) / 2.0 * count as f32) as usize).min(count - 1)
    }
}

/// Layers with random weights, in one precision.
fn linear(numbers: &mut Numbers, inputs: usize, outputs: usize, quantised: bool) -> Linear {
    let weight: Vec<f32> = numbers.many(inputs * outputs);
    let weight: Vec<f32> = weight.iter().map(|x| x * 0.07).collect();
    let bias = numbers.many(outputs);
    if quantised {
        let (bytes, scales) = QuantisedLinear::round(&weight, inputs, 64);
        QuantisedLinear::new(&bytes, &scales, Some(&bias), inputs, outputs).into()
    } else {
        PackedLinear::new(&weight, Some(&bias), inputs, outputs).into()
    }
}

fn encoder(quantised: bool) -> Encoder {
    let mut numbers = Numbers(7);
    let norm = |numbers: &mut Numbers| Norm {
        weight: numbers.many(HIDDEN).iter().map(|x| 1.0 + 0.3 * x).collect(),
        bias: numbers.many(HIDDEN).iter().map(|x| 0.1 * x).collect(),
        eps: 1e-12,
    };
    let layers = (0..LAYERS).map(|_| Layer {
        query_key_value: linear(&mut numbers, HIDDEN, 3 * HIDDEN, quantised),
        attended: linear(&mut numbers, HIDDEN, HIDDEN, quantised),
        attended_norm: norm(&mut numbers),
        up: linear(&mut numbers, HIDDEN, BETWEEN, quantised),
        gate: None,
        down: linear(&mut numbers, BETWEEN, HIDDEN, quantised),
        norm: norm(&mut numbers),
    });
    let layers = layers.collect();
    let tables = Tables {
        words: numbers.many(WORDS * HIDDEN),
        positions: Some(numbers.many(512 * HIDDEN)),
        types: None,
        norm: norm(&mut numbers),
    };
    Encoder::new(HIDDEN, HEADS, 0, Finish::Gelu, tables, layers)
}

fn hash(numbers: &[f32]) -> u64 {
    let mut hasher = DefaultHasher::new();
    numbers.iter().for_each(|x| x.to_bits().hash(&mut hasher));
    hasher.finish()
}

/// One number for the bits of layers of many shapes, in both precisions and with every activation, alone and together.
fn layers_hash() -> u64 {
    let mut numbers = Numbers(11);
    let mut all = Vec::new();
    for case in 0..200_usize {
        let inputs = 1 + numbers.below(300);
        let outputs = 1 + numbers.below(150);
        let rows = 1 + numbers.below(30);
        let weight = numbers.many(inputs * outputs);
        let bias = numbers.many(outputs);
        let spread = 10.0_f32.powi(case as i32 % 9 - 4);
        let x: Vec<f32> = numbers
            .many(rows * inputs)
            .iter()
            .map(|x| x * spread)
            .collect();
        let finish = [
            Finish::Plain,
            Finish::Gelu,
            Finish::GeluTanh,
            Finish::Relu,
            Finish::Tanh,
            Finish::Sigmoid,
        ][case % 6];
        let single = PackedLinear::new(&weight, Some(&bias), inputs, outputs);
        let (bytes, scales) = QuantisedLinear::round(&weight, inputs, LARGEST[case % 2]);
        let quantised = QuantisedLinear::new(&bytes, &scales, Some(&bias), inputs, outputs);
        for together in [single.forward(&x, finish), quantised.forward(&x, finish)] {
            all.extend(together);
        }
        for x in x.chunks(inputs) {
            all.extend(single.forward(x, finish));
            all.extend(quantised.forward(x, finish));
        }
    }
    hash(&all)
}

/// Calls a second: the fastest of the stretches that fit into [`SECONDS`], since others may use the processor too.
fn rate(mut call: impl FnMut()) -> f64 {
    call();
    let (all, mut fastest) = (Instant::now(), 0.0_f64);
    let mut stretches = 0;
    while stretches < MIN_STRETCHES || all.elapsed().as_secs_f64() < SECONDS {
        let (begun, mut calls) = (Instant::now(), 0);
        while calls == 0 || begun.elapsed().as_secs_f64() < STRETCH_SECONDS {
            call();
            calls += 1;
        }
        fastest = fastest.max(f64::from(calls) / begun.elapsed().as_secs_f64());
        stretches += 1;
    }
    fastest
}

fn product_rates() {
    let mut numbers = Numbers(3);
    let rows = 252;
    for (inputs, outputs) in [(HIDDEN, 3 * HIDDEN), (HIDDEN, BETWEEN), (BETWEEN, HIDDEN)] {
        let x = numbers.many(rows * inputs);
        let operations = 2.0 * (rows * inputs * outputs) as f64;
        let single = PackedLinear::new(&numbers.many(inputs * outputs), None, inputs, outputs);
        let floats = rate(|| drop(single.forward(&x, Finish::Plain))) * operations / 1e9;
        let [small, bytes] = LARGEST.map(|largest| {
            let (bytes, scales) =
                QuantisedLinear::round(&numbers.many(inputs * outputs), inputs, largest);
            let quantised = QuantisedLinear::new(&bytes, &scales, None, inputs, outputs);
            rate(|| drop(quantised.forward(&x, Finish::Plain))) * operations / 1e9
        });
        println!(
            "  {rows} x {inputs} x {outputs}, one thread, GOP/s: floats {floats:.0}, bytes {small:.0} (weights to 64), {bytes:.0} (to 127)",
        );
    }
}

fn encoder_rates(encoders: &[Encoder; 2], pool: &ThreadPool, mixed: &[usize]) {
    let mut numbers = Numbers(5);
    let loads = [
        ("32 x 32 tokens", vec![32; 32]),
        ("32 x 128 tokens", vec![128; 32]),
        ("1 x 32 tokens", vec![32]),
        ("mixed lengths", mixed.to_vec()),
    ];
    for (name, lengths) in loads {
        let batches: Vec<(Vec<u32>, &[usize])> = lengths
            .chunks(32)
            .map(|lengths| {
                let tokens = 0..lengths.iter().sum();
                let ids = tokens.map(|_| numbers.below(WORDS) as u32).collect();
                (ids, lengths)
            })
            .collect();
        let [floats, bytes] = encoders.each_ref().map(|encoder| {
            let passes = rate(|| {
                for (ids, lengths) in &batches {
                    let texts = Texts {
                        ids,
                        types: &[],
                        lengths,
                    };
                    encoder.encode(texts, Pooling::Mean, pool);
                }
            });
            passes * lengths.len() as f64
        });
        println!(
            "  {name}, {THREADS} threads, texts/s: floats {floats:.0}, bytes {bytes:.0} ({:.2} times)",
            bytes / floats
        );
    }
}

/// One number for the bits of texts of every length to 70, alone and together.
fn texts_hash(encoder: &Encoder, pool: &ThreadPool) -> u64 {
    let mut numbers = Numbers(13);
    let lengths: Vec<usize> = (1..=70).step_by(3).collect();
    let ids: Vec<u32> = (0..lengths.iter().sum())
        .map(|_| numbers.below(WORDS) as u32)
        .collect();
    let encode = |ids: &[u32], lengths: &[usize]| {
        let texts = Texts {
            ids,
            types: &[],
            lengths,
        };
        encoder.encode(texts, Pooling::Mean, pool)
    };
    let mut all = encode(&ids, &lengths);
    let together = all.clone();
    let mut from = 0;
    for (&length, together) in lengths.iter().zip(together.chunks(HIDDEN)) {
        let alone = encode(&ids[from..from + length], &[length]);
        assert_eq!(
            hash(&alone),
            hash(together),
            "a text alone and among others"
        );
        all.extend(alone);
        from += length;
    }
    hash(&all)
}

fn main() -> std::io::Result<()> {
    let pool = ThreadPool::start("levels", THREADS, || ())?;
    let encoders = [false, true].map(encoder);
    let mut mixed: Vec<usize> = (4..64).cycle().step_by(7).take(256).collect();
    let mut arguments = std::env::args().skip_while(|argument| argument != "--encoder");
    if let (Some(_), Some(lengths)) = (arguments.next(), arguments.next()) {
        mixed = lengths
            .split(',')
            .map_while(|length| length.parse().ok())
            .collect();
        encoder_rates(&encoders, &pool, &mixed);
        return Ok(());
    }
    let mut found = Vec::new();
    let fast = std::env::args().any(|argument| argument == "--equality");
    for level in Level::available() {
        Level::force(Some(level));
        let [floats, bytes] = encoders
            .each_ref()
            .map(|encoder| texts_hash(encoder, &pool));
        let hashes = [layers_hash(), floats, bytes];
        println!(
            "{level:?}: layers {:016x}, texts in floats {:016x}, in bytes {:016x}",
            hashes[0], hashes[1], hashes[2]
        );
        if !fast && level != Level::Portable {
            product_rates();
            encoder_rates(&encoders, &pool, &mixed);
        }
        found.push(hashes);
    }
    let equal = found.windows(2).all(|pair| pair[0] == pair[1]);
    println!(
        "{}",
        if equal {
            "the same bits at every level"
        } else {
            "THE BITS DIFFER"
        }
    );
    std::process::exit(i32::from(!equal));
}
