//! Attention of one text, head by head (Vaswani et al., 2017): two products and a softmax, unmasked, since nothing is padded.
//!
//! Queries go some at a time, which bounds the scores, and lets a window skip the keys that none of them sees.

mod positions;

pub use positions::{Attention, Disentangled, Distances, Local, Relative, Rotary};

use super::levels::arch;
use super::panels::{PANEL, Panels};
use super::pointwise::{self, Finish};
use super::product::PanelProduct;
use super::threads::Sharing;
pub(super) use positions::View;
use pulp::{Simd, WithSimd};
use std::cell::RefCell;
use std::ops::Range;

/// Queries at a time, and where they see a window: whole blocks of a product.
const QUERIES: usize = 192;
const WINDOW_QUERIES: usize = 96;

/// The sizes of a layer's heads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub count: usize,
    /// Columns of one head.
    pub width: usize,
}

impl Heads {
    fn hidden(self) -> usize {
        self.count * self.width
    }

    /// Panels of the result that whole heads fill, and the heads that fill them.
    fn piece(self) -> (usize, usize) {
        if self.width.is_multiple_of(PANEL) {
            (self.width / PANEL, 1)
        } else if PANEL.is_multiple_of(self.width) {
            (1, PANEL / self.width)
        } else {
            (self.hidden().div_ceil(PANEL), self.count)
        }
    }
}

/// What one head of one text needs on the way; each thread keeps its own.
#[derive(Default)]
struct Scratch {
    query: Panels,
    /// Keys as rows, where something happens to them.
    key: Panels,
    /// Keys of up to [`PANEL`] tokens a panel, `[panels][width]`.
    keys: Vec<[f32; PANEL]>,
    /// `[panels][tokens]`.
    values: Vec<[f32; PANEL]>,
    scores: Panels,
    row: Vec<f32>,
    attended: Panels,
    /// Products of queries, and of all keys, with embedded distances.
    query_places: Panels,
    key_places: Panels,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A head of a layer's attention.
#[derive(Clone, Copy)]
struct Head<'a> {
    heads: Heads,
    number: usize,
    view: View<'a>,
}

/// Attends within each text. `qkv` holds queries, keys and values side by side, `[tokens, 3 * hidden]`; `texts` are their rows.
pub(super) fn attend(
    qkv: &Panels,
    texts: &[Range<usize>],
    heads: Heads,
    view: View<'_>,
    into: &mut Panels,
    sharing: Sharing,
) {
    into.resize(qkv.rows(), heads.hidden());
    let rows = qkv.rows();
    let (panels, per_piece) = heads.piece();
    sharing.each_piece(into.all_mut(), panels * rows, |piece, into| {
        SCRATCH.with_borrow_mut(|scratch| {
            let first = piece * per_piece;
            for number in first..heads.count.min(first + per_piece) {
                let head = Head {
                    heads,
                    number,
                    view,
                };
                let start = (number - first) * heads.width;
                for text in texts {
                    scratch.load(qkv, text.clone(), head);
                    for queries in head.pieces(text.len()) {
                        scratch.attend(qkv, text.start, text.len(), queries.clone(), head);
                        let row = text.start + queries.start;
                        scratch.copy_out(into, rows, row, start, heads.width);
                    }
                }
            }
        });
    });
}

impl Head<'_> {
    /// The first column of its queries; of its keys and values `hidden` and twice that later.
    fn start(self) -> usize {
        self.number * self.heads.width
    }

    fn reach(self) -> Option<usize> {
        match self.view {
            View::Rotary { reach, .. } => reach,
            _ => None,
        }
    }

    /// The queries of a text, some at a time.
    fn pieces(self, tokens: usize) -> impl Iterator<Item = Range<usize>> {
        let step = self.reach().map_or(QUERIES, |_| WINDOW_QUERIES);
        (0..tokens)
            .step_by(step)
            .map(move |first| first..(first + step).min(tokens))
    }

    /// The keys that some of these queries see, from the beginning of a panel on.
    fn seen(self, queries: &Range<usize>, tokens: usize) -> Range<usize> {
        match self.reach() {
            None => 0..tokens,
            Some(reach) => {
                let first = queries.start.saturating_sub(reach) / PANEL * PANEL;
                first..queries.end.saturating_add(reach).min(tokens)
            }
        }
    }
}

impl Scratch {
    /// A head's keys and values of a text.
    fn load(&mut self, qkv: &Panels, text: Range<usize>, head: Head<'_>) {
        let (tokens, width, hidden) = (text.len(), head.heads.width, head.heads.hidden());
        let start = head.start();
        let key_panels = tokens.div_ceil(PANEL);
        self.keys.clear();
        self.keys.resize(key_panels * width, [0.0; PANEL]);
        let keys = &mut self.keys;
        let put = |token: usize, at: usize, part: &[f32]| {
            let base = token / PANEL * width + at;
            for (row, x) in keys[base..].iter_mut().zip(part) {
                row[token % PANEL] = *x;
            }
        };
        if matches!(head.view, View::Rotary { .. } | View::Disentangled(_)) {
            copy_rows(qkv, text.clone(), hidden + start, width, &mut self.key);
            head.turn(&mut self.key, 0, &mut self.row);
            copy_columns(&self.key, 0..tokens, 0, width, put);
        } else {
            copy_columns(qkv, text.clone(), hidden + start, width, put);
        }
        if let View::Disentangled(of_layer) = head.view {
            let panels = of_layer.panels(tokens);
            self.key_places.resize(tokens, panels.1 * PANEL);
            let queries = of_layer.queries(head.number, panels).chunks(width);
            multiply(&self.key, queries, &mut self.key_places);
        }
        let value_panels = width.div_ceil(PANEL);
        self.values.clear();
        self.values.resize(value_panels * tokens, [0.0; PANEL]);
        copy_columns(qkv, text, 2 * hidden + start, width, |token, at, part| {
            let row = at / PANEL * tokens + token;
            self.values[row][at % PANEL..][..part.len()].copy_from_slice(part);
        });
    }

    /// Some queries of a head of the text that was loaded, whose rows begin at `first`: into `self.attended`.
    fn attend(
        &mut self,
        qkv: &Panels,
        first: usize,
        tokens: usize,
        queries: Range<usize>,
        head: Head<'_>,
    ) {
        let width = head.heads.width;
        let rows = first + queries.start..first + queries.end;
        copy_rows(qkv, rows, head.start(), width, &mut self.query);
        head.turn(&mut self.query, queries.start, &mut self.row);
        if let View::Disentangled(of_layer) = head.view {
            let panels = of_layer.panels(tokens);
            self.query_places.resize(queries.len(), panels.1 * PANEL);
            let keys = of_layer.keys(head.number, panels).chunks(width);
            multiply(&self.query, keys, &mut self.query_places);
        }
        let seen = head.seen(&queries, tokens);
        self.scores.resize(queries.len(), seen.len());
        let keys = self.keys.chunks(width).skip(seen.start / PANEL);
        multiply(&self.query, keys, &mut self.scores);
        arch().dispatch(Probabilities {
            scores: &mut self.scores,
            places: [&self.query_places, &self.key_places],
            row: &mut self.row,
            head,
            tokens,
            first: queries.start,
            seen: seen.clone(),
        });
        self.attended.resize(queries.len(), width);
        let values = self.values.chunks(tokens).map(|panel| &panel[seen.clone()]);
        multiply(&self.scores, values, &mut self.attended);
    }

    /// Copies `self.attended` into a piece of the result, of `rows` rows a panel, from `first` and column `start` on.
    fn copy_out(
        &self,
        into: &mut [[f32; PANEL]],
        rows: usize,
        first: usize,
        start: usize,
        width: usize,
    ) {
        for at in (0..width).step_by(PANEL) {
            let part = PANEL.min(width - at);
            let column = start + at;
            let target = &mut into[column / PANEL * rows + first..];
            // A head that isn't whole panels may lie across two of them.
            let fitting = part.min(PANEL - column % PANEL);
            for (into, from) in target.iter_mut().zip(self.attended.panel(at / PANEL)) {
                into[column % PANEL..][..fitting].copy_from_slice(&from[..fitting]);
            }
            if fitting < part {
                let target = &mut into[(column / PANEL + 1) * rows + first..];
                for (into, from) in target.iter_mut().zip(self.attended.panel(at / PANEL)) {
                    into[..part - fitting].copy_from_slice(&from[fitting..part]);
                }
            }
        }
    }
}

/// Calls `put(row, column, numbers)` for stretches of the columns `start..start + width`, rows counted from the first of
/// `rows` and columns from `start`. A stretch ends where a panel does, in `x` or in a matrix that begins with these columns.
fn copy_columns(
    x: &Panels,
    rows: Range<usize>,
    start: usize,
    width: usize,
    mut put: impl FnMut(usize, usize, &[f32]),
) {
    let mut at = 0;
    while at < width {
        let column = start + at;
        let part = (width - at)
            .min(PANEL - column % PANEL)
            .min(PANEL - at % PANEL);
        for (token, row) in x.panel(column / PANEL)[rows.clone()].iter().enumerate() {
            put(token, at, &row[column % PANEL..][..part]);
        }
        at += part;
    }
}

/// Makes `into` the matrix of these columns of some rows.
fn copy_rows(x: &Panels, rows: Range<usize>, start: usize, width: usize, into: &mut Panels) {
    let count = rows.len();
    into.resize(count, width);
    let into = into.all_mut();
    copy_columns(x, rows, start, width, |row, at, part| {
        into[at / PANEL * count + row][at % PANEL..][..part.len()].copy_from_slice(part);
    });
}

/// Multiplies with panels of columns, one a panel of `into`.
fn multiply<'a>(x: &Panels, panels: impl Iterator<Item = &'a [[f32; PANEL]]>, into: &mut Panels) {
    let rows = into.rows();
    for (weights, into) in panels.zip(into.all_mut().chunks_mut(rows)) {
        arch().dispatch(PanelProduct {
            x,
            weights,
            bias: &[0.0; PANEL],
            finish: Finish::Plain,
            into,
        });
    }
}

impl Head<'_> {
    /// Turns queries or keys, whose first is the token `first`, if they are to be turned.
    fn turn(self, x: &mut Panels, first: usize, row: &mut Vec<f32>) {
        if let View::Rotary { turns, .. } = self.view {
            arch().dispatch(Turning {
                x,
                first,
                row,
                turns,
            });
        }
    }
}

/// Turns rows by their places.
struct Turning<'a> {
    x: &'a mut Panels,
    first: usize,
    row: &'a mut Vec<f32>,
    turns: &'a Rotary,
}

impl WithSimd for Turning<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for row in 0..self.x.rows() {
            self.x.gather(row, self.row);
            self.turns.turn(self.row, self.first + row);
            self.x.scatter(row, self.row);
        }
    }
}

/// Turns rows of scores into probabilities.
struct Probabilities<'a> {
    scores: &'a mut Panels,
    /// Of queries and of keys.
    places: [&'a Panels; 2],
    row: &'a mut Vec<f32>,
    head: Head<'a>,
    tokens: usize,
    /// The first query.
    first: usize,
    /// The keys that there are scores for.
    seen: Range<usize>,
}

impl WithSimd for Probabilities<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Head {
            heads,
            number,
            view,
        } = self.head;
        let width = heads.width as f32;
        let scale = 1.0 / width.sqrt();
        for row in 0..self.scores.rows() {
            self.scores.gather(row, self.row);
            let token = self.first + row;
            match view {
                View::Plain | View::Rotary { reach: None, .. } => {
                    pointwise::softmax(self.row, scale);
                }
                View::Relative(relative) => {
                    relative.add(self.row, scale, number, token);
                    pointwise::softmax(self.row, 1.0);
                }
                View::Rotary {
                    reach: Some(reach), ..
                } => {
                    let from = token.saturating_sub(reach).max(self.seen.start) - self.seen.start;
                    let to = token.saturating_add(reach + 1).min(self.seen.end) - self.seen.start;
                    self.row[..from].fill(0.0);
                    self.row[to..].fill(0.0);
                    pointwise::softmax(&mut self.row[from..to], scale);
                }
                View::Disentangled(of_layer) => {
                    let (first, _) = of_layer.panels(self.tokens);
                    let [queries, keys] = self.places;
                    for (other, x) in self.row.iter_mut().enumerate() {
                        let at = of_layer.distances.row(token, other);
                        let (panel, column) = (at / PANEL - first, at % PANEL);
                        *x += queries.panel(panel)[row][column] + keys.panel(panel)[other][column];
                    }
                    // Three products stand for one.
                    pointwise::softmax(self.row, 1.0 / (3.0 * width).sqrt());
                }
            }
            self.scores.scatter(row, self.row);
        }
    }
}
