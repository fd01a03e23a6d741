//! How fast an encoder of MiniLM's shape and two stacks of layers go through a device, weights and texts at random:
//! `cargo run --release -p kiln-cuda --example speed`, or with a word behind `--` what is so called alone.

#![allow(clippy::indexing_slicing, reason = "every size is written here")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_cuda::{Attention, Device, Encoder, Error, Layer, Linear, Norm, Stack};
use kiln_kernels::{Finish, Pooling, Tables, Texts};

const HIDDEN: usize = 384;
const BETWEEN: usize = 1536;
const VOCABULARY: usize = 30_522;

fn main() -> Result<(), Error> {
    let only = std::env::args().nth(1).unwrap_or_default();
    let began = Instant::now();
    let device = Arc::new(Device::open(0)?);
    println!(
        "{}, opened in {:.1} s",
        device.name(),
        began.elapsed().as_secs_f64()
    );
    let encoder = encoder(&device)?;
    println!("{:>24} {:>12} {:>10}", "texts", "texts/s", "median ms");
    for (name, lengths) in loads() {
        if !name.contains(&only) {
            continue;
        }
        let tokens: usize = lengths.iter().sum();
        let mut random = 1_u64;
        let ids: Vec<u32> = (0..tokens)
            .map(|_| (next(&mut random) % VOCABULARY as u64) as u32)
            .collect();
        let types = vec![0; tokens];
        // Passes of at most 16,384 tokens, as the settings ask for.
        let median = median(|| {
            let (mut first, mut text) = (0, 0);
            while text < lengths.len() {
                let (from, mut end, mut count) = (text, first, 0);
                while text < lengths.len() && (count == 0 || count + lengths[text] <= 16_384) {
                    count += lengths[text];
                    end += lengths[text];
                    text += 1;
                }
                let part = Texts {
                    ids: &ids[first..end],
                    types: &types[first..end],
                    lengths: &lengths[from..text],
                };
                encoder.encode(part, Pooling::Mean)?;
                first = end;
            }
            Ok(())
        })?;
        let rate = lengths.len() as f64 / median.as_secs_f64();
        println!(
            "{name:>24} {rate:>12.0} {:>10.2}",
            median.as_secs_f64() * 1e3
        );
    }
    for sizes in [&[64, 256, 128, 1][..], &[512, 4096, 4096, 1024, 1]] {
        let layers = sizes
            .windows(2)
            .map(|size| linear(&device, (size[0], size[1]), Finish::Relu));
        let stack = Stack::new(&device, sizes[0], layers.collect::<Result<_, _>>()?);
        for rows in [1, 64, 1024, 8192] {
            let name = format!("{rows} rows of {}", sizes[0]);
            if !name.contains(&only) {
                continue;
            }
            let x = numbers(rows * sizes[0], 1.0);
            let median = median(|| stack.forward(&x).map(|_| ()))?;
            let rate = rows as f64 / median.as_secs_f64();
            println!(
                "{:>24} {rate:>12.0} {:>10.2}",
                name,
                median.as_secs_f64() * 1e3
            );
        }
    }
    Ok(())
}

fn loads() -> Vec<(&'static str, Vec<usize>)> {
    let mut random = 3_u64;
    // About log-normal, of a median of 26 tokens.
    let mut mixed = || {
        let mut one = || (next(&mut random) >> 40) as f64 / (1 << 24) as f64;
        let normal = (0..12).map(|_| one()).sum::<f64>() - 6.0;
        ((3.26 + 0.9 * normal).exp() as usize).clamp(3, 512)
    };
    vec![
        ("1 of 32 tokens", vec![32; 1]),
        ("32 of 32", vec![32; 32]),
        ("32 of 128", vec![128; 32]),
        ("512 of 32", vec![32; 512]),
        ("512 of 128", vec![128; 512]),
        ("2,048 of 32", vec![32; 2048]),
        ("128 of 512", vec![512; 128]),
        (
            "4,096 of many lengths",
            (0..4096).map(|_| mixed()).collect(),
        ),
    ]
}

fn median(mut run: impl FnMut() -> Result<(), Error>) -> Result<Duration, Error> {
    for _ in 0..3 {
        run()?;
    }
    let began = Instant::now();
    let mut times = Vec::new();
    while times.len() < 5 || (times.len() < 400 && began.elapsed() < Duration::from_millis(1500)) {
        let started = Instant::now();
        run()?;
        times.push(started.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}

fn encoder(device: &Arc<Device>) -> Result<Encoder, Error> {
    let norm = kiln_kernels::Norm {
        weight: vec![1.0; HIDDEN],
        bias: vec![0.0; HIDDEN],
        eps: 1e-12,
    };
    let tables = Tables {
        words: numbers(VOCABULARY * HIDDEN, 1.0),
        positions: Some(numbers(512 * HIDDEN, 0.3)),
        types: Some(numbers(2 * HIDDEN, 0.1)),
        norm: norm.clone(),
    };
    let layers = (0..6).map(|_| {
        Ok(Layer {
            query_key_value: linear(device, (HIDDEN, 3 * HIDDEN), Finish::Plain)?,
            attended: linear(device, (HIDDEN, HIDDEN), Finish::Plain)?,
            attended_norm: Norm::new(device, &norm)?,
            up: linear(device, (HIDDEN, BETWEEN), Finish::Gelu)?,
            gate: None,
            down: linear(device, (BETWEEN, HIDDEN), Finish::Plain)?,
            norm: Norm::new(device, &norm)?,
        })
    });
    let layers = layers.collect::<Result<Vec<_>, Error>>()?;
    Encoder::new(device, (HIDDEN, 12), 0, &tables, layers, Attention::Plain)
}

fn linear(
    device: &Device,
    (inputs, outputs): (usize, usize),
    finish: Finish,
) -> Result<Linear, Error> {
    let weight = numbers(inputs * outputs, (3.0 / inputs as f32).sqrt());
    Linear::new(device, &weight, None, (inputs, outputs), finish)
}

/// Evenly between `-reach` and `reach`.
fn numbers(count: usize, reach: f32) -> Vec<f32> {
    let mut random = count as u64;
    let mut one = || (next(&mut random) >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
    (0..count).map(|_| one() * reach).collect()
}

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut x = *state;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
