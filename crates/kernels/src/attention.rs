//! Attention of one text, head by head (Vaswani et al., 2017): two products and a softmax, unmasked, since nothing is padded.

use super::levels::arch;
use super::panels::{PANEL, Panels};
use super::pointwise::{self, Finish};
use super::product::PanelProduct;
use super::threads::Sharing;
use pulp::{Simd, WithSimd};
use std::cell::RefCell;
use std::ops::Range;

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
    /// Keys of up to [`PANEL`] tokens a panel, `[panels][width]`.
    keys: Vec<[f32; PANEL]>,
    /// `[panels][tokens]`.
    values: Vec<[f32; PANEL]>,
    scores: Panels,
    row: Vec<f32>,
    attended: Panels,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Attends within each text. `qkv` holds queries, keys and values side by side, `[tokens, 3 * hidden]`; `texts` are their rows.
pub(super) fn attend(
    qkv: &Panels,
    texts: &[Range<usize>],
    heads: Heads,
    into: &mut Panels,
    sharing: Sharing,
) {
    into.resize(qkv.rows(), heads.hidden());
    let rows = qkv.rows();
    let (panels, per_piece) = heads.piece();
    sharing.each_piece(into.all_mut(), panels * rows, |piece, into| {
        SCRATCH.with_borrow_mut(|scratch| {
            let first = piece * per_piece;
            for head in first..heads.count.min(first + per_piece) {
                for text in texts {
                    scratch.attend(qkv, text.clone(), heads, head);
                    let start = (head - first) * heads.width;
                    scratch.copy_out(into, rows, text.start, start, heads.width);
                }
            }
        });
    });
}

impl Scratch {
    /// One head of one text, into `self.attended`.
    fn attend(&mut self, qkv: &Panels, text: Range<usize>, heads: Heads, head: usize) {
        let (tokens, width, hidden) = (text.len(), heads.width, heads.hidden());
        let start = head * width;
        self.query.resize(tokens, width);
        copy_columns(qkv, text.clone(), start, width, |token, at, part| {
            let panel = at / PANEL * tokens;
            self.query.all_mut()[panel + token][at % PANEL..][..part.len()].copy_from_slice(part);
        });
        let key_panels = tokens.div_ceil(PANEL);
        self.keys.clear();
        self.keys.resize(key_panels * width, [0.0; PANEL]);
        copy_columns(
            qkv,
            text.clone(),
            hidden + start,
            width,
            |token, at, part| {
                let base = token / PANEL * width + at;
                for (row, x) in self.keys[base..].iter_mut().zip(part) {
                    row[token % PANEL] = *x;
                }
            },
        );
        let value_panels = width.div_ceil(PANEL);
        self.values.clear();
        self.values.resize(value_panels * tokens, [0.0; PANEL]);
        copy_columns(qkv, text, 2 * hidden + start, width, |token, at, part| {
            let row = at / PANEL * tokens + token;
            self.values[row][at % PANEL..][..part.len()].copy_from_slice(part);
        });

        self.scores.resize(tokens, tokens);
        multiply(&self.query, &self.keys, width, &mut self.scores);
        arch().dispatch(Probabilities {
            scores: &mut self.scores,
            scale: 1.0 / (width as f32).sqrt(),
            row: &mut self.row,
        });
        self.attended.resize(tokens, width);
        multiply(&self.scores, &self.values, tokens, &mut self.attended);
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

fn multiply(x: &Panels, panels: &[[f32; PANEL]], inner: usize, into: &mut Panels) {
    let rows = into.rows();
    for (weights, into) in panels.chunks(inner).zip(into.all_mut().chunks_mut(rows)) {
        arch().dispatch(PanelProduct {
            x,
            weights,
            bias: &[0.0; PANEL],
            finish: Finish::Plain,
            into,
        });
    }
}

/// Turns rows of scores into probabilities.
struct Probabilities<'a> {
    scores: &'a mut Panels,
    scale: f32,
    row: &'a mut Vec<f32>,
}

impl WithSimd for Probabilities<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for row in 0..self.scores.rows() {
            self.scores.gather(row, self.row);
            pointwise::softmax(self.row, self.scale);
            self.scores.scatter(row, self.row);
        }
    }
}
