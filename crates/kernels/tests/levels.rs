//! Every kernel that this processor has, forced one level of instructions after the other: the same bits.
//!
//! A process of its own, since a level is forced for all of one.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test fails where it stands"
)]

use kiln_kernels::{
    Attention, Disentangled, Distances, EmbeddingBag, Encoder, Finish, Layer, Level, Linear, Local,
    Norm, PackedLinear, Pooling, QuantisedLinear, Relative, Rotary, Stack, Tables, Texts,
    ThreadPool,
};

const FINISHES: [Finish; 7] = [
    Finish::Plain,
    Finish::Gelu,
    Finish::GeluTanh,
    Finish::Relu,
    Finish::Tanh,
    Finish::Sigmoid,
    Finish::Silu,
];

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

    /// Between 1 and `max`.
    fn size(&mut self, max: usize) -> usize {
        1 + (((self.one() + 1.0) / 2.0 * max as f32) as usize).min(max - 1)
    }
}

/// Layers, bags and softmax over random shapes and spreads, whole and row by row.
fn layers() -> Vec<f32> {
    let mut numbers = Numbers(61);
    let mut all = Vec::new();
    for case in 0..36_usize {
        let (inputs, outputs) = (numbers.size(150), numbers.size(70));
        let rows = numbers.size(16);
        let weight = numbers.many(inputs * outputs);
        let bias = numbers.many(outputs);
        let spread = 10.0_f32.powi(case as i32 % 11 - 5);
        let x = numbers.many(rows * inputs);
        let x: Vec<f32> = x.iter().map(|x| x * spread).collect();
        let finish = FINISHES[case % FINISHES.len()];
        let single = PackedLinear::new(&weight, Some(&bias), inputs, outputs);
        let largest = [64, 127][case % 2];
        let (bytes, scales) = QuantisedLinear::round(&weight, inputs, largest);
        let quantised = QuantisedLinear::new(&bytes, &scales, Some(&bias), inputs, outputs);
        all.extend(single.forward(&x, finish));
        all.extend(quantised.forward(&x, finish));
        for x in x.chunks(inputs) {
            all.extend(single.forward(x, finish));
            all.extend(quantised.forward(x, finish));
        }
        all.extend(Stack::new(inputs, vec![(single, finish)]).forward(&x));
        let mut row = x.clone();
        kiln_kernels::softmax(&mut row);
        all.extend(row);
        let bag = EmbeddingBag::new(x, inputs);
        let mut mean = vec![0.0; inputs];
        let named: Vec<u32> = (0..70).map(|_| numbers.size(rows) as u32 - 1).collect();
        bag.mean(&named, &mut mean);
        all.extend(mean);
    }
    all
}

fn linear(numbers: &mut Numbers, inputs: usize, outputs: usize, quantised: bool) -> Linear {
    let weight = numbers.many(inputs * outputs);
    let weight: Vec<f32> = weight.iter().map(|x| x * 0.3).collect();
    let bias = numbers.many(outputs);
    if quantised {
        let (bytes, scales) = QuantisedLinear::round(&weight, inputs, 64);
        QuantisedLinear::new(&bytes, &scales, Some(&bias), inputs, outputs).into()
    } else {
        PackedLinear::new(&weight, Some(&bias), inputs, outputs).into()
    }
}

/// A small encoder with heads that fill a panel, a part of one, or neither.
fn encoder(heads: usize, width: usize, between: usize, finish: Finish, quantised: bool) -> Encoder {
    let mut numbers = Numbers(67);
    let hidden = heads * width;
    let norm = |numbers: &mut Numbers| Norm {
        weight: numbers.many(hidden),
        bias: numbers.many(hidden),
        eps: 1e-12,
    };
    let layers = (0..2).map(|_| Layer {
        query_key_value: linear(&mut numbers, hidden, 3 * hidden, quantised),
        attended: linear(&mut numbers, hidden, hidden, quantised),
        attended_norm: norm(&mut numbers),
        up: linear(&mut numbers, hidden, between, quantised),
        gate: (finish == Finish::Silu).then(|| linear(&mut numbers, hidden, between, quantised)),
        down: linear(&mut numbers, between, hidden, quantised),
        norm: norm(&mut numbers),
    });
    let layers = layers.collect();
    let tables = Tables {
        words: numbers.many(50 * hidden),
        positions: (finish != Finish::Silu).then(|| numbers.many(120 * hidden)),
        types: None,
        norm: norm(&mut numbers),
    };
    Encoder::new(hidden, heads, 2, finish, tables, layers)
}

/// The same with every other kind of attention, its last one with a gate and its sums kept.
fn of_every_kind(heads: usize, width: usize, quantised: bool) -> [Encoder; 3] {
    let mut numbers = Numbers(71);
    let hidden = heads * width;
    let table = numbers.many(32 * heads);
    let relative = Relative::new(&table, 32, 128, heads);
    let distances = || Distances::new(16, 64);
    let mut mixed = || numbers.many(distances().rows() * 3 * hidden);
    let layers = [mixed(), mixed()]
        .map(|mixed| Disentangled::new(distances(), &mixed, hidden, heads))
        .into();
    let rotary = Attention::Rotary {
        turns: Rotary::new(160_000.0, width, 120),
        local: Some(Local {
            turns: Rotary::new(10_000.0, width, 120),
            reach: 9,
            every: 2,
        }),
    };
    let plain = |finish| encoder(heads, width, 40, finish, quantised);
    [
        plain(Finish::Gelu).with_attention(Attention::Relative(relative)),
        plain(Finish::Gelu).with_attention(Attention::Disentangled(layers)),
        plain(Finish::Silu).with_attention(rotary).with_sums_kept(),
    ]
}

/// Texts of many lengths, together, alone, and on another number of threads, which all are the same.
fn texts(encoder: &Encoder, pools: &[ThreadPool; 2]) -> Vec<f32> {
    let lengths: Vec<usize> = (0..9).map(|i| 1 + i * 37 % 70).collect();
    let ids: Vec<u32> = (0..lengths.iter().sum::<usize>())
        .map(|i| (i * 31 % 50) as u32)
        .collect();
    let encode = |ids: &[u32], lengths: &[usize], pool| {
        let texts = Texts {
            ids,
            types: &[],
            lengths,
        };
        encoder.encode(texts, Pooling::Mean, pool)
    };
    let all = encode(&ids, &lengths, &pools[0]);
    assert_eq!(bits(&encode(&ids, &lengths, &pools[1])), bits(&all));
    let width = all.len() / lengths.len();
    let mut from = 0;
    for (&length, together) in lengths.iter().zip(all.chunks(width)) {
        let alone = encode(&ids[from..from + length], &[length], &pools[1]);
        assert_eq!(bits(&alone), bits(together), "{length} tokens");
        from += length;
    }
    all
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn every_level_gives_the_same_bits_alone_and_in_any_batch() {
    let pools = [1, 2].map(|threads| ThreadPool::start("kernel", threads, || ()).unwrap());
    let shapes = [
        (3, 16, 70, Finish::Gelu),
        (2, 32, 40, Finish::GeluTanh),
        (5, 7, 33, Finish::Relu),
    ];
    let mut encoders: Vec<Encoder> = shapes
        .into_iter()
        .flat_map(|(heads, width, between, finish)| {
            [false, true].map(|quantised| encoder(heads, width, between, finish, quantised))
        })
        .collect();
    let others = [(3, 16), (2, 32), (2, 48)]
        .into_iter()
        .flat_map(|(heads, width)| {
            [false, true].map(|quantised| of_every_kind(heads, width, quantised))
        });
    encoders.extend(others.flatten());
    let levels = Level::available();
    assert_eq!(levels.first(), Some(&Level::Portable));
    let mut first = None;
    for level in levels {
        Level::force(Some(level));
        let mut found = bits(&layers());
        for encoder in &encoders {
            found.extend(bits(&texts(encoder, &pools)));
        }
        println!("{level:?}: {} numbers", found.len());
        let first = first.get_or_insert_with(|| found.clone());
        assert!(*first == found, "{level:?} gives other bits");
    }
    Level::force(None);
}
