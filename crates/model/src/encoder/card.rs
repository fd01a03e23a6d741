//! The encoder on an NVIDIA graphics processor, by Kiln's own kernels.

use std::sync::Arc;

use crate::manifest::EncoderShape;
use kiln_cuda::{Attention, Device, Encoder, Error, Layer, Linear, Local, Norm};
use kiln_kernels::{Distances, Finish, Rotary, Tables};

use super::weights::{LayerLinear, LayerWeights, LinearWeights, NormWeights, TableWeights};

/// Puts an encoder on the device; its texts' vectors go through `after` there.
pub(super) fn encoder(
    card: &Arc<Device>,
    shape: &EncoderShape,
    mut tables: TableWeights,
    layers: impl Iterator<Item = LayerWeights<LinearWeights>>,
    after: Vec<Linear>,
) -> Result<Encoder, Error> {
    let layers = layers.map(|weights| layer(card, shape, weights));
    let layers = layers.collect::<Result<Vec<Layer>, Error>>()?;
    let sizes = (shape.hidden, shape.heads);
    let relative = super::relative(shape, &tables);
    let turns = |theta| Rotary::new(theta, shape.hidden / shape.heads, shape.positions);
    let rotary = shape.rotary.map(|rotary| {
        let window = rotary.window.map(|window| (turns(window.theta), window));
        (turns(rotary.theta), window)
    });
    let rows = tables.distances.take();
    let distances = shape.disentangled.zip(rows);
    let distances = distances.map(|(of, rows)| (Distances::new(of.buckets, of.max_distance), rows));
    let attention = match (&relative, &rotary, &distances) {
        (Some(relative), ..) => Attention::Relative(relative),
        (_, Some((turns, window)), _) => Attention::Rotary {
            turns,
            local: window.as_ref().map(|(turns, window)| Local {
                turns,
                reach: window.reach,
                every: window.every,
            }),
        },
        (_, _, Some((distances, rows))) => Attention::Disentangled { distances, rows },
        _ => Attention::Plain,
    };
    let tables = Tables {
        words: tables.words,
        positions: tables.positions,
        types: tables.types,
        norm: tables.norm.into_kernel(shape.norm_eps),
    };
    let offset = shape.position_offset;
    let encoder = Encoder::new(card, sizes, offset, &tables, layers, attention)?;
    let encoder = encoder.with_layers_after(after);
    Ok(if shape.norm_first {
        encoder.with_sums_kept()
    } else {
        encoder
    })
}

fn layer(
    card: &Arc<Device>,
    shape: &EncoderShape,
    weights: LayerWeights<LinearWeights>,
) -> Result<Layer, Error> {
    let norm = |weights: NormWeights| Norm::new(card, &weights.into_kernel(shape.norm_eps));
    let plain = |weights| linear(card, &weights, Finish::Plain);
    let mixed = LinearWeights::joined([weights.query, weights.key, weights.value]);
    Ok(Layer {
        query_key_value: plain(mixed)?,
        attended: plain(weights.attended)?,
        attended_norm: norm(weights.attended_norm)?,
        up: linear(card, &weights.up, super::finish(shape))?,
        gate: weights.gate.map(plain).transpose()?,
        down: plain(weights.down)?,
        norm: norm(weights.norm)?,
    })
}

/// Puts a layer's numbers on the device.
pub(super) fn linear(
    card: &Device,
    weights: &LinearWeights,
    finish: Finish,
) -> Result<Linear, Error> {
    let size = (weights.inputs, weights.outputs);
    Linear::new(card, &weights.weight, weights.bias.as_deref(), size, finish)
}
