//! The mean of a table's rows.
//!
//! A bag's rows are added in the order in which they are named, number by number, and the sums are divided by how many there are:
//! plain additions, so that a mean is the same bits with any vector instructions. The table stays as it was handed over.

use super::levels::arch;
use pulp::{Simd, WithSimd};

/// Vectors of a bag that are summed at a time: their additions don't wait for each other.
const BLOCK: usize = 4;

/// A table of embeddings, of which bags of rows are averaged.
#[derive(Debug)]
pub struct EmbeddingBag {
    width: usize,
    /// `[rows, width]`.
    table: Vec<f32>,
}

impl EmbeddingBag {
    /// A table of rows of `width` numbers, one after the other. It is kept, not copied.
    ///
    /// # Panics
    /// If `width` is 0, or the table isn't whole rows.
    pub fn new(table: Vec<f32>, width: usize) -> Self {
        assert!(width > 0, "embeddings without numbers");
        assert!(
            table.len().is_multiple_of(width),
            "{} numbers are no rows of {width}",
            table.len()
        );
        Self { width, table }
    }

    /// How many numbers a row has.
    pub fn width(&self) -> usize {
        self.width
    }

    /// How many rows the table has.
    pub fn rows(&self) -> usize {
        self.table.len() / self.width
    }

    /// The mean of these rows, each as often as it is named, over what `into` holds; zeros if there are none. Runs on this thread.
    ///
    /// # Panics
    /// If `into` is not one row, or a row lies outside the table.
    pub fn mean(&self, rows: &[u32], into: &mut [f32]) {
        assert_eq!(into.len(), self.width, "numbers of the mean");
        let count = self.rows();
        assert!(
            rows.iter().all(|&row| (row as usize) < count),
            "a row lies outside the table of {count}"
        );
        if rows.is_empty() {
            into.fill(0.0);
            return;
        }
        arch().dispatch(Mean {
            table: &self.table,
            rows,
            into,
        });
    }
}

/// The mean of some rows, of which there are any.
pub(super) struct Mean<'a> {
    pub table: &'a [f32],
    pub rows: &'a [u32],
    /// As wide as a row.
    pub into: &'a mut [f32],
}

impl WithSimd for Mean<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut columns = Columns {
            table: self.table,
            rows: self.rows,
            width: self.into.len(),
            first: 0,
        };
        let (vectors, rest) = S::as_mut_simd_f32s(self.into);
        for into in vectors.chunks_mut(BLOCK) {
            match into.len() {
                1 => columns.mean::<S, 1>(simd, into),
                2 => columns.mean::<S, 2>(simd, into),
                3 => columns.mean::<S, 3>(simd, into),
                _ => columns.mean::<S, BLOCK>(simd, into),
            }
            columns.first += into.len() * S::F32_LANES;
        }
        if !rest.is_empty() {
            columns.mean_of_rest(simd, rest);
        }
    }
}

/// Some columns of the rows.
#[derive(Clone, Copy)]
struct Columns<'a> {
    table: &'a [f32],
    rows: &'a [u32],
    width: usize,
    /// The first of the columns.
    first: usize,
}

impl Columns<'_> {
    /// The mean of as many vectors of columns.
    #[inline(always)]
    fn mean<S: Simd, const VECTORS: usize>(self, simd: S, into: &mut [S::f32s]) {
        let mut sums = [simd.splat_f32s(0.0); VECTORS];
        for &row in self.rows {
            let start = row as usize * self.width + self.first;
            let numbers = &self.table[start..start + VECTORS * S::F32_LANES];
            let (vectors, _) = S::as_simd_f32s(numbers);
            for (sum, x) in sums.iter_mut().zip(vectors) {
                *sum = simd.add_f32s(*sum, *x);
            }
        }
        let count = simd.splat_f32s(self.rows.len() as f32);
        for (into, sum) in into.iter_mut().zip(sums) {
            *into = simd.div_f32s(sum, count);
        }
    }

    /// The mean of the last columns, which don't fill a vector.
    #[inline(always)]
    fn mean_of_rest<S: Simd>(self, simd: S, into: &mut [f32]) {
        let mut sum = simd.splat_f32s(0.0);
        for &row in self.rows {
            let start = row as usize * self.width + self.first;
            let numbers = &self.table[start..start + into.len()];
            sum = simd.add_f32s(sum, simd.partial_load_f32s(numbers));
        }
        let count = simd.splat_f32s(self.rows.len() as f32);
        simd.partial_store_f32s(into, simd.div_f32s(sum, count));
    }
}
