//! The buffers of a pass, and the norms between its products.

use super::super::levels::arch;
use super::super::panels::Panels;
use super::super::pointwise;
use super::super::quantised::ByteRows;
use super::super::weights::Norm;
use pulp::{Simd, WithSimd};

/// Buffers that go from one pass to the next: clearing fresh pages costs a tenth of a pass.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    pub x: Panels,
    /// Where sums go on beside the norms.
    pub sum: Panels,
    pub wide: Panels,
    pub gate: Panels,
    pub attended: Panels,
    pub added: Panels,
    pub bytes: ByteRows,
    pub row: Vec<f32>,
    pub more: Vec<f32>,
}

impl Workspace {
    /// Sends `row` through a norm.
    pub fn norm_row(&mut self, norm: &Norm) {
        arch().dispatch(NormRow {
            row: &mut self.row,
            norm,
        });
    }

    /// `x = norm(x + added)`; or where sums are kept, `sum += added` and `x = norm(sum)`.
    pub fn add_and_norm(&mut self, norm: &Norm, keeps_sums: bool) {
        arch().dispatch(AddAndNorm {
            space: self,
            norm,
            keeps_sums,
        });
    }
}

struct AddAndNorm<'a> {
    space: &'a mut Workspace,
    norm: &'a Norm,
    keeps_sums: bool,
}

impl WithSimd for AddAndNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Workspace {
            x,
            sum,
            added,
            row,
            more,
            ..
        } = self.space;
        for token in 0..x.rows() {
            let before = if self.keeps_sums { &*sum } else { &*x };
            before.gather(token, row);
            added.gather(token, more);
            for (x, added) in row.iter_mut().zip(more.iter()) {
                *x += added;
            }
            if self.keeps_sums {
                sum.scatter(token, row);
            }
            pointwise::layer_norm(row, &self.norm.weight, &self.norm.bias, self.norm.eps);
            x.scatter(token, row);
        }
    }
}

struct NormRow<'a> {
    row: &'a mut [f32],
    norm: &'a Norm,
}

impl WithSimd for NormRow<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        pointwise::layer_norm(self.row, &self.norm.weight, &self.norm.bias, self.norm.eps);
    }
}
