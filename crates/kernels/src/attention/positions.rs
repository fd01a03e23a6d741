//! What attention knows of places beside the tables that are added to words: biases by distance, turned queries and keys, and
//! products with embedded distances.
//!
//! Logarithms, powers and angles are computed by one implementation in 64 bits, not by the system's: the same bits everywhere.

use super::super::panels::PANEL;
use super::Heads;

/// How a layer's tokens see each other.
#[derive(Debug, Default)]
pub enum Attention {
    /// By their words alone: places are in the tables.
    #[default]
    Plain,
    /// With a bias for each head and distance, the same in every layer (Raffel et al., "Exploring the Limits of Transfer
    /// Learning with a Unified Text-to-Text Transformer", 2020).
    Relative(Relative),
    /// With queries and keys turned by their places, and in some layers within a window.
    Rotary {
        /// Of the layers that see a whole text.
        turns: Rotary,
        /// Of the others, where there are any.
        local: Option<Local>,
    },
    /// With products of words and embedded distances, for each layer.
    Disentangled(Vec<Disentangled>),
}

/// The layers that see a part of a text.
#[derive(Debug)]
pub struct Local {
    /// Their turns.
    pub turns: Rotary,
    /// How many tokens a token sees on each side of itself.
    pub reach: usize,
    /// Layers 0, `every`, 2 · `every` and so on see the whole text; not 0.
    pub every: usize,
}

/// How one layer's tokens see each other.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum View<'a> {
    Plain,
    Relative(&'a Relative),
    Rotary {
        turns: &'a Rotary,
        reach: Option<usize>,
    },
    Disentangled(&'a Disentangled),
}

impl Attention {
    pub(in super::super) fn of_layer(&self, layer: usize) -> View<'_> {
        match self {
            Self::Plain => View::Plain,
            Self::Relative(relative) => View::Relative(relative),
            Self::Rotary {
                local: Some(local), ..
            } if !layer.is_multiple_of(local.every) => View::Rotary {
                turns: &local.turns,
                reach: Some(local.reach),
            },
            Self::Rotary { turns, .. } => View::Rotary { turns, reach: None },
            Self::Disentangled(layers) => View::Disentangled(&layers[layer]),
        }
    }

    /// The longest text that it takes, if it has a limit.
    pub(in super::super) fn longest(&self) -> Option<usize> {
        match self {
            Self::Rotary { turns, local } => {
                let local = local.as_ref().map(|local| local.turns.longest());
                Some(turns.longest().min(local.unwrap_or(usize::MAX)))
            }
            _ => None,
        }
    }

    pub(in super::super) fn assert_fits(&self, heads: Heads, layers: usize) {
        match self {
            Self::Plain => {}
            Self::Relative(relative) => {
                assert_eq!(relative.heads, heads.count, "heads of the biases");
            }
            Self::Rotary { turns, local } => {
                assert_eq!(2 * turns.half, heads.width, "numbers that are turned");
                if let Some(local) = local {
                    let width = 2 * local.turns.half;
                    assert_eq!(width, heads.width, "numbers that are turned in a window");
                    assert!(local.every > 0, "every is 0");
                }
            }
            Self::Disentangled(of_layers) => {
                assert_eq!(of_layers.len(), layers, "layers with embedded distances");
                for one in of_layers {
                    let sizes = (one.heads.count, one.heads.width);
                    assert_eq!(sizes, (heads.count, heads.width), "heads of the distances");
                }
            }
        }
    }
}

/// A bias for each head and distance.
#[derive(Debug)]
pub struct Relative {
    heads: usize,
    /// Distances beyond it have its bias.
    reach: usize,
    /// `[heads][2 * reach + 1]`, from the furthest token before to the furthest after.
    biases: Vec<f32>,
}

impl Relative {
    /// Biases from a table `[buckets, heads]`. Half of the buckets are for tokens after, half for those before; of each half, one half
    /// is for single distances, the other for ranges that grow up to `max_distance`.
    ///
    /// # Panics
    /// If there are fewer than 4 buckets or they are no multiple of 4, the table isn't of that size, or `max_distance` isn't above a quarter of the buckets.
    pub fn new(table: &[f32], buckets: usize, max_distance: usize, heads: usize) -> Self {
        assert!(
            buckets >= 4 && buckets.is_multiple_of(4),
            "{buckets} buckets"
        );
        assert!(
            max_distance > buckets / 4,
            "a max_distance of {max_distance}"
        );
        assert_eq!(table.len(), buckets * heads, "biases of the table");
        let distances = 2 * max_distance + 1;
        let mut biases = Vec::with_capacity(heads * distances);
        for head in 0..heads {
            for column in 0..distances {
                let after = column > max_distance;
                let bucket = bucket_of(column.abs_diff(max_distance), buckets / 2, max_distance);
                let row = if after { bucket + buckets / 2 } else { bucket };
                biases.push(table[row * heads + head]);
            }
        }
        Self {
            heads,
            reach: max_distance,
            biases,
        }
    }

    /// `[heads][2 * reach + 1]`, from the furthest token before to the furthest after.
    pub fn biases(&self) -> &[f32] {
        &self.biases
    }

    /// The last distance with a bias of its own; further ones have its bias.
    pub fn reach(&self) -> usize {
        self.reach
    }

    /// The biases of texts of so many tokens: `[heads][tokens][tokens]`, those of the first token's row first.
    pub fn matrices(&self, tokens: usize) -> Vec<f32> {
        let mut all = vec![0.0; self.heads * tokens * tokens];
        for (row, biases) in all.chunks_exact_mut(tokens.max(1)).enumerate() {
            self.add(biases, 0.0, row / tokens, row % tokens);
        }
        all
    }

    /// Scales a row of scores, that of the token `token`, and adds its biases.
    #[inline(always)]
    pub(super) fn add(&self, row: &mut [f32], scale: f32, head: usize, token: usize) {
        let distances = 2 * self.reach + 1;
        let biases = &self.biases[head * distances..(head + 1) * distances];
        let first = token.saturating_sub(self.reach).min(row.len());
        let last = (token + self.reach + 1).min(row.len());
        let (before, rest) = row.split_at_mut(first);
        let (within, after) = rest.split_at_mut(last - first);
        let from = first + self.reach - token;
        for x in before {
            *x = x.mul_add(scale, biases[0]);
        }
        for (x, bias) in within.iter_mut().zip(&biases[from..]) {
            *x = x.mul_add(scale, *bias);
        }
        for x in after {
            *x = x.mul_add(scale, biases[distances - 1]);
        }
    }
}

/// The bucket of a distance among `buckets`: the first half are single distances, the others ranges on a scale of logarithms.
fn bucket_of(distance: usize, buckets: usize, max_distance: usize) -> usize {
    let single = buckets / 2;
    if distance < single {
        return distance;
    }
    let of = |distance: usize| libm::log(distance as f64 / single as f64);
    let share = of(distance) / of(max_distance);
    // What is a whole number but for rounding counts as one.
    let range = (share * (buckets - single) as f64 + 1e-9) as usize;
    (single + range).min(buckets - 1)
}

/// Turns for queries and keys by their places (Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021): a
/// number of the first half of a head and its fellow of the second are one point of a plane.
#[derive(Debug)]
pub struct Rotary {
    half: usize,
    /// `[tokens][half]`: each angle's cosine and sine.
    turns: Vec<(f32, f32)>,
}

impl Rotary {
    /// Turns of heads of `width` numbers, for texts of up to `max_tokens`; angles are those of the base `theta`.
    ///
    /// # Panics
    /// If `width` isn't even and above 0, or `theta` isn't a number above 0.
    pub fn new(theta: f32, width: usize, max_tokens: usize) -> Self {
        assert!(width > 0 && width.is_multiple_of(2), "heads of {width}");
        assert!(theta > 0.0 && theta.is_finite(), "a theta of {theta}");
        let half = width / 2;
        // In 32 bits where the reference implementations are: of late tokens the angles' rounding shows.
        let speeds: Vec<f32> = (0..half)
            .map(|i| {
                let power = (2 * i) as f32 / width as f32;
                1.0 / libm::pow(f64::from(theta), f64::from(power)) as f32
            })
            .collect();
        let turns = (0..max_tokens)
            .flat_map(|token| {
                speeds.iter().map(move |speed| {
                    let angle = f64::from(token as f32 * speed);
                    (libm::cos(angle) as f32, libm::sin(angle) as f32)
                })
            })
            .collect();
        Self { half, turns }
    }

    /// The longest text that there are turns for.
    pub fn longest(&self) -> usize {
        self.turns.len() / self.half
    }

    /// Numbers of a head.
    pub fn width(&self) -> usize {
        2 * self.half
    }

    /// `[tokens][width / 2]`: each angle's cosine and sine.
    pub fn pairs(&self) -> &[(f32, f32)] {
        &self.turns
    }

    /// Turns a token's numbers.
    #[inline(always)]
    pub(super) fn turn(&self, row: &mut [f32], token: usize) {
        let (first, second) = row.split_at_mut(self.half);
        let turns = &self.turns[token * self.half..(token + 1) * self.half];
        for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(turns) {
            let (x, y) = (*a, *b);
            *a = x.mul_add(*cos, -(y * sin));
            *b = y.mul_add(*cos, x * sin);
        }
    }
}

/// How distances become rows of a table of embedded distances: the nearer half of them each its own, further ones in ranges on a
/// scale of logarithms (He et al., "DeBERTa: Decoding-enhanced BERT with Disentangled Attention", 2021).
#[derive(Debug, Clone)]
pub struct Distances {
    /// Rows for each direction.
    span: usize,
    /// A distance's row, counted from the middle; longer distances have the last one's.
    steps: Vec<usize>,
}

impl Distances {
    /// With ranges where `buckets` isn't 0, up to `max_distance`; else each distance up to that has its own row.
    ///
    /// # Panics
    /// If `buckets` is 1, or odd, or `max_distance` is 0 or not above half of the buckets and 1.
    pub fn new(buckets: usize, max_distance: usize) -> Self {
        assert!(
            max_distance > buckets / 2 + 1,
            "a max_distance of {max_distance}"
        );
        assert!(buckets.is_multiple_of(2), "{buckets} buckets");
        let span = if buckets > 0 { buckets } else { max_distance };
        let steps = (0..=max_distance)
            .map(|distance| match buckets / 2 {
                0 => distance,
                near if distance <= near => distance,
                near => {
                    let of = |distance: usize| libm::log(distance as f64 / near as f64);
                    let share = of(distance) / of(max_distance - 1);
                    // What is a whole number but for rounding counts as one.
                    libm::ceil(share * (near - 1) as f64 - 1e-9) as usize + near
                }
            })
            .collect();
        Self { span, steps }
    }

    /// Rows of the table.
    pub fn rows(&self) -> usize {
        2 * self.span
    }

    /// How far from the table's middle the row of each distance is, the last one for all further ones.
    pub fn steps(&self) -> &[usize] {
        &self.steps
    }

    /// The row of the distance from the token `to` to the token `from`.
    #[inline(always)]
    pub fn row(&self, from: usize, to: usize) -> usize {
        let steps = self.steps[from.abs_diff(to).min(self.steps.len() - 1)];
        if from < to {
            self.span.saturating_sub(steps)
        } else {
            (self.span + steps).min(2 * self.span - 1)
        }
    }
}

/// A layer's embedded distances: what queries and keys are multiplied with beside each other.
#[derive(Debug)]
pub struct Disentangled {
    heads: Heads,
    pub(super) distances: Distances,
    /// `[heads][panels of rows][width]`, what queries meet.
    keys: Vec<[f32; PANEL]>,
    /// The same of what keys meet.
    queries: Vec<[f32; PANEL]>,
}

impl Disentangled {
    /// From the queries, keys and values of a layer for each row of the table of distances, side by side: `[rows, 3 * hidden]`.
    ///
    /// # Panics
    /// If these aren't so many rows, or `heads` don't divide `hidden`.
    pub fn new(distances: Distances, mixed: &[f32], hidden: usize, heads: usize) -> Self {
        assert!(
            heads > 0 && hidden > 0 && hidden.is_multiple_of(heads),
            "{heads} heads don't divide {hidden} numbers"
        );
        let rows = distances.rows();
        assert_eq!(mixed.len(), rows * 3 * hidden, "numbers of the distances");
        let width = hidden / heads;
        let packed = |from: usize| {
            let panels = rows.div_ceil(PANEL);
            let mut packed = vec![[0.0; PANEL]; heads * panels * width];
            for (row, numbers) in mixed.chunks_exact(3 * hidden).enumerate() {
                for (column, &x) in numbers[from..from + hidden].iter().enumerate() {
                    let (head, at) = (column / width, column % width);
                    packed[(head * panels + row / PANEL) * width + at][row % PANEL] = x;
                }
            }
            packed
        };
        Self {
            heads: Heads {
                count: heads,
                width,
            },
            keys: packed(hidden),
            queries: packed(0),
            distances,
        }
    }

    /// The panels of rows that texts of so many tokens need: the first, and how many.
    pub(super) fn panels(&self, tokens: usize) -> (usize, usize) {
        let last = tokens.saturating_sub(1);
        let first = self.distances.row(0, last) / PANEL;
        (first, self.distances.row(last, 0) / PANEL + 1 - first)
    }

    /// Those panels of what queries meet, one after the other.
    pub(super) fn keys(&self, head: usize, panels: (usize, usize)) -> &[[f32; PANEL]] {
        self.part(&self.keys, head, panels)
    }

    /// Those of what keys meet.
    pub(super) fn queries(&self, head: usize, panels: (usize, usize)) -> &[[f32; PANEL]] {
        self.part(&self.queries, head, panels)
    }

    fn part<'a>(
        &self,
        of: &'a [[f32; PANEL]],
        head: usize,
        (first, count): (usize, usize),
    ) -> &'a [[f32; PANEL]] {
        let from = head * self.distances.rows().div_ceil(PANEL) + first;
        &of[from * self.heads.width..(from + count) * self.heads.width]
    }
}
