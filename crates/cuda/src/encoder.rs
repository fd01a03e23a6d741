//! The whole encoder: embeddings, layers, and one vector a text.

mod places;

use std::sync::{Arc, PoisonError};

use cudarc::driver::CudaFunction;
use kiln_kernels::{Pooling, Tables, Texts};

use super::device::{Device, MAX_HEAD, View};
use super::error::Error;
use super::launch::{Beside, EmbeddingTables, Heading, Heads, Tokens};
use super::linear::{Linear, MAX_WIDTH, Norm};
use super::matrix::Matrix;
use super::pass::{Workspace, passes, tokens};
use super::stack::{MAX_NUMBERS, through};
pub use places::{Attention, Local};
use places::{Places, columns, longest};

/// Tokens of one pass, where they aren't wide: it bounds the memory.
const MAX_TOKENS: usize = 65_536;

/// One transformer layer; as [`kiln_kernels::Layer`].
pub struct Layer {
    /// Queries, keys and values side by side: `hidden` to `3 * hidden`.
    pub query_key_value: Linear,
    /// What the heads' results go through: `hidden` to `hidden`.
    pub attended: Linear,
    /// The norm after attention.
    pub attended_norm: Norm,
    /// The first layer of the feed-forward part, with its activation.
    pub up: Linear,
    /// What its activated result is multiplied with, in models that have such a gate.
    pub gate: Option<Linear>,
    /// Its second layer: that width to `hidden`.
    pub down: Linear,
    /// The norm after the feed-forward part.
    pub norm: Norm,
}

/// A transformer encoder with its weights on a device.
pub struct Encoder {
    device: Arc<Device>,
    hidden: usize,
    heads: usize,
    position_offset: usize,
    /// Rows of the tables: words, positions, types.
    rows: [Option<usize>; 3],
    tables: EmbeddingTables,
    layers: Vec<Layer>,
    places: Places,
    /// The longest text by what attention knows of places.
    longest: usize,
    keeps_sums: bool,
    /// Attention that sees whole texts, and that of a window.
    whole: CudaFunction,
    window: Option<CudaFunction>,
    after: Vec<Linear>,
}

impl Encoder {
    /// Puts an encoder together from tables and layers that work on rows of `hidden` numbers; `position_offset` as in [`kiln_kernels::Encoder::new`].
    ///
    /// # Errors
    /// If the device has no room, or the sizes are beyond what the kernels are made for.
    ///
    /// # Panics
    /// If `heads` don't divide `hidden`, or the tables, the layers or the attention are of other sizes.
    pub fn new(
        device: &Arc<Device>,
        (hidden, heads): (usize, usize),
        position_offset: usize,
        tables: &Tables,
        layers: Vec<Layer>,
        attention: Attention<'_>,
    ) -> Result<Self, Error> {
        assert!(
            heads > 0 && hidden > 0 && hidden.is_multiple_of(heads),
            "{heads} heads don't divide {hidden} numbers"
        );
        assert_widths(hidden, tables, &layers);
        let positions = tables.positions.as_ref();
        assert!(
            positions.is_none_or(|table| position_offset <= table.len() / hidden),
            "position_offset lies outside the position table"
        );
        layers.iter().for_each(|layer| layer.up.assert_on(device));
        let width = hidden / heads;
        if width > MAX_HEAD || hidden > MAX_WIDTH {
            return Err(Error::Beyond(format!(
                "{hidden} numbers in heads of {width} are more than the kernels take: {MAX_WIDTH} and {MAX_HEAD}"
            )));
        }
        let stream = &device.stream;
        let copied = |table: &Vec<f32>| stream.clone_htod(table);
        let of_tables = EmbeddingTables {
            words: copied(&tables.words)?,
            positions: tables.positions.as_ref().map(copied).transpose()?,
            types: tables.types.as_ref().map(copied).transpose()?,
            norm: Norm::new(device, &tables.norm)?,
        };
        let count = |table: &Vec<f32>| table.len() / hidden;
        let (view, window) = match &attention {
            Attention::Plain => (View::Whole, false),
            Attention::Relative(_) => (View::Biased, false),
            Attention::Rotary { local, .. } => (View::Whole, local.is_some()),
            Attention::Disentangled { .. } => (View::Placed, false),
        };
        Ok(Self {
            hidden,
            heads,
            position_offset,
            rows: [
                Some(count(&tables.words)),
                tables.positions.as_ref().map(count),
                tables.types.as_ref().map(count),
            ],
            tables: of_tables,
            places: Places::of(device, (hidden, heads), &layers, attention)?,
            layers,
            longest: longest(attention),
            keeps_sums: false,
            whole: device.attention(width, view)?,
            window: window
                .then(|| device.attention(width, View::Window))
                .transpose()?,
            after: Vec::new(),
            device: Arc::clone(device),
        })
    }

    /// With its sums kept beside the norms; see [`kiln_kernels::Encoder::with_sums_kept`].
    pub fn with_sums_kept(mut self) -> Self {
        self.keeps_sums = true;
        self
    }

    /// With layers that every text's vector goes through after the pooling.
    ///
    /// # Panics
    /// If a layer's inputs aren't the outputs of the one before.
    pub fn with_layers_after(mut self, layers: Vec<Linear>) -> Self {
        let mut before = self.hidden;
        for layer in &layers {
            assert_eq!(layer.inputs(), before, "inputs of a layer");
            before = layer.outputs();
        }
        self.after = layers;
        self
    }

    /// One vector a text, one after the other. A text's vector is the same bits whatever other texts are there.
    ///
    /// # Errors
    /// If the device fails, or has no room.
    ///
    /// # Panics
    /// If the lengths don't add up to the tokens or one is 0, or a token, a type or a text's length lies outside the tables.
    pub fn encode(&self, texts: Texts<'_>, pooling: Pooling) -> Result<Vec<f32>, Error> {
        self.assert_fits(texts);
        let longest = texts.lengths.iter().copied().max().unwrap_or(0);
        let mut space = self
            .device
            .space
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut vectors = Vec::new();
        for (tokens, rows) in passes(texts.lengths, self.max_tokens(longest)) {
            let part = Texts {
                ids: texts.ids.get(tokens.clone()).unwrap_or_default(),
                types: texts.types.get(tokens).unwrap_or_default(),
                lengths: texts.lengths.get(rows).unwrap_or_default(),
            };
            let pass = self.pass(&mut space, part, pooling);
            vectors.extend(pass.inspect_err(|_| self.device.examine())?);
        }
        Ok(vectors)
    }

    /// By the widest of what a pass holds.
    fn max_tokens(&self, longest: usize) -> usize {
        let between = self.layers.iter().map(|layer| layer.up.outputs()).max();
        let places = match &self.places {
            Places::Distances { distances, .. } => self.heads * columns(distances, longest).len(),
            _ => 0,
        };
        let widest = between.unwrap_or(0).max(3 * self.hidden).max(places);
        (MAX_NUMBERS / widest).clamp(1, MAX_TOKENS)
    }

    fn pass(
        &self,
        space: &mut Workspace,
        texts: Texts<'_>,
        pooling: Pooling,
    ) -> Result<Vec<f32>, Error> {
        let device = &self.device;
        let tokens = tokens(&device.stream, texts, self.position_offset)?;
        let longest = texts.lengths.iter().copied().max().unwrap_or(0);
        device.embed(&tokens, &self.tables, &mut space.x)?;
        if self.keeps_sums {
            space.sums.copy(&device.stream, &space.x)?;
        }
        for (number, layer) in self.layers.iter().enumerate() {
            device.product(&space.x, &layer.query_key_value, None, &mut space.wide)?;
            self.attend(space, &tokens, number, longest)?;
            device.product(&space.attended, &layer.attended, None, &mut space.added)?;
            self.add_norm(space, &layer.attended_norm)?;
            if let Some(gate) = &layer.gate {
                device.product(&space.x, gate, None, &mut space.gate)?;
            }
            let gate = layer.gate.as_ref().map(|_| &space.gate);
            device.product(&space.x, &layer.up, gate, &mut space.wide)?;
            device.product(&space.wide, &layer.down, None, &mut space.added)?;
            self.add_norm(space, &layer.norm)?;
        }
        let skipped = match pooling {
            Pooling::First => None,
            Pooling::Mean => Some(0),
            Pooling::MeanAfter(skipped) => Some(skipped),
        };
        device.pool(&space.x, &tokens, skipped, &mut space.pooled)?;
        through(
            device,
            &space.pooled,
            &self.after,
            [&mut space.wide, &mut space.added],
        )
    }

    fn add_norm(&self, space: &mut Workspace, norm: &Norm) -> Result<(), Error> {
        let sums = self.keeps_sums.then_some(&mut space.sums);
        self.device.add_norm(&mut space.x, &space.added, sums, norm)
    }

    fn attend(
        &self,
        space: &mut Workspace,
        tokens: &Tokens,
        layer: usize,
        longest: usize,
    ) -> Result<(), Error> {
        let device = &self.device;
        let width = self.hidden / self.heads;
        let mut heads = Heads {
            hidden: self.hidden as i32,
            width: width as i32,
            scale: 1.0 / (width as f32).sqrt(),
            ..Heads::default()
        };
        let mut beside = Beside::default();
        let mut kernel = &self.whole;
        match &self.places {
            Places::None => {}
            Places::Biases { biases, reach } => {
                heads.reach = *reach as i32;
                beside.biases = Some(biases);
            }
            Places::Turns { turns, local } => {
                let mut of_layer = turns;
                let local = local.as_ref().zip(self.window.as_ref());
                if let Some(((turns, reach, every), window)) = local
                    && !layer.is_multiple_of(*every)
                {
                    (of_layer, kernel) = (turns, window);
                    // Of a distance beyond all texts the sum with a place would leave its range.
                    heads.reach = (*reach).min(longest) as i32;
                }
                device.turn(&mut space.wide, tokens, (self.hidden, width), of_layer)?;
            }
            Places::Distances {
                distances,
                steps,
                mixed,
            } => {
                if let Some(mixed) = mixed.get(layer) {
                    let rows = columns(distances, longest);
                    self.places(space, mixed, &rows)?;
                    heads.columns = rows.len() as i32;
                    heads.first = rows.start as i32;
                    heads.span = (distances.rows() / 2) as i32;
                    heads.last_step = steps.len() as i32 - 1;
                    // Three products stand for one.
                    heads.scale = 1.0 / (3.0 * width as f32).sqrt();
                }
                beside.places = Some((&space.query_places, &space.key_places, steps));
            }
        }
        device.attend(
            kernel,
            &space.wide,
            tokens,
            (heads, beside),
            &mut space.attended,
        )
    }

    /// Products of queries, and of keys, with those rows of embedded distances.
    fn places(
        &self,
        space: &mut Workspace,
        mixed: &Matrix,
        rows: &std::ops::Range<usize>,
    ) -> Result<(), Error> {
        let mut of = Heading {
            heads: self.heads,
            width: self.hidden / self.heads,
            from: 0,
            from_rows: self.hidden,
            first: rows.start,
            columns: rows.len(),
        };
        self.device
            .places(&space.wide, mixed, &of, &mut space.query_places)?;
        (of.from, of.from_rows) = (self.hidden, 0);
        self.device
            .places(&space.wide, mixed, &of, &mut space.key_places)
    }

    fn assert_fits(&self, texts: Texts<'_>) {
        let [words, positions, types] = self.rows;
        assert_eq!(
            texts.lengths.iter().sum::<usize>(),
            texts.ids.len(),
            "tokens, which the lengths add up to"
        );
        assert!(!texts.lengths.contains(&0), "a text has no tokens");
        let longest = texts.lengths.iter().copied().max().unwrap_or(0);
        let positions = positions.map_or(usize::MAX, |rows| rows - self.position_offset);
        let positions = positions.min(self.longest);
        assert!(
            longest <= positions,
            "a text has {longest} tokens, there are {positions} positions"
        );
        let lie_within =
            |numbers: &[u32], rows: usize| numbers.iter().all(|&i| (i as usize) < rows);
        assert!(
            words.is_some_and(|rows| lie_within(texts.ids, rows)),
            "a token lies outside the vocabulary"
        );
        if let Some(rows) = types {
            assert_eq!(texts.types.len(), texts.ids.len(), "types, one a token");
            assert!(
                lie_within(texts.types, rows),
                "a type lies outside its table"
            );
        }
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        self.device.enter();
    }
}

fn assert_widths(hidden: usize, tables: &Tables, layers: &[Layer]) {
    let is_whole = |table: &Vec<f32>| table.len().is_multiple_of(hidden);
    assert!(is_whole(&tables.words), "words of rows of {hidden}");
    assert!(
        tables.positions.as_ref().is_none_or(is_whole),
        "positions of rows of {hidden}"
    );
    assert!(
        tables.types.as_ref().is_none_or(is_whole),
        "types of rows of {hidden}"
    );
    assert_eq!(
        tables.norm.weight.len(),
        hidden,
        "numbers of the tables' norm"
    );
    for layer in layers {
        let size = |linear: &Linear| (linear.inputs(), linear.outputs());
        let between = layer.up.outputs();
        assert_eq!(
            size(&layer.query_key_value),
            (hidden, 3 * hidden),
            "query_key_value"
        );
        assert_eq!(size(&layer.attended), (hidden, hidden), "attended");
        assert_eq!(layer.up.inputs(), hidden, "up");
        assert!(
            layer
                .gate
                .as_ref()
                .is_none_or(|gate| size(gate) == size(&layer.up)),
            "gate"
        );
        assert_eq!(size(&layer.down), (between, hidden), "down");
        let norms = [layer.attended_norm.width(), layer.norm.width()];
        assert_eq!(norms, [hidden; 2], "norms");
    }
}
