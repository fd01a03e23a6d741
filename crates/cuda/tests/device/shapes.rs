//! Encoders with the same weights on the processor and on a device.

use std::sync::Arc;

use kiln_cuda::{Attention, Device, Encoder, Error, Layer, Linear, Local, Norm};
use kiln_kernels::{
    self as kernels, Disentangled, Distances, Finish, PackedLinear, Relative, Rotary, Tables,
};

/// Numbers that look random, around 0.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub fn many(&mut self, count: usize, reach: f32) -> Vec<f32> {
        let mut one = || (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        (0..count).map(|_| one() * reach).collect()
    }
}

/// What a test encoder is like.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub hidden: usize,
    pub heads: usize,
    pub between: usize,
    pub layers: usize,
    pub gate: bool,
    pub keeps_sums: bool,
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Plain,
    Relative,
    Rotary,
    Window,
    Disentangled,
}

pub const VOCABULARY: usize = 500;
const POSITIONS: usize = 5_000;

/// A layer's weights and biases, how many numbers go in, and how many come out.
type Part = (Vec<f32>, Vec<f32>, usize, usize);

/// The same weights for both.
pub struct Weights {
    pub tables: Tables,
    pub layers: Vec<[Part; 5]>,
    pub norms: Vec<[kernels::Norm; 2]>,
    relative: Relative,
    turns: [Rotary; 2],
    distances: Distances,
    of_distances: Vec<f32>,
}

pub fn weights(shape: Shape) -> Weights {
    let mut numbers = Numbers(7);
    let Shape {
        hidden, between, ..
    } = shape;
    let norm = |numbers: &mut Numbers| kernels::Norm {
        weight: numbers.many(hidden, 0.3).iter().map(|x| 1.0 + x).collect(),
        bias: numbers.many(hidden, 0.2),
        eps: 1e-12,
    };
    let tables = Tables {
        words: numbers.many(VOCABULARY * hidden, 1.0),
        positions: Some(numbers.many(POSITIONS * hidden, 0.3)),
        types: Some(numbers.many(2 * hidden, 0.1)),
        norm: norm(&mut numbers),
    };
    let sizes = [
        (hidden, 3 * hidden),
        (hidden, hidden),
        (hidden, between),
        (hidden, between),
        (between, hidden),
    ];
    let layers = (0..shape.layers).map(|_| {
        sizes.map(|(inputs, outputs)| {
            let reach = (3.0 / inputs as f32).sqrt();
            (
                numbers.many(inputs * outputs, reach),
                numbers.many(outputs, 0.1),
                inputs,
                outputs,
            )
        })
    });
    let layers = layers.collect();
    let norms = (0..shape.layers).map(|_| [norm(&mut numbers), norm(&mut numbers)]);
    let norms = norms.collect();
    let width = hidden / shape.heads;
    let distances = Distances::new(32, 128);
    // Heads of odd numbers aren't turned.
    let even = width.next_multiple_of(2);
    Weights {
        tables,
        layers,
        norms,
        relative: Relative::new(&numbers.many(32 * shape.heads, 1.0), 32, 128, shape.heads),
        turns: [160_000.0, 10_000.0].map(|theta| Rotary::new(theta, even, POSITIONS)),
        of_distances: numbers.many(distances.rows() * hidden, 0.7),
        distances,
    }
}

const REACH: usize = 20;
const EVERY: usize = 3;

pub fn on_processor(shape: Shape) -> kernels::Encoder {
    let of = weights(shape);
    let layers: Vec<kernels::Layer> = of
        .layers
        .iter()
        .zip(of.norms)
        .map(|(parts, norms)| {
            let [qkv, attended, up, gate, down] =
                parts.clone().map(|(weight, bias, inputs, outputs)| {
                    kernels::Linear::from(PackedLinear::new(&weight, Some(&bias), inputs, outputs))
                });
            let [attended_norm, norm] = norms;
            kernels::Layer {
                query_key_value: qkv,
                attended,
                attended_norm,
                up,
                gate: shape.gate.then_some(gate),
                down,
                norm,
            }
        })
        .collect();
    let [turns, local] = of.turns;
    let attention = match shape.kind {
        Kind::Plain => kernels::Attention::Plain,
        Kind::Relative => kernels::Attention::Relative(of.relative),
        Kind::Rotary => kernels::Attention::Rotary { turns, local: None },
        Kind::Window => kernels::Attention::Rotary {
            turns,
            local: Some(kernels::Local {
                turns: local,
                reach: REACH,
                every: EVERY,
            }),
        },
        Kind::Disentangled => {
            let of_layer = |layer: &kernels::Layer| {
                let mixed = layer.query_key_value.forward(&of.of_distances);
                Disentangled::new(of.distances.clone(), &mixed, shape.hidden, shape.heads)
            };
            kernels::Attention::Disentangled(layers.iter().map(of_layer).collect())
        }
    };
    let encoder = kernels::Encoder::new(
        shape.hidden,
        shape.heads,
        2,
        Finish::Gelu,
        of.tables,
        layers,
    )
    .with_attention(attention);
    if shape.keeps_sums {
        encoder.with_sums_kept()
    } else {
        encoder
    }
}

pub fn on_device(device: &Arc<Device>, shape: Shape) -> Result<Encoder, Error> {
    let of = weights(shape);
    let layers = of.layers.iter().zip(&of.norms).map(|(parts, norms)| {
        let linear = |at: usize, finish| {
            let (weight, bias, inputs, outputs) = &parts[at];
            Linear::new(device, weight, Some(bias), (*inputs, *outputs), finish)
        };
        Ok(Layer {
            query_key_value: linear(0, Finish::Plain)?,
            attended: linear(1, Finish::Plain)?,
            attended_norm: Norm::new(device, &norms[0])?,
            up: linear(2, Finish::Gelu)?,
            gate: shape.gate.then(|| linear(3, Finish::Plain)).transpose()?,
            down: linear(4, Finish::Plain)?,
            norm: Norm::new(device, &norms[1])?,
        })
    });
    let layers = layers.collect::<Result<Vec<_>, Error>>()?;
    let [turns, local] = &of.turns;
    let attention = match shape.kind {
        Kind::Plain => Attention::Plain,
        Kind::Relative => Attention::Relative(&of.relative),
        Kind::Rotary => Attention::Rotary { turns, local: None },
        Kind::Window => Attention::Rotary {
            turns,
            local: Some(Local {
                turns: local,
                reach: REACH,
                every: EVERY,
            }),
        },
        Kind::Disentangled => Attention::Disentangled {
            distances: &of.distances,
            rows: &of.of_distances,
        },
    };
    let sizes = (shape.hidden, shape.heads);
    let encoder = Encoder::new(device, sizes, 2, &of.tables, layers, attention)?;
    Ok(if shape.keeps_sums {
        encoder.with_sums_kept()
    } else {
        encoder
    })
}
