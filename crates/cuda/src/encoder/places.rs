//! What attention knows of places: biases, turns and products with embedded distances, on the device.

use std::ops::Range;

use cudarc::driver::CudaSlice;
use kiln_kernels::{Distances, Relative, Rotary};

use super::Layer;
use crate::device::Device;
use crate::error::Error;
use crate::linear::is_padded;
use crate::matrix::Matrix;

/// How a text's tokens know their places; as in [`kiln_kernels::Attention`].
#[derive(Debug, Clone, Copy)]
pub enum Attention<'a> {
    /// By their words alone: places are in the tables.
    Plain,
    /// With a bias for each head and distance.
    Relative(&'a Relative),
    /// With queries and keys turned by their places, and in some layers within a window.
    Rotary {
        /// Of the layers that see a whole text.
        turns: &'a Rotary,
        /// Of the others, where there are any.
        local: Option<Local<'a>>,
    },
    /// With products of words and embedded distances.
    Disentangled {
        /// Which distances share a row.
        distances: &'a Distances,
        /// The table, through its norm where it has one: `[rows, hidden]`.
        rows: &'a [f32],
    },
}

/// The layers that see a part of a text.
#[derive(Debug, Clone, Copy)]
pub struct Local<'a> {
    /// Their turns.
    pub turns: &'a Rotary,
    /// How many tokens a token sees on each side of itself.
    pub reach: usize,
    /// Layers 0, `every`, 2 · `every` and so on see the whole text; not 0.
    pub every: usize,
}

/// What attention reads of places, on the device.
pub(super) enum Places {
    None,
    Biases {
        biases: CudaSlice<f32>,
        reach: usize,
    },
    Turns {
        turns: CudaSlice<f32>,
        /// Turns, reach, and which layers see everything.
        local: Option<(CudaSlice<f32>, usize, usize)>,
    },
    Distances {
        distances: Distances,
        steps: CudaSlice<i32>,
        /// Each layer's queries, keys and values of the table's rows.
        mixed: Vec<Matrix>,
    },
}

/// The rows of embedded distances that texts of so many tokens need: a multiple of four, within the table.
pub(super) fn columns(distances: &Distances, tokens: usize) -> Range<usize> {
    let last = tokens.saturating_sub(1);
    let (first, end) = (distances.row(0, last), distances.row(last, 0) + 1);
    let first = first / 4 * 4;
    first..end.next_multiple_of(4).max(first + 4)
}

/// The longest text that it takes.
pub(super) fn longest(attention: Attention<'_>) -> usize {
    match attention {
        Attention::Rotary { turns, local } => {
            let local = local.map_or(usize::MAX, |local| local.turns.longest());
            turns.longest().min(local)
        }
        _ => usize::MAX,
    }
}

impl Places {
    pub fn of(
        device: &Device,
        (hidden, heads): (usize, usize),
        layers: &[Layer],
        attention: Attention<'_>,
    ) -> Result<Self, Error> {
        let (stream, width) = (&device.stream, hidden / heads);
        let turned = |turns: &Rotary| {
            assert_eq!(turns.width(), width, "numbers that are turned");
            let pairs = turns.pairs().iter().flat_map(|&(cos, sin)| [cos, sin]);
            stream.clone_htod(&pairs.collect::<Vec<f32>>())
        };
        Ok(match attention {
            Attention::Plain => Self::None,
            Attention::Relative(relative) => Self::Biases {
                biases: stream.clone_htod(relative.biases())?,
                reach: relative.reach(),
            },
            Attention::Rotary { turns, local } => Self::Turns {
                turns: turned(turns)?,
                local: local
                    .map(|local| {
                        assert!(local.every > 0, "every is 0");
                        turned(local.turns).map(|turns| (turns, local.reach, local.every))
                    })
                    .transpose()?,
            },
            Attention::Disentangled { distances, rows } => {
                if !is_padded(width) || !distances.rows().is_multiple_of(4) {
                    return Err(Error::Beyond(format!(
                        "heads of {width} numbers and {} rows of distances aren't multiples of 4",
                        distances.rows()
                    )));
                }
                assert_eq!(
                    rows.len(),
                    distances.rows() * hidden,
                    "numbers of the distances"
                );
                let table = Matrix::of(stream, rows, hidden)?;
                let mixed = layers.iter().map(|layer| {
                    let mut mixed = Matrix::new(stream)?;
                    device.product(&table, &layer.query_key_value, None, &mut mixed)?;
                    Ok(mixed)
                });
                let steps: Vec<i32> = distances.steps().iter().map(|&step| step as i32).collect();
                Self::Distances {
                    steps: stream.clone_htod(&steps)?,
                    mixed: mixed.collect::<Result<_, Error>>()?,
                    distances: distances.clone(),
                }
            }
        })
    }
}
