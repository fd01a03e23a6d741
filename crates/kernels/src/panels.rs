//! The layout that kernels work on: matrices in panels of columns.

use super::threads::Sharing;

/// Columns of a panel.
pub(super) const PANEL: usize = 32;

/// A matrix `[rows, columns]` in column panels: `[panels][rows][PANEL]`, the last panel filled up with zeros.
#[derive(Debug, Default, Clone)]
pub(super) struct Panels {
    rows: usize,
    columns: usize,
    numbers: Vec<f32>,
}

impl Panels {
    /// Makes it a matrix of that size. Its numbers are left over from earlier uses: the caller writes all of them.
    pub fn resize(&mut self, rows: usize, columns: usize) {
        self.rows = rows;
        self.columns = columns;
        let length = columns.div_ceil(PANEL) * rows * PANEL;
        if self.numbers.len() < length {
            self.numbers.resize(length, 0.0);
        }
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many panels there are.
    pub fn panels(&self) -> usize {
        self.columns.div_ceil(PANEL)
    }

    /// One panel's rows.
    pub fn panel(&self, panel: usize) -> &[[f32; PANEL]] {
        let size = self.rows * PANEL;
        self.numbers[panel * size..(panel + 1) * size].as_chunks().0
    }

    /// A row's numbers in one panel, and zeros beyond the last column.
    #[inline(always)]
    pub fn numbers(&self, panel: usize, row: usize) -> [f32; PANEL] {
        let mut numbers = self.panel(panel)[row];
        let width = self.columns - panel * PANEL;
        if width < PANEL {
            numbers[width..].fill(0.0);
        }
        numbers
    }

    /// All panels, one after the other: `rows` rows each.
    pub fn all_mut(&mut self) -> &mut [[f32; PANEL]] {
        let length = self.panels() * self.rows;
        &mut self.numbers.as_chunks_mut().0[..length]
    }

    /// Makes it the same matrix as another.
    pub fn copy(&mut self, other: &Panels) {
        self.resize(other.rows, other.columns);
        for (panel, into) in self.all_mut().chunks_mut(other.rows.max(1)).enumerate() {
            into.copy_from_slice(other.panel(panel));
        }
    }

    /// Multiplies its numbers with those of another matrix of its size.
    pub fn times(&mut self, other: &Panels, sharing: Sharing) {
        let rows = self.rows;
        sharing.each_piece(self.all_mut(), rows, |panel, into| {
            let factors = other.panel(panel).as_flattened();
            for (x, factor) in into.as_flattened_mut().iter_mut().zip(factors) {
                *x *= factor;
            }
        });
    }

    /// A row, gathered from its panels.
    pub fn gather(&self, row: usize, into: &mut Vec<f32>) {
        into.clear();
        for panel in 0..self.panels() {
            into.extend_from_slice(&self.panel(panel)[row]);
        }
        into.truncate(self.columns);
    }

    /// Makes it the matrix of these rows of `columns` numbers.
    pub fn fill(&mut self, rows: &[f32], columns: usize) {
        self.resize(rows.len() / columns, columns);
        for (row, numbers) in rows.chunks_exact(columns).enumerate() {
            self.scatter(row, numbers);
        }
    }

    /// Appends its rows to `into`, one after the other.
    pub fn spill(&self, into: &mut Vec<f32>) {
        for row in 0..self.rows {
            let mut rest = self.columns;
            for panel in 0..self.panels() {
                let width = rest.min(PANEL);
                into.extend_from_slice(&self.panel(panel)[row][..width]);
                rest -= width;
            }
        }
    }

    /// Writes a row, whose numbers are as many as there are columns.
    pub fn scatter(&mut self, row: usize, numbers: &[f32]) {
        let rows = self.rows;
        let all = self.all_mut();
        for (panel, part) in numbers.chunks(PANEL).enumerate() {
            all[panel * rows + row][..part.len()].copy_from_slice(part);
        }
    }
}
